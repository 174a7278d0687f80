"""The first serial port, COM1: a 16550 on line 4.

Transmitted bytes go to the console at once, so the transmitter is empty unless the console has no room. Received ones come
through a FIFO of 16, and are told as soon as there is one: below the FIFO's trigger level as a character timeout. A FIFO that the guest has
emptied stays empty for as long as what it held takes on a line of BYTES_PER_SECOND: a driver reads until it finds nothing, and shall have
time for others then. A guest that takes RTS back gets none until it gives it again. Speed, word length and parity are kept and change nothing.
Source: National Semiconductor PC16550D data sheet, "Registers".
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.vmm.bus import BUSY, DONE, Device
from hypervisor.vmm.device import lines as board
from hypervisor.vmm.device.agenda import Timed
from hypervisor.vmm.device.clock import NEVER

FIRST_PORT = 0x3f8
DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)      # IIR is FCR when written
FIFO = 16
BYTES_PER_SECOND = 16000        # received at most

IER_DATA, IER_EMPTY, IER_LINE, IER_MODEM = 1, 2, 4, 8
IIR_NONE, IIR_MODEM, IIR_EMPTY, IIR_DATA, IIR_LINE, IIR_TIMEOUT, IIR_FIFOS = 1, 0, 2, 4, 6, 0xc, 0xc0
FCR_ENABLE, FCR_CLEAR_RECEIVER, FCR_TRIGGER_SHIFT = 1, 2, 6
TRIGGERS = [1, 4, 8, 14]        # bytes in the FIFO
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 16
LSR_DATA, LSR_OVERRUN, LSR_EMPTY, LSR_IDLE = 1, 2, 0x20, 0x40
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
DIVISOR_AT_RESET = 12           # 9600 baud
WAIT_MS = 5                     # how long a guest that finds no room leaves the processor to the manager


class Gap(Timed):
    """Until the next bytes come in."""

    def __init__(self, agenda, uart):
        Timed.__init__(self, agenda)
        self.uart = uart

    def tick(self, now):
        self.set_due(NEVER)
        self.uart.console_changed()


class Uart(Device):
    def __init__(self, console, lines, agenda, clock):
        Device.__init__(self, FIRST_PORT, 8, True)
        self.console = console
        self.lines = lines
        self.clock = clock
        self.gap = Gap(agenda, self)
        self.fifo = [0] * FIFO          # circular
        self.clear()

    def clear(self):
        """The state after a reset."""
        self.first = 0
        self.count = 0
        self.filled = 0                 # bytes that have come in, of which some or all have not been read; 0: nothing is left of them
        self.next_fill = NEVER          # TSC: before it nothing comes in
        self.gap.set_due(NEVER)
        self.fifos_on = False
        self.trigger = 1
        self.overrun = False
        self.held = False               # RTS was there and is not any more
        self.empty_told = True          # no "transmitter empty" to tell
        self.ier = 0
        self.lcr = 0
        self.mcr = 0
        self.scr = 0
        self.divisor = DIVISOR_AT_RESET
        self.modem_before = MSR_CTS | MSR_DSR | MSR_DCD
        self.modem_changes = 0

    # What the bus calls. offset: 0 to 7; one byte each.
    def read(self, offset, size):
        if offset == DATA:
            return self._read_data()
        value = self._read(offset)
        self.update_line()
        return r_uint(value & 0xff)

    @dont_inline                        # like all that is rare: what is common keeps few registers then
    def _read_data(self):
        value = self.divisor & 0xff if self.lcr & LCR_DLAB else self._receive()
        self.update_line()
        return r_uint(value & 0xff)

    def write(self, offset, size, value):
        byte = intmask(value) & 0xff
        if offset == DATA and not self.lcr & LCR_DLAB:
            return self._transmit(byte)
        self._write(offset, byte)
        if offset == MCR or offset == IER:      # what was held back comes in: no signal will tell of it again
            self._refill()
        self.update_line()
        return DONE

    def _read(self, offset):
        if offset == IER:
            return self.divisor >> 8 if self.lcr & LCR_DLAB else self.ier
        if offset == IIR:
            return self._identify()
        if offset == LCR:
            return self.lcr
        if offset == MCR:
            return self.mcr
        if offset == LSR:
            return self._line_status()
        if offset == MSR:
            return self._modem_status()
        return self.scr

    def _write(self, offset, byte):
        if offset == DATA:
            self.divisor = self.divisor & 0xff00 | byte
        elif offset == IER:
            self._write_ier(byte)
        elif offset == IIR:
            self._write_fcr(byte)
        elif offset == LCR:
            self.lcr = byte
        elif offset == MCR:
            self._write_mcr(byte)
        elif offset == SCR:
            self.scr = byte             # LSR and MSR are read only

    def _write_ier(self, byte):
        if self.lcr & LCR_DLAB:
            self.divisor = self.divisor & 0xff | byte << 8
            return
        if byte & IER_EMPTY and not self.ier & IER_EMPTY:
            self.empty_told = False
        self.ier = byte & 0xf

    def _write_fcr(self, byte):
        on = byte & FCR_ENABLE != 0
        if on != self.fifos_on or byte & FCR_CLEAR_RECEIVER:
            self.count = 0              # switching the FIFOs clears them as well
            self.filled = 0
        self.fifos_on = on
        self.trigger = TRIGGERS[byte >> FCR_TRIGGER_SHIFT & 3] if on else 1

    # The transmitter.
    def _transmit(self, byte):
        if self.mcr & MCR_LOOP:
            self._push(byte)
        elif self.console.has_room():
            self.console.put(byte)
        else:
            self.console.pause(WAIT_MS)
            if not self.console.has_room():
                return BUSY
            self.console.put(byte)
        self.empty_told = True          # full for a moment: a request falls, and is a new edge when it comes back
        self.update_line()
        self.empty_told = False
        self.update_line()
        return DONE

    def _line_status(self):
        self._refill()
        status = LSR_OVERRUN if self.overrun else 0
        self.overrun = False
        if self.count > 0:
            status |= LSR_DATA
        if not self.console.has_room():
            self.console.pause(WAIT_MS)
        if self.console.has_room():
            status |= LSR_EMPTY | LSR_IDLE
        return status

    # The receiver.
    def _push(self, byte):
        if self.count >= (FIFO if self.fifos_on else 1):
            self.overrun = True
            if self.fifos_on:
                return                  # the FIFO stays as it is; without one, the new byte replaces the old
            self.count = 0
        self.fifo[(self.first + self.count) % FIFO] = byte
        self.count += 1

    def _refill(self):
        """Let bytes from the manager in, while there is room: they never overrun. Not while the guest reads the last ones."""
        if self.console.has_input() and not self.mcr & MCR_LOOP and not self.held:
            self._fill()

    @dont_inline
    def _fill(self):
        if self.count != self.filled:
            return
        if self.next_fill != NEVER:
            if self.clock.now() < self.next_fill:
                self.gap.set_due(self.next_fill)
                return
            self.next_fill = NEVER
        depth = FIFO if self.fifos_on else 1
        while self.count < depth:
            byte = self.console.get()
            if byte < 0:
                break
            self._push(byte)
        self.filled = self.count

    def _receive(self):
        self._refill()
        if self.count == 0:
            return 0
        byte = self.fifo[self.first % FIFO]
        self.first = (self.first + 1) % FIFO
        self.count -= 1
        if self.count == 0:
            self._leave_gap()
        return byte

    def _leave_gap(self):
        """The FIFO is empty."""
        self.next_fill = self.clock.now() + self.clock.ticks(r_uint(self.filled), BYTES_PER_SECOND)
        self.filled = 0
        if self.console.has_input():
            self.gap.set_due(self.next_fill)

    # Modem lines: a cable that is always connected, or the loop-back of our own.
    def _modem_lines(self):
        if not self.mcr & MCR_LOOP:
            return MSR_CTS | MSR_DSR | MSR_DCD
        lines = 0
        if self.mcr & MCR_RTS:
            lines |= MSR_CTS
        if self.mcr & MCR_DTR:
            lines |= MSR_DSR
        if self.mcr & MCR_OUT1:
            lines |= MSR_RI
        if self.mcr & MCR_OUT2:
            lines |= MSR_DCD
        return lines

    def _write_mcr(self, byte):
        self.held = not byte & MCR_RTS and (self.held or self.mcr & MCR_RTS != 0)
        self.mcr = byte & 0x1f
        lines = self._modem_lines()
        changes = (lines ^ self.modem_before) & (MSR_CTS | MSR_DSR | MSR_DCD)
        if self.modem_before & ~lines & MSR_RI:
            changes |= MSR_RI           # only its trailing edge counts
        self.modem_changes |= changes >> 4
        self.modem_before = lines

    def _modem_status(self):
        status = self._modem_lines() | self.modem_changes
        self.modem_changes = 0
        return status

    # Interrupts, by priority.
    def _request(self):
        """What IIR says, without the FIFO bits."""
        if self.ier & IER_LINE and self.overrun:
            return IIR_LINE
        if self.ier & IER_DATA and self.count > 0:
            return IIR_DATA if self.count >= self.trigger else IIR_TIMEOUT
        if self.ier & IER_EMPTY and not self.empty_told and self.console.has_room():
            return IIR_EMPTY
        if self.ier & IER_MODEM and self.modem_changes:
            return IIR_MODEM
        return IIR_NONE

    def _identify(self):
        self._refill()
        request = self._request()
        if request == IIR_EMPTY:
            self.empty_told = True
        return request | IIR_FIFOS if self.fifos_on else request

    def update_line(self):
        """OUT2 lets the request through to the line, but not in loop-back."""
        passes = self.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
        self.lines.set(board.COM1, passes and self._request() != IIR_NONE)

    def console_changed(self):
        """The console may have input, or room again."""
        if self.ier != 0:
            self._refill()
            self.update_line()
