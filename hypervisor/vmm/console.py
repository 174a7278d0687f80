"""The VM's console: bytes to and from the manager, through the two rings.

Output is collected and sent at each end of line, when the buffer is full, or FLUSH_MS after the first byte that waits.
When the ring is full, what is not sent stays here; the guest's UART then has no room (uart.py) and nothing is lost. The
last OWN_WORDS bytes of the buffer are kept for the VMM's own last words.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory, task
from hypervisor.lib import call
from hypervisor.spec import layout, status
from hypervisor.spec.call import SLOT_CONSOLE_IN, SLOT_CONSOLE_OUT
from hypervisor.spec.vcpu import RING_BYTES

BUFFER = 2048
assert BUFFER <= RING_BYTES         # one RING_SEND moves all of it
OWN_WORDS = 512
FLUSH_MS = 5
NEWLINE = 10
DIGITS = '0123456789abcdef'
TASK_PAGE = r_uint(layout.TASK_PAGE)
ZERO = r_uint(0)
INPUT_SIGNAL = r_uint(1) << SLOT_CONSOLE_IN
AT_ONCE = r_uint(1)                 # a deadline that has passed


class Console(object):
    def __init__(self):
        self.ticks_per_ms = r_uint(1)
        self.output = [0] * BUFFER      # circular
        self.first = 0
        self.count = 0
        self.deadline = ZERO            # when what waits must be sent; 0: nothing waits
        self.line_open = False          # the last byte was not an end of line
        self.input = [0] * RING_BYTES
        self.input_first = 0
        self.input_end = 0
        self.input_more = True          # the ring may hold more

    def set_clock(self, ticks_per_ms):
        self.ticks_per_ms = ticks_per_ms

    # Output.
    def has_room(self):
        """May the guest write one byte?"""
        return self.count < BUFFER - OWN_WORDS

    def put(self, byte):
        """Take one byte. It is dropped when the buffer is full: guests ask has_room() first."""
        if self.count >= BUFFER:
            return
        if self.count == 0:
            self.deadline = task.rdtsc() + self.ticks_per_ms * r_uint(FLUSH_MS)
        self.output[(self.first + self.count) % BUFFER] = byte
        self.count += 1
        self.line_open = byte != NEWLINE
        if byte == NEWLINE or not self.has_room():
            self.flush()

    def flush(self):
        """Send what the ring takes."""
        count = self.count
        if count == 0:
            return
        for n in range(count):
            memory.store8(TASK_PAGE + r_uint(n), r_uint(self.output[(self.first + n) % BUFFER]))
        if call.ring_send(SLOT_CONSOLE_OUT, count) == status.OK:
            self._sent(intmask(call.value()))
        self.deadline = ZERO
        if self.count > 0:
            self.deadline = task.rdtsc() + self.ticks_per_ms * r_uint(FLUSH_MS)

    def _sent(self, taken):
        if taken < 0 or taken > self.count:
            taken = self.count
        self.first = (self.first + taken) % BUFFER
        self.count -= taken

    def is_due(self):
        return self.count > 0 and task.rdtsc() >= self.deadline

    # Input.
    def has_input(self):
        """May there be a byte to get?"""
        return self.input_more or self.input_first < self.input_end

    def get(self):
        """The next byte from the manager, or -1."""
        if self.input_first >= self.input_end and self.input_more:
            self._receive()
        if self.input_first >= self.input_end:
            return -1
        byte = self.input[self.input_first]
        self.input_first += 1
        return byte

    def _receive(self):
        count = 0
        if call.ring_receive(SLOT_CONSOLE_IN) == status.OK:
            count = intmask(call.value())
        if count < 0 or count > RING_BYTES:
            count = 0
        for n in range(count):
            self.input[n] = intmask(memory.load8(TASK_PAGE + r_uint(n)))
        self.input_first = 0
        self.input_end = count
        self.input_more = count > 0     # else the signal says when there is more

    # Signals.
    def pause(self, ms):
        """Give the manager time to make room: wait for a signal, at most `ms`, then try again to send."""
        self._wait(task.rdtsc() + self.ticks_per_ms * r_uint(ms))

    def take_signals(self):
        self._wait(AT_ONCE)

    def _wait(self, deadline):
        if call.wait(deadline) == status.OK and call.value() & INPUT_SIGNAL != ZERO:
            self.input_more = True
        self.flush()

    # The VMM's own words.
    def begin(self):
        """Start a line of the VMM's own."""
        if self.line_open:
            self.put(NEWLINE)
        self.text('vmm: ')

    def text(self, string):
        for n in range(len(string)):
            self.put(ord(string[n]))

    def end(self):
        self.put(NEWLINE)

    def hexadecimal(self, value, digits):
        """`value` as that many digits."""
        for n in range(digits):
            self.put(ord(DIGITS[intmask(value >> (4 * (digits - 1 - n))) & 15]))

    def decimal(self, value):
        """A number from 0 to 999."""
        if value >= 100:
            self.put(48 + value // 100 % 10)
        if value >= 10:
            self.put(48 + value // 10 % 10)
        self.put(48 + value % 10)
