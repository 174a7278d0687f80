"""Moves of vector registers: against the processor that runs the tests, where it has AVX; and what no native run can tell."""
import struct

import pytest
from hypothesis import Phase, given, settings, strategies as st

from hypervisor.spec import cpu, status, vcpu as spec
from hypervisor.vmm import decode as d, emulate
from hypervisor.vmm.bus import Bus
from tests.unit.vmm.native import DATA_BYTES
from tests.unit.vmm.rig import CODE, Rig
from tests.unit.vmm.test_emulate import FRAME, fresh_rig, native

NOWHERE = 0xd0000000
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
NAMES = ['YMM%d_%d' % (n, word) for n in range(16) for word in range(4)]
ONES = (1 << 64) - 1

# SSE's forms: mandatory prefix, opcode, alignment that the processor wants; VEX's pp is the prefix's number here.
PREFIXES = [[], [0x66], [0xf3], [0xf2]]
SSE = [(0, 0x10), (0, 0x11), (1, 0x10), (1, 0x11), (2, 0x10), (2, 0x11), (3, 0x10), (3, 0x11), (0, 0x12), (0, 0x13), (1, 0x12), (1, 0x13),
       (0, 0x16), (0, 0x17), (1, 0x16), (1, 0x17), (0, 0x28), (0, 0x29), (1, 0x28), (1, 0x29), (0, 0x2b), (1, 0x2b), (1, 0x6e), (1, 0x7e),
       (2, 0x7e), (1, 0xd6), (1, 0x6f), (1, 0x7f), (2, 0x6f), (2, 0x7f), (1, 0xe7), (3, 0xf0)]
ALIGNED = [(0, 0x28), (0, 0x29), (1, 0x28), (1, 0x29), (0, 0x2b), (1, 0x2b), (1, 0x6f), (1, 0x7f), (1, 0xe7)]
WHOLE = ALIGNED + [(0, 0x10), (0, 0x11), (1, 0x10), (1, 0x11), (2, 0x6f), (2, 0x7f), (3, 0xf0)]
HALVES = [(0, 0x12), (1, 0x12), (0, 0x16), (1, 0x16)]       # loads, which have a third operand in VEX


def has_avx():
    with open('/proc/cpuinfo') as text:
        return ' avx ' in text.read()


AVX = pytest.mark.skipif(not has_avx(), reason='the processor that runs the tests has no AVX')


def sse(prefix, opcode, reg, wide):
    """The instruction with [RDI]."""
    rex = 0x40 | (4 if reg & 8 else 0) | (8 if wide else 0)
    return bytearray(PREFIXES[prefix] + ([rex] if rex != 0x40 else []) + [0x0f, opcode, (reg & 7) << 3 | 7])


def vex(prefix, opcode, reg, other, wide, w, number=1):
    last = (~other & 15) << 3 | wide << 2 | prefix
    r = 0 if reg & 8 else 0x80
    if number == 1 and not w:
        return bytearray([0xc5, r | last, opcode, (reg & 7) << 3 | 7])
    return bytearray([0xc4, r | 0x60 | number, w << 7 | last, opcode, (reg & 7) << 3 | 7])


def check(code, address, seed):
    vectors = [(seed * (n + 3) * 0x9e3779b97f4a7c15) & ONES for n in range(64)]
    data = bytearray(struct.pack('<Q', seed) * (DATA_BYTES // 8))
    for n in range(DATA_BYTES):
        data[n] ^= n * 7 & 0xff
    there, memory = native.run_vector(code, native.data + address, vectors, data)
    rig = fresh_rig()
    rig.put(FRAME, data)
    rig.state.update(zip(NAMES, vectors))
    rig.state.update(RDI=native.data + address, RFLAGS=0x202)
    text = ''.join('%02x ' % byte for byte in code)
    assert rig.run(code) == emulate.DONE, text
    assert rig.box.state('RIP') == CODE + len(code), text
    assert [rig.box.state(name) for name in NAMES] == there, text
    assert rig.get(FRAME, DATA_BYTES) == memory, text
    assert rig.emulator.dirty() == (spec.GROUP_FLOW if there == vectors and memory != data else spec.GROUP_FLOW | spec.GROUP_VECTOR), text


places = st.sampled_from([1000, 1003, 4080, 4088, 4090, 4095, 4096, 5001])
seeds = st.integers(1, ONES)


@AVX
@settings(max_examples=400, phases=NO_SHRINKING)
@given(form=st.sampled_from(SSE), reg=st.integers(0, 15), wide=st.booleans(), address=places, seed=seeds)
def test_sse_moves_do_what_the_processor_does(form, reg, wide, address, seed):
    if form in ALIGNED:
        address &= ~15
    check(sse(form[0], form[1], reg, wide), address, seed)


@AVX
@settings(max_examples=400, phases=NO_SHRINKING)
@given(form=st.sampled_from(SSE), reg=st.integers(0, 15), other=st.integers(0, 15), wide=st.booleans(), w=st.booleans(), address=places, seed=seeds)
def test_avx_moves_do_what_the_processor_does(form, reg, other, wide, w, address, seed):
    if form in ALIGNED:
        address &= ~31
    if form not in HALVES:
        other = 0
    if form not in WHOLE:
        wide = False
    check(vex(form[0], form[1], reg, other, wide, w), address, seed)


def test_every_form_is_known_and_no_other():
    known = [(prefix, opcode) for prefix in range(4) for opcode in range(256) if opcode not in (0x38, 0x3a)
             if found(bytearray(PREFIXES[prefix] + [0x0f, opcode, 7, 0])) is not None]
    assert sorted(known) == sorted(SSE)
    for code in ('0f 10 c7', '66 0f 38 29 07', '0f 38 2a 07', '66 0f 3a 2a 07 00', 'f3 66 0f 38 2a 07'):
        assert found(bytearray.fromhex(code.decode() if isinstance(code, bytes) else code)) is None, code
    assert found(bytearray([0x66, 0x0f, 0x38, 0x2a, 7])) is not None


def found(code):
    from hypervisor.vmm import vector
    fetched, instruction = d.Code(), d.Instruction()
    for byte in code:
        fetched.add(byte)
    if d.decode(fetched, instruction, 64) != d.OK:
        return None
    return vector.find(instruction)


@AVX
@pytest.mark.parametrize('reg', [0, 9])
def test_movntdqa(reg):
    check(bytearray([0x66] + ([0x44] if reg & 8 else []) + [0x0f, 0x38, 0x2a, (reg & 7) << 3 | 7]), 1008, 77)
    check(vex(1, 0x2a, reg, 0, False, False, 2), 1008, 77)


def flat(text, outcome=emulate.DONE, **state):
    rig = Rig()
    rig.flat_32()
    rig.state.update((name, 0x1111111111111111 * (n % 15 + 1)) for n, name in enumerate(NAMES))
    rig.state['RBX'] = NOWHERE
    rig.state.update(state)
    assert rig.run(bytearray.fromhex(text.decode() if isinstance(text, bytes) else text)) == outcome
    return rig


def words(rig, number):
    return [rig.box.state('YMM%d_%d' % (number, word)) for word in range(4)]


def test_what_lies_beyond_the_memory_reads_as_ones():
    assert words(flat('0f 10 03'), 0) == [ONES, ONES, 0x3333333333333333, 0x4444444444444444]
    assert words(flat('f3 0f 10 03'), 0) == [0xffffffff, 0, 0x3333333333333333, 0x4444444444444444]
    assert words(flat('66 0f 12 03'), 0) == [ONES, 0x2222222222222222, 0x3333333333333333, 0x4444444444444444]
    assert words(flat('c5 fc 10 03'), 0) == [ONES] * 4
    assert words(flat('c5 f8 10 03'), 0) == [ONES, ONES, 0, 0]


def test_an_operand_at_the_memorys_end_is_split_there():
    rig = flat('0f 11 03', RBX=0x3ffff8)
    assert rig.get(0x3ffff8, 8) == b'\x11' * 8
    rig = flat('0f 10 03', RBX=0x3ffff8)
    assert words(rig, 0) == [0, ONES, 0x3333333333333333, 0x4444444444444444]


def test_les_and_lds_are_no_vex_outside_of_64_bit_mode():
    assert flat('c4 03', emulate.UNKNOWN).emulator.instruction.length == 2
    assert flat('c5 43 08', emulate.UNKNOWN).emulator.instruction.length == 3


def test_registers_8_to_15_do_not_exist_outside_of_64_bit_mode():
    """VEX.R and X must be there, B is ignored; vvvv has three bits."""
    assert words(flat('c4 c1 78 10 03'), 0) == [ONES, ONES, 0, 0]
    rig = flat('c4 e1 18 12 03')
    assert words(rig, 0)[:2] == [ONES, words(rig, 4)[1]]
    rig = flat('c4 e1 f9 7e 43 fc', RBX=0x20004)                # VEX.W is ignored: 4 bytes
    assert rig.get(0x20000, 8) == b'\x11' * 4 + b'\0' * 4


@pytest.mark.parametrize('prefix', ['66', 'f2', 'f3', 'f0', '40'])
def test_no_prefix_stands_before_vex(prefix):
    rig = Rig()
    rig.long_mode()
    rig.state.update(RBX=CODE)
    assert rig.run(bytearray.fromhex(u'%s c5 f8 10 03' % prefix)) == emulate.UNKNOWN


def test_a_fault_changes_no_register():
    rig = Rig()
    rig.long_mode()
    rig.state.update(RBX=CODE + 0xff8, YMM0_0=5)
    assert rig.run(bytearray.fromhex(u'0f 10 03')) == emulate.FAULT
    assert (rig.emulator.context.vector, rig.box.state('CR2')) == (cpu.VECTOR_PF, CODE + 0x1000)
    assert rig.emulator.dirty() == spec.GROUP_FLOW


def test_a_kernel_that_gives_no_vectors_ends_in_unknown():
    rig = Rig()
    rig.flat_32()
    rig.state.update(RBX=0x20000)
    rig.put(0x20000, b'\x55' * 16)
    rig.emulator.context.vcpu = Refusing(rig.vcpu)
    assert rig.run(bytearray.fromhex(u'0f 11 03')) == emulate.UNKNOWN
    assert rig.get(0x20000, 16) == b'\x55' * 16


class Refusing(object):
    def __init__(self, vcpu):
        self.vcpu = vcpu

    def read(self, groups):
        return status.BAD_STATE if groups & spec.GROUP_VECTOR else self.vcpu.read(groups)

    def __getattr__(self, name):
        return getattr(self.vcpu, name)


class Register(object):
    """A device of 4096 bytes that remembers how it was accessed."""
    base, size = 0xd0000000, 4096

    def __init__(self):
        from rpython.rlib.rarithmetic import r_uint
        self.base, self.size, self.log = r_uint(self.base), r_uint(self.size), []

    def read(self, offset, size):
        from rpython.rlib.rarithmetic import r_uint
        self.log.append(('read', int(offset), size))
        return r_uint(int(offset) * 0x0101)

    def write(self, offset, size, value):
        self.log.append(('write', int(offset), size, int(value)))


@pytest.mark.parametrize('text, log', [
    ('0f 10 03', [('read', 0x10, 8), ('read', 0x18, 8)]), ('c5 fc 10 03', [('read', at, 8) for at in (0x10, 0x18, 0x20, 0x28)]),
    ('f3 0f 10 03', [('read', 0x10, 4)]), ('66 0f d6 03', [('write', 0x10, 8, 0x1111111111111111)]),
    ('0f 29 03', [('write', 0x10, 8, 0x1111111111111111), ('write', 0x18, 8, 0x2222222222222222)]),
    ('0f 17 03', [('write', 0x10, 8, 0x2222222222222222)]), ('66 0f 7e 03', [('write', 0x10, 4, 0x11111111)])])
def test_a_device_sees_at_most_eight_bytes_at_a_time(text, log):
    rig, device = Rig(), Register()
    rig.flat_32()
    rig.emulator.operand.bus = Bus([rig.port], [device])
    rig.state.update((name, 0x1111111111111111 * (n % 15 + 1)) for n, name in enumerate(NAMES))
    rig.state.update(RBX=NOWHERE + 0x10)
    assert rig.run(bytearray.fromhex(text.decode() if isinstance(text, bytes) else text)) == emulate.DONE
    assert device.log == log
    if text == '0f 10 03':
        assert words(rig, 0)[:2] == [0x1010, 0x1818]


def test_an_operand_that_leaves_the_device_leaves_it():
    """What lies behind its end is nobody's."""
    rig, device = Rig(), Register()
    rig.flat_32()
    rig.emulator.operand.bus = Bus([rig.port], [device])
    device.size = device.size - 0xff0
    rig.state.update(RBX=NOWHERE + 8)
    assert rig.run(bytearray.fromhex(u'0f 10 03')) == emulate.DONE
    assert device.log == [('read', 8, 8)] and words(rig, 0)[:2] == [0x0808, ONES]
