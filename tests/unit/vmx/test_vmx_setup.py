"""Turning VMX on: each missing feature is refused by its own name, and a new VMCS breaks no rule."""
import pytest

from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu, memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel import vmx_check
from hypervisor.kernel.vmx_setup import setup
from hypervisor.spec import context, refusal, status, vmx
from hypervisor.spec import cpu as bits
from hypervisor.spec import state as fields
from tests.unit.vmx.machine import TSS_BASE, Compartment, Core, Vcpu, arena

TRUE = {'pin': vmx.MSR_VMX_TRUE_PIN, 'primary': vmx.MSR_VMX_TRUE_PRIMARY, 'secondary': vmx.MSR_VMX_SECONDARY, 'exit': vmx.MSR_VMX_TRUE_EXIT,
        'entry': vmx.MSR_VMX_TRUE_ENTRY}


@pytest.fixture
def core():
    return Core()


def test_a_haswell_is_accepted(core):
    core.enable()
    assert hw.fake.on == int(setup.region)
    assert memory.load32(setup.region) == 0x12


@pytest.mark.parametrize('group, bit, expected', [
    ('primary', vmx.PRIMARY_SECONDARY, 'NO_SECONDARY'), ('secondary', vmx.SECONDARY_EPT, 'NO_EPT'),
    ('secondary', vmx.SECONDARY_UNRESTRICTED, 'NO_UNRESTRICTED'), ('secondary', vmx.SECONDARY_VPID, 'NO_VPID'),
    ('primary', vmx.PRIMARY_MSR_BITMAPS, 'NO_MSR_BITMAP'), ('exit', vmx.EXIT_CONTROL_LOAD_EFER, 'NO_EFER_SWITCH'),
    ('exit', vmx.EXIT_CONTROL_SAVE_PAT, 'NO_EFER_SWITCH'), ('entry', vmx.ENTRY_CONTROL_LOAD_PAT, 'NO_EFER_SWITCH'),
    ('pin', vmx.PIN_NMI, 'NO_CONTROL'), ('primary', vmx.PRIMARY_CR8_LOAD, 'NO_CONTROL'),
    ('exit', vmx.EXIT_CONTROL_ACKNOWLEDGE_INTERRUPT, 'NO_CONTROL'), ('entry', vmx.ENTRY_CONTROL_LOAD_DEBUG, 'NO_CONTROL'),
])
def test_a_missing_control_is_refused_by_name(core, group, bit, expected):
    cpu.fake.msr[TRUE[group]] &= ~(bit << 32)
    assert core.vendor.probe() == getattr(refusal, expected)


@pytest.mark.parametrize('bit, expected', [
    (vmx.EPT_FOUR_LEVELS, 'NO_EPT'), (vmx.EPT_WRITE_BACK, 'NO_EPT'), (vmx.EPT_LARGE_PAGES, 'NO_EPT'), (vmx.EPT_INVEPT, 'NO_EPT'),
    (vmx.EPT_INVEPT_SINGLE | vmx.EPT_INVEPT_ALL, 'NO_EPT'), (vmx.VPID_INVVPID, 'NO_VPID'),
    (vmx.VPID_INVVPID_SINGLE | vmx.VPID_INVVPID_ALL, 'NO_VPID')])
def test_a_missing_ept_or_vpid_capability_is_refused(core, bit, expected):
    cpu.fake.msr[vmx.MSR_VMX_EPT_VPID] &= ~bit
    assert core.vendor.probe() == getattr(refusal, expected)


def test_other_refusals_of_probe(core):
    cpu.fake.msr[vmx.MSR_VMX_BASIC] &= ~vmx.BASIC_TRUE_CONTROLS
    assert core.vendor.probe() == refusal.NO_TRUE_CONTROLS
    cpu.fake.msr[bits.MSR_FEATURE_CONTROL] = vmx.FEATURE_CONTROL_LOCK
    assert core.vendor.probe() == refusal.FEATURE_CONTROL_LOCKED
    cpu.fake.leaves[1] = (0, 0, 0, 0)
    assert core.vendor.probe() == refusal.NO_VENDOR


def test_every_refusal_has_a_sentence():
    for name in ('NO_CONTROL', 'NO_TRUE_CONTROLS', 'CR_FIXED', 'VMXON_FAILED'):
        assert refusal.SENTENCES[getattr(refusal, name)]


def test_feature_control_is_locked_with_vmx_when_the_firmware_left_it_open(core):
    core.enable()
    assert cpu.fake.msr[bits.MSR_FEATURE_CONTROL] == vmx.FEATURE_CONTROL_LOCK | vmx.FEATURE_CONTROL_VMX


def test_feature_control_stays_when_locked(core):
    value = vmx.FEATURE_CONTROL_LOCK | vmx.FEATURE_CONTROL_VMX | 0x8000
    cpu.fake.msr[bits.MSR_FEATURE_CONTROL] = value
    core.enable()
    assert cpu.fake.msr[bits.MSR_FEATURE_CONTROL] == value


def test_refusals_of_enable(core):
    cpu.fake.msr[vmx.MSR_VMX_CR0_FIXED1] &= ~bits.CR0_WP
    assert core.vendor.enable() == refusal.CR_FIXED
    cpu.fake.msr[vmx.MSR_VMX_CR0_FIXED1] |= bits.CR0_WP
    hw.fake.vmxon_result = hw.FAIL_INVALID
    assert core.vendor.enable() == refusal.VMXON_FAILED
    while arena.take():
        pass
    assert core.vendor.enable() == refusal.NO_MEMORY


def test_hidden_optional_controls_are_not_used(core):
    cpu.fake.msr[vmx.MSR_VMX_TRUE_PIN] &= ~((vmx.PIN_VIRTUAL_NMIS | vmx.PIN_PREEMPTION_TIMER) << 32)
    cpu.fake.msr[vmx.MSR_VMX_SECONDARY] &= ~((vmx.SECONDARY_WBINVD | vmx.SECONDARY_INVPCID) << 32)
    cpu.fake.msr[vmx.MSR_VMX_EPT_VPID] &= ~(vmx.EPT_INVEPT_SINGLE | vmx.VPID_INVVPID_SINGLE)
    core.enable()
    vcpu = core.vcpu()
    assert vmx.GUEST_PREEMPTION_TIMER not in core.fields(vcpu)
    assert broken(vcpu, core) == 0
    core.exit(vcpu, vmx.REASON_HLT)
    assert [entry[:2] for entry in hw.fake.log if entry[0].startswith('inv')] == [
        ('invept', vmx.INVEPT_ALL), ('invvpid', vmx.INVVPID_ALL)] * 1 + [('invvpid', vmx.INVVPID_ALL), ('invept', vmx.INVEPT_ALL)]


def broken(vcpu, core):
    vcpu.exit_code = r_uint(vmx.REASON_ENTRY_FAILED | vmx.REASON_ENTRY_GUEST_STATE)
    return core.vendor.explain(vcpu)


def test_a_new_vmcs_breaks_no_rule(core):
    core.enable()
    assert broken(core.vcpu(), core) == 0


def test_host_state_is_the_kernel(core):
    core.enable()
    vcpu = core.vcpu()
    vmcs = core.fields(vcpu)
    assert vmcs[vmx.HOST_RSP] == int(vcpu.area)
    assert vmcs[vmx.HOST_TR_BASE] == TSS_BASE
    assert vmcs[vmx.HOST_CR3] == 0x5000
    assert vmcs[vmx.HOST_CR0] & bits.CR0_TS
    assert vmcs[vmx.HOST_CR4] & bits.CR4_VMXE
    assert (vmcs[vmx.HOST_CS_SELECTOR], vmcs[vmx.HOST_SS_SELECTOR], vmcs[vmx.HOST_TR_SELECTOR]) == (
        context.SELECTOR_KERNEL_CODE, context.SELECTOR_KERNEL_DATA, context.SELECTOR_TSS)


def test_reset_state_is_the_manuals(core):
    core.enable()
    vcpu = core.vcpu()
    get = lambda name: int(core.vendor.get(vcpu, getattr(fields, name)))
    assert (get('CS_SELECTOR'), get('CS_BASE'), get('RIP'), get('RFLAGS')) == (0xf000, 0xffff0000, 0xfff0, 2)
    assert (get('CR0'), get('CR3'), get('CR4'), get('EFER')) == (0x60000010, 0, 0, 0)
    assert (get('DS_ATTRIBUTES'), get('CS_ATTRIBUTES'), get('TR_ATTRIBUTES'), get('LDTR_ATTRIBUTES')) == (0x93, 0x9b, 0x8b, 0x82)
    assert (get('GDTR_LIMIT'), get('IDTR_LIMIT'), get('DS_LIMIT')) == (0xffff, 0xffff, 0xffff)
    assert core.fields(vcpu)[vmx.GUEST_CR0] & (bits.CR0_CD | bits.CR0_NW) == 0
    assert core.fields(vcpu)[vmx.GUEST_DR7] == 0x400
    assert core.fields(vcpu)[vmx.GUEST_PAT] == bits.PAT_RESET


def test_every_msr_exits_but_those_passed_through(core):
    core.enable()
    def exits(number, part):
        at = int(setup.bitmap) + part + (1024 if number >= 0xc0000000 else 0) + (number & 0x1fff) // 8
        return bool(int(memory.load8(r_uint(at))) >> (number & 7) & 1)
    for number in list(range(0x2000)) + list(range(0xc0000000, 0xc0002000)):
        passed = number in vmx.PASSED_THROUGH
        assert exits(number, vmx.MSR_BITMAP_READ_LOW) == (not passed and number != bits.MSR_TSC), hex(number)
        assert exits(number, vmx.MSR_BITMAP_WRITE_LOW) == (not passed), hex(number)
    assert bits.MSR_EFER not in vmx.PASSED_THROUGH and bits.MSR_LSTAR in vmx.PASSED_THROUGH


def test_each_vcpu_has_a_vpid_of_its_own_and_its_translations_are_dropped(core):
    core.enable()
    one, other = core.vcpu(0), core.vcpu(1)
    assert core.fields(one)[vmx.VPID] == 1 and core.fields(other)[vmx.VPID] == 2
    assert ('invvpid', vmx.INVVPID_SINGLE, 2) in hw.fake.log
    assert one.flush and other.flush


def test_create_without_memory_says_so(core):
    core.enable()
    vcpu = Vcpu(0)
    vcpu.compartment = Compartment(pages=0)
    vcpu.area = arena.take()
    assert core.vendor.create(vcpu) == status.NO_MEMORY


def test_leaf_bits(core):
    leaf = core.vendor.leaf_bits
    assert leaf(1, False) == 1 | 6 << 3 | 1 << 6
    assert leaf(2, False) & 7 == 3, 'writable without readable is a misconfiguration'
    assert leaf(4, False) & 7 == 5
    assert leaf(15, True) == 7 | 6 << 3 | 1 << 6 | 1 << 7
    assert core.vendor.table_bits() == 7
