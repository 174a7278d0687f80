"""The quick path does what the loop does, on VMX: the same VMCS, registers and local APIC afterwards."""
from hypothesis import HealthCheck, example, given, settings, strategies as st

import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel import exits, interrupts, vmx_quick
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import switcher
from hypervisor.spec import cpu as bits
from hypervisor.spec import lapic, vmx
from hypervisor.spec.context import AREA, PRIVATE_CPUID, PRIVATE_ENTRY, QUICK_AGAIN, QUICK_DONE, QUICK_HAND, QUICK_LEAVE
from hypervisor.spec.layout import PAGE
from hypervisor.spec.vcpu import CPUID_ASK, CPUID_TABLE
from tests.unit.recorded import OF_ENTRY, recorded
from tests.unit.vmx.machine import Core

CPUID, RDMSR, WRMSR, VMCALL, INTERRUPT = vmx.REASON_CPUID, vmx.REASON_RDMSR, vmx.REASON_WRMSR, vmx.REASON_VMCALL, vmx.REASON_EXTERNAL_INTERRUPT
X2APIC = lapic.APIC_BASE_RESET | lapic.APIC_BASE_ENABLE | lapic.APIC_BASE_X2APIC | lapic.APIC_BASE_BSP
EOI, SELF_IPI = [bits.MSR_X2APIC_FIRST + (offset >> 4) for offset in (lapic.EOI, lapic.SELF_IPI)]
LENGTH = 5
OSXSAVE = 0x40000           # of CR4; bit 27 of leaf 1's ECX follows it
SUBLEAVES = 0x10            # leaf 4 is the VMM's
leaves = st.one_of(st.integers(0, 40), st.integers(0x80000000 - 2, 0x80000000 + 40), st.sampled_from([0x40000000, (1 << 64) - 1, 1 << 32 | 1]))
numbers = st.sampled_from([bits.MSR_EFER, bits.MSR_PAT, bits.MSR_TSC_DEADLINE, EOI, SELF_IPI, 1 << 32 | EOI])
values = st.sampled_from([0, 1, 0x500, 0x801, 0xd00, 0xd01, 0x30, 0xff, 0x100, 0x70406, 0x206, 0xffffffff, (1 << 64) - 1])
vectors = st.sets(st.sampled_from([16, 0x30, 0x40, 0xff]))
states = st.fixed_dictionaries({'rflags': st.sampled_from([2, 0x202, 2, 0x102, 0x10002]), 'blocking': st.sampled_from([0, 1, 2, 8, 9]),
                                'cr4': st.sampled_from([0x20, 0x40020]), 'efer': st.sampled_from([0, 0x801, 0xd01]), 'x2apic': st.booleans(), 'enabled': st.booleans(), 'mode': st.sampled_from([0, 2]),
                                'irr': vectors, 'isr': vectors, 'tmr': vectors, 'attention': st.sampled_from([False, False, True])})
PLAIN = {'rflags': 2, 'blocking': 1, 'cr4': 0x40020, 'efer': 0xd00, 'x2apic': True, 'enabled': True, 'mode': 2, 'irr': set(), 'isr': set([0x30]), 'tmr': set(), 'attention': False}


def prepared(state):
    core = Core().enable()
    vcpu = core.vcpu()
    vcpu.compartment.vcpus, vcpu.compartment.vcpu_count = [vcpu], 1
    switcher.vendor, switcher.owner = core.vendor, vcpu
    scheduler.armed = r_uint(1)
    vcpu.cpuid = vcpu.area + PRIVATE_CPUID
    vcpu.page = vcpu.area + 0
    for n in range((CPUID_ASK - CPUID_TABLE) // 4):
        memory.store32(vcpu.cpuid + 4 * n, r_uint(n * 0x01010101 & 0xffffffff))
    memory.store32(vcpu.cpuid + 24, r_uint(0xf0f0f0f0 if state['cr4'] & OSXSAVE else 0xf8f8f8f8))
    memory.store32(vcpu.cpuid + 28, r_uint(0x0f0f0f0f))
    memory.store32(vcpu.cpuid + CPUID_ASK - CPUID_TABLE, r_uint(SUBLEAVES))
    vcpu.note_apart()
    vmcs = core.fields(vcpu)
    vmcs[vmx.GUEST_RFLAGS], vmcs[vmx.GUEST_INTERRUPTIBILITY], vmcs[vmx.GUEST_CR4] = state['rflags'], state['blocking'], state['cr4']
    vmcs[vmx.CR4_SHADOW] = state['cr4']
    active = state['efer'] & bits.EFER_LMA
    vmcs[vmx.GUEST_EFER], vmcs[vmx.GUEST_CR0] = state['efer'], 0x80000031 if active else 0x31
    vmcs[vmx.ENTRY_CONTROLS] = vmcs[vmx.ENTRY_CONTROLS] & ~vmx.ENTRY_CONTROL_GUEST_64 | (vmx.ENTRY_CONTROL_GUEST_64 if active else 0)
    off = (0 if state['x2apic'] else lapic.APIC_BASE_X2APIC) | (0 if state['enabled'] or state['x2apic'] else lapic.APIC_BASE_ENABLE)
    vcpu.apic.base = r_uint(X2APIC & ~off)
    vcpu.apic.svr = r_uint(0x1ff)
    vcpu.apic.lvt[1] = r_uint(state['mode'] << 17 | 0x20)
    for name in ('irr', 'isr', 'tmr'):
        for vector in state[name]:
            getattr(vcpu.apic, name)[vector >> 6] |= r_uint(1 << (vector & 63))
    vcpu.attention = state['attention']
    return core, vcpu


def outcome(state, reason, rax, rcx, rdx, quick_path):
    """Let the guest exit so. Returns what can be seen when it is finished, or 'the VMM', whose page is not here; and what the quick path has
    answered, None where it was not asked."""
    core, vcpu = prepared(state)
    delivered, answers, seen = [], [], []
    original, exits.answer.deliver = exits.answer.deliver, delivered.append
    hw.fake.quick = quick_path and recorded(quick_path, answers)

    def play(area, vmcs):
        if seen:
            seen.append(visible(core, vcpu))
            vmcs[vmx.EXIT_REASON] = INTERRUPT
            return hw.SUCCEED
        seen.append(None)
        for name, value in (('RAX', rax), ('RBX', 1 << 63), ('RCX', rcx), ('RDX', rdx)):
            memory.store64(r_uint(area + AREA[name]), r_uint(value))
        vmcs.update({vmx.EXIT_REASON: reason, vmx.EXIT_INSTRUCTION_LENGTH: LENGTH, vmx.IDT_VECTORING_INFO: 0})
        return hw.SUCCEED
    hw.fake.run = play
    try:
        left = core.vendor.run(vcpu)
        answer = (answers or [None])[0]
        if left and len(seen) == 1:
            exits.handle(vcpu)
        if len(seen) == 1 and not delivered and (not vcpu.attention or interrupts.prepare(vcpu)):
            core.vendor.run(vcpu)           # to where the guest goes on
    finally:
        exits.answer.deliver = original
    return delivered and 'the VMM' or seen[1], answer


def visible(core, vcpu):
    vcpu.settle()
    vmcs = dict((name, core.fields(vcpu).get(encoding, 0)) for encoding, name in vmx.NAME_OF.items() if vmx.kind_of(encoding) != vmx.READ_ONLY)
    apic = dict((name, list(value) if isinstance(value, list) else value) for name, value in vars(vcpu.apic).items())
    page = bytearray(memory.fake.read(vcpu.area, PAGE))
    page[PRIVATE_ENTRY:PRIVATE_ENTRY + 16] = bytearray(16)
    return vmcs, page, apic, list(vcpu.counts), vcpu.pat, vcpu.event, vcpu.ready


@settings(max_examples=60, suppress_health_check=HealthCheck.all())
@given(state=states, reason=st.sampled_from([CPUID, RDMSR, WRMSR, WRMSR, VMCALL, vmx.REASON_WBINVD]), rax=st.one_of(leaves, values),
       rcx=numbers, rdx=values)
@example(state=PLAIN, reason=CPUID, rax=1, rcx=0, rdx=0)
@example(state=dict(PLAIN, cr4=0x20), reason=CPUID, rax=1, rcx=0, rdx=0)
@example(state=dict(PLAIN, enabled=False, x2apic=False), reason=CPUID, rax=1, rcx=0, rdx=0)
@example(state=PLAIN, reason=WRMSR, rax=0, rcx=EOI, rdx=0)
@example(state=PLAIN, reason=WRMSR, rax=1, rcx=EOI, rdx=0)
@example(state=dict(PLAIN, efer=0xd01), reason=WRMSR, rax=0x500, rcx=bits.MSR_EFER, rdx=0)
@example(state=dict(PLAIN, tmr=set([0x30])), reason=WRMSR, rax=0, rcx=EOI, rdx=0)
@example(state=dict(PLAIN, rflags=0x102), reason=CPUID, rax=0, rcx=0, rdx=0)
@example(state=PLAIN, reason=WRMSR, rax=0x70406, rcx=bits.MSR_PAT, rdx=0x70406)
def test_the_quick_path_does_what_the_loop_does(state, reason, rax, rcx, rdx):
    slow, _ = outcome(state, reason, rax, rcx, rdx, None)
    fast, answered = outcome(state, reason, rax, rcx, rdx, vmx_quick)
    assert slow == fast, answered
    if state['attention']:
        assert answered is None
    elif state['rflags'] & 0x10100:
        assert answered == QUICK_LEAVE


@pytest.mark.parametrize('reason, rax, rcx, rdx, expected', [
    (CPUID, 0, 0, 0, OF_ENTRY), (CPUID, 0x80000008, 0, 0, OF_ENTRY), (VMCALL, 0, 0, 0, QUICK_AGAIN), (RDMSR, 0, bits.MSR_EFER, 0, QUICK_AGAIN),
    (WRMSR, 0x70406, bits.MSR_PAT, 0x70406, QUICK_AGAIN), (WRMSR, 0, EOI, 0, QUICK_AGAIN), (WRMSR, 0x30, SELF_IPI, 0, QUICK_DONE),
    (WRMSR, 0x501, bits.MSR_EFER, 0, QUICK_AGAIN), (WRMSR, 0xc00, bits.MSR_EFER, 0, QUICK_LEAVE), (WRMSR, 0x900, bits.MSR_EFER, 0, QUICK_AGAIN),
    (CPUID, 4, 0, 0, QUICK_HAND), (RDMSR, 0, 0x8b, 0, QUICK_HAND), (vmx.REASON_IO, 0, 0, 0, QUICK_HAND), (vmx.REASON_EPT_VIOLATION, 0, 0, 0, QUICK_HAND), (WRMSR, 0x206, bits.MSR_PAT, 0, QUICK_LEAVE), (vmx.REASON_WBINVD, 0, 0, 0, QUICK_LEAVE)])
def test_what_is_quick(reason, rax, rcx, rdx, expected):
    assert outcome(PLAIN, reason, rax, rcx, rdx, vmx_quick)[1] == expected
