"""State fields, control registers, and which VMCS is the current one."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu, memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel.state import features
from hypervisor.kernel.vmx import access_rights, attributes
from hypervisor.kernel.vmx_quick import Words
from hypervisor.spec import cpu as bits
from hypervisor.spec import state, vcpu as page, vmx
from hypervisor.spec.context import AREA
from tests.unit.vmx.machine import Core

CR0_RESET = 0x60000010
PROTECTED = bits.CR0_PE | bits.CR0_ET


@pytest.fixture
def core():
    return Core().enable()


@pytest.fixture
def vcpu(core):
    return core.vcpu()


def put(core, vcpu, name, value):
    core.vendor.set(vcpu, getattr(state, name), r_uint(value))


def get(core, vcpu, name):
    return int(core.vendor.get(vcpu, getattr(state, name)))


def test_every_field_comes_back_as_it_was_set(core, vcpu):
    special = {'CR0': PROTECTED | bits.CR0_CD | bits.CR0_NW, 'CR4': bits.CR4_PAE | bits.CR4_MCE, 'EFER': bits.EFER_LME | bits.EFER_NXE}
    for index, name in enumerate(state.FIELDS):
        value = special.get(name, 0x1083 + index if name.endswith('ATTRIBUTES') else 0x1000 + index)
        if name.endswith('ATTRIBUTES'):
            value = 0xc93 if index % 2 else 0xf9b
        put(core, vcpu, name, value)
        assert get(core, vcpu, name) == value, name


@given(st.integers(0, 0x1fff))
@settings(max_examples=300)
def test_attributes_survive_the_way_to_the_vmcs_and_back(value):
    present = value & 0x80
    expected = value if present else value | page.UNUSABLE
    rights = int(access_rights(r_uint(value)))
    assert int(attributes(r_uint(rights))) == expected
    assert rights & 0xf00 == 0 and rights >> 17 == 0
    for bit, place in ((8, 12), (9, 13), (10, 14), (11, 15), (12, 16)):
        assert rights >> place & 1 == expected >> bit & 1


def test_the_guest_believes_in_its_caches_while_they_stay_on(core, vcpu):
    put(core, vcpu, 'CR0', CR0_RESET)
    assert get(core, vcpu, 'CR0') == CR0_RESET
    real = core.fields(vcpu)[vmx.GUEST_CR0]
    assert real & (bits.CR0_CD | bits.CR0_NW) == 0 and real & bits.CR0_NE


def test_vmxe_is_real_and_unseen(core, vcpu):
    put(core, vcpu, 'CR4', bits.CR4_PAE)
    assert get(core, vcpu, 'CR4') == bits.CR4_PAE
    assert core.fields(vcpu)[vmx.GUEST_CR4] == bits.CR4_PAE | bits.CR4_VMXE


@pytest.mark.parametrize('order', [('EFER', 'CR4', 'CR0'), ('CR0', 'CR4', 'EFER')])
def test_lma_and_the_entry_control_follow_lme_and_paging(core, vcpu, order):
    values = {'EFER': bits.EFER_LME | bits.EFER_LMA, 'CR4': bits.CR4_PAE, 'CR0': PROTECTED | bits.CR0_PG}
    for name in order:
        put(core, vcpu, name, values[name])
    assert get(core, vcpu, 'EFER') == bits.EFER_LME | bits.EFER_LMA
    assert core.fields(vcpu)[vmx.ENTRY_CONTROLS] & vmx.ENTRY_CONTROL_GUEST_64
    put(core, vcpu, 'CR0', PROTECTED)
    assert get(core, vcpu, 'EFER') == bits.EFER_LME
    assert not core.fields(vcpu)[vmx.ENTRY_CONTROLS] & vmx.ENTRY_CONTROL_GUEST_64


def move_to(core, vcpu, number, value, register='RBX', access=vmx.ACCESS_TO):
    """The guest executes MOV CRn, register. Returns whether the kernel says done."""
    index = page.GPR.index(register)
    if register == 'RSP':
        core.fields(vcpu)[vmx.GUEST_RSP] = value
    else:
        vcpu.set_gpr(AREA[register], r_uint(value))
    core.exit(vcpu, vmx.REASON_CONTROL_REGISTER, EXIT_QUALIFICATION=number | access << 4 | index << 8, EXIT_INSTRUCTION_LENGTH=3,
              GUEST_RIP=0x1000)
    return core.vendor.control(vcpu)


def retried(core, vcpu, value):
    """The instruction is to be executed again, and will not exit then."""
    vmcs = core.fields(vcpu)
    return vmcs[vmx.GUEST_RIP] == 0x1000 and (vmcs[vmx.CR0_SHADOW] ^ value) & vmcs[vmx.CR0_MASK] == 0


@pytest.mark.parametrize('register', ['RBX', 'RSP', 'R15'])
def test_a_cr0_write_with_kernel_bits_is_believed_and_retried(core, vcpu, register):
    put(core, vcpu, 'CR0', CR0_RESET)
    value = PROTECTED | bits.CR0_NE
    assert move_to(core, vcpu, 0, value, register)
    assert retried(core, vcpu, value)
    assert core.fields(vcpu)[vmx.GUEST_CR0] & bits.CR0_PE == 0, 'what is not the kernel\'s is left to the processor'


def test_outside_of_64_bit_code_a_register_has_32_bits(core, vcpu):
    assert move_to(core, vcpu, 0, 0xffffffff00000000 | PROTECTED)


@pytest.mark.parametrize('value', [bits.CR0_NW, bits.CR0_PG | bits.CR0_CD])
def test_impossible_cr0_values_are_refused_before_anything_changes(core, vcpu, value):
    before = dict(core.fields(vcpu))
    assert not move_to(core, vcpu, 0, value)
    assert core.fields(vcpu)[vmx.CR0_SHADOW] == before[vmx.CR0_SHADOW]


def long_mode(core, vcpu):
    put(core, vcpu, 'CR0', PROTECTED | bits.CR0_PG)
    put(core, vcpu, 'CR4', bits.CR4_PAE)
    put(core, vcpu, 'EFER', bits.EFER_LME)
    put(core, vcpu, 'CS_ATTRIBUTES', 0xa9b)


def test_64_bit_code_cannot_turn_paging_off_nor_use_the_high_half(core, vcpu):
    long_mode(core, vcpu)
    assert not move_to(core, vcpu, 0, PROTECTED | bits.CR0_CD)
    assert not move_to(core, vcpu, 0, 1 << 32 | PROTECTED | bits.CR0_PG | bits.CR0_CD)
    assert move_to(core, vcpu, 0, PROTECTED | bits.CR0_PG | bits.CR0_CD)


@pytest.mark.parametrize('bit', [bits.CR4_VMXE, bits.CR4_SMXE, bits.CR4_LA57, bits.CR4_PKE, bits.CR4_CET, 1 << 31])
def test_cr4_bits_that_are_not_offered_are_refused(core, vcpu, bit):
    assert not move_to(core, vcpu, 4, bits.CR4_PAE | bit)
    assert get(core, vcpu, 'CR4') == 0


@pytest.mark.parametrize('bit, ecx', [(bits.CR4_PKE, 1 << 3), (bits.CR4_LA57, 1 << 16)])
def test_cr4_bits_that_the_processor_has_are_the_guests_own(bit, ecx):
    """It changes them without an exit, and a VMM may say them."""
    for there in (0, ecx):
        core = Core()
        cpu.fake.leaves[7] = (0, 0, there, 0)
        cpu.fake.msr[vmx.MSR_VMX_CR4_FIXED1] |= bit
        features.open()
        vcpu = core.enable().vcpu()
        assert bool(core.fields(vcpu)[vmx.CR4_MASK] & bit) == (not there)
        assert bool(features.cr4 & r_uint(bit)) == bool(there)


@pytest.mark.parametrize('believed', [0, bits.CR4_PKE, bits.CR4_PKE | bits.CR4_PAE | bits.CR4_MCE])
def test_the_straight_path_reads_cr4_pke(believed):
    for there in (0, 1 << 3):
        core = Core()
        cpu.fake.leaves[7] = (0, 0, there, 0)
        cpu.fake.msr[vmx.MSR_VMX_CR4_FIXED1] |= bits.CR4_PKE
        features.open()
        vcpu = core.enable().vcpu()
        core.vendor.set(vcpu, state.CR4, r_uint(believed))
        assert int(Words.keys_on(vcpu)) == (believed & bits.CR4_PKE if there else 0)


def test_mce_is_believed(core, vcpu):
    assert move_to(core, vcpu, 4, bits.CR4_MCE | bits.CR4_PAE)
    assert core.fields(vcpu)[vmx.CR4_SHADOW] & bits.CR4_MCE
    assert core.fields(vcpu)[vmx.GUEST_RIP] == 0x1000


def test_cr8_is_the_tpr_of_the_guests_apic(core, vcpu):
    assert move_to(core, vcpu, 8, 9)
    assert core.fields(vcpu)[vmx.GUEST_RIP] == 0x1003
    assert vcpu.apic.tpr == 0x90 and vcpu.attention
    vcpu.apic.tpr = r_uint(0x97)
    assert move_to(core, vcpu, 8, 0, 'RDX', vmx.ACCESS_FROM)
    assert vcpu.gpr(AREA['RDX']) == 9
    assert move_to(core, vcpu, 8, 0, 'RSP', vmx.ACCESS_FROM)
    assert core.fields(vcpu)[vmx.GUEST_RSP] == 9
    assert not move_to(core, vcpu, 8, 16)


def test_clts_lmsw_and_rdpmc_are_refused(core, vcpu):
    assert not move_to(core, vcpu, 0, 0, access=vmx.ACCESS_CLTS)
    assert not move_to(core, vcpu, 0, 0, access=vmx.ACCESS_LMSW)
    core.exit(vcpu, vmx.REASON_RDPMC)
    assert not core.vendor.control(vcpu)


def test_the_vmcs_is_loaded_only_when_another_ran(core):
    one, other = core.vcpu(0), core.vcpu(1)
    hw.fake.log = []
    loads = lambda: [hpa for what, hpa in (e[:2] for e in hw.fake.log) if what == 'vmptrld']
    for vcpu in (one, one, other, other, one):
        core.exit(vcpu, vmx.REASON_HLT)
        core.vendor.get(vcpu, state.RIP)
    assert loads() == [one.control_hpa, other.control_hpa, one.control_hpa]


def test_access_to_another_vcpu_reaches_that_ones_vmcs(core):
    one, other = core.vcpu(0), core.vcpu(1)
    put(core, one, 'RIP', 0x1111)
    put(core, other, 'RIP', 0x2222)
    assert (get(core, one, 'RIP'), get(core, other, 'RIP')) == (0x1111, 0x2222)


def test_run_advance_and_inject_reach_the_vcpus_own_vmcs(core):
    one, other = core.vcpu(0), core.vcpu(1)
    entered = []
    def play(area, vmcs):
        entered.append(vmcs[vmx.VPID])
        vmcs[vmx.EXIT_REASON], vmcs[vmx.EXIT_INSTRUCTION_LENGTH] = vmx.REASON_CPUID, 2
        return hw.SUCCEED
    hw.fake.run = play
    core.vendor.run(one)
    core.vendor.run(other)
    core.vendor.advance(one)
    assert entered == [1, 2]
    assert core.fields(one)[vmx.GUEST_RIP] == 0xfff2 and core.fields(other)[vmx.GUEST_RIP] == 0xfff0
    put(core, other, 'CR0', PROTECTED)
    core.vendor.inject(one, 13, r_uint(0))
    core.vendor.get(other, state.RIP)
    core.vendor.set_pat(one, r_uint(0x0606060606060606))
    assert one.pat == 0x0606060606060606
    core.vendor.run(one)
    core.vendor.run(other)
    assert not core.fields(one)[vmx.ENTRY_INTERRUPTION_INFO] & vmx.INTERRUPTION_ERROR, 'it is in real mode'
    assert (core.fields(one)[vmx.GUEST_PAT], core.fields(other)[vmx.GUEST_PAT]) == (0x0606060606060606, bits.PAT_RESET)


def test_release_writes_the_vmcs_back_and_forgets_it(core, vcpu):
    hpa = vcpu.control_hpa
    core.vendor.release(vcpu)
    assert hw.fake.log[-1] == ('vmclear', hpa) and core.vendor.current != hpa
    again = core.vcpu(3)
    assert get(core, again, 'RIP') == 0xfff0
    core.vendor.release(vcpu)
    assert hw.fake.log[-1] != ('vmclear', hpa), 'its page may be anybody\'s by now'


def test_flush_drops_nested_translations_once(core, vcpu):
    core.exit(vcpu, vmx.REASON_HLT)
    hw.fake.log = []
    core.exit(vcpu, vmx.REASON_HLT)
    assert hw.fake.log == []
    vcpu.flush = True
    core.exit(vcpu, vmx.REASON_HLT)
    core.exit(vcpu, vmx.REASON_HLT)
    assert hw.fake.log == [('invept', vmx.INVEPT_SINGLE, 0x1234000 | 6 | 3 << 3)]


def test_switch_exchanges_the_syscall_registers(core):
    one, other = core.vcpu(0), core.vcpu(1)
    names = ['STAR', 'LSTAR', 'CSTAR', 'SFMASK', 'KERNEL_GS_BASE']
    core.vendor.switch(None, one)
    for number, name in enumerate(names):
        assert cpu.fake.msr[getattr(bits, 'MSR_' + name)] == 0
        cpu.fake.msr[getattr(bits, 'MSR_' + name)] = 0x100 + number
    core.vendor.switch(one, other)
    assert [cpu.fake.msr[getattr(bits, 'MSR_' + name)] for name in names] == [0] * 5
    core.vendor.switch(other, one)
    assert [cpu.fake.msr[getattr(bits, 'MSR_' + name)] for name in names] == [0x100 + n for n in range(5)]


def test_a_new_vcpu_in_a_used_area_begins_unlaunched(core):
    vcpu = core.vcpu(0)
    memory.store64(vcpu.area + vmx.PRIVATE['LAUNCHED'], r_uint(5))
    memory.store64(vcpu.area + AREA['CR2'], r_uint(5))
    vcpu.pat = r_uint(0)
    core.vendor.release(vcpu)
    assert core.vendor.create(vcpu) == 0
    assert memory.load32(vcpu.control) == 0x12, 'the revision identifier of IA32_VMX_BASIC'
    assert vcpu.pat == bits.PAT_RESET and get(core, vcpu, 'CR2') == 0
    assert memory.load64(vcpu.area + vmx.PRIVATE['LAUNCHED']) == 0
