"""The physical serial port: a 16550 at 0x3f8, through PORT_IN and PORT_OUT; input is told by its interrupt line.

Output waits for room in WAIT, so that guests run meanwhile; bytes that arrive meanwhile are kept. The signals that such a WAIT
returns are kept too (`signals`), because WAIT clears them. Nothing is lost: a port that has sent before is waited for as long as it is
busy, because its other end does not read; and RTS asks the other end to pause while there is little room for what it sends. Only a port
that is busy for a second and has never sent anything counts as broken: its output is dropped.
Source: National Semiconductor PC16550D data sheet, "Registers".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw.task import rdtsc
from hypervisor.lib import call
from hypervisor.lib.text import Sink
from hypervisor.spec.call import SLOT_PORTS

BASE = 0x3f8
DATA, DIVISOR_LOW = BASE, BASE                      # with DLAB
INTERRUPT_ENABLE, DIVISOR_HIGH = BASE + 1, BASE + 1
FIFO_CONTROL, INTERRUPT_ID = BASE + 2, BASE + 2     # written, read
LINE_CONTROL = BASE + 3
MODEM_CONTROL = BASE + 4
LINE_STATUS = BASE + 5

LINE_8N1, DLAB = 3, 0x80
FIFO_ENABLE_AND_CLEAR, FIFO_ON = 7, 0xc0
TRIGGER_8 = 0x80                # of FIFO_CONTROL: one interrupt for 8 bytes, and room for 8 more until it is answered
DTR_OUT2, RTS = 9, 2            # of MODEM_CONTROL; OUT2 lets the interrupt through
RECEIVED = 1                    # of INTERRUPT_ENABLE
LINE = 4
LINE_SIGNAL = r_uint(1 << SLOT_PORTS)
DATA_READY, TRANSMIT_EMPTY, TRANSMITTER_IDLE = 1, 0x20, 0x40
NOBODY = 0xff                                       # what an absent port reads as

FIFO_BYTES = 16
MOST_AT_ONCE = 64               # bytes of one poll
INPUT_BYTES = 1024
PAUSE_AT, GO_ON_AT = 512, 256   # kept bytes; the rest is for an other end that sees RTS late
POLLS = 8                       # of the line status before each WAIT
LF, TAB = 10, 9


class Serial(Sink):
    """`column`: where the cursor is on its line, in bytes from 0."""

    def __init__(self):
        self.depth = 1              # bytes that fit once the transmitter is empty
        self.room = 0
        self.has_begun = False      # bytes were written to it
        self.has_sent = False       # and have left it
        self.broken = False
        self.paused = False         # RTS is off
        self.armed = False          # the line will tell the next byte
        self.told = False           # it has done so once: the machine has such lines
        self.column = 0
        self.pause = r_uint(1)      # ticks between looks at a busy port
        self.patience = r_uint(1)   # ticks until it counts as broken
        self.signals = r_uint(0)
        self.input = [0] * INPUT_BYTES
        self.input_first = 0
        self.input_count = 0

    def start(self, tsc_khz):
        """115200 baud, 8N1, FIFOs on if there are any, an interrupt for what comes in."""
        self.pause = tsc_khz // r_uint(5) + r_uint(1)
        self.patience = tsc_khz * r_uint(1000)
        self._out(INTERRUPT_ENABLE, 0)
        self._out(LINE_CONTROL, DLAB)
        self._out(DIVISOR_LOW, 1)
        self._out(DIVISOR_HIGH, 0)
        self._out(LINE_CONTROL, LINE_8N1)
        self._out(FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR | TRIGGER_8)
        self._out(MODEM_CONTROL, DTR_OUT2 | RTS)
        self._out(INTERRUPT_ENABLE, RECEIVED)
        self.depth = FIFO_BYTES if self._in(INTERRUPT_ID) & FIFO_ON == FIFO_ON else 1
        self.room = 0

    def _out(self, port, data):
        call.port_out(port, 1, r_uint(data))

    def _in(self, port):
        call.port_in(port, 1)
        return intmask(call.value()) & 0xff

    # -- output

    def put(self, byte):
        if self.room == 0:
            self.make_room()
        if not self.broken:
            self.room -= 1
            self._out(DATA, byte)
        self.column = 0 if byte == LF else self.column + 1

    def make_room(self):
        if self.wait_for(TRANSMIT_EMPTY):
            self.room = self.depth
            self.has_sent = self.has_begun
            self.has_begun = True

    def drain(self):
        """Wait until the last bit is on the line. Called before power-off."""
        self.wait_for(TRANSMITTER_IDLE)

    def wait_for(self, bit):
        """Wait until the line status has `bit`. Returns False when the port is broken."""
        deadline = rdtsc() + self.patience
        polls = 0
        while not self.broken:
            if self.status() & bit != 0:
                return True
            polls += 1
            if polls == POLLS:
                polls = 0
                self.broken = not self.has_sent and rdtsc() >= deadline
                self.wait(rdtsc() + self.pause)
        return False

    def wait(self, deadline):
        call.wait(deadline)
        self.signals |= call.value()
        if call.value() & LINE_SIGNAL != r_uint(0):
            self.armed = False
            self.told = True
            self.poll()             # at once: the port's FIFO is full in a millisecond

    def take_signals(self):
        """The signals since the last call."""
        result = self.signals
        self.signals = r_uint(0)
        return result

    # -- input

    def status(self):
        """The line status; a byte that has come in is taken on the way, if there is room for it."""
        status = self._in(LINE_STATUS)
        if status != NOBODY and status & DATA_READY != 0 and self.input_count < INPUT_BYTES:
            self.keep(self._in(DATA))
        return status

    def keep(self, byte):
        self.input[(self.input_first + self.input_count) & (INPUT_BYTES - 1)] = byte
        self.input_count += 1
        if self.input_count >= PAUSE_AT and not self.paused:
            self.paused = True
            self._out(MODEM_CONTROL, DTR_OUT2)

    def poll(self):
        """Take in what has come, until there is no more (only then the line tells again) or no room. Returns whether more may follow soon."""
        before = self.input_count
        if not self.armed and self.input_count < INPUT_BYTES:
            self.armed = True
            call.line(LINE)             # before the look: what comes later is told
        for _ in range(MOST_AT_ONCE):
            status = self.status()
            if status == NOBODY or status & DATA_READY == 0 or self.input_count == INPUT_BYTES:
                return self.input_count > before
        return True

    def next(self):
        """The oldest byte that has come in, or -1."""
        if self.input_count == 0:
            return -1
        byte = self.input[self.input_first]
        self.input_first = (self.input_first + 1) & (INPUT_BYTES - 1)
        self.input_count -= 1
        if self.input_count <= GO_ON_AT and self.paused:
            self.paused = False
            self._out(MODEM_CONTROL, DTR_OUT2 | RTS)
        return byte


assert INPUT_BYTES & (INPUT_BYTES - 1) == 0
