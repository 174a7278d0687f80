"""Fetching the guest's instruction: up to 15 bytes at CS:RIP, as far as segment, page tables and memory allow.

An instruction is often shorter than what could be fetched, so a failure after the first bytes matters only when the
decoder asks for more.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec.exit import ACCESS_EXECUTE
from hypervisor.vmm import vcpu as v
from hypervisor.vmm.context import FAULT, OK, mask
from hypervisor.vmm.decode import MOST_BYTES

NO_CODE = 2                     # the bytes are not in RAM


class Fetcher(object):
    def __init__(self, context, code, operand):
        self.context = context
        self.code = code
        self.operand = operand

    def fetch(self):
        """Fill `code`. Returns why it has not all MOST_BYTES: OK (it has), FAULT or NO_CODE."""
        self.code.clear()
        while self.code.count < MOST_BYTES:
            outcome = self._piece()
            if outcome != OK:
                return outcome
        return OK

    def _piece(self):
        """What is wanted of one page; one byte of it when a limit is near, or the end of what can be reached."""
        context, operand, have = self.context, self.operand, self.code.count
        start = context.rip + r_uint(have)
        if context.mode == 16:
            start &= mask(2)
        elif context.mode == 32:
            start &= mask(4)
        if operand.locate(v.CS, start, MOST_BYTES - have, ACCESS_EXECUTE) == FAULT and operand.locate(v.CS, start, 1, ACCESS_EXECUTE) == FAULT:
            return FAULT
        if not operand.first_in_ram():
            return NO_CODE
        count = operand.first_count
        if count == MOST_BYTES:
            self.code.fill(operand.load_word(0), operand.load_word(MOST_BYTES - 8) >> 8)        # the two overlap by a byte
        else:
            for n in range(count):
                self.code.add(intmask(operand.load_byte(n)))
        return OK
