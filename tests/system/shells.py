"""Two Debian guests at their shells, typed at through the box's one keyboard: for tests of consoles and clocks."""
import contextlib
import hashlib
import re
import time
from random import Random

from bulkhead.emulator import BOCHS_TICKS
from bulkhead.facts import ROOT
from tests.system.box import Box

BOX = ROOT / 'machines/two-linux.toml'
PORT, STARBOARD = 'port', 'starboard'
SWITCH = '\x1d'
LINE = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ012'
PIECE = 12              # bytes: a 16550's FIFO holds 16
RATE_ERROR = 0.001      # what the clocks' rates may be wrong by
VAGUE = {'qemu': 0.02, 'bochs': 0.04}      # what the looks may leave open of a rate, on a machine as noisy as can be


@contextlib.contextmanager
def shells(machine, seconds, answer_seconds):
    """Two guests at their prompts, the keyboard at the first. seconds: for the whole box; answer_seconds: for one answer."""
    with Box(BOX, machine, monitor=machine == 'bochs', timeout=seconds) as box:
        for name in (PORT, STARBOARD):
            box.wait_for(r'^\[%s\] root@%s:/root# ' % (name, name))
        yield Guests(box, answer_seconds)


class Guests:
    """Both guests' shells, through the one keyboard."""

    def __init__(self, box, seconds, pause=0):
        """pause: seconds after each PIECE of a command, for a box that may not read its serial port for longer than its FIFO lasts."""
        self.box, self.seconds, self.pause, self.focus, self.count = box, seconds, pause, PORT, 0

    def turn_to(self, name):
        if name != self.focus:
            at = self.box.mark()
            self.box.type(SWITCH)
            self.after(at, r'^bulkhead: keyboard now goes to \[%s\]' % name)
            self.focus = name

    def after(self, at, pattern):
        """Wait for a pattern in what the box says from the mark `at` on."""
        return self.box.wait_for(pattern, self.seconds, since=at)

    def say(self, name, command):
        """Type a command. Returns what the guest answers, which ends with its prompt's marker."""
        self.turn_to(name)
        self.count += 1
        at = self.box.mark()
        # The markers are put together by the guest, so that the echo of the command is not taken for them.
        self.type('echo "be""gin-%d"; %s; echo "do""ne-%d"\r' % (self.count, command, self.count))
        self.after(at, r'^\[%s\] (?:.*[^"])?done-%d$' % (name, self.count))
        whole = '\n'.join(self.rows(name, at))
        assert 'begin-%d\n' % self.count in whole, self.box.since(at)
        return whole.partition('begin-%d\n' % self.count)[2].partition('done-%d' % self.count)[0].strip()

    def type(self, text):
        piece = PIECE if self.pause else len(text)
        for start in range(0, len(text), piece):
            self.box.type(text[start:start + piece])
            time.sleep(self.pause)

    def rows(self, name, at):
        """The guest's rows from the mark `at` on. A line that another's has cut is more than one."""
        return [row[len(name) + 3:] for row in self.box.since(at).splitlines() if row.startswith('[%s] ' % name)]

    def number(self, name, command):
        return int(self.say(name, command).split()[-1])


class Clock:
    """A guest's uptime (CLOCK_BOOTTIME) against the outside's clock.

    Each look is a bracket: the guest has read its clock after `before` and before `after`. Two brackets bound the rate, whatever the
    machine below does meanwhile: noise makes the bounds wide, but never wrong.
    """
    READ = 'z() { read a b </proc/uptime; echo "at $a"; }'         # no fork, and no file that takes long to make
    STEP = 0.01         # seconds, of what it reads

    def __init__(self, guests, name):
        self.guests, self.name, self.looks = guests, name, []
        guests.say(name, self.READ)

    def look(self, times):
        """Read it some times."""
        box = self.guests.box
        self.guests.turn_to(self.name)
        for _ in range(times):
            at = box.mark()
            box.type('z')                       # one letter: no line of the other guest's can come between
            self.guests.after(at, r'z$')
            at, before = box.mark(), box.now()
            box.type('\r')
            found = self.guests.after(at, r'^\[%s\] at ([0-9.]+)\n' % self.name)
            self.looks.append((before, box.now(), float(found[1])))

    def rate(self):
        """Lower and upper bound of guest's seconds in a second outside."""
        pairs = [(first, last) for first in self.looks for last in self.looks if last[0] > first[1]]
        return (max((last[2] - first[2] - self.STEP) / (last[1] - first[0]) for first, last in pairs),
                min((last[2] - first[2] + self.STEP) / (last[0] - first[1]) for first, last in pairs))

    def believed(self):
        """The TSC's rate in Hz that the guest counts its time by: it has taken it from the clock page of KVM's interface."""
        assert self.guests.say(self.name, 'cat /sys/devices/system/clocksource/clocksource0/current_clocksource') in ('kvm-clock', 'tsc')
        return float(re.search(r'([0-9]+\.[0-9]+) MHz', self.guests.say(self.name, 'dmesg | grep "tsc: Detected"'))[1]) * 1e6

    def check(self):
        low, high = self.rate()
        print('%s, %s: rate %.5f to %.5f' % (self.guests.box.machine, self.name, low, high))
        assert low <= 1 + RATE_ERROR and high >= 1 - RATE_ERROR
        assert high - low < VAGUE[self.guests.box.machine]
        if self.guests.box.machine == 'bochs':          # whose TSC's rate is known; QEMU's is the host's
            assert abs(self.believed() / BOCHS_TICKS - 1) < RATE_ERROR


def print_much(guests, size):
    """The first guest prints `size` bytes; the second one's shell answers meanwhile."""
    box, lines = guests.box, ['%08d%s' % (n, LINE) for n in range(size >> 6)]
    assert len(lines[0] + '\n') == 64 and size % 64 == 0
    guests.turn_to(PORT)
    at = box.mark()
    box.type('sleep 2; awk \'BEGIN { for (n = 0; n < %d; n++) printf "%%08d%s\\n", n }\'; echo "prin""ted"\r' % (len(lines), LINE))
    guests.turn_to(STARBOARD)
    guests.after(at, '00000000abc')
    assert guests.number(STARBOARD, 'echo $((6 * 8))') == 48
    assert '\n[port] printed' not in box.since(at), 'the answer came while the other printed'
    box.wait_for_end_of_much('[port] printed', at, guests.seconds)
    rows = guests.rows(PORT, at)
    rows = rows[next(n for n, row in enumerate(rows) if row.startswith(lines[0][:16])):rows.index('printed')]
    assert max(len(row) for row in rows) == len(lines[0]), 'no end of line is missing'
    got, want = ''.join(rows), ''.join(lines)
    if got != want:
        wrong = next(n for n in range(len(want)) if got[n:n + 1] != want[n])
        raise AssertionError('%d of %d bytes, wrong from %d on: %r' % (len(got), len(want), wrong, got[wrong:wrong + 200]))


def paste_much(guests, mode, before, size):
    """`size` bytes of all kinds but the switch key are typed at the first guest's raw terminal, and read after the command `before`. In
    the midst of it the keyboard goes to the second guest, whose shell answers, and back."""
    box, random = guests.box, Random(1)
    data = bytes(byte for byte in random.randbytes(size + size // 16) if byte != ord(SWITCH))[:size]
    guests.turn_to(PORT)
    at = box.mark()
    box.type('stty raw -echo %s; echo "rea""dy"; %s; head -c %d | md5sum; stty sane; echo "pas""ted"\r' % (mode, before, size))
    guests.after(at, r'^\[port\] ready')
    box.type(data[:size * 3 // 4])
    assert guests.number(STARBOARD, 'echo $((6 * 8))') == 48
    guests.turn_to(PORT)
    box.type(data[size * 3 // 4:])
    box.wait_for_end_of_much('[port] pasted', at, guests.seconds)
    assert hashlib.md5(data).hexdigest() in '\n'.join(guests.rows(PORT, at))
    assert guests.say(PORT, 'dmesg | grep -i overrun') == ''
