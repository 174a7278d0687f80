"""The straight path does what the loop does, on VMX: the same VMCS, registers, page and states afterwards. What VMMs may say is
tests/unit/kernel/test_straight.py's."""
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu, memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel import answer, exits, vmx_quick
from hypervisor.kernel.arena import arena
from hypervisor.kernel.compartment import Compartment
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.straight import back
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.task import IN_VCPU_RUN
from hypervisor.kernel.vcpu import exit_reasons
from hypervisor.spec import call, lapic, vmx
from hypervisor.spec import exit as kinds
from hypervisor.spec.context import AREA, PRIVATE_CPUID, VMM
from hypervisor.spec.layout import PAGE
from hypervisor.spec.vcpu import ANSWER, BROUGHT_SHIFT, CPUID_ASK, CPUID_TABLE, EXIT
from tests.unit.vmx.machine import Core

IO, EPT, RDMSR, WRMSR, CPUID = vmx.REASON_IO, vmx.REASON_EPT_VIOLATION, vmx.REASON_RDMSR, vmx.REASON_WRMSR, vmx.REASON_CPUID
IN_BYTE, IN_WORD, IN_LONG, OUT_BYTE, OUT_LONG = 0x3fd0008, 0x3f80009, 0xcf8000b, 0x3f80000, 0xcf80003
EXITS = [(IO, IN_BYTE), (IO, IN_WORD), (IO, IN_LONG), (IO, OUT_BYTE), (IO, OUT_LONG), (RDMSR, 0), (WRMSR, 0), (CPUID, 0)]
LENGTH = 3
SLOT = call.SLOT_VCPU
TF, RF, BREAKPOINT = 1 << 8, 1 << 16, 0x401
values = st.one_of(st.sampled_from([0, 1, 0xff, 0xffffffff, (1 << 64) - 1]), st.integers(0, (1 << 64) - 1))


def outcome(reason, qualification, rax, result, straight, rflags=2, blocking=1, dr7=0x400, vectoring=0, action=0, gpa=0xfe000010, seen_by=None):
    """Returns what can be seen when the guest goes on, or when the loop has the exit or the answer to see to; and which it was."""
    core = Core().enable()
    compartment = Compartment(1)
    compartment.set_pages(arena.take_run(2), r_uint(2 * PAGE))
    compartment.nested.root = r_uint(0x1234000)
    task = compartment.task
    task.area = arena.take()
    vcpu = core.vcpu(compartment=compartment)
    vcpu.task, vcpu.slot, vcpu.started, vcpu.ready = task, r_uint(SLOT), True, True
    vcpu.page = arena.take()
    vcpu.cpuid = vcpu.area + PRIVATE_CPUID
    memory.store32(vcpu.cpuid + CPUID_ASK - CPUID_TABLE, r_uint(1 << 4))
    vcpu.note_apart()
    for name, value in (('AREA', task.area), ('ROOT', r_uint(0x5000)), ('REASONS', exit_reasons(vcpu))):
        memory.store64(vcpu.area + VMM[name], value)
    task.block(IN_VCPU_RUN, r_uint(0))
    switcher.vendor, switcher.owner = core.vendor, vcpu
    scheduler.compartment, scheduler.vcpu, scheduler.since, scheduler.turn_over = compartment, vcpu, r_uint(0), False
    back.pending = False
    vmcs = core.fields(vcpu)
    vmcs[vmx.GUEST_RFLAGS], vmcs[vmx.GUEST_INTERRUPTIBILITY], vmcs[vmx.GUEST_DR7], vmcs[vmx.GUEST_RIP] = rflags, blocking, dr7, 0x7000
    seen = []

    def play(area, fields):
        if seen:
            seen.append(visible(core, vcpu))
            fields[vmx.EXIT_REASON] = vmx.REASON_EXTERNAL_INTERRUPT
            return hw.SUCCEED
        seen.append(None)
        for name, value in (('RAX', 4 if reason == CPUID else rax), ('RBX', 7), ('RCX', 0x8b), ('RDX', 0x55)):
            memory.store64(r_uint(area + AREA[name]), r_uint(value))
        fields.update({vmx.EXIT_REASON: reason, vmx.EXIT_QUALIFICATION: qualification, vmx.EXIT_INSTRUCTION_LENGTH: LENGTH,
                       vmx.GUEST_PHYSICAL_ADDRESS: gpa, vmx.IDT_VECTORING_INFO: vectoring})
        return hw.SUCCEED

    def vmm(area, root):
        if seen_by is not None:
            seen_by.append([memory.load64(vcpu.page + EXIT[name]) for name in ('FLAGS', 'VALUE')])
        for name, value in (('RAX', call.VCPU_RUN), ('RDI', SLOT), ('RSI', 0)):
            memory.store64(task.area + AREA[name], r_uint(value))
        for name, value in (('ACTION', action), ('RESULT', result), ('RESULT2', ~result & (1 << 64) - 1), ('DIRTY', 0)):
            memory.store64(vcpu.page + ANSWER[name], r_uint(value))
        return call.GATE
    hw.fake.run, hw.fake.quick, cpu.fake.run = play, (vmx_quick.first, vmx_quick.more), vmm
    hw.fake.straight = (vmx_quick.hand, vmx_quick.answered) if straight else None
    if core.vendor.run(vcpu) and len(seen) == 1:
        exits.handle(vcpu)
        assert len(seen) == 1 and task.ready
        vmm(task.area, 0)
    went = len(seen) == 2
    if not went and vcpu.outstanding:
        answer.vcpu_run(owner(compartment, vcpu), r_uint(SLOT), r_uint(0))
        core.vendor.run(vcpu)
    return seen[1] if len(seen) == 2 else None, went


def owner(compartment, vcpu):
    """The compartment has the vCPU in its slot."""
    from hypervisor.kernel import vcpu as module
    from hypervisor.kernel.compartment import VCPU
    module.vcpus[0] = vcpu
    compartment.set_slot(SLOT, VCPU, r_uint(0), r_uint(0))
    compartment.vcpus[0], compartment.vcpu_count = vcpu, 1
    return compartment


def visible(core, vcpu):
    vcpu.settle()
    vmcs = dict((name, core.fields(vcpu).get(encoding, 0)) for encoding, name in vmx.NAME_OF.items() if vmx.kind_of(encoding) != vmx.READ_ONLY)
    task = vcpu.task
    return (vmcs, memory.fake.read(vcpu.area, PAGE), memory.fake.read(vcpu.page, PAGE), list(vcpu.counts), vcpu.event, vcpu.ready, vcpu.outstanding, vcpu.attention,
            task.ready, task.blocked, task.owes, task.owed_ticks, task.deadline, scheduler.vcpu is vcpu)


def both(*arguments, **more):
    """Returns whether the straight way went straight."""
    slow, _ = outcome(*arguments, straight=False, **more)
    fast, went = outcome(*arguments, straight=True, **more)
    assert slow == fast and slow is not None
    return went


@pytest.mark.parametrize('reason, qualification', EXITS)
def test_what_is_plain_goes_straight(reason, qualification):
    assert both(reason, qualification, 0x1122334455667788, 0xa1b2c3d4e5f60718)


@pytest.mark.parametrize('more, straight', [({'rflags': 2 | TF}, True), ({'rflags': 2 | RF}, True), ({'dr7': BREAKPOINT}, False)])
def test_traps_are_seen_to(more, straight):
    assert both(IO, IN_BYTE, 0, 0x61, **more) == straight


def test_memory_comes_with_its_state():
    assert both(EPT, 0x181, 0, 0, action=1)


@pytest.mark.parametrize('qualification, offset, value', [
    (0x181, lapic.VERSION, lapic.VERSION_VALUE), (0x181, lapic.SPURIOUS, 0xff), (0x182, lapic.VERSION, None), (0x183, lapic.VERSION, None), (0x184, lapic.VERSION, None),
    (0x81, lapic.VERSION, None), (0x181, lapic.VERSION + 4, None), (0x181, 0x400, None)])
def test_a_read_of_a_register_of_the_apic_brings_its_value(qualification, offset, value):
    seen = []
    assert both(EPT, qualification, 0, 0, action=1, gpa=lapic.APIC_BASE_RESET + offset, seen_by=seen)
    for flags, word in seen:
        assert flags & kinds.ACCESS_BROUGHT == kinds.ACCESS_BROUGHT * (value is not None) and word >> BROUGHT_SHIFT == (value or 0)


@settings(max_examples=40, suppress_health_check=HealthCheck.all())
@given(exit=st.sampled_from(EXITS), rax=values, result=values, rflags=st.sampled_from([2, 0x202, 0x102, 0x10002]), blocking=st.sampled_from([0, 1, 2, 8]))
def test_the_straight_path_does_what_the_loop_does(exit, rax, result, rflags, blocking):
    both(exit[0], exit[1], rax, result, rflags=rflags, blocking=blocking)
