"""Contexts: what the kernel runs and what exits. Tasks and vCPUs are the two kinds; hypervisor/kernel/loop.py runs them."""
from rpython.rlib.rarithmetic import r_uint


class Wanting(object):
    """bits: bit n is set if compartment n has anything ready; the scheduler takes the bit away when it finds that there is nothing."""

    def __init__(self):
        self.bits = r_uint(0)


wanting = Wanting()


class Timed(object):
    """Whose time the scheduler has to look at, as bits. tasks: compartments whose task has a deadline or owes an answer; vcpus: those whose APIC's
    timer runs. A bit is set with the time; the scheduler takes it away when it finds that there is none."""

    def __init__(self):
        self.tasks = r_uint(0)
        self.vcpus = r_uint(0)


timed = Timed()


class Context(object):
    """ready: wants the processor; it is set by `want` only. ticks: TSC ticks that it had. compartment: whose it is."""

    def __init__(self):
        self.ready = False
        self.ticks = r_uint(0)
        self.compartment = None

    def want(self):
        self.ready = True
        wanting.bits |= r_uint(1) << self.compartment.number
