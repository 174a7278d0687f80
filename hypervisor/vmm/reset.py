"""The ports that reset a PC or switch it off.

Source: Intel 82371SB (PIIX3), "Reset Control Register"; IBM PC/AT Technical Reference, "8042 commands" (pulse output port);
ACPI Specification, "PM1 Control Registers" (SLP_TYP 0 as QEMU's PIIX4 has it for S5).
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import ending
from hypervisor.vmm.bus import DONE, Device, ones

PORT_KEYBOARD = 0x64
PULSE_RESET = r_uint(0xfe)      # pulse bit 0 of the output port: the processor's reset line

PORT_RESET = 0xcf9
RESET_CPU = r_uint(4)           # a change of this bit from 0 to 1 resets
RESET_KEPT = r_uint(0xe)        # bits that read back

PORT_POWER = 0x604
SLEEP_TYPE = r_uint(7 << 10)
SLEEP_ENABLE = r_uint(1 << 13)


class Keyboard(Device):
    """The keyboard controller's command port, which only knows the reset. Its status says: ready, nothing to read."""

    def __init__(self, power):
        Device.__init__(self, PORT_KEYBOARD, 1, True)
        self.power = power

    def read(self, offset, size):
        return r_uint(0)

    def write(self, offset, size, value):
        if value == PULSE_RESET:
            self.power.reset()
        return DONE


class ResetControl(Device):
    def __init__(self, power):
        Device.__init__(self, PORT_RESET, 1, True)
        self.power = power
        self.value = r_uint(0)

    def clear(self):
        self.value = r_uint(0)

    def read(self, offset, size):
        return self.value

    def write(self, offset, size, value):
        if value & RESET_CPU != r_uint(0) and self.value & RESET_CPU == r_uint(0):
            self.power.reset()
        self.value = value & RESET_KEPT
        return DONE


class PowerControl(Device):
    """PM1a_CNT_BLK: one 16-bit register. SLP_EN with SLP_TYP 0 switches the VM off; it reads as zero."""

    def __init__(self, power):
        Device.__init__(self, PORT_POWER, 2, False)
        self.power = power

    def read(self, offset, size):
        if offset != 0 or size != 2:
            return ones(size)
        return r_uint(0)

    def write(self, offset, size, value):
        if offset == 0 and size == 2 and value & (SLEEP_ENABLE | SLEEP_TYPE) == SLEEP_ENABLE:
            self.power.leave(ending.POWERED_OFF, r_uint(0))
        return DONE
