"""A task program that allocates after its heap was sealed, on a path that it did not declare."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rtyper.lltypesystem import lltype

from tests.unit.samples import exit_paths


def t_boot(n):
    return exit_paths.makes_object(n)


def t_run():
    return exit_paths.makes_object(2)


t_boot.c_name = 't_boot'
t_run.c_name = 't_run'
export_symbol(t_boot)
export_symbol(t_run)

ENTRY_POINTS = [(t_boot, [lltype.Signed]), (t_run, [])]
EXIT_PATH = []
