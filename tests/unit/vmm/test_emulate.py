"""The emulator against the processor that the tests run on: same instruction, same registers, flags and memory."""
import struct

from hypothesis import Phase, given, settings, strategies as st

from hypervisor.hw import task
from hypervisor.spec import cpu, exit as kinds
from hypervisor.vmm import emulate
from tests.unit.vmm.native import DATA_BYTES, Native
from tests.unit.vmm.rig import CODE, GPR, Rig

FRAME = 0x20000                     # gpa of the native machine's data
STATUS = cpu.RFLAGS_CF | cpu.RFLAGS_PF | cpu.RFLAGS_AF | cpu.RFLAGS_ZF | cpu.RFLAGS_SF | cpu.RFLAGS_OF
ALL_BUT_AF = STATUS & ~cpu.RFLAGS_AF
CARRY_AND_ZERO = cpu.RFLAGS_CF | cpu.RFLAGS_ZF
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9 = range(10)
native = Native()
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)      # a run takes 20 ms, and the message names the bytes

# (opcode bytes, value of ModRM's reg field or None for any, bytes of immediate, flags that the manual defines)
FORMS = []
for _operation in range(8):
    for _opcode in range(4):
        FORMS.append(([_operation << 3 | _opcode], None, 0, STATUS if _operation not in (1, 4, 6) else ALL_BUT_AF))
    for _opcode, _immediate in ((0x80, 1), (0x81, 'z'), (0x83, 1)):
        FORMS.append(([_opcode], _operation, _immediate, STATUS if _operation not in (1, 4, 6) else ALL_BUT_AF))
FORMS += [([_opcode], None, 0, ALL_BUT_AF) for _opcode in (0x84, 0x85)]
FORMS += [([_opcode], None, 0, STATUS) for _opcode in (0x63, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b)]
FORMS += [([0xc6], 0, 1, STATUS), ([0xc7], 0, 'z', STATUS)]
FORMS += [([0xf6], 0, 1, ALL_BUT_AF), ([0xf7], 0, 'z', ALL_BUT_AF)]
FORMS += [([_opcode], _which, 0, STATUS) for _opcode in (0xf6, 0xf7) for _which in (2, 3)]
FORMS += [([_opcode], _which, 0, STATUS) for _opcode in (0xfe, 0xff) for _which in (0, 1)]
FORMS += [([0xff], 6, 0, STATUS), ([0x8f], 0, 0, STATUS)]
FORMS += [([0x0f, 0x40 + _n], None, 0, STATUS) for _n in range(16)]
FORMS += [([0x0f, 0x90 + _n], None, 0, STATUS) for _n in range(16)]
FORMS += [([0x0f, _n], None, 0, STATUS) for _n in (0xb0, 0xb1, 0xb6, 0xb7, 0xbe, 0xbf, 0xc0, 0xc1, 0xc3)]
FORMS += [([0x0f, 0xba], _which, 1, CARRY_AND_ZERO) for _which in (4, 5, 6, 7)]
FORMS += [([0x0f, 0xc7], 1, 0, STATUS)]
SHIFTS = [([_opcode], _which, 1 if _opcode < 0xd0 else 0, 0) for _opcode in (0xc0, 0xc1, 0xd0, 0xd1, 0xd2, 0xd3) for _which in range(8)]
BITS = [([0x0f, _n], None, 0, CARRY_AND_ZERO) for _n in (0xa3, 0xab, 0xb3, 0xbb)]

# Kind and flags of the exit that the emulator answers: the state is to be fetched, it has come, the operand's place as well.
EXITS = [(kinds.IO, 0), (kinds.MEMORY, kinds.ACCESS_WRITE), (kinds.MEMORY, kinds.ACCESS_READ | kinds.ACCESS_OPERAND),
         (kinds.MEMORY, kinds.ACCESS_WRITE | kinds.ACCESS_OPERAND)]

words = st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from([0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fffffff, 0x80000000,
                                                                    (1 << 63) - 1, 1 << 63, (1 << 64) - 1]))


class Case(object):
    """Everything that one run starts from."""

    def __init__(self, draw, forms):
        opcode, which, immediate, self.defined = draw(st.sampled_from(forms))
        self.opcode, self.which = opcode, which
        prefix = bytearray(draw(st.sampled_from([b'', b'', b'\x66'])))
        rex = draw(st.sampled_from([0, 0, 0x40, 0x48, 0x44, 0x4c, 0x41, 0x49]))
        if opcode == [0x0f, 0xc7]:
            rex &= ~8
        if opcode == [0x0f, 0xc3]:
            prefix = bytearray()
        self.size = 1 if not opcode[-1] & 1 else 8 if rex & 8 else 2 if prefix else 4
        if opcode[:1] == [0x0f] and (0x40 <= opcode[1] < 0x50 or opcode[1] == 0xba):
            self.size = 8 if rex & 8 else 2 if prefix else 4
        reg = draw(st.integers(0, 7)) if which is None else which
        self.reg = reg | (8 if rex & 4 else 0)
        # [RDI], [RDI + 8 bits], [RDI + 32 bits], [RDI + RAX * scale + 8 bits]; with REX.B: R15 in RDI's place
        shape = draw(st.integers(0, 3))
        displacement = draw(st.integers(-100, 100))
        modrm = [[reg << 3 | 7], [0x47 | reg << 3, displacement & 0xff],
                 [0x87 | reg << 3] + list(bytearray(struct.pack('<i', displacement))),
                 [0x44 | reg << 3, draw(st.integers(0, 3)) << 6 | 0 << 3 | 7, displacement & 0xff]][shape]
        tail = []
        if immediate:
            count = (2 if self.size == 2 else 4) if immediate == 'z' else immediate
            tail = list(bytearray(draw(st.binary(min_size=count, max_size=count))))
        self.immediate = tail
        self.code = bytearray(prefix + bytearray([rex] if rex else []) + bytearray(opcode + modrm + tail))
        self.registers = [draw(words) for _ in range(16)]
        middle = native.data + draw(st.sampled_from([1000, 4090, 4096, 4093, 5000]))
        self.registers[RDI] = self.registers[15] = middle
        if shape == 3:
            self.registers[RAX] = draw(st.integers(-20, 20)) & ((1 << 64) - 1)
            middle += (self.registers[RAX] ^ 1 << 63) - (1 << 63) << (self.code[-len(tail) - 2] >> 6)
        self.operand = middle + (displacement if shape else 0) - native.data        # from the start of the data
        self.exit = draw(st.sampled_from(EXITS))
        self.registers[RSP] = native.data + 6000
        self.flags = 0x202 | draw(st.integers(0, STATUS)) & STATUS
        self.data = bytearray(draw(st.binary(min_size=64, max_size=64)) * (DATA_BYTES // 64))


class Cache(object):
    rig = None


def fresh_rig():
    """A rig whose page tables show the native machine's data. Making one takes longer than using it."""
    if Cache.rig is None or task.fake.kernel is not Cache.rig.box:
        rig = Cache.rig = Rig()
        rig.long_mode()
        for page in range(DATA_BYTES // 4096):
            rig.map_page(native.data + 4096 * page, FRAME + 4096 * page)
    return Cache.rig


def emulated(case):
    rig = fresh_rig()
    rig.put(FRAME, case.data)
    rig.state.update(zip(GPR, case.registers))
    rig.state['RFLAGS'] = case.flags
    kind, flags = case.exit
    outcome = rig.run(case.code, kind=kind, SELECTOR=FRAME + case.operand, FLAGS=flags)
    return rig, outcome


def check(case, defined):
    registers, flags, data = native.run(case.code, case.registers, case.flags, case.data)
    rig, outcome = emulated(case)
    text = ''.join('%02x ' % byte for byte in case.code)
    assert outcome == emulate.DONE, text
    assert rig.box.state('RIP') == CODE + len(case.code), text
    assert rig.registers() == registers, text
    assert rig.given_back(case.registers) == registers, text
    assert rig.box.state('RFLAGS') & defined == flags & defined, text
    assert rig.get(FRAME, DATA_BYTES) == data, text


@settings(max_examples=400, phases=NO_SHRINKING)
@given(st.data())
def test_an_instruction_does_what_the_processor_does(data):
    case = Case(data.draw, FORMS)
    check(case, case.defined)


@settings(max_examples=150, phases=NO_SHRINKING)
@given(st.data())
def test_shifts_do_what_the_processor_does(data):
    case = Case(data.draw, SHIFTS)
    count = case.immediate[0] if case.immediate else 1 if case.opcode[0] < 0xd2 else case.registers[RCX] & 0xff
    count &= 63 if case.size == 8 else 31
    defined = STATUS & ~cpu.RFLAGS_AF
    if case.which < 4:
        defined = cpu.RFLAGS_CF
    if count == 0:
        defined = STATUS
    elif count == 1:
        defined |= cpu.RFLAGS_OF
    else:
        defined &= ~cpu.RFLAGS_OF
    if count > 8 * case.size and case.which >= 4 or case.which in (2, 3) and count % (8 * case.size + 1) == 0:
        defined &= ~cpu.RFLAGS_CF
    check(case, defined)


@settings(max_examples=80, phases=NO_SHRINKING)
@given(st.data(), st.integers(-4000, 4000))
def test_bit_strings_reach_both_ways_as_on_the_processor(data, number):
    case = Case(data.draw, BITS)
    if case.reg in (RAX, RSP, RDI, 15):
        return                      # these hold addresses here
    case.registers[case.reg] = number & ((1 << 64) - 1)
    check(case, case.defined)
