"""PCI configuration by ports 0xcf8 and 0xcfc: a host bridge at 0:0.0, and nothing else.

Source: PCI Local Bus Specification 3.0, "Configuration Mechanism", "Configuration Space Organization"; Intel 82441FX data
sheet, "PCI Configuration Registers".
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.vmm.bus import DONE, Device, ones

PORT, PORTS = 0xcf8, 8
DATA = 4                        # offset of 0xcfc
ENABLE = r_uint(0x80000000)
ADDRESS_KEPT = r_uint(0x80fffffc)
FUNCTION = r_uint(0xffff00)     # bus, device, function
REGISTER = r_uint(0xfc)
ZERO = r_uint(0)

# The host bridge's registers that are not zero, by their 32-bit words: 8086:1237, revision 2, class 06 00 00, one function.
HEADER = [r_uint(0x12378086), r_uint(0x00000000), r_uint(0x06000002), r_uint(0x00000000)]


class Pci(Device):
    """The address register is one of 32 bits: narrower accesses to it are somebody else's (0xcf9)."""

    def __init__(self):
        Device.__init__(self, PORT, PORTS, False)
        self.address = ZERO

    def clear(self):
        self.address = ZERO

    def read(self, offset, size):
        if offset >= DATA:
            return self._read_data(offset - DATA, size)
        return self.address if offset == 0 and size == 4 else ones(size)

    def write(self, offset, size, value):
        if offset == 0 and size == 4:
            self.address = value & ADDRESS_KEPT
        return DONE                     # nothing of the bridge's configuration can be written

    def _read_data(self, byte, size):
        if self.address & ENABLE == ZERO or self.address & FUNCTION != ZERO or byte + size > 4:
            return ones(size)
        word = self.address & REGISTER
        value = ZERO
        for n in range(len(HEADER)):
            if word == r_uint(4 * n):
                value = HEADER[n]
        return value >> (8 * byte) & ones(size)
