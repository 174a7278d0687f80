"""A checked view of a range of memory: what lies outside reads as zero and is remembered."""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory


class View(object):
    """`size` bytes at r_uint `address`. Offsets are ints. `outside`: True once a read has left the range."""

    def __init__(self):
        self.address = r_uint(0)
        self.size = 0
        self.outside = False

    def look_at(self, address, size):
        self.address = address
        self.size = size
        self.outside = False

    def contains(self, offset, count):
        """Whether `count` bytes at `offset` lie inside; no overflow can make it true."""
        return 0 <= count <= self.size and 0 <= offset <= self.size - count

    def _allows(self, offset, count):
        if self.contains(offset, count):
            return True
        self.outside = True
        return False

    def u8(self, offset):
        """One byte as an int."""
        if not self._allows(offset, 1):
            return 0
        return intmask(memory.load8(self.address + r_uint(offset)))

    def u32(self, offset):
        """Four bytes as a non-negative int."""
        if not self._allows(offset, 4):
            return 0
        return intmask(memory.load32(self.address + r_uint(offset)))

    def u64(self, offset):
        """Eight bytes as r_uint."""
        if not self._allows(offset, 8):
            return r_uint(0)
        return memory.load64(self.address + r_uint(offset))
