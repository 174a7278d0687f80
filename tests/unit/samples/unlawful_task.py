"""A task program that breaks two rules of the exit path at once: the build must refuse it and name both lines."""
from rpython.rlib.entrypoint import export_symbol

from tests.unit.samples.exit_paths import makes_object, raises, world


def t_run():
    return makes_object(1) + raises(world.items[0])


t_run.c_name = 't_run'
export_symbol(t_run)

ENTRY_POINTS = [(t_run, [])]
EXIT_PATH = [t_run]
