"""Loading images: what a boot loader must do, and what it must refuse."""
import struct

import pytest
from hypothesis import given, settings, strategies as st

from hypervisor.spec import boot, ending, vcpu
from hypervisor.vmm.load import refusal
from tests.unit.vmm.box import MIB, Box, out, run, then

MAGIC = 0x1badb002
ENTRY = 0x100010


def header(flags=0, addresses=()):
    return struct.pack('<3I', MAGIC, flags, -(MAGIC + flags) & 0xffffffff) + struct.pack('<%dI' % len(addresses), *addresses)


def elf(segments, entry=ENTRY, wide=False, machine=3, body=b'', phnum=None, phentsize=None, phoff=None, flags=0):
    """segments: (offset, vaddr, paddr, filesz, memsz[, type]). The multiboot header lies right behind the program headers."""
    size, count = (56 if wide else 32), len(segments) if phnum is None else phnum
    start = 64 if wide else 52
    ident = b'\x7fELF' + bytes(bytearray([2 if wide else 1, 1, 1])) + b'\0' * 9
    phoff = start if phoff is None else phoff
    phentsize = size if phentsize is None else phentsize
    if wide:
        data = ident + struct.pack('<HHIQQQIHHHHHH', 2, machine, 1, entry, phoff, 0, 0, 64, phentsize, count, 0, 0, 0)
    else:
        data = ident + struct.pack('<HHIIIIIHHHHHH', 2, machine, 1, entry, phoff, 0, 0, 52, phentsize, count, 0, 0, 0)
    for segment in segments:
        offset, vaddr, paddr, filesz, memsz = segment[:5]
        kind = segment[5] if len(segment) > 5 else 1
        if wide:
            data += struct.pack('<IIQQQQQQ', kind, 7, offset, vaddr, paddr, filesz, memsz, 4096)
        else:
            data += struct.pack('<8I', kind, offset, vaddr, paddr, filesz, memsz, 7, 4096)
    data += b'\0' * (-len(data) % 4) + header(flags)
    return data + b'\0' * (0x400 - len(data)) + body


def refused(image, kind=boot.IMAGE_MULTIBOOT, **options):
    """Boot an image that must be refused. Returns the code; the console must have one sentence."""
    box = Box(image=image, kind=kind, **options)
    how, code = run(box)
    assert how == ending.BAD_IMAGE
    assert box.output.startswith(b'vmm: cannot boot: ') and box.output.endswith(b'\n') and box.output.count(b'\n') == 1
    assert b'%' not in box.output
    return code


def started(image, **options):
    """Boot an image that must run. Returns the box, with the state that the guest started in as box.start."""
    box = Box(image=image, kind=boot.IMAGE_MULTIBOOT, **options)
    box.start = {}

    def look(box):
        box.start = dict((name, box.state(name)) for name in vcpu.STATE if name != 'END')
    box.script = [then(look, out(0xf4, 0))]
    assert run(box) == (ending.EXITED, 0)
    return box


def words(box, gpa, count):
    return struct.unpack('<%dI' % count, box.guest(gpa, 4 * count))


def string(box, gpa):
    return box.guest(gpa, 4096).split(b'\0')[0]


def test_elf32_starts_as_the_specification_says():
    box = started(elf([(0x400, 0x100000, 0x100000, 5, 0x1000)], body=b'hello'))
    start = box.start
    assert start['RIP'] == ENTRY and start['RAX'] == 0x2badb002
    assert start['CR0'] & 0x80000001 == 1 and start['RFLAGS'] == 2
    assert (start['CS_BASE'], start['CS_LIMIT'], start['CS_ATTRIBUTES'] & 0xfff) == (0, 0xffffffff, 0xc9b)
    for name in ('DS', 'ES', 'FS', 'GS', 'SS'):
        assert (start[name + '_BASE'], start[name + '_LIMIT'], start[name + '_ATTRIBUTES'] & 0xfff) == (0, 0xffffffff, 0xc93)
    assert box.guest(0x100000, 6) == b'hello\0'


def test_elf64_and_virtual_entry_point():
    high = 0xffffffff80100000
    box = started(elf([(0x400, high, 0x200000, 4, 4)], entry=high + 2, wide=True, machine=62, body=b'code'))
    assert box.start['RIP'] == 0x200002 and box.guest(0x200000, 4) == b'code'


def test_information_structure_is_whole():
    box = started(elf([(0x400, 0x100000, 0x100000, 5, 0x1000)], body=b'hello'), ram=8 * MIB, command_line=b'a=1 b=2',
                  modules=[(b'M' * 5000, b'first one'), (b'N', b'')])
    info = words(box, box.start['RBX'], 17)
    assert info[0] == 0x24d
    assert info[1:3] == (640, 7 * 1024)
    assert string(box, info[4]) == b'a=1 b=2'
    assert string(box, info[16]) == b'Bulkhead'
    first, second = words(box, info[6], 8)[:4], words(box, info[6], 8)[4:]
    assert info[5] == 2
    assert first[0] % 4096 == 0 and first[1] - first[0] == 5000 and box.guest(first[0], 5001) == b'M' * 5000 + b'\0'
    assert string(box, first[2]) == b'first one' and string(box, second[2]) == b''
    assert second[0] % 4096 == 0 and second[0] >= first[1] and box.guest(second[0], 2) == b'N\0'
    assert first[0] >= 0x101000
    memory = box.guest(info[12], info[11])
    assert info[11] == 48
    assert struct.unpack('<IQQI', memory[:24]) == (20, 0, 0xa0000, 1)
    assert struct.unpack('<IQQI', memory[24:]) == (20, 0x100000, 7 * MIB, 1)


def test_information_and_modules_stay_clear_of_the_program():
    low = (0x400, 0x8000, 0x8000, 0, 0x10000)
    program = (0x400, 0x100000, 0x100000, 5, 0x2ff000)
    box = started(elf([low, program], body=b'hello'), modules=[(b'M', b'')])
    assert box.start['RBX'] >= 0x18000
    module = words(box, words(box, box.start['RBX'], 17)[6], 1)[0]
    assert module >= 0x3ff000


def test_modules_lie_above_the_program_where_there_is_room():
    segments = [(0x400, 0x100000, 0x100000, 5, 5), (0x400, 0x300000, 0x300000, 5, 5)]
    for size, place in ((0x1000, 0x301000), (0x100000, 0x101000)):
        box = started(elf(segments, body=b'hello'), modules=[(b'M' * size, b'')])
        assert words(box, words(box, box.start['RBX'], 17)[6], 1)[0] == place


def test_address_fields_place_the_image():
    at = 8
    text = b'\x90' * at + header(1 << 16, [0x100000 + at, 0x100000, 0, 0, 0x100002]) + b'tail'
    box = started(text)
    assert box.start['RIP'] == 0x100002 and box.guest(0x100000, len(text) + 1) == text + b'\0'
    # The load address may begin behind the start of the file, and end before its end.
    text = b'\x90' * at + header(1 << 16, [0x200000, 0x200000, 0x200020, 0x201000, 0x200004]) + b'tail' * 4
    box = started(text)
    assert box.guest(0x200000, 0x21) == text[at:at + 0x20] + b'\0'


R = refusal
BODY = b'x' * 64


@pytest.mark.parametrize('code, image', [
    (R.NO_HEADER, b''), (R.NO_HEADER, b'\0' * 20000), (R.NO_HEADER, header()[:8]), (R.NO_HEADER, b'\0' * 8184 + header()),
    (R.NO_HEADER, b'\0\0' + header()), (R.NO_HEADER, header()[:8] + b'\1\2\3\4'),
    (R.WANTS_UNKNOWN, header(4)), (R.WANTS_UNKNOWN, header(0x8000)),
    (R.NO_HEADER, header(1 << 16)),
    (R.HEADER_BEFORE_LOAD, header(1 << 16, [0x100000, 0x100001, 0, 0, 0x100000])),
    (R.LOAD_BEFORE_FILE, header(1 << 16, [0x100001, 0x100000, 0, 0, 0x100000])),
    (R.LOAD_END_BEFORE_START, header(1 << 16, [0x100000, 0x100000, 0xfffff, 0, 0x100000])),
    (R.LOAD_BEYOND_FILE, header(1 << 16, [0x100000, 0x100000, 0x100021, 0, 0x100000])),
    (R.BSS_BEFORE_END, header(1 << 16, [0x100000, 0x100000, 0, 0x10001f, 0x100000])),
    (R.LOAD_LEAVES_RAM, header(1 << 16, [0x9fff0, 0x9fff0, 0, 0, 0x9fff0])),
    (R.LOAD_LEAVES_RAM, header(1 << 16, [0x100000, 0x100000, 0, 0x400001, 0x100000])),
    (R.LOAD_LEAVES_RAM, header(1 << 16, [0xfffffff0, 0xfffffff0, 0, 0, 0x100000])),
    (R.ENTRY_OUTSIDE, header(1 << 16, [0x100000, 0x100000, 0, 0, 0x400000])),
    (R.ENTRY_OUTSIDE, header(1 << 16, [0x100000, 0x100000, 0, 0, 0xa0000])),
    (R.NOT_ELF, header() + b'\0' * 100),
    (R.ELF_WRONG_MACHINE, elf([(0x400, 0, 0x100000, 4, 4)], machine=40, body=BODY)),
    (R.ELF_NOTHING, elf([], body=BODY)), (R.ELF_NOTHING, elf([(0x400, 0, 0x100000, 4, 4, 2)], body=BODY)),
    (R.ELF_NOTHING, elf([(0x400, 0, 0x100000, 0, 0)], body=BODY)),
    (R.ELF_TOO_MANY, elf([(0x400, 0, 0x100000, 4, 4)], phnum=65, body=BODY)),
    (R.ELF_HEADERS_OUTSIDE, elf([(0x400, 0, 0x100000, 4, 4)], phoff=0x430, body=BODY)),
    (R.ELF_HEADERS_OUTSIDE, elf([(0x400, 0, 0x100000, 4, 4)], phoff=0xfffffff0, body=BODY)),
    (R.ELF_HEADERS_OUTSIDE, elf([(0x400, 0, 0x100000, 4, 4)], phentsize=31, body=BODY)),
    (R.SEGMENT_OUTSIDE_FILE, elf([(0x400, 0, 0x100000, 65, 65)], body=BODY)),
    (R.SEGMENT_OUTSIDE_FILE, elf([((1 << 64) - 4, 0, 0x100000, 8, 8)], wide=True, body=BODY)),
    (R.SEGMENT_FILE_LARGER, elf([(0x400, 0, 0x100000, 5, 4)], body=BODY)),
    (R.SEGMENT_LEAVES_RAM, elf([(0x400, 0, 0x100000, 4, 4), (0x400, 0, 0x3ffffd, 4, 4)], body=BODY)),
    (R.SEGMENT_LEAVES_RAM, elf([(0x400, 0, 0x9ffff, 4, 4)], body=BODY)),
    (R.SEGMENT_LEAVES_RAM, elf([(0x400, 0, (1 << 64) - 2, 4, 4)], wide=True, body=BODY)),
    (R.SEGMENT_LEAVES_RAM, elf([(0x400, 0, 0x100000, 4, (1 << 64) - 1)], wide=True, body=BODY)),
    (R.SEGMENT_OVERLAPS, elf([(0x400, 0, 0x100000, 4, 0x20), (0x400, 0, 0x10001f, 4, 4)], body=BODY)),
    (R.ENTRY_OUTSIDE, elf([(0x400, 0x100000, 0x100000, 4, 4)], entry=0xffffffff, body=BODY)),
])
def test_what_cannot_be_booted_is_refused_with_its_reason(code, image):
    assert refused(image) == code


def test_refusals_that_need_a_special_vm():
    assert refused(b'', kind=boot.IMAGE_FLAT) == R.EMPTY
    assert refused(b'x', kind=boot.IMAGE_FLAT, load_address=0x10000) == R.FLAT_TOO_HIGH
    assert refused(b'x' * 0x98401, kind=boot.IMAGE_FLAT, load_address=0x7c00) == R.FLAT_TOO_LARGE
    assert refused(b'x', kind=9) == R.UNKNOWN_KIND
    image = elf([(0x400, 0x100000, 0x100000, 5, 0x100000)], body=b'hello')
    assert refused(image, modules=[(b'M' * (2 * MIB), b''), (b'N' * MIB, b'')]) == R.NO_ROOM_MODULE
    image = elf([(0x400, 0x100000, 0x100000, 5, 3 * MIB), (0x400, 0x8000, 0x8000, 0, 0x98000)], body=b'hello')
    assert refused(image) == R.NO_ROOM_INFORMATION


def test_the_sentence_names_the_segment():
    box = Box(image=elf([(0x400, 0, 0x100000, 4, 4), (0x400, 0, 0x3ffffd, 4, 4)], body=BODY), kind=boot.IMAGE_MULTIBOOT)
    run(box)
    assert box.output == b"vmm: cannot boot: the ELF's segment 2 leaves the VM's memory\n"


numbers = st.one_of(st.integers(0, 0x500), st.sampled_from([0x100000, 0x3ff000, 0x400000, 0xa0000, 0x9f000, 0xfffff000, 0xffffffff,
                                                            1 << 63, (1 << 64) - 1, (1 << 64) - 4096]))


@settings(max_examples=60)
@given(st.lists(st.tuples(numbers, numbers, numbers, numbers, numbers), max_size=3), numbers, st.booleans(), st.integers(0, 70),
       st.sampled_from([None, 0, 31, 32, 56, 65535]), st.sampled_from([None, 0, 60, 0x430, 0xffffffff]))
def test_any_elf_is_loaded_inside_or_refused(segments, entry, wide, phnum, phentsize, phoff):
    """The fake memory raises where the translated VMM would fault: a wrong bound shows."""
    if not wide:
        segments = [tuple(value & 0xffffffff for value in segment) for segment in segments]
        entry &= 0xffffffff
    box = Box(image=elf(segments, entry, wide, 62, BODY, phnum, phentsize, phoff and phoff & 0xffffffff), kind=boot.IMAGE_MULTIBOOT)
    box.script = [out(0xf4, 0)]
    how, _ = run(box)
    assert how in (ending.EXITED, ending.BAD_IMAGE)


@settings(max_examples=40)
@given(st.lists(numbers, min_size=5, max_size=5))
def test_any_address_fields_are_loaded_inside_or_refused(addresses):
    box = Box(image=header(1 << 16, [value & 0xffffffff for value in addresses]) + BODY, kind=boot.IMAGE_MULTIBOOT)
    box.script = [out(0xf4, 0)]
    assert run(box)[0] in (ending.EXITED, ending.BAD_IMAGE)
