"""Interrupts of vCPUs: who raises them, when they are delivered, and what a local APIC's registers do to others.

A vCPU has `attention` set when its APIC may have something for it; only then an entry looks here. What cannot be delivered yet
opens an interrupt window, which exits as soon as the guest can take it.
"""
from rpython.rlib.objectmodel import unlikely
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu
from hypervisor.kernel import answer, startup
from hypervisor.kernel import news as marks
from hypervisor.kernel.lapic import is_register
from hypervisor.kernel.news import news
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.task import IN_ASK, NEVER
from hypervisor.spec import call, status
from hypervisor.spec import cpu as bits
from hypervisor.spec import exit as kinds
from hypervisor.spec import lapic as spec
from hypervisor.spec import wire

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
NONE = -1
DESTINATION_BITS = r_uint(0xff | call.DESTINATION_LOGICAL | call.DESTINATION_LOWEST)
X2APIC_END = bits.MSR_X2APIC_FIRST + 0x40


def prepare(vcpu):
    """Before an entry: hand over what is pending, or open a window. Returns whether the vCPU may be entered now."""
    vendor = switcher.vendor
    apic = vcpu.apic
    vcpu.attention = False
    vendor.set_task_priority(vcpu, apic.is_held_by_tpr())
    if apic.nmi:
        if vendor.nmi_possible(vcpu):
            apic.nmi = False
            vendor.deliver_nmi(vcpu)
        else:
            vendor.open_nmi_window(vcpu)
    vector = apic.pending()
    extint = vector < 0 and apic.accepts_extint()
    if vector < 0 and not extint:
        return True
    if vcpu.event != R0 or not vendor.interruptible(vcpu):
        vendor.open_window(vcpu)
        return True
    if extint:
        vcpu.exit_kind = kinds.INTA
        vcpu.exit_selector = R0
        vcpu.counts[kinds.INTA] += 1
        answer.deliver(vcpu)
        return False
    apic.take(vector)
    vendor.interrupt(vcpu, vector)
    if (apic.nmi or apic.extint or apic.has_request()) and vcpu.has_interrupt():        # nearly always there is none, which is seen without a call
        vendor.open_window(vcpu)
    return True


def window(vcpu):
    """The guest can take an interrupt now."""
    switcher.vendor.close_window(vcpu)
    vcpu.attention = True


def halt(vcpu):
    """HLT. Returns False when nothing can ever wake the vCPU: that is the VMM's to judge."""
    vcpu.deaf = vcpu.exit_value & r_uint(bits.RFLAGS_IF) == R0
    if vcpu.deaf and not vcpu.apic.nmi and not vcpu.compartment.can_wake(vcpu):
        return False
    switcher.vendor.advance(vcpu)
    if vcpu.apic.nmi or not vcpu.deaf and vcpu.has_interrupt():
        vcpu.attention = True
    else:
        vcpu.halted = True
        vcpu.ready = False
    return True


# What VMMs ask for

def interrupt(caller, vcpu, kind, vector, destination):
    """VCPU_INTERRUPT. A message goes to all that its destination names; the answer is how many these are."""
    if kind > r_uint(call.INTERRUPT_RESET) or vector > r_uint(255) or destination & ~DESTINATION_BITS != R0:
        caller.task.answer(status.BAD_RANGE, R0)
        return
    reached = 1
    if kind <= r_uint(call.INTERRUPT_NMI):
        reached = message(caller, kind, vector, destination)
    elif kind == r_uint(call.INTERRUPT_RESET):
        if vcpu.away:
            vcpu.forget_requests()          # or what was raised before would come behind the reset
            vcpu.news &= ~marks.RAISE
            ask(caller, vcpu, wire.RESET, R0, R0)
            return
        reset(caller, vcpu)
    elif vcpu.away:
        work_extint_away(vcpu, kind == r_uint(call.INTERRUPT_EXTINT_ON))
    else:
        vcpu.apic.extint = kind == r_uint(call.INTERRUPT_EXTINT_ON)
        vcpu.wake_for_interrupt()
    caller.task.answer(status.OK, r_uint(reached))


def ask(caller, vcpu, what, offset, value):
    """The vCPU lives on another core: its VMM waits for what is said there."""
    vcpu.ask = what
    vcpu.ask_offset = offset
    vcpu.ask_value = value
    news.of_vcpu(vcpu, marks.ASK)
    caller.task.block(IN_ASK, NEVER)


def work_extint_away(vcpu, on):
    vcpu.to_raise &= ~(wire.RAISE_EXTINT_ON | wire.RAISE_EXTINT_OFF)
    if on:
        vcpu.to_raise |= wire.RAISE_EXTINT_ON
    else:
        vcpu.to_raise |= wire.RAISE_EXTINT_OFF
    news.of_vcpu(vcpu, marks.RAISE)


def request_level(vcpu, vector):
    if vcpu.away:
        vcpu.apic.accept(vector, True)
    else:
        vcpu.apic.request(vector, True)


def request_edge(vcpu, vector):
    """An edge-triggered message. Whether the APIC of a vCPU that lives elsewhere takes it, it says itself: here that may be known too late."""
    if vcpu.away:
        vcpu.apic.accept(vector, False)
        news.of_vcpu(vcpu, marks.RAISE)
    else:
        vcpu.request_edge(vector)


def raised(vcpu):
    """Its APIC has been sent something."""
    if vcpu.away:
        news.of_vcpu(vcpu, marks.RAISE)
    else:
        vcpu.wake_for_interrupt()


def message(compartment, kind, vector, destination):
    """From outside of the processors. Returns how many take it."""
    logical = destination & r_uint(call.DESTINATION_LOGICAL) != R0
    lowest = destination & r_uint(call.DESTINATION_LOWEST) != R0
    identity = destination & r_uint(0xff)
    shorthand = spec.SHORTHAND_NONE
    if identity == r_uint(0xff) and not logical:
        shorthand = spec.SHORTHAND_ALL
    reached = 0
    n = 0
    while n < compartment.vcpu_count and not (lowest and reached > 0):
        other = compartment.vcpus[n]
        if other is not None and named(None, other, shorthand, identity, logical):
            if kind == r_uint(call.INTERRUPT_NMI):
                other.apic.nmi = True
                raised(other)
            elif kind == r_uint(call.INTERRUPT_LEVEL):
                request_level(other, intmask(vector))
                raised(other)
            else:
                request_edge(other, intmask(vector))
            reached += 1
        n += 1
    return reached


def reset(compartment, vcpu):
    """As after power-on: what it did is forgotten, an exit of its needs no answer. vCPU 0 gets a new first state from the VMM."""
    if vcpu.started:
        startup.init(vcpu)
        switcher.forget_keys(vcpu)
    vcpu.apic.reset(vcpu.index)
    news.of_address(vcpu)
    vcpu.news &= ~marks.EXIT
    vcpu.outstanding = False
    vcpu.init = False
    if vcpu.index == 0:
        vcpu.started = False
        vcpu.ready = False
    compartment.task.owes = False
    if compartment.has_outstanding():
        compartment.task.owe()


def access(caller, vcpu, offset, write, value):
    """VCPU_APIC: a register of the xAPIC page."""
    if not is_register(offset):
        caller.task.answer(status.BAD_RANGE, R0)
    elif not vcpu.away:
        caller.task.answer(status.OK, accessed(vcpu, intmask(offset), write != R0, value & LOW32))
    elif write != R0:
        ask(caller, vcpu, wire.APIC_WRITE, offset, value & LOW32)
    else:
        ask(caller, vcpu, wire.APIC_READ, offset, R0)


def accessed(vcpu, offset, write, value):
    """Read or write it. Returns what VCPU_APIC answers."""
    if not write:
        return vcpu.apic.read(offset, cpu.rdtsc())
    ended = write_register(vcpu, offset, value)
    if ended >= 0:
        return r_uint(1 + ended)
    return R0


# Registers

def write_register(vcpu, offset, value):
    """A register of any mode. Returns the vector of a level-triggered interrupt that EOI has ended, else NONE."""
    apic = vcpu.apic
    ended = NONE
    if offset == spec.EOI:
        ended = apic.end()
    elif offset == spec.ICR_LOW:
        apic.icr_low = value & ~r_uint(1 << 12)
        send(vcpu, apic.icr_low, apic.icr_high >> 24)
    else:
        apic.write(offset, value, cpu.rdtsc())
        scheduler.nudge(apic.deadline)
        if offset == spec.LDR or offset == spec.DFR or offset == spec.SPURIOUS:
            news.of_address(vcpu)
    vcpu.wake_for_interrupt()
    return ended


def send(vcpu, command, destination):
    """An interprocessor interrupt, to the vCPUs of the same VM that it names."""
    shorthand = intmask((command >> 18) & 3)
    logical = command & r_uint(spec.ICR_LOGICAL) != R0
    lowest = intmask((command >> 8) & 7) == spec.LOWEST and shorthand == spec.SHORTHAND_NONE
    compartment = vcpu.compartment
    n = 0
    while n < compartment.vcpu_count:
        other = compartment.vcpus[n]
        if other is not None and named(vcpu, other, shorthand, destination, logical):
            arrive(other, command)
            if lowest:
                return
        n += 1


def named(vcpu, other, shorthand, destination, logical):
    if shorthand == spec.SHORTHAND_SELF:
        return other is vcpu
    if shorthand == spec.SHORTHAND_ALL:
        return True
    if shorthand == spec.SHORTHAND_OTHERS:
        return other is not vcpu
    return other.apic.is_addressed(destination, logical)


def accepts(other, command):
    """Would this vCPU take the message, as far as this core knows? As KVM counts them: an APIC that is off takes no vectors."""
    mode = intmask((command >> 8) & 7)
    return is_message(command) and (mode != spec.FIXED and mode != spec.LOWEST or other.apic.software_enabled())


def is_message(command):
    """Would anybody take it? No level that is not asserted, no SMI and no ExtINT."""
    mode = intmask((command >> 8) & 7)
    if mode == spec.FIXED or mode == spec.LOWEST:
        return not is_release(command) and command & r_uint(0xff) >= r_uint(16)
    return mode == spec.NMI or mode == spec.STARTUP or mode == spec.INIT and not is_release(command)


def is_release(command):
    """A level-triggered message that takes something back."""
    return command & r_uint(spec.ICR_LEVEL) != R0 and command & r_uint(spec.ICR_ASSERT) == R0


def arrive(other, command):
    """One vCPU gets the message."""
    mode = intmask((command >> 8) & 7)
    if other.away and (mode == spec.STARTUP or mode == spec.INIT):
        arrive_away(other, mode, command)
        return
    if mode == spec.FIXED or mode == spec.LOWEST:
        request_edge(other, intmask(command & r_uint(0xff)))
        return
    if mode == spec.NMI:
        other.apic.nmi = True
    elif mode == spec.STARTUP:
        startup.startup(other, command & r_uint(0xff))
        return
    elif mode == spec.INIT:
        if is_release(command):
            return                      # processors since the Pentium 4 ignore it
        if other.outstanding:
            other.init = True
        elif other.started:
            startup.init(other)
        return
    raised(other)


def arrive_away(other, mode, command):
    """INIT and STARTUP for a vCPU of another core: an INIT takes back what has been raised and not sent."""
    if mode == spec.STARTUP:
        other.to_raise |= wire.RAISE_STARTUP
        other.startup_vector = command & r_uint(0xff)
    elif is_release(command):
        return
    else:
        extint = other.to_raise & (wire.RAISE_EXTINT_ON | wire.RAISE_EXTINT_OFF)
        other.forget_requests()
        other.to_raise = extint | wire.RAISE_INIT
    news.of_vcpu(other, marks.RAISE)


# MSRs

def is_msr(number):
    if unlikely(number - r_uint(bits.MSR_X2APIC_FIRST) < r_uint(X2APIC_END - bits.MSR_X2APIC_FIRST)):
        return True
    return unlikely(number == r_uint(bits.MSR_APIC_BASE)) or unlikely(number == r_uint(bits.MSR_TSC_DEADLINE))


def x2apic_offset(vcpu, number):
    """The xAPIC offset of an x2APIC MSR; NONE when that gets #GP."""
    if not vcpu.apic.is_x2apic():
        return NONE
    offset = intmask(number - r_uint(bits.MSR_X2APIC_FIRST)) << 4
    if offset == spec.DFR or offset == spec.ICR_HIGH:
        return NONE
    return offset


def read_msr(vcpu, number):
    """Returns whether it may be read; the value is in vcpu.exit_value."""
    apic = vcpu.apic
    if number == r_uint(bits.MSR_APIC_BASE):
        vcpu.exit_value = apic.base
        return True
    if number == r_uint(bits.MSR_TSC_DEADLINE):
        vcpu.exit_value = apic.read_deadline()
        return True
    offset = x2apic_offset(vcpu, number)
    if offset < 0 or offset == spec.EOI or offset == spec.SELF_IPI:
        return False
    vcpu.exit_value = apic.read(offset, cpu.rdtsc())
    if offset == spec.ICR_LOW:
        vcpu.exit_value |= apic.icr_high << 32
    return True


def write_msr(vcpu, number, value):
    """Returns whether it may be written. The instruction is stepped over here, because an EOI may be the VMM's business next."""
    apic = vcpu.apic
    if number == r_uint(bits.MSR_APIC_BASE):
        if not apic.write_base(value):
            return False
        news.of_address(vcpu)
        vcpu.wake_for_interrupt()
    elif number == r_uint(bits.MSR_TSC_DEADLINE):
        apic.write_deadline(value)
        scheduler.nudge(apic.deadline)
    else:
        return write_x2apic(vcpu, x2apic_offset(vcpu, number), value)
    switcher.vendor.advance(vcpu)
    return True


def write_x2apic(vcpu, offset, value):
    if offset < 0 or (value > LOW32 and offset != spec.ICR_LOW):
        return False
    if offset == spec.ID or offset == spec.VERSION or offset == spec.PPR or offset == spec.LDR or offset == spec.CURRENT_COUNT:
        return False
    if offset >= spec.ISR and offset < spec.IRR + 0x80:
        return False
    if (offset == spec.EOI or offset == spec.ESR_OFFSET) and value != R0:
        return False
    if (offset == spec.TPR or offset == spec.SELF_IPI) and value > r_uint(0xff):
        return False
    switcher.vendor.advance(vcpu)
    if offset == spec.SELF_IPI:
        vcpu.apic.request(intmask(value & r_uint(0xff)), False)
        vcpu.wake_for_interrupt()
    elif offset == spec.ICR_LOW:
        vcpu.apic.icr_low = value & LOW32
        vcpu.apic.icr_high = value >> 32
        send(vcpu, value & LOW32, value >> 32)
        vcpu.wake_for_interrupt()
    else:
        ended = write_register(vcpu, offset, value)
        if ended >= 0:
            vcpu.exit_kind = kinds.EOI
            vcpu.exit_selector = r_uint(ended)
            vcpu.counts[kinds.EOI] += 1
            answer.deliver(vcpu)
    return True
