"""Executing one instruction for the guest: the one that touched memory where no RAM is, or a string I/O instruction.

What it knows: moves (vector registers' too: vector.py), the eight arithmetic operations, INC, DEC, NOT, NEG, TEST, shifts, bit tests,
XCHG, XADD, CMPXCHG, SETcc, CMOVcc, PUSH, POP and the string instructions, in all modes and widths. What it does not (x87, MMX, vector
arithmetic, multiplications, far transfers, ...) is UNKNOWN, never a guess; no register has changed then.
After a FAULT only what a processor would have kept has changed: the progress of a repeated string instruction.
"""
from rpython.rlib.objectmodel import always_inline, dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec import status, vcpu as spec
from hypervisor.spec.exit import ACCESS_READ, ACCESS_WRITE
from hypervisor.vmm import alu as a, decode as d, vcpu as v, vector
from hypervisor.vmm.context import BIG, FAULT, OK, Context, mask
from hypervisor.vmm.fetch import Fetcher, NO_CODE
from hypervisor.vmm.operand import Operand
from hypervisor.vmm.strings import AGAIN, Strings
from hypervisor.vmm.walk import Walker

DONE, UNKNOWN = OK, 3
assert len(set([DONE, FAULT, NO_CODE, UNKNOWN, AGAIN])) == 5
FAULT_DIRTY = spec.GROUP_GPR | spec.GROUP_FLOW | spec.GROUP_CONTROL         # CR2

ZERO = r_uint(0)
ONE = r_uint(1)


class Emulator(object):
    def __init__(self, vcpu, ram, bus):
        self.context = Context(vcpu)
        self.code = d.Code()
        self.instruction = d.Instruction()
        self.walker = Walker(self.context, ram)
        self.operand = Operand(self.context, self.walker, ram, bus)
        self.alu = a.Alu()
        self.fetcher = Fetcher(self.context, self.code, self.operand, self.walker, ram)
        self.strings = Strings(self.context, self.instruction, self.alu, bus, self.operand,
                               Operand(self.context, self.walker, ram, bus))
        self.vector = vector.Vector(self.context, self.instruction, self.operand)
        self.size = 4           # of the operation in hand: 1, 2, 4 or 8 bytes

    def set_physical_bits(self, count):
        self.walker.set_physical_bits(count)

    def emulate(self):
        """Execute the instruction at the guest's RIP.

        DONE: the vCPU page has the state to go on with (groups dirty(); perhaps the same RIP, to be executed again).
        FAULT: context.vector and .error are to be injected (groups FAULT_DIRTY). NO_CODE, UNKNOWN: nothing has changed.
        """
        context = self.context
        if not context.load():
            return UNKNOWN
        fetched = self.fetcher.fetch()
        decoded = d.decode(self.code, self.instruction, context.mode)
        if decoded != d.OK:
            return self._refuse(decoded, fetched)
        if self.instruction.wants_segments and not context.fetch_segments():
            return UNKNOWN
        self.alu.flags = context.flags
        self.vector.changed = False
        outcome = self._move() if self._is_move() else self._execute()
        if outcome == DONE:
            context.flags = self.alu.flags
            context.finish(context.rip + r_uint(self.instruction.length))
        elif outcome == AGAIN:
            context.flags = self.alu.flags
            context.finish(context.rip)
            outcome = DONE
        return outcome

    @dont_inline
    def _refuse(self, decoded, fetched):
        if decoded == d.UNKNOWN:
            return UNKNOWN
        return self.context.protection_fault(False) if fetched == OK else fetched

    def dirty(self):
        """The answer's DIRTY for what the instruction has changed."""
        dirty = self.context.dirty()
        return dirty | spec.GROUP_VECTOR if self.vector.changed else dirty

    # What drivers do: MOV between memory and a register.
    @always_inline
    def _is_move(self):
        i = self.instruction
        return 0x88 <= i.opcode and i.opcode <= 0x8b and i.map == d.MAP_ONE and i.memory

    @always_inline
    def _move(self):
        i = self.instruction
        self.size = i.operand_size if i.opcode & 1 else 1
        return self._load_register() if i.opcode & 2 else self._store(self._reg())

    @dont_inline                            # or moves would keep registers for it
    def _execute(self):
        if self.instruction.map == d.MAP_ONE:
            return self._one_byte(self.instruction.opcode)
        move = vector.find(self.instruction)
        if move is not None:
            return self._move_vector(move)
        if self.instruction.map == d.MAP_0F and not self.instruction.vex:
            return self._two_byte(self.instruction.opcode)
        return UNKNOWN

    # Dispatch. Bit 0 of most opcodes says: full operand size instead of a byte.
    def _one_byte(self, opcode):
        i = self.instruction
        self.size = i.operand_size if opcode & 1 else 1
        if self.strings.knows(opcode):
            return self.strings.execute()
        if opcode < 0x40 and opcode & 7 < 4:
            return self._arithmetic(opcode >> 3 & 7, opcode & 2 != 0)
        if 0x50 <= opcode and opcode <= 0x57:
            return self._push(self.context.register(opcode & 7 | i.rex_bit(0), 8))
        if 0x58 <= opcode and opcode <= 0x5f:
            return self._pop_register(opcode & 7 | i.rex_bit(0))
        if opcode == 0x68 or opcode == 0x6a:
            return self._push(i.immediate)
        if 0xa0 <= opcode and opcode <= 0xa3:
            return self._move_accumulator(opcode & 2 != 0)
        if not i.memory:
            return UNKNOWN
        return self._with_modrm(opcode)

    def _with_modrm(self, opcode):
        i = self.instruction
        if opcode == 0x63 and i.mode == 64:
            return self._move_extended(4, True)
        if opcode == 0x80 or opcode == 0x81 or opcode == 0x83:
            return self._arithmetic_immediate(i.reg & 7)
        if opcode == 0x84 or opcode == 0x85:
            return self._test(self._reg())
        if opcode == 0x86 or opcode == 0x87:
            return self._exchange()
        if opcode == 0x8c and i.reg & 7 <= v.GS:
            self.size = 2
            return self._store(self.context.vcpu.segment(i.reg & 7, v.SEGMENT_SELECTOR))
        if opcode == 0x8f:
            return self._pop_memory()
        if opcode == 0xc0 or opcode == 0xc1:
            return self._shift(intmask(i.immediate))
        if opcode == 0xc6 or opcode == 0xc7:
            return self._store(i.immediate) if i.reg & 7 == 0 else UNKNOWN
        if opcode == 0xd0 or opcode == 0xd1:
            return self._shift(1)
        if opcode == 0xd2 or opcode == 0xd3:
            return self._shift(intmask(self.context.register(v.CX, 1)))
        if opcode == 0xf6 or opcode == 0xf7:
            return self._group_3(i.reg & 7)
        if opcode == 0xfe or opcode == 0xff:
            return self._group_5(i.reg & 7, opcode == 0xff)
        return UNKNOWN

    def _two_byte(self, opcode):
        i = self.instruction
        self.size = i.operand_size if opcode & 1 else 1
        if not i.memory:
            return UNKNOWN
        if 0x40 <= opcode and opcode <= 0x4f:
            return self._move_if(opcode & 15)
        if 0x90 <= opcode and opcode <= 0x9f:
            self.size = 1
            return self._store(ONE if self.alu.condition(opcode & 15) else ZERO)
        if opcode == 0xa3 or opcode == 0xab or opcode == 0xb3 or opcode == 0xbb:
            return self._bit_by_register(opcode >> 3 & 3)
        if opcode == 0xae:
            return self._cache_line()
        if opcode == 0xb0 or opcode == 0xb1:
            return self._compare_exchange()
        if opcode == 0xb6 or opcode == 0xb7:
            return self._move_extended(2 if opcode & 1 else 1, False)
        if opcode == 0xba and i.reg & 4:
            self.size = i.operand_size
            return self._bit(i.reg & 3, intmask(i.immediate), ZERO)
        if opcode == 0xbe or opcode == 0xbf:
            return self._move_extended(2 if opcode & 1 else 1, True)
        if opcode == 0xc0 or opcode == 0xc1:
            return self._exchange_add()
        if opcode == 0xc3 and i.operand_size > 2 and i.repeat == 0:
            return self._store(self._reg())             # MOVNTI
        if opcode == 0xc7 and i.reg & 7 == 1 and not i.rex & 8:
            return self._compare_exchange_8()
        return UNKNOWN

    # Registers: with the byte registers AH to BH where there is no REX.
    def _high(self, number, size):
        return size == 1 and self.instruction.rex == 0 and 4 <= number and number < 8

    def _get(self, number, size):
        if self._high(number, size):
            return self.context.register(number - 4, 2) >> 8
        return self.context.register(number, size)

    def _put(self, number, size, value):
        if self._high(number, size):
            value = self.context.register(number - 4, 1) | (value & mask(1)) << 8
            self.context.set_register(number - 4, 2, value)
        else:
            self.context.set_register(number, size, value)

    def _reg(self):
        """The register that ModRM's reg field names, in the operation's size."""
        return self._get(self.instruction.reg, self.size)

    # Memory operands.
    @always_inline
    def _offset(self):
        """The effective address, without what a bit string adds."""
        i = self.instruction
        offset = i.displacement
        if i.base == d.RIP:
            offset += self.context.rip + r_uint(i.length)
        elif i.base != d.NONE:
            offset += self.context.register(i.base, 8)
        if i.index != d.NONE:
            offset += self.context.register(i.index, 8) << i.scale
        return offset

    def _locate(self, size, access):
        """Find the instruction's only memory operand. Returns OK or FAULT."""
        offset = self._offset() & self.instruction.address_mask
        return self.operand.locate_told(self.instruction.data_segment(), offset, size, access)

    def _locate_beside_stack(self, size, access):
        """The same for PUSH and POP, whose other operand the exit may be about."""
        offset = self._offset() & self.instruction.address_mask
        return self.operand.locate(self.instruction.data_segment(), offset, size, access)

    # Moves.
    def _move_vector(self, move):
        if self.context.vcpu.read(spec.GROUP_VECTOR) != status.OK:
            return UNKNOWN
        return self.vector.execute(move, self._offset() & self.instruction.address_mask)

    def _store(self, value):
        if self._locate(self.size, ACCESS_WRITE) == FAULT:
            return FAULT
        self.operand.store(value)
        return DONE

    def _load_register(self):
        if self._locate(self.size, ACCESS_READ) == FAULT:
            return FAULT
        self._put(self.instruction.reg, self.size, self.operand.load())
        return DONE

    def _move_accumulator(self, to_memory):
        if self._locate(self.size, ACCESS_WRITE if to_memory else ACCESS_READ) == FAULT:
            return FAULT
        if to_memory:
            self.operand.store(self.context.register(v.AX, self.size))
        else:
            self.context.set_register(v.AX, self.size, self.operand.load())
        return DONE

    def _move_extended(self, size, signed):
        """MOVZX, MOVSX, MOVSXD from a `size`-byte operand."""
        if self._locate(size, ACCESS_READ) == FAULT:
            return FAULT
        value = self.operand.load()
        if signed:
            value = d.sign_extend(value, size)
        self.context.set_register(self.instruction.reg, self.instruction.operand_size, value)
        return DONE

    def _move_if(self, condition):
        """CMOVcc: the operand is read in any case, and a 32-bit register loses its upper half in any case."""
        size = self.instruction.operand_size
        if self._locate(size, ACCESS_READ) == FAULT:
            return FAULT
        value = self.operand.load()
        if not self.alu.condition(condition):
            value = self.context.register(self.instruction.reg, size)
        self.context.set_register(self.instruction.reg, size, value)
        return DONE

    # Arithmetic.
    def _arithmetic(self, operation, to_register):
        if not self.instruction.memory:
            return UNKNOWN
        if not to_register:
            return self._modify(operation, self._reg())
        if self._locate(self.size, ACCESS_READ) == FAULT:
            return FAULT
        result = self.alu.operate(operation, self._reg(), self.operand.load(), self.size)
        if operation != a.CMP:
            self._put(self.instruction.reg, self.size, result)
        return DONE

    def _arithmetic_immediate(self, operation):
        return self._modify(operation, self.instruction.immediate & mask(self.size))

    def _modify(self, operation, value):
        """memory = memory <operation> value. CMP only reads."""
        if self._locate(self.size, ACCESS_READ if operation == a.CMP else ACCESS_WRITE) == FAULT:
            return FAULT
        result = self.alu.operate(operation, self.operand.load(), value, self.size)
        if operation != a.CMP:
            self.operand.store(result)
        return DONE

    def _test(self, value):
        if self._locate(self.size, ACCESS_READ) == FAULT:
            return FAULT
        self.alu.logic(self.operand.load() & value & mask(self.size), self.size)
        return DONE

    def _group_3(self, which):
        """TEST, NOT, NEG; the multiplications and divisions are not known."""
        if which < 2:
            return self._test(self.instruction.immediate)
        if which > 3:
            return UNKNOWN
        if self._locate(self.size, ACCESS_WRITE) == FAULT:
            return FAULT
        value = self.operand.load()
        if which == 2:
            self.operand.store(~value)
        else:
            self.operand.store(self.alu.sub(ZERO, value, ZERO, self.size))
        return DONE

    def _group_5(self, which, full):
        """INC, DEC, PUSH; the calls and jumps are not known."""
        if which == 6 and full:
            return self._push_memory()
        if which > 1:
            return UNKNOWN
        if self._locate(self.size, ACCESS_WRITE) == FAULT:
            return FAULT
        value = self.operand.load()
        self.operand.store(self.alu.decrement(value, self.size) if which else self.alu.increment(value, self.size))
        return DONE

    def _shift(self, count):
        if self._locate(self.size, ACCESS_WRITE) == FAULT:
            return FAULT
        self.operand.store(self.alu.shift(self.instruction.reg & 7, self.operand.load(), count, self.size))
        return DONE

    # Exchanges.
    def _exchange(self):
        if self._locate(self.size, ACCESS_WRITE) == FAULT:
            return FAULT
        value = self.operand.load()
        self.operand.store(self._reg())
        self._put(self.instruction.reg, self.size, value)
        return DONE

    def _exchange_add(self):
        if self._locate(self.size, ACCESS_WRITE) == FAULT:
            return FAULT
        value = self.operand.load()
        total = self.alu.add(value, self._reg(), ZERO, self.size)
        self._put(self.instruction.reg, self.size, value)
        self.operand.store(total)
        return DONE

    def _compare_exchange(self):
        if self._locate(self.size, ACCESS_WRITE) == FAULT:
            return FAULT
        value = self.operand.load()
        wanted = self.context.register(v.AX, self.size)
        self.alu.sub(wanted, value, ZERO, self.size)
        if value == wanted:
            self.operand.store(self._reg())
        else:
            self.operand.store(value)                   # a processor writes in any case
            self.context.set_register(v.AX, self.size, value)
        return DONE

    def _compare_exchange_8(self):
        if self._locate(8, ACCESS_WRITE) == FAULT:
            return FAULT
        context, value = self.context, self.operand.load()
        if value == context.register(v.AX, 4) | context.register(v.DX, 4) << 32:
            self.operand.store(context.register(v.BX, 4) | context.register(v.CX, 4) << 32)
            self.alu.flags |= a.ZF
        else:
            self.operand.store(value)
            context.set_register(v.AX, 4, value & mask(4))
            context.set_register(v.DX, 4, value >> 32)
            self.alu.flags &= ~a.ZF
        return DONE

    # Bits.
    def _bit_by_register(self, operation):
        """BT, BTS, BTR, BTC with a register: it may point far outside of the operand, in both directions."""
        self.size = self.instruction.operand_size
        number = d.sign_extend(self._reg(), self.size)
        bits = 8 * self.size
        unit = r_uint(intmask(number) // bits * self.size)      # rounds down
        return self._bit(operation, intmask(number) & (bits - 1), unit)

    def _bit(self, operation, bit, distance):
        """operation: 0 BT, 1 BTS, 2 BTR, 3 BTC. distance: bytes beyond the operand's address."""
        bit &= 8 * self.size - 1
        offset = (self._offset() + distance) & self.instruction.address_mask
        access = ACCESS_WRITE if operation else ACCESS_READ
        if self.operand.locate(self.instruction.data_segment(), offset, self.size, access) == FAULT:
            return FAULT
        value = self.operand.load()
        self.alu.test_bit(value, bit)
        if operation == 1:
            self.operand.store(value | ONE << bit)
        elif operation == 2:
            self.operand.store(value & ~(ONE << bit))
        elif operation == 3:
            self.operand.store(value ^ ONE << bit)
        return DONE

    def _cache_line(self):
        """CLFLUSH, CLFLUSHOPT, CLWB: nothing is cached there; they only check the address."""
        which, repeat = self.instruction.reg & 7, self.instruction.repeat
        if repeat != 0 or which != 7 and not (which == 6 and self.instruction.prefix_66):
            return UNKNOWN
        return self._locate(1, ACCESS_READ)

    # The stack.
    def _stack_width(self):
        """Bytes of the stack pointer that count."""
        if self.context.mode == 64:
            return 8
        attributes = self.context.vcpu.segment(v.SS, v.SEGMENT_ATTRIBUTES)
        return 4 if attributes & BIG != ZERO else 2

    def _push_size(self):
        """64-bit mode has no 32-bit pushes."""
        i = self.instruction
        if i.mode == 64:
            return 2 if i.prefix_66 and not i.rex & 8 else 8
        return i.operand_size

    def _push(self, value):
        size, width = self._push_size(), self._stack_width()
        top = (self.context.register(v.SP, width) - r_uint(size)) & mask(width)
        if self.operand.locate(v.SS, top, size, ACCESS_WRITE) == FAULT:
            return FAULT
        self.operand.store(value)
        self.context.set_register(v.SP, width, top)
        return DONE

    def _push_memory(self):
        self.size = self._push_size()
        if self._locate_beside_stack(self.size, ACCESS_READ) == FAULT:
            return FAULT
        return self._push(self.operand.load())

    def _pop_register(self, number):
        size, width = self._push_size(), self._stack_width()
        top = self.context.register(v.SP, width)
        if self.operand.locate(v.SS, top, size, ACCESS_READ) == FAULT:
            return FAULT
        value = self.operand.load()
        self.context.set_register(v.SP, width, (top + r_uint(size)) & mask(width))
        self.context.set_register(number, size, value)          # POP RSP: what was on the stack counts
        return DONE

    def _pop_memory(self):
        """The operand's address is computed with the stack pointer after the POP."""
        size, width = self._push_size(), self._stack_width()
        before = self.context.register(v.SP, 8)
        top = before & mask(width)
        if self.operand.locate(v.SS, top, size, ACCESS_READ) == FAULT:
            return FAULT
        value = self.operand.load()
        self.context.set_register(v.SP, width, (top + r_uint(size)) & mask(width))
        if self._locate_beside_stack(size, ACCESS_WRITE) == FAULT:
            self.context.set_register(v.SP, 8, before)
            return FAULT
        self.operand.store(value)
        return DONE
