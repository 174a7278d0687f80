"""A VMM may write anything into its vCPU page: what comes of it is a legal resume, or the end of that VM by a rule; never anything else."""
import pytest
from hypothesis import example, given, strategies as st

from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu as hw_cpu
from hypervisor.kernel import state as state_module
from hypervisor.kernel.compartment import compartments
from hypervisor.spec import answer as rules
from hypervisor.spec import call, ending, refusal, status
from hypervisor.spec import exit as kinds
from hypervisor.spec import svm, vcpu
from hypervisor.spec.vcpu import ANSWER, SEGMENTS, STATE, STATE_FIELDS
from tests.unit.kernel.memory import PAGE
from tests.unit.kernel.vm import block_of, exit_field, exits, make_vm, run_guest_once, vcpu_page

VM, NEIGHBOUR = 1, 2
RUN = call.VCPU_RUN
SLOT = call.SLOT_VCPU

# Exit kind -> the exit as the processor reports it. FIRST: no exit, the vCPU has not run yet.
FIRST = 'first'
EXITS = {
    FIRST: None,
    kinds.IO: exits(svm.EXIT_IOIO, 0x3f8 << 16 | 1 << 4 | 1, 0xfff2),
    kinds.MSR_READ: exits(svm.EXIT_MSR, 0),
    kinds.MSR_WRITE: exits(svm.EXIT_MSR, 1),
    kinds.CPUID: exits(svm.EXIT_CPUID),
    kinds.MEMORY: exits(svm.EXIT_NPF, 2, 0xfee00000),
    kinds.HLT: exits(svm.EXIT_HLT),
    kinds.SHUTDOWN: exits(svm.EXIT_SHUTDOWN),
}
# docs/abi.md, "vCPUs"
FIT = {
    kinds.IO: {vcpu.COMPLETE, vcpu.RESUME, vcpu.INJECT}, kinds.MSR_READ: {vcpu.COMPLETE, vcpu.INJECT}, kinds.MSR_WRITE: {vcpu.COMPLETE, vcpu.INJECT},
    kinds.CPUID: {vcpu.COMPLETE, vcpu.INJECT}, kinds.MEMORY: {vcpu.RESUME, vcpu.INJECT}, kinds.HLT: {vcpu.COMPLETE, vcpu.RESUME}, kinds.SHUTDOWN: {vcpu.RESUME},
    FIRST: {vcpu.COMPLETE, vcpu.RESUME, vcpu.INJECT},
}
LONG_MODE = {'EFER': 0x1d00, 'CR0': 0x80000011, 'CR4': 0x20, 'RIP': 0xffffffff80000000}


def prepared(kind, long_mode):
    """prepare(box): two VMs; the first one's vCPU has an exit of this kind, and was in real mode or in 64-bit code."""
    def prepare(box):
        for number in (VM, NEIGHBOUR):
            make_vm(box, number)
            if kind is FIRST and number == VM:
                continue
            if kind == kinds.CPUID:
                box.memory.put(vcpu_page(number) + vcpu.CPUID_ASK, b'\xff' * 12)
                box.memory.put_word(vcpu_page(number) + ANSWER['DIRTY'], vcpu.GROUP_CPUID)
            assert box.kernel_call(number, RUN, SLOT, 0) is None
            if long_mode:
                block = block_of(box, number)
                for name, value in LONG_MODE.items():
                    block.set(name, value)
                box.memory.put(block.hpa + 0x412, b'\x9b\x0a')
            run_guest_once(box, number, EXITS[kind] or exits(svm.EXIT_HLT))
            assert compartments[number].task.ready and compartments[number].state == call.STATE_RUNNING
            assert exit_field(box, number, 'KIND') == (kinds.HLT if kind is FIRST else kind)
    prepare.__name__ = 'prepared_%s_%s' % (kind, long_mode)
    return prepare


PREPARED = dict(((kind, long_mode), prepared(kind, long_mode)) for kind in EXITS for long_mode in (False, True))

EDGES = [0, 1, 2, 3, 0xff, 0x7ff, 0x80, 0x1000, 0x8000, 0xffff, 0x10000, 0x9b, 0x93, 0x209b, 0x29b, 0xa9b, 0xc93, 0xfff, 0x1fff, 0x2000, 0x80000001, 0x80000011, 0x60000010,
         0x20000001, 0xe0000011, 0x20, 0x6f0, 0x2000 - 1, 1 << 13, 1 << 22, 1 << 23, 0xd01, 0x500, 0x100, 0x1500, 0xffffffff, 1 << 32, 1 << 46, (1 << 47) - 1,
         1 << 47, 1 << 51, 1 << 52, (1 << 63) - 1, 1 << 63, 0xffff7fffffffffff, 0xffff800000000000, (1 << 64) - 1]
values = st.one_of(st.sampled_from(EDGES), st.sampled_from(EDGES), st.integers(0, (1 << 64) - 1), st.integers(0, 63).map(lambda bit: 1 << bit))
# What a VMM would write, so that some of what follows comes through
SANE = {'CR0': 0x80000011, 'CR3': 0x1000, 'CR4': 0x20, 'EFER': 0x500, 'RFLAGS': 2, 'RIP': 0x1000, 'CS_ATTRIBUTES': 0xa9b, 'SS_ATTRIBUTES': 0xc93}
answers = st.fixed_dictionaries({
    'ACTION': st.one_of(st.integers(0, 3), values), 'RESULT': values, 'RESULT2': st.one_of(st.integers(0, 33), values), 'ERROR': values,
    'DIRTY': st.one_of(st.integers(0, 63), st.integers(0, 63), values, st.integers(0, 15).map(lambda n: vcpu.REGISTER | n << vcpu.REGISTER_SHIFT))})
states = st.dictionaries(st.sampled_from(STATE_FIELDS + ['CR0', 'CR4', 'EFER', 'RIP', 'RFLAGS', 'CS_ATTRIBUTES']), values, max_size=4)


def objects_of(box, number):
    """All that the kernel keeps of a compartment: its pages' contents and its fields."""
    c = compartments[number]
    pages = []
    for page in range(int(c.pages_start), int(c.pages_next), PAGE):
        pages.append((page, box.memory.take(page, PAGE)))
    fields = [dict((name, repr(value)) for name, value in vars(thing).items()) for thing in (c, c.task, c.vcpus[0])]
    return pages, fields


def canonical(address):
    return address < 1 << 47 or address >= (1 << 64) - (1 << 47)


def assert_legal(box, number):
    """The VMCB's state area is one that the processor would take, or refuse without harm. Source: AMD64 APM Vol. 2, "VMRUN Instruction",
    "Canonicalization and Consistency Checks"; "System-Control Registers"."""
    block = block_of(box, number)
    take = box.memory.take
    efer, cr0, cr3, cr4 = [block.get(name) for name in ('EFER', 'CR0', 'CR3', 'CR4')]
    assert efer & 1 << 12, 'EFER.SVME is lost'
    assert efer & ~0x1d01 == 0, 'EFER %#x' % efer
    assert cr0 >> 32 == 0 and not (cr0 & 1 << 29 and not cr0 & 1 << 30), 'CR0 %#x' % cr0
    assert not (cr0 & 1 << 31 and not cr0 & 1), 'CR0.PG without CR0.PE'
    assert cr3 >> 52 == 0 and cr4 & ~0x370fff == 0, 'CR3 %#x CR4 %#x' % (cr3, cr4)
    long_mode = bool(efer & 1 << 8 and cr0 & 1 << 31)
    assert bool(efer & 1 << 10) == long_mode and (not long_mode or cr4 & 1 << 5), 'long mode: EFER %#x CR4 %#x' % (efer, cr4)
    rip, rflags = block.get('RIP'), block.get('RFLAGS')
    attributes = {}
    for name, offset in svm.SEGMENTS:
        selector, attribute, limit, base = __import__('struct').unpack('<HHIQ', take(block.hpa + offset, 16))
        attributes[name] = attribute
        assert attribute & 0xf000 == 0 and canonical(base), '%s: %#x %#x' % (name, attribute, base)
        if name in ('ES', 'CS', 'SS', 'DS'):
            assert base < 1 << 32
    wide = long_mode and attributes['CS'] & 1 << 9
    assert canonical(rip) and (wide or rip < 1 << 32), 'RIP %#x outside of 64-bit code' % rip
    assert rflags & 2 and rflags & ~0x3f7fd7 == 0, 'RFLAGS %#x' % rflags
    c = compartments[number].vcpus[0]
    event = int(c.event)
    if event:
        vector, kind = event & 0xff, event >> 8 & 7
        assert event >> 31 & 1 and kind == 3 and vector < 32 and vector != 2, 'event %#x' % event
        assert bool(event & 1 << 11) == (vector in (8, 10, 11, 12, 13, 14, 17)), 'event %#x' % event
        assert event & 0x7ffff000 == 0


def control_area(box, number):
    """The VMCB's control area, without what a resume changes."""
    block = block_of(box, number)
    content = bytearray(box.memory.take(block.hpa, 0x400))
    content[svm.VMCB['INTERRUPT_SHADOW']:svm.VMCB['INTERRUPT_SHADOW'] + 8] = bytearray(8)
    return bytes(content)


@given(kind=st.sampled_from(sorted(EXITS)), long_mode=st.booleans(), answer=answers, state=states, sane=st.booleans())
@example(kind=kinds.HLT, long_mode=True, sane=False, state={'EFER': 0, 'CR0': 0x11}, answer={'ACTION': vcpu.RESUME, 'DIRTY': vcpu.GROUP_CONTROL})
@example(kind=kinds.HLT, long_mode=True, sane=False, state={'CS_ATTRIBUTES': 0x9b}, answer={'ACTION': vcpu.RESUME, 'DIRTY': vcpu.GROUP_SEGMENT})
@example(kind=kinds.HLT, long_mode=True, sane=True, state={}, answer={'ACTION': vcpu.RESUME, 'DIRTY': vcpu.GROUPS})
@example(kind=kinds.IO, long_mode=False, sane=False, state={}, answer={'ACTION': vcpu.INJECT, 'DIRTY': 0, 'RESULT2': 2})
def test_any_answer_is_a_legal_resume_or_the_end(fresh, kind, long_mode, answer, state, sane):
    box = fresh(PREPARED[kind, long_mode])
    neighbour = objects_of(box, NEIGHBOUR)
    for name, value in (list(SANE.items()) if sane else []) + list(answer.items()) + list(state.items()):
        place = ANSWER.get(name) or STATE[name]
        box.memory.put_word(vcpu_page(VM) + place, value)
    control = control_area(box, VM)
    page = vcpu_page(VM)
    manager_signals = compartments[0].signals
    result = box.kernel_call(VM, RUN, SLOT, 0)
    c = compartments[VM]
    assert objects_of(box, NEIGHBOUR) == neighbour, 'the neighbour was touched'
    assert result is None
    action, dirty = answer.get('ACTION', 0), answer.get('DIRTY', 0)
    if c.state == call.STATE_ENDED:
        assert c.how == ending.VMM_BAD_ANSWER and int(c.detail) in rules.SENTENCES
        assert not c.task.ready and not c.vcpus[0].ready
        assert compartments[0].signals != manager_signals
        return
    assert action in FIT[kind] and dirty & ~(vcpu.GROUPS | vcpu.REGISTER | vcpu.TELL_STOLEN | 0xf000) == 0
    assert c.vcpus[0].ready and not c.vcpus[0].outstanding and not c.task.ready
    assert control_area(box, VM) == control, 'the VMCB control area changed'
    assert box.memory.word(page + ANSWER['DIRTY']) == 0
    assert_legal(box, VM)


RULES = [
    # kind, answer, rule
    (kinds.IO, {'ACTION': 3}, rules.RULE_ACTION_UNKNOWN),
    (kinds.IO, {'ACTION': 1 << 63}, rules.RULE_ACTION_UNKNOWN),
    (kinds.SHUTDOWN, {'ACTION': vcpu.COMPLETE}, rules.RULE_ACTION_UNFIT),
    (kinds.MSR_READ, {'ACTION': vcpu.RESUME}, rules.RULE_ACTION_UNFIT),
    (kinds.HLT, {'ACTION': vcpu.INJECT, 'RESULT2': 13}, rules.RULE_ACTION_UNFIT),
    (kinds.MEMORY, {'ACTION': vcpu.COMPLETE}, rules.RULE_ACTION_UNFIT),
    (kinds.MSR_READ, {'ACTION': vcpu.INJECT, 'RESULT2': 2}, rules.RULE_VECTOR),
    (kinds.MSR_READ, {'ACTION': vcpu.INJECT, 'RESULT2': 32}, rules.RULE_VECTOR),
    (kinds.MSR_READ, {'ACTION': vcpu.INJECT, 'RESULT2': 15}, rules.RULE_VECTOR),
    (kinds.MSR_READ, {'ACTION': vcpu.INJECT, 'RESULT2': 1 << 32 | 13}, rules.RULE_VECTOR),
    (kinds.MSR_READ, {'ACTION': vcpu.INJECT, 'RESULT2': 13, 'ERROR': 1 << 32}, rules.RULE_ERROR_CODE),
    (kinds.HLT, {'DIRTY': 1 << 9}, rules.RULE_DIRTY_UNKNOWN), (kinds.HLT, {'DIRTY': 1 << 11}, rules.RULE_DIRTY_UNKNOWN),
    (kinds.HLT, {'DIRTY': 1 << 16}, rules.RULE_DIRTY_UNKNOWN),
    (FIRST, {'DIRTY': 1 << 63}, rules.RULE_DIRTY_UNKNOWN),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 4, 'CR0': 0x80000010}, rules.RULE_CR0),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 4, 'CR0': 0x20000011}, rules.RULE_CR0),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 4, 'CR0': 1 << 32}, rules.RULE_CR0),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 4, 'CR4': 1 << 13}, rules.RULE_CR4),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 4, 'CR3': 1 << 52}, rules.RULE_CR3),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 4, 'EFER': 1 << 12}, rules.RULE_EFER),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 4, 'CR0': 0x80000011, 'CR4': 0x20, 'EFER': 0x100}, rules.RULE_EFER),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 4, 'CR0': 0x80000011, 'CR4': 0, 'EFER': 0x500}, rules.RULE_EFER),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 2, 'RFLAGS': 0}, rules.RULE_RFLAGS),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 2, 'RFLAGS': 0xa}, rules.RULE_RFLAGS),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 2, 'RFLAGS': 2, 'RIP': 1 << 32}, rules.RULE_RIP),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 8, 'ES_BASE': 1 << 32}, rules.RULE_BASE),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 8, 'GS_BASE': 1 << 47}, rules.RULE_BASE),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 16, 'IDTR_BASE': 1 << 63}, rules.RULE_BASE),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 8, 'TR_ATTRIBUTES': 1 << 13}, rules.RULE_ATTRIBUTES),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 8, 'DS_LIMIT': 1 << 32}, rules.RULE_ATTRIBUTES),
    (kinds.HLT, {'ACTION': 1, 'DIRTY': 16, 'GDTR_LIMIT': 1 << 16}, rules.RULE_ATTRIBUTES),
]


@pytest.mark.parametrize('kind, answer, rule', RULES, ids=lambda value: str(value))
def test_broken_rule_is_named(fresh, kind, answer, rule):
    box = fresh(PREPARED[kind, False])
    for name, value in answer.items():
        box.memory.put_word(vcpu_page(VM) + (ANSWER.get(name) or STATE[name]), value)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    c = compartments[VM]
    assert (c.state, c.how, int(c.detail)) == (call.STATE_ENDED, ending.VMM_BAD_ANSWER, rule)


@pytest.mark.parametrize('how', list(range(34)) + [1 << 32, (1 << 64) - 1])
def test_vmm_ends_its_vm_with_its_own_codes_only(fresh, how):
    box = fresh(PREPARED[kinds.HLT, False])
    assert box.kernel_call(VM, call.STOP, call.SLOT_SELF, how, 77) is None
    c = compartments[VM]
    if how in (1, 2, 3, 4, 5, 6, 7, 8, 9):
        assert (c.how, int(c.detail)) == (how, 77)
    else:
        assert (c.how, int(c.detail)) == (ending.VMM_BAD_ANSWER, rules.RULE_ENDING)


@pytest.mark.parametrize('size, flags, rax, result, right', [
    (1, 1, 0x1122334455667788, 0xffffffffffffffaa, 0x11223344556677aa),
    (2, 1, 0x1122334455667788, 0xffffffffffffaabb, 0x112233445566aabb),
    (4, 1, 0x1122334455667788, 0xffffffffaabbccdd, 0xaabbccdd),
    (4, 0, 0x1122334455667788, 0xffffffffaabbccdd, 0x1122334455667788)])
def test_completed_in_writes_its_part_of_rax(fresh, size, flags, rax, result, right):
    box = fresh(PREPARED[FIRST, False])
    assert box.kernel_call(VM, RUN, SLOT, 0) is None

    def guest(machine, registers, block):
        registers.set('RAX', rax)
        block.exit(svm.EXIT_IOIO, 0x60 << 16 | size << 4 | flags, 0xfff2)
    run_guest_once(box, VM, guest)
    assert [exit_field(box, VM, name) for name in ('KIND', 'SELECTOR', 'SIZE', 'FLAGS', 'LENGTH')] == [kinds.IO, 0x60, size, flags, 2]
    assert exit_field(box, VM, 'VALUE') == (0 if flags else rax & (1 << 8 * size) - 1)
    box.memory.put_word(vcpu_page(VM) + ANSWER['RESULT'], result)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    seen = []
    run_guest_once(box, VM, lambda machine, registers, block: (seen.append((registers.get('RAX'), block.get('RIP'))), block.exit(svm.EXIT_HLT)))
    assert seen == [(right, 0xfff2)]


REGISTERS = ['RAX', 'RCX', 'RDX', 'RBX', 'RSP', 'RBP', 'RSI', 'RDI'] + ['R%d' % n for n in range(8, 16)]


def memory_exit(info1=2 | 1 << 32):
    """prepare(box): an exit of kind MEMORY; the registers hold 1 to 16."""
    def guest(machine, registers, block):
        for n, name in enumerate(REGISTERS):
            (block if name == 'RSP' else registers).set(name, n + 1)
        block.set('CR2', 0x1234)
        machine.memory.put(block.hpa + 0x422, b'\xf3\x0c')       # SS
        block.exit(svm.EXIT_NPF, info1, 0xfd000020)

    def prepare(box):
        PREPARED[FIRST, False](box)
        assert box.kernel_call(VM, RUN, SLOT, 0) is None
        run_guest_once(box, VM, guest)
    prepare.__name__ = 'memory_exit_%x' % info1
    return prepare


@pytest.mark.parametrize('info1, flags', [(0, kinds.ACCESS_READ), (2, kinds.ACCESS_WRITE), (0x10, kinds.ACCESS_EXECUTE), (1 << 33, kinds.ACCESS_READ),
                                          (1 << 32, kinds.ACCESS_READ | kinds.ACCESS_OPERAND), (1 << 32 | 2, kinds.ACCESS_WRITE | kinds.ACCESS_OPERAND)])
def test_an_access_to_memory_brings_what_its_emulation_needs(fresh, info1, flags):
    box = fresh(memory_exit(info1=info1))
    assert [exit_field(box, VM, name) for name in ('KIND', 'SELECTOR', 'FLAGS', 'LENGTH')] == [kinds.MEMORY, 0xfd000020, flags, 0]
    block, page = block_of(box, VM), vcpu_page(VM)
    code, stack = [bytearray(box.memory.take(block.hpa + at, 2)) for at in (0x412, 0x422)]
    assert exit_field(box, VM, 'VALUE') == code[0] | code[1] << 8 | 0xcf3 << 16
    assert [box.memory.word(page + STATE[name]) for name in REGISTERS] == list(range(1, 17))
    assert [box.memory.word(page + STATE[name]) for name in ('RIP', 'RFLAGS', 'CR0', 'CR2', 'CR3', 'CR4')] == [
        block.get(name) for name in ('RIP', 'RFLAGS', 'CR0', 'CR2', 'CR3', 'CR4')]
    assert box.memory.word(page + STATE['CR2']) == 0x1234
    assert box.memory.word(page + STATE['EFER']) == block.get('EFER') & ~0x1000


@pytest.mark.parametrize('number', range(16))
def test_one_register_is_given_back_alone(fresh, number):
    box = fresh(memory_exit())
    for n, name in enumerate(REGISTERS):
        box.memory.put_word(vcpu_page(VM) + STATE[name], 0x100 + n)
    box.memory.put_word(vcpu_page(VM) + STATE['RIP'], 0x7c02)
    box.memory.put_word(vcpu_page(VM) + ANSWER['ACTION'], vcpu.RESUME)
    box.memory.put_word(vcpu_page(VM) + ANSWER['DIRTY'], vcpu.GROUP_FLOW | vcpu.REGISTER | number << vcpu.REGISTER_SHIFT)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    seen = []

    def guest(machine, registers, block):
        seen.extend((block if name == 'RSP' else registers).get(name) for name in REGISTERS)
        seen.append(block.get('RIP'))
        block.exit(svm.EXIT_HLT)
    run_guest_once(box, VM, guest)
    assert seen == [0x100 + n if n == number else n + 1 for n in range(16)] + [0x7c02]


def task_switched(box, **answer):
    """The outstanding exit is a task switch, as VMX has them."""
    subject = compartments[VM].vcpus[0]
    subject.exit_kind = kinds.TASK_SWITCH
    subject.flush = False
    for name, value in answer.items():
        box.memory.put_word(vcpu_page(VM) + (ANSWER.get(name) or STATE[name]), value)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    return subject


def test_task_switch_forgets_translations_and_steps_over_nothing(fresh):
    subject = task_switched(fresh(PREPARED[kinds.MEMORY, False]), ACTION=vcpu.RESUME, DIRTY=vcpu.GROUP_FLOW, RFLAGS=0x102, RIP=0x100)
    assert subject.ready and subject.flush and subject.event == 0


def test_new_tasks_fault_is_injected(fresh):
    subject = task_switched(fresh(PREPARED[kinds.MEMORY, False]), ACTION=vcpu.INJECT, RESULT2=10, ERROR=0x10, DIRTY=vcpu.GROUP_FLOW, RFLAGS=2)
    assert subject.ready and subject.flush and subject.event == 0x10 << 32 | 0x80000b0a


def test_task_switch_is_never_complete(fresh):
    task_switched(fresh(PREPARED[kinds.MEMORY, False]), ACTION=vcpu.COMPLETE)
    assert int(compartments[VM].detail) == rules.RULE_ACTION_UNFIT


def test_exit_part_is_never_read_back(fresh):
    """A VMM that rewrites the exit cannot turn an IN of a byte into an IN of four."""
    box = fresh(PREPARED[kinds.IO, False])
    for place in range(0, 64, 8):
        box.memory.put_word(vcpu_page(VM) + place, (1 << 64) - 1)
    box.memory.put_word(vcpu_page(VM) + ANSWER['RESULT'], (1 << 64) - 1)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    seen = []
    run_guest_once(box, VM, lambda machine, registers, block: (seen.append(registers.get('RAX')), block.exit(svm.EXIT_HLT)))
    assert seen == [0xff]


def test_vcpu_run_again_while_the_vcpu_runs_only_waits(fresh):
    box = fresh(PREPARED[FIRST, False])
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    compartments[VM].signal(5)
    assert box.result(VM) == (status.OK, call.REASON_SIGNAL)
    box.memory.put_word(vcpu_page(VM) + ANSWER['ACTION'], 77)
    assert box.kernel_call(VM, RUN, SLOT, 0) == (status.OK, call.REASON_SIGNAL)
    assert box.kernel_call(VM, call.WAIT, 0) == (status.OK, 1 << 5)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    assert compartments[VM].state == call.STATE_RUNNING


def test_exit_that_came_while_the_vmm_waited_is_told_before_it_is_answered(fresh):
    """What VCPU_RUN finds in the page then is no answer to an exit that the VMM has not seen."""
    box = fresh(PREPARED[FIRST, False])
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    compartments[VM].signal(5)
    assert box.kernel_call(VM, call.WAIT, 0) == (status.OK, 1 << 5)
    assert box.kernel_call(VM, call.WAIT, 0) is None
    run_guest_once(box, VM, EXITS[kinds.SHUTDOWN])
    compartments[VM].signal(6)
    assert box.kernel_call(VM, RUN, SLOT, 0)[1] & call.REASON_EXIT
    assert exit_field(box, VM, 'KIND') == kinds.SHUTDOWN and compartments[VM].state == call.STATE_RUNNING
    box.memory.put_word(vcpu_page(VM) + ANSWER['ACTION'], vcpu.RESUME)
    compartments[VM].signals = compartments[VM].signals * 0
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    assert compartments[VM].state == call.STATE_RUNNING


WIDE = [1 << 47, 1 << 50, (1 << 56) - 1, 0xff00000000000000, 0xffff7fffffffffff]
TOO_WIDE = [1 << 56, 1 << 57, 1 << 63, 0xfeffffffffffffff]


@pytest.mark.parametrize('la57', [False, True])
@pytest.mark.parametrize('name, group, rule', [('RIP', vcpu.GROUP_FLOW, rules.RULE_RIP), ('GS_BASE', vcpu.GROUP_SEGMENT, rules.RULE_BASE), ('IDTR_BASE', vcpu.GROUP_TABLE, rules.RULE_BASE)])
def test_addresses_have_57_bits_where_the_processor_has(make_machine, la57, name, group, rule):
    box = make_machine(leaves={7: (0, 0, 1 << 16 if la57 else 0, 0), 0xd: (7, 0, 0, 0)})
    assert box.boot() == refusal.NONE
    prepared(kinds.IO, True)(box)
    assert int(state_module.features.cr4) >> 12 & 1 == la57
    page = vcpu_page(VM)
    assert box.kernel_call(VM, call.VCPU_READ, SLOT, vcpu.GROUPS & ~vcpu.GROUP_CPUID) == (status.OK, 0)
    for value in [0, (1 << 47) - 1, 0xffff800000000000] + WIDE + TOO_WIDE:
        box.memory.put_word(page + STATE[name], value)
        found = state_module.apply(compartments[VM].vcpus[0], r_uint(group))
        assert int(found) == (0 if value in (0, (1 << 47) - 1, 0xffff800000000000) or la57 and value in WIDE else rule), hex(value)


@given(groups=st.integers(0, 31), registers=st.lists(values, min_size=16, max_size=16))
def test_vcpu_read_tells_what_the_guest_had(fresh, groups, registers):
    box = fresh(PREPARED[FIRST, False])
    assert box.kernel_call(VM, RUN, SLOT, 0) is None

    def guest(machine, area, block):
        for name, value in zip(vcpu.GPR, registers):
            if name == 'RSP':
                block.set('RSP', value)
            else:
                area.set(name, value)
        block.set('CR3', 0x123000)
        block.exit(svm.EXIT_HLT)
    run_guest_once(box, VM, guest)
    page = vcpu_page(VM)
    box.memory.put(page + STATE['RAX'], b'\xcc' * (STATE['END'] - STATE['RAX']))
    assert box.kernel_call(VM, call.VCPU_READ, SLOT, groups) == (status.OK, 0)
    for group, names in vcpu.GROUP_FIELDS:
        for name in names:
            value = box.memory.word(page + STATE[name])
            if not groups & group:
                assert value == 0xcccccccccccccccc, name
            elif name in vcpu.GPR:
                assert value == registers[vcpu.GPR.index(name)], name
            else:
                assert value != 0xcccccccccccccccc, name
    if groups & vcpu.GROUP_CONTROL:
        assert box.memory.word(page + STATE['CR3']) == 0x123000
        assert box.memory.word(page + STATE['EFER']) == 0, 'the guest must not see SVME'
