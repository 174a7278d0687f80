"""An exit that tells where the operand is: the emulator goes by it where that is what a walk would find, and nowhere else."""
import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import cpu, exit, vcpu
from hypervisor.vmm import emulate
from hypervisor.vmm.bus import Bus, Device, MemoryDevice
from tests.unit.vmm.rig import CODE, Rig

DEVICE, ELSEWHERE = 0xd0000000, 0xd0001000
GVA = 0x7f0000000000                # of a page that the guest's tables do not show, unless a test maps it
READ, WRITE, OPERAND = exit.ACCESS_READ, exit.ACCESS_WRITE, exit.ACCESS_OPERAND


class Pages(MemoryDevice):
    """Two pages of a device, which say where they were read."""

    def __init__(self):
        MemoryDevice.__init__(self, r_uint(DEVICE), r_uint(0x2000))
        self.written = []

    def read(self, offset, size):
        return offset

    def write(self, offset, size, value):
        self.written.append((int(offset), size, int(value)))


NOTHING = Device(0, 0, True)            # at no port


def told(text, gpa=DEVICE + 0x10, flags=WRITE | OPERAND, shown=None, kind=exit.MEMORY, rbx=GVA + 0x10, bits=7, brought=0, **state):
    """Run an instruction with RBX = rbx. shown: what the guest's tables show at GVA meanwhile. Returns (rig, device, outcome)."""
    rig, device = Rig(), Pages()
    rig.emulator.operand.bus = rig.emulator.strings.target.bus = Bus([NOTHING], [device])
    rig.long_mode()
    rig.state.update(RBX=rbx, RAX=0x77, RSP=CODE + 0x800)
    rig.state.update(state)
    if shown is not None:
        rig.map_page(GVA, shown, bits)
    return rig, device, rig.run(bytearray.fromhex(text.decode() if isinstance(text, bytes) else text), kind=kind, SELECTOR=gpa, FLAGS=flags,
                                BROUGHT=brought)


@pytest.mark.parametrize('text, flags', [('8b 03', READ), ('8b 03', WRITE), ('8b 03', READ | WRITE), ('89 03', WRITE)])
def test_the_place_is_the_exits(text, flags):
    rig, device, outcome = told(text, flags=flags | OPERAND)
    assert outcome == emulate.DONE and rig.box.state('RIP') == CODE + 2
    assert device.written == [(0x10, 4, 0x77)] if text == '89 03' else rig.box.state('RAX') == 0x10
    assert rig.box.reads == []


@pytest.mark.parametrize('why, text, fields', [
    ('not an operand: an entry of a page table may lie there', '8b 03', {'flags': READ}),
    ('the tables have allowed reading only', '89 03', {'flags': READ | OPERAND}),
    ('another instruction: it goes somewhere else', '8b 03', {'gpa': DEVICE + 0x14}),
    ('it goes on in the next page', '8b 03', {'gpa': DEVICE + 0xffd, 'rbx': GVA + 0xffd}),
    ('not an access to memory', '8b 03', {'kind': exit.IO}),
    ('two operands', 'ff 33', {}), ('two operands', '8f 03', {}), ('two operands', 'a4', {}),
])
def test_all_else_is_a_walk(why, text, fields):
    """... and the page that it comes to is not there."""
    rig, device, outcome = told(text, **fields)
    if text == 'a4':
        assert outcome == emulate.FAULT
        return
    assert outcome == emulate.FAULT and rig.emulator.context.vector == cpu.VECTOR_PF and rig.box.state('CR2') >> 12 == GVA >> 12


def test_a_walk_finds_what_the_tables_say():
    rig, _, outcome = told('8b 03', gpa=DEVICE + 0x14, shown=ELSEWHERE)
    assert outcome == emulate.DONE and rig.box.state('RAX') == 0x1010
    rig, device, outcome = told('89 03', flags=READ | OPERAND, shown=ELSEWHERE, bits=5)
    assert outcome == emulate.FAULT and device.written == []        # CR0.WP


def test_the_segments_base_counts():
    """An exit about the same offset without it is about another access."""
    rig, _, outcome = told('65 8b 03', shown=DEVICE, GS_BASE=4)
    assert outcome == emulate.DONE and rig.box.state('RAX') == 0x14
    rig, _, outcome = told('65 8b 03', GS_BASE=0x7f0000000000, rbx=0x10)
    assert outcome == emulate.DONE and rig.box.state('RAX') == 0x10


def test_what_the_segment_forbids_is_forbidden():
    rig, _, outcome = told('8b 03', rbx=0x800000000010)
    assert outcome == emulate.FAULT and rig.emulator.context.vector == cpu.VECTOR_GP


@pytest.mark.parametrize('text, groups', [('8b 03', 0), ('65 8b 03', vcpu.GROUP_SEGMENT), ('8c 1b', vcpu.GROUP_SEGMENT)])
def test_64_bit_code_wants_segments_for_themselves_fs_and_gs_only(text, groups):
    rig = Rig()
    rig.long_mode()
    rig.map_page(0x20000, 0x20000)
    rig.state.update(RBX=0x1ff00, GS_BASE=0x100, DS_BASE=0x5000, DS_SELECTOR=0x33)
    rig.map_page(0x1f000, 0x21000)
    rig.ram.store32(r_uint(0x20000), r_uint(0x1234))
    assert rig.run(bytearray.fromhex(text.decode() if isinstance(text, bytes) else text), kind=exit.MEMORY, FLAGS=WRITE) == emulate.DONE
    assert rig.box.reads == [groups] * bool(groups)
    if groups:
        assert rig.box.state('RAX') == 0x1234 if '65' in text else rig.get(0x21f00, 2) == b'\x33\0'


def test_other_code_has_its_segments():
    rig = Rig()
    rig.flat_32()
    rig.state.update(RBX=0x10, DS_BASE=0x20000)
    rig.ram.store32(r_uint(0x20010), r_uint(0x1234))
    assert rig.run(bytearray.fromhex(u'8b 03'), kind=exit.MEMORY) == emulate.DONE
    assert rig.box.state('RAX') == 0x1234 and rig.box.reads == [vcpu.GROUP_SEGMENT]


@pytest.mark.parametrize('text, dirty', [('89 03', vcpu.GROUP_FLOW), ('8b 0b', vcpu.GROUP_FLOW | vcpu.REGISTER | 1 << vcpu.REGISTER_SHIFT),
                                         ('44 8b 3b', vcpu.GROUP_FLOW | vcpu.REGISTER | 15 << vcpu.REGISTER_SHIFT),
                                         ('0f c7 0b', vcpu.GROUP_FLOW | vcpu.GROUP_GPR)])
def test_only_what_has_changed_is_given_back(text, dirty):
    rig, _, outcome = told(text)
    assert outcome == emulate.DONE and rig.emulator.dirty() == dirty


BROUGHT = READ | OPERAND | exit.ACCESS_BROUGHT
VALUE = 0x89abcdef


@pytest.mark.parametrize('text, rax', [('8b 03', VALUE), ('48 8b 03', VALUE), ('8a 03', 0xef), ('66 8b 03', 0xcdef), ('0f be 03', 0xffffffef), ('03 03', VALUE + 0x77),
                                       ('0f b7 03', 0xcdef), ('a1 10 00 00 00 00 7f 00 00', VALUE)])
def test_what_the_exit_has_brought_is_loaded(text, rax):
    rig, device, outcome = told(text, flags=BROUGHT, brought=VALUE)
    assert outcome == emulate.DONE and rig.box.state('RAX') == rax


def test_what_the_exit_has_brought_is_for_one_load():
    rig, device, outcome = told('8b 03', flags=BROUGHT, brought=VALUE)
    assert rig.emulator.operand.load() == 0x10


@pytest.mark.parametrize('why, text, fields, name, value', [
    ('another instruction: it goes somewhere else', '8b 03', {'gpa': DEVICE + 0x14}, 'RAX', 0x10),
    ('another instruction, which writes too', '87 03', {}, 'RAX', 0x10), ('another instruction, which writes too', '0f c1 03', {}, 'RAX', 0x10),
    ('a string', 'ad', {'RSI': GVA + 0x10}, 'RAX', 0x10), ('a string, twice', 'a7', {'RSI': GVA + 0x10, 'RDI': GVA + 0x10}, 'RFLAGS', 0x46),
    ('a part of it', '0f 10 03', {}, 'YMM0_0', 0x10)])
def test_what_the_exit_has_brought_is_nobody_elses(why, text, fields, name, value):
    rig, device, outcome = told(text, flags=BROUGHT, brought=VALUE, shown=DEVICE, **fields)
    assert outcome == emulate.DONE and rig.box.state(name) == value


def test_what_the_exit_has_brought_is_nothing_for_two_pages():
    rig, device, outcome = told('8b 03', flags=BROUGHT, brought=VALUE, shown=DEVICE, gpa=DEVICE + 0xffd, rbx=GVA + 0xffd)
    assert outcome == emulate.FAULT and rig.box.state('CR2') == GVA + 0x1000


@pytest.mark.parametrize('text, state', [('8b 03', {}), ('ad', {'RSI': GVA + 0x10}), ('0f a3 03', {'RAX': 4}), ('58', {'RSP': GVA + 0x10})])
def test_what_an_exit_has_brought_is_gone_with_the_next(text, state):
    rig, device, _ = told('0f ae 3b', flags=BROUGHT, brought=VALUE, shown=DEVICE, **state)         # CLFLUSH loads nothing
    text = text.decode() if isinstance(text, bytes) else text
    assert rig.run(bytearray.fromhex(text), kind=exit.MEMORY, SELECTOR=DEVICE + 0x10, FLAGS=READ | OPERAND) == emulate.DONE
    assert rig.box.state('RFLAGS') == 3 if text == '0f a3 03' else rig.box.state('RAX') == 0x10
