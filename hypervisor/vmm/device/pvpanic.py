"""The port on which a guest says that it has panicked, as QEMU's pvpanic device has it.

Source: QEMU, docs/specs/pvpanic.rst.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.vmm.bus import DONE, Device

PORT = 0x505
PANICKED = r_uint(1)            # the only event that is known; reads say which are


class PvPanic(Device):
    def __init__(self, power):
        Device.__init__(self, PORT, 1, True)
        self.power = power

    def read(self, offset, size):
        return PANICKED

    def write(self, offset, size, value):
        if value & PANICKED != r_uint(0):
            self.power.panic()
        return DONE
