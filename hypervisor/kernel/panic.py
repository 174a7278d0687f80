"""The box stops: one screen with a code, its sentence and the registers, then nothing any more."""
from rpython.rlib.rarithmetic import r_uint
from rpython.rlib.unroll import unrolling_iterable

from hypervisor.hw import cpu, memory
from hypervisor.kernel import serial
from hypervisor.kernel.core import this
from hypervisor.kernel.link import links
from hypervisor.spec import core
from hypervisor.spec import panic as codes
from hypervisor.spec import refusal
from hypervisor.spec.context import PANIC
from hypervisor.spec.cpu import VECTORS

R0 = r_uint(0)
WORDS = {'DE': 'divide error', 'DB': 'debug exception', 'NMI': 'non-maskable interrupt', 'BP': 'breakpoint', 'OF': 'overflow', 'BR': 'bound range',
         'UD': 'invalid opcode', 'NM': 'FPU used in the kernel', 'DF': 'double fault: the stack ran into its guard page, or a table is damaged',
         'TS': 'invalid TSS', 'NP': 'segment not present', 'SS': 'stack fault', 'GP': 'general protection', 'PF': 'page fault', 'MF': 'x87 error',
         'AC': 'alignment check', 'MC': 'machine check', 'XM': 'SIMD error', 'VE': 'virtualization exception', 'CP': 'control protection',
         'VC': 'VMM communication', 'SX': 'security exception'}
VECTOR_LINES = unrolling_iterable([(number, '#' + name + ' (' + WORDS[name] + ')') for number, name, _ in VECTORS])
REFUSALS = unrolling_iterable([(number, sentence) for number, _, sentence in refusal.TABLE if number])
CODES = unrolling_iterable([(number, sentence) for number, _, sentence in codes.TABLE])
REGISTERS = unrolling_iterable(
    [((name + ' ').ljust(6), PANIC[name], column == 3) for row in (['RIP', 'RSP', 'RFLAGS', 'ERROR'], ['RAX', 'RBX', 'RCX', 'RDX'],
                                                          ['RSI', 'RDI', 'RBP', 'R8'], ['R9', 'R10', 'R11', 'R12'],
                                                          ['R13', 'R14', 'R15', 'CS'], ['CR0', 'CR2', 'CR3', 'CR4'])
     for column, name in enumerate(row)])


def title(what):
    serial.text('\nbulkhead: kernel fault: ')
    serial.text(what)
    serial.text('\n')


def stop():
    """With the first core the box stops; the others look at its state when its doorbell rings. Another core's end is its VMs' end."""
    if this.is_first():
        serial.text('bulkhead: the box has stopped\n')
    links.say_state(core.DEAD)
    cpu.halt()


def k_panic(area):
    """Called by boot/kernel/entry.S with the registers of a fault in ring 0."""
    vector = memory.load64(area + PANIC['VECTOR'])
    what = 'an unknown vector'
    for number, line in VECTOR_LINES:
        if vector == r_uint(number):
            what = line
    title(what)
    if vector >= r_uint(32):
        serial.text('vector ')
        serial.decimal(vector)
        serial.text('\n')
    for name, offset, last in REGISTERS:
        serial.text(name)
        serial.number(memory.load64(area + offset))
        if last:
            serial.text('\n')
        else:
            serial.text('  ')
    stop()
    return 0


def k_panic_code(code, place):
    """Called by boot/kernel/support.c when the program itself finds that it is broken. code: hypervisor/spec/panic.py; place: hva of the text
    that says where an assertion does not hold, closed by a zero, or 0."""
    what = 'an unknown code'
    for number, sentence in CODES:
        if code == number:
            what = sentence
    title(what)
    if place != R0:
        serial.text('at ')
        serial.text_at(place)
        serial.text('\n')
    stop()
    return 0


def refuse(number):
    """This machine cannot run Bulkhead, or was not started properly."""
    what = 'an unknown reason'
    for code, sentence in REFUSALS:
        if number == code:
            what = sentence
    serial.text('bulkhead: cannot start: ')
    serial.text(what)
    serial.text('\n')
    stop()


def stray_nmi():
    """On a core whose doorbell is an NMI: one that nobody has sent."""
    title('an NMI that is no doorbell')
    stop()


def manager_fault(vector, rip):
    """The manager is trusted: without it there is no box."""
    what = 'an unknown vector'
    for number, line in VECTOR_LINES:
        if vector == r_uint(number):
            what = line
    serial.text('\nbulkhead: kernel fault: the manager caused ')
    serial.text(what)
    serial.text(' at ')
    serial.number(rip)
    serial.text('\n')
    stop()


def manager_stopped(how, detail):
    serial.text('\nbulkhead: kernel fault: the manager stopped itself, code ')
    serial.decimal(r_uint(how))
    serial.text(', detail ')
    serial.decimal(detail)
    serial.text('\n')
    stop()
