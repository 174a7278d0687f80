"""The guest's image, as mapped by the VMM. Everything read from it is hostile."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory


class Image(object):
    def __init__(self):
        self.address = r_uint(0)        # the VMM's own
        self.size = r_uint(0)

    def set(self, address, size):
        self.address = address
        self.size = size

    def holds(self, offset, count):
        """Is all of [offset, offset + count) part of the image?"""
        return offset <= self.size and count <= self.size - offset

    # Outside of the image these read as zero.
    def word8(self, offset):
        return memory.load8(self.address + offset) if self.holds(offset, r_uint(1)) else r_uint(0)

    def word16(self, offset):
        return memory.load16(self.address + offset) if self.holds(offset, r_uint(2)) else r_uint(0)

    def word32(self, offset):
        return memory.load32(self.address + offset) if self.holds(offset, r_uint(4)) else r_uint(0)

    def word64(self, offset):
        return memory.load64(self.address + offset) if self.holds(offset, r_uint(8)) else r_uint(0)
