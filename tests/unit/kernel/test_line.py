"""Interrupt lines of the PIC pair: asked for, told once, masked again; and who may ask."""
import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.line import lines
from hypervisor.spec import call, lapic, status
from tests.unit.kernel.machine import CALL_TICKS, Program
from tests.unit.kernel.vm import make_vm

MANAGER, VM = 0, 1
BIT = 1 << call.SLOT_PORTS
ALL = 0xffff


class Pics(object):
    """What the two PICs are told: masks, and ends of interrupts."""

    def __init__(self, box):
        self.cpu = box.cpu
        self.cpu.output[:] = []

    @property
    def mask(self):
        mask = ALL
        for port, size, value in self.cpu.output:
            if port == lapic.PIC1_DATA:
                mask = mask & 0xff00 | value
            elif port == lapic.PIC2_DATA:
                mask = mask & 0xff | value << 8
        return mask

    @property
    def ended(self):
        return [(port, value) for port, size, value in self.cpu.output if port in (lapic.PIC1_COMMAND, lapic.PIC2_COMMAND)]


@pytest.fixture
def pics(box):
    return Pics(box)


@pytest.mark.parametrize('line', [n for n in range(16) if n != 2])
def test_a_line_comes_once_as_the_signal_of_the_ports(box, pics, line):
    assert box.kernel_call(MANAGER, call.LINE, call.SLOT_PORTS, line) == (status.OK, 0)
    cascade = 1 << 2 if line >= 8 else 0
    assert pics.mask == ALL & ~(1 << line) & ~cascade
    lines.arrive(r_uint(lapic.PIC_VECTOR + line))
    assert pics.mask == ALL & ~cascade
    slave = [(lapic.PIC2_COMMAND, lapic.PIC_END | line & 7)] if line >= 8 else []
    assert pics.ended == slave + [(lapic.PIC1_COMMAND, lapic.PIC_END | (2 if line >= 8 else line))]
    assert compartments[MANAGER].signals == BIT
    lines.arrive(r_uint(lapic.PIC_VECTOR + line))                   # a second one, that nobody has asked for
    assert pics.ended[len(slave) + 1:] == ([(lapic.PIC1_COMMAND, lapic.PIC_END | 2)] if line >= 8 else [])


def test_the_kernel_hears_it_while_a_task_runs(box, pics):
    box.kernel_call(MANAGER, call.LINE, call.SLOT_PORTS, 4)
    box.tasks[MANAGER] = Program(lambda: iter([('fault', lapic.PIC_VECTOR + 4)] + [('spin', 1 << 40)]))
    box.let_pass(500)
    assert compartments[MANAGER].signals == BIT and pics.mask == ALL


@pytest.mark.parametrize('slot, line, answer', [
    (call.SLOT_SELF, 4, status.BAD_SLOT), (call.SLOT_MEMORY, 4, status.BAD_SLOT), (64, 4, status.BAD_SLOT), ((1 << 64) - 1, 4, status.BAD_SLOT),
    (call.SLOT_PORTS, 2, status.BAD_RANGE), (call.SLOT_PORTS, 16, status.BAD_RANGE), (call.SLOT_PORTS, (1 << 64) - 12, status.BAD_RANGE)])
def test_bad_questions_change_nothing(box, pics, slot, line, answer):
    assert box.kernel_call(MANAGER, call.LINE, slot, line) == (answer, 0)
    assert pics.mask == ALL and lines.mask == ALL


def test_a_vmm_may_not_ask(box, pics):
    make_vm(box, VM)
    for slot in range(call.SLOTS):
        assert box.kernel_call(VM, call.LINE, slot, 4) == (status.BAD_SLOT, 0)
    assert pics.mask == ALL


def test_who_asked_goes_first(box, pics):
    """A serial port's buffer is full within two milliseconds: its reader must not wait for the end of somebody's slice."""
    make_vm(box, VM)
    order = []

    def manager():
        yield ('call', call.LINE, call.SLOT_PORTS, 4)
        yield ('call', call.WAIT, 0)
        order.append('manager')
        yield ('spin', 1 << 40)

    def vmm():
        yield ('fault', lapic.PIC_VECTOR + 4)
        order.append('vmm')
        yield ('spin', 1 << 40)
    box.tasks[MANAGER], box.tasks[VM] = Program(manager), Program(vmm)
    box.let_pass(3 * CALL_TICKS)
    assert order == ['manager']
