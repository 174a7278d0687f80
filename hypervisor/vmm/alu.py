"""Arithmetic of the emulated instructions, with the status flags that each leaves.

Values are r_uint cut to `size` bytes (1, 2, 4, 8). What the manuals leave undefined is as in the formula for a count of
one (OF of shifts) or zero (AF of logic and shifts).
Source: Intel SDM Vol. 1, "EFLAGS Register"; Vol. 2, the instructions' pages.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import cpu
from hypervisor.vmm.context import mask

ZERO, ONE = r_uint(0), r_uint(1)
CF, PF, AF = r_uint(cpu.RFLAGS_CF), r_uint(cpu.RFLAGS_PF), r_uint(cpu.RFLAGS_AF)
ZF, SF, OF = r_uint(cpu.RFLAGS_ZF), r_uint(cpu.RFLAGS_SF), r_uint(cpu.RFLAGS_OF)
STATUS = CF | PF | AF | ZF | SF | OF

# The eight operations of opcodes 00-3f and groups 80-83, in their encoding.
ADD, OR, ADC, SBB, AND, SUB, XOR, CMP = range(8)
# The eight of the shift groups.
ROL, ROR, RCL, RCR, SHL, SHR, SAL, SAR = range(8)


def top(value, size):
    """The sign bit."""
    return value >> (8 * size - 1) & ONE


def is_even(value):
    """Parity of the lowest byte."""
    value ^= value >> 4
    value ^= value >> 2
    value ^= value >> 1
    return value & ONE == ZERO


class Alu(object):
    """flags: RFLAGS before and after each operation."""

    def __init__(self):
        self.flags = ZERO

    def _set(self, which, condition):
        self.flags = self.flags | which if condition else self.flags & ~which

    def _result(self, value, size):
        """ZF, SF and PF of a result."""
        self._set(ZF, value == ZERO)
        self._set(SF, top(value, size) != ZERO)
        self._set(PF, is_even(value))

    def carry(self):
        return ONE if self.flags & CF != ZERO else ZERO

    # Additions and logic.
    def add(self, a, b, carry, size):
        result = (a + b + carry) & mask(size)
        self._set(CF, top((a & b) | ((a | b) & ~result), size) != ZERO)
        self._set(OF, top((a ^ result) & (b ^ result), size) != ZERO)
        self._set(AF, (a ^ b ^ result) & r_uint(16) != ZERO)
        self._result(result, size)
        return result

    def sub(self, a, b, borrow, size):
        result = (a - b - borrow) & mask(size)
        self._set(CF, top((~a & b) | ((~a | b) & result), size) != ZERO)
        self._set(OF, top((a ^ b) & (a ^ result), size) != ZERO)
        self._set(AF, (a ^ b ^ result) & r_uint(16) != ZERO)
        self._result(result, size)
        return result

    def logic(self, value, size):
        self.flags &= ~(CF | OF | AF)
        self._result(value, size)
        return value

    def increment(self, a, size):
        carry = self.flags & CF
        result = self.add(a, ONE, ZERO, size)
        self.flags = self.flags & ~CF | carry
        return result

    def decrement(self, a, size):
        carry = self.flags & CF
        result = self.sub(a, ONE, ZERO, size)
        self.flags = self.flags & ~CF | carry
        return result

    def operate(self, operation, a, b, size):
        """One of ADD to CMP. The result of CMP is for nobody."""
        if operation == ADD:
            return self.add(a, b, ZERO, size)
        if operation == ADC:
            return self.add(a, b, self.carry(), size)
        if operation == SBB:
            return self.sub(a, b, self.carry(), size)
        if operation == OR:
            return self.logic(a | b, size)
        if operation == AND:
            return self.logic(a & b, size)
        if operation == XOR:
            return self.logic(a ^ b, size)
        return self.sub(a, b, ZERO, size)       # SUB, CMP

    # Shifts and rotations, one bit at a time: at most 63.
    def shift(self, operation, value, count, size):
        """count: as in CL or the immediate, not yet cut."""
        count &= 63 if size == 8 else 31
        if count == 0:
            return value
        if operation < RCL:
            turns = count & (8 * size - 1)      # whole turns still set CF
        elif operation < SHL:
            turns = count % (8 * size + 1)
        else:
            turns = count
        for _ in range(turns):
            value = self._step(operation, value, size)
        if operation < SHL:
            self._rotated(operation, value, size)
        else:
            self.flags &= ~AF
            self._result(value, size)
        return value

    def _step(self, operation, value, size):
        bits = 8 * size
        if operation == ROL:
            return (value << 1 | top(value, size)) & mask(size)
        if operation == ROR:
            return value >> 1 | (value & ONE) << (bits - 1)
        if operation & 1 == 0:                  # RCL, SHL, SAL: to the left
            out = top(value, size)
            value = (value << 1 | (self.carry() if operation == RCL else ZERO)) & mask(size)
            self._set(CF, out != ZERO)
            self._set(OF, top(value, size) != out)
            return value
        sign = top(value, size)
        out = value & ONE
        into = ZERO
        if operation == RCR:
            into = self.carry()
        elif operation == SAR:
            into = sign
        value = value >> 1 | into << (bits - 1)
        self._set(CF, out != ZERO)
        self._set(OF, top(value, size) != sign)
        return value

    def _rotated(self, operation, value, size):
        """CF and OF of ROL and ROR; RCL and RCR have set theirs."""
        if operation == ROL:
            self._set(CF, value & ONE != ZERO)
            self._set(OF, top(value, size) != value & ONE)
        elif operation == ROR:
            self._set(CF, top(value, size) != ZERO)
            self._set(OF, top(value, size) != top(value << 1, size))

    def test_bit(self, value, bit):
        self._set(CF, value >> bit & ONE != ZERO)

    def condition(self, code):
        """The condition of Jcc, SETcc, CMOVcc; code: the opcode's low four bits."""
        flags = self.flags
        less = (flags & SF != ZERO) != (flags & OF != ZERO)
        kind = code >> 1 & 7
        if kind == 0:
            met = flags & OF != ZERO
        elif kind == 1:
            met = flags & CF != ZERO
        elif kind == 2:
            met = flags & ZF != ZERO
        elif kind == 3:
            met = flags & (CF | ZF) != ZERO
        elif kind == 4:
            met = flags & SF != ZERO
        elif kind == 5:
            met = flags & PF != ZERO
        elif kind == 6:
            met = less
        else:
            met = less or flags & ZF != ZERO
        return met != (code & 1 != 0)
