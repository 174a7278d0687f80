"""VMX: the rules of a VM entry for what only a VMCS has: controls, host state, and the vendor's part of the guest state.

As in entry_check.py, each function returns the first rule (hypervisor/spec/entry.py) that does not hold, or 0.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu
from hypervisor.hw import vmx as hw
from hypervisor.kernel import entry_check
from hypervisor.kernel.entry_check import (CR0_PE, CR0_PG, CR4_PAE, EFER_DEFINED, EFER_LMA, EFER_LME, LOW32, Reader, canonical,
                                           memory_types, physical_mask, privilege)
from hypervisor.spec import cpu as bits
from hypervisor.spec import entry as rules
from hypervisor.spec import state as fields
from hypervisor.spec import vmx

R0 = r_uint(0)
PAGE_OFFSET = r_uint(0xfff)
CR0_FREE = CR0_PE | CR0_PG
DEBUGCTL_DEFINED = r_uint(0xffc3)
BLOCKING_ANY = r_uint(vmx.BLOCKING_STI | vmx.BLOCKING_MOV_SS)
ACTIVE, HLT, SHUTDOWN, WAIT_FOR_SIPI = [r_uint(n) for n in range(4)]
PENDING_DEFINED = r_uint(0xf | 1 << 12 | 1 << 14 | 1 << 16)
PDPTE_RESERVED_LOW = r_uint(0x1e6)
HOST_SELECTORS = [vmx.HOST_ES_SELECTOR, vmx.HOST_CS_SELECTOR, vmx.HOST_SS_SELECTOR, vmx.HOST_DS_SELECTOR, vmx.HOST_FS_SELECTOR,
                  vmx.HOST_GS_SELECTOR, vmx.HOST_TR_SELECTOR]
HOST_BASES = [vmx.HOST_FS_BASE, vmx.HOST_GS_BASE, vmx.HOST_TR_BASE, vmx.HOST_GDTR_BASE, vmx.HOST_IDTR_BASE]


class VmcsReader(Reader):
    """Reads the current VMCS."""

    def __init__(self):
        self.vendor = None
        self.vcpu = None

    def state(self, field):
        return self.vendor.get(self.vcpu, field)

    def control(self, number):
        return hw.vmread(r_uint(number))


vmcs_reader = VmcsReader()


def broken_rule(vendor, vcpu):
    """After a failed entry of vcpu, whose VMCS is current."""
    if vcpu.exit_code & LOW32 & ~r_uint(vmx.REASON_ENTRY_FAILED) == r_uint(vmx.REASON_ENTRY_MSR):
        return rules.RULE_MSR_LOADING
    vmcs_reader.vendor = vendor
    vmcs_reader.vcpu = vcpu
    return entry_rule(vmcs_reader)


def entry_rule(reader):
    """All of them, in the order in which the processor looks."""
    rule = execution_rule(reader)
    if rule == 0:
        rule = exit_rule(reader)
    if rule == 0:
        rule = entry_control_rule(reader)
    if rule == 0:
        rule = host_rule(reader)
    if rule == 0:
        rule = guest_register_rule(reader)
    if rule == 0:
        rule = entry_check.intel_state_rule(reader)
    if rule == 0:
        rule = non_register_rule(reader)
    return rule


def flag(reader, field, bit):
    return reader.control(field) & r_uint(bit) != R0


def allowed(value, msr):
    """Are all bits set that the MSR's low half asks for, and none that its high half does not allow?"""
    limits = cpu.rdmsr(r_uint(msr))
    return limits & LOW32 & ~value == R0 and value & ~(limits >> 32) == R0


def is_page(address):
    return address & (PAGE_OFFSET | ~physical_mask()) == R0


def fixed(value, must_msr, may_msr, free):
    """Does a control register have what VMX operation fixes, `free` bits aside?"""
    must = cpu.rdmsr(r_uint(must_msr)) & ~free
    return must & ~value == R0 and value & ~cpu.rdmsr(r_uint(may_msr)) == R0


# -- controls ---------------------------------------------------------------------------------------------------------------------

def execution_rule(reader):
    if not allowed(reader.control(vmx.PIN_CONTROLS), vmx.MSR_VMX_TRUE_PIN):
        return rules.RULE_PIN_RESERVED
    if not allowed(reader.control(vmx.PRIMARY_CONTROLS), vmx.MSR_VMX_TRUE_PRIMARY):
        return rules.RULE_PRIMARY_RESERVED
    if not allowed(reader.control(vmx.SECONDARY_CONTROLS), vmx.MSR_VMX_SECONDARY):
        return rules.RULE_SECONDARY_RESERVED
    if reader.control(vmx.CR3_TARGET_COUNT) > r_uint(4):
        return rules.RULE_CR3_TARGETS
    if flag(reader, vmx.PRIMARY_CONTROLS, vmx.PRIMARY_IO_BITMAPS):
        if not is_page(reader.control(vmx.IO_BITMAP_A)) or not is_page(reader.control(vmx.IO_BITMAP_B)):
            return rules.RULE_IO_BITMAP
    if flag(reader, vmx.PRIMARY_CONTROLS, vmx.PRIMARY_MSR_BITMAPS) and not is_page(reader.control(vmx.MSR_BITMAP)):
        return rules.RULE_MSR_BITMAP
    virtual_nmis = flag(reader, vmx.PIN_CONTROLS, vmx.PIN_VIRTUAL_NMIS)
    if virtual_nmis and not flag(reader, vmx.PIN_CONTROLS, vmx.PIN_NMI):
        return rules.RULE_VIRTUAL_NMIS
    if not virtual_nmis and flag(reader, vmx.PRIMARY_CONTROLS, vmx.PRIMARY_NMI_WINDOW):
        return rules.RULE_VIRTUAL_NMIS
    rule = apic_rule(reader)
    if rule != 0:
        return rule
    return secondary_rule(reader)


def apic_rule(reader):
    delivery = flag(reader, vmx.SECONDARY_CONTROLS, vmx.SECONDARY_INTERRUPT_DELIVERY)
    if flag(reader, vmx.PRIMARY_CONTROLS, vmx.PRIMARY_TPR_SHADOW):
        if not is_page(reader.control(vmx.VIRTUAL_APIC)):
            return rules.RULE_VIRTUAL_APIC
        if not delivery and reader.control(vmx.TPR_THRESHOLD) > r_uint(15):
            return rules.RULE_TPR_THRESHOLD
    elif flag(reader, vmx.SECONDARY_CONTROLS, vmx.NEED_TPR_SHADOW):
        return rules.RULE_TPR_SHADOW
    if flag(reader, vmx.SECONDARY_CONTROLS, vmx.SECONDARY_X2APIC) and flag(reader, vmx.SECONDARY_CONTROLS, vmx.SECONDARY_APIC_ACCESSES):
        return rules.RULE_APIC_MODES
    if delivery and not flag(reader, vmx.PIN_CONTROLS, vmx.PIN_EXTERNAL_INTERRUPT):
        return rules.RULE_DELIVERY_EXTERNAL
    return 0


def secondary_rule(reader):
    if flag(reader, vmx.SECONDARY_CONTROLS, vmx.SECONDARY_VPID) and reader.control(vmx.VPID) == R0:
        return rules.RULE_VPID_ZERO
    ept = flag(reader, vmx.SECONDARY_CONTROLS, vmx.SECONDARY_EPT)
    if ept and not ept_pointer_fits(reader.control(vmx.EPT_POINTER)):
        return rules.RULE_EPTP
    if flag(reader, vmx.SECONDARY_CONTROLS, vmx.SECONDARY_UNRESTRICTED) and not ept:
        return rules.RULE_UNRESTRICTED_EPT
    return 0


def ept_pointer_fits(pointer):
    return pointer & PAGE_OFFSET == r_uint(vmx.EPTP_WRITE_BACK | vmx.EPTP_FOUR_LEVELS) and pointer & ~physical_mask() == R0


def msr_area_fits(reader, count, address):
    return reader.control(count) == R0 or reader.control(address) & (r_uint(15) | ~physical_mask()) == R0


def exit_rule(reader):
    if not allowed(reader.control(vmx.EXIT_CONTROLS), vmx.MSR_VMX_TRUE_EXIT):
        return rules.RULE_EXIT_RESERVED
    if (flag(reader, vmx.EXIT_CONTROLS, vmx.EXIT_CONTROL_SAVE_PREEMPTION_TIMER) and
            not flag(reader, vmx.PIN_CONTROLS, vmx.PIN_PREEMPTION_TIMER)):
        return rules.RULE_EXIT_TIMER
    if (not msr_area_fits(reader, vmx.EXIT_MSR_STORE_COUNT, vmx.EXIT_MSR_STORE) or
            not msr_area_fits(reader, vmx.EXIT_MSR_LOAD_COUNT, vmx.EXIT_MSR_LOAD)):
        return rules.RULE_EXIT_MSRS
    return 0


def entry_control_rule(reader):
    if not allowed(reader.control(vmx.ENTRY_CONTROLS), vmx.MSR_VMX_TRUE_ENTRY):
        return rules.RULE_ENTRY_RESERVED
    if flag(reader, vmx.ENTRY_CONTROLS, vmx.ENTRY_CONTROL_SMM | vmx.ENTRY_CONTROL_NO_DUAL_MONITOR):
        return rules.RULE_ENTRY_SMM
    if not msr_area_fits(reader, vmx.ENTRY_MSR_LOAD_COUNT, vmx.ENTRY_MSR_LOAD):
        return rules.RULE_ENTRY_MSRS
    if flag(reader, vmx.ENTRY_INTERRUPTION_INFO, vmx.INTERRUPTION_VALID):
        return event_rule(reader, reader.control(vmx.ENTRY_INTERRUPTION_INFO))
    return 0


def event_type(info):
    return intmask((info >> vmx.INTERRUPTION_TYPE_SHIFT) & 7)


def event_rule(reader, info):
    kind = event_type(info)
    vector = info & r_uint(0xff)
    if kind == 1 or kind == vmx.TYPE_OTHER:         # the second needs "monitor trap flag", which nobody turns on
        return rules.RULE_EVENT_TYPE
    if kind == vmx.TYPE_NMI and vector != r_uint(bits.VECTOR_NMI):
        return rules.RULE_EVENT_VECTOR
    if kind == vmx.TYPE_HARDWARE and vector > r_uint(31):
        return rules.RULE_EVENT_VECTOR
    has_error = info & r_uint(vmx.INTERRUPTION_ERROR) != R0
    if has_error != (kind == vmx.TYPE_HARDWARE and wants_error(reader, vector)):
        return rules.RULE_EVENT_ERROR
    if info & r_uint(0x7ffff000) != R0 or (has_error and reader.control(vmx.ENTRY_EXCEPTION_ERROR) > r_uint(0x7fff)):
        return rules.RULE_EVENT_RESERVED
    if kind >= vmx.TYPE_SOFTWARE_INTERRUPT:
        length = reader.control(vmx.ENTRY_INSTRUCTION_LENGTH)
        if length == R0 or length > r_uint(15):
            return rules.RULE_EVENT_LENGTH
    return 0


def wants_error(reader, vector):
    """`vector` is at most 31."""
    return (r_uint(vmx.ERROR_CODE_VECTORS) >> intmask(vector)) & 1 != R0 and reader.control(vmx.GUEST_CR0) & CR0_PE != R0


# -- host state --------------------------------------------------------------------------------------------------------------------

def host_rule(reader):
    rule = host_register_rule(reader)
    if rule == 0:
        rule = host_segment_rule(reader)
    if rule != 0:
        return rule
    if not flag(reader, vmx.EXIT_CONTROLS, vmx.EXIT_CONTROL_HOST_64):
        return rules.RULE_HOST_64
    if reader.control(vmx.HOST_CR4) & CR4_PAE == R0:
        return rules.RULE_HOST_PAE
    if not canonical(reader.control(vmx.HOST_RIP)):
        return rules.RULE_HOST_RIP
    return 0


def host_register_rule(reader):
    if not fixed(reader.control(vmx.HOST_CR0), vmx.MSR_VMX_CR0_FIXED0, vmx.MSR_VMX_CR0_FIXED1, R0):
        return rules.RULE_HOST_CR0
    if not fixed(reader.control(vmx.HOST_CR4), vmx.MSR_VMX_CR4_FIXED0, vmx.MSR_VMX_CR4_FIXED1, R0):
        return rules.RULE_HOST_CR4
    if reader.control(vmx.HOST_CR3) & ~physical_mask() != R0:
        return rules.RULE_HOST_CR3
    if not canonical(reader.control(vmx.HOST_SYSENTER_ESP)) or not canonical(reader.control(vmx.HOST_SYSENTER_EIP)):
        return rules.RULE_HOST_SYSENTER
    if flag(reader, vmx.EXIT_CONTROLS, vmx.EXIT_CONTROL_LOAD_PAT) and not memory_types(reader.control(vmx.HOST_PAT)):
        return rules.RULE_HOST_PAT
    if flag(reader, vmx.EXIT_CONTROLS, vmx.EXIT_CONTROL_LOAD_EFER) and not host_efer_fits(reader):
        return rules.RULE_HOST_EFER
    return 0


def host_efer_fits(reader):
    efer = reader.control(vmx.HOST_EFER)
    wide = flag(reader, vmx.EXIT_CONTROLS, vmx.EXIT_CONTROL_HOST_64)
    return efer & ~EFER_DEFINED == R0 and (efer & EFER_LMA != R0) == wide and (efer & EFER_LME != R0) == wide


def host_segment_rule(reader):
    n = 0
    while n < len(HOST_SELECTORS):
        if reader.control(HOST_SELECTORS[n]) & 7 != R0:
            return rules.RULE_HOST_SELECTOR
        n += 1
    if reader.control(vmx.HOST_CS_SELECTOR) == R0 or reader.control(vmx.HOST_TR_SELECTOR) == R0:
        return rules.RULE_HOST_CS_TR
    n = 0
    while n < len(HOST_BASES):
        if not canonical(reader.control(HOST_BASES[n])):
            return rules.RULE_HOST_BASE
        n += 1
    return 0


# -- guest state that only VMX has --------------------------------------------------------------------------------------------------

def guest_register_rule(reader):
    if not fixed(reader.control(vmx.GUEST_CR0), vmx.MSR_VMX_CR0_FIXED0, vmx.MSR_VMX_CR0_FIXED1, CR0_FREE):
        return rules.RULE_CR0_FIXED
    if not fixed(reader.control(vmx.GUEST_CR4), vmx.MSR_VMX_CR4_FIXED0, vmx.MSR_VMX_CR4_FIXED1, R0):
        return rules.RULE_CR4_FIXED
    if flag(reader, vmx.ENTRY_CONTROLS, vmx.ENTRY_CONTROL_LOAD_DEBUG):
        if reader.control(vmx.GUEST_DEBUGCTL) & ~DEBUGCTL_DEFINED != R0:
            return rules.RULE_DEBUGCTL_RESERVED
        if reader.control(vmx.GUEST_DR7) > LOW32:
            return rules.RULE_DR7_HIGH
    if not canonical(reader.control(vmx.GUEST_SYSENTER_ESP)) or not canonical(reader.control(vmx.GUEST_SYSENTER_EIP)):
        return rules.RULE_SYSENTER_CANONICAL
    if flag(reader, vmx.ENTRY_CONTROLS, vmx.ENTRY_CONTROL_LOAD_PAT) and not memory_types(reader.control(vmx.GUEST_PAT)):
        return rules.RULE_PAT_TYPE
    return guest_long_mode_rule(reader)


def guest_long_mode_rule(reader):
    wide = flag(reader, vmx.ENTRY_CONTROLS, vmx.ENTRY_CONTROL_GUEST_64)
    paging = flag(reader, vmx.GUEST_CR0, bits.CR0_PG)
    if wide and not paging:
        return rules.RULE_LONG_PG
    if wide and reader.control(vmx.GUEST_CR4) & CR4_PAE == R0:
        return rules.RULE_LONG_PAE
    if flag(reader, vmx.ENTRY_CONTROLS, vmx.ENTRY_CONTROL_LOAD_EFER):
        efer = reader.control(vmx.GUEST_EFER)
        active = efer & EFER_LMA != R0
        if active != wide or (paging and active != (efer & EFER_LME != R0)):
            return rules.RULE_EFER_LMA
    return 0


def non_register_rule(reader):
    info = reader.control(vmx.ENTRY_INTERRUPTION_INFO)
    event = -1
    if info & r_uint(vmx.INTERRUPTION_VALID) != R0:
        event = event_type(info)
    rule = interrupt_flag_rule(reader, event)
    if rule == 0:
        rule = activity_rule(reader, event, info & r_uint(0xff))
    if rule == 0:
        rule = blocking_rule(reader, event)
    if rule == 0:
        rule = pending_debug_rule(reader)
    if rule != 0:
        return rule
    if reader.control(vmx.VMCS_LINK_POINTER) != r_uint(vmx.LINK_NONE):
        return rules.RULE_LINK_POINTER
    return pdpte_rule(reader)


def interrupt_flag_rule(reader, event):
    if event == vmx.TYPE_EXTERNAL and reader.state(fields.RFLAGS) & r_uint(bits.RFLAGS_IF) == R0:
        return rules.RULE_RFLAGS_IF
    return 0


def activity_rule(reader, event, vector):
    activity = reader.control(vmx.GUEST_ACTIVITY)
    if activity > WAIT_FOR_SIPI:
        return rules.RULE_ACTIVITY
    if activity == HLT and privilege(reader, entry_check.SS) != R0:
        return rules.RULE_ACTIVITY_HLT
    if activity != ACTIVE and reader.control(vmx.GUEST_INTERRUPTIBILITY) & BLOCKING_ANY != R0:
        return rules.RULE_ACTIVITY_BLOCKING
    if event >= 0 and not deliverable(activity, event, vector):
        return rules.RULE_ACTIVITY_EVENT
    return 0


def deliverable(activity, event, vector):
    """In HLT: interrupts, NMIs, #DB and #MC. In shutdown: NMIs and #MC. Waiting for a SIPI: nothing."""
    if activity == ACTIVE:
        return True
    if activity == WAIT_FOR_SIPI:
        return False
    if event == vmx.TYPE_NMI or (event == vmx.TYPE_HARDWARE and vector == r_uint(bits.VECTOR_MC)):
        return True
    return activity == HLT and (event == vmx.TYPE_EXTERNAL or (event == vmx.TYPE_HARDWARE and vector == r_uint(bits.VECTOR_DB)))


def blocking_rule(reader, event):
    blocking = reader.control(vmx.GUEST_INTERRUPTIBILITY)
    if blocking & ~r_uint(15) != R0:
        return rules.RULE_BLOCKING_RESERVED
    if blocking & BLOCKING_ANY == BLOCKING_ANY:
        return rules.RULE_BLOCKING_BOTH
    if blocking & r_uint(vmx.BLOCKING_STI) != R0 and reader.state(fields.RFLAGS) & r_uint(bits.RFLAGS_IF) == R0:
        return rules.RULE_BLOCKING_STI_IF
    if event == vmx.TYPE_EXTERNAL and blocking & BLOCKING_ANY != R0:
        return rules.RULE_BLOCKING_INTERRUPT
    if event == vmx.TYPE_NMI:
        nmi = R0
        if flag(reader, vmx.PIN_CONTROLS, vmx.PIN_VIRTUAL_NMIS):
            nmi = r_uint(vmx.BLOCKING_NMI)
        if blocking & (r_uint(vmx.BLOCKING_MOV_SS) | nmi) != R0:
            return rules.RULE_BLOCKING_NMI
    if blocking & r_uint(vmx.BLOCKING_SMI) != R0:
        return rules.RULE_BLOCKING_SMI
    return 0


def pending_debug_rule(reader):
    pending = reader.control(vmx.GUEST_PENDING_DEBUG)
    if pending & ~PENDING_DEFINED != R0:
        return rules.RULE_PENDING_RESERVED
    if reader.control(vmx.GUEST_INTERRUPTIBILITY) & BLOCKING_ANY == R0 and reader.control(vmx.GUEST_ACTIVITY) != HLT:
        return 0
    stepping = (reader.state(fields.RFLAGS) & r_uint(bits.RFLAGS_TF) != R0 and
                not flag(reader, vmx.GUEST_DEBUGCTL, vmx.DEBUGCTL_BTF))
    if stepping != (pending & r_uint(vmx.PENDING_DEBUG_BS) != R0):
        return rules.RULE_PENDING_STEP
    return 0


def pdpte_rule(reader):
    """With EPT, an entry takes the four PDPTEs from the VMCS."""
    if not (flag(reader, vmx.GUEST_CR0, bits.CR0_PG) and flag(reader, vmx.GUEST_CR4, bits.CR4_PAE)):
        return 0
    if flag(reader, vmx.ENTRY_CONTROLS, vmx.ENTRY_CONTROL_GUEST_64):
        return 0
    n = 0
    while n < 4:
        value = reader.control(vmx.GUEST_PDPTE0 + 2 * n)
        if value & 1 != R0 and value & (PDPTE_RESERVED_LOW | ~physical_mask()) != R0:
            return rules.RULE_PDPTE_RESERVED
        n += 1
    return 0
