"""AMD's SVM with nested paging: the vendor file. Its words (VMCB, ASID, NPF) end here."""
import struct

from rpython.rlib.rarithmetic import intmask, r_uint
from rpython.rlib.unroll import unrolling_iterable

from hypervisor.hw import cpu, memory
from hypervisor.hw import svm as hw
from hypervisor.kernel import limit, svm_check, svm_exit
from hypervisor.kernel.arena import arena
from hypervisor.kernel.svm_exit import INTERCEPT_VINTR, attributes, processor
from hypervisor.kernel.svm_quick import Words
from hypervisor.kernel.svm_state import OFFSETS, SIZES, WIDTHS, set_flow, write_state
from hypervisor.kernel.vcpu import RAX, RCX, RDX
from hypervisor.kernel.vendor import Vendor
from hypervisor.lib.cold import cold
from hypervisor.spec import cpu as bits
from hypervisor.spec import exit as kinds
from hypervisor.spec import refusal, status
from hypervisor.spec import state as fields
from hypervisor.spec import svm
from hypervisor.spec.call import EXECUTE, WRITE
from hypervisor.spec.context import QUICK_LEAVE
from hypervisor.spec.paging import LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE
from hypervisor.spec.vcpu import SEGMENTS, UNUSABLE

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
VMCB = svm.VMCB
SVME = r_uint(bits.EFER_SVME)
PASSED_THROUGH = [bits.MSR_FS_BASE, bits.MSR_GS_BASE, bits.MSR_KERNEL_GS_BASE, bits.MSR_STAR, bits.MSR_LSTAR, bits.MSR_CSTAR,
                  bits.MSR_SFMASK, bits.MSR_SYSENTER_CS, bits.MSR_SYSENTER_ESP, bits.MSR_SYSENTER_EIP]

IS_ATTRIBUTES = [name.endswith('_ATTRIBUTES') for name in fields.FIELDS]
EXIT_DEBUG = r_uint(svm.EXIT_EXCEPTION + bits.VECTOR_DB)
DR6_INITIAL, DR7_INITIAL = r_uint(bits.DR6_RESET), r_uint(bits.DR7_RESET)
DR6_CONDITIONS, DR6_BS = r_uint(0xf), r_uint(1 << 14)
STEP_NONE, STEP_IRET, STEP_OTHER = range(3)
INTERCEPT_ALL = r_uint(sum(1 << bit for bit, name, _ in svm.INTERCEPTS if name not in svm.NOT_ALWAYS))
INTERCEPT_IRET = r_uint(sum(1 << bit for bit, name, _ in svm.INTERCEPTS if name == 'IRET'))


QEMU_NAME = unrolling_iterable([(1 + n, r_uint(word)) for n, word in enumerate(struct.unpack('<3I', svm.QEMU_NAME))])


class Svm(Vendor):
    def __init__(self):
        self.host = R0              # hpa of the host's VMLOAD area
        self.msrpm = R0             # hpa of the permission maps, the same for all guests
        self.iopm = R0

    def probe(self):
        if cpu.cpuid(r_uint(0x80000001), R0, r_uint(2)) & r_uint(1 << 2) == R0:
            return refusal.NO_VENDOR
        features = cpu.cpuid(r_uint(svm.CPUID_LEAF), R0, r_uint(3))
        if features & r_uint(svm.CPUID_NP) == R0:
            return refusal.NO_NPT
        if cpu.rdmsr(r_uint(bits.MSR_VM_CR)) & r_uint(svm.VM_CR_SVMDIS) != R0:
            return refusal.SVM_DISABLED
        if cpu.cpuid(r_uint(svm.CPUID_LEAF), R0, r_uint(1)) <= r_uint(limit.COMPARTMENTS):
            return refusal.NO_ASIDS
        processor.nrips = features & r_uint(svm.CPUID_NRIPS) != R0
        processor.no_shadow = processor.delivers_twice = is_qemu()
        return refusal.NONE

    def enable(self):
        cpu.wrmsr(r_uint(bits.MSR_EFER), cpu.rdmsr(r_uint(bits.MSR_EFER)) | SVME)
        host_save = arena.take()
        self.host = arena.take()
        self.msrpm = arena.take_run(svm.MSRPM_PAGES)
        self.iopm = arena.take_run(svm.IOPM_PAGES)
        if host_save == R0 or self.host == R0 or self.msrpm == R0 or self.iopm == R0:
            return refusal.NO_MEMORY
        cpu.wrmsr(r_uint(bits.MSR_VM_HSAVE_PA), host_save)
        hw.save_host(self.host)
        fill_with_ones(arena.hva(self.iopm), svm.IOPM_PAGES)
        fill_with_ones(arena.hva(self.msrpm), svm.MSRPM_PAGES)
        for number in PASSED_THROUGH:
            self.permit(number, 3)
        self.permit(bits.MSR_TSC, 1)
        return refusal.NONE

    def permit(self, number, accesses):
        """Let guests access an MSR without an exit. accesses: 1 read, 2 write. Source: APM Vol. 2, "MSR Intercepts"."""
        for first, offset in svm.MSRPM_RANGES:
            if first <= number < first + 8192:
                at = arena.hva(self.msrpm) + r_uint(offset + (number - first) // 4)
                shift = (number - first) % 4 * 2
                memory.store8(at, memory.load8(at) & ~(r_uint(accesses) << shift))

    def leaf_bits(self, rights, large):
        """Nested pages are user pages to the processor; reading cannot be refused alone."""
        entry = r_uint(PRESENT | USER)
        if rights & WRITE:
            entry |= r_uint(WRITABLE)
        if not rights & EXECUTE:
            entry |= r_uint(NO_EXECUTE)
        if large:
            entry |= r_uint(LARGE)
        return entry

    def table_bits(self):
        return r_uint(PRESENT | WRITABLE | USER)

    def create(self, vcpu):
        vcpu.control_hpa = vcpu.compartment.take_page()
        if vcpu.control_hpa == R0:
            return status.NO_MEMORY
        vmcb = arena.hva(vcpu.control_hpa)
        vcpu.control = vmcb
        memory.store32(vmcb + VMCB['INTERCEPT_EXCEPTION'], r_uint(1 << bits.VECTOR_MC))
        memory.store32(vmcb + VMCB['INTERCEPT_1'], INTERCEPT_ALL & LOW32)
        memory.store32(vmcb + VMCB['INTERCEPT_2'], INTERCEPT_ALL >> 32)
        memory.store64(vmcb + VMCB['IOPM_BASE_PA'], self.iopm)
        memory.store64(vmcb + VMCB['MSRPM_BASE_PA'], self.msrpm)
        memory.store32(vmcb + VMCB['ASID'], vcpu.tag)
        memory.store64(vmcb + VMCB['V_INTR'], r_uint(svm.V_INTR_MASKING))
        memory.store64(vmcb + VMCB['NP_ENABLE'], r_uint(1))
        memory.store64(vmcb + VMCB['N_CR3'], vcpu.compartment.nested.root)
        self.set_pat(vcpu, r_uint(bits.PAT_RESET))
        reset_state(vmcb)
        return status.OK

    def run(self, vcpu):
        vmcb = vcpu.control
        vcpu.once = vcpu.attention or vcpu.flush
        memory.store64(vmcb + VMCB['EVENTINJ'], svm_exit.place(vmcb, vcpu.event))
        vcpu.event = R0
        if vcpu.flush:
            memory.store8(vmcb + VMCB['TLB_CONTROL'], r_uint(svm.TLB_FLUSH_ALL))
            result = hw.run(vcpu.area, vmcb, vcpu.control_hpa, self.host)
            memory.store8(vmcb + VMCB['TLB_CONTROL'], R0)
            vcpu.flush = False
        else:
            result = hw.run(vcpu.area, vmcb, vcpu.control_hpa, self.host)
        priority = memory.load64(vmcb + VMCB['V_INTR']) & r_uint(svm.V_TPR)
        if priority != vcpu.apic.tpr >> 4:
            vcpu.apic.tpr = priority << 4           # a MOV to CR8 that did not exit
            vcpu.attention = True
        if result != r_uint(QUICK_LEAVE):
            return False
        svm_exit.keep_event(vcpu, vmcb)
        svm_exit.decode(vcpu, vmcb)
        return True

    def advance(self, vcpu):
        vmcb = vcpu.control
        memory.store64(vmcb + VMCB['RIP'], memory.load64(vmcb + VMCB['RIP']) + vcpu.exit_length)
        memory.store64(vmcb + VMCB['INTERRUPT_SHADOW'], R0)
        self.trace(vcpu)

    def trace(self, vcpu):
        """Source: APM Vol. 2, "Single Stepping", "EFLAGS Register: Resume Flag"."""
        vmcb = vcpu.control
        rflags = memory.load64(vmcb + VMCB['RFLAGS'])
        if rflags & r_uint(bits.RFLAGS_TF | bits.RFLAGS_RF) == R0:
            return
        memory.store64(vmcb + VMCB['RFLAGS'], rflags & ~r_uint(bits.RFLAGS_RF))
        if rflags & r_uint(bits.RFLAGS_TF) != R0:
            memory.store64(vmcb + VMCB['DR6'], memory.load64(vmcb + VMCB['DR6']) | DR6_BS)
            if vcpu.stepping == STEP_NONE:
                self.inject(vcpu, bits.VECTOR_DB, R0)
            else:
                self.end_step(vcpu)
                vcpu.attention = True

    def break_behind(self, vcpu, hits):
        vmcb = vcpu.control
        memory.store64(vmcb + VMCB['DR6'], memory.load64(vmcb + VMCB['DR6']) | hits)
        self.inject(vcpu, bits.VECTOR_DB, R0)

    def get(self, vcpu, field):
        at = vcpu.control + OFFSETS[field]
        size = SIZES[field]
        if size == 8:
            value = memory.load64(at)
            if field == fields.EFER:
                value &= ~SVME
            return value
        if size == 4:
            return memory.load32(at)
        value = memory.load16(at)
        if IS_ATTRIBUTES[field]:
            value = attributes(value)
        return value

    def write_state(self, vcpu, groups):
        write_state(vcpu, groups)

    def rip(self, vcpu):
        return memory.load64(vcpu.control + VMCB['RIP'])

    def set_flow(self, vcpu, rip, rflags):
        set_flow(vcpu, rip, rflags)

    def set(self, vcpu, field, value):
        at = vcpu.control + OFFSETS[field]
        size = SIZES[field]
        if size == 8:
            if field == fields.EFER:
                value |= SVME
            memory.store64(at, value)
        elif size == 4:
            memory.store32(at, value)
        else:
            if IS_ATTRIBUTES[field]:
                if value & r_uint(UNUSABLE) != R0:
                    value = R0
                if field == fields.SS_ATTRIBUTES:
                    memory.store8(vcpu.control + VMCB['CPL'], (value >> 5) & 3)
            memory.store16(at, value)

    def set_pat(self, vcpu, value):
        vcpu.pat = value
        memory.store64(vcpu.control + VMCB['G_PAT'], value)

    def inject(self, vcpu, vector, error):
        event = r_uint(svm.EVENT_VALID | svm.EVENT_EXCEPTION << svm.EVENT_TYPE_SHIFT) | r_uint(vector)
        if (bits.VECTOR_ERROR_MASK >> vector) & 1:
            event |= r_uint(svm.EVENT_ERROR) | error << 32
        vcpu.event = event

    def explain(self, vcpu):
        return svm_check.broken_rule(self, vcpu)

    def interruptible(self, vcpu):
        return (vcpu.event == R0 and memory.load64(vcpu.control + VMCB['RFLAGS']) & r_uint(bits.RFLAGS_IF) != R0 and
                not self.in_shadow(vcpu))

    def in_shadow(self, vcpu):
        return memory.load64(vcpu.control + VMCB['INTERRUPT_SHADOW']) & 1 != R0

    def interrupt(self, vcpu, vector):
        vcpu.event = Words.interruption(vector)
        if processor.delivers_twice and svm_exit.has_window(vcpu.control):
            self.shut_window(vcpu)              # what place() makes of it is of the same

    def nmi_possible(self, vcpu):
        return (not vcpu.nmi_blocked and vcpu.event == R0 and
                not self.in_shadow(vcpu))

    def deliver_nmi(self, vcpu):
        """NMIs stay blocked until the next IRET, so that one exits."""
        vcpu.event = r_uint(svm.EVENT_VALID | svm.EVENT_NMI << svm.EVENT_TYPE_SHIFT | bits.VECTOR_NMI)
        vcpu.nmi_blocked = True
        self.set_intercepts(vcpu, INTERCEPT_IRET, R0)

    def open_window(self, vcpu):
        """A virtual interrupt of any vector exits before it is taken. Source: APM Vol. 2, "Virtual Interrupts".
        Where an entry begins no shadow, the instruction in it is stepped over; where another interrupt is a virtual one and is taken first, its
        handler's next exit will do, which is at the end of it."""
        if processor.delivers_twice and vcpu.event & svm_exit.EVENT_KIND == svm_exit.INTERRUPTION:
            self.shut_window(vcpu)
            vcpu.attention = True
            return
        if processor.no_shadow and vcpu.event == R0 and self.in_shadow(vcpu):
            self.shut_window(vcpu)
            self.step(vcpu, STEP_OTHER)
            return
        self.virtual_interrupt(vcpu, r_uint(svm.V_IRQ | svm.V_IGNORE_TPR))
        self.set_intercepts(vcpu, INTERCEPT_VINTR, R0)

    def virtual_interrupt(self, vcpu, what):
        memory.store64(vcpu.control + VMCB['V_INTR'], r_uint(svm.V_INTR_MASKING) | what | vcpu.apic.tpr >> 4)

    def set_task_priority(self, vcpu, held):
        """CR8 is in the VMCB, and a MOV to it exits only while it holds something back: then it is stepped over.
        (A virtual interrupt with a priority would do, but QEMU takes one of CR8's own class for higher.)"""
        vmcb = vcpu.control
        old = memory.load64(vmcb + VMCB['V_INTR'])
        memory.store64(vmcb + VMCB['V_INTR'], (old & ~r_uint(svm.V_TPR)) | vcpu.apic.tpr >> 4)
        wanted = R0
        if held and vcpu.stepping == STEP_NONE:
            wanted = r_uint(svm.INTERCEPT_WRITE_CR8)
        memory.store32(vmcb + VMCB['INTERCEPT_CR'], wanted)

    def shut_window(self, vcpu):
        self.virtual_interrupt(vcpu, R0)
        self.set_intercepts(vcpu, R0, INTERCEPT_VINTR)

    def close_window(self, vcpu):
        self.shut_window(vcpu)
        if vcpu.exit_code == r_uint(svm.EXIT_IRET):
            self.set_intercepts(vcpu, R0, INTERCEPT_IRET)
            self.step(vcpu, STEP_IRET)
        elif vcpu.exit_code == r_uint(svm.EXIT_WRITE_CR8):
            self.step(vcpu, STEP_OTHER)
        elif vcpu.exit_code == EXIT_DEBUG:
            self.end_step(vcpu)

    def open_nmi_window(self, vcpu):
        """A blocked NMI waits for the exit at IRET, and a shadow is stepped over. While an event is being delivered, the next exit will do."""
        if vcpu.event != R0:
            vcpu.attention = True
        elif not vcpu.nmi_blocked:
            self.step(vcpu, STEP_OTHER)

    def step(self, vcpu, what):
        """Exit after one instruction: SVM exits before an IRET, and what blocks NMIs ends behind it.

        RFLAGS.TF is the means. If the instruction faults, its handler returns to it with TF set, and the exit comes then.
        """
        vmcb = vcpu.control
        if vcpu.stepping != STEP_NONE:
            return
        rflags = memory.load64(vmcb + VMCB['RFLAGS'])
        vcpu.stepping = what
        vcpu.traced = rflags & r_uint(bits.RFLAGS_TF) != R0
        vcpu.step_dr6 = memory.load64(vmcb + VMCB['DR6'])
        memory.store64(vmcb + VMCB['RFLAGS'], rflags | r_uint(bits.RFLAGS_TF))
        memory.store32(vmcb + VMCB['INTERCEPT_EXCEPTION'], r_uint(1 << bits.VECTOR_MC | 1 << bits.VECTOR_DB))

    def end_step(self, vcpu):
        """The step's own #DB goes no further; one that the guest would have had is delivered."""
        vmcb = vcpu.control
        conditions = memory.load64(vmcb + VMCB['DR6']) & DR6_CONDITIONS
        memory.store32(vmcb + VMCB['INTERCEPT_EXCEPTION'], r_uint(1 << bits.VECTOR_MC))
        if vcpu.stepping == STEP_OTHER and not vcpu.traced:         # IRET has brought flags of its own
            memory.store64(vmcb + VMCB['RFLAGS'], memory.load64(vmcb + VMCB['RFLAGS']) & ~r_uint(bits.RFLAGS_TF))
        if vcpu.stepping == STEP_IRET:
            vcpu.nmi_blocked = False
        vcpu.stepping = STEP_NONE
        if vcpu.traced or conditions != R0:
            self.inject(vcpu, bits.VECTOR_DB, R0)
        else:
            memory.store64(vmcb + VMCB['DR6'], vcpu.step_dr6)

    def forget_events(self, vcpu):
        vmcb = vcpu.control
        vcpu.event = R0
        vcpu.nmi_blocked = False
        vcpu.stepping = STEP_NONE
        memory.store32(vmcb + VMCB['INTERCEPT_EXCEPTION'], r_uint(1 << bits.VECTOR_MC))
        memory.store32(vmcb + VMCB['INTERCEPT_CR'], R0)
        memory.store64(vmcb + VMCB['V_INTR'], r_uint(svm.V_INTR_MASKING))
        memory.store64(vmcb + VMCB['INTERRUPT_SHADOW'], R0)
        memory.store64(vmcb + VMCB['DR6'], DR6_INITIAL)
        memory.store64(vmcb + VMCB['DR7'], DR7_INITIAL)
        self.set_intercepts(vcpu, R0, INTERCEPT_VINTR | INTERCEPT_IRET)

    def set_intercepts(self, vcpu, more, less):
        at = vcpu.control + VMCB['INTERCEPT_1']
        memory.store32(at, (memory.load32(at) | more) & ~less)

    def switch(self, old, new):
        """VMSAVE and VMLOAD exchange all registers at every run. The vCPUs of a VM share an ASID, so one does not keep another's translations."""
        if new.compartment.here > 1:
            new.flush = True


@cold
def is_qemu():
    """Its own processor, not KVM's: VMRUN there (7.2, and the source of later ones) does not read the VMCB's interrupt shadow, and leaves the
    vector that it injects where it is taken for an exception's when something else asks for the emulator's attention.
    Source: QEMU's target/i386, CPUID leaf 0x40000000."""
    leaf = r_uint(svm.QEMU_LEAF)
    for register, name in QEMU_NAME:
        if cpu.cpuid(leaf, R0, r_uint(register)) != name:
            return False
    return True


def fill_with_ones(hva, pages):
    n = 0
    while n < pages * 512:
        memory.store64(hva + 8 * n, ~R0)
        n += 1


def reset_state(vmcb):
    """The state after RESET. Source: APM Vol. 2, "Initial Processor State"."""
    for segment, offset in UNROLLED_SEGMENTS:
        attributes = 0x93
        if segment == 'CS':
            attributes = 0x9b
        elif segment == 'LDTR':
            attributes = 0x82
        elif segment == 'TR':
            attributes = 0x8b
        memory.store16(vmcb + offset + 2, r_uint(attributes))
        memory.store32(vmcb + offset + 4, r_uint(0xffff))
    memory.store16(vmcb + WIDTHS_CS_SELECTOR, r_uint(0xf000))
    memory.store64(vmcb + WIDTHS_CS_BASE, r_uint(0xffff0000))
    memory.store64(vmcb + VMCB['EFER'], SVME)
    memory.store64(vmcb + VMCB['CR0'], r_uint(0x60000010))
    memory.store64(vmcb + VMCB['DR6'], DR6_INITIAL)
    memory.store64(vmcb + VMCB['DR7'], DR7_INITIAL)
    memory.store64(vmcb + VMCB['RFLAGS'], r_uint(bits.RFLAGS_FIXED))
    memory.store64(vmcb + VMCB['RIP'], r_uint(0xfff0))


UNROLLED_SEGMENTS = unrolling_iterable(svm.SEGMENTS)
WIDTHS_CS_SELECTOR = WIDTHS['CS_SELECTOR'][0]
WIDTHS_CS_BASE = WIDTHS['CS_BASE'][0]
