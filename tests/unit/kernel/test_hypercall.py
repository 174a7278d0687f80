"""Hypercalls: KVM's interrupt to many, whatever a guest asks for. The model below is written from Linux' hypercalls.rst and kvm/lapic.c."""
from hypothesis import example, given, strategies as st

import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.kernel import hypercall, startup
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.loop import step
from hypervisor.kernel.scheduler import scheduler
from hypervisor.spec import lapic, svm
from tests.unit.kernel.machine import Registers
from tests.unit.kernel.test_startup import VM, block, field, ready, three, vcpus

U64 = (1 << 64) - 1
SEND_IPI = 10
EPERM, EINVAL, ENOSYS = -1 & U64, -22 & U64, -1000 & U64
FIXED, LOWEST, SMI, RESERVED, NMI, INIT, STARTUP, EXTINT = [mode << 8 for mode in range(8)]
LOGICAL, ASSERT, LEVEL = lapic.ICR_LOGICAL, lapic.ICR_ASSERT, lapic.ICR_LEVEL
CODE_64, CODE_32 = 0x29b, 0xc9b


def running(box):
    """Three vCPUs that run, with their APICs on."""
    three(box)
    for n in (1, 2):
        startup.startup(vcpus()[n], r_uint(1))
    assert ready() == [True, True, True]


def call(box, number, low=0, high=0, first=0, command=0, sender=0, cpl=0, long_code=True):
    """What vCPU `sender` finds in RAX. It stands behind the instruction afterwards."""
    vcpu = vcpus()[sender]
    its = block(box, sender)
    its.set('EFER', 0x1500 if long_code else 0x1000)
    attributes = CODE_64 if long_code else CODE_32
    box.memory.put(its.hpa + 0x412, bytearray([attributes & 0xff, attributes >> 8]))
    box.memory.put(its.hpa + 0x422, bytearray([0x93 | cpl << 5, 0x0c]))
    rip = its.get('RIP')

    def guest(machine, registers, own):
        for name, value in (('RAX', number), ('RBX', low), ('RCX', high), ('RDX', first), ('RSI', command)):
            registers.set(name, value)
        own.exit(svm.EXIT_VMMCALL, nrip=own.get('RIP') + 3)
    box.guests[VM] = type('Once', (object,), {'run': staticmethod(guest)})
    scheduler.compartment, scheduler.vcpu = compartments[VM], vcpu
    step()
    registers = Registers(box, int(vcpu.area))
    assert its.get('RIP') == rip + 3
    assert [registers.get(name) for name in ('RBX', 'RCX', 'RDX', 'RSI')] == [low, high, first, command]
    return registers.get('RAX')


def requested(n, vector):
    return bool(vcpus()[n].apic.irr[vector >> 6] >> (vector & 63) & 1)


@given(low=st.integers(0, U64), high=st.integers(0, U64), first=st.one_of(st.integers(0, 5), st.integers(0, U64), st.sampled_from(
           [(1 << 32) - 1, (1 << 32) - 32, (1 << 32) - 64, 1 << 32, 1 << 32 | 1, U64])), vector=st.sampled_from([0, 15, 16, 0x45, 255]),
       long_code=st.booleans(), off=st.sets(st.integers(0, 2)), junk=st.integers(0, 0xffffffff))
@example(low=7, high=0, first=0, vector=0x45, long_code=True, off=set(), junk=0)
@example(low=7, high=0, first=0, vector=15, long_code=True, off=set(), junk=0)
@example(low=1 << 32, high=0, first=0, vector=0x45, long_code=False, off=set(), junk=0)
@example(low=0, high=U64, first=0, vector=0x45, long_code=False, off=set(), junk=0)
def test_the_bitmap_names_apic_ids_from_the_lowest_on(fresh, low, high, first, vector, long_code, off, junk):
    box = fresh(running)
    for n in off:
        vcpus()[n].apic.svr = r_uint(0xff)
    width = 64 if long_code else 32
    bitmap = low % (1 << width) | high % (1 << width) << width
    named = [n for n in range(3) if n >= first % (1 << 32) and bitmap >> n - first % (1 << 32) & 1]
    taken = [n for n in named if n not in off and vector >= 16]
    assert call(box, SEND_IPI, low, high, first, junk << 32 | vector, sender=1, long_code=long_code) == len(taken)
    assert [n for n in range(3) if requested(n, vector)] == taken
    assert all(vcpu.apic.esr_pending == 0 for vcpu in vcpus())


@given(low=st.integers(0, U64), high=st.integers(0, U64), first=st.integers(0, 300), identity=st.integers(0, 300), wide=st.booleans())
@example(low=0, high=1 << 5, first=0, identity=69, wide=True)
@example(low=0, high=1 << 5, first=0, identity=37, wide=False)
@example(low=U64, high=U64, first=0, identity=128, wide=True)
def test_the_bitmap_is_128_or_64_bits_long(low, high, first, identity, wide):
    width = 64 if wide else 32
    bitmap = low % (1 << width) | high % (1 << width) << width
    named = hypercall.is_set(r_uint(low % (1 << width)), r_uint(high % (1 << width)), wide, r_uint(first), identity)
    assert named == (identity >= first and bool(bitmap >> identity - first & 1))


@pytest.mark.parametrize('command, takes', [
    (FIXED | 0x45, True), (FIXED | LEVEL | ASSERT | 0x45, True), (FIXED | LEVEL | 0x45, False), (LOWEST | 0x45, True), (SMI, False), (RESERVED | 0x45, False),
    (NMI, True), (NMI | 0x45, True), (INIT | ASSERT | LEVEL, True), (INIT, True), (INIT | LEVEL, False), (STARTUP | 8, True), (EXTINT | 0x45, False)])
def test_each_mode(fresh, command, takes):
    box = fresh(running)
    mode = command & 7 << 8
    assert call(box, SEND_IPI, 6, 0, 0, command) == (2 if takes else 0)
    for n in (1, 2):
        assert requested(n, 0x45) == (takes and mode in (FIXED, LOWEST))
        assert vcpus()[n].apic.nmi == (takes and mode == NMI)
        assert vcpus()[n].waiting == (takes and mode == INIT)
    assert not requested(0, 0x45) and not vcpus()[0].apic.nmi


def test_lowest_priority_goes_to_each_that_is_named(fresh):
    """As KVM has it: the bitmap is a list of destinations, not a set to choose from."""
    box = fresh(running)
    assert call(box, SEND_IPI, 7, 0, 0, LOWEST | 0x45) == 3
    assert [requested(n, 0x45) for n in range(3)] == [True] * 3


@pytest.mark.parametrize('command', [LOGICAL, 1 << 18, 2 << 18, 3 << 18])
def test_logical_destinations_and_shorthands_are_invalid(fresh, command):
    box = fresh(running)
    assert call(box, SEND_IPI, 7, 0, 0, command | 0x45) == EINVAL
    assert call(box, SEND_IPI, 7, 0, 0, command | 0x45, long_code=False) == EINVAL & 0xffffffff
    assert not any(requested(n, 0x45) for n in range(3))


@pytest.mark.parametrize('cpl', [1, 2, 3])
def test_only_ring_0_may_ask(fresh, cpl):
    box = fresh(running)
    assert call(box, SEND_IPI, 7, 0, 0, 0x45, cpl=cpl) == EPERM
    assert call(box, 11, cpl=cpl) == EPERM
    assert not any(requested(n, 0x45) for n in range(3))


@pytest.mark.parametrize('number, long_code, answer', [
    (0, True, 0), (0, False, 0), (1 << 32, False, 0), (1, True, ENOSYS), (9, True, ENOSYS), (11, True, ENOSYS), (1 << 63, True, ENOSYS),
    (1 << 32 | SEND_IPI, True, ENOSYS), (9, False, ENOSYS & 0xffffffff)])
def test_other_numbers_do_nothing(fresh, number, long_code, answer):
    box = fresh(running)
    assert call(box, number, 7, 0, 0, 0x45, long_code=long_code) == answer
    assert not any(requested(n, 0x45) for n in range(3))


def test_upper_halves_do_not_count_outside_of_64_bit_code(fresh):
    box = fresh(running)
    assert call(box, 7 << 32 | SEND_IPI, 7 << 32 | 6, 0, 0, 7 << 32 | 0x45, long_code=False) == 2


def test_init_to_itself_leaves_nothing_of_the_answer(fresh):
    box = fresh(running)
    vcpu = vcpus()[1]
    box.guests[VM] = type('Once', (object,), {'run': staticmethod(lambda machine, registers, own: (
        registers.set('RAX', SEND_IPI), registers.set('RBX', 2), registers.set('RSI', INIT | ASSERT), own.exit(svm.EXIT_VMMCALL)))})
    scheduler.compartment, scheduler.vcpu = compartments[VM], vcpu
    step()
    assert vcpu.waiting and Registers(box, int(vcpu.area)).get('RAX') == 0 and field(1, 'RIP') == 0xfff0


def test_a_vcpu_that_halts_is_woken(fresh):
    box = fresh(running)
    vcpus()[2].halted, vcpus()[2].ready = True, False
    assert call(box, SEND_IPI, 4, 0, 0, 0x45) == 1
    assert ready() == [True] * 3
