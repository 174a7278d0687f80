"""The 8254 timer: channel 0 interrupts (line 0), channel 1 counts for nobody, channel 2 is gated and read by port 0x61.

A counter's value is computed when it is asked for. Where this differs from the chip: a count is loaded at once, also in the
middle of a period of modes 2 and 3; line 0 goes up at each rising edge of OUT that ends a period, and down only when a mode or
a new count of mode 0 is written; edges that come faster than every FASTEST_US, or while the VM was not running, melt into one.
Source: Intel 8254 data sheet, "Mode Definitions", "Read-Back Command"; IBM PC/AT Technical Reference, "Port B".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.vmm.bus import DONE, Device
from hypervisor.vmm.device import lines as board
from hypervisor.vmm.device.agenda import Timed
from hypervisor.vmm.device.clock import MICROSECOND, NEVER

HZ = 1193182
PORT, SPEAKER_PORT = 0x40, 0x61
CONTROL = 3                             # offset of the control word; 0 to 2 are the counters
FASTEST_US = r_uint(50)

# The control word: bits 7:6 counter (3: read-back), 5:4 access, 3:1 mode, 0 BCD.
LATCH, LOW, HIGH, BOTH = range(4)       # access
READ_BACK = 3
ONE_SHOT, TRIGGERED, RATE, SQUARE, STROBE, TRIGGERED_STROBE = range(6)
NOT_COUNT, NOT_STATUS = 0x20, 0x10      # of the read-back command
STATUS_OUT, STATUS_NULL = 0x80, 0x40

# Port 0x61
GATE_2, SPEAKER, CHECKS, REFRESH, OUT_2 = 0x01, 0x02, 0x0c, 0x10, 0x20
REFRESH_TICKS = 18                      # the refresh bit changes every 15 us
NONE = -1


def from_bcd(value):
    """Four decimal digits."""
    return (value >> 12 & 15) * 1000 + (value >> 8 & 15) * 100 + (value >> 4 & 15) * 10 + (value & 15)


def to_bcd(value):
    return value // 1000 % 10 << 12 | value // 100 % 10 << 8 | value // 10 % 10 << 4 | value % 10


class Channel(object):
    """One counter. Times are TSC ticks (r_uint), counts are ints in periods of HZ."""

    def __init__(self, clock):
        self.clock = clock
        self.gate = True
        self.clear()

    def clear(self):
        self.mode = ONE_SHOT
        self.access = BOTH
        self.bcd = False
        self.count = 0x10000            # 1 to 65536, or to 10000 in BCD
        self.loaded = False             # a count was written since the mode was
        self.running = False            # loaded, and triggered where the mode wants that
        self.start = NEVER              # when it began to count down from `count`
        self.frozen = 0                 # how far it had come when the gate closed
        self.low_byte = NONE            # first byte of a count, waiting for the second
        self.high_next = False          # the next read gives the high byte
        self.latch = NONE
        self.latched_status = NONE

    # What it counts.
    def _waits_for_gate(self):
        return self.mode == TRIGGERED or self.mode == TRIGGERED_STROBE

    def _pauses(self):
        """Does a closed gate stop it?"""
        return not self.gate and not self._waits_for_gate()

    def elapsed(self, now):
        """Periods since it began to count."""
        if not self.running:
            return 0
        if self._pauses():
            return self.frozen
        return intmask(self.clock.count(now - self.start, HZ))

    def value(self, now):
        """What the counter reads, 16 bits."""
        whole = 10000 if self.bcd else 0x10000
        elapsed = self.elapsed(now)
        if self.mode == RATE:
            value = self.count - elapsed % self.count
        elif self.mode == SQUARE:
            value = self.count - 2 * elapsed % self.count
        else:
            value = (self.count - elapsed) % whole
        value %= whole
        return to_bcd(value) if self.bcd else value

    def out(self, now):
        """The OUT pin."""
        if not self.running:
            return self.mode != ONE_SHOT
        elapsed = self.elapsed(now)
        if self.mode == ONE_SHOT or self.mode == TRIGGERED:
            return elapsed >= self.count
        if self.mode == STROBE or self.mode == TRIGGERED_STROBE:
            return elapsed != self.count
        if not self.gate:
            return True
        if self.mode == RATE:
            return elapsed % self.count != self.count - 1
        return 2 * (elapsed % self.count) < self.count

    def next_edge(self, now):
        """When OUT rises next, at the end of a count. NEVER when it does not."""
        if not self.running or self._pauses():
            return NEVER
        elapsed = self.elapsed(now)
        if self.mode == RATE or self.mode == SQUARE:
            edge = (elapsed // self.count + 1) * self.count
        else:
            edge = self.count
            if self.mode == STROBE or self.mode == TRIGGERED_STROBE:
                edge += 1
            if elapsed >= edge:
                return NEVER
        return self.start + self.clock.ticks(r_uint(edge), HZ)

    # Programming.
    def set_mode(self, access, mode, bcd):
        self.clear()
        self.access = access
        self.mode = mode if mode <= TRIGGERED_STROBE else mode - 4
        self.bcd = bcd

    def write(self, byte, now):
        """One byte of a count."""
        if self.access == LOW:
            self._load(byte, now)
        elif self.access == HIGH:
            self._load(byte << 8, now)
        elif self.low_byte == NONE:
            self.low_byte = byte
            if self.mode == ONE_SHOT:
                self.running = False    # counting stops between the two bytes
        else:
            self._load(self.low_byte | byte << 8, now)
            self.low_byte = NONE

    def _load(self, value, now):
        if self.bcd:
            count = from_bcd(value)
            self.count = count if count != 0 else 10000
        else:
            self.count = value if value != 0 else 0x10000
        self.loaded = True
        if not self._waits_for_gate():
            self.running = True
            self.start = now
            self.frozen = 0

    def set_gate(self, gate, now):
        if gate == self.gate:
            return
        if not gate:
            self.frozen = self.elapsed(now)
            self.gate = False
            return
        self.gate = True
        if self.mode == ONE_SHOT or self.mode == STROBE:
            self.start = now - self.clock.ticks(r_uint(self.frozen), HZ)        # goes on where it was
        elif self.loaded:
            self.running = True
            self.start = now            # the others begin anew

    # Reading.
    def latch_count(self, now):
        if self.latch == NONE:
            self.latch = self.value(now)
            self.high_next = False

    def latch_status(self, now):
        if self.latched_status == NONE:
            self.latched_status = self.access << 4 | self.mode << 1
            if self.bcd:
                self.latched_status |= 1
            if self.out(now):
                self.latched_status |= STATUS_OUT
            if not self.loaded:
                self.latched_status |= STATUS_NULL

    def read(self, now):
        if self.latched_status != NONE:
            status = self.latched_status
            self.latched_status = NONE
            return status
        value = self.latch if self.latch != NONE else self.value(now)
        if self.access == BOTH and not self.high_next:
            self.high_next = True
            return value & 0xff
        self.high_next = False
        self.latch = NONE
        return value & 0xff if self.access == LOW else value >> 8 & 0xff


class Pit(Timed):
    """Three channels, and line 0 of the board."""

    def __init__(self, agenda, clock, lines):
        Timed.__init__(self, agenda)
        self.clock = clock
        self.lines = lines
        self.channels = [Channel(clock) for _ in range(3)]
        self.channels[2].gate = False
        self.port_b = 0                 # what was written to port 0x61

    def clear(self):
        for channel in self.channels:
            channel.clear()
        self.channels[2].gate = False
        self.port_b = 0
        self.lines.set(board.TIMER, False)
        self.set_due(NEVER)

    def write(self, n, byte, now):
        """n: 0 to 2, a counter; CONTROL."""
        if n == CONTROL:
            self._control(byte, now)
        else:
            channel = self.channels[n]
            channel.write(byte, now)
            if n == 0:
                if channel.mode == ONE_SHOT:
                    self.lines.set(board.TIMER, False)
                self.set_due(channel.next_edge(now))

    def _control(self, byte, now):
        n, access = byte >> 6 & 3, byte >> 4 & 3
        if n == READ_BACK:
            self._read_back(byte, now)
        elif access == LATCH:
            self.channels[n].latch_count(now)
        else:
            self.channels[n].set_mode(access, byte >> 1 & 7, byte & 1 != 0)
            if n == 0:
                self.lines.set(board.TIMER, False)
                self.set_due(NEVER)

    def _read_back(self, byte, now):
        for n in range(3):
            if byte >> (n + 1) & 1:
                if not byte & NOT_COUNT:
                    self.channels[n].latch_count(now)
                if not byte & NOT_STATUS:
                    self.channels[n].latch_status(now)

    def read(self, n, now):
        return self.channels[n].read(now) if n < CONTROL else 0

    def tick(self, now):
        """Channel 0 has come to an end of its count."""
        self.lines.pulse(board.TIMER)
        edge = self.channels[0].next_edge(now)
        earliest = now + self.clock.ticks(FASTEST_US, MICROSECOND)
        self.set_due(earliest if edge != NEVER and edge < earliest else edge)

    # Port 0x61.
    def write_port_b(self, byte, now):
        self.port_b = byte & (GATE_2 | SPEAKER | CHECKS)
        self.channels[2].set_gate(byte & GATE_2 != 0, now)

    def read_port_b(self, now):
        value = self.port_b
        if intmask(self.clock.count(now, HZ)) // REFRESH_TICKS & 1:
            value |= REFRESH
        if self.channels[2].out(now):
            value |= OUT_2
        return value


class PitPorts(Device):
    def __init__(self, pit):
        Device.__init__(self, PORT, 4, True)
        self.pit = pit

    def read(self, offset, size):
        return r_uint(self.pit.read(offset, self.pit.clock.now()))

    def write(self, offset, size, value):
        self.pit.write(offset, intmask(value) & 0xff, self.pit.clock.now())
        return DONE


class SpeakerPort(Device):
    def __init__(self, pit):
        Device.__init__(self, SPEAKER_PORT, 1, True)
        self.pit = pit

    def read(self, offset, size):
        return r_uint(self.pit.read_port_b(self.pit.clock.now()))

    def write(self, offset, size, value):
        self.pit.write_port_b(intmask(value) & 0xff, self.pit.clock.now())
        return DONE
