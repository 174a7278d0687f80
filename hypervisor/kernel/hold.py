"""VMs about whose vCPUs the kernels of other cores are to say nothing for now, because this period's messages have cost as much as the VM is
promised here. They keep their marks (news.py), so nothing is lost; what has happened many times meanwhile is told once.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel.compartment import NO_NAME
from hypervisor.kernel.core import this
from hypervisor.kernel.link import HELD, wires
from hypervisor.spec.config import MAX_VMS
from hypervisor.spec.core import MOST

R0 = r_uint(0)
assert MAX_VMS * MOST <= 64


def bit_of(compartment):
    if compartment.name == NO_NAME:
        return R0
    return r_uint(1) << r_uint(compartment.home * MAX_VMS + compartment.name)


class Holds(object):
    """bits: as in HELD. cores: those that may have something to say then, as bits."""

    def __init__(self):
        self.bits = R0
        self.cores = 0

    def hold(self, compartment):
        self.bits |= bit_of(compartment)
        self.cores |= compartment.others
        memory.store64(wires.status_page(this.number) + HELD, self.bits)

    def lift(self):
        """All of them: who still costs too much is held again at its next message."""
        cores = self.cores
        self.bits = R0
        self.cores = 0
        memory.store64(wires.status_page(this.number) + HELD, R0)
        core = 0
        while core < this.count:
            if (cores >> core) & 1 != 0:
                wires.ring(core)
            core += 1


def holds_back(core, compartment):
    """Does that core want to hear nothing of the VM's vCPUs?"""
    return memory.load64(wires.status_page(core) + HELD) & bit_of(compartment) != R0


holds = Holds()
