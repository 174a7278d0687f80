"""A VMM that is honest for a while and then spins, with an exit outstanding."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rtyper.lltypesystem import lltype

from hypervisor.hw import task
from tests.hostile.vmms import common

EXITS = 100


def task_main(argument):
    common.serve(common.boot_guest(), EXITS)
    while True:
        task.pause()
    return 0


task_main.c_name = 'task_main'
export_symbol(task_main)

ENTRY_POINTS = [(task_main, [lltype.Unsigned])]
EXIT_PATH = [task_main]
