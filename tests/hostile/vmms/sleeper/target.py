"""A VMM that sleeps instead of working: sleep=0 at once, sleep=1 with an exit outstanding."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rtyper.lltypesystem import lltype

from rpython.rlib.rarithmetic import r_uint

from hypervisor.lib import call
from tests.hostile.vmms import common

EXITS = 100


def task_main(argument):
    if common.option('sleep') == 1:
        common.serve(common.boot_guest(), EXITS)
    while True:
        call.wait(r_uint(0))
    return 0


task_main.c_name = 'task_main'
export_symbol(task_main)

ENTRY_POINTS = [(task_main, [lltype.Unsigned])]
EXIT_PATH = [task_main]
