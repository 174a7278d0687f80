"""VMX: from an exit to the vendor-neutral record.

Source: Intel SDM Vol. 3C, "VM Exits", "Recording VM-Exit Information and Updating VM-Entry Control Fields"; appendix "VMX Basic
Exit Reasons".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu, memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel import breakpoint
from hypervisor.kernel.vcpu import RAX, RCX, RDX, port_value
from hypervisor.kernel.vmx_setup import setup
from hypervisor.spec import cpu as bits
from hypervisor.spec import exit as kinds
from hypervisor.spec import vmx
from hypervisor.spec.call import EXECUTE, READ, WRITE

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
KIND = [kinds.UNKNOWN] * vmx.REASON_COUNT
for _number, _name, _kind in vmx.REASONS:
    KIND[_number] = getattr(kinds, _kind)
assert (kinds.ACCESS_READ, kinds.ACCESS_WRITE, kinds.ACCESS_EXECUTE) == (READ, WRITE, EXECUTE) == (1, 2, 4)

IO_FLAGS_SHIFT = 3
assert [flag >> IO_FLAGS_SHIFT for flag in (vmx.IO_IN, vmx.IO_STRING, vmx.IO_REPEAT)] == [kinds.IO_IN, kinds.IO_STRING, kinds.IO_REPEAT]

# What is left to do about #DB and #AC, which exit only so that they cannot keep the processor for ever: nothing, just go on.
DELIVERED_AGAIN = kinds.WINDOW


def decode(vcpu):
    """Fill the exit record from the current VMCS."""
    reason = hw.vmread(r_uint(vmx.EXIT_REASON))
    vcpu.exit_code = reason
    if reason >= r_uint(vmx.REASON_COUNT):
        decode_strange(vcpu, reason)
        return
    kind = KIND[intmask(reason)]
    vcpu.exit_kind = kind
    if kind == kinds.INTERRUPT:
        vcpu.exit_value = hw.vmread(r_uint(vmx.EXIT_INTERRUPTION_INFO)) & r_uint(0xff)
        return
    vcpu.exit_length = hw.vmread(r_uint(vmx.EXIT_INSTRUCTION_LENGTH))
    if kind == kinds.CPUID:
        vcpu.exit_selector = (vcpu.gpr(RAX) & LOW32) | vcpu.gpr(RCX) << 32
    elif kind == kinds.IO:
        decode_io(vcpu)
        if watches():
            vcpu.port_hits = breakpoint.port_hits(vcpu, hw.vmread(r_uint(vmx.GUEST_DR7)), hw.vmread(r_uint(vmx.GUEST_CR4)))
    elif kind == kinds.MEMORY:
        decode_memory(vcpu)
    elif kind == kinds.MSR_READ:
        vcpu.exit_selector = vcpu.gpr(RCX) & LOW32
    elif kind == kinds.MSR_WRITE:
        vcpu.exit_selector = vcpu.gpr(RCX) & LOW32
        vcpu.exit_value = (vcpu.gpr(RDX) & LOW32) << 32 | (vcpu.gpr(RAX) & LOW32)
    elif kind == kinds.HLT:
        vcpu.exit_value = hw.vmread(r_uint(vmx.GUEST_RFLAGS))
    elif kind == kinds.EXCEPTION:
        decode_exception(vcpu)
    elif kind == kinds.WINDOW:
        decode_window(vcpu)
    elif kind == kinds.TASK_SWITCH:
        decode_task_switch(vcpu)
    elif kind == kinds.UNKNOWN:
        keep_event(vcpu)


def decode_strange(vcpu, reason):
    """A reason that the table does not know, or one with bit 31: the entry failed after its controls were found good."""
    vcpu.exit_length = R0
    if reason & r_uint(vmx.REASON_ENTRY_FAILED) != R0:
        vcpu.exit_kind = kinds.ENTRY_FAILED
    else:
        vcpu.exit_kind = kinds.UNKNOWN


def decode_vmfail(vcpu, result):
    """VMLAUNCH or VMRESUME itself failed: the guest has not run."""
    vcpu.exit_kind = kinds.ENTRY_FAILED
    vcpu.exit_length = R0
    vcpu.exit_code = r_uint(vmx.CODE_VMFAIL)
    if result == r_uint(hw.FAIL_VALID):
        vcpu.exit_code |= hw.vmread(r_uint(vmx.INSTRUCTION_ERROR))


def decode_io(vcpu):
    """Source: SDM, "Exit Qualification for I/O Instructions"."""
    qualification = hw.vmread(r_uint(vmx.EXIT_QUALIFICATION))
    size = (qualification & 7) + 1
    vcpu.exit_selector = (qualification >> 16) & r_uint(0xffff)
    vcpu.exit_size = size
    vcpu.exit_flags = (qualification >> IO_FLAGS_SHIFT) & r_uint(kinds.IO_IN | kinds.IO_STRING | kinds.IO_REPEAT)
    vcpu.exit_value = port_value(vcpu)
    vcpu.port_hits = R0


decode_io._always_inline_ = True


def watches():
    """Has the guest breakpoints, maybe of ports?"""
    return hw.vmread(r_uint(vmx.GUEST_DR7)) & breakpoint.DR7_ENABLED != R0


def decode_memory(vcpu):
    """The instruction's length is not told. CS's and SS's attributes are the emulator's business: the code's width and its privilege.
    Source: SDM, "Exit Qualification for EPT Violations"."""
    vcpu.exit_length = R0
    qualification = hw.vmread(r_uint(vmx.EXIT_QUALIFICATION))
    vcpu.exit_flags = qualification & 7
    if qualification & r_uint(vmx.EPT_FINAL) == r_uint(vmx.EPT_FINAL):
        vcpu.exit_flags |= r_uint(kinds.ACCESS_OPERAND)
    vcpu.exit_selector = hw.vmread(r_uint(vmx.GUEST_PHYSICAL_ADDRESS))
    vcpu.exit_value = attributes(hw.vmread(r_uint(vmx.GUEST_CS_ATTRIBUTES))) | attributes(hw.vmread(r_uint(vmx.GUEST_SS_ATTRIBUTES))) << 16
    keep_event(vcpu)


def attributes(rights):
    """Access rights of the VMCS as the vCPU page's ATTRIBUTES."""
    return (rights & r_uint(vmx.RIGHTS_LOW)) | ((rights >> vmx.RIGHTS_SHIFT) & r_uint(vmx.RIGHTS_HIGH))


def decode_task_switch(vcpu):
    """The event that a task gate delivers is delivered by the switch. Breakpoints that are the old task's alone end with it.
    Source: SDM, "Exit Qualification for Task Switches"; Vol. 3B, "Debug Control Register (DR7)"."""
    qualification = hw.vmread(r_uint(vmx.EXIT_QUALIFICATION))
    vcpu.exit_selector = qualification & r_uint(0xffff)
    source = (qualification >> 30) & 3
    vcpu.exit_value = R0
    if source == r_uint(kinds.TASK_GATE):
        info = hw.vmread(r_uint(vmx.IDT_VECTORING_INFO))
        if (info >> vmx.INTERRUPTION_TYPE_SHIFT) & 7 < r_uint(vmx.TYPE_SOFTWARE_INTERRUPT):
            vcpu.exit_length = R0
        if info & r_uint(vmx.INTERRUPTION_VALID) != R0 and info & r_uint(vmx.INTERRUPTION_ERROR) != R0:
            source |= r_uint(kinds.TASK_ERROR)
            vcpu.exit_value = hw.vmread(r_uint(vmx.IDT_VECTORING_ERROR))
    vcpu.exit_flags = source
    hw.vmwrite(r_uint(vmx.GUEST_DR7), hw.vmread(r_uint(vmx.GUEST_DR7)) & ~r_uint(vmx.DR7_LOCAL))


def decode_window(vcpu):
    """The preemption timer: an interrupt of the machine's may be waiting that should have ended the run itself. The timer counts on over
    exits, so that a guest that exits all the time comes here too; now it begins anew."""
    vcpu.exit_length = R0
    if vcpu.exit_code != r_uint(vmx.REASON_PREEMPTION_TIMER):
        return
    hw.vmwrite(r_uint(vmx.GUEST_PREEMPTION_TIMER), setup.longest)
    if vcpu.owns:
        return                          # what is waiting is the guest's
    vector = cpu.take_interrupt()
    if vector != R0:
        vcpu.exit_kind = kinds.INTERRUPT
        vcpu.exit_value = vector


def decode_exception(vcpu):
    """An NMI or machine check of the machine's, or #DB or #AC of the guest's.

    The guest's two exit because delivering one of them may raise it again without end, with no interrupt let in between
    (CVE-2015-5307, CVE-2015-8104); delivered at an entry, each round exits, and the timer gets through.
    """
    vcpu.exit_length = R0
    keep_event(vcpu)
    info = hw.vmread(r_uint(vmx.EXIT_INTERRUPTION_INFO))
    vector = info & r_uint(0xff)
    vcpu.exit_selector = vector
    if (info >> vmx.INTERRUPTION_TYPE_SHIFT) & 7 == r_uint(vmx.TYPE_NMI):
        vcpu.exit_kind = kinds.NMI
    elif vector == r_uint(bits.VECTOR_DB):
        accept_debug()
        deliver_again(vcpu, info)
    elif vector == r_uint(bits.VECTOR_AC):
        deliver_again(vcpu, info)


def accept_debug():
    """What the processor would have done before it delivers #DB: DR6 (live, as in the guest) and DR7.GD.
    Source: SDM, "Exit Qualification for Debug Exceptions"."""
    conditions = hw.vmread(r_uint(vmx.EXIT_QUALIFICATION)) & r_uint(vmx.DR6_CONDITIONS)
    cpu.write_dr6((cpu.read_dr6() & ~r_uint(0xf)) | conditions)
    hw.vmwrite(r_uint(vmx.GUEST_DR7), hw.vmread(r_uint(vmx.GUEST_DR7)) & ~r_uint(vmx.DR7_GD))


def deliver_again(vcpu, info):
    """If it came up while another event was being delivered, that one's instruction will raise it again (it was benign) or
    it was an interrupt, which no guest gets yet: the new one goes first. Its delivery ends an interrupt shadow."""
    vcpu.exit_kind = DELIVERED_AGAIN
    end_shadow()
    keep(vcpu, info, hw.vmread(r_uint(vmx.EXIT_INTERRUPTION_ERROR)))


def keep_event(vcpu):
    """If the exit interrupted the delivery of an event, repeat that at the next entry.
    Source: SDM, "Information for VM Exits That Occur During Event Delivery"."""
    info = hw.vmread(r_uint(vmx.IDT_VECTORING_INFO))
    if info & r_uint(vmx.INTERRUPTION_VALID) != R0:
        keep(vcpu, info, hw.vmread(r_uint(vmx.IDT_VECTORING_ERROR)))


def keep(vcpu, info, error):
    """vcpu.event: entry interruption information; what INT, INT3, INTO or INT1 began keeps its length in the high half."""
    event = info & r_uint(vmx.INTERRUPTION_KEPT)
    kind = (info >> vmx.INTERRUPTION_TYPE_SHIFT) & 7
    if kind >= r_uint(vmx.TYPE_SOFTWARE_INTERRUPT):
        event |= hw.vmread(r_uint(vmx.EXIT_INSTRUCTION_LENGTH)) << 32
    vcpu.event = event
    vcpu.event_error = error


def advance(vcpu):
    """Step over the instruction of the exit, as if it had been executed: RF falls, an interrupt shadow ends, and TF has its
    trap. Source: SDM Vol. 3B, "Single-Step Exception Condition"."""
    hw.vmwrite(r_uint(vmx.GUEST_RIP), hw.vmread(r_uint(vmx.GUEST_RIP)) + vcpu.exit_length)
    end_shadow()
    trace()


def trace():
    rflags = hw.vmread(r_uint(vmx.GUEST_RFLAGS))
    if rflags & r_uint(bits.RFLAGS_TF | bits.RFLAGS_RF) != R0:
        advance_traced(rflags)


def end_shadow():
    """Nothing blocks interrupts any longer because of a STI, MOV SS or POP SS just before."""
    shadow = hw.vmread(r_uint(vmx.GUEST_INTERRUPTIBILITY))
    if shadow & r_uint(vmx.BLOCKING_STI | vmx.BLOCKING_MOV_SS) != R0:
        hw.vmwrite(r_uint(vmx.GUEST_INTERRUPTIBILITY), shadow & ~r_uint(vmx.BLOCKING_STI | vmx.BLOCKING_MOV_SS))


def advance_traced(rflags):
    if rflags & r_uint(bits.RFLAGS_RF) != R0:
        hw.vmwrite(r_uint(vmx.GUEST_RFLAGS), rflags & ~r_uint(bits.RFLAGS_RF))
    if rflags & r_uint(bits.RFLAGS_TF) != R0 and hw.vmread(r_uint(vmx.GUEST_DEBUGCTL)) & r_uint(vmx.DEBUGCTL_BTF) == R0:
        pending = hw.vmread(r_uint(vmx.GUEST_PENDING_DEBUG))
        hw.vmwrite(r_uint(vmx.GUEST_PENDING_DEBUG), pending | r_uint(vmx.PENDING_DEBUG_BS))


def queue_event(vcpu):
    """Hand vcpu.event to the next entry."""
    event = vcpu.event
    vcpu.event = R0
    hw.vmwrite(r_uint(vmx.ENTRY_INTERRUPTION_INFO), event & LOW32)
    if event & r_uint(vmx.INTERRUPTION_ERROR) != R0:
        hw.vmwrite(r_uint(vmx.ENTRY_EXCEPTION_ERROR), vcpu.event_error)
    if event >> 32 != R0:
        hw.vmwrite(r_uint(vmx.ENTRY_INSTRUCTION_LENGTH), event >> 32)


def exception(vcpu, vector, error):
    """Make exception `vector` the event of the next entry. In real mode nothing has an error code."""
    event = r_uint(vmx.INTERRUPTION_VALID | vmx.TYPE_HARDWARE << vmx.INTERRUPTION_TYPE_SHIFT) | r_uint(vector)
    if (r_uint(vmx.ERROR_CODE_VECTORS) >> vector) & 1 != R0 and hw.vmread(r_uint(vmx.GUEST_CR0)) & r_uint(bits.CR0_PE) != R0:
        event |= r_uint(vmx.INTERRUPTION_ERROR)
    vcpu.event = event
    vcpu.event_error = error & r_uint(0xffff)


def register(vcpu, index):
    """A general register by its number in an instruction. RSP is in the VMCS."""
    if index == r_uint(4):
        return hw.vmread(r_uint(vmx.GUEST_RSP))
    return memory.load64(vcpu.area + 8 * index)


def set_register(vcpu, index, value):
    if index == r_uint(4):
        hw.vmwrite(r_uint(vmx.GUEST_RSP), value)
    else:
        memory.store64(vcpu.area + 8 * index, value)
