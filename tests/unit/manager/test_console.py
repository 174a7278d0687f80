"""The console: interleaved output of guests that try everything, against a terminal that executes what comes out of the port.

test_console_editing.py tests what a guest can do; this file, what it cannot.
"""
import re

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory, task
from hypervisor.manager.console import BELL_MS, NOBODY, QUIET_MS, Console
from hypervisor.manager.serial import Serial
from hypervisor.manager.terminal import LINE_BYTES, MORE, NUMBER_MOST, SEQUENCE_BYTES, WHOLE, Sequence
from hypervisor.manager.vm import RUNNING, Vm
from hypervisor.spec import call, layout, status
from hypervisor.spec.vcpu import RING_BYTES
from tests.unit.fake_kernel import TSC_KHZ, StrictMemory, quick

# Not Phase.target: no test here has a target, and without one that phase may take minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
NAMES = ['a', 'b', 'third-vm']


@pytest.fixture(autouse=True, scope='module')
def quickly():
    with quick():
        yield


class Vt100(object):
    """A terminal `width` columns wide, without a bottom. Refuses whatever could harm.

    rows: what the lines have become, as lists of (character, pen); x: the cursor's column on the piece of the last row that stands at the
    bottom; pieces before that have wrapped. A pen is the sorted numbers of SGR that hold.
    """
    PREFIX = re.compile(r'\[[a-z0-9_-]+\] |bulkhead: ')
    PENS = set([1, 2, 4, 7] + [n for base in (30, 40, 90, 100) for n in range(base, base + 8)])

    def __init__(self, width):
        self.width = width
        self.rows = [[]]
        self.guarded = 0            # columns of the last row that hold its prefix
        self.piece = 0              # where the piece at the bottom begins, in cells of the row
        self.x = 0
        self.wraps = False          # the cursor is past the last column: the next character goes to a new piece
        self.pen = ()
        self.rest = ''              # of a sequence or a CR LF
        self.bells = 0

    def put(self, byte):
        self.rest += chr(byte)
        if self.rest == '\x07':
            self.bells += 1
        elif self.rest == '\r\n':
            assert self.pen == ()
            self.rows.append([])
            self.guarded = self.piece = self.x = 0
            self.wraps = False
        elif self.rest == '\x1b[K':
            assert self.pen == () and self.piece + self.x >= self.guarded
            del self.rows[-1][self.piece + self.x:]
        elif re.match(r'\x1b\[[0-9]{1,5}G\Z', self.rest):
            self.x = min(int(self.rest[2:-1]), self.width) - 1
            self.wraps = False
        elif re.match(r'\x1b\[[0-9;]+m\Z', self.rest):
            self.set_pen([int(number) for number in self.rest[2:-1].split(';')])
        elif ' ' <= self.rest <= '~':
            self.write(self.rest)
        else:
            assert re.match(r'\r\Z|\x1b(\[[0-9;]*)?\Z', self.rest) and len(self.rest) < 40, repr(self.rest)
            return
        self.rest = ''

    def set_pen(self, numbers):
        assert numbers[0] == 0 and len(set(numbers)) == len(numbers)
        assert self.PENS.issuperset(numbers[1:])
        self.pen = tuple(sorted(numbers[1:]))

    def write(self, character):
        row = self.rows[-1]
        if self.wraps:
            self.piece += self.width
            self.x = 0
        place = self.piece + self.x
        assert place >= self.guarded
        row += [(' ', ())] * (place + 1 - len(row))
        row[place] = character, self.pen
        self.wraps = self.x == self.width - 1
        self.x += not self.wraps
        if self.guarded == 0 and self.PREFIX.match(self.text(-1)):
            assert all(pen == () for _, pen in row)
            self.guarded = len(row)

    def text(self, n):
        return ''.join(character for character, _ in self.rows[n])

    def texts(self):
        return [self.text(n) for n in range(len(self.rows))]


class Screen(object):
    """A kernel that knows three rings and a serial port that is always ready, with a terminal."""

    def __init__(self, width=10 ** 6):
        self.now = 1
        self.screen = bytearray()
        self.terminal = Vt100(width)
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
            self.terminal.put(a4)
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

    def manager_says(self, sentence):
        self.console.begin()
        for character in sentence:
            self.serial.put(ord(character))
        self.console.end()

    def finish(self):
        for vm in self.vms:
            self.console.finish_all(vm)
        return self.lines()

    def lines(self):
        """What stands on the terminal, which is at the beginning of a line."""
        assert self.terminal.texts()[-1] == '' and self.terminal.rest == ''
        return self.terminal.texts()[:-1]


# -- a guest can do nothing outside of its own row

NUMBERS = ['', '0', '1', '2', '4', '5', '74', '999', '99999999999999999999', '3;4', '1;31', '0;7;102', '?1', '>', '!', '1 ']
CONTROLS = st.sampled_from(['\x1b[%s%s' % (numbers, final) for numbers in NUMBERS for final in 'ABCDGHJKP@Xfhlmnpqrsuc'])
NASTY = st.sampled_from(['\n', '\r', '\r\n', 'bulkhead: box off, status 0', '\nbulkhead: ', '[a] ', '\r[b] ', '\b' * 9, '\x1b[1A', '\x1b[6n',
                         '\x1bM', '\x1bc', '\x1b7', '\x1b]0;title\x07', '\x1bP+q\x1b\\', '\x1b', '\x1b[', '\x1b[2', '\0', '\x9b2J', '\x9b',
                         'x' * 300, 'y' * LINE_BYTES, 'z' * (LINE_BYTES - 1), '\t', '\x85', '\x0b', '\x0c', '\x7f', '\x07', '\xc3\xa4', '\x0e'])
SNIPPETS = st.lists(st.sampled_from('\x1b[0123;CDGHKJPX@m?( \b\r\n\t\x07abc\xc3'), max_size=20).map(''.join)
FILL = st.integers(60, 90).map(lambda count: 'w' * count)       # about as much as fits on a row of the narrow terminals
CHUNK = st.one_of(NASTY, CONTROLS, SNIPPETS, FILL, st.lists(CONTROLS, max_size=6).map(''.join), st.binary(max_size=40))
STEP = st.one_of(st.tuples(st.integers(0, 2), CHUNK), st.tuples(st.just('wait'), st.sampled_from([1, 50, 120])),
                 st.tuples(st.just('manager'), st.just('all is well')), st.tuples(st.just('focus'), st.just(0)))


def parts(screen, step):
    """What a step does, each with the beginnings of the lines that it may write to."""
    who, what = step
    names = ['[%s] ' % name for name in NAMES]
    if who == 'wait':
        screen.now += what * TSC_KHZ
        return [(names[vm.index], lambda vm=vm: screen.console.receive(vm)) for vm in screen.vms]
    if who == 'manager':
        return [('bulkhead: ' + what, lambda: screen.manager_says(what))]
    if who == 'focus':
        next_one = names[(screen.console.focus + 1) % len(NAMES)]
        return [(('bulkhead: keyboard now goes to ' + next_one[:-1], next_one), screen.console.focus_next)]
    return [(names[who], lambda: screen.say(who, what))]


@settings(max_examples=500, phases=PHASES)
@given(st.lists(STEP, max_size=16), st.sampled_from([16, 79, 80, 81, 132, 10 ** 6]))
def test_every_line_has_its_speaker_and_nobody_touches_a_line_of_others(steps, width):
    screen = Screen(width)
    screen.console.focus_first()
    for step in steps + [('wait', 0)]:
        for speaker, act in parts(screen, step):
            before = [list(row) for row in screen.terminal.rows]
            act()
            after = screen.terminal.rows
            assert screen.terminal.pen == () and screen.terminal.rest == ''
            for n, row in enumerate(after):
                text = screen.terminal.text(n)
                assert (n < len(before) and row == before[n]) or text.startswith(speaker) or (n == len(after) - 1 and text == ''), text
            assert after[:len(before) - 1] == before[:-1]
    assert all(line.startswith(('[a] ', '[b] ', '[third-vm] ', 'bulkhead: ')) for line in screen.finish())


@settings(max_examples=200, phases=PHASES)
@given(st.lists(st.tuples(st.integers(0, 2), st.text(alphabet=u' abc~\n', max_size=30).map(str), st.sampled_from([0, 0, 120])),
                max_size=30))
def test_nothing_of_plain_text_is_lost_or_doubled(steps):
    screen, said = Screen(), ['', '', '']
    for n, text, ms in steps:
        screen.say(n, text.replace('\n', '\r\n'))
        screen.wait(ms)
        said[n] += text
    lines = screen.finish()
    for name, text in zip(NAMES, said):
        prefix = '[%s] ' % name
        assert ''.join(line[len(prefix):] for line in lines if line.startswith(prefix)) == text.replace('\n', '')


@settings(max_examples=200, phases=PHASES)
@given(st.lists(st.tuples(st.integers(0, 2), st.text(alphabet=u'abc \n\r', max_size=30).map(str)), max_size=30))
def test_lines_of_guests_that_are_not_slow_come_out_whole(steps):
    screen, said = Screen(), ['', '', '']
    for n, text in steps:
        screen.say(n, text)
        said[n] += text
    lines = screen.finish()
    for name, text in zip(NAMES, said):
        prefix = '[%s] ' % name
        expected = [overprinted(line) for line in text.split('\n')]
        if expected[-1] == '':
            expected.pop()
        assert [line[len(prefix):] for line in lines if line.startswith(prefix)] == expected


def overprinted(line):
    """A line as paper shows it when a later piece, after a CR, hides what is under it."""
    result = ''
    for piece in line.split('\r'):
        result = piece + result[len(piece):]
    return result


@settings(max_examples=50, phases=PHASES)
@given(st.lists(st.one_of(CONTROLS, NASTY, SNIPPETS), max_size=60).map(''.join), st.booleans())
def test_a_load_never_keeps_the_port_busy_for_much_longer_than_its_own_bytes_would(data, is_open):
    screen = Screen()
    if is_open:
        screen.say(0, '\x1b[1;2;4;7;97;107m'.join(['x'] * (LINE_BYTES - 1)))
        screen.wait(QUIET_MS)
    screen.rings[0] += data[:RING_BYTES]
    before = len(screen.screen)
    screen.console.receive(screen.vms[0])
    assert len(screen.screen) - before <= 24 * LINE_BYTES + 16 * len(data)


@pytest.mark.parametrize('data', ['a\r\x1b[99999@\n', '\t\n', '\t', '\x1b[1;2;4;7;97;107mx\x1b[mx', '\x9b', 'x\x1b[99999X\x1b[2K',
                                  'x\r\x1b[9999@'])
def test_what_comes_out_of_the_port_is_bounded_by_what_the_guest_wrote(data):
    screen = Screen()
    screen.say(0, data * (RING_BYTES // len(data)))
    assert len(screen.screen) <= 16 * RING_BYTES


def test_a_guest_cannot_walk_into_the_prefix_where_the_terminal_wraps():
    """A cursor past the last column is one column further left than it seems: steps to the left would add up to the prefix."""
    screen = Screen(80)
    for _ in range(100):
        screen.say(0, 'x' * 76 + '\r' + '\b' * 200 + '\x1b[999D')
        screen.wait(QUIET_MS)
    screen.say(0, '\x1b[K[b] forged')
    assert screen.terminal.texts() == ['[a] [b] forged']


@pytest.mark.parametrize('query', ['\x1b[6n', '\x1b[5n', '\x1b[c', '\x1b[0c', '\x1b[>c', '\x1b[=c', '\x1b[?6n', '\x1b[x', '\x1b[18t', '\x1b[21t',
                                   '\x1bZ', '\x1b[?2004h', '\x1b[?25l', '\x1b[?1049h', '\x1b[2;5r', '\x1b[20h', '\x1b[?4h', '\x1b[5A', '\x1b[5B',
                                   '\x1b[S', '\x1b[L', '\x1b7', '\x1b8', '\x1bc', '\x1bD', '\x1bE', '\x1bM', '\x1b=', '\x1b(0', '\x1b#8',
                                   '\x1b[!p', '\x1b[3J', '\x1b[s'])
def test_a_query_or_mode_is_swallowed_and_moves_nothing(query):
    screen = Screen()
    screen.say(0, 'abc\b' + query + 'x')
    screen.wait(QUIET_MS)
    screen.say(0, query + 'y\n')
    assert bytes(screen.screen) == '[a] abxy\r\n'


def test_a_string_for_the_terminal_is_shown_as_text():
    screen = Screen()
    screen.say(0, '\x1b]0;title\x07\n\x1bPq\x1b\\\n\x1b^x\n\x1b_x\n\x1bXx\n')
    assert screen.lines() == ['[a] \\x1b]0;title', '[a] \\x1bPq', '[a] \\x1b^x', '[a] \\x1b_x', '[a] \\x1bXx']


def test_an_escape_sequence_may_come_in_pieces():
    screen = Screen()
    for byte in 'abcd\x1b[3Dx\x1b[31;1my':
        screen.say(0, byte)
        screen.wait(500)
    assert screen.terminal.texts() == ['[a] axyd'] and screen.terminal.rows[0][6] == ('y', (1, 31))


@pytest.mark.parametrize('piece', ['\x1b', '\x1b[', '\x1b[12;3', '\x1b(', '\x1b['.ljust(SEQUENCE_BYTES - 1, '1')])
@pytest.mark.parametrize('after', ['\n', '\x1bM\n', '\x07\n', ''])
def test_an_unfinished_escape_sequence_is_shown_at_the_end_of_the_line_or_vm_or_when_another_begins(piece, after):
    screen = Screen()
    screen.say(0, piece)
    screen.say(0, after)
    assert screen.finish() == ['[a] \\x1b' + piece[1:]]


def test_an_unfinished_escape_sequence_is_shown_when_it_is_too_long():
    screen = Screen()
    screen.say(0, '\x1b[' + '1' * (SEQUENCE_BYTES - 3) + 'C\x1b[' + '1' * (SEQUENCE_BYTES - 2))
    screen.wait(QUIET_MS)
    assert screen.terminal.texts() == ['[a] \\x1b[' + '1' * (SEQUENCE_BYTES - 2)]


@pytest.mark.parametrize('numbers, expected', [('', [0]), (';', [0, 0]), ('12;3', [12, 3]), ('0007', [7]), (';;9999;10000', [0, 0, 9999, NUMBER_MOST]),
                                               ('9' * (SEQUENCE_BYTES - 3), [NUMBER_MOST]), (';' * (SEQUENCE_BYTES - 3), [0] * (SEQUENCE_BYTES - 2))])
def test_the_numbers_of_a_sequence_are_read_and_bounded(numbers, expected):
    sequence = Sequence()
    sequence.begin()
    assert [sequence.add(ord(byte)) for byte in '[' + numbers + 'm'] == [MORE] * (1 + len(numbers)) + [WHOLE]
    assert sequence.function() == ord('m') and sequence.numbers[:sequence.number_count] == expected


@pytest.mark.parametrize('stranger, shown', [('\x07', ''), ('\x18', '\\x18'), ('\x9b', '\\x9b'), ('\x7f', '\\x7f'), ('\x1b(B', '')])
def test_a_byte_that_cannot_stand_in_an_escape_sequence_ends_it(stranger, shown):
    screen = Screen()
    screen.say(0, 'abc\x1b[' + stranger + '3Dx\n')
    assert screen.lines() == ['[a] abc\\x1b[' + shown + '3Dx']


def test_an_escape_sequence_does_not_reach_over_the_line_of_another():
    screen = Screen()
    screen.say(0, 'abc\x1b[')
    screen.wait(QUIET_MS)
    screen.say(1, 'hello\n')
    screen.say(0, '3Dx\n')
    assert screen.finish() == ['[a] abc', '[b] hello', '[a] x']


def test_a_bell_rings_for_the_focused_guest_on_its_open_line_and_not_too_often():
    screen = Screen()
    screen.console.focus_first()
    screen.now += 10000 * TSC_KHZ
    screen.say(0, '\x07\x07')
    screen.say(1, 'b>')
    screen.wait(QUIET_MS)
    screen.say(1, '\x07')
    assert screen.terminal.bells == 0
    screen.say(0, '> ')
    screen.wait(QUIET_MS)
    screen.say(0, '\x07x\x07')
    assert screen.terminal.bells == 1
    screen.wait(BELL_MS)
    screen.say(0, '\x07' * 50)
    assert screen.terminal.bells == 2 and screen.finish() == ['[b] b>', '[a] > x']


# -- when lines are shown

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
    assert bytes(screen.screen) == '[a] one\r\n[a] threetwo\r\n'.replace('threetwo', 'two\x1b[5Gthree')
    assert screen.finish() == ['[a] one', '[a] three']


def test_a_line_that_others_have_ended_goes_on_with_its_name_and_at_its_first_column():
    screen = Screen()
    screen.say(0, '/root # ec')
    screen.wait(QUIET_MS)
    screen.say(1, 'noise\n')
    screen.say(0, '\b\b\rho\bi')
    screen.wait(QUIET_MS)
    screen.manager_says('all is well')
    screen.say(0, '\r\n')
    assert screen.finish() == ['[a] /root # ec', '[b] noise', '[a] hi', 'bulkhead: all is well', '[a] ']


def test_a_line_that_others_have_ended_has_all_of_its_bytes_again():
    screen = Screen()
    screen.say(0, 'x' * (LINE_BYTES - 1))
    screen.wait(QUIET_MS)
    screen.say(1, 'noise\n')
    screen.say(0, 'y' * (LINE_BYTES - 1))
    assert bytes(screen.screen).endswith('noise\r\n')
    screen.wait(QUIET_MS)
    screen.say(0, '\rY\n')
    assert screen.lines() == ['[a] ' + 'x' * (LINE_BYTES - 1), '[b] noise', '[a] Y' + 'y' * (LINE_BYTES - 2)]


@pytest.mark.parametrize('back', ['\r', '\b'])
def test_a_line_that_an_escape_sequence_fills_as_text_goes_on_after_it(back):
    screen = Screen()
    screen.say(0, 'x' * (LINE_BYTES - 2))
    screen.wait(QUIET_MS)
    screen.say(0, '\x1b[1' + back + 'y\n')
    assert screen.lines() == ['[a] ' + 'x' * (LINE_BYTES - 2) + '\\x1b[1y']


def test_nothing_of_a_line_that_is_long_is_lost_and_only_its_end_can_be_edited():
    screen = Screen()
    screen.say(0, 'x' * (LINE_BYTES + 3) + '\r' + 'abcd\x1b[3D!')
    screen.wait(QUIET_MS)
    screen.say(0, '\r?\x1b[K' + 'y' * 2 * LINE_BYTES + '\n')
    assert screen.finish() == ['[a] ' + 'x' * LINE_BYTES + '?' + 'y' * 2 * LINE_BYTES]


# -- the focus

def test_the_prompt_of_the_guest_that_gets_the_keyboard_is_shown_again_and_can_be_edited():
    screen = Screen()
    screen.console.focus_first()
    screen.say(0, 'one $ ')
    screen.say(1, 'two $ ech\x1b[2D')
    screen.wait(QUIET_MS)
    screen.console.focus_next()
    assert screen.console.open == 1
    screen.say(1, 'X\x1b[KY')
    screen.console.focus_next()
    screen.console.focus_next()
    screen.say(0, 'ls\n')
    assert screen.finish() == ['[a] one $ ', '[b] two $ ech', 'bulkhead: keyboard now goes to [b]', '[b] two $ eXY',
                               'bulkhead: keyboard now goes to [third-vm]', 'bulkhead: keyboard now goes to [a]', '[a] one $ ls']


def test_a_switch_shows_no_prompt_of_a_guest_that_has_ended_its_line():
    screen = Screen()
    screen.say(1, 'hello\n')
    screen.console.focus = 0
    screen.console.focus_next()
    assert screen.console.open == NOBODY and screen.lines() == ['[b] hello', 'bulkhead: keyboard now goes to [b]']


def test_a_prompt_in_pieces_is_shown_again_in_one():
    screen = Screen()
    screen.console.focus_first()
    for piece in ('/root', ' # ', 'ls'):
        screen.say(0, piece)
        screen.wait(QUIET_MS)
        screen.say(1, 'noise\n')
    for vm in screen.vms[1:]:
        vm.state = RUNNING + 1
    screen.console.focus_next()
    assert screen.terminal.texts()[-2:] == ['bulkhead: keyboard now goes to [a]', '[a] /root # ls']


def test_a_long_unfinished_line_is_shown_again_and_goes_on():
    screen = Screen()
    screen.console.focus_first()
    for count in (LINE_BYTES - 1, LINE_BYTES - 2, 3):
        screen.say(0, 'x' * count)
        screen.wait(QUIET_MS)
        screen.manager_says('all is well')
    for vm in screen.vms[1:]:
        vm.state = RUNNING + 1
    screen.console.focus_next()
    screen.say(0, '\x1b[D\x1b[99@' + 'y' * 2 * LINE_BYTES + '\n')
    assert len(screen.finish()) == 8


def test_a_line_that_others_end_again_and_again_has_no_bound():
    screen = Screen()
    for _ in range(5):
        screen.say(0, 'x' * (LINE_BYTES - 1))
        screen.wait(QUIET_MS)
        screen.manager_says('all is well')
    assert screen.finish() == ['[a] ' + 'x' * (LINE_BYTES - 1), 'bulkhead: all is well'] * 5
