"""The VMM's loop: run the vCPUs, handle an exit, answer.

Every exit is answered well within the second that the kernel allows. While the VM waits for its last bytes to leave, a vCPU that exits is
parked at the reset vector, where there is no memory, so that it exits again at once (state.reset).
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import task
from hypervisor.lib import call
from hypervisor.spec import ending, exit, status, vcpu as spec
from hypervisor.spec.cpu import VECTOR_GP
from hypervisor.spec.call import REASON_EXIT, REASON_SIGNAL, REASON_VCPU_SHIFT, SLOT_SELF, VCPUS_PER_VM
from hypervisor.vmm import emulate, power, start, state, taskswitch, vcpu as v
from hypervisor.vmm.bus import BUSY
from hypervisor.vmm.device import apic
from hypervisor.vmm.device.agenda import earlier
from hypervisor.vmm.device.clock import NEVER
from hypervisor.vmm.machine import Machine
from hypervisor.vmm.msr import NONE

DRAIN_MS = 200                  # how long one exit waits for the manager to take the last bytes
ZERO = r_uint(0)
U32 = r_uint(0xffffffff)

machine = Machine()


def task_main(argument):
    if start.begin(machine):
        machine.vcpu.resume(state.ALL | spec.GROUP_CPUID | spec.GROUP_TIME)
    elif machine.power.wish == power.RUN:
        return 1                # not reached: start.begin has ended the VM
    run(machine)
    return 0


def run(machine):
    """Run the vCPUs until the VM ends. The first answer (the initial state) is in the vCPU page already."""
    while machine.power.wish != power.LEAVE or not drained(machine):
        turn(machine)
    call.stop(SLOT_SELF, machine.power.how, machine.power.detail)


def turn(machine):
    """Give the answer, wait, and handle what has come. Returns whether that was an exit, so that there is an answer to give now."""
    agenda = machine.board.agenda
    answer = machine.vcpu.run(earlier(machine.console.deadline, agenda.nearest))
    reasons = call.value()
    if answer != status.OK:
        call.stop(SLOT_SELF, ending.VMM_GAVE_UP, r_uint(start.NO_VCPU))
    exited = reasons == machine.vcpu.exited or other_reasons(machine, intmask(reasons))
    if machine.console.is_due():
        machine.console.flush()
        machine.uart.console_changed()
    if agenda.nearest != NEVER:
        agenda.tick(task.rdtsc())
    if exited:
        handle(machine)
    return exited


@dont_inline
def other_reasons(machine, reasons):
    """Another vCPU has exited than the last time, or none. Returns whether one has."""
    if reasons & REASON_SIGNAL:
        machine.console.take_signals()
        machine.uart.console_changed()
        machine.paravirtual.stolen_changed()
    if not reasons & REASON_EXIT:
        return False
    machine.vcpu.select(reasons >> REASON_VCPU_SHIFT & VCPUS_PER_VM - 1)
    return True


def handle(machine):
    """Answer one exit."""
    if machine.power.wish == power.RUN:
        dispatch(machine)
    if machine.power.wish == power.RESET:
        restart(machine)


def dispatch(machine):
    kind = machine.vcpu.kind()
    if kind == exit.IO:
        port(machine)
    else:
        dispatch_other(machine, kind)


def dispatch_other(machine, kind):
    if kind == exit.MSR_READ:
        read_msr(machine)
    elif kind == exit.MSR_WRITE:
        write_msr(machine)
    elif kind == exit.CPUID:
        ask_cpuid(machine)
    elif kind == exit.MEMORY:
        memory(machine)
    elif kind == exit.TASK_SWITCH:
        task_switch(machine)
    elif kind == exit.HLT:
        machine.power.leave(ending.HALTED, ZERO)        # the kernel keeps those that an interrupt may end
    elif kind == exit.SHUTDOWN:
        machine.power.leave(ending.TRIPLE_FAULT, ZERO)
    elif kind == exit.INTA:
        machine.vcpu.complete(r_uint(machine.board.pic.acknowledge()))
    elif kind == exit.EOI:
        machine.board.ioapic.end_of_interrupt(intmask(machine.vcpu.selector()) & 0xff)
        machine.vcpu.resume(0)
    else:
        machine.power.leave(ending.VMM_GAVE_UP, r_uint(start.NO_VCPU))


def port(machine):
    """IN and OUT; strings go to the emulator."""
    vcpu = machine.vcpu
    flags, size, number = vcpu.flags(), vcpu.size(), intmask(vcpu.selector())
    if flags & exit.IO_STRING:
        emulated(machine, machine.emulator.emulate())
    elif flags & exit.IO_IN:
        vcpu.complete(machine.bus.port_in(number, size))
    elif machine.bus.port_out(number, size, vcpu.value() & U32) == BUSY:
        vcpu.resume(0)          # the console is full: the guest executes its OUT again
    else:
        vcpu.complete()


def read_msr(machine):
    number = machine.vcpu.selector() & U32
    if machine.paravirtual.is_msr(number):
        machine.vcpu.complete(machine.paravirtual.read(number, machine.vcpu.index))
        return
    row = machine.msrs.find(number)
    if row == NONE:
        machine.vcpu.inject(VECTOR_GP, ZERO)
    else:
        machine.vcpu.complete(machine.msrs.read(row))


def write_msr(machine):
    number, value = machine.vcpu.selector() & U32, machine.vcpu.value()
    if machine.paravirtual.is_msr(number):
        write_paravirtual(machine, number, value)
        return
    row = machine.msrs.find(number)
    if row != NONE and machine.msrs.write_is_allowed(row, value):
        machine.vcpu.complete()
    else:
        machine.vcpu.inject(VECTOR_GP, ZERO)


@dont_inline
def write_paravirtual(machine, number, value):
    index = machine.vcpu.index
    if not machine.paravirtual.write(number, value, index):
        machine.vcpu.inject(VECTOR_GP, ZERO)
    elif machine.paravirtual.wants_stolen(number, index):
        machine.vcpu.complete_and_be_told()
    else:
        machine.vcpu.complete()


def ask_cpuid(machine):
    selector = machine.vcpu.selector()
    cpuid = machine.cpuid
    cpuid.answer(selector & U32, selector >> 32, machine.vcpu.index, machine.vcpu.value())
    machine.vcpu.complete_cpuid(cpuid.eax | cpuid.ebx << 32, cpuid.ecx | cpuid.edx << 32)


def memory(machine):
    """An access beyond the RAM. Nothing can be executed there; the rest is the emulator's."""
    if machine.vcpu.flags() & exit.ACCESS_EXECUTE:
        machine.emulator.code.clear()
        unsupported(machine, 'runs where there is no memory')
    else:
        emulated(machine, machine.emulator.emulate())


def task_switch(machine):
    vcpu, outcome = machine.vcpu, machine.task_switch.perform()
    if outcome == emulate.DONE:
        vcpu.resume(taskswitch.DIRTY)
    elif outcome == emulate.FAULT:
        vcpu.inject(machine.emulator.context.vector, machine.emulator.context.error, taskswitch.DIRTY)
    else:
        machine.emulator.code.clear()
        unsupported(machine, 'a task switch that is not emulated')


def emulated(machine, outcome):
    """Answer as the emulator found."""
    vcpu, emulator = machine.vcpu, machine.emulator
    if outcome == emulate.DONE:
        vcpu.resume(emulator.dirty())
    elif outcome == emulate.FAULT:
        vcpu.inject(emulator.context.vector, emulator.context.error, emulate.FAULT_DIRTY)
    elif outcome == emulate.NO_CODE:
        unsupported(machine, 'runs where there is no memory')
    else:
        unsupported(machine, 'an instruction that is not emulated')


def unsupported(machine, what):
    """End the VM with one sentence: what it did, where (the state has come with the exit, or was fetched), and the instruction's bytes."""
    console, emulator, rip = machine.console, machine.emulator, machine.vcpu.get(v.STATE['RIP'])
    console.begin()
    console.text('not supported: ')
    console.text(what)
    console.text(', rip 0x')
    console.hexadecimal(rip, 16)
    console.text(', gpa 0x')
    console.hexadecimal(machine.vcpu.selector(), 16)
    if emulator.code.count > 0:
        console.text(', bytes')
    for n in range(emulator.code.count):
        console.text(' ')
        console.hexadecimal(r_uint(emulator.code.byte(n)), 2)
    console.end()
    machine.power.leave(ending.UNSUPPORTED, rip)


def park(machine):
    """Let the vCPU exit again as soon as it may."""
    state.reset(machine.vcpu)
    machine.vcpu.resume(state.ALL)


def drained(machine):
    """Has the manager taken all of the console? If not, wait a little and prepare to be asked again."""
    if machine.console.count > 0:
        machine.console.flush()
    if machine.console.count > 0:
        machine.console.pause(DRAIN_MS)
    if machine.console.count == 0:
        return True
    park(machine)
    return False


def restart(machine):
    """A reset: the vCPUs stop, memory is cleared, and the guest is loaded again. vCPU 0 gets its first state with the next answer; until then
    the kernel waits for none, so that clearing may take its time."""
    apic.reset(machine.processors)
    machine.vcpu.select(0)
    machine.ram.clear(ZERO, machine.ram.size)
    machine.reset_devices()
    machine.power.started()
    if start.load(machine):
        machine.vcpu.resume(state.ALL)
