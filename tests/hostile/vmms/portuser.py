"""A VMM that executes what ring 3 may not: portuser=N of table.py."""
from rpython.rlib.rarithmetic import r_uint

from tests.hostile.vmms import common, hw


def run(which):
    hw.instruction(r_uint(which))
    common.survived(which)
