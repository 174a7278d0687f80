"""A task program that is Python but not RPython: one variable is a number here and a text there."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rtyper.lltypesystem import lltype


def t_run(n):
    value = 1
    if n:
        value = "text"
    return value


t_run.c_name = 't_run'
export_symbol(t_run)

ENTRY_POINTS = [(t_run, [lltype.Signed])]
EXIT_PATH = []
