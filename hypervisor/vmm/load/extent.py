"""The parts of the guest's memory that are taken while it is loaded, and where there is still room."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.vmm import ram as pc

MOST = 80                       # segments, information and modules together: checked by the adders
PAGE_MASK = r_uint(0xfff)
NOWHERE = r_uint(-1)


class Extents(object):
    """Ranges [first, end) of guest addresses. RAM's hole is always one of them."""

    def __init__(self):
        self.first = [r_uint(0)] * MOST
        self.end = [r_uint(0)] * MOST
        self.count = 0
        self.clear()

    def clear(self):
        self.count = 0
        self.add(pc.HOLE, pc.HOLE_END)

    def add(self, first, end):
        """Take a range. Returns False when the list is full."""
        if self.count >= MOST:
            return False
        self.first[self.count] = first
        self.end[self.count] = end
        self.count += 1
        return True

    def overlap(self, first, end):
        """The number of a range that has a byte of [first, end), or -1."""
        for n in range(self.count):
            if first < self.end[n] and self.first[n] < end:
                return n
        return -1

    def highest(self):
        """The end of the highest range."""
        highest = r_uint(0)
        for n in range(self.count):
            if self.end[n] > highest:
                highest = self.end[n]
        return highest

    def find(self, ram, start, size):
        """The lowest free place of `size` bytes at a page boundary from `start` on, or NOWHERE."""
        at = (start + PAGE_MASK) & ~PAGE_MASK
        for _ in range(MOST + 1):           # each round passes one range for good
            if at > ram.size or size > ram.size - at:
                return NOWHERE
            other = self.overlap(at, at + size)
            if other < 0:
                return at
            at = (self.end[other] + PAGE_MASK) & ~PAGE_MASK
        return NOWHERE
