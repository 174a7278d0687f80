"""The straight path does what the loop does: an exit goes to its VMM and is answered, plainly or not, once by either, and everything that guest,
VMM and kernel can see is the same afterwards. Here on SVM; tests/unit/vmx/test_vmx_straight.py does it on VMX."""
from hypothesis import example, given, strategies as st

import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.hw import svm as hw
from hypervisor.kernel import interrupts, svm_exit, svm_quick
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.loop import step
from hypervisor.kernel.scheduler import scheduler
from hypervisor.spec import call, ending, lapic, svm, vcpu as layout
from hypervisor.spec import exit as kinds
from tests.unit.kernel.machine import GATE_VECTOR, TIMER_VECTOR
from tests.unit.kernel.test_guest_exits import VM, running
from tests.unit.kernel.test_quick_path import PLAIN, prepare, visible
from tests.unit.kernel.vm import exit_field, put_answer, vcpu_page

IOIO, NPF, MSR, CPUID, HLT, INTR, SHUTDOWN = svm.EXIT_IOIO, svm.EXIT_NPF, svm.EXIT_MSR, svm.EXIT_CPUID, svm.EXIT_HLT, svm.EXIT_INTR, svm.EXIT_SHUTDOWN
SLOT = call.SLOT_VCPU
IN_BYTE, IN_WORD, IN_LONG, OUT_BYTE, OUT_LONG, OUT_STRING = 0x3fd0011, 0x3f80021, 0xcf80041, 0x3f80010, 0xcf80040, 0x3f80014
TRACED, RESUMED = 1 << 8, 1 << 16
GUEST_TICKS, VMM_TICKS = 700, 300
DEADLINE = 1 << 50          # until which the VMM waits
FIELDS = ['ACTION', 'RESULT', 'RESULT2', 'ERROR', 'DIRTY', 'RIP', 'RFLAGS', 'RBX']
COMPLETE = {}
EVENT = 0x80000b0e          # in EXITINTINFO: a page fault that was being delivered


def run(**answer):
    """VCPU_RUN of the VMM's, with that answer; slot and deadline apart."""
    return GATE_VECTOR, [call.VCPU_RUN, answer.pop('slot', SLOT), answer.pop('deadline', DEADLINE)], answer


def other(number, *arguments):
    return GATE_VECTOR, [number] + list(arguments), {}


class Vmm(object):
    """Does these things, one at a run, and completes exits from then on. before: what there was when it ran for the second time, and later."""

    def __init__(self, *things):
        self.things = list(things)
        self.before = None

    def run(self, machine, registers, root):
        if self.before is None:
            self.before = []
        else:
            vcpu, task = compartments[VM].vcpus[0], compartments[VM].task
            self.before.append((vcpu.outstanding, vcpu.told, vcpu.ready, task.owes, int(task.owed_ticks), task.ready, task.blocked, int(task.deadline),
                                scheduler.vcpu is None))
        vector, arguments, answer = self.things.pop(0) if self.things else run()
        machine.cpu.tsc += VMM_TICKS
        put_answer(machine, VM, **answer)
        for name, value in zip(('RAX', 'RDI', 'RSI', 'RDX', 'R10', 'R8', 'R9'), arguments + [0] * 7):
            registers.set(name, value)
        return vector


def everything(box, vcpu):
    """visible(), and what exits that are the VMM's leave behind."""
    vcpu.told &= vcpu.outstanding       # it says nothing without
    c, page = compartments[VM], bytearray(box.memory.take(vcpu_page(VM), 128))
    state = box.memory.take(vcpu_page(VM) + 128, layout.CPUID_TABLE - 128)
    task = c.task
    return (visible(box, vcpu), bytes(page), bytes(state), int(vcpu.ticks), int(task.ticks), task.blocked, int(task.deadline), task.owes, int(task.owed_ticks),
            c.how, int(c.detail), scheduler.vcpu is vcpu, scheduler.compartment is c, int(scheduler.since))


def outcome(box, code, info1, info2, registers_before, things, straight, rflags=2, dr7=0x400, interrupted=0, cr4=PLAIN['cr4'], leaf=4, base=PLAIN['base'],
            tpr=0, vmm=Vmm, code_segment=0, efer=PLAIN['efer'], **marks):
    """Let the guest exit so, and its VMM do these things. Returns everything when the guest goes on or the VM ends, and whether that took one
    step of the loop."""
    vcpu = prepare(box, dict(PLAIN, rflags=rflags, cr4=cr4, base=base, efer=efer))
    memory.store32(vcpu.cpuid + layout.CPUID_ASK - layout.CPUID_TABLE, r_uint(1 << leaf))
    vcpu.note_apart()
    hw.fake_quick[0] = (svm_quick.first, svm_quick.more)
    hw.fake_straight[0] = (svm_quick.hand, svm_quick.answered) if straight else None
    seen = []

    def guest(machine, registers, block):
        if seen:
            if len(seen) == 1:
                seen.append(everything(box, vcpu))
            return block.exit(INTR)
        seen.append(None)
        box.cpu.tsc += GUEST_TICKS
        for name, value in zip(('RAX', 'RCX', 'RDX'), registers_before):
            registers.set(name, value)
        block.set('DR7', dr7)
        block.set('V_INTR', block.get('V_INTR') & ~15 | tpr)       # by MOV to CR8
        block.set('EVENTINJ', 0x80000030)       # what the entry has delivered
        for name, value in marks.items():
            setattr(vcpu, name, value)          # as if it had come meanwhile
        block.exit(code, info1, block.get('RIP') + 2 if code == IOIO else info2, interrupted)
    box.guests[VM] = type('Guest', (object,), {'run': staticmethod(guest)})
    vmm = box.tasks[VM] = vmm(*things)
    if code_segment:
        memory.store16(vcpu.control + svm_exit.CS_ATTRIBUTES, r_uint(code_segment))
    compartments[VM].task.deadline = r_uint(DEADLINE)
    scheduler.compartment, scheduler.vcpu = compartments[VM], vcpu
    steps = 0
    while len(seen) < 2 and compartments[VM].state == call.STATE_RUNNING and steps < 12:
        step()
        steps += 1
    return (seen[1] if len(seen) == 2 else everything(box, vcpu)) + (vmm.before,), steps == 1


def both(fresh, *arguments, **more):
    """Both ways must end alike. Returns whether the straight one went straight, and the end."""
    slow, _ = outcome(fresh(running), *arguments, straight=False, **more)
    fast, at_once = outcome(fresh(running), *arguments, straight=True, **more)
    for one, two in zip(slow, fast):
        assert one == two
    return at_once, fast


EXITS = [(IOIO, IN_BYTE, 0), (IOIO, IN_WORD, 0), (IOIO, IN_LONG, 0), (IOIO, OUT_BYTE, 0), (IOIO, OUT_LONG, 0), (MSR, 0, 0), (MSR, 1, 0), (CPUID, 0, 0)]
ASKED_LEAF, VMM_MSR = 4, 0x8b           # of the table that `running` gives: a leaf with subleaves; IA32_BIOS_SIGN_ID


@pytest.mark.parametrize('leaf, cr4', [(7, 0x400628), (7, 0x628), (0xd, 0x628)])
def test_leaves_that_bring_state_go_straight(fresh, leaf, cr4):
    slow, _ = outcome(fresh(running), CPUID, 0, 0, (leaf, 1, 0x99), [run(RESULT=5, RESULT2=6)], straight=False, cr4=cr4, leaf=leaf)
    box = fresh(running)
    fast, at_once = outcome(box, CPUID, 0, 0, (leaf, 1, 0x99), [run(RESULT=5, RESULT2=6)], straight=True, cr4=cr4, leaf=leaf)
    assert at_once and slow == fast
    assert exit_field(box, VM, 'VALUE') == {0x400628: 0x400000, 0x628: 1 if leaf == 0xd else 0}[cr4]


def registers_for(code, rax=0x1122334455667788):
    return (ASKED_LEAF if code == CPUID else rax, 3 if code == CPUID else VMM_MSR, 0x99)


@pytest.mark.parametrize('code, info1, info2', EXITS)
def test_what_is_plain_goes_straight(fresh, code, info1, info2):
    at_once, _ = both(fresh, code, info1, info2, registers_for(code), [run(RESULT=0xa1b2c3d4e5f60718, RESULT2=0x1234567890abcdef)])
    assert at_once


@pytest.mark.parametrize('name, thing', [
    ('another slot', run(slot=SLOT + 1)), ('a slot that is none', run(slot=1 << 63)), ('no deadline', run(deadline=0)), ('a deadline', run(deadline=1 << 40)), ('a deadline that is near', run(deadline=1)),
    ('an unknown action', run(ACTION=3)), ('dirty', run(DIRTY=layout.GROUP_FLOW, RIP=0x1234, RFLAGS=2)), ('unknown groups', run(DIRTY=1 << 40)),
    ('resume', run(ACTION=layout.RESUME)), ('inject', run(ACTION=layout.INJECT, RESULT2=13)), ('inject nonsense', run(ACTION=layout.INJECT, RESULT2=2)),
    ('no call', other(99)), ('an interrupt', other(call.VCPU_INTERRUPT, SLOT, call.INTERRUPT_FIXED, 0x55, 0xff)),
    ('a call that looks like it', other(call.VCPU_READ, SLOT, DEADLINE)), ('vcpu_read', other(call.VCPU_READ, SLOT, layout.GROUP_GPR)), ('stop', other(call.STOP, call.SLOT_SELF, ending.EXITED, 7)),
    ('the timer', (TIMER_VECTOR, [call.VCPU_RUN, SLOT, DEADLINE], {})), ('a page fault', (14, [call.VCPU_RUN, SLOT, DEADLINE], {})), ('a division', (0, [], {}))])
@pytest.mark.parametrize('code, info1, info2', [(IOIO, IN_BYTE, 0), (MSR, 0, 0), (NPF, 4, 0xfe000000)])
def test_what_is_not_plain_is_the_loops(fresh, code, info1, info2, name, thing):
    at_once, _ = both(fresh, code, info1, info2, registers_for(code), [thing, run(ACTION=layout.RESUME if code == NPF else layout.COMPLETE)])
    assert not at_once or name in ('dirty', 'resume') or compartments[VM].state == call.STATE_ENDED


@pytest.mark.parametrize('dirty, straight', [(0, True), (layout.GROUP_FLOW, True), (layout.REGISTER | 3 << layout.REGISTER_SHIFT | layout.GROUP_FLOW, True),
                                             (layout.GROUP_GPR, True), (layout.GROUP_CONTROL, False), (layout.GROUP_TIME, False)])
def test_an_emulated_instruction_goes_straight(fresh, dirty, straight):
    """Unless it has changed more than registers."""
    at_once, _ = both(fresh, NPF, 4, 0xfe000000, registers_for(NPF), [run(ACTION=layout.RESUME, DIRTY=dirty, RIP=0x7777, RFLAGS=0x46, RBX=0x1234)])
    assert at_once == straight


XAPIC, APIC_OFF, X2APIC = 0xfee00900, 0xfee00100, 0xfee00d00
APIC_PAGE, READ, WRITE, FETCH, FINAL = 0xfee00000, 4, 6, 0x14, 1 << 32


@pytest.mark.parametrize('offset', range(0, 0x400, 16))
def test_a_read_of_a_register_of_the_apic_brings_what_vcpu_apic_answers(fresh, offset):
    answered = []

    class Asks(Vmm):
        def run(self, machine, registers, root):
            vcpu = compartments[VM].vcpus[0]
            answered.append(int(interrupts.accessed(vcpu, offset, False, r_uint(0))))
            return Vmm.run(self, machine, registers, root)
    at_once, _ = both(fresh, NPF, FINAL | READ, APIC_PAGE + offset, registers_for(NPF), [run(ACTION=layout.RESUME)], base=XAPIC, vmm=Asks)
    assert at_once and len(set(answered)) == 1
    box = brought(fresh, FINAL | READ, APIC_PAGE + offset, base=XAPIC)
    assert exit_field(box, VM, 'FLAGS') == kinds.ACCESS_READ | kinds.ACCESS_OPERAND | kinds.ACCESS_BROUGHT
    assert exit_field(box, VM, 'VALUE') >> layout.BROUGHT_SHIFT == answered[0]


def brought(fresh, info1, gpa, **more):
    box = fresh(running)
    outcome(box, NPF, info1, gpa, registers_for(NPF), [run(ACTION=layout.RESUME)], straight=True, **more)
    return box


@pytest.mark.parametrize('info1, gpa, base', [
    (FINAL | WRITE, APIC_PAGE + 0x80, XAPIC), (FINAL | FETCH, APIC_PAGE + 0x80, XAPIC), (1 << 33 | READ, APIC_PAGE + 0x80, XAPIC),
    (FINAL | READ, APIC_PAGE + 0x84, XAPIC), (FINAL | READ, APIC_PAGE + 0x400, XAPIC), (FINAL | READ, APIC_PAGE - 0x10, XAPIC), (FINAL | READ, APIC_PAGE + 0x1030, XAPIC),
    (FINAL | READ, APIC_PAGE + (1 << 32) + 0x30, XAPIC), (FINAL | READ, APIC_PAGE + 0x30, APIC_OFF), (FINAL | READ, APIC_PAGE + 0x30, X2APIC)])
def test_no_other_access_brings_anything(fresh, info1, gpa, base):
    both(fresh, NPF, info1, gpa, registers_for(NPF), [run(ACTION=layout.RESUME)], base=base)
    box = brought(fresh, info1, gpa, base=base)
    assert not exit_field(box, VM, 'FLAGS') & kinds.ACCESS_BROUGHT and exit_field(box, VM, 'VALUE') >> layout.BROUGHT_SHIFT == 0


def test_what_is_brought_knows_of_a_mov_to_cr8(fresh):
    at_once, _ = both(fresh, NPF, FINAL | READ, APIC_PAGE + lapic.TPR, registers_for(NPF), [run(ACTION=layout.RESUME)], base=XAPIC, tpr=5)
    assert not at_once and exit_field(brought(fresh, FINAL | READ, APIC_PAGE + lapic.TPR, base=XAPIC, tpr=5), VM, 'VALUE') >> layout.BROUGHT_SHIFT == 0x50


EMULATED = {'ACTION': layout.RESUME, 'DIRTY': layout.GROUP_FLOW | layout.REGISTER | 3 << layout.REGISTER_SHIFT, 'RIP': 0x7777, 'RFLAGS': 2, 'RBX': 0x1234}
HIGH, HOLE, LONG, COMPATIBLE = 0xffffffff81000000, 0x800000000000, 0xa9b, 0xc9b


@pytest.mark.parametrize('answer, more', [
    ({'RIP': 0xffffffff}, {}), ({'RIP': HIGH}, {'code_segment': LONG}), ({'RIP': 1 << 32}, {'code_segment': LONG}), ({'RFLAGS': 0x246}, {}), ({'RFLAGS': 2 | RESUMED}, {}),
    ({'DIRTY': layout.REGISTER | 3 << layout.REGISTER_SHIFT}, {}),
    ({'DIRTY': layout.GROUP_FLOW | layout.REGISTER | 4 << layout.REGISTER_SHIFT, 'RSP': 0x99}, {}),
    ({'DIRTY': layout.GROUP_FLOW | layout.REGISTER | 15 << layout.REGISTER_SHIFT, 'R15': 0x99}, {}), ({'DIRTY': layout.GROUP_FLOW | layout.REGISTER, 'RAX': 0x99}, {}),
    ({'DIRTY': layout.GROUP_FLOW | 3 << layout.REGISTER_SHIFT}, {})])
def test_an_emulated_instruction_goes_straight_with_any_good_state(fresh, answer, more):
    at_once, _ = both(fresh, NPF, FINAL | READ, 0xfe000000, registers_for(NPF), [run(**dict(EMULATED, **answer))], **more)
    assert at_once and compartments[VM].state == call.STATE_RUNNING


@pytest.mark.parametrize('answer, more', [
    ({'RIP': 1 << 32}, {'code_segment': COMPATIBLE}), ({'RIP': HIGH}, {'code_segment': COMPATIBLE}), ({'RIP': HIGH}, {'code_segment': LONG, 'efer': 0}),
    ({'RIP': HOLE}, {'code_segment': LONG}), ({'RFLAGS': 0}, {}), ({'RFLAGS': 0x44}, {}), ({'RFLAGS': 0x8002}, {}), ({'RFLAGS': 1 << 40 | 2}, {}),
    ({'ACTION': layout.COMPLETE}, {}), ({'ACTION': 3}, {}), ({'ACTION': 1 << 32 | layout.RESUME}, {}), ({'DIRTY': layout.GROUP_FLOW | 1 << 40}, {})])
def test_an_emulated_instruction_with_a_bad_state_ends_the_vm(fresh, answer, more):
    both(fresh, NPF, FINAL | READ, 0xfe000000, registers_for(NPF), [run(**dict(EMULATED, **answer))], **more)
    assert compartments[VM].how == ending.VMM_BAD_ANSWER


@pytest.mark.parametrize('answer, more', [({'ACTION': layout.INJECT, 'RESULT2': 13}, {}), ({'DIRTY': layout.GROUP_FLOW | layout.TELL_STOLEN}, {}),
                                          ({'RFLAGS': 2 | TRACED}, {}), ({}, {'attention': True}), ({}, {'flush': True})])
def test_an_emulated_instruction_is_the_loops_when_something_is_to_be_seen_to(fresh, answer, more):
    at_once, _ = both(fresh, NPF, FINAL | READ, 0xfe000000, registers_for(NPF), [run(**dict(EMULATED, **answer))], **more)
    assert not at_once and compartments[VM].state == call.STATE_RUNNING


@pytest.mark.parametrize('more, straight', [({'rflags': 2 | TRACED}, False), ({'rflags': 2 | RESUMED}, True), ({'dr7': 0x401}, False)])
def test_traps_are_seen_to(fresh, more, straight):
    at_once, _ = both(fresh, IOIO, IN_BYTE, 0, registers_for(IOIO), [run(RESULT=5)], **more)
    assert at_once == straight


@pytest.mark.parametrize('code, info1, info2', [(IOIO, OUT_STRING, 0), (HLT, 0, 0), (SHUTDOWN, 0, 0), (NPF, 6, 0xfe000000)])
def test_other_exits(fresh, code, info1, info2):
    both(fresh, code, info1, info2, registers_for(code), [run(ACTION=layout.RESUME)])


def test_an_access_cannot_be_completed(fresh):
    both(fresh, NPF, 4, 0xfe000000, registers_for(NPF), [run()])
    assert compartments[VM].how == ending.VMM_BAD_ANSWER


def test_an_access_while_an_event_is_delivered_ends_the_vm(fresh):
    _, end = both(fresh, NPF, 4, 0xfe000000, registers_for(NPF), [run()], interrupted=EVENT)
    assert compartments[VM].how == ending.KERNEL_LIMIT


def test_a_vmm_that_waits_for_a_signal_is_not_entered(fresh):
    """Its exit waits until it calls VCPU_RUN again."""
    for straight in (False, True):
        box = fresh(running)
        vcpu = prepare(box, PLAIN)
        hw.fake_quick[0] = (svm_quick.first, svm_quick.more)
        hw.fake_straight[0] = (svm_quick.hand, svm_quick.answered) if straight else None
        compartments[VM].task.block(1, r_uint(0))
        box.guests[VM] = type('Guest', (object,), {'run': staticmethod(lambda machine, registers, block: block.exit(IOIO, IN_BYTE, block.get('RIP') + 2))})
        scheduler.compartment, scheduler.vcpu = compartments[VM], vcpu
        del box.log[:]
        step()
        assert (vcpu.outstanding, vcpu.told, vcpu.ready) == (True, False, False) and ('task', VM) not in box.log


values = st.one_of(st.sampled_from([0, 1, 0xff, 0x100, 0xffffffff, (1 << 64) - 1]), st.integers(0, (1 << 64) - 1))
answers = st.fixed_dictionaries({'ACTION': st.sampled_from([0, 0, 0, 1, 2, 3, 1 << 63]), 'RESULT': values, 'RESULT2': values, 'ERROR': values,
                                 'DIRTY': st.sampled_from([0, 0, 0, 1, 2, 3, 256, 256 | 3 << 12, 1 << 63]), 'RIP': values, 'RFLAGS': st.sampled_from([2, 0x202, 0]),
                                 'RBX': values, 'deadline': st.sampled_from([DEADLINE, DEADLINE, 0, 1, 1 << 62]), 'slot': st.sampled_from([SLOT, SLOT, SLOT, 0, 64])})


@given(exit=st.sampled_from(EXITS + [(NPF, 4, 0xfe000000), (NPF, 1 << 32 | 6, 0xfee00300), (NPF, 1 << 32 | 4, 0xfee00390)]), rax=values, answer=answers, rflags=st.sampled_from([2, 2, 0x202, 2 | TRACED]),
       base=st.sampled_from([XAPIC, X2APIC]))
@example(exit=EXITS[0], rax=0x1ff, answer=dict((name, 0) for name in FIELDS + ['deadline'] if name != 'slot'), rflags=2, base=X2APIC)
def test_the_straight_path_does_what_the_loop_does(fresh, exit, rax, answer, rflags, base):
    code, info1, info2 = exit
    both(fresh, code, info1, info2, registers_for(code, rax), [run(**dict(answer))], rflags=rflags, base=base)


def test_exits_are_counted(fresh):
    for straight in (False, True):
        box = fresh(running)
        before = int(compartments[VM].exits(kinds.IO))
        outcome(box, IOIO, IN_BYTE, 0, registers_for(IOIO), [run()], straight)
        assert int(compartments[VM].exits(kinds.IO)) == before + 1
