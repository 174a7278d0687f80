"""The straight path: an exit that the VMM answers, to the VMM and back to the guest without the loop.

Where the quick path (quick.py) says that an exit is the VMM's, and the VMM waits in VCPU_RUN for just that, the assembly (boot/kernel/svm.S,
vmx.S) asks `hand`, runs the VMM, and asks `answered` about what has come of it. Its answer is checked and applied as the loop would
(answer.py), and the guest goes on. Everything else is left to the loop, in the state in which the loop itself would have come there:
`answer.deliver` and the scheduler's hand-over are then made up for. So between the two nothing that others could see has changed; no other
code of the kernel runs meanwhile, and whatever interrupts the VMM ends the straight path. Tests hold it against the loop
(tests/unit/kernel/test_straight.py, tests/unit/vmx/test_vmx_straight.py).

That the task is blocked IN_VCPU_RUN says much: it is a VM's at its home, no signal is set for it, it owes nothing, and no exit of another vCPU
waits for it.

`straight_path(words)` makes the functions once for each vendor. `words` are those of quick.py, and besides:
    IO, MEMORY                  of `reason`
    length(vcpu, plain)         of the instruction, as in the exit record
    keys_on(vcpu)               CR4.PKE
    decode_io(vcpu)             fill the exit record; False, and nothing is done, when the guest watches ports
    decode_memory(vcpu)         likewise; vcpu.event is set if the access was part of an event's delivery
    write_state(vcpu, groups)   as Vendor.write_state
    set_flow(vcpu, rip, flags)  as Vendor.set_flow
    move_on(vcpu)               step over the instruction of the exit record; False, and nothing is done, when RF or TF has to be seen to
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu, memory
from hypervisor.kernel import state
from hypervisor.kernel.answer import bring_register, complete_port, complete_registers, is_at_apic, take_answer, write_exit
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.task import IN_VCPU_RUN
from hypervisor.kernel.vcpu import RAX, RCX, RDX
from hypervisor.lib.cold import cold
from hypervisor.spec import call, ending
from hypervisor.spec import cpu as bits
from hypervisor.spec import exit as kinds
from hypervisor.spec.cpu import LEAF_7, LEAF_XSAVE
from hypervisor.spec.context import AREA, QUICK_AGAIN, QUICK_DONE, QUICK_LEAVE, QUICK_TASK
from hypervisor.spec.vcpu import ANSWER, COMPLETE, GROUP_FLOW, MEMORY_BRINGS, REGISTER, REGISTER_SHIFT, RESUME, STATE

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
GATE, VCPU_RUN = r_uint(call.GATE), r_uint(call.VCPU_RUN)
EFER_LMA = r_uint(bits.EFER_LMA)
ONE_REGISTER = r_uint(REGISTER | 15 << REGISTER_SHIFT)
assert COMPLETE == 0


class Back(object):
    """What the loop has to see to: pending, and the vector with which the VMM has come back."""

    def __init__(self):
        self.pending = False
        self.vector = R0


back = Back()


def straight_path(words):
    """Make the straight path of a vendor. Returns its `hand` and `answered`."""
    move_on = words.move_on
    move_on._always_inline_ = True

    def hand():
        """Returns QUICK_TASK when the VMM is to be run, QUICK_LEAVE when nothing has been done."""
        vcpu = switcher.owner
        if vcpu.task.blocked != IN_VCPU_RUN or vcpu.owns:
            return QUICK_LEAVE
        reason = words.reason(vcpu)
        vcpu.exit_code = reason
        if reason != words.IO:
            return hand_other(vcpu, reason)
        if not words.decode_io(vcpu):
            return QUICK_LEAVE
        vcpu.quick_io += 1
        return begin(vcpu)

    @dont_inline                            # or the hot one would keep registers for it
    def hand_other(vcpu, reason):
        if reason != words.MEMORY:
            return hand_registers(vcpu, reason)
        words.decode_memory(vcpu)
        if vcpu.event != R0:
            return QUICK_LEAVE
        if is_at_apic(vcpu):
            return hand_apic(vcpu)
        return hand_access(vcpu)

    @dont_inline
    def hand_apic(vcpu):
        if words.tpr_moved(vcpu):
            return QUICK_LEAVE              # the loop takes it over first
        bring_register(vcpu)
        return hand_access(vcpu)

    @dont_inline
    def hand_access(vcpu):
        state.write_gprs(vcpu)
        words.write_state(vcpu, r_uint(MEMORY_BRINGS))
        vcpu.quick_memory += 1
        return begin(vcpu)

    @dont_inline
    def hand_registers(vcpu, reason):
        decode_registers(vcpu, reason)
        return begin(vcpu)

    def decode_registers(vcpu, reason):
        vcpu.exit_selector = vcpu.gpr(RCX) & LOW32
        if reason == words.CPUID:
            leaf = vcpu.gpr(RAX) & LOW32
            vcpu.exit_kind = kinds.CPUID
            vcpu.quick_cpuid += 1
            vcpu.exit_selector = leaf | vcpu.exit_selector << 32
            if leaf == r_uint(LEAF_7):
                vcpu.exit_value = words.keys_on(vcpu)
            elif leaf == r_uint(LEAF_XSAVE):
                vcpu.exit_value = switcher.live_xcr0(vcpu)
            vcpu.exit_length = words.length(vcpu, words.CPUID_BYTES)
            return
        vcpu.exit_length = words.length(vcpu, words.MSR_BYTES)
        if not words.is_msr_write(vcpu, reason):
            vcpu.exit_kind = kinds.MSR_READ
            vcpu.quick_msr_read += 1
        else:
            vcpu.exit_kind = kinds.MSR_WRITE
            vcpu.quick_msr_write += 1
            vcpu.exit_value = (vcpu.gpr(RDX) & LOW32) << 32 | (vcpu.gpr(RAX) & LOW32)

    def answered(vector):
        """The VMM has come back. Returns QUICK_AGAIN when the guest may go on, QUICK_TASK when the loop has to see to it."""
        vcpu = switcher.owner
        if not is_run(vcpu, vector):
            return leave(vcpu, vector)
        page = vcpu.page
        if memory.load64(page + ANSWER['ACTION']) | memory.load64(page + ANSWER['DIRTY']) != R0 or vcpu.exit_kind == kinds.MEMORY or not move_on(vcpu):
            return answered_other(vcpu)
        if vcpu.exit_kind == kinds.IO:
            complete_port(vcpu)
        else:
            complete_registers(vcpu)
        vcpu.task.ticks += scheduler.lap()
        return QUICK_AGAIN

    @dont_inline                            # what is not just completed
    def answered_other(vcpu):
        if vcpu.exit_kind != kinds.MEMORY or not take_emulated(vcpu):
            return answered_rare(vcpu)
        vcpu.task.ticks += scheduler.lap()
        return QUICK_AGAIN

    def take_emulated(vcpu):
        """The answer to nearly every access: a plain new RIP and RFLAGS, and at most one register. False, and nothing is done, for all others."""
        page = vcpu.page
        dirty = memory.load64(page + ANSWER['DIRTY'])
        rip = memory.load64(page + STATE['RIP'])
        rflags = memory.load64(page + STATE['RFLAGS'])
        number = intmask(dirty >> REGISTER_SHIFT) & 15
        if memory.load64(page + ANSWER['ACTION']) != r_uint(RESUME) or dirty & ~ONE_REGISTER != r_uint(GROUP_FLOW):
            return False
        if rflags & state.RFLAGS_LOOKED_AT != r_uint(bits.RFLAGS_FIXED) or vcpu.attention or vcpu.flush:
            return False
        if rip > LOW32 and not (state.canonical(rip) and vcpu.exit_value & r_uint(bits.SEGMENT_LONG) != R0 and words.efer(vcpu) & EFER_LMA != R0):
            return False
        memory.store64(page + ANSWER['DIRTY'], R0)
        if dirty & r_uint(REGISTER) != R0:
            state.apply_register(vcpu, page, number)
        words.set_flow(vcpu, rip, rflags)
        words.inject(vcpu, R0)              # the last entry's is delivered
        return True

    @dont_inline
    def answered_rare(vcpu):
        """As answer.vcpu_run does. What only the loop's way into the guest brings there is a new CR2 and an event."""
        brings = memory.load64(vcpu.page + ANSWER['DIRTY']) & ~r_uint(state.OF_INSTRUCTIONS)
        rule = take_answer(vcpu)
        if rule != 0:
            return refuse(vcpu, rule)
        vcpu.task.ticks += scheduler.lap()
        if brings != R0 or vcpu.event != R0 or vcpu.attention or vcpu.flush:
            return QUICK_DONE
        words.inject(vcpu, R0)              # the last entry's is delivered
        return QUICK_AGAIN

    return hand, answered


def begin(vcpu):
    write_exit(vcpu)
    vcpu.ticks += scheduler.lap()
    return QUICK_TASK


begin._always_inline_ = True


def is_run(vcpu, vector):
    """Does the VMM answer this exit, and wait as long as before? Then the timer is right, too."""
    task = vcpu.task
    return (vector == GATE and task.argument(AREA['RAX']) == VCPU_RUN and task.argument(AREA['RDI']) == vcpu.slot and
            task.argument(AREA['RSI']) == task.deadline)


@cold
def refuse(vcpu, rule):
    """The answer breaks a rule: the VM ends, and nothing of it is the loop's to see to."""
    leave(vcpu, GATE)
    back.pending = False
    vcpu.compartment.stop(ending.VMM_BAD_ANSWER, r_uint(rule))
    return QUICK_TASK


@dont_inline
def leave(vcpu, vector):
    """As if the loop had delivered the exit (answer.deliver) and had run the VMM."""
    task = vcpu.task
    vcpu.outstanding = True
    vcpu.told = True
    vcpu.ready = False
    task.owe()
    task.wake()
    scheduler.vcpu = None
    back.pending = True
    back.vector = vector
    return QUICK_TASK
