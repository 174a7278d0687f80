"""The vCPUs' interrupt inputs, as the kernel has them (VCPU_INTERRUPT): messages of the IOAPIC, and vCPU 0's pin that says that
somebody wants an INTA cycle.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.lib import call
from hypervisor.spec import status
from hypervisor.spec.call import (
    INTERRUPT_EXTINT_OFF, INTERRUPT_EXTINT_ON, INTERRUPT_FIXED, INTERRUPT_LEVEL, INTERRUPT_NMI, SLOT_VCPU)

# Who holds the ExtINT pin.
BY_PIC, BY_IOAPIC = 1, 2
ZERO = r_uint(0)


class Pins(object):
    def __init__(self):
        self.holders = 0

    def set_extint(self, holder, active):
        """holder: BY_*. The kernel is told only about changes of the pin."""
        holders = self.holders | holder if active else self.holders & ~holder
        if holders != 0 and self.holders == 0:
            call.vcpu_interrupt(SLOT_VCPU, INTERRUPT_EXTINT_ON)
        elif holders == 0 and self.holders != 0:
            call.vcpu_interrupt(SLOT_VCPU, INTERRUPT_EXTINT_OFF)
        self.holders = holders

    def fixed(self, vector, destination):
        """An edge-triggered interrupt. vector: 0 to 255; destination: as VCPU_INTERRUPT has it."""
        call.vcpu_interrupt(SLOT_VCPU, INTERRUPT_FIXED, vector & 0xff, destination)

    def level(self, vector, destination):
        """A level-triggered one: its end comes back to the IOAPIC. Returns whether it reaches anybody."""
        return call.vcpu_interrupt(SLOT_VCPU, INTERRUPT_LEVEL, vector & 0xff, destination) == status.OK and call.value() != ZERO

    def nmi(self, destination):
        call.vcpu_interrupt(SLOT_VCPU, INTERRUPT_NMI, 0, destination)
