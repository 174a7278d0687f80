"""I/O breakpoints: which accesses they are for, and the trap behind the access."""
import pytest
from hypothesis import given, strategies as st
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu as hw_cpu
from hypervisor.kernel import breakpoint
from hypervisor.kernel.compartment import compartments
from hypervisor.spec import call, svm, vcpu
from hypervisor.spec.vcpu import ANSWER, STATE
from tests.unit.kernel.vm import block_of, make_vm, run_guest_once, vcpu_page

VM, RUN, SLOT = 1, call.VCPU_RUN, call.SLOT_VCPU
DE, IOIO_STRING, PORT = 8, 4, 0xe0
DB, BS = 0x80000301, 1 << 14
SIZES = {0: 1, 1: 2, 2: 8, 3: 4}


class Access(object):
    def __init__(self, port, size):
        self.exit_selector, self.exit_size = r_uint(port), r_uint(size)


ports = st.one_of(st.integers(0xd8, 0xf0), st.integers(0, 0xffff))
control = st.tuples(st.integers(0, 3), st.sampled_from([2, 2, 2, 0, 1, 3]), st.integers(0, 3))


@given(port=ports, size=st.sampled_from([1, 2, 4]), addresses=st.lists(ports, min_size=4, max_size=4), controls=st.lists(control, min_size=4, max_size=4),
       de=st.booleans())
def test_hits_are_the_enabled_ranges_that_the_access_reaches(port, size, addresses, controls, de):
    dr7, right = 0x400, 0
    fake = hw_cpu.fake
    for n, (enabled, kind, length) in enumerate(controls):
        fake.register['dr%d' % n] = addresses[n]
        dr7 |= enabled << 2 * n | (kind | length << 2) << 16 + 4 * n
        count = SIZES[length]
        first = addresses[n] // count * count
        if enabled and kind == 2 and set(range(first, first + count)) & set(range(port, port + size)):
            right |= 1 << n
    assert breakpoint.port_hits(Access(port, size), r_uint(dr7), r_uint(DE if de else 0)) == (right if de else 0)


def watching(box):
    make_vm(box, VM)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None


def accessed(box, rflags=2, string=0, cr4=DE, dr7=0x20402):
    """The guest's access to PORT has come to its VMM, while DR0 watched that port."""
    def guest(machine, registers, block):
        for name, value in (('DR7', dr7), ('DR6', 0xffff0ff0), ('CR4', cr4), ('RFLAGS', rflags), ('RIP', 0xfff0)):
            block.set(name, value)
        box.cpu.register['dr0'] = PORT
        block.exit(svm.EXIT_IOIO, PORT << 16 | 1 << 4 | string, 0xfff2)
    run_guest_once(box, VM, guest)


def answered(box, **answer):
    for name, value in answer.items():
        box.memory.put_word(vcpu_page(VM) + (ANSWER.get(name) or STATE[name]), value)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    return int(compartments[VM].vcpus[0].event), block_of(box, VM).get('DR6')


def test_trap_comes_behind_the_access(fresh):
    box = fresh(watching)
    accessed(box)
    assert answered(box, ACTION=vcpu.COMPLETE) == (DB, 0xffff0ff1)
    assert block_of(box, VM).get('RIP') == 0xfff2


def test_trap_and_single_step_are_one(fresh):
    box = fresh(watching)
    accessed(box, rflags=0x102)
    assert answered(box, ACTION=vcpu.COMPLETE) == (DB, 0xffff0ff1 | BS)


@pytest.mark.parametrize('cr4, dr7', [(0, 0x20402), (DE, 0x20400), (DE, 0x10402), (DE, 0x400)])
def test_no_trap_without_an_enabled_breakpoint(fresh, cr4, dr7):
    box = fresh(watching)
    accessed(box, cr4=cr4, dr7=dr7)
    assert answered(box, ACTION=vcpu.COMPLETE) == (0, 0xffff0ff0)


def test_emulated_string_instruction_has_its_trap(fresh):
    box = fresh(watching)
    accessed(box, string=IOIO_STRING)
    assert answered(box, ACTION=vcpu.RESUME, DIRTY=vcpu.GROUP_FLOW, RFLAGS=2, RIP=0xfff2) == (DB, 0xffff0ff1)


def test_access_that_will_be_made_again_has_none_yet(fresh):
    box = fresh(watching)
    accessed(box)
    assert answered(box, ACTION=vcpu.RESUME) == (0, 0xffff0ff0)


def test_next_access_is_looked_at_anew(fresh):
    box = fresh(watching)
    accessed(box)
    answered(box, ACTION=vcpu.COMPLETE)
    accessed(box, dr7=0x400)
    assert answered(box, ACTION=vcpu.COMPLETE) == (0, 0xffff0ff0)
