"""The kernel's own pages: page tables, VMCBs, VMCSs, bitmaps and message pages.

They lie in runs of physical memory that the kernel alone maps, each at a fixed distance from where it lies. The arena is the run that
this core's kernel keeps from the start, for itself and its manager; each other compartment lives in the run that the manager gave for it.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.spec.layout import PAGE

NONE = r_uint(0)


class Account(object):
    """A run of pages, taken from its start; what is taken comes back with the whole run. All hpa."""

    def __init__(self):
        self.pages_start = NONE
        self.pages_next = NONE
        self.pages_end = NONE

    def set_pages(self, start, size):
        """Take from [start, start + size), page-aligned bytes of the kernel's memory."""
        self.pages_start = start
        self.pages_next = start
        self.pages_end = start + size

    def pages_taken(self):
        return (self.pages_next - self.pages_start) >> 12

    def pages_left(self):
        return (self.pages_end - self.pages_next) >> 12

    def take_page(self):
        """A cleared page. Returns its hpa, or 0 when none is left."""
        hpa = self.pages_next
        if hpa == self.pages_end:
            return NONE
        self.pages_next = hpa + PAGE
        memory.clear(arena.hva(hpa), r_uint(PAGE))
        return hpa


class Arena(Account):
    """delta: hva - hpa (0 while memory is still mapped one to one)."""

    def __init__(self):
        Account.__init__(self)
        self.delta = r_uint(0)

    def relocate(self, delta):
        """From now on the kernel's pages are seen so far from where they lie."""
        self.delta = delta

    def hva(self, hpa):
        return hpa + self.delta

    def take(self):
        return self.take_page()

    def take_run(self, count):
        """Cleared pages in a row. Returns the first's hpa, or 0."""
        first = self.take()
        n = 1
        while n < count:
            if self.take() == NONE:
                return NONE
            n += 1
        return first


arena = Arena()
