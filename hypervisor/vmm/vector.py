"""Moves between a vector register and memory: MOVUPS and its many sisters, in SSE's encoding and in VEX's.

What only moves whole, half or the lowest part of a register is here; nothing that computes or shuffles. An instruction that comes here
has been begun by a processor, which has looked at what does not depend on the operand's place: CR0.EM, CR0.TS, CR4.OSFXSR, XCR0 (#UD,
#NM), reserved fields of VEX (#UD), and the alignment that MOVAPS and others want (#GP). So none of that is looked at again.
The VMM uses no vector register itself: the kernel gives the guest's as a group of the vCPU page.
Source: Intel SDM Vol. 2A and 2B, "MOVAPS-Move Aligned Packed Single Precision Floating-Point Values" and the others.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec.exit import ACCESS_READ, ACCESS_WRITE
from hypervisor.spec.vcpu import VECTOR_BYTES
from hypervisor.vmm import decode as d
from hypervisor.vmm.context import FAULT, OK

ZERO = r_uint(0)
WORD = 8                                # bytes of a register's word
WORDS = VECTOR_BYTES // WORD            # of a YMM register; an XMM register has half of them
XMM_WORDS = WORDS // 2
BY_W = 0                                # size: 8 with REX.W or VEX.W, else 4
LOWEST, LOWER_HALF, UPPER_HALF, WHOLE = range(4)        # part: what of the register is moved; loading the LOWEST clears the rest


class Move(object):
    def __init__(self, to_memory, part, size):
        self.to_memory = to_memory
        self.part = part
        self.size = size


# Mandatory prefix, opcode, how the two directions are encoded, part, bytes.
NONE, P66, PF3, PF2 = range(4)
LOADS, STORES = 1, 2
ROWS = [
    (NONE, 0x10, LOADS, WHOLE, 16), (NONE, 0x11, STORES, WHOLE, 16),            # MOVUPS
    (P66, 0x10, LOADS, WHOLE, 16), (P66, 0x11, STORES, WHOLE, 16),              # MOVUPD
    (PF3, 0x10, LOADS, LOWEST, 4), (PF3, 0x11, STORES, LOWEST, 4),              # MOVSS
    (PF2, 0x10, LOADS, LOWEST, 8), (PF2, 0x11, STORES, LOWEST, 8),              # MOVSD
    (NONE, 0x12, LOADS, LOWER_HALF, 8), (NONE, 0x13, STORES, LOWER_HALF, 8),    # MOVLPS
    (P66, 0x12, LOADS, LOWER_HALF, 8), (P66, 0x13, STORES, LOWER_HALF, 8),      # MOVLPD
    (NONE, 0x16, LOADS, UPPER_HALF, 8), (NONE, 0x17, STORES, UPPER_HALF, 8),    # MOVHPS
    (P66, 0x16, LOADS, UPPER_HALF, 8), (P66, 0x17, STORES, UPPER_HALF, 8),      # MOVHPD
    (NONE, 0x28, LOADS, WHOLE, 16), (NONE, 0x29, STORES, WHOLE, 16),            # MOVAPS
    (P66, 0x28, LOADS, WHOLE, 16), (P66, 0x29, STORES, WHOLE, 16),              # MOVAPD
    (NONE, 0x2b, STORES, WHOLE, 16), (P66, 0x2b, STORES, WHOLE, 16),            # MOVNTPS, MOVNTPD
    (P66, 0x6e, LOADS, LOWEST, BY_W), (P66, 0x7e, STORES, LOWEST, BY_W),        # MOVD, MOVQ
    (PF3, 0x7e, LOADS, LOWEST, 8), (P66, 0xd6, STORES, LOWEST, 8),              # MOVQ
    (P66, 0x6f, LOADS, WHOLE, 16), (P66, 0x7f, STORES, WHOLE, 16),              # MOVDQA
    (PF3, 0x6f, LOADS, WHOLE, 16), (PF3, 0x7f, STORES, WHOLE, 16),              # MOVDQU
    (P66, 0xe7, STORES, WHOLE, 16), (PF2, 0xf0, LOADS, WHOLE, 16),              # MOVNTDQ, LDDQU
]
MOVES = [None] * 1024                   # by prefix and opcode
for _prefix, _opcode, _way, _part, _size in ROWS:
    assert MOVES[_prefix << 8 | _opcode] is None
    MOVES[_prefix << 8 | _opcode] = Move(_way == STORES, _part, _size)
MOVNTDQA_OPCODE = 0x2a                  # of the map 0F 38, with prefix 66
MOVNTDQA = Move(False, WHOLE, 16)


def prefix_of(instruction):
    """The mandatory prefix; F2 and F3 win over 66."""
    if instruction.repeat == 0xf3:
        return PF3
    if instruction.repeat == 0xf2:
        return PF2
    return P66 if instruction.prefix_66 else NONE


def find(instruction):
    """The move that the instruction is, or None."""
    prefix = prefix_of(instruction)
    if not instruction.memory:
        return None
    if instruction.map == d.MAP_0F:
        return MOVES[prefix << 8 | instruction.opcode & 0xff]
    if instruction.map == d.MAP_0F38 and instruction.opcode == MOVNTDQA_OPCODE and prefix == P66:
        return MOVNTDQA
    return None


class Vector(object):
    """changed: the instruction has loaded a register, so that the group is to be given back."""

    def __init__(self, context, instruction, operand):
        self.context = context
        self.instruction = instruction
        self.operand = operand
        self.changed = False

    def size(self, move):
        if move.size == BY_W:
            return 8 if self.instruction.rex & 8 else 4
        if self.instruction.wide and move.part == WHOLE:
            return VECTOR_BYTES
        return move.size

    def execute(self, move, offset):
        """offset: of the memory operand, cut to the address size. The vCPU page has the vector registers. Returns OK or FAULT."""
        size = self.size(move)
        access = ACCESS_WRITE if move.to_memory else ACCESS_READ
        if self.operand.locate(self.instruction.data_segment(), offset, size, access) == FAULT:
            return FAULT
        if move.to_memory:
            self._store(move, size)
        else:
            self._load(move, size)
            self.changed = True
        return OK

    def _store(self, move, size):
        reg, vcpu = self.instruction.reg, self.context.vcpu
        if move.part == UPPER_HALF:
            self.operand.store_part(0, WORD, vcpu.vector(reg, 1))
        elif size <= WORD:
            self.operand.store_part(0, size, vcpu.vector(reg, 0))
        else:
            for n in range(size // WORD):
                self.operand.store_part(WORD * n, WORD, vcpu.vector(reg, n))

    def _load(self, move, size):
        """In SSE's encoding what is above XMM stays, in VEX's it is cleared; there the other half comes from a third operand."""
        i, vcpu = self.instruction, self.context.vcpu
        other = i.vvvv if i.vex else i.reg
        if move.part == LOWER_HALF:
            self._set(i.reg, self.operand.load_part(0, WORD), vcpu.vector(other, 1))
        elif move.part == UPPER_HALF:
            self._set(i.reg, vcpu.vector(other, 0), self.operand.load_part(0, WORD))
        elif size <= WORD:
            self._set(i.reg, self.operand.load_part(0, size), ZERO)
        else:
            self._set(i.reg, self.operand.load_part(0, WORD), self.operand.load_part(WORD, WORD))
            for n in range(XMM_WORDS, size // WORD):
                vcpu.set_vector(i.reg, n, self.operand.load_part(WORD * n, WORD))

    def _set(self, number, lower, upper):
        vcpu = self.context.vcpu
        vcpu.set_vector(number, 0, lower)
        vcpu.set_vector(number, 1, upper)
        if self.instruction.vex:
            for n in range(XMM_WORDS, WORDS):
                vcpu.set_vector(number, n, ZERO)
