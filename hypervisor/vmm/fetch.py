"""Fetching the guest's instruction: up to 15 bytes at CS:RIP, as far as segment, page tables and memory allow.

An instruction is often shorter than what could be fetched, so a failure after the first bytes matters only when the
decoder asks for more.
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec.exit import ACCESS_EXECUTE
from hypervisor.vmm import vcpu as v
from hypervisor.vmm.context import FAULT, OK, mask
from hypervisor.vmm.decode import MOST_BYTES
from hypervisor.vmm.operand import OFFSET, PAGE

IN_ONE_PAGE = PAGE - r_uint(MOST_BYTES)      # where it may begin to lie in one page
NO_CODE = 2                     # the bytes are not in RAM


class Fetcher(object):
    def __init__(self, context, code, operand, walker, ram):
        self.context = context
        self.code = code
        self.operand = operand
        self.walker = walker
        self.ram = ram
        self.gpa = r_uint(0)            # of what was found last,
        self.count = 0                  # and its bytes

    def fetch(self):
        """Fill `code`. Returns why it has not all MOST_BYTES: OK (it has), FAULT or NO_CODE."""
        context, ram = self.context, self.ram
        start = context.rip
        if context.mode == 64 and start & OFFSET <= IN_ONE_PAGE and context.is_canonical(start) and self.walker.walk(start, ACCESS_EXECUTE) == OK:
            gpa = self.walker.gpa
            if ram.has_page(gpa):
                self.code.fill(ram.load64(gpa), ram.load64(gpa + r_uint(MOST_BYTES - 8)) >> 8)      # the two overlap by a byte
                return OK
        return self._fetch_pieces()

    @dont_inline
    def _fetch_pieces(self):
        """What does not lie in one page of memory, and all that is not 64-bit code."""
        self.code.clear()
        while self.code.count < MOST_BYTES:
            outcome = self._piece()
            if outcome != OK:
                return outcome
        return OK

    def _piece(self):
        """What is wanted of one page; one byte of it when a limit is near, or the end of what can be reached."""
        context, have = self.context, self.code.count
        start = context.rip + r_uint(have)
        outcome = self._find_64(start, MOST_BYTES - have) if context.mode == 64 else self._find(start, MOST_BYTES - have)
        if outcome != OK:
            return outcome
        gpa, count, ram = self.gpa, self.count, self.ram
        if not ram.holds(gpa, r_uint(count)):
            return NO_CODE
        for n in range(count):
            self.code.add(intmask(ram.load8(gpa + r_uint(n))))
        return OK

    def _find_64(self, start, wanted):
        """Set gpa and count. 64-bit code has neither base nor limit."""
        context = self.context
        if not context.is_canonical(start):
            return context.protection_fault(False)
        if self.walker.walk(start, ACCESS_EXECUTE) == FAULT:
            return FAULT
        here = intmask(PAGE - (start & OFFSET))
        self.gpa = self.walker.gpa
        self.count = wanted if wanted <= here else here
        return OK

    def _find(self, start, wanted):
        """The same for all other code."""
        start &= mask(2 if self.context.mode == 16 else 4)
        operand = self.operand
        if operand.locate(v.CS, start, wanted, ACCESS_EXECUTE) == FAULT and operand.locate(v.CS, start, 1, ACCESS_EXECUTE) == FAULT:
            return FAULT
        self.gpa = operand.first
        self.count = operand.first_count
        return OK
