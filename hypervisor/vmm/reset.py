"""The port that resets a PC.

Source: Intel 82371SB (PIIX3), "Reset Control Register".
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.vmm.bus import DONE, Device

PORT_RESET = 0xcf9
RESET_CPU = r_uint(4)           # a change of this bit from 0 to 1 resets
RESET_KEPT = r_uint(0xe)        # bits that read back


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
