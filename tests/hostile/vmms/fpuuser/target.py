"""A VMM that computes with a guest's registers: fpu=N of table.py."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rtyper.lltypesystem import lltype

from rpython.rlib.rarithmetic import r_uint

from tests.hostile.vmms import common, hw


def task_main(argument):
    which = common.option('fpu')
    hw.fpu(r_uint(which))
    common.survived(which)
    return 0


task_main.c_name = 'task_main'
export_symbol(task_main)

ENTRY_POINTS = [(task_main, [lltype.Unsigned])]
EXIT_PATH = [task_main]
