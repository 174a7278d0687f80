"""What CPUID says about several processors, read as an operating system reads it.

Source: Intel SDM Vol. 2A, "CPUID", and Vol. 3A, "Hierarchical Mapping of Shared Resources"; AMD64 APM Vol. 3, "Multiple Core
Calculation".
"""
import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.spec import boot, vcpu
from hypervisor.vmm import cpuid
from tests.unit.vmm.box import VCPU_PAGE, Box

INTEL, AMD = boot.VENDOR_INTEL, boot.VENDOR_AMD
COUNTS = [1, 2, 3, 4, 9, 16]
# A processor of another shape: eight cores of two threads, and this one is the last.
HOST = {0: (0x16, 1, 2, 3), 1: (0x306c3, 0x0f100800, 0xffffffff, 0xffffffff), (4, 0): (0x1c004121, 0x1c0003f, 0x3f, 0),
        (4, 1): (0x1c004122, 0x1c0003f, 0x3f, 0), (4, 2): (0x1c004143, 0x3c0003f, 0x3ff, 0), (4, 3): (0x1c03c163, 0x3c0003f, 0xfff, 4),
        (4, 4): (0, 0, 0, 0), (0xb, 0): (1, 2, 0x100, 15), (0xb, 1): (4, 16, 0x201, 15), 0x80000000: (0x8000001f, 1, 2, 3),
        0x80000001: (5, 6, 0xffffffff, 0xffffffff), 0x80000008: (0x3027, 9, 0x400f, 9), 0x8000001e: (15, 0x107, 0, 0)}


def bits(value, high, low):
    return value >> low & (1 << high - low + 1) - 1


class Guest(object):
    """What the vCPUs of one VM see."""

    def __init__(self, count, vendor, host=HOST):
        box = Box(vcpus=count)
        box.cpuid_leaves = host
        self.cpuid = cpuid.Cpuid()
        self.cpuid.set_host(vendor, r_uint(1000))
        self.cpuid.set_processors(count)
        for index in range(count):
            self.cpuid.fill(index)

    def table(self, index, leaf):
        at = VCPU_PAGE + 4096 * index + vcpu.CPUID_TABLE + 16 * cpuid.LEAVES.index(leaf)
        return tuple(int(memory.load32(r_uint(at + 4 * k))) for k in range(4))

    def asked(self, index):
        return [int(memory.load32(r_uint(VCPU_PAGE + 4096 * index + vcpu.CPUID_ASK + 4 * n))) for n in range(len(vcpu.CPUID_CLASSES))]

    def ask(self, index, leaf, subleaf):
        self.cpuid.answer(r_uint(leaf), r_uint(subleaf), index)
        return tuple(int(word) for word in (self.cpuid.eax, self.cpuid.ebx, self.cpuid.ecx, self.cpuid.edx))


@pytest.fixture(params=[(count, vendor) for count in COUNTS for vendor in (INTEL, AMD)],
                ids=lambda pair: '%d-%s' % (pair[0], 'amd' if pair[1] == AMD else 'intel'))
def case(request):
    count, vendor = request.param
    return count, vendor, Guest(count, vendor)


def test_each_processor_has_its_own_initial_apic_id_and_the_same_number_of_fellows(case):
    count, _, guest = case
    for index in range(count):
        eax, ebx, ecx, edx = guest.table(index, 1)
        assert (bits(ebx, 31, 24), bits(ebx, 23, 16), bits(ebx, 15, 0)) == (index, count, 0x0800)
        assert bits(edx, 28, 28) == (count > 1) and eax == 0x306c3 and bits(ecx, 31, 31)


def test_processors_differ_in_their_apic_id_only(case):
    count, _, guest = case
    for index in range(count):
        for leaf in cpuid.LEAVES:
            if leaf != 1:
                assert guest.table(index, leaf) == guest.table(0, leaf), hex(leaf)
        assert guest.table(index, 1)[::2] == guest.table(0, 1)[::2] and guest.table(index, 1)[3] == guest.table(0, 1)[3]
        assert guest.asked(index) == [1 << 4 | 1 << 7 | 1 << 0xb | 1 << 0xd, 0, 0, 0]
        for leaf, subleaf in ((4, 0), (4, 3), (7, 0), (0xd, 0), (0xd, 1)):
            assert guest.ask(index, leaf, subleaf) == guest.ask(0, leaf, subleaf)


def test_extended_topology_makes_each_processor_a_core_of_one_package(case):
    count, _, guest = case
    places = set()
    for index in range(count):
        thread_shift, threads, thread_level, identity = guest.ask(index, 0xb, 0)
        core_shift, cores, core_level, again = guest.ask(index, 0xb, 1)
        assert (thread_shift, threads, thread_level, cores, core_level) == (0, 1, 0x100, count, 0x201)
        assert guest.ask(index, 0xb, 2) == (0, 0, 2, index) and guest.ask(index, 0xb, 0x107) == (0, 0, 7, index)
        assert identity == again == index == bits(guest.table(index, 1)[1], 31, 24)
        assert identity >> core_shift == 0, 'the same package'
        places.add(identity >> thread_shift & (1 << core_shift) - 1)
        assert core_shift == 0 or 1 << core_shift - 1 < count, 'no wider than it must be'
    assert places == set(range(count))


def test_caches_are_private_to_a_core_but_for_the_last_level(case):
    count, _, guest = case
    for subleaf, shared in ((0, 1), (1, 1), (2, 1), (3, count)):
        eax, ebx, ecx, edx = guest.ask(count - 1, 4, subleaf)
        assert bits(eax, 25, 14) + 1 == shared and bits(eax, 31, 26) + 1 == count
        assert (eax & 0x3fff, ebx, ecx, edx) == (HOST[4, subleaf][0] & 0x3fff,) + HOST[4, subleaf][1:]
    assert guest.ask(0, 4, 4) == (0, 0, 0, 0), 'the end of the list has no processors'


def test_amd_counts_its_cores_where_intel_says_nothing(case):
    count, vendor, guest = case
    legacy = bits(guest.table(0, 0x80000001)[2], 1, 1)
    eax, ebx, ecx, edx = guest.table(0, 0x80000008)
    assert (eax, ebx, edx) == (0x3027, 0, 0)
    if vendor == INTEL:
        assert (legacy, ecx) == (0, 0)
    else:
        assert legacy == (count > 1)
        assert bits(ecx, 7, 0) + 1 == count and ecx & ~0xf0ff == 0
        assert {1: 1, 2: 2, 3: 4, 4: 4, 9: 16, 16: 16}[count] == 1 << bits(ecx, 15, 12)
    assert not bits(guest.table(0, 0x80000001)[2], 22, 22) and guest.table(0, 0x80000000)[0] < 0x8000001e, 'no topology extensions'


def test_a_processor_without_these_leaves_gives_none():
    host = {0: (1, 1, 2, 3), 1: HOST[1], 4: HOST[4, 0], 0x80000000: (0x80000000, 0, 0, 0), 0x80000001: HOST[0x80000001], 0x80000008: HOST[0x80000008]}
    guest = Guest(4, AMD, host)
    assert guest.ask(3, 0xb, 0) == guest.ask(3, 4, 0) == guest.table(3, 0x80000001) == guest.table(3, 0x80000008) == (0, 0, 0, 0)
    assert bits(guest.table(3, 1)[1], 31, 24) == 3


@pytest.mark.parametrize('vendor', [INTEL, AMD])
def test_without_a_word_there_is_one_processor(vendor):
    guest = Guest(1, vendor)
    said = [guest.table(0, leaf) for leaf in cpuid.LEAVES]
    box = Box()
    box.cpuid_leaves = HOST
    plain = cpuid.Cpuid()
    plain.set_host(vendor, r_uint(1000))
    plain.fill()
    assert [guest.table(0, leaf) for leaf in cpuid.LEAVES] == said
    plain.answer(r_uint(0xb), r_uint(1))
    assert (plain.eax, plain.ebx, plain.ecx, plain.edx) == (0, 1, 0x201, 0)
