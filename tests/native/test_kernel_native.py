"""The kernel's logic through translated code: the same vectors give the same results, in real memory instead of the fake one."""
import ctypes
import mmap
import random

import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from tests.native import kernel_vectors as vectors
from tests.unit.kernel.machine import multiboot1, multiboot2

EDGES = [0, 1, 2, 0x20, 0x500, 0xd01, 0x11, 0x80000011, 0x20000001, 0xffffffff, 1 << 32, 1 << 46, (1 << 47) - 1, 1 << 47, 1 << 52, 1 << 63, 0xffff800000000000,
         0xffff7fffffffffff, (1 << 64) - 4096, (1 << 64) - 1]
SIZE = vectors.PAGES * 4096


class Real(object):
    """Real memory with a fake at the same addresses, so that addresses are part of the vectors. Below 4 GiB, as boot loaders have it."""

    def __init__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        map_32bit = 0x40
        self.address = libc.mmap(None, SIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | map_32bit, -1, 0)
        assert self.address and self.address < 1 << 32
        self.libc = libc
        memory.reset_fake()
        memory.fake.map(self.address, SIZE)

    def put(self, data):
        ctypes.memmove(self.address, data, len(data))
        memory.fake.write(self.address, data)

    def close(self):
        memory.reset_fake()
        self.libc.munmap(ctypes.c_void_p(self.address), ctypes.c_size_t(SIZE))


@pytest.fixture
def real():
    area = Real()
    yield area
    area.close()


def test_control_rules_agree(native):
    rng = random.Random(7)
    some = [tuple(r_uint(rng.choice(EDGES)) for _ in range(4)) for _ in range(3000)]
    native.same(vectors.control_rule, [r_uint] * 4, some)


def test_canonical_addresses_agree(native):
    native.same(vectors.canonical, [r_uint], [(r_uint(edge),) for edge in EDGES])


def test_results_of_in_agree(native):
    native.same(vectors.merged, [r_uint] * 3, [(r_uint(a), r_uint(b), r_uint(size)) for a in EDGES for b in EDGES for size in (1, 2, 4)])


def test_ranges_that_may_be_mapped_agree(native):
    addresses = EDGES + [0x1000, 0x70000000, 0x70001000, 0x70005000, 0x70006000, 0x7ffeffe00000, 0x7fff00000000, (1 << 46) - 4096]
    native.same(vectors.space_status, [r_uint] * 3, [(r_uint(a), r_uint(count), r_uint(rights)) for a in addresses for count in (1, 2, 512) for rights in (1, 8, 9)])


def test_rights_agree(native):
    native.same(vectors.rights_status, [r_uint], [(r_uint(value),) for value in list(range(40)) + EDGES])


def test_rounding_agrees(native):
    native.same(vectors.rounded, [r_uint] * 2, [(r_uint(a), r_uint(step)) for a in EDGES for step in (4096, 0x200000)])


@pytest.mark.parametrize('function, steps', [(vectors.page_tables, 150), (vectors.owners, 60), (vectors.ring, 12)])
def test_memory_comes_out_the_same(native, real, function, steps):
    native.same(function, [r_uint, r_uint, int], [(r_uint(real.address), r_uint(seed), steps) for seed in (1, 2)])


@pytest.mark.parametrize('make, magic', [(multiboot1, 0x2badb002), (multiboot2, 0x36d76289)])
def test_boot_information_is_read_the_same(native, real, make, magic):
    ranges = [(0, 0x9fc00, 1), (0x9fc00, 0x400, 2), (0x100000, 0x5f00000, 1), (0x3000000, 0x1000, 2), (1 << 32, 1 << 30, 1), (0x5000000, 0x2000000, 1)]
    real.put(make(ranges, [(0x200000, 0x201234), (0x202000, 0x300000)], real.address))
    native.same(vectors.loaded, [r_uint, r_uint, int], [(r_uint(magic), r_uint(real.address), which) for which in range(3)])
