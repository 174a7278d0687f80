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
            outcome = self._byte()
            if outcome != OK:
                return outcome
        return OK

    def _byte(self):
        """One byte at a time: slow, but each may be the one beyond a limit, a page or the memory."""
        start = self.context.rip + r_uint(self.code.count)
        if self.context.mode == 16:
            start &= mask(2)
        elif self.context.mode == 32:
            start &= mask(4)
        if self.operand.locate(v.CS, start, 1, ACCESS_EXECUTE) == FAULT:
            return FAULT
        if not self.operand.in_ram():
            return NO_CODE
        self.code.add(intmask(self.operand.load_byte(0)))
        return OK
