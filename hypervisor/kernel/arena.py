"""The core's page arena: where page tables, VMCBs, VMCSs, bitmaps and message pages come from.

A contiguous run of physical memory that the kernel alone maps. Free pages are chained through a side table (one word per page),
so that a whole chain that a compartment leaves behind comes back in one step.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.spec.layout import PAGE

NONE = r_uint(0)


class Arena(object):
    """base: hpa of the first page. delta: hva - hpa (0 while memory is still mapped one to one)."""

    def __init__(self):
        self.base = r_uint(0)
        self.end = r_uint(0)
        self.delta = r_uint(0)
        self.links = r_uint(0)          # hpa of the side table
        self.free = NONE                # hpa of the first free page
        self.free_count = 0

    def open(self, base, size):
        """Take [base, base + size), page-aligned bytes of free physical memory."""
        self.base = base
        self.end = base + size
        pages = size // PAGE
        self.links = base
        used = (pages * 8 + PAGE - 1) // PAGE
        self.free = NONE
        self.free_count = 0
        hpa = self.end
        while hpa > base + used * PAGE:
            hpa -= PAGE
            self._link(hpa, self.free)
            self.free = hpa
            self.free_count += 1

    def relocate(self, hva):
        """From now on the arena is seen at hva."""
        self.delta = hva - self.base

    def hva(self, hpa):
        return hpa + self.delta

    def _slot(self, hpa):
        return self.links + self.delta + ((hpa - self.base) >> 12) * 8

    def _link(self, hpa, following):
        memory.store64(self._slot(hpa), following)

    def following(self, hpa):
        return memory.load64(self._slot(hpa))

    def take(self):
        """One cleared page. Returns its hpa, or 0 when none is left."""
        hpa = self.free
        if hpa == NONE:
            return NONE
        self.free = self.following(hpa)
        self.free_count -= 1
        self._link(hpa, NONE)
        memory.clear(self.hva(hpa), r_uint(PAGE))
        return hpa

    def take_run(self, count):
        """Cleared pages in a row, while the arena is fresh. Returns the first's hpa, or 0."""
        first = self.take()
        expected = first
        n = 1
        while n < count:
            expected += PAGE
            if self.take() != expected:
                return NONE
            n += 1
        return first

    def chain(self, hpa, head):
        """Put a taken page in front of the chain that starts at head."""
        self._link(hpa, head)

    def give_chain(self, head, tail, count):
        """A chain of taken pages is free again."""
        if head == NONE:
            return
        self._link(tail, self.free)
        self.free = head
        self.free_count += count


arena = Arena()


class Account(object):
    """Who pays for pages. This one is the kernel itself while it starts; a compartment has its own, with a limit."""

    def take_page(self):
        """A cleared page. Returns its hpa, or 0."""
        return arena.take()
