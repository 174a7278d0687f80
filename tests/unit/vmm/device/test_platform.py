"""The board's small chips: power management, keyboard controller, PCI's host bridge, panic port; and the serial port's interrupts.

Sources: ACPI Specification, "ACPI Hardware Features"; Intel UPI-41/42, "Status Register"; PCI Local Bus Specification 3.0; PC16550D data
sheet, "Interrupts".
"""
import pytest
from hypothesis import given, settings, strategies as st
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import ending
from hypervisor.vmm import power
from hypervisor.vmm.console import Console
from hypervisor.vmm.bus import Bus
from hypervisor.vmm.device.clock import Clock
from hypervisor.vmm.uart import Uart
from tests.unit.vmm.device.pc import HZ, MS, US, Pc

PM_HZ = 3579545
STATUS, ENABLE, CONTROL, TIMER = 0x600, 0x602, 0x604, 0x608
SCI, KEYBOARD, COM1 = 9, 1, 4


# The clock.

@given(hz=st.integers(10 ** 6, 5 * 10 ** 9), frequency=st.sampled_from([32768, 1193182, 3579545, 10 ** 6]), n=st.integers(0, 1 << 44))
@settings(max_examples=200)
def test_clock_converts_like_fractions(hz, frequency, n):
    clock = Clock()
    clock.set_rate(r_uint(hz // 1000))
    hz = hz // 1000 * 1000
    assert int(clock.count(r_uint(n), frequency)) == n * frequency // hz
    assert int(clock.ticks(r_uint(n >> 14), frequency)) == -(-(n >> 14) * hz // frequency)


# Power management.

def test_timer_counts_at_its_rate_in_32_bits():
    pc = Pc()
    first, start = pc.get(TIMER, 4), pc.box.now
    pc.let_pass(3 * HZ)
    assert abs((pc.get(TIMER, 4) - first) % (1 << 32) - (pc.box.now - start) * PM_HZ // HZ) <= 1
    pc.box.now += (1 << 32) * HZ // PM_HZ
    assert abs((pc.get(TIMER, 4) - first) % (1 << 32) - 3 * PM_HZ) < 10, 'it wraps'
    whole, word, byte = pc.get(TIMER, 4), pc.get(TIMER + 2, 2), pc.get(TIMER + 3)
    assert word == whole >> 16 and byte == whole >> 24


def test_timers_top_bit_sets_the_status_and_asks_if_enabled():
    pc = Pc()
    half = (1 << 31) * HZ // PM_HZ
    pc.let_pass(half + HZ)
    assert not pc.board.lines.active[SCI] and pc.get(STATUS, 2) == 1
    pc.put(STATUS, 1, 2)
    assert pc.get(STATUS, 2) == 0
    pc.put(ENABLE, 0x121, 2)
    assert pc.get(ENABLE, 2) == 0x121
    pc.let_pass(half)
    assert pc.board.lines.active[SCI] and pc.get(STATUS, 2) == 1 and not pc.board.agenda.nearest
    at = pc.times(SCI)[0]
    assert abs(at - 2 * half) < MS, 'exactly when the bit changes'
    pc.put(STATUS, 0, 2)
    assert pc.board.lines.active[SCI], 'a zero clears nothing'
    pc.put(STATUS, 0xffff, 2)
    assert not pc.board.lines.active[SCI] and pc.board.agenda.nearest
    pc.let_pass(half)
    assert len(pc.times(SCI)) == 2
    pc.put(ENABLE, 0, 2)
    assert not pc.board.lines.active[SCI]


def test_sci_arrives_as_level_where_the_madt_says():
    """Line 9, level-triggered, also for those that use the PIC as the firmware has left it."""
    pc = Pc()
    pc.put(0x21, 0)
    pc.put(0xa1, 0)
    pc.put(ENABLE, 1, 2)
    pc.let_pass((1 << 31) * HZ // PM_HZ + HZ)
    assert pc.box.extint and pc.board.pic.acknowledge() == 0x71
    for port in (0xa0, 0x20):
        pc.put(port, 0x20)
    assert pc.box.extint, 'still active'
    pc.put(STATUS, 1, 2)
    assert pc.board.pic.acknowledge() == 0x77, 'the slave has taken its request back: a spurious 15'
    pc.put(0x20, 0x20)
    assert not pc.box.extint


def test_acpi_is_on_and_wide_accesses_are_those_of_each_register():
    pc = Pc()
    assert pc.get(CONTROL, 2) == 1
    pc.put(CONTROL, 0x1c03, 2)
    assert pc.get(CONTROL, 2) == 0x1c03 and pc.get(CONTROL + 1) == 0x1c
    pc.put(CONTROL + 1, 0x04)
    assert pc.get(CONTROL, 2) == 0x0403
    pc.put(STATUS, 0x00210001, 4)
    assert pc.get(STATUS, 4) == 0x210000 and pc.get(ENABLE) == 0x21
    assert pc.get(0x606, 2) == 0


@pytest.mark.parametrize('writes, off', [([(CONTROL, 0x2000, 2)], True), ([(CONTROL + 1, 0x20, 1)], True), ([(CONTROL, 0x2001, 4)], True),
                                         ([(CONTROL, 0x3400, 2)], False), ([(CONTROL, 0x0c00, 2), (CONTROL, 0x2c00, 2)], False),
                                         ([(CONTROL, 0, 2)], False), ([(CONTROL, 0, 2), (CONTROL, 0x2000, 2)], True)])
def test_sleep_type_0_switches_off(writes, off):
    pc = Pc()
    for port, value, size in writes:
        pc.put(port, value, size)
    assert (pc.power.wish == power.LEAVE) == off
    if off:
        assert pc.power.how == ending.POWERED_OFF


# The keyboard controller.

def test_controller_answers_the_usual_probe():
    """What Linux' i8042 driver does: flush, read the command byte, write it, test the controller."""
    pc = Pc()
    assert pc.get(0x64) & 1 == 0
    pc.put(0x64, 0x20)
    assert pc.get(0x64) & 1 == 1
    control = pc.get(0x60)
    assert pc.get(0x64) & 1 == 0 and control & 0x30 == 0x30
    pc.put(0x64, 0x60)
    assert pc.get(0x64) & 8
    pc.put(0x60, control | 1)
    pc.put(0x64, 0x20)
    assert pc.board.lines.active[KEYBOARD]
    assert pc.get(0x60) == control | 1 and not pc.board.lines.active[KEYBOARD]
    for command, answer in ((0xaa, 0x55), (0xab, 0), (0xc0, 0), (0xd0, 3)):
        pc.put(0x64, command)
        assert pc.get(0x64) & 0x41 == 1 and pc.get(0x60) == answer, hex(command)
    pc.put(0x64, 0xae)
    pc.put(0x64, 0x20)
    assert pc.get(0x60) & 0x10 == 0
    pc.put(0x64, 0xd2)
    pc.put(0x60, 0x1c)
    assert pc.get(0x60) == 0x1c


def test_nothing_is_plugged_in():
    pc = Pc()
    pc.put(0x60, 0xff)
    assert pc.get(0x64) & 0x41 == 0x41 and pc.get(0x60) == 0xfe and pc.get(0x64) & 0x41 == 0
    pc.put(0x64, 0xd4)
    pc.put(0x60, 0xf2)
    assert pc.get(0x64) & 0x20 == 0, 'no byte of a mouse comes'


def test_reset_pulse():
    pc = Pc()
    pc.power.set_restarts(1)
    pc.put(0x64, 0xfe)
    assert pc.power.wish == power.RESET


# PCI.

def test_bus_has_one_bridge_and_nothing_else():
    pc = Pc()

    def config(device, register, size=4, enable=0x80000000):
        pc.put(0xcf8, enable | device | register & 0xfc, 4)
        return pc.get(0xcfc + (register & 3), size)
    assert config(0, 0) == 0x12378086 and config(0, 0, 2) == 0x8086 and config(0, 2, 2) == 0x1237 and config(0, 3, 1) == 0x12
    assert config(0, 8) == 0x06000002 and config(0, 0xa, 2) == 0x0600 and config(0, 0xe, 1) == 0
    assert all(config(0, register) == 0 for register in range(0x10, 0x100, 4))
    for device in (1 << 8, 1 << 11, 31 << 11, 1 << 16, 255 << 16):
        assert config(device, 0) == 0xffffffff and config(device, 0, 2) == 0xffff
    assert config(0, 0, enable=0) == 0xffffffff
    pc.put(0xcf8, 0xffffffff, 4)
    assert pc.get(0xcf8, 4) == 0x80fffffc
    pc.put(0xcf8, 0x80000000, 4)
    pc.put(0xcfc, 0, 4)
    assert pc.get(0xcfc, 4) == 0x12378086
    pc.put(0xcf9, 0, 1)
    pc.put(0xcf8, 0, 1)
    assert pc.get(0xcf8, 4) == 0x80000000, 'only whole words reach the address'
    pc.board.clear()
    assert pc.get(0xcf8, 4) == 0


# The panic port.

def test_panic_ends_the_vm_or_starts_it_again():
    pc = Pc()
    assert pc.get(0x505) == 1
    pc.put(0x505, 2)
    assert pc.power.wish == power.RUN, 'an event that was not offered'
    pc.put(0x505, 1)
    assert (pc.power.wish, pc.power.how) == (power.LEAVE, ending.PANICKED)
    pc = Pc()
    pc.power.set_restarts(1)
    pc.put(0x505, 1)
    assert pc.power.wish == power.RESET


# Serial interrupts.

DATA, IER, IIR, LCR, MCR, LSR, MSR = range(0x3f8, 0x3ff)
OUT2 = 8


def with_uart(ier=0, mcr=OUT2, fcr=0):
    pc = Pc()
    pc.console = Console()
    pc.console.set_clock(r_uint(HZ // 1000))
    pc.uart = Uart(pc.console, pc.board.lines, pc.board.agenda, pc.board.clock)
    pc.bus = Bus([pc.uart] + pc.board.ports, pc.board.memory)
    pc.put(IIR, fcr)
    pc.put(MCR, mcr)
    pc.put(IER, ier)
    return pc


def arrives(pc, data):
    pc.box.input += data
    pc.box.signals |= 1 << 9
    pc.console.take_signals()
    pc.uart.console_changed()


def asks(pc):
    return pc.board.lines.active[COM1]


def test_received_bytes_ask_until_they_are_read():
    pc = with_uart(ier=1)
    assert not asks(pc) and pc.get(IIR) == 1
    arrives(pc, b'ab')
    assert asks(pc) and pc.get(IIR) == 4
    assert pc.get(DATA) == ord('a') and not asks(pc)
    pc.let_pass(MS)
    assert asks(pc) and pc.get(DATA) == ord('b') and not asks(pc) and pc.get(IIR) == 1
    assert len(pc.times(COM1)) == 2, 'each byte is an edge where there is no FIFO'


def drains(pc):
    """Reads until there is nothing, as drivers do: what it has got."""
    got = bytearray()
    while pc.get(LSR) & 1:
        got.append(pc.get(DATA))
    return bytes(got)


def test_a_driver_that_reads_until_there_is_nothing_has_time_for_others():
    """A FIFO for each millisecond: then its handler finds nothing and ends, whatever more waits."""
    pc, pasted = with_uart(ier=1, fcr=0x81), bytes(bytearray(range(100)))
    arrives(pc, pasted)
    got = b''
    for _ in range(7):
        assert asks(pc) and pc.get(IIR) & 4
        got += drains(pc)
        assert not asks(pc) and pc.get(IIR) & 1 and drains(pc) == b'', 'it looks again, as Linux does'
        pc.let_pass(MS - 100 * US)
        assert not asks(pc) and drains(pc) == b''
        arrives(pc, b'')
        assert not asks(pc), 'a signal does not let it in either'
        pc.let_pass(200 * US)
    assert got == pasted and not asks(pc) and len(pc.times(COM1)) == 7
    assert pc.uart.gap.due_at == 0


def test_what_comes_while_the_guest_reads_waits_for_the_end_of_that():
    pc = with_uart(ier=1, fcr=0x81)
    arrives(pc, b'abc')
    assert pc.get(DATA) == ord('a')
    arrives(pc, b'def')
    assert drains(pc) == b'bc' and not asks(pc)
    pc.let_pass(MS)
    assert asks(pc) and drains(pc) == b'def'


def test_a_single_key_is_there_at_once_and_leaves_nothing_to_wait_for():
    pc = with_uart(ier=1, fcr=0x81)
    for key in b'ls':
        arrives(pc, key)
        assert asks(pc) and drains(pc) == key and pc.uart.gap.due_at == 0
        pc.let_pass(MS)


def test_a_key_right_behind_the_last_one_comes_when_the_line_is_free():
    pc = with_uart(ier=1, fcr=0x81)
    arrives(pc, b'a')
    assert drains(pc) == b'a'
    arrives(pc, b'b')
    assert not asks(pc)
    pc.let_pass(MS)
    assert asks(pc) and drains(pc) == b'b'


def test_what_is_cleared_away_is_no_obstacle_to_what_comes():
    pc = with_uart(ier=1, fcr=0x81)
    arrives(pc, b'abc')
    pc.put(IIR, 0x83)
    arrives(pc, b'd')
    assert asks(pc) and drains(pc) == b'd'


def test_a_reset_forgets_that_the_line_is_busy():
    pc = with_uart(ier=1, fcr=0x81)
    arrives(pc, b'x' * 20)
    assert drains(pc) == b'x' * 16 and pc.uart.gap.due_at != 0
    pc.uart.clear()
    assert pc.uart.gap.due_at == 0 and pc.get(LSR) & 1 and pc.get(DATA) == ord('x')


def test_fifo_tells_its_trigger_level_from_a_timeout():
    pc = with_uart(ier=1, fcr=0x81)             # 8 bytes
    arrives(pc, b'x' * 7)
    assert asks(pc) and pc.get(IIR) == 0xcc
    arrives(pc, b'x')
    assert pc.get(IIR) == 0xc4
    pc.get(DATA)
    assert pc.get(IIR) == 0xcc
    pc.put(IIR, 0x83)
    assert not asks(pc) and pc.get(LSR) & 1 == 0, 'the FIFO is cleared'


def test_empty_transmitter_asks_when_enabled_and_after_each_byte_until_iir_is_read():
    pc = with_uart(ier=0)
    pc.put(IER, 2)
    assert asks(pc) and pc.get(IIR) == 2 and not asks(pc) and pc.get(IIR) == 1
    edges = len(pc.times(COM1))
    pc.put(DATA, ord('!'))
    assert asks(pc) and len(pc.times(COM1)) == edges + 1
    pc.put(DATA, ord('!'))
    assert asks(pc) and len(pc.times(COM1)) == edges + 2, 'each byte is a new edge, also before IIR is read'
    assert pc.get(IIR) == 2 and not asks(pc)
    pc.put(IER, 2)
    assert not asks(pc), 'enabled already'
    pc.put(IER, 0)
    pc.put(IER, 2)
    assert asks(pc), "Linux' test for working interrupts"


def test_received_data_goes_before_the_empty_transmitter():
    pc = with_uart(ier=3)
    arrives(pc, b'z')
    assert pc.get(IIR) == 4 and pc.get(DATA) == ord('z') and pc.get(IIR) == 2


def test_modem_lines_ask_when_they_change_and_only_in_loop_back_can_they():
    pc = with_uart(ier=8)
    assert pc.get(MSR) == 0xb0
    pc.put(MCR, 0x10)
    assert not asks(pc) and pc.get(IIR) == 0, 'in loop-back the line is cut off'
    pc.put(MCR, OUT2)
    assert asks(pc)
    assert pc.get(MSR) & 0xf == 0xb and not asks(pc) and pc.get(MSR) == 0xb0


def test_without_out2_nothing_reaches_the_line():
    pc = with_uart(ier=1, mcr=0)
    arrives(pc, b'q')
    assert not asks(pc) and pc.get(IIR) == 4
    pc.put(MCR, OUT2)
    assert asks(pc)


def test_overrun_is_a_line_status_interrupt_in_loop_back():
    pc = with_uart(ier=4, mcr=0x10)
    pc.put(DATA, 1)
    pc.put(DATA, 2)
    assert pc.get(IIR) == 6 and pc.get(LSR) & 3 == 3 and pc.get(IIR) == 1 and pc.get(DATA) == 2


def test_full_console_is_a_transmitter_that_is_not_empty():
    pc = with_uart(ier=0)
    pc.box.ring_room = 0
    while pc.console.has_room():
        pc.put(DATA, ord('x'))
    assert pc.get(LSR) & 0x60 == 0
    pc.put(IER, 2)
    assert not asks(pc)
    pc.box.ring_room = 1 << 20
    pc.console.flush()
    pc.uart.console_changed()
    assert asks(pc) and pc.get(LSR) & 0x60 == 0x60
    assert pc.get(IIR) == 2


def test_guest_without_rts_gets_nothing_until_it_gives_it_again():
    """Only who has given it can take it back: a guest that never touches MCR receives."""
    pc = with_uart(ier=1, fcr=1, mcr=8)
    arrives(pc, b'a')
    assert pc.get(DATA) == ord('a')
    pc.put(MCR, 0x0a)
    pc.put(MCR, 0x08)
    arrives(pc, b'bc')
    pc.let_pass(MS)
    assert not asks(pc) and pc.get(LSR) & 1 == 0
    pc.put(MCR, 0x0a)
    assert asks(pc) and pc.get(DATA) == ord('b') and pc.get(DATA) == ord('c'), 'the manager has told already: nobody tells again'


def test_what_came_while_interrupts_or_loop_back_were_in_the_way_asks_once_they_are_not():
    for before, after in (((IER, 0), (IER, 1)), ((MCR, 0x18), (MCR, OUT2))):
        pc = with_uart(ier=1)
        pc.put(*before)
        arrives(pc, b'd')
        assert not asks(pc)
        pc.put(*after)
        assert asks(pc) and pc.get(DATA) == ord('d')
