"""The screens before the box stops, as they come out of the serial port: code, sentence, registers."""
import struct

import pytest

from hypervisor.hw import cpu as hw_cpu
from hypervisor.kernel import loop, main, panic
from hypervisor.kernel.compartment import compartments
from hypervisor.spec import call, ending, refusal
from hypervisor.spec import panic as codes
from hypervisor.spec.context import PANIC
from rpython.rlib.rarithmetic import r_uint
from tests.unit.kernel.machine import INFORMATION, MEGA, PAGE, Program

AREA = 0x6000
NAMES = [name for name, _ in sorted(PANIC.items(), key=lambda item: item[1]) if name != 'END']
MNEMONICS = {0: '#DE', 1: '#DB', 2: '#NMI', 3: '#BP', 4: '#OF', 5: '#BR', 6: '#UD', 7: '#NM', 8: '#DF', 10: '#TS', 11: '#NP', 12: '#SS', 13: '#GP', 14: '#PF',
             16: '#MF', 17: '#AC', 18: '#MC', 19: '#XM', 20: '#VE', 21: '#CP'}


def said(box):
    return ''.join(chr(value) for port, size, value in box.cpu.output if port == 0x3f8 and size == 1)


def stops(function, *arguments):
    with pytest.raises(hw_cpu.Halted):
        function(*arguments)


@pytest.mark.parametrize('vector', range(33))
def test_fault_screen_names_the_vector_and_every_register(make_machine, vector):
    machine = make_machine()
    values = dict((name, (0x1111111111111111 * (n % 15 + 1) ^ n) & (1 << 64) - 1) for n, name in enumerate(NAMES))
    values['VECTOR'] = vector
    machine.memory.put(AREA, b''.join(struct.pack('<Q', values[name]) for name in NAMES))
    stops(panic.k_panic, r_uint(AREA))
    text = said(machine)
    lines = text.split('\r\n')
    assert lines[1].startswith('bulkhead: kernel fault: ') and 'the box has stopped' in lines[-2]
    assert (MNEMONICS[vector] + ' (' if vector in MNEMONICS else 'vector' if vector not in (29, 30) else '#') in lines[1]
    words = ' '.join(lines[2:]).split()
    shown = dict(zip(words[0::2], words[1::2]))
    for name in NAMES:
        if name not in ('VECTOR', 'SS'):
            assert shown[name] == '%016x' % values[name], name


@pytest.mark.parametrize('code', sorted(codes.SENTENCES) + [0, 99])
def test_panic_of_the_program_says_its_sentence(make_machine, code):
    machine = make_machine()
    stops(panic.k_panic_code, code, r_uint(0))
    text = said(machine)
    assert 'bulkhead: kernel fault: ' in text and codes.SENTENCES.get(code, 'an unknown code') in text and '\nat ' not in text
    assert text.endswith('bulkhead: the box has stopped\r\n')


@pytest.mark.parametrize('place, shown', [(b'hypervisor/kernel/loop.py:28\0more', 'at hypervisor/kernel/loop.py:28\r\n'), (b'x' * 300, 'at ' + 'x' * 100 + '\r\n')])
def test_failed_assertion_says_where_it_stands(make_machine, place, shown):
    machine = make_machine()
    machine.memory.put(AREA, place)
    stops(panic.k_panic_code, codes.PANIC_ASSERTION, r_uint(AREA))
    assert codes.SENTENCES[codes.PANIC_ASSERTION] in said(machine) and shown in said(machine)


@pytest.mark.parametrize('number', sorted(refusal.SENTENCES)[1:] + [99])
def test_refusal_says_its_sentence(make_machine, number):
    machine = make_machine()
    stops(panic.refuse, number)
    text = said(machine)
    assert text.startswith('bulkhead: cannot start: ' + refusal.SENTENCES.get(number, 'an unknown reason'))
    assert 'kernel fault' not in text


def test_start_refuses_on_the_screen(make_machine):
    """From the entry point on, with the port set up first."""
    machine = make_machine(ram=[(0, 8 * MEGA, 1)])
    stops(main.kernel_start, r_uint(0x12345678), r_uint(INFORMATION))
    assert 'bulkhead: cannot start: ' + refusal.SENTENCES[refusal.BAD_LOADER] in said(machine)
    set_up = [(port - 0x3f8, value) for port, _, value in machine.cpu.output[:7]]
    assert set_up == [(3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3), (1, 0)]        # DLAB, 115200 baud, 8n1, FIFO, DTR and RTS, no interrupts


def test_port_that_is_not_there_does_not_hold_the_screen_up(make_machine):
    machine = make_machine()
    reads = []

    class Dead(dict):
        def get(self, port, default=None):
            reads.append(port)
            return 0
    machine.cpu.input = Dead()
    panic.serial.PATIENCE, patience = 5, panic.serial.PATIENCE
    try:
        stops(panic.k_panic_code, 1, r_uint(0))
    finally:
        panic.serial.PATIENCE = patience
    assert 'kernel fault' in said(machine) and len(reads) == 5 * len(said(machine))


@pytest.mark.parametrize('vector', [0, 6, 13, 14])
def test_fault_of_the_manager_stops_the_box(box, vector):
    def faults():
        yield ('fault', vector)
    box.tasks[0] = Program(faults)
    stops(loop.step)
    text = said(box)
    assert 'the manager caused ' + MNEMONICS[vector] in text and '0000000000401000' in text


@pytest.mark.parametrize('how, detail', [(ending.VMM_GAVE_UP, 0), (ending.VMM_GAVE_UP, 7), (ending.EXITED, 12345678901)])
def test_end_of_the_manager_stops_the_box(box, how, detail):
    """A manager that stops itself leaves nobody who could print anything."""
    def gives_up():
        yield ('call', call.STOP, call.SLOT_SELF, how, detail)
    box.tasks[0] = Program(gives_up)
    stops(loop.step)
    assert 'the manager stopped itself, code %d' % how in said(box)
    assert 'detail %d' % detail in said(box)


def test_manager_that_stops_itself_with_a_strange_code_stops_the_box_as_well(box):
    def gives_up():
        yield ('call', call.STOP, call.SLOT_SELF, (1 << 64) - 1, 0)
    box.tasks[0] = Program(gives_up)
    stops(loop.step)
    assert 'the manager stopped itself' in said(box)
    assert compartments[0].state == call.STATE_RUNNING
