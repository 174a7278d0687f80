"""Four-level page tables: the kernel's own, a task's and a guest's nested ones.

One walker for all; they differ only in the bits of an entry, which the caller brings. Tables live in the arena. An entry is
written once, whole: no walk ever meets half a mapping.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel.arena import arena
from hypervisor.spec import status
from hypervisor.spec.call import EXECUTE, WRITE
from hypervisor.spec.paging import ADDRESS, LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE
from hypervisor.spec.layout import LARGE_PAGE

ADDRESS_MASK = r_uint(ADDRESS)
LARGE_BIT = r_uint(LARGE)           # bit 7, in both vendors' formats
NOT_LARGE_ALIGNED = r_uint(LARGE_PAGE - 1)
TASK_TABLE = r_uint(PRESENT | WRITABLE | USER)
KERNEL_TABLE = r_uint(PRESENT | WRITABLE)
LEVEL_TOP = 3                       # PML4; 0: page table
R0 = r_uint(0)


def task_leaf(rights, large):
    """Entry bits of a ring-3 page. rights: spec.call READ | WRITE or READ | EXECUTE."""
    bits = r_uint(PRESENT | USER)
    if rights & WRITE:
        bits |= r_uint(WRITABLE)
    if not rights & EXECUTE:
        bits |= r_uint(NO_EXECUTE)
    if large:
        bits |= r_uint(LARGE)
    return bits


def kernel_leaf(rights):
    """Entry bits of a ring-0 page."""
    bits = r_uint(PRESENT)
    if rights & WRITE:
        bits |= r_uint(WRITABLE)
    if not rights & EXECUTE:
        bits |= r_uint(NO_EXECUTE)
    return bits


class Space(object):
    """An address space: its root and the bits that mark a table entry. root: hpa, 0 while there is none."""

    def __init__(self):
        self.root = R0
        self.table_bits = R0

    def open(self, owner, table_bits):
        """Begin with an empty root; `owner` (an arena Account) pays for it. Returns OK or NO_MEMORY."""
        self.table_bits = table_bits
        self.root = owner.take_page()
        if self.root == R0:
            return status.NO_MEMORY
        return status.OK

    def close(self):
        """Forget the root; its pages are the owner's to free."""
        self.root = R0

    def entry(self, address, level):
        """The hva of the entry for `address` in the table of `level`, 0 if there is no such table (or a large page)."""
        table = self.root
        n = LEVEL_TOP
        while True:
            slot = arena.hva(table) + ((address >> (12 + 9 * n)) & 511) * 8
            if n == level:
                return slot
            value = memory.load64(slot)
            if value == R0 or value & LARGE_BIT:
                return R0
            table = value & ADDRESS_MASK
            n -= 1

    def _entry_made(self, owner, address, level):
        """As `entry`, but makes the tables on the way. 0: no page left, or a large page is in the way."""
        table = self.root
        n = LEVEL_TOP
        while True:
            slot = arena.hva(table) + ((address >> (12 + 9 * n)) & 511) * 8
            if n == level:
                return slot
            value = memory.load64(slot)
            if value == R0:
                page = owner.take_page()
                if page == R0:
                    return R0
                value = page | self.table_bits
                memory.store64(slot, value)
            elif value & LARGE_BIT:
                return R0
            table = value & ADDRESS_MASK
            n -= 1

    def map(self, owner, address, hpa, bits, level):
        """Map one page (level 0: 4 KiB, 1: 2 MiB) at `address` to hpa with entry bits `bits`.

        Returns OK, ALREADY_MAPPED or NO_MEMORY; the mapping is unchanged unless OK.
        """
        slot = self._entry_made(owner, address, level)
        if slot == R0:
            if self.large_at(address):
                return status.ALREADY_MAPPED
            return status.NO_MEMORY
        if memory.load64(slot) != R0:
            return status.ALREADY_MAPPED
        memory.store64(slot, hpa | bits)
        return status.OK

    def large_at(self, address):
        """Is `address` inside a mapped 2-MiB page?"""
        slot = self.entry(address, 1)
        return slot != R0 and memory.load64(slot) & LARGE_BIT != R0

    def table_at(self, address):
        """Does a page table for 4-KiB pages stand at `address`, so that no 2-MiB page fits?"""
        slot = self.entry(address, 1)
        if slot == R0:
            return False
        value = memory.load64(slot)
        return value != R0 and value & LARGE_BIT == R0

    def unmap(self, address):
        """Take away the 4-KiB page at `address`. Returns the entry that stood there, 0 if none did."""
        slot = self.entry(address, 0)
        if slot == R0:
            return R0
        value = memory.load64(slot)
        memory.store64(slot, R0)
        return value

    def unmap_large(self, address):
        """Take away the 2-MiB page at `address`. Returns the entry that stood there."""
        slot = self.entry(address, 1)
        value = memory.load64(slot)
        memory.store64(slot, R0)
        return value
