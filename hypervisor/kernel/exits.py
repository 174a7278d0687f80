"""What the kernel does about a vCPU's exit: finish it here, or hand it to the VMM whose business it is."""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.kernel import answer, hypercall, interrupts, state
from hypervisor.kernel.line import lines
from hypervisor.kernel.owned import owned
from hypervisor.kernel.quick import is_pat
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import XCR0_X87, switcher
from hypervisor.kernel.timer import timer
from hypervisor.kernel.vcpu import RAX, RBX, RCX, RDX
from hypervisor.lib.cold import cold
from hypervisor.spec import cpu as bits
from hypervisor.spec import ending
from hypervisor.spec import exit as kinds
from hypervisor.spec import state as fields
from hypervisor.spec.vcpu import CPUID_ASK, CPUID_CLASSES, CPUID_LEAVES, CPUID_TABLE

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
LEAVES = r_uint(CPUID_LEAVES)
ASK = r_uint(CPUID_ASK - CPUID_TABLE)
CLASS_EXTENDED, CLASS_HYPERVISOR, CLASS_OWN = [r_uint(first) for first in CPUID_CLASSES[1:]]
OSXSAVE, APIC = r_uint(bits.LEAF_1_ECX_OSXSAVE), r_uint(bits.LEAF_1_EDX_APIC)


def handle(vcpu):
    """Finish the exit that the vCPU has just had."""
    kind = vcpu.exit_kind
    vcpu.counts[kind] += 1
    if kind == kinds.IO:                        # first and apart: that and MEMORY are the hot ones
        answer.deliver(vcpu)
    elif kind == kinds.MEMORY:
        memory_access(vcpu)
    else:
        handle_other(vcpu, kind)


@dont_inline
def handle_other(vcpu, kind):
    if kind == kinds.CPUID:
        cpuid(vcpu)
    elif kind == kinds.SHUTDOWN or kind == kinds.TASK_SWITCH:
        answer.deliver(vcpu)
    elif kind == kinds.HLT:
        if not interrupts.halt(vcpu):
            answer.deliver(vcpu)
    elif kind == kinds.INTERRUPT:
        interrupt(vcpu.exit_value)
    elif kind == kinds.HYPERCALL:
        hypercall.handle(vcpu)
    elif kind == kinds.MSR_READ:
        msr_read(vcpu)
    elif kind == kinds.MSR_WRITE:
        msr_write(vcpu)
    elif kind == kinds.XSETBV:
        xsetbv(vcpu)
    elif kind == kinds.CONTROL:
        if not switcher.vendor.control(vcpu):
            general_protection(vcpu)
    elif kind == kinds.PRIVILEGED:
        switcher.vendor.inject(vcpu, bits.VECTOR_UD, R0)
    elif kind == kinds.IGNORED:
        switcher.vendor.advance(vcpu)
    elif kind == kinds.WINDOW:
        interrupts.window(vcpu)
    elif kind == kinds.NMI:
        nmi_exit()
    elif kind == kinds.ENTRY_FAILED:
        vcpu.compartment.stop(ending.ENTRY_FAILED, r_uint(switcher.vendor.explain(vcpu)))
    elif kind == kinds.EXCEPTION:
        vcpu.compartment.stop(ending.KERNEL_LIMIT, switcher.vendor.get(vcpu, fields.RIP))
    else:
        vcpu.compartment.stop(ending.EXIT_UNKNOWN, vcpu.exit_code)


def memory_access(vcpu):
    """An access where nothing is mapped. While an event was being delivered (its IDT, GDT, TSS or stack lies there) no instruction
    can be emulated for it, and delivering again would fault for ever."""
    if vcpu.event != R0:
        vcpu.compartment.stop(ending.KERNEL_LIMIT, switcher.vendor.get(vcpu, fields.RIP))
    else:
        answer.deliver(vcpu)


def interrupt(vector):
    """A physical interrupt ended the run."""
    if vector == r_uint(bits.VECTOR_TIMER):
        scheduler.tick()
    elif lines.is_line(vector):
        scheduler.favour(lines.arrive(vector))
    elif vector == r_uint(bits.VECTOR_DOORBELL):
        timer.acknowledge()
        scheduler.favour(scheduler.bell.answer())
    elif vector != r_uint(bits.VECTOR_SPURIOUS) and vector >= r_uint(32):
        timer.acknowledge()


def nmi_exit():
    """Of the machine's: another core's doorbell, or nobody's business."""
    if owned.possible:
        owned.nmi_exit()
        scheduler.favour(scheduler.bell.answer())


@cold
def general_protection(vcpu):
    switcher.vendor.inject(vcpu, bits.VECTOR_GP, R0)


def cpuid(vcpu):
    """From the table that the VMM has given; leaves that depend on the subleaf are the VMM's."""
    leaf = vcpu.gpr(RAX) & LOW32
    index = leaf & (LEAVES - 1)
    slot = index
    group = 0
    if leaf >= CLASS_EXTENDED:
        group = 1
        known = leaf - CLASS_EXTENDED < LEAVES
    elif leaf >= CLASS_OWN:
        group = 3
        known = leaf - CLASS_OWN < LEAVES
    elif leaf >= CLASS_HYPERVISOR:
        group = 2
        known = leaf - CLASS_HYPERVISOR < LEAVES
    else:
        known = leaf < LEAVES
    if not known:
        cpuid_result(vcpu, R0, R0, R0, R0)
        return
    if (memory.load32(vcpu.cpuid + ASK + 4 * group) >> intmask(index)) & 1 != R0:
        vcpu.exit_selector = leaf | (vcpu.gpr(RCX) & LOW32) << 32
        answer.note_leaf(vcpu, leaf)
        answer.deliver(vcpu)
        return
    slot = vcpu.cpuid + (r_uint(group) * LEAVES + index) * 16
    ecx = memory.load32(slot + 8)
    edx = memory.load32(slot + 12)
    if leaf == r_uint(1):
        if not vcpu.apic.is_enabled():
            edx &= ~APIC
        ecx &= ~OSXSAVE
        if switcher.vendor.get(vcpu, fields.CR4) & r_uint(bits.CR4_OSXSAVE) != R0:
            ecx |= OSXSAVE
    cpuid_result(vcpu, memory.load32(slot), memory.load32(slot + 4), ecx, edx)


def cpuid_result(vcpu, eax, ebx, ecx, edx):
    vcpu.set_gpr(RAX, eax)
    vcpu.set_gpr(RBX, ebx)
    vcpu.set_gpr(RCX, ecx)
    vcpu.set_gpr(RDX, edx)
    switcher.vendor.advance(vcpu)


def msr_read(vcpu):
    """EFER and PAT are part of a context; the rest is the VMM's policy."""
    number = vcpu.exit_selector
    if number == r_uint(bits.MSR_EFER):
        msr_result(vcpu, switcher.vendor.get(vcpu, fields.EFER))
    elif number == r_uint(bits.MSR_PAT):
        msr_result(vcpu, vcpu.pat)
    elif interrupts.is_msr(number):
        if interrupts.read_msr(vcpu, number):
            msr_result(vcpu, vcpu.exit_value)
        else:
            general_protection(vcpu)
    else:
        answer.deliver(vcpu)


def msr_result(vcpu, value):
    vcpu.set_gpr(RAX, value & LOW32)
    vcpu.set_gpr(RDX, value >> 32)
    switcher.vendor.advance(vcpu)


def msr_write(vcpu):
    number = vcpu.exit_selector
    if number == r_uint(bits.MSR_EFER):
        write_efer(vcpu, vcpu.exit_value)
    elif number == r_uint(bits.MSR_PAT):
        write_pat(vcpu, vcpu.exit_value)
    elif interrupts.is_msr(number):
        if not interrupts.write_msr(vcpu, number, vcpu.exit_value):
            general_protection(vcpu)
    else:
        answer.deliver(vcpu)


def write_efer(vcpu, value):
    """LMA is the processor's; LME cannot change while paging is on. Source: AMD64 APM Vol. 2, "Extended Feature Enable Register"."""
    vendor = switcher.vendor
    old = vendor.get(vcpu, fields.EFER)
    cr0 = vendor.get(vcpu, fields.CR0)
    changed = value ^ old
    if value & ~state.EFER_ALLOWED != R0 or (changed & r_uint(bits.EFER_LME) != R0 and cr0 & r_uint(bits.CR0_PG) != R0):
        general_protection(vcpu)
        return
    vendor.set(vcpu, fields.EFER, (value & ~r_uint(bits.EFER_LMA)) | (old & r_uint(bits.EFER_LMA)))
    vendor.advance(vcpu)


def write_pat(vcpu, value):
    if not is_pat(value):
        general_protection(vcpu)
        return
    switcher.vendor.set_pat(vcpu, value)
    switcher.vendor.advance(vcpu)


@cold
def xsetbv(vcpu):
    """XCR0 holds x87 always, AVX only with SSE. Source: Intel SDM Vol. 1, "Enabling the XSAVE Feature Set and XSAVE-Enabled Features"."""
    value = (vcpu.gpr(RDX) & LOW32) << 32 | (vcpu.gpr(RAX) & LOW32)
    index = vcpu.gpr(RCX) & LOW32
    bad = index != R0 or value & XCR0_X87 == R0 or value & ~switcher.offered != R0 or value & r_uint(6) == r_uint(4)
    if bad or state.cpl(vcpu) != R0:
        general_protection(vcpu)
        return
    switcher.set_xcr0(vcpu, value)      # this vCPU's state is the live one: it has just run
    switcher.vendor.advance(vcpu)
