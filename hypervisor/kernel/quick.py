"""The quick path: the exits that a busy guest has most, finished before the crossing is over.

At each exit the assembly (boot/kernel/svm.S, vmx.S) asks a vendor's `answer`, with half of the guest's registers and, on SVM,
its task register and system-call MSRs still in the processor. What is not plain is left, untouched, to the loop: exits.py does the
same and everything else, and tests hold the two against each other (tests/unit/kernel/test_quick_path.py).

`quick_path(words)` makes the functions once for each vendor. `words` says how a vendor tells them what it knows:
    reason(vcpu)                the exit's code: CPUID, HYPERCALL, and MSR_READ or MSR_WRITE as is_msr_read and is_msr_write find them
    rax(vcpu), set_rax          where RAX is while the quick path runs; the registers that C functions may change are in the area
    IO, MEMORY                  likewise: those that are the VMM's
    efer(vcpu), cr4(vcpu)       as the guest reads them
    set_efer(vcpu, value)       with LME and LMA as they are
    set_pat(vcpu, value)
    tpr_moved(vcpu)             has the guest changed its TPR without an exit?
    takes_interrupts(vcpu)      behind an instruction that was stepped over: is RFLAGS.IF set?
    settle(vcpu)                may the guest have ended an interrupt without an exit? Then the APIC hears of it now
    taken(vcpu, vector)         the guest takes an interrupt of its APIC; taken_alone(vcpu, vector): and nothing else is in service or requested
    interruption(vector)        an external interrupt, as in vcpu.event; inject(vcpu, event): the next entry delivers it
    step_over(vcpu, length)     RIP moves on and a shadow ends; False, and nothing is done, when RF or TF has to be seen to.
                                length: what the plain instruction has, CPUID_BYTES and so on; only for processors that tell nothing
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu, memory
from hypervisor.kernel.interrupts import is_msr
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.vcpu import RBX, RCX, RDX
from hypervisor.spec import cpu as bits
from hypervisor.spec import lapic
from hypervisor.spec.context import QUICK_AGAIN, QUICK_DONE, QUICK_HAND, QUICK_LEAVE
from hypervisor.spec.vcpu import CPUID_ASK, CPUID_CLASSES, CPUID_LEAVES, CPUID_TABLE

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
LEAF_IN_CLASS = r_uint(CPUID_LEAVES - 1)
BASIC, EXTENDED = [CPUID_CLASSES.index(first) for first in (0, 0x80000000)]
ASK_BASIC, ASK_EXTENDED = [CPUID_ASK - CPUID_TABLE + 4 * group for group in (BASIC, EXTENDED)]
TABLE_EXTENDED = 16 * CPUID_LEAVES * EXTENDED
OSXSAVE, APIC = r_uint(bits.LEAF_1_ECX_OSXSAVE), r_uint(bits.LEAF_1_EDX_APIC)
MSR_EOI = r_uint(bits.MSR_X2APIC_FIRST + (lapic.EOI >> 4))
MSR_SELF_IPI = r_uint(bits.MSR_SELF_IPI)
EFER_LMA, EFER_FREE = r_uint(bits.EFER_LMA), r_uint(bits.EFER_SCE | bits.EFER_NXE)
MSR_EFER, MSR_PAT, MSR_TSC_DEADLINE = r_uint(bits.MSR_EFER), r_uint(bits.MSR_PAT), r_uint(bits.MSR_TSC_DEADLINE)


def quick_path(words):
    """Make the quick path of a vendor. Returns its `answer`."""
    step_over, rax, set_rax = words.step_over, words.rax, words.set_rax
    step_over._always_inline_ = True

    def answer():
        """Returns QUICK_AGAIN when the exit is finished and the guest may go on, QUICK_DONE when it is finished and something has to be
        looked at first, QUICK_HAND or QUICK_LEAVE when nothing has been done: the exit is the VMM's, and straight.py may know better
        than the loop."""
        vcpu = switcher.owner
        if vcpu.once:
            return QUICK_LEAVE
        reason = words.reason(vcpu)
        if reason == words.CPUID:
            return cpuid(vcpu)
        if words.is_msr_write(vcpu, reason):
            return msr_write(vcpu)
        if words.is_msr_read(vcpu, reason):
            return msr_read(vcpu)
        if reason == words.HYPERCALL:
            return hypercall(vcpu)
        if reason == words.IO or reason == words.MEMORY:
            return QUICK_HAND
        return QUICK_LEAVE

    def cpuid(vcpu):
        leaf = rax(vcpu) & LOW32
        index = leaf & LEAF_IN_CLASS
        table = vcpu.cpuid
        if leaf == index:
            asked = memory.load32(table + ASK_BASIC)
        elif leaf - index == r_uint(CPUID_CLASSES[EXTENDED]):
            asked = memory.load32(table + ASK_EXTENDED)
            table += TABLE_EXTENDED
        else:
            return QUICK_LEAVE
        if (asked >> intmask(index)) & 1 != R0:
            return QUICK_HAND
        if not step_over(vcpu, words.CPUID_BYTES):
            return QUICK_LEAVE
        vcpu.quick_cpuid += 1
        table += index * 16
        area = vcpu.area
        set_rax(vcpu, memory.load32(table))
        memory.store64(area + RBX, memory.load32(table + 4))
        ecx = memory.load32(table + 8)
        edx = memory.load32(table + 12)
        if leaf == r_uint(1):
            ecx = leaf_1_ecx(vcpu, ecx)
            edx = leaf_1_edx(vcpu, edx)
        memory.store64(area + RCX, ecx)
        memory.store64(area + RDX, edx)
        return QUICK_AGAIN

    def leaf_1_ecx(vcpu, ecx):
        if words.cr4(vcpu) & r_uint(bits.CR4_OSXSAVE) != R0:
            return ecx | OSXSAVE
        return ecx & ~OSXSAVE

    def leaf_1_edx(vcpu, edx):
        if vcpu.apic.is_enabled():
            return edx
        return edx & ~APIC

    def hypercall(vcpu):
        if rax(vcpu) != R0 or not step_over(vcpu, words.HYPERCALL_BYTES):
            return QUICK_LEAVE
        vcpu.quick_hypercall += 1
        return QUICK_AGAIN                  # RAX is 0, as it shall be

    def msr_read(vcpu):
        number = vcpu.gpr(RCX) & LOW32
        if number == MSR_EFER:
            value = words.efer(vcpu)
        elif number == MSR_PAT:
            value = vcpu.pat
        elif number == MSR_TSC_DEADLINE and not vcpu.owns:
            value = vcpu.apic.read_deadline()
        else:
            return other_msr(number)
        if not step_over(vcpu, words.MSR_BYTES):
            return QUICK_LEAVE
        vcpu.quick_msr_read += 1
        set_rax(vcpu, value & LOW32)
        vcpu.set_gpr(RDX, value >> 32)
        return QUICK_AGAIN

    @dont_inline                            # what some of these call wants registers kept, and the others need none
    def msr_write(vcpu):
        number = vcpu.gpr(RCX) & LOW32
        value = (vcpu.gpr(RDX) & LOW32) << 32 | (rax(vcpu) & LOW32)
        if number == MSR_EOI:
            return end_of_interrupt(vcpu, value)
        if number == MSR_TSC_DEADLINE:
            return deadline(vcpu, value)
        if number == MSR_SELF_IPI:
            return self_ipi(vcpu, value)
        if number == MSR_PAT:
            return pat(vcpu, value)
        if number == MSR_EFER:
            return efer(vcpu, value)
        return other_msr(number)

    def other_msr(number):
        return QUICK_LEAVE if is_msr(number) else QUICK_HAND

    @dont_inline
    def end_of_interrupt(vcpu, value):
        """The end of a level-triggered interrupt is the VMM's business too."""
        apic = vcpu.apic
        if value != R0 or not apic.is_x2apic():
            return QUICK_LEAVE
        vector = apic.in_service()
        if vector < 0 or apic.is_level(vector) or not step_over(vcpu, words.MSR_BYTES):
            return QUICK_LEAVE
        vcpu.quick_msr_write += 1
        apic.leave_service(vector)
        if apic.has_request():
            return hand_in(vcpu)
        return QUICK_AGAIN

    @dont_inline
    def deadline(vcpu, value):
        if not step_over(vcpu, words.MSR_BYTES):
            return QUICK_LEAVE
        vcpu.quick_msr_write += 1
        vcpu.apic.write_deadline(value)
        if vcpu.owns:
            cpu.wrmsr(MSR_TSC_DEADLINE, vcpu.apic.deadline)         # ignored in the timer's other modes, as by the vCPU's own APIC
            return QUICK_AGAIN
        scheduler.nudge(vcpu.apic.deadline)
        return QUICK_AGAIN

    @dont_inline
    def self_ipi(vcpu, value):
        if value > r_uint(0xff) or not vcpu.apic.is_x2apic() or vcpu.owns and value < r_uint(32) or not step_over(vcpu, words.MSR_BYTES):
            return QUICK_LEAVE
        vcpu.quick_msr_write += 1
        if vcpu.owns:
            cpu.wrmsr(MSR_SELF_IPI, value)
            return QUICK_AGAIN
        apic = vcpu.apic
        words.settle(vcpu)
        if takes_at_once(vcpu) and apic.take_at_once(intmask(value)):
            words.taken_alone(vcpu, intmask(value))
            words.inject(vcpu, words.interruption(intmask(value)))
            return QUICK_AGAIN
        apic.request(intmask(value), False)
        return hand_in(vcpu)

    def takes_at_once(vcpu):
        """Would the guest take an interrupt of its APIC at once, and is there nothing else that wants in?"""
        apic = vcpu.apic
        return not (apic.nmi or apic.extint or words.tpr_moved(vcpu)) and words.takes_interrupts(vcpu)

    def hand_in(vcpu):
        """Something is requested. The one interrupt that the guest takes at once is its next event; for all else the loop has windows."""
        apic = vcpu.apic
        if not takes_at_once(vcpu):
            vcpu.attention = True
            return QUICK_DONE
        vector = apic.pending()
        if vector < 0:
            vcpu.attention = True
            return QUICK_DONE
        apic.take(vector)
        words.taken(vcpu, vector)
        if apic.has_request():
            vcpu.event = words.interruption(vector)
            vcpu.attention = True
            return QUICK_DONE
        words.inject(vcpu, words.interruption(vector))
        return QUICK_AGAIN

    def pat(vcpu, value):
        if not is_pat(value) or not step_over(vcpu, words.MSR_BYTES):
            return QUICK_LEAVE
        vcpu.quick_msr_write += 1
        words.set_pat(vcpu, value)
        return QUICK_AGAIN

    def efer(vcpu, value):
        """SCE and NXE, which any guest may change at any time. LMA is the processor's, whatever is written."""
        old = words.efer(vcpu)
        changed = (value ^ old) & ~EFER_LMA
        if changed & ~EFER_FREE != R0 or not step_over(vcpu, words.MSR_BYTES):
            return QUICK_LEAVE
        vcpu.quick_msr_write += 1
        words.set_efer(vcpu, old ^ changed)
        return QUICK_AGAIN

    return answer


EACH_BYTE = 0x0101010101010101


def is_pat(value):
    """Is each byte a memory type: 0, 1, 4, 5, 6 or 7? Source: Intel SDM Vol. 3A, "IA32_PAT MSR"."""
    return value & r_uint(0xf8 * EACH_BYTE) == R0 and value & ~(value >> 1) & r_uint(2 * EACH_BYTE) == R0
