"""The console: interleaved output of guests that try everything, against a model of what a reader may conclude from the screen."""
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory, task
from hypervisor.manager.console import LINE_BYTES, QUIET_MS, Console
from hypervisor.manager.serial import Serial
from hypervisor.manager.vm import RUNNING, Vm
from hypervisor.spec import call, layout, status
from tests.unit.fake_kernel import TSC_KHZ, StrictMemory, quick

NAMES = ['a', 'b', 'third-vm']


@pytest.fixture(autouse=True, scope='module')
def quickly():
    with quick():
        yield


class Screen(object):
    """A kernel that knows three rings and a serial port that is always ready."""

    def __init__(self):
        self.now = 1
        self.screen = bytearray()
        self.rings = [bytearray() for _ in NAMES]
        memory.fake = StrictMemory()
        memory.fake.map(layout.TASK_PAGE, 4096)
        task.reset_fake(self)
        self.serial = Serial()
        self.vms = [Vm(n) for n in range(len(NAMES))]
        for vm, name in zip(self.vms, NAMES):
            vm.state, vm.name_length = RUNNING, len(name)
            vm.name[:len(name)] = bytearray(name)
        self.console = Console(self.serial, self.vms)
        self.console.start(len(NAMES), r_uint(TSC_KHZ))

    def call(self, number, a1, a2, a3, a4, a5, a6):
        if number == call.PORT_OUT and a2 == 0x3f8:
            self.screen.append(a4)
        if number == call.PORT_IN:
            return status.OK, 0x60
        if number == call.RING_RECEIVE:
            ring = self.rings[a1 - self.vms[0].output]
            data = bytes(ring[:2048])
            del ring[:2048]
            memory.fake.write(layout.TASK_PAGE, data)
            return status.OK, len(data)
        return status.OK, 0

    def rdtsc(self):
        return self.now

    def say(self, n, data):
        """VM n says something and the manager hears it."""
        self.rings[n] += data
        while self.rings[n]:
            self.console.receive(self.vms[n])

    def wait(self, ms):
        self.now += ms * TSC_KHZ
        for vm in self.vms:
            self.console.receive(vm)

    def finish(self):
        for vm in self.vms:
            self.console.finish_all(vm)
        assert self.screen.endswith('\r\n') or not self.screen
        return bytes(self.screen)[:-2].split('\r\n') if self.screen else []


def shown(data):
    """What a reader shall see of `data`: by the documentation, with a regular expression."""
    data = re.sub(r'\r\n', '\n', data)
    return ''.join(c if 32 <= ord(c) <= 126 or c in '\t\n' else '\\x%02x' % ord(c) for c in data)


NASTY = st.sampled_from(['\n', '\r', '\r\n', 'bulkhead: box off, status 0', '\nbulkhead: ', '[a] ', '\r[b] ', '\x1b[2K', '\x08',
                         '\x1b[1A', '\0', '\x9b', 'x' * 300, 'y' * LINE_BYTES, '\t', '\x85', '\x0b', '\x0c', '\x7f'])
CHUNK = st.one_of(NASTY, st.binary(max_size=40))
STEP = st.one_of(st.tuples(st.integers(0, 2), CHUNK), st.tuples(st.just('wait'), st.sampled_from([1, 50, 120])),
                 st.tuples(st.just('manager'), st.just(0)))


def play(steps):
    screen = Screen()
    said = ['', '', '']
    for who, what in steps:
        if who == 'wait':
            screen.wait(what)
        elif who == 'manager':
            screen.console.begin()
            for character in 'all is well':
                screen.serial.put(ord(character))
            screen.console.end()
        else:
            screen.say(who, what)
            said[who] += what
    return said, screen.finish(), screen


@settings(max_examples=400, deadline=None)
@given(st.lists(STEP, max_size=16))
def test_every_line_has_its_speaker_and_nothing_is_lost_or_forged(steps):
    said, lines, screen = play(steps)
    prefixes = ['[%s] ' % name for name in NAMES]
    of = dict((name, []) for name in NAMES)
    own = 0
    for line in lines:
        assert all(32 <= ord(c) <= 126 or c == '\t' for c in line)
        if line.startswith('bulkhead: '):
            assert line == 'bulkhead: all is well'
            own += 1
        else:
            prefix = [p for p in prefixes if line.startswith(p)]
            assert len(prefix) == 1, line
            of[prefix[0][1:-2]].append(line[len(prefix[0]):])
    assert own == sum(1 for who, _ in steps if who == 'manager')
    for name, text in zip(NAMES, said):
        assert ''.join(of[name]) == shown(text).replace('\n', '')


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.sampled_from('abc \n\r\t\x1b'), max_size=30).map(''.join)), max_size=30))
def test_lines_of_guests_that_are_not_slow_come_out_whole(steps):
    said, lines, _ = play(steps)
    for name, text in zip(NAMES, said):
        prefix = '[%s] ' % name
        expected = shown(text).split('\n')
        if expected[-1] == '':
            expected.pop()
        assert [line[len(prefix):] for line in lines if line.startswith(prefix)] == expected


def test_a_line_just_short_of_full_waits_and_a_full_one_is_shown():
    screen = Screen()
    screen.say(0, 'x' * (LINE_BYTES - 1))
    assert bytes(screen.screen) == ''
    screen.say(0, 'x')
    assert bytes(screen.screen) == '[a] ' + 'x' * LINE_BYTES


def test_silence_shows_a_partial_line_and_not_sooner():
    screen = Screen()
    screen.say(1, 'login: ')
    screen.wait(QUIET_MS - 1)
    assert bytes(screen.screen) == ''
    screen.wait(1)
    assert bytes(screen.screen) == '[b] login: '


def test_a_carriage_return_at_the_end_of_one_chunk_belongs_to_the_line_feed_of_the_next():
    screen = Screen()
    screen.say(0, 'one\r')
    screen.wait(500)
    screen.say(0, '\ntwo\r')
    screen.wait(500)
    screen.say(0, 'three\n')
    assert screen.finish() == ['[a] one', '[a] two\\x0dthree']
