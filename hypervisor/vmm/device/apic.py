"""The local APIC's page: the kernel has the APIC, this page only says which register the guest means.

The base address is the one after a reset; software that moves it finds nothing at the new one.
Source: Intel SDM Vol. 3A, "Accessing the APIC Registers in xAPIC Mode"; Intel MultiProcessor Specification 1.4, "Virtual Wire Mode".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.lib import call
from hypervisor.spec import lapic, status
from hypervisor.spec.call import INTERRUPT_RESET, SLOT_VCPU
from hypervisor.vmm.bus import MemoryDevice, ones

BASE, BYTES = r_uint(0xfee00000), r_uint(0x1000)
REGISTERS = r_uint(0x400)       # bytes of the page that have some
UNALIGNED = r_uint(15)
U32 = r_uint(0xffffffff)
ZERO = r_uint(0)

# What a PC's firmware does: the PIC pair reaches the processor through the APIC. Software that wants neither APIC nor IOAPIC changes
# nothing of it.
FIRMWARE = [(lapic.SPURIOUS, lapic.SPURIOUS_ENABLE | 0xff),
            (lapic.LINT0, lapic.EXTINT << lapic.MODE_SHIFT), (lapic.LINT1, lapic.NMI << lapic.MODE_SHIFT)]
FIRMWARE_OFFSETS = [r_uint(offset) for offset, _ in FIRMWARE]
FIRMWARE_VALUES = [r_uint(value) for _, value in FIRMWARE]


def reset(count):
    """All vCPUs are as after power-on: nothing of what they did goes on, and no exit of theirs waits for an answer."""
    for n in range(count):
        call.vcpu_interrupt(SLOT_VCPU + n, INTERRUPT_RESET)


def set_as_firmware():
    """The VM starts, or starts anew: what firmware does on the first processor."""
    for n in range(len(FIRMWARE)):
        call.vcpu_apic_write(SLOT_VCPU, FIRMWARE_OFFSETS[n], FIRMWARE_VALUES[n])


class LocalApic(MemoryDevice):
    """Registers of 32 bits, 16 bytes apart. Accesses elsewhere in the 16 bytes find nothing."""

    def __init__(self, ioapic, vcpu):
        """vcpu: whose access is handled; each has a page of its own at the same address."""
        MemoryDevice.__init__(self, BASE, BYTES)
        self.ioapic = ioapic
        self.vcpu = vcpu

    def read(self, offset, size):
        if offset & UNALIGNED != ZERO or offset >= REGISTERS:
            return ZERO
        if call.vcpu_apic_read(self.vcpu.slot(), offset) != status.OK:
            return ones(size)
        return call.value() & U32

    def write(self, offset, size, value):
        if offset & UNALIGNED != ZERO or offset >= REGISTERS or size < 4:
            return
        if call.vcpu_apic_write(self.vcpu.slot(), offset, value & U32) == status.OK and call.value() != ZERO:
            self.ioapic.end_of_interrupt(intmask(call.value() - r_uint(1)) & 0xff)
