"""A decoder for x86 instructions: lengths and operands of the integer, SSE and AVX instruction sets, 16, 32 and 64 bits.

decode() reads the bytes that fetch.py has brought and fills one Instruction. What it does not know (EVEX, XOP,
undefined opcodes) is UNKNOWN, never a guess. It knows nothing of registers' values: address.py computes addresses.
Source: Intel SDM Vol. 2A, "Instruction Format", Vol. 2D, "Opcode Map"; AMD64 APM Vol. 3, "Instruction Encoding".
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

OK, TOO_SHORT, UNKNOWN = 0, 1, 2
MOST_BYTES = 15
NONE = -1
RIP = 16                            # `base` of a RIP-relative operand
ES, CS, SS, DS, FS, GS = range(6)

# Attributes of an opcode, as the characters of the maps below.
MODRM = 'm'                         # ('.': no operand bytes)
IMM8, IMM16, IMMZ, IMMV = 'b', 'w', 'z', 'v'        # immediates: 1 byte, 2, 2 or 4, 2 or 4 or 8
MODRM_IMM8, MODRM_IMMZ, GROUP_3 = 'M', 'Z', '3'     # ModRM and an immediate; group 3: TEST has one
OFFSET, ENTER, JUMP = 'o', 'e', 'j'                 # memory offset; 16 + 8 bits; 4 bytes or 2
LEGACY, LEGACY_FAR, LEGACY_IMM8 = 'l', 'P', 'B'     # not in 64-bit mode: plain; far pointer; IMM8
NOT_64, REGISTERS = 'n', 'r'        # ModRM, not in 64-bit mode; ModRM that always means registers
BAD = 'x'                           # prefixes (never looked up), escapes and undefined opcodes

ONE_BYTE = (
    'mmmmbzll' 'mmmmbzlx'           # 00
    'mmmmbzll' 'mmmmbzll'
    'mmmmbzxl' 'mmmmbzxl'           # 20
    'mmmmbzxl' 'mmmmbzxl'
    '........' '........'           # 40: REX in 64-bit mode
    '........' '........'
    'llnmxxxx' 'zZbM....'           # 60
    'bbbbbbbb' 'bbbbbbbb'
    'MZxMmmmm' 'mmmmmmmm'           # 80
    '........' '..P.....'
    'oooo....' 'bz......'           # a0
    'bbbbbbbb' 'vvvvvvvv'
    'MMw.nnMZ' 'e.w..bl.'           # c0
    'mmmmBBx.' 'mmmmmmmm'
    'bbbbbbbb' 'jjPb....'           # e0
    'x.xx..33' '......mm')
TWO_BYTE = (
    'mmmmx...' '..x.xm.M'           # 0f 00
    'mmmmmmmm' 'mmmmmmmm'
    'rrrrxxxx' 'mmmmmmmm'           # 0f 20
    '......x.' 'xxxxxxxx'
    'mmmmmmmm' 'mmmmmmmm'           # 0f 40
    'mmmmmmmm' 'mmmmmmmm'
    'mmmmmmmm' 'mmmmmmmm'           # 0f 60
    'MMMMmmm.' 'xxxxmmmm'
    'jjjjjjjj' 'jjjjjjjj'           # 0f 80
    'mmmmmmmm' 'mmmmmmmm'
    '...mMmxx' '...mMmmm'           # 0f a0
    'mmmmmmmm' 'mmMmmmmm'
    'mmMmMMMm' '........'           # 0f c0
    'mmmmmmmm' 'mmmmmmmm'
    'mmmmmmmm' 'mmmmmmmm'           # 0f e0
    'mmmmmmmm' 'mmmmmmmm')
assert len(ONE_BYTE) == 256 and len(TWO_BYTE) == 256

MOV_FROM_SEGMENT = 0x8c

# `map` of an instruction.
MAP_ONE, MAP_0F, MAP_0F38, MAP_0F3A = range(4)      # as in VEX
VEX_REPEAT = [0, 0, 0xf3, 0xf2]     # by its pp; 1 is 66

# 16-bit addressing: base and index of each r/m.
BX, BP, SI, DI = 3, 5, 6, 7
BASES_16 = [BX, BX, BP, BP, SI, DI, BP, BX]
INDEXES_16 = [SI, DI, SI, DI, NONE, NONE, NONE, NONE]
SP = 4


class Code(object):
    """Bytes of the instruction, as far as they could be fetched, and how far the decoder has come. low, high: the bytes, the first lowest."""

    def __init__(self):
        self.low = r_uint(0)
        self.high = r_uint(0)
        self.count = 0
        self.at = 0
        self.short = False              # more was asked for than there is

    def clear(self):
        self.fill(r_uint(0), r_uint(0))
        self.count = 0

    def fill(self, low, high):
        """MOST_BYTES at once."""
        self.low = low
        self.high = high
        self.count = MOST_BYTES

    def add(self, byte):
        """One more. At most MOST_BYTES."""
        n, value = self.count, r_uint(byte & 0xff)
        if n < 8:
            self.low |= value << (8 * n)
        elif n < MOST_BYTES:
            self.high |= value << (8 * n - 64)
        else:
            return
        self.count = n + 1

    def byte(self, n):
        """n: 0 to 15."""
        return intmask((self.low if n < 8 else self.high) >> (8 * (n & 7))) & 0xff

    def start(self):
        self.at = 0
        self.short = False

    def next(self):
        """The next byte; 0 beyond the last one, and then `short` is set."""
        at = self.at
        if at >= self.count:
            self.short = True
            return 0
        self.at = at + 1
        return self.byte(at)

    def peek(self):
        """The same, and it stays the next."""
        if self.at >= self.count:
            self.short = True
            return 0
        return self.byte(self.at)

    def little(self, size):
        """The next `size` bytes, 1 to 8, as one number."""
        at = self.at
        if at + size > self.count:
            self.short = True
            return r_uint(0)
        self.at = at + size
        if at == 0:
            value = self.low
        elif at < 8:
            value = self.low >> (8 * at) | self.high << (64 - 8 * at)
        else:
            value = self.high >> (8 * at - 64)
        return value & r_uint(-1) >> (64 - 8 * size)

    def signed(self, size):
        """The same, sign-extended."""
        return sign_extend(self.little(size), size)


def sign_extend(value, size):
    """A `size`-byte number (1, 2, 4, 8) to 64 bits. What is above it in `value` does not matter."""
    shift = 64 - 8 * size
    return r_uint(intmask(value << shift) >> shift)


class Instruction(object):
    def __init__(self):
        self.mode = 64                  # of the code segment: 16, 32 or 64
        self.outcome = UNKNOWN          # of decode(), for these bytes:
        self.low = r_uint(0)
        self.high = r_uint(0)
        self.count = -1
        self.clear()

    def clear(self):
        self.length = 0
        self.map = MAP_ONE
        self.opcode = 0
        self.prefix_66 = False
        self.prefix_67 = False
        self.repeat = 0                 # 0, 0xf2 or 0xf3
        self.lock = False
        self.vex = False                # prefix_66, repeat and rex are then as VEX says
        self.vvvv = 0                   # VEX: another register; 0 too where none is named
        self.wide = False               # VEX.L: 256 bits
        self.segment = NONE             # override
        self.rex = 0
        self.operand_size = 4           # 2, 4 or 8; byte forms and defaults of 64 bits are the opcode's business
        self.address_size = 8           # 2, 4 or 8
        self.address_mask = r_uint(-1)  # all ones in so many bytes
        self.wants_segments = False     # 64-bit code that does: by FS or GS, or it stores a selector
        self.modrm = False
        self.mod = 3
        self.reg = 0                    # with REX.R
        self.rm = 0                     # with REX.B, when mod is 3
        self.memory = False             # there is a memory operand by ModRM or offset:
        self.base = NONE
        self.index = NONE
        self.scale = 0                  # shift
        self.displacement = r_uint(0)   # sign-extended
        self.immediate = r_uint(0)      # sign-extended

    def is_of(self, code, mode):
        return self.low == code.low and self.high == code.high and self.count == code.count and self.mode == mode

    def remember(self, code):
        self.low = code.low
        self.high = code.high
        self.count = code.count

    def is_64(self):
        return self.mode == 64

    def rex_bit(self, bit):
        """8 if this bit of REX is set. bit: 2 R, 1 X, 0 B."""
        return 8 if self.rex & (1 << bit) else 0

    def default_segment(self):
        """The segment of the memory operand without an override: SS for stack addresses."""
        return SS if self.base == SP or self.base == BP else DS

    def data_segment(self):
        return self.segment if self.segment != NONE else self.default_segment()


def decode(code, instruction, mode):
    """Fill `instruction` from `code` (any bytes). mode: 16, 32 or 64.

    Returns OK, TOO_SHORT (more bytes are needed than there are, or than 15) or UNKNOWN. The same bytes in the same mode are the same
    instruction: what `instruction` has been filled from last is not decoded again.
    """
    if not instruction.is_of(code, mode):
        instruction.outcome = _decode(code, instruction, mode)
        instruction.remember(code)
    return instruction.outcome


@dont_inline
def _decode(code, instruction, mode):
    code.start()
    instruction.clear()
    instruction.mode = mode
    first = _prefixes(code, instruction)
    _sizes(instruction)
    kind = _opcode(code, instruction, first)
    if code.short:
        return TOO_SHORT
    if kind == BAD:
        return UNKNOWN
    return _operands(code, instruction, kind)


def _prefixes(code, instruction):
    """Read all prefixes. Returns the byte after them. A REX counts only right before the opcode."""
    while True:
        byte = code.next()
        if instruction.mode == 64 and byte & 0xf0 == 0x40:
            instruction.rex = byte
        elif ONE_BYTE[byte & 0xff] == BAD and _legacy_prefix(instruction, byte):
            instruction.rex = 0
        else:
            return byte


def _legacy_prefix(instruction, byte):
    if byte == 0x66:
        instruction.prefix_66 = True
    elif byte == 0x67:
        instruction.prefix_67 = True
    elif byte == 0xf0:
        instruction.lock = True
    elif byte == 0xf2 or byte == 0xf3:
        instruction.repeat = byte
    elif byte & 0xe7 == 0x26:
        if instruction.mode != 64:      # ES, CS, SS, DS mean nothing in 64-bit mode
            instruction.segment = byte >> 3 & 3
    elif byte == 0x64 or byte == 0x65:
        instruction.segment = FS if byte == 0x64 else GS
    else:
        return False
    return True


def _sizes(instruction):
    if instruction.mode == 64:
        instruction.address_size = 4 if instruction.prefix_67 else 8
        instruction.operand_size = 2 if instruction.prefix_66 else 4
        if instruction.rex & 8:
            instruction.operand_size = 8
    else:
        instruction.address_size = 2 if (instruction.mode == 16) != instruction.prefix_67 else 4
        instruction.operand_size = 2 if (instruction.mode == 16) != instruction.prefix_66 else 4
    instruction.address_mask = r_uint(-1) >> (64 - 8 * instruction.address_size)


def _opcode(code, instruction, first):
    """Set map and opcode. Returns the opcode's attribute."""
    if (first == 0xc4 or first == 0xc5) and (instruction.mode == 64 or code.peek() >= 0xc0):
        return _vex(code, instruction, first)       # outside of 64-bit mode, LES and LDS have no register operand
    if first != 0x0f:
        instruction.opcode = first
        return ONE_BYTE[first & 0xff]
    second = code.next()
    if second == 0x38 or second == 0x3a:
        instruction.map = MAP_0F38 if second == 0x38 else MAP_0F3A
        instruction.opcode = code.next()
        return MODRM if second == 0x38 else MODRM_IMM8
    instruction.map = MAP_0F
    instruction.opcode = second
    return TWO_BYTE[second & 0xff]


def _vex(code, instruction, first):
    """Likewise, behind the first byte of VEX. Bits of registers' numbers are inverted in it.
    Source: Intel SDM Vol. 2A, "Intel Advanced Vector Extensions (Intel AVX)", "The VEX Prefix"."""
    if instruction.rex != 0 or instruction.prefix_66 or instruction.repeat != 0 or instruction.lock:
        return BAD
    second = code.next()
    rex, number, last = 0x40 | (~second >> 5 & 4), MAP_0F, second
    if first == 0xc4:
        last = code.next()
        rex, number = 0x40 | (~second >> 5 & 7) | (last >> 4 & 8), second & 31
    instruction.vex = True
    instruction.vvvv = ~last >> 3 & 15
    instruction.wide = last & 4 != 0
    instruction.prefix_66 = last & 3 == 1
    instruction.repeat = VEX_REPEAT[last & 3]
    if instruction.mode == 64:
        instruction.rex = rex
    else:
        instruction.vvvv &= 7
    instruction.map = number
    instruction.opcode = code.next()
    if number == MAP_0F38:
        return MODRM
    if number == MAP_0F3A:
        return MODRM_IMM8
    kind = TWO_BYTE[instruction.opcode & 0xff]
    if number != MAP_0F or kind != MODRM and kind != MODRM_IMM8 and instruction.opcode != 0x77:
        return BAD                      # 77: VZEROUPPER
    return kind


def _operands(code, instruction, kind):
    if instruction.mode == 64 and (kind == LEGACY or kind == LEGACY_FAR or kind == LEGACY_IMM8 or kind == NOT_64):
        return UNKNOWN
    if (kind == MODRM or kind == MODRM_IMM8 or kind == MODRM_IMMZ or kind == GROUP_3 or kind == NOT_64 or
            kind == REGISTERS):
        _modrm(code, instruction, kind == REGISTERS)
        if _is_vector_prefix(instruction, kind):
            return UNKNOWN
    _immediate(code, instruction, kind)
    instruction.length = code.at
    instruction.wants_segments = instruction.mode == 64 and (
        instruction.segment != NONE or instruction.map == MAP_ONE and instruction.opcode == MOV_FROM_SEGMENT)
    return TOO_SHORT if code.short else OK


def _is_vector_prefix(instruction, kind):
    """62, C4, C5 with a register operand are EVEX and VEX outside of 64-bit mode too; 8F with a register field is AMD's XOP."""
    if kind == NOT_64:
        return instruction.mod == 3
    return instruction.map == MAP_ONE and instruction.opcode == 0x8f and instruction.reg & 7 != 0


def _modrm(code, instruction, registers_only):
    byte = code.next()
    instruction.modrm = True
    instruction.mod = 3 if registers_only else byte >> 6
    instruction.reg = byte >> 3 & 7 | instruction.rex_bit(2)
    rm = byte & 7
    instruction.rm = rm | instruction.rex_bit(0)
    if instruction.mod == 3:
        return
    instruction.memory = True
    if instruction.address_size == 2:
        _address_16(code, instruction, rm)
    else:
        _address_32(code, instruction, rm)


def _address_16(code, instruction, rm):
    instruction.base = BASES_16[rm & 7]
    instruction.index = INDEXES_16[rm & 7]
    if instruction.mod == 0 and rm == 6:
        instruction.base = NONE
        instruction.displacement = code.signed(2)
    elif instruction.mod == 1:
        instruction.displacement = code.signed(1)
    elif instruction.mod == 2:
        instruction.displacement = code.signed(2)


def _address_32(code, instruction, rm):
    """32- and 64-bit addressing, with SIB."""
    base = rm
    if rm == 4:
        sib = code.next()
        base = sib & 7
        instruction.scale = sib >> 6
        index = sib >> 3 & 7 | instruction.rex_bit(1)
        instruction.index = index if index != 4 else NONE
    instruction.base = base | instruction.rex_bit(0)
    if instruction.mod == 0 and base == 5:
        instruction.base = RIP if instruction.mode == 64 and rm == 5 else NONE
        instruction.displacement = code.signed(4)
    elif instruction.mod == 1:
        instruction.displacement = code.signed(1)
    elif instruction.mod == 2:
        instruction.displacement = code.signed(4)


def _immediate(code, instruction, kind):
    z = 2 if instruction.operand_size == 2 else 4
    if kind == IMM8 or kind == MODRM_IMM8 or kind == LEGACY_IMM8:
        instruction.immediate = code.signed(1)
    elif kind == IMM16:
        instruction.immediate = code.signed(2)
    elif kind == IMMZ or kind == MODRM_IMMZ:
        instruction.immediate = code.signed(z)
    elif kind == JUMP:
        instruction.immediate = code.signed(4 if instruction.mode == 64 else z)
    elif kind == IMMV:
        instruction.immediate = code.signed(instruction.operand_size)
    elif kind == GROUP_3 and instruction.reg & 7 < 2:
        instruction.immediate = code.signed(1 if instruction.opcode == 0xf6 else z)
    elif kind == OFFSET:
        instruction.memory = True
        instruction.displacement = code.little(instruction.address_size)
    elif kind == ENTER:
        code.little(3)
    elif kind == LEGACY_FAR:
        code.little(z + 2)
