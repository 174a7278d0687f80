"""This core's own local APIC, by MSRs or, where the processor has no x2APIC mode, by its page.

Source: Intel SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)".
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu, memory
from hypervisor.spec import lapic
from hypervisor.spec.cpu import MSR_APIC_BASE, MSR_X2APIC_FIRST
from hypervisor.spec.layout import DEVICE_BASE

R0 = r_uint(0)
SENDING = r_uint(1 << 12)       # ICR: delivery status, in xAPIC mode
PATIENCE = 1000                 # looks at it; a core that takes no message does not hold up this one


class Apic(object):
    """Registers are named by their offset in the xAPIC page."""

    def __init__(self):
        self.x2apic = False
        self.window = R0            # hva of the register page

    def base(self):
        """hpa of the register page."""
        return cpu.rdmsr(r_uint(MSR_APIC_BASE)) & r_uint(0xffffff000)

    def open(self):
        """While memory is mapped one to one."""
        base = cpu.rdmsr(r_uint(MSR_APIC_BASE))
        self.window = self.base()
        cpu.wrmsr(r_uint(MSR_APIC_BASE), base | r_uint(lapic.APIC_BASE_ENABLE))
        self.x2apic = base & r_uint(lapic.APIC_BASE_X2APIC) != R0
        if not self.x2apic and cpu.cpuid(r_uint(1), R0, r_uint(2)) & r_uint(lapic.LEAF_1_ECX_X2APIC) != R0:
            cpu.wrmsr(r_uint(MSR_APIC_BASE), base | r_uint(lapic.APIC_BASE_ENABLE | lapic.APIC_BASE_X2APIC))
            self.x2apic = True

    def relocate(self):
        """The kernel root is loaded: the registers are at their address there."""
        self.window = r_uint(DEVICE_BASE)

    def read(self, register):
        if self.x2apic:
            return cpu.rdmsr(r_uint(MSR_X2APIC_FIRST + (register >> 4)))
        return memory.load32(self.window + register)

    def write(self, register, value):
        if self.x2apic:
            cpu.wrmsr(r_uint(MSR_X2APIC_FIRST + (register >> 4)), value)
        else:
            memory.store32(self.window + register, value)

    def identity(self):
        """This core's APIC ID."""
        value = self.read(lapic.ID)
        if self.x2apic:
            return value
        return value >> 24

    def reaches(self, identity):
        """Can a message be sent to it alone? xAPIC mode knows IDs of eight bits; the last of either mode is no core's: it means all of them."""
        if self.x2apic:
            return identity < r_uint(0xffffffff)
        return identity < r_uint(0xff)

    def send(self, identity, command):
        """A message to one other core. command: ICR bits 19:0."""
        if self.x2apic:
            cpu.wrmsr(r_uint(MSR_X2APIC_FIRST + (lapic.ICR_LOW >> 4)), identity << 32 | command)
            return
        self.write(lapic.ICR_HIGH, identity << 24)
        self.write(lapic.ICR_LOW, command)
        n = 0
        while n < PATIENCE and self.read(lapic.ICR_LOW) & SENDING != R0:
            cpu.pause()
            n += 1

    def acknowledge(self):
        self.write(lapic.EOI, R0)


apic = Apic()
