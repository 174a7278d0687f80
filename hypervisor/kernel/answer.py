"""VCPU_RUN: what a VMM says about an exit, taken as hostile input, checked field by field, and applied.

An answer is read from the vCPU page once: what was checked is what is used, whatever the VMM writes meanwhile. An answer that
breaks a rule (hypervisor/spec/answer.py) ends the VM; the vCPU never runs on it.
"""
from rpython.rlib.objectmodel import dont_inline, unlikely
from rpython.rlib.rarithmetic import intmask, r_uint
from rpython.rlib.unroll import unrolling_iterable

from hypervisor.hw import cpu, memory
from hypervisor.kernel import news as marks
from hypervisor.kernel import panic, startup, state
from hypervisor.kernel.compartment import VCPU
from hypervisor.kernel.lapic import is_register
from hypervisor.kernel.news import news
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.task import IN_VCPU_RUN
from hypervisor.kernel.vcpu import RAX, RBX, RCX, RDX, exit_reasons, vcpus
from hypervisor.lib.cold import cold
from hypervisor.spec import call, ending, status
from hypervisor.spec import exit as kinds
from hypervisor.spec import answer as rules
from hypervisor.spec import lapic
from hypervisor.spec import state as fields
from hypervisor.spec.cpu import CR4_PKE, LEAF_7, LEAF_XSAVE, VECTORS
from hypervisor.spec.vcpu import (ACTIONS, ANSWER, BROUGHT_SHIFT, COMPLETE, DIRTY_KNOWN, EXIT, GROUP_CONTROL, GROUP_FIELDS, GROUP_FLOW, INJECT,
                                  MEMORY_BRINGS, RESUME, STATE)
from hypervisor.spec.wire import STATE_START

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
INJECTABLE = r_uint(sum(1 << number for number, name, _ in VECTORS if name != 'NMI' and number < 21))
GROUP_PLACES = unrolling_iterable([(r_uint(_group), STATE[_names[0]], r_uint(8 * len(_names))) for _group, _names in GROUP_FIELDS])
APIC_PAGE, APIC_REGISTERS = r_uint(lapic.APIC_BASE_RESET), r_uint(lapic.REGISTERS)       # guests cannot move it
READ_OPERAND = r_uint(kinds.ACCESS_READ | kinds.ACCESS_OPERAND)
VMM_ENDINGS = r_uint(sum(1 << code for code in ending.VMM_MAY_SAY))

# Bit `kind` is set where the action may answer that kind of exit.
MAY_COMPLETE = r_uint(sum(1 << k for k in (kinds.IO, kinds.MSR_READ, kinds.MSR_WRITE, kinds.CPUID, kinds.HLT, kinds.INTA)))
MAY_RESUME = r_uint(sum(1 << k for k in (kinds.IO, kinds.MEMORY, kinds.HLT, kinds.SHUTDOWN, kinds.EOI, kinds.TASK_SWITCH)))
MAY_INJECT = r_uint(sum(1 << k for k in (kinds.IO, kinds.MSR_READ, kinds.MSR_WRITE, kinds.CPUID, kinds.MEMORY, kinds.TASK_SWITCH)))


def vcpu_run(caller, slot, deadline):
    """The caller answers the vCPU's outstanding exit, if there is one, and waits for the next exit of any."""
    if caller.slot_kind(slot) != VCPU:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    vcpu = vcpus[intmask(caller.first[intmask(slot)])]
    if vcpu.outstanding and not vcpu.told:      # it came while the VMM waited for something else: no answer to it can be there yet
        tell(caller, vcpu)
        return
    if vcpu.outstanding or not vcpu.started:
        if vcpu.away:
            pass_on(vcpu)
        else:
            rule = accept(vcpu)
            if rule != 0:
                caller.stop(ending.VMM_BAD_ANSWER, r_uint(rule))
                return
        caller.task.owes = False
        caller.task.owed_ticks = R0
    if caller.vcpu_count > 1:
        other = caller.untold()
        if other is not None:
            caller.task.owe()
            tell(caller, other)
            return
        if caller.has_outstanding():            # one that it knows of: it would wait for ever
            caller.task.owe()
            caller.task.answer(status.BAD_STATE, R0)
            return
    if caller.signals != R0:
        caller.task.answer(status.OK, r_uint(call.REASON_SIGNAL))
        return
    caller.task.block(IN_VCPU_RUN, deadline)
    if scheduler.is_nearer(deadline):
        scheduler.nudge(deadline)
    if vcpu.ready:
        scheduler.hand_over(caller, None, vcpu)


def accept(vcpu):
    """Take the answer that is in the vCPU's page, and let it run on. Returns 0 or the number of the broken rule."""
    rule = take_answer(vcpu)
    if rule == 0:
        vcpu.outstanding = False
        vcpu.started = True
        if not vcpu.waiting:
            vcpu.want()
        if vcpu.init:
            vcpu.init = False
            startup.init(vcpu)
    return rule


@cold
def pass_on(vcpu):
    """The answer is for the core that the vCPU lives on."""
    vcpu.outstanding = False
    vcpu.started = True
    news.of_vcpu(vcpu, marks.ANSWER)


def tell(compartment, vcpu):
    vcpu.told = True
    compartment.task.answer(status.OK, exit_reasons(vcpu))


def take_answer(vcpu):
    """Check and apply. Returns 0 or the number of the broken rule."""
    page = vcpu.page
    action = memory.load64(page + ANSWER['ACTION'])
    dirty = memory.load64(page + ANSWER['DIRTY'])
    memory.store64(page + ANSWER['DIRTY'], R0)
    if action >= r_uint(ACTIONS):
        return rules.RULE_ACTION_UNKNOWN
    if dirty & ~r_uint(DIRTY_KNOWN) != R0:
        return rules.RULE_DIRTY_UNKNOWN
    if not vcpu.started:
        return state.apply(vcpu, dirty)
    kind = r_uint(1) << vcpu.exit_kind
    if action == r_uint(COMPLETE):
        if kind & MAY_COMPLETE == R0:
            return rules.RULE_ACTION_UNFIT
        complete(vcpu, page)
    elif action == r_uint(RESUME):
        if kind & MAY_RESUME == R0:
            return rules.RULE_ACTION_UNFIT
        if vcpu.exit_kind == kinds.SHUTDOWN:
            vcpu.event = R0             # what was being delivered when it shut down is history
    else:
        if kind & MAY_INJECT == R0:
            return rules.RULE_ACTION_UNFIT
        rule = inject(vcpu, page)
        if rule != 0:
            return rule
    if dirty == R0:
        return 0
    rule = state.apply(vcpu, dirty)
    if vcpu.exit_kind == kinds.TASK_SWITCH:
        vcpu.flush = True               # it has another CR3
    elif rule == 0 and action == r_uint(RESUME) and dirty & r_uint(GROUP_FLOW) != R0:
        switcher.vendor.trace(vcpu)     # the VMM has emulated an instruction
        if vcpu.exit_kind == kinds.IO and vcpu.port_hits != R0 and dirty & r_uint(GROUP_CONTROL) == R0:
            switcher.vendor.break_behind(vcpu, vcpu.port_hits)
    return rule


def complete(vcpu, page):
    """Put the result where the instruction wants it, and step over it."""
    kind = vcpu.exit_kind
    if kind == kinds.INTA:
        switcher.vendor.interrupt(vcpu, intmask(memory.load64(page + ANSWER['RESULT']) & r_uint(0xff)))
        vcpu.attention = True
        return
    if kind == kinds.IO:
        complete_port(vcpu)
        if vcpu.port_hits != R0:
            advance_watched(vcpu)
            return
    else:
        complete_registers(vcpu)
    switcher.vendor.advance(vcpu)


def complete_port(vcpu):
    """What an IN has read goes to as much of RAX as it is wide."""
    if vcpu.exit_flags & r_uint(kinds.IO_IN) != R0:
        vcpu.set_gpr(RAX, merged(vcpu.gpr(RAX), memory.load64(vcpu.page + ANSWER['RESULT']), vcpu.exit_size))


complete_port._always_inline_ = True


def complete_registers(vcpu):
    """The results of RDMSR and CPUID."""
    page, kind = vcpu.page, vcpu.exit_kind
    result = memory.load64(page + ANSWER['RESULT'])
    if kind == kinds.MSR_READ:
        vcpu.set_gpr(RAX, result & LOW32)
        vcpu.set_gpr(RDX, result >> 32)
    elif kind == kinds.CPUID:
        other = memory.load64(page + ANSWER['RESULT2'])
        vcpu.set_gpr(RAX, result & LOW32)
        vcpu.set_gpr(RBX, result >> 32)
        vcpu.set_gpr(RCX, other & LOW32)
        vcpu.set_gpr(RDX, other >> 32)


@dont_inline                            # nearly no answer comes here
def advance_watched(vcpu):
    """The port has I/O breakpoints: their trap is behind the access."""
    switcher.vendor.advance(vcpu)
    switcher.vendor.break_behind(vcpu, vcpu.port_hits)


def merged(register, value, size):
    """A register after a write of `size` bytes to its low part: 1 and 2 keep the rest, 4 clears it, as in 64-bit code."""
    if size == r_uint(1):
        return (register & ~r_uint(0xff)) | (value & r_uint(0xff))
    if size == r_uint(2):
        return (register & ~r_uint(0xffff)) | (value & r_uint(0xffff))
    return value & LOW32


@cold
def inject(vcpu, page):
    vector = memory.load64(page + ANSWER['RESULT2'])
    error = memory.load64(page + ANSWER['ERROR'])
    if vector >= r_uint(32) or (INJECTABLE >> intmask(vector)) & 1 == R0:
        return rules.RULE_VECTOR
    if error > LOW32:
        return rules.RULE_ERROR_CODE
    switcher.vendor.inject(vcpu, intmask(vector), error)
    return 0


@cold
def write_mirrored(vcpu, groups):
    """Fill the state part of the page of a vCPU that lives on another core, with what came with its exit."""
    for group, start, size in GROUP_PLACES:
        if groups & group != R0:
            memory.copy(vcpu.page + start, vcpu.mirror + (start - STATE_START), size)


def deliver(vcpu):
    """An exit is the VMM's business: fill the vCPU page and make the VMM ready."""
    if vcpu.exit_kind == kinds.MEMORY:
        if is_at_apic(vcpu):
            bring_register(vcpu)
        state.write(vcpu, r_uint(MEMORY_BRINGS))        # an instruction has to be emulated: that saves the VMM a call
    write_exit(vcpu)
    vcpu.outstanding = True
    vcpu.told = False
    vcpu.ready = False
    if vcpu.compartment.is_branch():
        news.of_vcpu(vcpu, marks.EXIT)
    else:
        announce(vcpu)


def is_at_apic(vcpu):
    """An exit of kind MEMORY: was it where the registers of the local APIC are in xAPIC mode?"""
    return unlikely(vcpu.exit_selector - APIC_PAGE < APIC_REGISTERS)


@dont_inline                            # or all other accesses would keep registers for it
def bring_register(vcpu):
    """A read of a register brings its value to the VMM, as VCPU_APIC would answer it. The exit is_at_apic()."""
    apic = vcpu.apic
    offset = vcpu.exit_selector - APIC_PAGE
    if vcpu.exit_flags == READ_OPERAND and apic.is_xapic() and is_register(offset):
        vcpu.exit_flags |= r_uint(kinds.ACCESS_BROUGHT)
        vcpu.exit_value |= apic.read(intmask(offset), cpu.rdtsc()) << BROUGHT_SHIFT


def write_exit(vcpu):
    """The exit part of the vCPU page."""
    page, length, selector = vcpu.page, vcpu.exit_length, vcpu.exit_selector
    size, flags, value = vcpu.exit_size, vcpu.exit_flags, vcpu.exit_value
    memory.store64(page + EXIT['KIND'], r_uint(vcpu.exit_kind))
    memory.store64(page + EXIT['LENGTH'], length)
    memory.store64(page + EXIT['SELECTOR'], selector)
    memory.store64(page + EXIT['SIZE'], size)
    memory.store64(page + EXIT['FLAGS'], flags)
    memory.store64(page + EXIT['VALUE'], value)


write_exit._always_inline_ = True


def note_leaf(vcpu, leaf):
    """What the answer to a CPUID depends on besides its selector. The straight path does the same."""
    if leaf == r_uint(LEAF_7):
        vcpu.exit_value = switcher.vendor.get(vcpu, fields.CR4) & r_uint(CR4_PKE)
    elif leaf == r_uint(LEAF_XSAVE):
        vcpu.exit_value = switcher.live_xcr0(vcpu)


def announce(vcpu):
    """An exit is outstanding: the VMM hears of it, now if it waits for one."""
    task = vcpu.compartment.task
    task.owe()
    if task.blocked == IN_VCPU_RUN:
        tell(vcpu.compartment, vcpu)
        task.wake()
        scheduler.hand_over(vcpu.compartment, vcpu, None)


@cold
def stop_self(caller, how, detail):
    """STOP(SLOT_SELF): a task ends its own compartment, with one of the codes that are a VMM's to say."""
    if caller.number == 0:
        panic.manager_stopped(how, detail)
    if how >= r_uint(32) or (VMM_ENDINGS >> intmask(how)) & 1 == R0:
        caller.stop(ending.VMM_BAD_ANSWER, r_uint(rules.RULE_ENDING))
        return
    caller.stop(intmask(how), detail)
