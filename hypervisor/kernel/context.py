"""Contexts: what the kernel runs and what exits. Tasks and vCPUs are the two kinds; hypervisor/kernel/loop.py runs them."""
from rpython.rlib.rarithmetic import r_uint


class Context(object):
    """ready: wants the processor. ticks: TSC ticks that it had. compartment: whose it is."""

    def __init__(self):
        self.ready = False
        self.ticks = r_uint(0)
        self.compartment = None
