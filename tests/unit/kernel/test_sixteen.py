"""A VM with as many vCPUs as one may have: all are made, named, told of and started, on one core and on two."""
import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.kernel import interrupts, startup
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.loop import step
from hypervisor.kernel.scheduler import scheduler
from hypervisor.spec import call, lapic, status, svm
from hypervisor.spec.layout import PAGE, VCPU_PAGE
from hypervisor.spec.vcpu import ANSWER, GROUP_CPUID, RESUME
from tests.unit.kernel import audit
from tests.unit.kernel.test_away import IO_IN, joined
from tests.unit.kernel.test_away import fresh_pair                  # noqa: F401: a fixture
from tests.unit.kernel.test_hypercall import SEND_IPI, call as hypercall, requested
from tests.unit.kernel.test_startup import ASSERT, FIRST, INIT, RUN, STARTUP, VECTOR, VM, ready, send, vcpus
from tests.unit.kernel.vm import make_vm, vcpu_page

COUNT = 16
ALL = range(COUNT)
MODULES_PAGES = 100             # that are left for the tables of what a VMM maps: images of 200 MiB in pages of 4 KiB


def whole(box):
    """They all have their tables; the first runs, the others wait for STARTUP."""
    make_vm(box, VM, vcpus=COUNT)
    for n in range(1, COUNT):
        box.memory.put_word(vcpu_page(VM, n) + ANSWER['DIRTY'], GROUP_CPUID)
        box.memory.put_word(vcpu_page(VM, n) + ANSWER['ACTION'], RESUME)
        assert box.kernel_call(VM, RUN, FIRST + n, 1) is None
        compartments[VM].task.deadline_passed()
        assert box.result(VM) == (status.OK, call.REASON_DEADLINE)
    assert box.kernel_call(VM, RUN, FIRST, 0) is None
    for vcpu in vcpus():
        vcpu.apic.svr = r_uint(0x1ff)


def took(vector):
    """Which vCPUs have the request; it is forgotten."""
    found = [n for n in ALL if requested(n, vector)]
    for vcpu in vcpus():
        vcpu.apic.forget_requests()
    return found


def test_a_vm_has_sixteen_and_the_kernel_has_two_such_vms(box):
    slots = [make_vm(box, n, vcpus=0, start=False) for n in (1, 2, 3)]

    def create(n, slot):
        return box.kernel_call(0, call.VCPU_CREATE, slots[n], slot, 0, 0)
    for n in (0, 1):
        for index in ALL:
            assert create(n, call.SLOT_VCPU + index) == (status.OK, 0)
        assert create(n, call.SLOT_VCPU + COUNT) == (status.NO_ROOM, 0)
    assert create(2, call.SLOT_VCPU) == (status.NO_ROOM, 0)
    assert compartments[1].pages_left() >= MODULES_PAGES
    pages = [int(vcpu.page_hpa) for vcpu in compartments[1].vcpus + compartments[2].vcpus]
    assert len(set(pages)) == 2 * COUNT
    audit.check(box)


def test_no_page_of_theirs_can_be_mapped_over(box):
    slot = make_vm(box, VM, vcpus=COUNT, start=False)
    for n in (0, COUNT - 1):
        assert box.kernel_call(0, call.MAP, slot, call.SLOT_RAM, 0, VCPU_PAGE + n * PAGE, 1, call.READ | call.WRITE)[0] == status.BAD_ADDRESS
    assert box.kernel_call(0, call.MAP, slot, call.SLOT_RAM, 0, VCPU_PAGE + COUNT * PAGE, 1, call.READ | call.WRITE) == (status.OK, 1)


def test_broadcast_init_and_startup_start_them_all(box):
    whole(box)
    others = lapic.SHORTHAND_OTHERS << lapic.ICR_SHORTHAND_SHIFT
    send(INIT | ASSERT | others, 0)
    assert ready() == [True] + [False] * 15
    send(STARTUP | ASSERT | others | 0x9a, 0)
    assert ready() == [True] * COUNT


def test_each_is_named_alone_by_every_kind_of_destination(box):
    """Physical; the clusters of four of an xAPIC; the cluster of sixteen of an x2APIC. A flat destination is one of eight."""
    whole(box)
    for vcpu in vcpus():
        vcpu.apic.ldr, vcpu.apic.dfr = r_uint((vcpu.index >> 2 << 4 | 1 << (vcpu.index & 3)) << 24), r_uint(0x0fffffff)
    for n in ALL:
        send(ASSERT | VECTOR, n)
        assert took(VECTOR) == [n]
        send(ASSERT | lapic.ICR_LOGICAL | VECTOR, n >> 2 << 4 | 1 << (n & 3))
        assert took(VECTOR) == [n]
    send(ASSERT | lapic.ICR_LOGICAL | VECTOR, 0x2f)
    assert took(VECTOR) == [8, 9, 10, 11]
    send(ASSERT | VECTOR, 16)
    assert took(VECTOR) == []
    for vcpu in vcpus():
        assert vcpu.apic.write_base(vcpu.apic.base | r_uint(lapic.APIC_BASE_X2APIC))
    for n in ALL:
        assert vcpus()[n].apic.ldr == r_uint(1 << n)
        send(ASSERT | VECTOR, n)
        assert took(VECTOR) == [n]
        send(ASSERT | lapic.ICR_LOGICAL | VECTOR, 1 << n)
        assert took(VECTOR) == [n]
    send(ASSERT | lapic.ICR_LOGICAL | VECTOR, 0xffff)
    assert took(VECTOR) == list(ALL)


def test_the_vmm_names_the_last_one_and_all(box):
    whole(box)
    compartments[VM].task.deadline_passed()
    assert box.kernel_call(VM, call.VCPU_INTERRUPT, FIRST, call.INTERRUPT_FIXED, VECTOR, 15) == (status.OK, 1)
    assert took(VECTOR) == [15]
    assert box.kernel_call(VM, call.VCPU_INTERRUPT, FIRST, call.INTERRUPT_FIXED, VECTOR, 0xff) == (status.OK, COUNT)
    assert took(VECTOR) == list(ALL)


@pytest.mark.parametrize('bitmap, first', [(0xffff, 0), (0x8000, 0), (1, 15), (0xfffe, 0), (1 << 63 | 3, 14)])
def test_a_hypercalls_bitmap_reaches_them_all(box, bitmap, first):
    whole(box)
    for n in range(1, COUNT):
        startup.startup(vcpus()[n], r_uint(1))
    expected = [n for n in ALL if n >= first and bitmap >> (n - first) & 1]
    assert hypercall(box, SEND_IPI, low=bitmap, first=first, command=VECTOR) == len(expected)
    assert took(VECTOR) == expected


def test_an_exit_of_the_last_one_is_told_with_its_number(box):
    whole(box)
    startup.startup(vcpus()[15], r_uint(1))
    box.guests[VM] = type('Once', (object,), {'run': staticmethod(lambda machine, registers, its: its.exit(svm.EXIT_IOIO, IO_IN, 2))})
    scheduler.compartment, scheduler.vcpu = compartments[VM], vcpus()[15]
    step()
    assert box.result(VM) == (status.OK, call.REASON_EXIT | 15 << call.REASON_VCPU_SHIFT)


def test_on_two_cores_each_has_its_eight_and_the_last_can_be_reached(fresh_pair):         # noqa: F811
    pair = fresh_pair
    joined(pair, places=(0, 1) * 8)
    for core in (0, 1):
        pair.on(core)
        assert [vcpu.away for vcpu in vcpus()] == [n % 2 != core for n in ALL] and compartments[VM].here == 8
        assert int(compartments[VM].cores) == 0x1010101010101010 or core == 1
    pair.on(0)
    others = lapic.SHORTHAND_OTHERS << lapic.ICR_SHORTHAND_SHIFT
    interrupts.send(vcpus()[0], r_uint(INIT | ASSERT | others), r_uint(0))
    interrupts.send(vcpus()[0], r_uint(STARTUP | ASSERT | others | 0x9a), r_uint(0))
    pair.settle()
    pair.on(1)
    assert [bool(vcpu.ready) for vcpu in vcpus()] == [n % 2 == 1 for n in ALL]
    interrupts.write_register(vcpus()[15], lapic.SPURIOUS, r_uint(0x1ff))
    pair.settle()
    pair.on(0)
    assert ready() == [n % 2 == 0 for n in ALL]
    interrupts.send(vcpus()[0], r_uint(ASSERT | VECTOR), r_uint(15))
    pair.settle()
    pair.on(1)
    assert took(VECTOR) == [15]
