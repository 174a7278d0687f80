"""Contexts: what the kernel runs and what exits. Tasks and vCPUs are the two kinds; hypervisor/kernel/loop.py runs them."""
from rpython.rlib.rarithmetic import r_uint


class Wanting(object):
    """bits: bit n is set if compartment n has anything ready; the scheduler takes the bit away when it finds that there is nothing."""

    def __init__(self):
        self.bits = r_uint(0)


wanting = Wanting()


class Context(object):
    """ready: wants the processor; it is set by `want` only. ticks: TSC ticks that it had. compartment: whose it is."""

    def __init__(self):
        self.ready = False
        self.ticks = r_uint(0)
        self.compartment = None

    def want(self):
        self.ready = True
        wanting.bits |= r_uint(1) << self.compartment.number
