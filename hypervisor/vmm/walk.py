"""Guest page tables: from a guest's linear address to its physical one, with the fault that a processor would raise.

32-bit, PAE, 4-level and 5-level paging. Accessed and dirty bits are not written. PAE's four top entries are read from memory, where
a processor keeps copies. An entry that lies beyond the RAM reads as all ones.
Source: Intel SDM Vol. 3A, "Paging"; AMD64 APM Vol. 2, "Page Translation and Protection".
"""
from rpython.rlib.objectmodel import always_inline, dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint
from rpython.rlib.unroll import unrolling_iterable

from hypervisor.spec import cpu
from hypervisor.spec.exit import ACCESS_EXECUTE, ACCESS_WRITE
from hypervisor.vmm.context import OK

ZERO = r_uint(0)
PRESENT, WRITABLE, USER, LARGE = r_uint(1), r_uint(2), r_uint(4), r_uint(0x80)
NO_EXECUTE = r_uint(1 << 63)
ADDRESS = r_uint(0x000ffffffffff000)        # bits 12 to 51
ALL_RIGHTS = WRITABLE | USER
SHIFTS = unrolling_iterable([48, 39, 30, 21, 12])       # of a level's index in a linear address
PAE_TOP_RESERVED = r_uint(0x1e6)            # PAE's top level has no rights
KEY_SHIFT = 59                              # bits 59 to 62: the page's protection key
HIGH_PAE = r_uint(0x7ff0000000000000)       # bits 52 to 62: reserved in PAE, free in long mode
PAE_TABLE = r_uint(0xffffffe0)
LARGE_RESERVED = ~r_uint(0x1fff)            # of an entry's bits inside of its large page; one of 4 KiB has none of them

# Bits of the error code.
ERROR_PRESENT, ERROR_WRITE, ERROR_USER, ERROR_RESERVED, ERROR_FETCH, ERROR_KEY = 1, 2, 4, 8, 16, 32
NO_FAULT = -1
KEY_NO_ACCESS, KEY_NO_WRITE = 1, 2          # of the two bits that PKRU has for each key


class Walker(object):
    def __init__(self, context, ram):
        self.context = context
        self.ram = ram
        self.beyond = ZERO          # address bits that no entry may have set
        self.beyond_32 = ZERO       # the same for 4-MiB pages of 32-bit paging
        self.gpa = ZERO             # the result

    def set_physical_bits(self, count):
        """MAXPHYADDR of the guest, 32 to 52."""
        self.beyond = ADDRESS & ~((r_uint(1) << count) - r_uint(1))
        top = count if count < 40 else 40
        self.beyond_32 = r_uint((1 << 22) - 1) & ~((r_uint(1) << (top - 19)) - r_uint(1))

    def walk(self, gva, access):
        """access: ACCESS_*. Returns OK with gpa set, or FAULT with the #PF in the context."""
        context = self.context
        if context.is_long() and not context.has_cr4(cpu.CR4_LA57):         # nearly all guests
            error = self._tables(gva, context.cr3 & ADDRESS, 39, access)
        else:
            error = self._walk_other(gva, access)
        if error == NO_FAULT:
            return OK
        return self._fault(gva, error)

    @dont_inline
    def _walk_other(self, gva, access):
        context = self.context
        if not context.has_cr0(cpu.CR0_PG):
            self.gpa = gva
            return NO_FAULT
        if context.is_long():
            return self._tables(gva, context.cr3 & ADDRESS, 48, access)
        if context.has_cr4(cpu.CR4_PAE):
            return self._pae(gva, access)
        return self._two_level(gva, access)

    @dont_inline
    def _fault(self, gva, error):
        return self.context.page_fault(gva, r_uint(error))

    # Reading entries.
    def _entry64(self, gpa):
        return self.ram.load64(gpa) if self.ram.holds(gpa, r_uint(8)) else r_uint(-1)

    def _entry32(self, gpa):
        return self.ram.load32(gpa) if self.ram.holds(gpa, r_uint(4)) else r_uint(0xffffffff)

    @always_inline
    def _entry_of(self, table, index):
        """Of a table of 64-bit entries: a page."""
        ram = self.ram
        return ram.load64(table + index * r_uint(8)) if ram.has_page(table) else r_uint(-1)

    # The error code of a walk that ends here. Walks return one, or NO_FAULT.
    @dont_inline
    def _code(self, access, bits):
        context = self.context
        code = bits
        if access & ACCESS_WRITE:
            code |= ERROR_WRITE
        if context.user:
            code |= ERROR_USER
        if access & ACCESS_EXECUTE and (context.has_cr4(cpu.CR4_SMEP) or context.has_cr4(cpu.CR4_PAE) and context.has_nx()):
            code |= ERROR_FETCH
        return code

    # 32-bit paging. No entry forbids execution.
    def _two_level(self, gva, access):
        entry = self._entry32((self.context.cr3 & r_uint(0xfffff000)) + ((gva >> 22) & r_uint(0x3ff)) * r_uint(4))
        if entry & PRESENT == ZERO:
            return self._code(access, 0)
        if entry & LARGE != ZERO and self.context.has_cr4(cpu.CR4_PSE):
            if entry & self.beyond_32 != ZERO:
                return self._code(access, ERROR_PRESENT | ERROR_RESERVED)
            self.gpa = entry & r_uint(0xffc00000) | (entry >> 13 & r_uint(0xff)) << 32 | gva & r_uint(0x3fffff)
            return self._check_rights(access, entry, ZERO, ZERO)
        rights = entry
        entry = self._entry32((entry & r_uint(0xfffff000)) + (gva >> 12 & r_uint(0x3ff)) * r_uint(4))
        if entry & PRESENT == ZERO:
            return self._code(access, 0)
        self.gpa = entry & r_uint(0xfffff000) | gva & r_uint(0xfff)
        return self._check_rights(access, rights & entry, ZERO, ZERO)

    # PAE: four top entries without rights, then as in long mode.
    def _pae(self, gva, access):
        entry = self._entry64((self.context.cr3 & PAE_TABLE) + (gva >> 30 & r_uint(3)) * r_uint(8))
        if entry & PRESENT == ZERO:
            return self._code(access, 0)
        if entry & (PAE_TOP_RESERVED | self.beyond | HIGH_PAE | NO_EXECUTE) != ZERO:
            return self._code(access, ERROR_PRESENT | ERROR_RESERVED)
        return self._tables(gva, entry & ADDRESS, 21, access)

    @always_inline
    def _tables(self, gva, table, first, access):
        """Tables of 512 entries. first: the shift of the first one's index, a constant; 48, 39, or 21 below PAE's top."""
        reserved = self._reserved()
        rights, forbidden = ALL_RIGHTS, ZERO
        entry, inside = ZERO, ZERO
        for shift in SHIFTS:
            if shift <= first:
                entry = self._entry_of(table, gva >> shift & r_uint(0x1ff))
                if entry & PRESENT == ZERO:
                    return self._code(access, 0)
                if entry & (reserved | LARGE if shift > 30 else reserved) != ZERO:
                    return self._code(access, ERROR_PRESENT | ERROR_RESERVED)
                rights &= entry
                forbidden |= entry
                inside = (r_uint(1) << shift) - r_uint(1)
                if shift == 12 or shift <= 30 and entry & LARGE != ZERO:
                    break
                table = entry & ADDRESS
        if entry & inside & LARGE_RESERVED != ZERO:
            return self._code(access, ERROR_PRESENT | ERROR_RESERVED)
        self.gpa = entry & ADDRESS & ~inside | gva & inside
        return self._check_rights(access, rights, forbidden, entry)

    def _reserved(self):
        """What no entry may have, whatever its level."""
        reserved = self.beyond
        if not self.context.has_nx():
            reserved |= NO_EXECUTE
        if not self.context.is_long():
            reserved |= HIGH_PAE
        return reserved

    @always_inline
    def _check_rights(self, access, rights, forbidden, leaf):
        """rights: what all entries on the way allow; forbidden: what one of them has; leaf: the entry that maps the page, but for 32-bit paging.
        NO_FAULT, or the error code of a page that is there but does not allow this."""
        context = self.context
        allowed = self._user_allows(access, rights) if context.user else self._supervisor_allows(access, rights)
        if access & ACCESS_EXECUTE and forbidden & NO_EXECUTE != ZERO:
            allowed = False
        if context.has_cr4(cpu.CR4_PKE) and self._key_denies(access, rights, leaf):
            return self._code(access, ERROR_PRESENT | ERROR_KEY)
        return NO_FAULT if allowed else self._code(access, ERROR_PRESENT)

    @dont_inline
    def _key_denies(self, access, rights, leaf):
        """Protection keys of long mode's user pages, for data. Source: Intel SDM Vol. 3A, "Protection Keys"."""
        context = self.context
        if rights & USER == ZERO or access & ACCESS_EXECUTE or not context.is_long():
            return False
        key = intmask(leaf >> KEY_SHIFT) & 15
        denied = intmask(context.pkru() >> (2 * key)) & 3
        if denied & KEY_NO_ACCESS:
            return True
        return denied & KEY_NO_WRITE != 0 and access & ACCESS_WRITE != 0 and (context.user or context.has_cr0(cpu.CR0_WP))

    def _user_allows(self, access, rights):
        if rights & USER == ZERO:
            return False
        return not access & ACCESS_WRITE or rights & WRITABLE != ZERO

    @always_inline
    def _supervisor_allows(self, access, rights):
        context = self.context
        users = rights & USER != ZERO
        if access & ACCESS_EXECUTE:
            return not (users and context.has_cr4(cpu.CR4_SMEP))
        if users and context.has_cr4(cpu.CR4_SMAP) and not context.has_flag(cpu.RFLAGS_AC):
            return False
        return not access & ACCESS_WRITE or rights & WRITABLE != ZERO or not context.has_cr0(cpu.CR0_WP)
