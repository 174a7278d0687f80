"""The hostile VMM: what its guest's command line names of table.py, it does."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rlib.unroll import unrolling_iterable
from rpython.rtyper.lltypesystem import lltype

from tests.hostile.vmms import caller, common, fpuuser, nonsense, portuser, silent, silent_later, sleeper, table, trespasser

MODULES = {'silent': silent, 'sleeper': sleeper, 'silent_later': silent_later, 'nonsense': nonsense, 'trespasser': trespasser,
           'caller': caller, 'portuser': portuser, 'fpuuser': fpuuser}
KINDS = unrolling_iterable([(kind, MODULES[kind].run) for kind, _, _ in table.KINDS])


def task_main(argument):
    for kind, run in KINDS:
        which = common.option(kind)
        if which >= 0:
            run(which)
    common.survived(0)                      # no such kind: nor is this an ending that a test wants
    return 0


task_main.c_name = 'task_main'
export_symbol(task_main)

ENTRY_POINTS = [(task_main, [lltype.Unsigned])]
EXIT_PATH = [task_main]
