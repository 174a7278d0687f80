"""VMX: what the processor must have, turning it on, and a new VMCS.

Source: Intel SDM Vol. 3C, "Introduction to Virtual Machine Extensions", "Virtual Machine Control Structures"; appendix "VMX
Capability Reporting Facility".
"""
from rpython.rlib.rarithmetic import intmask, r_uint
from rpython.rlib.unroll import unrolling_iterable

from hypervisor.hw import cpu, memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel import limit
from hypervisor.kernel.arena import arena
from hypervisor.kernel.state import features
from hypervisor.kernel.timer import timer
from hypervisor.spec import context, refusal, vmx
from hypervisor.spec import cpu as bits
from hypervisor.spec.vcpu import SEGMENTS

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
ALL_ONES = ~R0
CR0_PE_PG = r_uint(bits.CR0_PE | bits.CR0_PG)
CR0_CACHE = r_uint(bits.CR0_CD | bits.CR0_NW)
CR4_MCE = r_uint(bits.CR4_MCE)
EXCEPTIONS = r_uint(1 << bits.VECTOR_MC | 1 << bits.VECTOR_DB | 1 << bits.VECTOR_AC)


def lacks(msr, wanted):
    """Does the processor refuse one of these control bits? The high half of the capability MSR has the bits that may be set."""
    return r_uint(wanted) & ~(cpu.rdmsr(r_uint(msr)) >> 32) != R0


def fitted(msr, wanted, optional):
    """The control word: what is wanted, what is optional and may be set, and what must be set (the MSR's low half)."""
    allowed = cpu.rdmsr(r_uint(msr))
    return r_uint(wanted) | (r_uint(optional) & (allowed >> 32)) | (allowed & LOW32)


def probe():
    """Returns NONE, or the refusal that names the first thing that is missing."""
    if cpu.cpuid(r_uint(1), R0, r_uint(2)) & r_uint(vmx.CPUID_VMX) == R0:
        return refusal.NO_VENDOR
    feature_control = cpu.rdmsr(r_uint(bits.MSR_FEATURE_CONTROL))
    if feature_control & r_uint(vmx.FEATURE_CONTROL_LOCK) != R0 and feature_control & r_uint(vmx.FEATURE_CONTROL_VMX) == R0:
        return refusal.FEATURE_CONTROL_LOCKED
    if cpu.rdmsr(r_uint(vmx.MSR_VMX_BASIC)) & r_uint(vmx.BASIC_TRUE_CONTROLS) == R0:
        return refusal.NO_TRUE_CONTROLS
    if lacks(vmx.MSR_VMX_TRUE_PRIMARY, vmx.PRIMARY_SECONDARY):
        return refusal.NO_SECONDARY
    code = probe_secondary()
    if code != refusal.NONE:
        return code
    return probe_controls()


def probe_secondary():
    """EPT, unrestricted guest, VPID. The MSR of EPT and VPID exists only where one of them does."""
    if lacks(vmx.MSR_VMX_SECONDARY, vmx.SECONDARY_EPT):
        return refusal.NO_EPT
    if lacks(vmx.MSR_VMX_SECONDARY, vmx.SECONDARY_UNRESTRICTED):
        return refusal.NO_UNRESTRICTED
    if cpu.rdmsr(r_uint(vmx.MSR_VMX_MISC)) & r_uint(vmx.MISC_STORES_LMA) == R0:
        return refusal.NO_UNRESTRICTED
    if lacks(vmx.MSR_VMX_SECONDARY, vmx.SECONDARY_VPID):
        return refusal.NO_VPID
    offered = cpu.rdmsr(r_uint(vmx.MSR_VMX_EPT_VPID))
    ept = r_uint(vmx.EPT_FOUR_LEVELS | vmx.EPT_WRITE_BACK | vmx.EPT_LARGE_PAGES | vmx.EPT_INVEPT)
    if offered & ept != ept or offered & r_uint(vmx.EPT_INVEPT_SINGLE | vmx.EPT_INVEPT_ALL) == R0:
        return refusal.NO_EPT
    if offered & r_uint(vmx.VPID_INVVPID) == R0 or offered & r_uint(vmx.VPID_INVVPID_SINGLE | vmx.VPID_INVVPID_ALL) == R0:
        return refusal.NO_VPID
    return refusal.NONE


def probe_controls():
    if lacks(vmx.MSR_VMX_TRUE_PRIMARY, vmx.PRIMARY_MSR_BITMAPS):
        return refusal.NO_MSR_BITMAP
    efer_pat_exit = (vmx.EXIT_CONTROL_SAVE_EFER | vmx.EXIT_CONTROL_LOAD_EFER | vmx.EXIT_CONTROL_SAVE_PAT | vmx.EXIT_CONTROL_LOAD_PAT)
    if lacks(vmx.MSR_VMX_TRUE_EXIT, efer_pat_exit):
        return refusal.NO_EFER_SWITCH
    if lacks(vmx.MSR_VMX_TRUE_ENTRY, vmx.ENTRY_CONTROL_LOAD_EFER | vmx.ENTRY_CONTROL_LOAD_PAT):
        return refusal.NO_EFER_SWITCH
    if (lacks(vmx.MSR_VMX_TRUE_PIN, vmx.WANTED_PIN) or lacks(vmx.MSR_VMX_TRUE_PRIMARY, vmx.WANTED_PRIMARY) or
            lacks(vmx.MSR_VMX_TRUE_EXIT, vmx.WANTED_EXIT) or lacks(vmx.MSR_VMX_TRUE_ENTRY, vmx.WANTED_ENTRY)):
        return refusal.NO_CONTROL
    return refusal.NONE


class Setup(object):
    """What `enable` finds out once per core, and every VMCS is made from."""

    def __init__(self):
        self.revision = R0
        self.region = R0                # hpa of the VMXON region
        self.bitmap = R0                # hpa of the MSR bitmap, the same for all guests
        self.lent_bitmap = R0           # of a guest that has the core's local APIC
        self.spares = False             # the processor can end an interrupt without an exit (vmx_eoi.py)
        self.eoi_bitmap = R0            # of a guest that may do so now
        self.virtual_apic = R0          # hpa of the virtual-APIC page, the same for all guests: the processor writes it, and nobody reads it
        self.pin = R0
        self.primary = R0
        self.secondary = R0
        self.lent_secondary = R0        # of a guest that has the core's local APIC: nothing of it is virtual
        self.exit = R0
        self.entry = R0
        self.longest = R0               # preemption timer counts that a guest may run without an exit
        self.invept = R0                # type: single context where the processor has it
        self.invvpid = R0
        self.cr0_must = R0              # bits that a guest's real CR0 must have (NE)
        self.cr0_mask = R0              # bits that the kernel owns: those, CD and NW
        self.cr4_must = R0              # likewise (VMXE, and MCE as in the kernel's own CR4)
        self.cr4_mask = R0              # VMXE, MCE and everything that guests are not offered
        self.host_gdt = R0

    def enable(self):
        """Turn VMX on, on this core. Returns NONE or a refusal. Called once, when the kernel root is loaded."""
        code = self.fix_control_registers()
        if code != refusal.NONE:
            return code
        feature_control = cpu.rdmsr(r_uint(bits.MSR_FEATURE_CONTROL))
        if feature_control & r_uint(vmx.FEATURE_CONTROL_LOCK) == R0:
            cpu.wrmsr(r_uint(bits.MSR_FEATURE_CONTROL), feature_control | r_uint(vmx.FEATURE_CONTROL_LOCK | vmx.FEATURE_CONTROL_VMX))
        self.region = arena.take()
        self.bitmap = arena.take()
        self.lent_bitmap = arena.take()
        if self.region == R0 or self.bitmap == R0 or self.lent_bitmap == R0:
            return refusal.NO_MEMORY
        self.revision = cpu.rdmsr(r_uint(vmx.MSR_VMX_BASIC)) & r_uint(vmx.BASIC_REVISION)
        memory.store32(arena.hva(self.region), self.revision)
        if hw.vmxon(self.region) != r_uint(hw.SUCCEED):
            return refusal.VMXON_FAILED
        self.choose_controls()
        if self.spares:
            self.eoi_bitmap = arena.take()
            self.virtual_apic = arena.take()
            if self.eoi_bitmap == R0 or self.virtual_apic == R0:
                return refusal.NO_MEMORY
        self.fill_bitmaps()
        hw.keep_gdt()
        hw.invept(r_uint(vmx.INVEPT_ALL), R0)
        hw.invvpid(r_uint(vmx.INVVPID_ALL), R0)
        return refusal.NONE

    def fix_control_registers(self):
        """Bring CR0 and CR4 to what VMX operation asks for, and decide which of a guest's bits the kernel owns."""
        cr0_must = cpu.rdmsr(r_uint(vmx.MSR_VMX_CR0_FIXED0))
        cr0_may = cpu.rdmsr(r_uint(vmx.MSR_VMX_CR0_FIXED1))
        cr4_must = cpu.rdmsr(r_uint(vmx.MSR_VMX_CR4_FIXED0))
        cr4_may = cpu.rdmsr(r_uint(vmx.MSR_VMX_CR4_FIXED1))
        cr0 = cpu.read_cr0() | cr0_must
        cr4 = cpu.read_cr4() | cr4_must | r_uint(bits.CR4_VMXE)
        if cr0 & ~cr0_may != R0 or cr4 & ~cr4_may != R0:
            return refusal.CR_FIXED
        cpu.write_cr0(cr0)
        cpu.write_cr4(cr4)
        self.cr0_must = cr0_must & ~CR0_PE_PG
        self.cr0_mask = self.cr0_must | CR0_CACHE
        self.cr4_must = cr4_must | r_uint(bits.CR4_VMXE) | (cr4 & CR4_MCE)
        self.cr4_mask = ~(features.cr4 & cr4_may) | self.cr4_must | CR4_MCE
        return refusal.NONE

    def choose_controls(self):
        self.pin = fitted(vmx.MSR_VMX_TRUE_PIN, vmx.WANTED_PIN, vmx.OPTIONAL_PIN)
        self.primary = fitted(vmx.MSR_VMX_TRUE_PRIMARY, vmx.WANTED_PRIMARY, 0)
        self.secondary = fitted(vmx.MSR_VMX_SECONDARY, vmx.WANTED_SECONDARY, vmx.OPTIONAL_SECONDARY)
        self.lent_secondary = self.secondary
        self.spares = not (lacks(vmx.MSR_VMX_TRUE_PRIMARY, vmx.EOI_PRIMARY) or lacks(vmx.MSR_VMX_SECONDARY, vmx.EOI_SECONDARY))
        if self.spares:
            self.primary |= r_uint(vmx.EOI_PRIMARY)
            self.secondary |= r_uint(vmx.EOI_SECONDARY)
        self.exit = fitted(vmx.MSR_VMX_TRUE_EXIT, vmx.WANTED_EXIT, 0)
        if self.pin & r_uint(vmx.PIN_PREEMPTION_TIMER) != R0:
            self.exit = fitted(vmx.MSR_VMX_TRUE_EXIT, vmx.WANTED_EXIT, vmx.OPTIONAL_EXIT)
        self.entry = fitted(vmx.MSR_VMX_TRUE_ENTRY, vmx.WANTED_ENTRY, 0)
        offered = cpu.rdmsr(r_uint(vmx.MSR_VMX_EPT_VPID))
        self.longest = self.timer_counts()
        self.invept = r_uint(vmx.INVEPT_ALL)
        if offered & r_uint(vmx.EPT_INVEPT_SINGLE) != R0:
            self.invept = r_uint(vmx.INVEPT_SINGLE)
        self.invvpid = r_uint(vmx.INVVPID_ALL)
        if offered & r_uint(vmx.VPID_INVVPID_SINGLE) != R0:
            self.invvpid = r_uint(vmx.INVVPID_SINGLE)

    def timer_counts(self):
        """A quarter of a period on the preemption timer.

        The local APIC's interrupt ends a run; this is a net below it. Bochs 2.7 needs the net: it masks external interrupts in
        a guest that is entered with IF clear, until the guest changes IF. (VMLAUNCH loads RFLAGS, and with it the mask,
        before the processor counts as in the guest.)
        """
        return self.counts(timer.tsc_khz * r_uint(limit.PERIOD_MICROSECONDS) // r_uint(4 * 1000))

    def counts(self, ticks):
        """TSC ticks on the preemption timer, as far as it goes."""
        rate = cpu.rdmsr(r_uint(vmx.MSR_VMX_MISC)) & r_uint(vmx.MISC_TIMER_RATE)
        counts = (ticks >> intmask(rate)) + 1
        if counts > LOW32:
            counts = LOW32
        return counts

    def fill_bitmaps(self):
        """Every MSR exits but those of PASSED_THROUGH. Source: SDM, "MSR-Bitmap Address"."""
        fill_bitmap(arena.hva(self.bitmap))
        lent = arena.hva(self.lent_bitmap)
        fill_bitmap(lent)
        for number in vmx.LENT_FOR_READING:
            permit(lent, number, vmx.MSR_BITMAP_READ_LOW, True)
        for number in vmx.LENT_FOR_WRITING:
            permit(lent, number, vmx.MSR_BITMAP_WRITE_LOW, True)
        if self.spares:
            fill_bitmap(arena.hva(self.eoi_bitmap))
            permit(arena.hva(self.eoi_bitmap), vmx.X2APIC_EOI, vmx.MSR_BITMAP_WRITE_LOW, True)

    def pass_deadlines(self, passed):
        """May the guest that has the local APIC reach TSC_DEADLINE as well?"""
        lent = arena.hva(self.lent_bitmap)
        permit(lent, bits.MSR_TSC_DEADLINE, vmx.MSR_BITMAP_READ_LOW, passed)
        permit(lent, bits.MSR_TSC_DEADLINE, vmx.MSR_BITMAP_WRITE_LOW, passed)


def fill_bitmap(page):
    n = 0
    while n < 512:
        memory.store64(page + 8 * n, ALL_ONES)
        n += 1
    for number in vmx.PASSED_THROUGH:
        permit(page, number, vmx.MSR_BITMAP_READ_LOW, True)
        permit(page, number, vmx.MSR_BITMAP_WRITE_LOW, True)
    for number in vmx.PASSED_FOR_READING:
        permit(page, number, vmx.MSR_BITMAP_READ_LOW, True)


def permit(page, number, part, passed):
    """part: where the low MSRs' bits for this access begin; those of the high ones lie 1024 bytes further."""
    at = page + r_uint(part)
    if number >= 0xc0000000:
        at += 1024
    at += r_uint((number & 0x1fff) >> 3)
    bit = r_uint(1) << (number & 7)
    if passed:
        memory.store8(at, memory.load8(at) & ~bit)
    else:
        memory.store8(at, memory.load8(at) | bit)


setup = Setup()


def fill_vmcs(vcpu, eptp):
    """Write every field that an entry looks at. The VMCS is current and clear."""
    fill_controls(vcpu, eptp)
    fill_host(vcpu)
    fill_guest()


def fill_controls(vcpu, eptp):
    hw.vmwrite(r_uint(vmx.PIN_CONTROLS), setup.pin)
    hw.vmwrite(r_uint(vmx.PRIMARY_CONTROLS), setup.primary)
    hw.vmwrite(r_uint(vmx.SECONDARY_CONTROLS), setup.secondary)
    hw.vmwrite(r_uint(vmx.EXIT_CONTROLS), setup.exit)
    hw.vmwrite(r_uint(vmx.ENTRY_CONTROLS), setup.entry)
    hw.vmwrite(r_uint(vmx.EXCEPTION_BITMAP), EXCEPTIONS)
    hw.vmwrite(r_uint(vmx.MSR_BITMAP), setup.bitmap)
    hw.vmwrite(r_uint(vmx.EPT_POINTER), eptp)
    hw.vmwrite(r_uint(vmx.VPID), vcpu.tag)
    hw.vmwrite(r_uint(vmx.CR0_MASK), setup.cr0_mask)
    hw.vmwrite(r_uint(vmx.CR4_MASK), setup.cr4_mask)
    if setup.pin & r_uint(vmx.PIN_PREEMPTION_TIMER) != R0:
        hw.vmwrite(r_uint(vmx.GUEST_PREEMPTION_TIMER), setup.longest)
    if setup.spares:
        hw.vmwrite(r_uint(vmx.VIRTUAL_APIC), setup.virtual_apic)
        for field in ZERO_EOI:
            hw.vmwrite(r_uint(field), R0)
    for field in ZERO_CONTROLS:
        hw.vmwrite(r_uint(field), R0)


ZERO_CONTROLS = unrolling_iterable([
    vmx.PAGE_FAULT_MASK, vmx.PAGE_FAULT_MATCH, vmx.CR3_TARGET_COUNT, vmx.EXIT_MSR_STORE_COUNT, vmx.EXIT_MSR_LOAD_COUNT,
    vmx.ENTRY_MSR_LOAD_COUNT, vmx.ENTRY_INTERRUPTION_INFO, vmx.ENTRY_EXCEPTION_ERROR, vmx.ENTRY_INSTRUCTION_LENGTH, vmx.TSC_OFFSET])

ZERO_EOI = unrolling_iterable([
    vmx.TPR_THRESHOLD, vmx.EOI_EXIT_BITMAP0, vmx.EOI_EXIT_BITMAP1, vmx.EOI_EXIT_BITMAP2, vmx.EOI_EXIT_BITMAP3, vmx.GUEST_INTERRUPT_STATUS])


def fill_host(vcpu):
    """What an exit brings back: the kernel as it is now, with CR0.TS set. HOST_RSP is the area."""
    hw.vmwrite(r_uint(vmx.HOST_CR0), cpu.read_cr0() | r_uint(bits.CR0_TS))
    hw.vmwrite(r_uint(vmx.HOST_CR3), cpu.read_cr3())
    hw.vmwrite(r_uint(vmx.HOST_CR4), cpu.read_cr4())
    hw.vmwrite(r_uint(vmx.HOST_EFER), cpu.rdmsr(r_uint(bits.MSR_EFER)))
    hw.vmwrite(r_uint(vmx.HOST_PAT), cpu.rdmsr(r_uint(bits.MSR_PAT)))
    hw.vmwrite(r_uint(vmx.HOST_CS_SELECTOR), r_uint(context.SELECTOR_KERNEL_CODE))
    hw.vmwrite(r_uint(vmx.HOST_SS_SELECTOR), r_uint(context.SELECTOR_KERNEL_DATA))
    hw.vmwrite(r_uint(vmx.HOST_DS_SELECTOR), r_uint(context.SELECTOR_KERNEL_DATA))
    hw.vmwrite(r_uint(vmx.HOST_ES_SELECTOR), r_uint(context.SELECTOR_KERNEL_DATA))
    hw.vmwrite(r_uint(vmx.HOST_TR_SELECTOR), hw.task_register())
    hw.vmwrite(r_uint(vmx.HOST_TR_BASE), tss_base(hw.gdt_base() + hw.task_register()))
    hw.vmwrite(r_uint(vmx.HOST_GDTR_BASE), hw.gdt_base())
    hw.vmwrite(r_uint(vmx.HOST_IDTR_BASE), hw.idt_base())
    hw.vmwrite(r_uint(vmx.HOST_RSP), vcpu.area)
    hw.vmwrite(r_uint(vmx.HOST_RIP), hw.exit_address(r_uint(context.EXIT_ASKS)))
    for field in ZERO_HOST:
        hw.vmwrite(r_uint(field), R0)


ZERO_HOST = unrolling_iterable([
    vmx.HOST_FS_SELECTOR, vmx.HOST_GS_SELECTOR, vmx.HOST_FS_BASE, vmx.HOST_GS_BASE, vmx.HOST_SYSENTER_CS, vmx.HOST_SYSENTER_ESP,
    vmx.HOST_SYSENTER_EIP])


def tss_base(descriptor):
    """The base in a 64-bit TSS descriptor. Source: SDM Vol. 3A, "TSS Descriptor in 64-bit mode"."""
    low = memory.load64(descriptor)
    return ((low >> 16) & r_uint(0xffffff)) | ((low >> 32) & r_uint(0xff000000)) | (memory.load64(descriptor + 8) << 32)


# The state after a reset. Source: SDM Vol. 3A, "Processor State After Reset"; what is not named is zero.
RESET = {
    'GUEST_CS_SELECTOR': 0xf000, 'GUEST_CS_BASE': 0xffff0000, 'GUEST_CS_ATTRIBUTES': 0x9b, 'GUEST_TR_ATTRIBUTES': 0x8b,
    'GUEST_LDTR_ATTRIBUTES': 0x82, 'GUEST_RIP': 0xfff0, 'GUEST_RFLAGS': bits.RFLAGS_FIXED, 'GUEST_DR7': 0x400,
    'GUEST_PAT': bits.PAT_RESET, 'GUEST_GDTR_LIMIT': 0xffff, 'GUEST_IDTR_LIMIT': 0xffff, 'VMCS_LINK_POINTER': vmx.LINK_NONE,
}
for _segment in SEGMENTS:
    RESET['GUEST_%s_LIMIT' % _segment] = 0xffff
    RESET.setdefault('GUEST_%s_ATTRIBUTES' % _segment, 0x93)
CR0_RESET = r_uint(bits.CR0_CD | bits.CR0_NW | bits.CR0_ET)
KEPT = ['GUEST_CR0', 'GUEST_CR4', 'GUEST_PREEMPTION_TIMER', 'GUEST_INTERRUPT_STATUS']       # written elsewhere
_FIRST = [name for name, encoding, _ in vmx.FIELDS if vmx.kind_of(encoding) == vmx.GUEST and name not in KEPT]
RESET_FIELDS = unrolling_iterable([(getattr(vmx, name), RESET.get(name, 0)) for name in _FIRST])


def fill_guest():
    for field, value in RESET_FIELDS:
        hw.vmwrite(r_uint(field), r_uint(value))
    write_cr0(CR0_RESET)
    write_cr4(R0)


def write_cr0(value):
    """Make the guest believe in this CR0. Its caches stay on and NE set, whatever it believes."""
    hw.vmwrite(r_uint(vmx.CR0_SHADOW), value)
    hw.vmwrite(r_uint(vmx.GUEST_CR0), (value & ~setup.cr0_mask) | setup.cr0_must)


def write_cr4(value):
    hw.vmwrite(r_uint(vmx.CR4_SHADOW), value)
    hw.vmwrite(r_uint(vmx.GUEST_CR4), (value & ~setup.cr4_mask) | setup.cr4_must)


def believed(real, shadow, mask):
    """What the guest reads. Source: SDM, "Guest/Host Masks and Read Shadows for CR0 and CR4"."""
    return (real & ~mask) | (shadow & mask)
