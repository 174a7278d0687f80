"""The VMM from its boot page to the end of its guest."""
import pytest

from hypervisor.spec import boot, call, ending, exit, layout, vcpu
from tests.unit.vmm.box import MIB, PAGE, Box, exits, in_, load64, out, run, store64, then


def test_flat_guest_starts_in_real_mode_at_its_load_address():
    box = Box(image=b'\xeb\xfe' * 100, load_address=0x7c00)
    seen = {}

    def look(box):
        seen.update((name, box.state(name)) for name in ('RIP', 'CS_SELECTOR', 'CS_BASE', 'CS_LIMIT', 'CR0', 'RFLAGS', 'EFER'))
        seen['dirty'] = box.answer('DIRTY')
    box.script = [then(look, out(0xf4, 7))]
    assert run(box) == (ending.EXITED, 7)
    assert seen['RIP'] == 0x7c00 and seen['CS_SELECTOR'] == 0 and seen['CS_BASE'] == 0 and seen['CS_LIMIT'] == 0xffff
    assert seen['CR0'] == 0x10 and seen['RFLAGS'] == 2 and seen['EFER'] == 0
    assert seen['dirty'] == vcpu.GROUPS & ~vcpu.GROUP_VECTOR
    assert box.guest(0x7c00, 200) == b'\xeb\xfe' * 100


def test_guest_sees_its_memory_and_nothing_in_the_hole():
    """The firmware's area at the hole's end is memory, so that a search through it does not exit."""
    box = Box(ram=4 * MIB)
    box.script = [out(0xf4, 0)]
    run(box)
    guest = sorted(page for is_guest, page in box.mapped if is_guest)
    assert guest == list(range(0xa0)) + list(range(0xc0, 4 * MIB // PAGE))
    for page in guest:
        assert box.mapped[call.GUEST, page] == (call.SLOT_RAM, page, 15)


def test_pic_reaches_the_vcpu_before_the_guest_has_done_anything():
    """The virtual wire of a PC's firmware: LINT0 is ExtINT, LINT1 NMI, neither masked; after a reset as well."""
    box, seen = Box(ram=4 * MIB, restarts=1), []

    def look(box):
        seen.append((box.apic[0xf0], box.apic[0x350], box.apic[0x360]))
        box.apic[0xf0], box.apic[0x350], box.apic[0x360] = 0xff, 0x10000, 0x10000
    box.script = [then(look, out(0xcf9, 6)), then(look, out(0xf4, 0))]
    assert run(box) == (ending.EXITED, 0)
    assert seen == [(0x1ff, 0x700, 0x400)] * 2


def test_vcpu_starts_with_nothing_pending():
    box = Box()
    seen = []
    box.script = [then(lambda box: seen.append((box.extint, list(box.messages))), out(0xf4, 0))]
    run(box)
    assert seen == [(None, [])]


def test_output_comes_out_by_lines():
    box = Box()
    lines = []

    def look(box):
        lines.append(bytes(box.output))
    box.script = [then(look, out(0x3f8, ord(c))) for c in 'one\ntwo'] + [then(look, out(0xf4, 0))]
    assert run(box) == (ending.EXITED, 0)
    assert lines == [b''] * 4 + [b'one\n'] * 4
    assert box.output == b'one\ntwo'


def test_unfinished_line_comes_out_after_five_milliseconds():
    box = Box(tsc_khz=1000)

    def late(box):
        box.now += 6000
        return call.REASON_DEADLINE
    seen = []
    box.script = [out(0x3f8, ord('?')), late, then(lambda box: seen.append(bytes(box.output)), out(0xf4, 0))]
    run(box)
    assert seen == [b'?']


def test_halt_shutdown_and_power_off_end_the_vm():
    box = Box()
    box.script = [exits(exit.HLT)]
    assert run(box) == (ending.HALTED, 0)
    box = Box()
    box.script = [exits(exit.SHUTDOWN)]
    assert run(box) == (ending.TRIPLE_FAULT, 0)
    box = Box()
    box.script = [out(0x604, 0x3400, 2), out(0x604, 0x2000, 2)]
    assert run(box) == (ending.POWERED_OFF, 0)


def test_exit_port_does_nothing_unless_allowed():
    box = Box(flags=0)
    box.script = [out(0xf4, 1), exits(exit.HLT)]
    assert run(box) == (ending.HALTED, 0)


def test_what_waits_comes_out_before_the_end_even_when_the_ring_is_full():
    box = Box()
    text = b'x' * 300

    def make_room(box):
        box.ring_room = 200
        box.exit(exit.MEMORY, FLAGS=exit.ACCESS_EXECUTE)
    box.ring_room = 0
    box.script = [out(0x3f8, ord('x')) for _ in text] + [exits(exit.HLT)] + [make_room] * 2
    assert run(box) == (ending.HALTED, 0)
    assert box.output == text


def test_full_console_loses_nothing():
    box = Box()
    box.ring_room = 0
    sent = []

    def guest(byte):
        """An OUT that is executed again as long as the VMM says so."""
        def step(box):
            if box.runs > 1 and sent and box.answer('ACTION') == vcpu.RESUME:
                box.script.insert(0, step)
                box.ring_room += 100
                return out(0x3f8, sent[-1])(box)
            sent.append(byte)
            return out(0x3f8, byte)(box)
        return step
    data = bytearray(n % 251 for n in range(3000))
    box.script = [guest(byte) for byte in data]

    def end(box):
        if box.answer('ACTION') == vcpu.RESUME:
            box.script.insert(0, end)
            box.ring_room += 5000
            return out(0x3f8, sent[-1])(box)
        box.ring_room += 5000
        return out(0xf4, 0)(box)
    box.script.append(end)
    assert run(box) == (ending.EXITED, 0)
    assert box.output == data


def test_reset_starts_again_with_clear_memory_until_it_is_too_often():
    box = Box(restarts=1, image=b'\xf4' * 10)

    def dirty(box):
        box.put_guest(0x100000, b'rubbish')
        box.put_guest(0x7c00, b'rubbish')
        return out(0xcf9, 6)(box)

    def again(box):
        assert box.resets[-1:] == [call.SLOT_VCPU] and box.answer('ACTION') == vcpu.RESUME
        assert box.state('RIP') == 0x7c00
        assert box.guest(0x100000, 7) == b'\0' * 7 and box.guest(0x7c00, 11) == b'\xf4' * 10 + b'\0'
        return out(0x64, 0xfe)(box)
    box.script = [dirty, again]
    assert run(box) == (ending.RESET, 0)


def test_bad_boot_page_is_a_code():
    for field, value in (('MAGIC', 1), ('VERSION', 2), ('RAM_BYTES', 0), ('RAM_BYTES', 3 * MIB), ('RAM_BYTES', 1 << 40),
                         ('MODULE_COUNT', 5), ('TSC_KHZ', 0), ('VCPUS', 0), ('VCPUS', 17), ('VCPUS', 1 << 63)):
        box = Box()
        store64(layout.BOOT_PAGE + boot.VMM[field], value)
        assert run(box) == (ending.VMM_GAVE_UP, 1), field


def test_unclaimed_ports_read_all_ones():
    for size in (1, 2, 4):
        box = Box()
        seen = []
        box.script = [in_(0xe0, size), then(lambda box: seen.append(box.answer('RESULT')), out(0xf4, 0))]
        run(box)
        assert seen == [(1 << (8 * size)) - 1]


@pytest.mark.parametrize('last', [2, 15])
def test_other_vcpus_wait_with_their_cpuid_tables_and_exits_of_each_are_answered_in_its_own_page(last):
    box, seen = Box(vcpus=last + 1), []

    def field(index, group, name):
        return load64(layout.VCPU_PAGE + PAGE * index + group[name])

    def second(box):
        seen.extend([field(0, vcpu.ANSWER, 'DIRTY'), field(1, vcpu.ANSWER, 'DIRTY')])
        at = layout.VCPU_PAGE + last * PAGE
        for name, value in (('KIND', exit.IO), ('SELECTOR', 0xe0), ('SIZE', 2), ('FLAGS', exit.IO_IN)):
            store64(at + vcpu.EXIT[name], value)
        return call.REASON_EXIT | last << call.REASON_VCPU_SHIFT

    def first(box):
        seen.extend([field(last, vcpu.ANSWER, 'ACTION'), field(last, vcpu.ANSWER, 'RESULT'), field(0, vcpu.ANSWER, 'RESULT')])
        return out(0xf4, 0)(box)
    box.script = [second, first]
    assert run(box) == (ending.EXITED, 0)
    others = [call.SLOT_VCPU + n for n in range(1, last + 1)]
    assert box.slots == others + [call.SLOT_VCPU, others[-1]]
    assert seen == [vcpu.GROUPS & ~vcpu.GROUP_VECTOR, vcpu.GROUP_CPUID | vcpu.GROUP_TIME, vcpu.COMPLETE, 0xffff, 0]


def test_reset_stops_all_vcpus_and_starts_the_first_again():
    box = Box(restarts=1, vcpus=2)
    box.script = [out(0xcf9, 6), out(0xf4, 0)]
    assert run(box) == (ending.EXITED, 0)
    both = [call.SLOT_VCPU, call.SLOT_VCPU + 1]
    assert box.resets == both and box.slots == [both[1], both[0], both[0]]
