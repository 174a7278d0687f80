"""The quick path does what the loop does: each exit is finished once by either, and everything that a guest, its VMM and the kernel can see of it
is the same afterwards. Here on SVM; tests/unit/vmx/test_vmx_quick.py does it on VMX."""
from hypothesis import example, given, strategies as st

import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.hw import svm as hw
from hypervisor.kernel import quick, svm_quick
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.loop import step
from hypervisor.kernel.switch import switcher
from hypervisor.spec import cpu as bits
from hypervisor.spec import exit as kinds
from hypervisor.spec import call, lapic, svm
from hypervisor.spec.context import QUICK_AGAIN, QUICK_DONE, QUICK_HAND, QUICK_LEAVE
from hypervisor.spec.vcpu import ANSWER, CPUID_ASK, CPUID_CLASSES, CPUID_TABLE, GROUP_CPUID
from tests.unit.kernel.machine import Registers
from tests.unit.kernel.test_guest_exits import VM, running
from tests.unit.kernel.vm import block_of, make_vm, run_guest_once, vcpu_page
from tests.unit.recorded import OF_ENTRY, recorded

INTR, CPUID, MSR, VMMCALL = svm.EXIT_INTR, svm.EXIT_CPUID, svm.EXIT_MSR, svm.EXIT_VMMCALL
X2APIC = lapic.APIC_BASE_RESET | lapic.APIC_BASE_ENABLE | lapic.APIC_BASE_X2APIC | lapic.APIC_BASE_BSP
OFF = X2APIC & ~(lapic.APIC_BASE_X2APIC | lapic.APIC_BASE_ENABLE)
OSXSAVE = 0x40000           # of CR4; bit 27 of leaf 1's ECX follows it
EOI, SELF_IPI = [bits.MSR_X2APIC_FIRST + (offset >> 4) for offset in (lapic.EOI, lapic.SELF_IPI)]
TRACED, RESUMED = 1 << 8, 1 << 16
NAMES = ['RAX', 'RBX', 'RCX', 'RDX']
REPORT = ['EXITCODE', 'EXITINFO1', 'EXITINFO2', 'EXITINTINFO', 'NRIP', 'RAX']
PUBLIC = ['ready', 'outstanding', 'told', 'halted', 'attention', 'nmi_blocked', 'stepping', 'event', 'event_error', 'pat', 'xcr0', 'flush']

leaves = st.one_of(st.integers(0, 40), st.integers(0x80000000 - 2, 0x80000000 + 40), st.integers(0x40000000 - 2, 0x40000000 + 40),
                   st.sampled_from([0x40000100, (1 << 64) - 1, 1 << 32, 1 << 32 | 1]))
numbers = st.one_of(st.sampled_from([bits.MSR_EFER, bits.MSR_PAT, bits.MSR_TSC_DEADLINE, EOI, SELF_IPI, bits.MSR_APIC_BASE, 0x808, 1 << 32 | EOI]),
                    st.integers(0x7f0, 0x850), st.integers(0, 1 << 64 - 1))
small = st.one_of(st.sampled_from([0, 1, 0x30, 0xff, 0x100, 0x500, 0x801, 0xd00, 0xd01, 0x0007040600070406, 0x0206, 0xffffffff, (1 << 64) - 1]), st.integers(0, (1 << 64) - 1))
vectors = st.sets(st.sampled_from([16, 31, 0x30, 0x3f, 0x40, 0x80, 0xef, 0xff]))
states = st.fixed_dictionaries({
    'rflags': st.sampled_from([2, 0x202, 0x202, 2 | TRACED, 2 | RESUMED, 0x246]), 'shadow': st.sampled_from([0, 0, 1]), 'cr4': st.sampled_from([0x20, 0x40020]), 'efer': st.sampled_from([0, 0x801, 0xd01]),
    'base': st.sampled_from([X2APIC, X2APIC, X2APIC & ~lapic.APIC_BASE_X2APIC, OFF]),
    'mode': st.sampled_from([0, 1, 2]), 'irr': vectors, 'isr': vectors, 'tmr': vectors, 'attention': st.sampled_from([False, False, True]),
    'event': st.sampled_from([0, 0, 0x80000030]), 'flush': st.sampled_from([False, False, True])})
PLAIN = {'rflags': 2, 'shadow': 1, 'cr4': 0x40020, 'efer': 0xd00, 'base': X2APIC, 'mode': 2, 'irr': set(), 'isr': set([0x30]), 'tmr': set(), 'attention': False, 'event': 0,
         'flush': False}


def prepare(box, state):
    """A vCPU of VM in that state, about to be entered."""
    vcpu = compartments[VM].vcpus[0]
    run_guest_once(box, VM, lambda machine, registers, block: block.exit(INTR))
    block = block_of(box, VM)
    block.set('RFLAGS', state['rflags'])
    block.set('INTERRUPT_SHADOW', state['shadow'])
    block.set('CR4', state['cr4'])
    block.set('EFER', state['efer'] | bits.EFER_SVME)
    block.set('CR0', 0x80000011 if state['efer'] & bits.EFER_LMA else 0x11)
    apic = vcpu.apic
    apic.base = r_uint(state['base'])
    apic.svr = r_uint(0x1ff)
    apic.lvt[1] = r_uint(state['mode'] << 17 | 0x20)
    for name in ('irr', 'isr', 'tmr'):
        for vector in state[name]:
            getattr(apic, name)[vector >> 6] |= r_uint(1 << (vector & 63))
    vcpu.pat = r_uint(0x0006040100050607)
    for n in range(4):
        memory.store32(vcpu.cpuid + 16 + 4 * n, r_uint((0, 0, 0xf0f0f0f0 if state['cr4'] & OSXSAVE else 0xf8f8f8f8, 0x0f0f0f0f)[n]))
    memory.store32(vcpu.cpuid + CPUID_ASK - CPUID_TABLE, r_uint(state.get('ask', 0x10)))
    vcpu.note_apart()
    vcpu.attention, vcpu.event, vcpu.flush = state['attention'], r_uint(state['event']), state['flush']
    return vcpu


def outcome(box, state, code, info1, rax, rcx, rdx, quick_path):
    """Let the guest exit so. Returns what can be seen when it is finished, and what the quick path has answered."""
    vcpu = prepare(box, state)
    answers, seen = [], []
    hw.fake_quick[0] = quick_path and recorded(quick_path, answers)

    def guest(machine, registers, block):
        if seen:
            seen.append(visible(box, vcpu))
            return block.exit(INTR)
        seen.append(None)
        for name, value in zip(NAMES, (rax, 0x1111111111111111, rcx, rdx)):
            registers.set(name, value)
        block.exit(code, info1, nrip=block.get('RIP') + 5)
    box.guests[VM] = type('Guest', (object,), {'run': staticmethod(guest)})
    step()
    if len(seen) == 1 and vcpu.ready and compartments[VM].state == call.STATE_RUNNING:
        step()                              # to where the guest goes on
    return seen[1] if len(seen) == 2 else visible(box, vcpu), (answers or [None])[0]


def visible(box, vcpu):
    vcpu.settle()
    save = bytearray(box.memory.take(block_of(box, VM).hpa, 4096))
    for name in REPORT:
        save[svm.VMCB[name]:svm.VMCB[name] + 8] = b'\0' * 8
    registers = Registers(box, int(vcpu.area))
    c = compartments[VM]
    apic = dict((name, list(value) if isinstance(value, list) else value) for name, value in vars(vcpu.apic).items())
    return (bytes(save), [registers.get(name) for name in NAMES], [getattr(vcpu, name) for name in PUBLIC], apic, list(vcpu.counts),
            (c.state, c.task.ready, c.task.owes))


@given(state=states, code=st.sampled_from([CPUID, MSR, MSR, VMMCALL, INTR, svm.EXIT_HLT]), info1=st.sampled_from([0, 1]),
       rax=st.one_of(leaves, small), rcx=st.one_of(numbers, small), rdx=small)
@example(state=PLAIN, code=CPUID, info1=0, rax=1, rcx=0, rdx=0)
@example(state=dict(PLAIN, cr4=0x20), code=CPUID, info1=0, rax=1, rcx=0, rdx=0)
@example(state=dict(PLAIN, base=OFF), code=CPUID, info1=0, rax=1, rcx=0, rdx=0)
@example(state=PLAIN, code=MSR, info1=0, rax=0, rcx=bits.MSR_PAT, rdx=0)
@example(state=PLAIN, code=MSR, info1=1, rax=0, rcx=EOI, rdx=0)
@example(state=PLAIN, code=MSR, info1=1, rax=1, rcx=EOI, rdx=0)
@example(state=PLAIN, code=MSR, info1=1, rax=0, rcx=EOI, rdx=1)
@example(state=PLAIN, code=CPUID, info1=0, rax=0x80000004, rcx=0, rdx=0)
@example(state=dict(PLAIN, irr=set([0x40])), code=MSR, info1=1, rax=0, rcx=EOI, rdx=0)
@example(state=dict(PLAIN, tmr=set([0x30])), code=MSR, info1=1, rax=0, rcx=EOI, rdx=0)
@example(state=dict(PLAIN, rflags=2 | TRACED), code=CPUID, info1=0, rax=0, rcx=0, rdx=0)
@example(state=PLAIN, code=MSR, info1=1, rax=0x70406, rcx=bits.MSR_PAT, rdx=0x206)
@example(state=PLAIN, code=MSR, info1=1, rax=0x501, rcx=bits.MSR_EFER, rdx=0)
@example(state=PLAIN, code=MSR, info1=1, rax=0x901, rcx=bits.MSR_EFER, rdx=0)
@example(state=PLAIN, code=MSR, info1=1, rax=0xc00, rcx=bits.MSR_EFER, rdx=1)
@pytest.mark.parametrize('nrips', [False, True])
def test_the_quick_path_does_what_the_loop_does(fresh, nrips, state, code, info1, rax, rcx, rdx):
    results = []
    for quick_path in (None, svm_quick):
        box = fresh(running)
        svm_quick.processor.nrips = nrips
        results.append(outcome(box, state, code, info1, rax, rcx, rdx, quick_path))
    (slow, _), (fast, answered) = results
    assert slow == fast, answered
    if state['flush'] or state['rflags'] & (TRACED | RESUMED):
        assert answered in (QUICK_LEAVE, QUICK_HAND)


@pytest.mark.parametrize('code, info1, rax, rcx, rdx, expected', [
    (CPUID, 0, 0, 0, 0, OF_ENTRY), (CPUID, 0, 0x80000008, 0, 0, OF_ENTRY), (CPUID, 0, 1, 0, 0, OF_ENTRY), (VMMCALL, 0, 0, 0, 0, QUICK_AGAIN),
    (MSR, 0, 0, bits.MSR_EFER, 0, QUICK_AGAIN), (MSR, 0, 0, bits.MSR_PAT, 0, QUICK_AGAIN), (MSR, 1, 0x70406, bits.MSR_PAT, 0x70406, QUICK_AGAIN),
    (MSR, 1, 1 << 31, bits.MSR_TSC_DEADLINE, 1, QUICK_AGAIN), (MSR, 0, 0, bits.MSR_TSC_DEADLINE, 0, QUICK_AGAIN), (MSR, 1, 0, EOI, 0, QUICK_AGAIN),
    (MSR, 1, 0x101, bits.MSR_EFER, 0, QUICK_AGAIN), (MSR, 1, 0x501, bits.MSR_EFER, 0, QUICK_AGAIN), (MSR, 1, 0xc00, bits.MSR_EFER, 0, QUICK_LEAVE),
    (MSR, 1, 0xd02, bits.MSR_EFER, 0, QUICK_LEAVE), (MSR, 1, 0xd00, bits.MSR_EFER, 1, QUICK_LEAVE),
    (MSR, 1, 0x30, SELF_IPI, 0, QUICK_DONE), (MSR, 1, 0x50, SELF_IPI, 0, QUICK_DONE), (CPUID, 0, 4, 0, 0, QUICK_HAND), (MSR, 0, 0, 0x1b, 0, QUICK_LEAVE), (MSR, 0, 0, 0x8b, 0, QUICK_HAND),
    (MSR, 1, 0, 0x8b, 0, QUICK_HAND), (svm.EXIT_IOIO, 0x3f80011, 0, 0, 0, QUICK_HAND), (svm.EXIT_NPF, 4, 0, 0, 0, QUICK_HAND), (INTR, 0, 0, 0, 0, QUICK_LEAVE)])
def test_what_is_quick(fresh, code, info1, rax, rcx, rdx, expected):
    _, answered = outcome(fresh(running), PLAIN, code, info1, rax, rcx, rdx, svm_quick)
    assert answered == expected


@pytest.mark.parametrize('leaf', [1, 3, 4])
@pytest.mark.parametrize('ask', [0, 2, 0x10, 0x12])
def test_leaf_1_is_the_vmms_too_where_it_wants_that(fresh, ask, leaf):
    _, answered = outcome(fresh(running), dict(PLAIN, ask=ask), CPUID, 0, leaf, 0, 0, svm_quick)
    assert answered == (QUICK_HAND if ask >> leaf & 1 else OF_ENTRY)


def test_the_table_stays_as_the_vmm_has_given_it(fresh):
    """Leaf 1 is told otherwise than it stands there."""
    box = fresh(running)
    vcpu, pages = prepare(box, PLAIN), []
    for _ in range(2):
        pages.append([int(memory.load32(vcpu.cpuid + n)) for n in range(0, CPUID_ASK + 4 * len(CPUID_CLASSES) - CPUID_TABLE, 4)])
        assert outcome(box, PLAIN, CPUID, 0, 1, 0, 0, svm_quick)[1] == OF_ENTRY
    assert pages[0] == pages[1] and any(pages[0])


def test_which_leaves_are_apart_is_known_from_the_start_and_follows_the_vmms_table(fresh):
    box = fresh()
    make_vm(box, VM)
    vcpu = compartments[VM].vcpus[0]
    assert int(vcpu.apart) == 2
    box.memory.put_word(vcpu_page(VM) + CPUID_ASK, 0x80000010 | 0x11 << 32)
    box.memory.put_word(vcpu_page(VM) + ANSWER['DIRTY'], GROUP_CPUID)
    assert box.kernel_call(VM, call.VCPU_RUN, call.SLOT_VCPU, 0) is None
    assert int(vcpu.apart) == 0x80000012 | 0x11 << 32


def test_memory_types_of_the_pat():
    for value in range(256):
        assert quick.is_pat(r_uint(value << 16)) == (value in (0, 1, 4, 5, 6, 7)), value
        assert quick.is_pat(r_uint(value << 56 | 0x0001040506070001)) == (value in (0, 1, 4, 5, 6, 7)), value


def test_exits_of_both_ways_are_counted(fresh):
    box = fresh(running)
    vcpu = compartments[VM].vcpus[0]
    before = int(compartments[VM].exits(kinds.CPUID))
    outcome(box, PLAIN, CPUID, 0, 0, 0, 0, svm_quick)
    outcome(box, PLAIN, CPUID, 0, 0, 0, 0, None)
    assert int(compartments[VM].exits(kinds.CPUID)) == before + 2
    assert vcpu.quick_cpuid == 0
