"""The quick path: the exits that a busy guest has most, finished before the crossing is over.

At each exit the assembly (boot/kernel/svm.S, vmx.S) asks a vendor's `first`, with most of the guest's registers and, on SVM, its task register
and system-call MSRs still in the processor. `first` and all that it calls is compiled apart, with five registers for its work, RAX, RCX, RDX,
RSI and RDI (FEW_REGISTERS in tools/build/build.py): these are in the area meanwhile, and no others. Where it says QUICK_MORE, `more` is asked
with R8 to R11 in the area as well. What is not plain is left, untouched, to the loop: exits.py does the same and everything else, and tests
hold the two against each other (tests/unit/kernel/test_quick_path.py).

`quick_path(words)` makes the two functions once for each vendor. `words` says how a vendor tells them what it knows:
    once(vcpu)                  something is to be done before the next entry: the exit is the loop's, unless the assembly has seen to that
    reason(vcpu)                the exit's code: CPUID, HYPERCALL, and MSR_READ or MSR_WRITE as is_msr_read and is_msr_write find them
    rax(vcpu), eax, set_rax     where RAX is while the quick path runs; its lower half
    CPUID_APART                 is `cpuid` a function of its own, because the five registers are too few?
    IO, MEMORY                  of `reason`: always the VMM's
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
from rpython.rlib.objectmodel import dont_inline, likely, unlikely
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu, memory
from hypervisor.kernel.interrupts import is_msr
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.vcpu import RCX, RDX
from hypervisor.spec import cpu as bits
from hypervisor.spec import lapic
from hypervisor.spec.context import ENTRY, PRIVATE_AREA, PRIVATE_CPUID, PRIVATE_ENTRY, QUICK_AGAIN, QUICK_DONE, QUICK_HAND, QUICK_LEAVE, QUICK_MORE
from hypervisor.spec.vcpu import CPUID_ASK, CPUID_CLASSES, CPUID_LEAVES, CPUID_TABLE

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
assert CPUID_CLASSES[:2] == [0, 1 << 31] and CPUID_LEAVES == 32
ELSEWHERE = r_uint((1 << 31) - CPUID_LEAVES)
FROM_BIT_31 = 31 - 5
# From a vCPU's area on, which is in the page of its table: the table, the bits that ask, and the entry that is made for one answer.
TABLE = PRIVATE_CPUID - PRIVATE_AREA
ASK = TABLE + CPUID_ASK - CPUID_TABLE
CHANGED = PRIVATE_ENTRY - PRIVATE_AREA
EAX, ECX, EDX = ENTRY['EAX'], ENTRY['ECX'], ENTRY['EDX']
assert ENTRY['EBX'] == EAX + 4
OSXSAVE, APIC = r_uint(bits.LEAF_1_ECX_OSXSAVE), r_uint(bits.LEAF_1_EDX_APIC)
MSR_EOI = r_uint(bits.MSR_X2APIC_FIRST + (lapic.EOI >> 4))
MSR_SELF_IPI = r_uint(bits.MSR_SELF_IPI)
EFER_LMA, EFER_FREE = r_uint(bits.EFER_LMA), r_uint(bits.EFER_SCE | bits.EFER_NXE)
assert bits.MSR_PAT < bits.MSR_TSC_DEADLINE < bits.MSR_X2APIC_FIRST + (lapic.EOI >> 4) < bits.MSR_SELF_IPI < bits.MSR_EFER
MSR_EFER, MSR_PAT, MSR_TSC_DEADLINE = r_uint(bits.MSR_EFER), r_uint(bits.MSR_PAT), r_uint(bits.MSR_TSC_DEADLINE)


def quick_path(words):
    """Make the quick path of a vendor. Returns its `first` and `more`."""
    step_over, rax, eax, set_rax = words.step_over, words.rax, words.eax, words.set_rax
    step_over._always_inline_ = True

    def first():
        """Returns QUICK_AGAIN when the exit is finished and the guest may go on, or where it finds its new EAX to EDX; or when nothing has been
        done: QUICK_MORE when `more` is to be asked, QUICK_HAND or QUICK_LEAVE when the exit is the VMM's, and straight.py may know better than
        the loop."""
        vcpu = switcher.owner
        if unlikely(words.once(vcpu)):
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
        """A basic or an extended leaf: its place in the table and in the bits that ask is bit 31 before the bits 4 to 0."""
        leaf = eax(vcpu)
        if unlikely(leaf & ELSEWHERE != R0):
            return QUICK_LEAVE
        place = (leaf | leaf >> FROM_BIT_31) & (2 * CPUID_LEAVES - 1)
        if unlikely((vcpu.apart >> intmask(place)) & 1 != R0):
            return cpuid_apart(vcpu, place)
        if unlikely(not step_over(vcpu, words.CPUID_BYTES)):
            return QUICK_LEAVE
        vcpu.quick_cpuid += 1
        return intmask(vcpu.area + TABLE + place * 16)

    cpuid._dont_inline_ = words.CPUID_APART

    @dont_inline                            # what it needs registers for, the others need not
    def cpuid_apart(vcpu, place):
        """A leaf that the VMM is to be asked for, or leaf 1."""
        if place != r_uint(1) or memory.load64(vcpu.area + ASK) & 2 != R0:
            return QUICK_HAND
        if unlikely(not step_over(vcpu, words.CPUID_BYTES)):
            return QUICK_LEAVE
        vcpu.quick_cpuid += 1
        entry = vcpu.area + (TABLE + 16)
        changed = vcpu.area + CHANGED
        memory.store64(changed + EAX, memory.load64(entry + EAX))       # and EBX
        memory.store32(changed + ECX, leaf_1_ecx(vcpu, memory.load32(entry + ECX)))
        memory.store32(changed + EDX, leaf_1_edx(vcpu, memory.load32(entry + EDX)))
        return intmask(changed)

    def leaf_1_ecx(vcpu, ecx):
        if words.cr4(vcpu) & r_uint(bits.CR4_OSXSAVE) != R0:
            return ecx | OSXSAVE
        return ecx & ~OSXSAVE

    def leaf_1_edx(vcpu, edx):
        if vcpu.apic.is_enabled():
            return edx
        return edx & ~APIC

    def hypercall(vcpu):
        if unlikely(rax(vcpu) != R0):
            return QUICK_LEAVE
        if unlikely(not step_over(vcpu, words.HYPERCALL_BYTES)):
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
            return read_deadline(vcpu)
        else:
            return other_msr(number)
        return tell_msr(vcpu, value)

    def tell_msr(vcpu, value):
        if unlikely(not step_over(vcpu, words.MSR_BYTES)):
            return QUICK_LEAVE
        vcpu.quick_msr_read += 1
        set_rax(vcpu, value & LOW32)
        vcpu.set_gpr(RDX, value >> 32)
        return QUICK_AGAIN

    @dont_inline
    def read_deadline(vcpu):
        return tell_msr(vcpu, vcpu.apic.read_deadline())

    def msr_write(vcpu):
        number = vcpu.gpr(RCX) & LOW32
        if number > MSR_EOI:                # so: an EOI is found by the same comparison
            if likely(number == MSR_EFER):
                return efer(vcpu, written(vcpu))
            return QUICK_MORE if number == MSR_SELF_IPI else other_msr(number)
        if number == MSR_EOI:
            return plain_eoi(vcpu)
        if likely(number == MSR_PAT):
            return pat(vcpu, written(vcpu))
        return QUICK_MORE if number == MSR_TSC_DEADLINE else other_msr(number)

    def written(vcpu):
        return (vcpu.gpr(RDX) & LOW32) << 32 | (rax(vcpu) & LOW32)

    @dont_inline
    def plain_eoi(vcpu):
        """An end of interrupt after which nothing is requested."""
        apic = vcpu.apic
        if written(vcpu) != R0 or not apic.is_x2apic() or apic.has_request():
            return QUICK_MORE
        return QUICK_AGAIN if leave_service(vcpu) else QUICK_LEAVE

    def leave_service(vcpu):
        """False, and nothing is done, where it is the loop's: the end of a level-triggered interrupt is the VMM's business too."""
        apic = vcpu.apic
        vector = apic.in_service()
        if vector < 0 or apic.is_level(vector) or not step_over(vcpu, words.MSR_BYTES):
            return False
        vcpu.quick_msr_write += 1
        apic.leave_service(vector)
        return True

    def other_msr(number):
        if unlikely(is_msr(number)):
            return QUICK_LEAVE
        return QUICK_HAND

    def pat(vcpu, value):
        if unlikely(not is_pat(value)):
            return QUICK_LEAVE
        if unlikely(not step_over(vcpu, words.MSR_BYTES)):
            return QUICK_LEAVE
        vcpu.quick_msr_write += 1
        words.set_pat(vcpu, value)
        return QUICK_AGAIN

    def efer(vcpu, value):
        """SCE and NXE, which any guest may change at any time. LMA is the processor's, whatever is written."""
        changed = (value ^ words.efer(vcpu)) & ~EFER_LMA
        if unlikely(changed & ~EFER_FREE != R0):
            return QUICK_LEAVE
        if unlikely(not step_over(vcpu, words.MSR_BYTES)):
            return QUICK_LEAVE
        vcpu.quick_msr_write += 1
        words.set_efer(vcpu, words.efer(vcpu) & ~EFER_FREE | value & EFER_FREE)     # asked again: a register less is kept
        return QUICK_AGAIN

    # What needs more registers.

    def more():
        """The rest of MSR writes. Returns QUICK_AGAIN, QUICK_DONE when the exit is finished and something has to be looked at before the guest
        goes on, or QUICK_LEAVE."""
        vcpu = switcher.owner
        number = vcpu.gpr(RCX) & LOW32
        if number == MSR_EOI:
            return end_of_interrupt(vcpu)
        if number == MSR_TSC_DEADLINE:
            return deadline(vcpu, written(vcpu))
        return self_ipi(vcpu, written(vcpu))

    @dont_inline
    def end_of_interrupt(vcpu):
        apic = vcpu.apic
        if written(vcpu) != R0 or not apic.is_x2apic() or not leave_service(vcpu):
            return QUICK_LEAVE
        if apic.has_request():
            return hand_in(vcpu)
        return QUICK_AGAIN

    @dont_inline
    def deadline(vcpu, value):
        if unlikely(not step_over(vcpu, words.MSR_BYTES)):
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

    return first, more


EACH_BYTE = 0x0101010101010101


def is_pat(value):
    """Is each byte a memory type: 0, 1, 4, 5, 6 or 7? Source: Intel SDM Vol. 3A, "IA32_PAT MSR"."""
    if unlikely(value & r_uint(0xf8 * EACH_BYTE) != R0):
        return False
    return value & ~(value >> 1) & r_uint(2 * EACH_BYTE) == R0
