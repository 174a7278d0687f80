"""The Linux boot protocol, against the numbers of Documentation/arch/x86/boot.rst and zero-page.rst, written out here again."""
import struct

import pytest
from hypothesis import given, settings, strategies as st

from hypervisor.hw import memory
from hypervisor.spec import boot, ending, vcpu
from hypervisor.vmm.load import refusal
from tests.unit.vmm.box import MIB, Box, REGION_BASE, out, run, then
from hypervisor.spec import call

RAM = REGION_BASE + (call.SLOT_RAM << 34)


def kernel(setup_sects=1, version=0x20f, loadflags=1, xloadflags=1, payload=b'K' * 8192, syssize=None, preferred=16 * MIB, init_size=0x10000,
           alignment=2 * MIB, relocatable=1, signature=0xaa55, magic=b'HdrS', jump=0x6a, initrd_max=0x7fffffff, cmdline_size=255, code32=MIB):
    """A bzImage: boot sector and setup of setup_sects sectors, then the protected-mode kernel."""
    data = bytearray((1 + (setup_sects or 4)) * 512)

    def put(form, offset, value):
        struct.pack_into('<' + form, data, offset, value)
    put('B', 0x1f1, setup_sects)
    put('I', 0x1f4, len(payload) // 16 if syssize is None else syssize)
    put('H', 0x1fe, signature)
    put('B', 0x201, jump)
    data[0x202:0x206] = magic
    put('H', 0x206, version)
    put('B', 0x211, loadflags)
    put('I', 0x214, code32)
    put('I', 0x22c, initrd_max)
    put('I', 0x230, alignment)
    put('B', 0x234, relocatable)
    put('H', 0x236, xloadflags)
    put('I', 0x238, cmdline_size)
    put('Q', 0x258, preferred)
    put('I', 0x260, init_size)
    return bytes(data) + payload


def boot_linux(image, **options):
    options.setdefault('ram', 32 * MIB)
    return Box(image=image, kind=boot.IMAGE_LINUX, **options)


def started(image, **options):
    box = boot_linux(image, **options)
    box.start = {}

    def look(box):
        box.start = dict((name, box.state(name)) for name in vcpu.STATE if name != 'END')
    box.script = [then(look, out(0xf4, 0))]
    assert run(box) == (ending.EXITED, 0), bytes(box.output)
    return box


def read(form, gpa):
    return struct.unpack('<' + form, memory.fake.read(RAM + gpa, struct.calcsize('<' + form)))[0]


def test_64_bit_entry_state_and_boot_params():
    image = kernel()
    box = started(image, command_line=b'console=ttyS0', modules=[(b'I' * 5000, b'')])
    start, zero_page = box.start, box.start['RSI']
    assert start['RIP'] == 16 * MIB + 0x200 and start['EFER'] & 0x500 == 0x500 and start['CR0'] & 0x80000001 == 0x80000001
    assert start['CS_SELECTOR'] == 0x10 and start['DS_SELECTOR'] == start['ES_SELECTOR'] == start['SS_SELECTOR'] == 0x18
    assert start['RFLAGS'] & 0x200 == 0, 'interrupts are off'
    assert memory.fake.read(RAM + 16 * MIB, 8192) == b'K' * 8192
    assert memory.fake.read(RAM + zero_page + 0x1f1, 15) == image[0x1f1:0x200], 'the setup header is copied'
    assert read('B', zero_page + 0x210) == 0xff and read('I', zero_page + 0x214) == 16 * MIB
    assert memory.fake.read(RAM + read('I', zero_page + 0x228), 14) == b'console=ttyS0\0'
    initrd, size = read('I', zero_page + 0x218), read('I', zero_page + 0x21c)
    assert size == 5000 and initrd % 4096 == 0 and initrd + 5000 <= 32 * MIB and memory.fake.read(RAM + initrd, 5000) == b'I' * 5000
    count = read('B', zero_page + 0x1e8)
    table = [struct.unpack('<QQI', memory.fake.read(RAM + zero_page + 0x2d0 + 20 * n, 20)) for n in range(count)]
    assert table == [(0, 0x9fc00, 1), (0x9fc00, 0x400, 2), (0xc0000, 0x40000, 2), (MIB, 31 * MIB, 1)]


def test_the_first_4_gib_are_mapped_to_themselves():
    root = started(kernel()).start['CR3']
    for address in (0, 0x7000, 16 * MIB, MIB * 1024 + 5 * MIB, 4096 * MIB - 1):
        table = root
        for shift in (39, 30):
            entry = read('Q', table + 8 * (address >> shift & 511))
            assert entry & 3 == 3
            table = entry & ~0xfff
        entry = read('Q', table + 8 * (address >> 21 & 511))
        assert entry & 0x83 == 0x83 and (entry & ~0x1fffff) == address & ~0x1fffff


def test_32_bit_entry_for_kernels_without_the_other():
    start = started(kernel(xloadflags=0)).start
    assert start['RIP'] == 16 * MIB and start['CR0'] & 0x80000001 == 1 and start['EFER'] == 0
    assert start['CS_SELECTOR'] == 0x10 and start['DS_SELECTOR'] == 0x18 and start['RBX'] == start['RBP'] == start['RDI'] == 0


def test_four_setup_sectors_where_the_header_says_none():
    started(kernel(setup_sects=0))
    assert memory.fake.read(RAM + 16 * MIB, 8192) == b'K' * 8192


@pytest.mark.parametrize('missing', [1, 15])
def test_the_last_paragraph_may_be_cut(missing):
    """syssize counts paragraphs, rounded up: memtest86+ and iPXE do not fill the last one."""
    started(kernel(payload=b'K' * (8192 - missing), syssize=512))
    assert memory.fake.read(RAM + 16 * MIB, 8193) == b'K' * (8192 - missing) + b'\0' * (missing + 1)


@pytest.mark.parametrize('change, options, code', [
    (dict(code32=0), {}, refusal.LINUX_REAL_MODE),
    (dict(payload=b'K' * 8176, syssize=512), {}, refusal.LINUX_TRUNCATED),
    (dict(magic=b'HdrX'), {}, refusal.NOT_LINUX), (dict(signature=0), {}, refusal.NOT_LINUX),
    (dict(version=0x205), {}, refusal.LINUX_TOO_OLD), (dict(loadflags=0), {}, refusal.LINUX_LOW),
    (dict(jump=0x10), {}, refusal.LINUX_HEADER_SHORT), (dict(syssize=1 << 20), {}, refusal.LINUX_TRUNCATED),
    (dict(syssize=0), {}, refusal.LINUX_TRUNCATED), (dict(alignment=3), {}, refusal.LINUX_BAD_ALIGNMENT),
    (dict(alignment=0), {}, refusal.LINUX_BAD_ALIGNMENT), (dict(init_size=17 * MIB), {}, refusal.LINUX_NO_ROOM),
    (dict(preferred=(1 << 64) - 4096, relocatable=0), {}, refusal.LINUX_NO_ROOM),
    (dict(cmdline_size=3), dict(command_line=b'four'), refusal.LINUX_COMMAND_LINE),
    ({}, dict(modules=[(b'a', b''), (b'b', b'')]), refusal.LINUX_MODULES),
    (dict(initrd_max=16 * MIB), dict(modules=[(b'a' * 5000, b'')]), refusal.LINUX_INITRD),
    (dict(initrd_max=4095), dict(modules=[(b'a' * 5000, b'')]), refusal.LINUX_INITRD),
])
def test_each_mistake_has_its_sentence(change, options, code):
    box = boot_linux(kernel(**change), **options)
    assert run(box) == (ending.BAD_IMAGE, code)
    assert box.output.startswith(b'vmm: cannot boot: ') and box.output.count(b'\n') == 1


@pytest.mark.parametrize('size', [1, 0x1f1, 0x202, 0x206, 0x240, 1024, 1500])
def test_a_cut_kernel_is_refused(size):
    assert run(boot_linux(kernel()[:size]))[0] == ending.BAD_IMAGE


@settings(max_examples=60)
@given(data=st.data())
def test_no_header_makes_the_loader_leave_the_vms_memory(data):
    """Any bytes in the header: refused, or started with everything inside the memory. FakeMemory raises at the first byte outside."""
    image = bytearray(kernel())
    for _ in range(data.draw(st.integers(1, 4))):
        offset = data.draw(st.integers(0x1f1, 0x268))
        image[offset] = data.draw(st.sampled_from([0, 1, 0x7f, 0x80, 0xff]))
    box = boot_linux(bytes(image), modules=[(b'I' * 100, b'')])
    box.script = [out(0xf4, 0)]
    how, _ = run(box)
    assert how in (ending.EXITED, ending.BAD_IMAGE)
