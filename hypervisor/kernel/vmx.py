"""Intel's VMX with EPT: the vendor file. Its words (VMCS, VPID, EPT) end here.

vmx_setup.py turns VMX on and makes a VMCS, vmx_exit.py decodes exits, vmx_check.py says which rule a refused entry breaks.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu, memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel import vmx_check, vmx_eoi, vmx_exit, vmx_setup
from hypervisor.kernel.arena import arena
from hypervisor.kernel.lapic import NONE
from hypervisor.kernel.vendor import Vendor
from hypervisor.kernel.vmx_exit import attributes
from hypervisor.kernel.vmx_quick import Words
from hypervisor.kernel.vmx_setup import setup
from hypervisor.kernel.vmx_state import CR2, ENCODINGS, HOW, PLAIN, RIGHTS, set_flow, special, write_state
from hypervisor.spec import cpu as bits
from hypervisor.spec import owning, refusal, status, vmx
from hypervisor.spec import state as fields
from hypervisor.spec.call import READ
from hypervisor.spec.context import EXIT_ASKS, EXIT_LEAVES, EXIT_LENT, QUICK_DONE, QUICK_LEAVE, QUICK_TASK
from hypervisor.spec.vcpu import UNUSABLE

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
NOTHING_CURRENT = ~R0
PRESENT = r_uint(0x80)                  # of a segment's attributes
CS_LONG = r_uint(bits.SEGMENT_LONG)
CR0_CD, CR0_NW, CR0_PE, CR0_PG = [r_uint(bit) for bit in (bits.CR0_CD, bits.CR0_NW, bits.CR0_PE, bits.CR0_PG)]
EFER_LMA, EFER_LME = r_uint(bits.EFER_LMA), r_uint(bits.EFER_LME)


class Vmx(Vendor):
    """current: hpa of the VMCS that this core's VMREAD and VMWRITE go to."""

    def __init__(self):
        self.current = NOTHING_CURRENT

    def probe(self):
        return vmx_setup.probe()

    def enable(self):
        self.current = NOTHING_CURRENT
        return setup.enable()

    def leaf_bits(self, rights, large):
        """Write-back, whatever the guest's PAT says: nothing but memory is mapped. Rights without READ would be a
        misconfiguration."""
        entry = r_uint(rights & 7 | READ) | r_uint(vmx.EPTP_WRITE_BACK << 3 | vmx.EPT_IGNORE_PAT)
        if large:
            entry |= r_uint(0x80)
        return entry

    def table_bits(self):
        return r_uint(7)

    def create(self, vcpu):
        """The VPID is the vCPU's own: two vCPUs of one VM may have different translations for one linear address."""
        vcpu.control_hpa = vcpu.compartment.take_page()
        if vcpu.control_hpa == R0:
            return status.NO_MEMORY
        vcpu.control = arena.hva(vcpu.control_hpa)
        vcpu.tag = r_uint(vcpu.number + 1)
        memory.store32(vcpu.control, setup.revision)
        memory.store64(vcpu.area + vmx.PRIVATE['LAUNCHED'], R0)
        memory.store64(vcpu.area + CR2, R0)
        hw.vmclear(vcpu.control_hpa)
        self.make_current(vcpu)
        vmx_setup.fill_vmcs(vcpu, eptp(vcpu))
        vcpu.spared = NONE
        vcpu.passes_eoi = False
        vcpu.exit_way = EXIT_ASKS
        vcpu.pat = r_uint(bits.PAT_RESET)
        hw.invvpid(setup.invvpid, vcpu.tag)
        vcpu.flush = True
        return status.OK

    def make_current(self, vcpu):
        if self.current != vcpu.control_hpa:
            hw.vmptrld(vcpu.control_hpa)
            self.current = vcpu.control_hpa

    def run(self, vcpu):
        self.make_current(vcpu)
        if vcpu.flush:
            hw.invept(setup.invept, eptp(vcpu))
            vcpu.flush = False
        if vcpu.event != R0:
            vmx_eoi.deliver(vcpu)
            vmx_exit.queue_event(vcpu)
        elif vcpu.passes_eoi:
            vmx_eoi.review(vcpu)
        way = EXIT_ASKS
        if vcpu.attention:
            way = EXIT_LEAVES
        elif vcpu.owns:
            way = EXIT_LENT
        if way != vcpu.exit_way:
            vcpu.exit_way = way
            hw.vmwrite(r_uint(vmx.HOST_RIP), hw.exit_address(r_uint(way)))
        result = hw.run(vcpu.area)
        if vcpu.spared >= 0:
            vmx_eoi.settle(vcpu)
        if result == r_uint(QUICK_DONE) or result == r_uint(QUICK_TASK):
            return False
        if result == r_uint(QUICK_LEAVE):
            vmx_exit.decode(vcpu)
        else:
            vmx_exit.decode_vmfail(vcpu, result)
        return True

    def advance(self, vcpu):
        self.make_current(vcpu)
        vmx_exit.advance(vcpu)

    def trace(self, vcpu):
        self.make_current(vcpu)
        vmx_exit.trace()

    def break_behind(self, vcpu, hits):
        self.make_current(vcpu)
        pending = hw.vmread(r_uint(vmx.GUEST_PENDING_DEBUG))
        hw.vmwrite(r_uint(vmx.GUEST_PENDING_DEBUG), pending | hits | r_uint(vmx.PENDING_DEBUG_ENABLED))

    def get(self, vcpu, field):
        self.make_current(vcpu)
        how = HOW[field]
        if how == PLAIN:
            return hw.vmread(r_uint(ENCODINGS[field]))
        if how == RIGHTS:
            return attributes(hw.vmread(r_uint(ENCODINGS[field])))
        return special(vcpu, field)

    def write_state(self, vcpu, groups):
        self.make_current(vcpu)
        write_state(vcpu, groups)

    def rip(self, vcpu):
        self.make_current(vcpu)
        return hw.vmread(r_uint(vmx.GUEST_RIP))

    def set_flow(self, vcpu, rip, rflags):
        self.make_current(vcpu)
        set_flow(rip, rflags)

    def set(self, vcpu, field, value):
        self.make_current(vcpu)
        how = HOW[field]
        if how == PLAIN:
            hw.vmwrite(r_uint(ENCODINGS[field]), value)
        elif how == RIGHTS:
            hw.vmwrite(r_uint(ENCODINGS[field]), access_rights(value))
        elif field == fields.CR0:
            vmx_setup.write_cr0(value)
            write_efer(hw.vmread(r_uint(vmx.GUEST_EFER)))
        elif field == fields.CR4:
            vmx_setup.write_cr4(value)
        elif field == fields.EFER:
            write_efer(value)
        else:
            memory.store64(vcpu.area + CR2, value)

    def set_pat(self, vcpu, value):
        self.make_current(vcpu)
        vcpu.pat = value
        hw.vmwrite(r_uint(vmx.GUEST_PAT), value)

    def inject(self, vcpu, vector, error):
        self.make_current(vcpu)
        vmx_exit.exception(vcpu, vector, error)

    def interruptible(self, vcpu):
        self.make_current(vcpu)
        blocked = hw.vmread(r_uint(vmx.GUEST_INTERRUPTIBILITY)) & r_uint(vmx.BLOCKING_STI | vmx.BLOCKING_MOV_SS)
        return vcpu.event == R0 and blocked == R0 and hw.vmread(r_uint(vmx.GUEST_RFLAGS)) & r_uint(bits.RFLAGS_IF) != R0

    def interrupt(self, vcpu, vector):
        vcpu.event = Words.interruption(vector)

    def nmi_possible(self, vcpu):
        self.make_current(vcpu)
        return vcpu.event == R0 and hw.vmread(r_uint(vmx.GUEST_INTERRUPTIBILITY)) == R0

    def deliver_nmi(self, vcpu):
        vcpu.event = r_uint(vmx.INTERRUPTION_VALID | vmx.TYPE_NMI << vmx.INTERRUPTION_TYPE_SHIFT | bits.VECTOR_NMI)

    def open_nmi_window(self, vcpu):
        """Source: SDM, "NMI-Window Exiting"; it needs virtual NMIs. Without them an NMI waits for some other exit."""
        if setup.pin & r_uint(vmx.PIN_VIRTUAL_NMIS) != R0:
            self.set_primary(vcpu, vmx.PRIMARY_NMI_WINDOW, 0)
        else:
            vcpu.attention = True

    def open_window(self, vcpu):
        self.set_primary(vcpu, vmx.PRIMARY_INTERRUPT_WINDOW, 0)

    def forget_events(self, vcpu):
        self.make_current(vcpu)
        vcpu.event = R0
        vcpu.event_error = R0
        self.set_primary(vcpu, 0, vmx.PRIMARY_INTERRUPT_WINDOW | vmx.PRIMARY_NMI_WINDOW)
        hw.vmwrite(r_uint(vmx.GUEST_INTERRUPTIBILITY), R0)
        hw.vmwrite(r_uint(vmx.GUEST_PENDING_DEBUG), R0)
        hw.vmwrite(r_uint(vmx.GUEST_DR7), r_uint(bits.DR7_RESET))

    def set_primary(self, vcpu, more, less):
        self.make_current(vcpu)
        controls = hw.vmread(r_uint(vmx.PRIMARY_CONTROLS))
        hw.vmwrite(r_uint(vmx.PRIMARY_CONTROLS), (controls | r_uint(more)) & ~r_uint(less))

    def close_window(self, vcpu):
        """WINDOW exits of other reasons (the preemption timer, #DB and #AC) leave a window open."""
        if vcpu.exit_code == r_uint(vmx.REASON_INTERRUPT_WINDOW):
            self.set_primary(vcpu, 0, vmx.PRIMARY_INTERRUPT_WINDOW)
        elif vcpu.exit_code == r_uint(vmx.REASON_NMI_WINDOW):
            self.set_primary(vcpu, 0, vmx.PRIMARY_NMI_WINDOW)

    def switch(self, old, new):
        """SYSCALL's MSRs and KERNEL_GS_BASE: EFER.SCE is off outside of guests, and nothing but guests uses SWAPGS."""
        if old is not None:
            old.star = cpu.rdmsr(r_uint(bits.MSR_STAR))
            old.lstar = cpu.rdmsr(r_uint(bits.MSR_LSTAR))
            old.cstar = cpu.rdmsr(r_uint(bits.MSR_CSTAR))
            old.sfmask = cpu.rdmsr(r_uint(bits.MSR_SFMASK))
            old.kernel_gs_base = cpu.rdmsr(r_uint(bits.MSR_KERNEL_GS_BASE))
        cpu.wrmsr(r_uint(bits.MSR_STAR), new.star)
        cpu.wrmsr(r_uint(bits.MSR_LSTAR), new.lstar)
        cpu.wrmsr(r_uint(bits.MSR_CSTAR), new.cstar)
        cpu.wrmsr(r_uint(bits.MSR_SFMASK), new.sfmask)
        cpu.wrmsr(r_uint(bits.MSR_KERNEL_GS_BASE), new.kernel_gs_base)

    def release(self, vcpu):
        """The processor may hold the VMCS in caches of its own until VMCLEAR writes it back: before its page is anyone else's."""
        if vcpu.control_hpa == R0:
            return
        hw.vmclear(vcpu.control_hpa)
        if self.current == vcpu.control_hpa:
            self.current = NOTHING_CURRENT
        vcpu.control_hpa = R0

    def can_lend(self):
        if vmx_setup.lacks(vmx.MSR_VMX_TRUE_PIN, vmx.PIN_PREEMPTION_TIMER):
            return owning.NO_PREEMPTION_TIMER
        return owning.POSSIBLE

    def lend(self, vcpu, ticks, deadlines):
        self.make_current(vcpu)
        setup.pass_deadlines(deadlines)
        hw.vmwrite(r_uint(vmx.PIN_CONTROLS), setup.pin & ~r_uint(vmx.PIN_EXTERNAL_INTERRUPT))
        # CR8 is the real TPR: no exits, and no shadow.
        self.set_primary(vcpu, 0, vmx.PRIMARY_INTERRUPT_WINDOW | vmx.PRIMARY_NMI_WINDOW | vmx.PRIMARY_CR8_LOAD | vmx.PRIMARY_CR8_STORE | vmx.EOI_PRIMARY)
        hw.vmwrite(r_uint(vmx.SECONDARY_CONTROLS), setup.lent_secondary)
        hw.vmwrite(r_uint(vmx.MSR_BITMAP), setup.lent_bitmap)
        vcpu.spared = NONE
        vcpu.passes_eoi = False
        hw.vmwrite(r_uint(vmx.GUEST_PREEMPTION_TIMER), setup.counts(ticks))

    def take_back(self, vcpu):
        self.make_current(vcpu)
        hw.vmwrite(r_uint(vmx.PIN_CONTROLS), setup.pin)
        self.set_primary(vcpu, vmx.PRIMARY_CR8_LOAD | vmx.PRIMARY_CR8_STORE, 0)
        if setup.spares:
            self.set_primary(vcpu, vmx.EOI_PRIMARY, 0)
        hw.vmwrite(r_uint(vmx.SECONDARY_CONTROLS), setup.secondary)
        hw.vmwrite(r_uint(vmx.MSR_BITMAP), setup.bitmap)
        hw.vmwrite(r_uint(vmx.GUEST_PREEMPTION_TIMER), setup.longest)

    def explain(self, vcpu):
        self.make_current(vcpu)
        return vmx_check.broken_rule(self, vcpu)

    def control(self, vcpu):
        """MOV to CR0 or CR4 that touches a bit of the kernel's, any MOV of CR8, and RDPMC (no counter exists: #GP).
        Source: SDM, "Exit Qualification for Control-Register Accesses"."""
        self.make_current(vcpu)
        if vcpu.exit_code != r_uint(vmx.REASON_CONTROL_REGISTER):
            return False
        qualification = hw.vmread(r_uint(vmx.EXIT_QUALIFICATION))
        number = qualification & 15
        access = (qualification >> 4) & 3
        index = (qualification >> 8) & 15
        if number == r_uint(8):
            return move_cr8(vcpu, access, index)
        if access != r_uint(vmx.ACCESS_TO):
            return False                # CLTS and LMSW reach no bit of the kernel's
        value = vmx_exit.register(vcpu, index)
        if not in_64_bit_code():
            value &= LOW32
        if number == r_uint(0):
            return retry_cr0(value)
        return number == r_uint(4) and retry_cr4(value)


def eptp(vcpu):
    return vcpu.compartment.nested.root | r_uint(vmx.EPTP_WRITE_BACK | vmx.EPTP_FOUR_LEVELS)


def access_rights(value):
    """The other way. A segment that is not present cannot be used either, and VMX wants that said."""
    if value & PRESENT == R0:
        value |= r_uint(UNUSABLE)
    return (value & r_uint(vmx.RIGHTS_LOW)) | ((value & r_uint(vmx.RIGHTS_HIGH)) << vmx.RIGHTS_SHIFT)


def write_efer(value):
    """LMA is the kernel's to compute; "IA-32e mode guest" must agree with it, and is kept by the processor from then on."""
    value &= ~EFER_LMA
    entry = hw.vmread(r_uint(vmx.ENTRY_CONTROLS)) & ~r_uint(vmx.ENTRY_CONTROL_GUEST_64)
    if value & EFER_LME != R0 and hw.vmread(r_uint(vmx.GUEST_CR0)) & CR0_PG != R0:
        value |= EFER_LMA
        entry |= r_uint(vmx.ENTRY_CONTROL_GUEST_64)
    hw.vmwrite(r_uint(vmx.GUEST_EFER), value)
    hw.vmwrite(r_uint(vmx.ENTRY_CONTROLS), entry)


def in_64_bit_code():
    return (hw.vmread(r_uint(vmx.GUEST_EFER)) & EFER_LMA != R0 and
            attributes(hw.vmread(r_uint(vmx.GUEST_CS_ATTRIBUTES))) & CS_LONG != R0)


def retry_cr0(value):
    """Let the guest believe in the kernel's bits of `value` and execute the instruction again. It does not exit then, and
    the processor itself does what belongs to the other bits: its checks, LMA, and loading PDPTEs, which the kernel could not
    do, because it maps no guest memory. False: #GP, for combinations that the processor no longer sees or must not half do.
    Source: SDM, "Instructions That Cause VM Exits Conditionally"; Vol. 2, "MOV-Move to/from Control Registers"."""
    if value > LOW32 or (value & CR0_NW != R0 and value & CR0_CD == R0):
        return False
    if value & CR0_PG != R0 and value & CR0_PE == R0:
        return False
    if value & CR0_PG == R0 and in_64_bit_code():
        return False
    hw.vmwrite(r_uint(vmx.CR0_SHADOW), value)
    return True


def retry_cr4(value):
    """Likewise; of the kernel's bits, guests may change MCE alone."""
    if value & setup.cr4_mask & ~r_uint(bits.CR4_MCE) != R0:
        return False
    hw.vmwrite(r_uint(vmx.CR4_SHADOW), value)
    return True


def move_cr8(vcpu, access, index):
    """The upper half of the guest's TPR. The real one is the local APIC's, which is the kernel's."""
    if access == r_uint(vmx.ACCESS_TO):
        value = vmx_exit.register(vcpu, index)
        if value > r_uint(15):
            return False
        vcpu.apic.tpr = value << 4
        vcpu.wake_for_interrupt()
    else:
        vmx_exit.set_register(vcpu, index, vcpu.apic.tpr >> 4)
    vmx_exit.advance(vcpu)
    return True
