"""hypervisor/lib against Python's own arithmetic, zlib and the fake kernel."""
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory, task
from hypervisor.lib import call as calls
from hypervisor.lib import crc32, text
from hypervisor.lib.view import View
from hypervisor.spec import call, status
from tests.unit.fake_kernel import FakeKernel

U64 = st.integers(0, (1 << 64) - 1)


class Collector(text.Sink):
    def __init__(self):
        self.text = ''

    def put(self, byte):
        self.text += chr(byte)


def collected(function, *arguments):
    sink = Collector()
    function(sink, *arguments)
    return sink.text


@given(U64)
@example(0)
@example(9)
@example(10)
@example((1 << 64) - 1)
@example(10 ** 19)
@example(10 ** 19 - 1)
def test_decimal_is_pythons(value):
    assert collected(text.decimal, r_uint(value)) == str(value)
    assert text.digits(r_uint(value)) == len(str(value))
    assert collected(text.decimal_right, r_uint(value), 12) == '%12d' % value


@given(U64)
@example(0)
@example(15)
@example(16)
@example((1 << 64) - 1)
def test_hexadecimal_is_pythons(value):
    assert collected(text.hexadecimal, r_uint(value)) == '%x' % value


@given(st.binary(max_size=80))
def test_crc_is_zlibs(data):
    crc = crc32.START
    for byte in bytearray(data):
        crc = crc32.add(crc, byte)
    assert int(crc) == zlib.crc32(data) & 0xffffffff


@given(st.integers(0, 64), st.integers(-10, 80), st.sampled_from([1, 4, 8]))
def test_a_view_never_reads_outside(size, offset, width):
    memory.fake = memory.FakeMemory()
    memory.fake.map(0x1000, 4096)
    memory.fake.map(0x2000, 4096)
    memory.fake.write(0x2000 - 64, '\xee' * 256)
    memory.fake.write(0x2000, '\x11' * size)
    view = View()
    view.look_at(r_uint(0x2000), size)
    value = int({1: view.u8, 4: view.u32, 8: view.u64}[width](offset))
    inside = 0 <= offset and offset + width <= size
    assert view.outside == (not inside) and value == (int('11' * width, 16) if inside else 0)


def test_a_view_knows_that_huge_counts_do_not_fit():
    view = View()
    view.look_at(r_uint(0), 100)
    top = (1 << 63) - 1
    assert not view.contains(1, top) and not view.contains(top, 1) and not view.contains(top, top) and not view.contains(-1, 2)
    assert view.contains(100, 0) and not view.contains(0, -1)


# -- loops over batches

def kernel_with(frames):
    kernel = FakeKernel(regions=(frames,))
    kernel.boot_manager()
    return kernel


@pytest.mark.parametrize('address', [0x40000000, 0x40001000, 0x401ff000])
@pytest.mark.parametrize('count', [1, 511, 512, 513, 1500])
def test_map_all_maps_each_frame_once_and_in_order(address, count):
    kernel = kernel_with(1600)
    assert calls.map_all(0, call.SLOT_MEMORY, 7, r_uint(address), count, call.READ) == status.OK
    first = kernel.manager.slots[call.SLOT_MEMORY].first
    for n in range(count):
        assert kernel.manager.space[address // 4096 + n] == (first + 7 + n, call.READ)
    assert calls.unmap_all(0, r_uint(address), count) == status.OK
    assert address // 4096 not in kernel.manager.space and not any(kernel.mapped.values())


def test_after_its_first_batch_map_all_keeps_to_2_mib_boundaries():
    kernel = kernel_with(2048)
    starts = []
    plain = kernel.do_map
    kernel.do_map = lambda *a: starts.append((a[3], a[4])) or plain(*a)
    assert calls.map_all(0, call.SLOT_MEMORY, 0, r_uint(0x401fe000), 1030, call.READ) == status.OK
    assert starts == [(0x401fe000, 2), (0x40200000, 512), (0x40400000, 512), (0x40600000, 4)]


def test_give_all_and_take_all_move_a_long_region_whole():
    kernel = kernel_with(2000)
    assert calls.create(40, call.SLOT_MEMORY, 1900, 40) == status.OK
    assert calls.give_all(40, call.SLOT_MEMORY, 100, 1300, 2) == status.OK
    theirs = kernel.compartments[1].slots[2]
    assert theirs.count == 1300
    assert calls.stop(40, 24, r_uint(0)) == status.OK
    assert calls.take_all(40, 2, call.SLOT_MEMORY) == status.OK
    assert [frame for frame, owner in kernel.owner.items() if owner is not kernel.manager] == kernel.compartments[1].run != []
    assert calls.stop(40, 24, r_uint(0)) == status.OK
    assert all(owner is kernel.manager for owner in kernel.owner.values())


def test_a_call_that_says_ok_and_does_nothing_does_not_hang_the_caller():
    kernel = kernel_with(600)
    kernel.do_map = kernel.do_give = lambda *a: (status.OK, 0)
    assert calls.map_all(0, call.SLOT_MEMORY, 0, r_uint(0x40000000), 600, call.READ) == status.BAD_STATE
    assert calls.give_all(40, call.SLOT_MEMORY, 0, 600, 2) == status.BAD_STATE
    kernel.do_map = lambda *a: (status.OK, 1 << 63)
    assert calls.map_all(0, call.SLOT_MEMORY, 0, r_uint(0x40000000), 600, call.READ) == status.BAD_STATE


def test_statuses_come_back():
    kernel = kernel_with(10)
    assert calls.create(call.SLOT_MEMORY, call.SLOT_MEMORY, 0, 1) == status.SLOT_IN_USE
    assert calls.map_all(0, call.SLOT_MEMORY, 5, r_uint(0x40000000), 6, call.READ) == status.BAD_RANGE
    assert calls.give_all(40, call.SLOT_MEMORY, 0, 1, 2) == status.BAD_SLOT
    assert task.fake.kernel is kernel
