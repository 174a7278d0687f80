"""A VMM that computes with a guest's registers: fpuuser=N of table.py."""
from rpython.rlib.rarithmetic import r_uint

from tests.hostile.vmms import common, hw


def run(which):
    hw.fpu(r_uint(which))
    common.survived(which)
