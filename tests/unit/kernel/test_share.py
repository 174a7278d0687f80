"""SHARE: a core is promised once, and only by its manager."""
from hypervisor.kernel.compartment import compartments
from hypervisor.spec import call, ending, status
from tests.unit.kernel.vm import SLOT, make_vm

SHARE = call.SHARE


def FOUR_VMS(box):
    for number in (1, 2, 3, 4):
        make_vm(box, number)


def test_share_refuses_what_no_core_has(fresh):
    box = fresh(FOUR_VMS)
    big = 1 << 63

    def answer(slot, entitlement, cap, weight):
        return box.kernel_call(0, SHARE, slot, entitlement, cap, weight)[0]
    assert answer(SLOT, 95, 0, 100) == status.OK
    assert answer(SLOT, 96, 0, 100) == status.PROMISED      # the manager has 5
    assert compartments[1].promised == 95
    assert answer(SLOT + 1, 1, 0, 100) == status.PROMISED
    assert answer(SLOT + 1, 0, 0, 100) == status.OK
    assert answer(SLOT, 50, 50, 100) == status.OK and answer(SLOT + 1, 45, 100, 10000) == status.OK and answer(SLOT + 2, 1, 1, 1) == status.PROMISED
    for entitlement, cap, weight in ((101, 0, 1), (big, 0, 1), (1, 101, 1), (1, big, 1), (20, 19, 1), (1, 0, 0), (1, 0, 10001), (1, 0, big), ((1 << 64) - 1, 0, 1),
                                     (1 << 32, 0, 1), (1, 1 << 32, 1), (1, 0, 1 << 32)):
        assert answer(SLOT, entitlement, cap, weight) == status.BAD_SIZE, (entitlement, cap, weight)
    assert compartments[1].promised == 50
    assert answer(call.SLOT_SELF, 1, 0, 1) == answer(63, 1, 0, 1) == answer(big, 1, 0, 1) == answer(call.SLOT_PORTS, 1, 0, 1) == status.BAD_SLOT
    box.kernel_call(0, call.STOP, SLOT + 1, ending.DESTROYED, 0)
    assert answer(SLOT + 1, 1, 0, 1) == status.BAD_STATE


def test_a_vm_cannot_set_its_own_share(fresh):
    box = fresh(FOUR_VMS)
    for slot in (call.SLOT_SELF, call.SLOT_VCPU, SLOT):
        assert box.kernel_call(1, SHARE, slot, 90, 0, 10000) == (status.BAD_SLOT, 0)
    assert compartments[1].promised == 0


def test_a_new_vm_begins_with_no_share_of_an_old_ones(fresh):
    box = fresh(FOUR_VMS)
    assert box.kernel_call(0, SHARE, SLOT + 3, 90, 95, 7)[0] == status.OK
    box.kernel_call(0, call.STOP, SLOT + 3, ending.DESTROYED, 0)
    box.kernel_call(0, call.TAKE, SLOT + 3, call.SLOT_RAM, call.SLOT_MEMORY)
    box.kernel_call(0, call.STOP, SLOT + 3, 0, 0)
    assert not compartments[4].used
    assert box.kernel_call(0, SHARE, SLOT, 95, 0, 100)[0] == status.OK       # nobody holds what a released VM was promised
    make_vm(box, 4)
    assert compartments[4].promised == 0
