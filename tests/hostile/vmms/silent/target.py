"""A VMM that never says anything: it spins."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rtyper.lltypesystem import lltype

from hypervisor.hw import task


def task_main(argument):
    while True:
        task.pause()
    return 0


task_main.c_name = 'task_main'
export_symbol(task_main)

ENTRY_POINTS = [(task_main, [lltype.Unsigned])]
EXIT_PATH = [task_main]
