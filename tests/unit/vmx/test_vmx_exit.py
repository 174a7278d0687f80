"""Exits as a processor writes them into the VMCS, and the record that the kernel gets."""
import pytest

from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu
from hypervisor.hw import vmx as hw
from hypervisor.kernel.vcpu import RAX, RCX, RDX
from hypervisor.spec import cpu as bits
from hypervisor.spec import exit as kinds
from hypervisor.spec import entry, vmx
from hypervisor.spec.context import EXIT_ASKS, EXIT_LEAVES, EXIT_LENT
from hypervisor.spec.vcpu import UNUSABLE
from tests.unit.vmx.machine import Core

VALID = vmx.INTERRUPTION_VALID


def info(kind, vector, error=False):
    return VALID | kind << 8 | vector | (vmx.INTERRUPTION_ERROR if error else 0)


@pytest.fixture
def core():
    return Core().enable()


@pytest.fixture
def vcpu(core):
    return core.vcpu()


def gprs(vcpu, rax=0, rcx=0, rdx=0):
    vcpu.set_gpr(RAX, r_uint(rax))
    vcpu.set_gpr(RCX, r_uint(rcx))
    vcpu.set_gpr(RDX, r_uint(rdx))


def test_every_reason_has_the_kind_of_the_table(core, vcpu):
    for number, name, kind in vmx.REASONS:
        if number in (vmx.REASON_EXCEPTION_OR_NMI, vmx.REASON_PREEMPTION_TIMER):
            continue
        core.exit(vcpu, number, EXIT_INSTRUCTION_LENGTH=3)
        assert kinds.NAMES[vcpu.exit_kind] == kinds.NAMES[getattr(kinds, kind)], name
        assert vcpu.exit_code == number


def test_unknown_reasons_are_unknown(core, vcpu):
    for number in (35, 38, 42, 65, 0xffff, 0x1fffffff):
        core.exit(vcpu, vmx.REASON_HLT, EXIT_INSTRUCTION_LENGTH=1)
        core.exit(vcpu, number, EXIT_INSTRUCTION_LENGTH=0)
        assert (vcpu.exit_kind, vcpu.exit_code, vcpu.exit_length) == (kinds.UNKNOWN, number, 0)


@pytest.mark.parametrize('reason, more', [
    (vmx.REASON_ENTRY_FAILED | vmx.REASON_ENTRY_GUEST_STATE, {}), (vmx.REASON_PREEMPTION_TIMER, {}),
    (vmx.REASON_EXCEPTION_OR_NMI, {'EXIT_INTERRUPTION_INFO': info(vmx.TYPE_NMI, 2)}), (vmx.REASON_EPT_VIOLATION, {})])
def test_exits_that_are_no_instruction_have_no_length(core, vcpu, reason, more):
    core.exit(vcpu, reason, EXIT_INSTRUCTION_LENGTH=7, **more)
    assert vcpu.exit_length == 0


def test_an_event_that_an_nmi_interrupted_is_repeated(core, vcpu):
    core.exit(vcpu, vmx.REASON_EXCEPTION_OR_NMI, EXIT_INTERRUPTION_INFO=info(vmx.TYPE_NMI, 2), IDT_VECTORING_INFO=info(vmx.TYPE_HARDWARE, 6))
    assert vcpu.exit_kind == kinds.NMI
    assert entered_with(core, vcpu)[0] == info(vmx.TYPE_HARDWARE, 6)


def test_interrupt_tells_its_vector(core, vcpu):
    core.exit(vcpu, vmx.REASON_EXTERNAL_INTERRUPT, EXIT_INTERRUPTION_INFO=info(vmx.TYPE_EXTERNAL, 0xf0))
    assert (vcpu.exit_kind, vcpu.exit_value) == (kinds.INTERRUPT, 0xf0)


def test_preemption_timer_lets_a_waiting_interrupt_in(core, vcpu):
    core.exit(vcpu, vmx.REASON_PREEMPTION_TIMER)
    assert (vcpu.exit_kind, vcpu.exit_value) == (kinds.INTERRUPT, 0xf0)
    cpu.fake.take = lambda: 0
    core.exit(vcpu, vmx.REASON_PREEMPTION_TIMER)
    assert vcpu.exit_kind == kinds.WINDOW


def test_preemption_timer_is_a_quarter_of_a_slice(core, vcpu):
    assert core.fields(vcpu)[vmx.GUEST_PREEMPTION_TIMER] == 2500000 // 32 + 1


def test_preemption_timer_counts_on_over_exits_and_begins_anew_when_it_has_fired(core, vcpu):
    assert core.fields(vcpu)[vmx.EXIT_CONTROLS] & vmx.EXIT_CONTROL_SAVE_PREEMPTION_TIMER
    longest = core.fields(vcpu)[vmx.GUEST_PREEMPTION_TIMER]
    core.exit(vcpu, vmx.REASON_CPUID, GUEST_PREEMPTION_TIMER=7, EXIT_INSTRUCTION_LENGTH=2)
    assert core.fields(vcpu)[vmx.GUEST_PREEMPTION_TIMER] == 7
    core.exit(vcpu, vmx.REASON_PREEMPTION_TIMER, GUEST_PREEMPTION_TIMER=0)
    assert core.fields(vcpu)[vmx.GUEST_PREEMPTION_TIMER] == longest > 7


def test_cpuid_tells_leaf_and_subleaf(core, vcpu):
    gprs(vcpu, rax=0xffffffff00000007, rcx=0xffffffff00000002)
    core.exit(vcpu, vmx.REASON_CPUID, EXIT_INSTRUCTION_LENGTH=2)
    assert (vcpu.exit_kind, vcpu.exit_selector, vcpu.exit_length) == (kinds.CPUID, 0x200000007, 2)


@pytest.mark.parametrize('qualification, size, flags, value', [
    (0x3f8 << 16 | 0, 1, 0, 0x88), (0x3f8 << 16 | 1, 2, 0, 0x7788), (0x3f8 << 16 | 3, 4, 0, 0x55667788),
    (0x3f8 << 16 | 1 << 3, 1, kinds.IO_IN, 0), (0x3f8 << 16 | 1 << 4 | 1 << 5, 1, kinds.IO_STRING | kinds.IO_REPEAT, 0x88),
    (0x3f8 << 16 | 1 << 3 | 1 << 4 | 1 << 6 | 1, 2, kinds.IO_IN | kinds.IO_STRING, 0)])
def test_io(core, vcpu, qualification, size, flags, value):
    gprs(vcpu, rax=0x1122334455667788)
    core.exit(vcpu, vmx.REASON_IO, EXIT_QUALIFICATION=qualification)
    assert (vcpu.exit_selector, vcpu.exit_size, vcpu.exit_flags, vcpu.exit_value) == (0x3f8, size, flags, value)


def test_msr(core, vcpu):
    gprs(vcpu, rax=0xffffffff11111111, rcx=0xffffffffc0000080, rdx=0xffffffff22222222)
    core.exit(vcpu, vmx.REASON_RDMSR)
    assert (vcpu.exit_kind, vcpu.exit_selector) == (kinds.MSR_READ, bits.MSR_EFER)
    gprs(vcpu, rax=0xffffffff11111111, rcx=0xffffffff00000277, rdx=0xffffffff22222222)
    core.exit(vcpu, vmx.REASON_WRMSR)
    assert (vcpu.exit_kind, vcpu.exit_selector, vcpu.exit_value) == (kinds.MSR_WRITE, bits.MSR_PAT, 0x2222222211111111)


def test_io_breakpoints_are_pending_behind_the_access(core, vcpu):
    cpu.fake.register.update(dr0=0x60, dr1=0x3f8)
    fields = core.fields(vcpu)
    for dr7, hits in ((0x400, 0), (0x00220405, 2), (0x00220401, 0)):
        fields.update({vmx.GUEST_DR7: dr7, vmx.GUEST_CR4: 8})
        core.exit(vcpu, vmx.REASON_IO, EXIT_QUALIFICATION=0x3f8 << 16)
        assert vcpu.port_hits == hits
    fields[vmx.GUEST_PENDING_DEBUG] = vmx.PENDING_DEBUG_BS
    core.vendor.break_behind(vcpu, r_uint(2))
    assert fields[vmx.GUEST_PENDING_DEBUG] == vmx.PENDING_DEBUG_BS | 1 << 12 | 2


@pytest.mark.parametrize('access', range(1, 8))
@pytest.mark.parametrize('way, operand', [(0, 0), (0x80, 0), (0x100, 0), (0x180, kinds.ACCESS_OPERAND)])
def test_ept_violation(core, vcpu, access, way, operand):
    core.exit(vcpu, vmx.REASON_EPT_VIOLATION, EXIT_QUALIFICATION=access | way, GUEST_PHYSICAL_ADDRESS=0xfee00020,
              EXIT_INSTRUCTION_LENGTH=15, GUEST_CS_ATTRIBUTES=0xa09b, GUEST_SS_ATTRIBUTES=0x10000)
    assert (vcpu.exit_kind, vcpu.exit_selector, vcpu.exit_flags, vcpu.exit_length) == (kinds.MEMORY, 0xfee00020, access | operand, 0)
    assert vcpu.exit_value == 0xa9b | UNUSABLE << 16
    assert vcpu.event == 0


def test_hlt_tells_rflags(core, vcpu):
    core.exit(vcpu, vmx.REASON_HLT, GUEST_RFLAGS=0x202)
    assert (vcpu.exit_kind, vcpu.exit_value) == (kinds.HLT, 0x202)


def test_nmi_and_machine_check(core, vcpu):
    core.exit(vcpu, vmx.REASON_EXCEPTION_OR_NMI, EXIT_INTERRUPTION_INFO=info(vmx.TYPE_NMI, 2))
    assert vcpu.exit_kind == kinds.NMI
    core.exit(vcpu, vmx.REASON_EXCEPTION_OR_NMI, EXIT_INTERRUPTION_INFO=info(vmx.TYPE_HARDWARE, 18))
    assert (vcpu.exit_kind, vcpu.exit_selector) == (kinds.EXCEPTION, 18)
    assert vcpu.event == 0


def test_alignment_check_goes_back_to_the_guest(core, vcpu):
    core.fields(vcpu)[vmx.GUEST_INTERRUPTIBILITY] = vmx.BLOCKING_STI
    core.exit(vcpu, vmx.REASON_EXCEPTION_OR_NMI, EXIT_INTERRUPTION_INFO=info(vmx.TYPE_HARDWARE, 17, True), EXIT_INTERRUPTION_ERROR=0)
    assert vcpu.exit_kind == kinds.WINDOW
    assert core.fields(vcpu)[vmx.GUEST_INTERRUPTIBILITY] == 0
    assert entered_with(core, vcpu)[0] == info(vmx.TYPE_HARDWARE, 17, True)


def test_debug_exception_sets_dr6_and_clears_gd(core, vcpu):
    cpu.fake.register['dr6'] = 0xffff0ff0 | 2
    core.fields(vcpu)[vmx.GUEST_DR7] = 0x2400
    core.exit(vcpu, vmx.REASON_EXCEPTION_OR_NMI, EXIT_INTERRUPTION_INFO=info(vmx.TYPE_HARDWARE, 1), EXIT_QUALIFICATION=0x4001)
    assert cpu.fake.register['dr6'] == 0xffff0ff0 | 0x4001
    assert core.fields(vcpu)[vmx.GUEST_DR7] == 0x400
    assert entered_with(core, vcpu)[0] == info(vmx.TYPE_HARDWARE, 1)


def test_int1_keeps_its_length(core, vcpu):
    core.exit(vcpu, vmx.REASON_EXCEPTION_OR_NMI, EXIT_INTERRUPTION_INFO=info(vmx.TYPE_PRIVILEGED_SOFTWARE, 1), EXIT_INSTRUCTION_LENGTH=1)
    assert entered_with(core, vcpu) == (info(vmx.TYPE_PRIVILEGED_SOFTWARE, 1), None, 1)


def entered_with(core, vcpu):
    """(interruption information, error code, instruction length) of the next entry; None where nothing was written."""
    vmcs = core.fields(vcpu)
    for field in (vmx.ENTRY_INTERRUPTION_INFO, vmx.ENTRY_EXCEPTION_ERROR, vmx.ENTRY_INSTRUCTION_LENGTH):
        vmcs.pop(field, None)
    seen = []
    def play(area, vmcs):
        seen.append(tuple(vmcs.get(field) for field in (vmx.ENTRY_INTERRUPTION_INFO, vmx.ENTRY_EXCEPTION_ERROR, vmx.ENTRY_INSTRUCTION_LENGTH)))
        vmcs[vmx.EXIT_REASON] = vmx.REASON_HLT
        return hw.SUCCEED
    hw.fake.run = play
    core.vendor.run(vcpu)
    return seen[0]


def test_an_interrupted_delivery_is_repeated_once(core, vcpu):
    core.exit(vcpu, vmx.REASON_EPT_VIOLATION, IDT_VECTORING_INFO=info(vmx.TYPE_HARDWARE, 14, True) | 1 << 12, IDT_VECTORING_ERROR=6)
    assert vcpu.event != 0
    assert entered_with(core, vcpu) == (info(vmx.TYPE_HARDWARE, 14, True), 6, None)
    assert vcpu.event == 0
    assert entered_with(core, vcpu) == (None, None, None)


def test_an_interrupted_int_n_keeps_its_length(core, vcpu):
    core.exit(vcpu, vmx.REASON_EPT_VIOLATION, IDT_VECTORING_INFO=info(vmx.TYPE_SOFTWARE_INTERRUPT, 0x21), EXIT_INSTRUCTION_LENGTH=2)
    assert entered_with(core, vcpu) == (info(vmx.TYPE_SOFTWARE_INTERRUPT, 0x21), None, 2)


@pytest.mark.parametrize('source, vectoring, length, flags, value', [
    (kinds.TASK_JMP, 0, 7, kinds.TASK_JMP, 0), (kinds.TASK_IRET, 0, 1, kinds.TASK_IRET, 0),
    (kinds.TASK_GATE, info(vmx.TYPE_SOFTWARE_INTERRUPT, 0x40), 2, kinds.TASK_GATE, 0), (kinds.TASK_GATE, info(vmx.TYPE_SOFTWARE, 3), 1, kinds.TASK_GATE, 0),
    (kinds.TASK_GATE, info(vmx.TYPE_HARDWARE, 6), 0, kinds.TASK_GATE, 0), (kinds.TASK_GATE, info(vmx.TYPE_EXTERNAL, 0x30), 0, kinds.TASK_GATE, 0),
    (kinds.TASK_GATE, info(vmx.TYPE_HARDWARE, 13, True), 0, kinds.TASK_GATE | kinds.TASK_ERROR, 0x1d)])
def test_task_switch_says_what_began_it(core, vcpu, source, vectoring, length, flags, value):
    core.fields(vcpu)[vmx.GUEST_DR7] = 0x7ff
    core.exit(vcpu, vmx.REASON_TASK_SWITCH, EXIT_QUALIFICATION=source << 30 | 0x28, IDT_VECTORING_INFO=vectoring, IDT_VECTORING_ERROR=0x1d,
              EXIT_INSTRUCTION_LENGTH=length or 5)
    assert (vcpu.exit_selector, vcpu.exit_flags, vcpu.exit_value, vcpu.exit_length) == (0x28, flags, value, length)
    assert core.fields(vcpu)[vmx.GUEST_DR7] == 0x6aa
    assert vcpu.event == 0          # the switch is its delivery


@pytest.mark.parametrize('vector, protected, error', [(13, True, True), (13, False, False), (6, True, False), (14, True, True), (17, True, True),
                                                      (21, True, False), (8, True, True), (9, True, False), (18, True, False)])
def test_injected_exceptions_carry_an_error_code_exactly_where_an_entry_wants_one(core, vcpu, vector, protected, error):
    core.fields(vcpu)[vmx.GUEST_CR0] = 0x31 if protected else 0x30
    core.vendor.inject(vcpu, vector, r_uint(0x18))
    assert entered_with(core, vcpu) == (info(vmx.TYPE_HARDWARE, vector, error), 0x18 if error else None, None)


def test_failed_entry_of_a_bad_guest_state(core, vcpu):
    core.exit(vcpu, vmx.REASON_ENTRY_FAILED | vmx.REASON_ENTRY_GUEST_STATE, VMCS_LINK_POINTER=0x1000)
    assert vcpu.exit_kind == kinds.ENTRY_FAILED
    assert core.vendor.explain(vcpu) == entry.RULE_LINK_POINTER


def test_failed_entry_by_msr_loading(core, vcpu):
    core.exit(vcpu, vmx.REASON_ENTRY_FAILED | vmx.REASON_ENTRY_MSR)
    assert core.vendor.explain(vcpu) == entry.RULE_MSR_LOADING


def test_vmfail_is_a_failed_entry(core, vcpu):
    core.fields(vcpu)[vmx.INSTRUCTION_ERROR] = 7
    core.fields(vcpu)[vmx.VPID] = 0
    hw.fake.run = lambda area, vmcs: hw.FAIL_VALID
    core.vendor.run(vcpu)
    assert (vcpu.exit_kind, vcpu.exit_code) == (kinds.ENTRY_FAILED, vmx.CODE_VMFAIL | 7)
    assert core.vendor.explain(vcpu) == entry.RULE_VPID_ZERO
    hw.fake.run = lambda area, vmcs: hw.FAIL_INVALID
    core.vendor.run(vcpu)
    assert (vcpu.exit_kind, vcpu.exit_code) == (kinds.ENTRY_FAILED, vmx.CODE_VMFAIL)


def test_advance_steps_over_and_ends_the_shadow(core, vcpu):
    core.exit(vcpu, vmx.REASON_CPUID, EXIT_INSTRUCTION_LENGTH=2, GUEST_RIP=0x1000, GUEST_INTERRUPTIBILITY=vmx.BLOCKING_STI | vmx.BLOCKING_NMI,
              GUEST_RFLAGS=0x10202)
    core.vendor.advance(vcpu)
    vmcs = core.fields(vcpu)
    assert (vmcs[vmx.GUEST_RIP], vmcs[vmx.GUEST_INTERRUPTIBILITY], vmcs[vmx.GUEST_RFLAGS]) == (0x1002, vmx.BLOCKING_NMI, 0x202)
    assert vmcs[vmx.GUEST_PENDING_DEBUG] == 0


@pytest.mark.parametrize('debugctl, pending', [(0, vmx.PENDING_DEBUG_BS), (vmx.DEBUGCTL_BTF, 0)])
def test_advance_under_tf_leaves_a_single_step_pending(core, vcpu, debugctl, pending):
    core.exit(vcpu, vmx.REASON_CPUID, GUEST_RFLAGS=0x102, GUEST_DEBUGCTL=debugctl)
    core.vendor.advance(vcpu)
    assert core.fields(vcpu)[vmx.GUEST_PENDING_DEBUG] == pending


def test_moving_rip_ends_an_interrupt_shadow(core, vcpu):
    core.fields(vcpu)[vmx.GUEST_INTERRUPTIBILITY] = vmx.BLOCKING_MOV_SS
    core.vendor.set_flow(vcpu, r_uint(0x7c00), r_uint(0x202))
    assert [core.fields(vcpu)[field] for field in (vmx.GUEST_RIP, vmx.GUEST_RFLAGS, vmx.GUEST_INTERRUPTIBILITY)] == [0x7c00, 0x202, 0]


def test_exits_go_where_they_have_to(core, vcpu):
    """To the quick path; where the local APIC may be lent, each entry after it looks for a noted NMI; with something to be done first, to the loop."""
    ways = []
    for attention, owns in [(False, False), (True, False), (False, False), (False, True), (True, True), (False, True), (False, False)]:
        vcpu.attention, vcpu.owns = attention, owns
        core.exit(vcpu, vmx.REASON_EXTERNAL_INTERRUPT)
        ways.append([int(hw.exit_address(r_uint(way))) for way in range(3)].index(core.fields(vcpu)[vmx.HOST_RIP]))
    asks, lent, leaves = EXIT_ASKS, EXIT_LENT, EXIT_LEAVES
    assert ways == [asks, leaves, asks, lent, leaves, lent, asks]
    vcpu.attention = True
    core.exit(vcpu, vmx.REASON_EXTERNAL_INTERRUPT)
    core.vendor.create(vcpu)                # after another VM's
    core.exit(vcpu, vmx.REASON_EXTERNAL_INTERRUPT)
    assert core.fields(vcpu)[vmx.HOST_RIP] == int(hw.exit_address(r_uint(leaves)))
