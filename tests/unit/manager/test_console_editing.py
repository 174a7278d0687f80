"""What a guest can do to its own line: against a second terminal of one row, and with what shells and line editors print."""
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.manager.console import NOBODY, QUIET_MS
from hypervisor.manager.terminal import INSERT_MOST, LINE_BYTES, SEQUENCE_BYTES
from tests.unit.fake_kernel import quick
from tests.unit.manager.test_console import CHUNK, NAMES, PHASES, SNIPPETS, Screen


@pytest.fixture(autouse=True, scope='module')
def quickly():
    with quick():
        yield


# -- the second terminal: strings and regular expressions

CONTROL = re.compile(r'\x1b\[([0-9;]*)([@-~])|\x1b\[[ -?]*[@-~]|\x1b(?![\[PX\]^_])[ -/]*[0-~]')
BEGUN = re.compile(r'\x1b(\[[ -?]*|[ -/]*)\Z')
COLOURS = dict((n, 'ink') for n in list(range(30, 38)) + list(range(90, 98)))
COLOURS.update((n + 10, 'paper') for n in list(COLOURS))
OFF = {22: [1, 2], 24: [4], 27: [7], 39: ['ink'], 49: ['paper']}


class OneRow(object):
    """rows: the guest's ended lines, as lists of (character, pen). row, x, base: its current one, the cursor, how much is out of reach."""

    def __init__(self):
        self.rows = []
        self.row = []
        self.x = self.base = 0
        self.pen = {}
        self.inserts = False
        self.rest = ''
        self.is_cut = self.last_was_return = False

    def hear(self, data):
        for byte in data:
            if self.is_cut:
                self.row, self.x, self.base, self.is_cut = [], 0, 0, False
            self.last_was_return = byte == '\r' or self.last_was_return and byte == '\x07'
            self.rest += byte
            while self.rest and self.step():
                pass
            if len(self.row) - self.base >= LINE_BYTES:
                self.x = self.base = len(self.row)

    def step(self):
        """Consume something of `rest`. Returns whether that was possible."""
        control = CONTROL.match(self.rest[:SEQUENCE_BYTES])
        if control:
            self.rest = self.rest[control.end():]
            if control.group(2):
                self.obey(control.group(2), [int(number or 0) for number in control.group(1).split(';')])
        elif BEGUN.match(self.rest) and len(self.rest) < SEQUENCE_BYTES:
            return False
        else:
            character, self.rest = self.rest[0], self.rest[1:]
            self.plain(character)
        return True

    def plain(self, character):
        if character == '\n':
            self.rows.append(self.row)
            self.row, self.x, self.base, self.last_was_return = [], 0, 0, False
        elif character == '\r':
            self.x = self.base
        elif character == '\b':
            self.x = max(self.x - 1, self.base)
        elif character == '\t':
            stop = (self.x - self.base) // 8 * 8 + 8 + self.base
            self.x = min(stop, len(self.row))
            self.write([(' ', self.brush())] * (stop - self.x))
        elif character != '\x07':
            self.write([(character, self.brush())])

    def write(self, characters):
        self.row[self.x:self.x if self.inserts else self.x + len(characters)] = characters
        if self.x + len(characters) < len(self.row):
            del self.row[self.base + LINE_BYTES - 1:]
        self.x += len(characters)

    def brush(self):
        return tuple(sorted(self.pen.values()))

    def obey(self, function, numbers):
        count, row, x, blank = max(numbers[0], 1), self.row, self.x, (' ', ())
        places = {'C': x + count, 'D': x - count, 'G': self.base + count - 1, 'H': self.base + (numbers + [0])[1] - 1}
        places['f'] = places['H']
        if function in places:
            self.x = min(max(places[function], self.base), len(row))
        elif function in 'JK':
            if numbers[0] in (1, 2):
                end = min(x + 1, len(row))
                row[self.base:end] = [blank] * (end - self.base)
            if numbers[0] in (0, 2):
                del row[x:]
        elif function == '@' and x < len(row):
            row[x:x] = [blank] * min(count, INSERT_MOST)
            del row[self.base + LINE_BYTES - 1:]
        elif function == 'P':
            del row[x:x + count]
        elif function == 'X':
            end = min(x + count, len(row))
            row[x:end] = [blank] * (end - x)
        elif function in 'hl' and numbers[0] == 4:
            self.inserts = function == 'h'
        elif function == 'm':
            for number in numbers:
                if number in (38, 48):
                    break
                for what in OFF.get(number, self.pen.keys() if number == 0 else []):
                    self.pen.pop(what, None)
                if number in (1, 2, 4, 7) or number in COLOURS:
                    self.pen[COLOURS.get(number, number)] = number

    def end(self, is_open):
        """The VM has ended."""
        if self.is_cut and self.rest:
            self.row, self.x, self.base, self.is_cut = [], 0, 0, False
        self.write([(character, self.brush()) for character in self.rest])
        if is_open or self.row and not self.is_cut:
            self.rows.append(self.row)


def cells(row):
    """A row as it looks: every byte that is not printable takes four columns."""
    return [(c, pen) for byte, pen in row for c in (byte if ' ' <= byte <= '~' else '\\x%02x' % ord(byte))]


EDIT = st.sampled_from(['abc', 'vwxyz', 'x', '\xe4', '\x00b', ' ', '\b', '\b\b\b', '\r', '\t', '\x1b[31m', '\x1b[7m', '\x1b[m', '\x1b[4h',
                        '\x1b[4l'] +
                       ['\x1b[%s%s' % (n, function) for n in ('', 2, 3) for function in 'CDG@PXKJ'])
EDITS = st.lists(EDIT, max_size=12).map(''.join)
STEP = st.one_of(st.tuples(st.integers(0, 1), CHUNK), st.tuples(st.integers(0, 1), SNIPPETS), st.tuples(st.just(0), EDITS),
                 st.just(('wait', QUIET_MS)))
AT_A_PROMPT = st.lists(st.tuples(st.just(0), EDITS), max_size=8).map(lambda edits: [(0, '$ '), ('wait', QUIET_MS)] + edits)


@settings(max_examples=500, phases=PHASES)
@given(st.one_of(st.lists(STEP, max_size=12), AT_A_PROMPT))
def test_a_line_looks_as_its_editing_leaves_it_whenever_its_bytes_come_and_whoever_interrupts(steps):
    screen, models = Screen(), [OneRow() for _ in NAMES]
    console, terminal = screen.console, screen.terminal

    def do(n, act):
        before, rows = console.open, len(terminal.rows)
        act()
        if before not in (NOBODY, n) and len(terminal.rows) > rows:
            models[before].rows.append(models[before].row)
            models[before].is_cut = True

    for who, what in steps:
        if who == 'wait':
            screen.now += 10 ** 6
            for vm in screen.vms:
                do(vm.index, lambda: console.receive(vm))
        else:
            models[who].hear(what)
            do(who, lambda: screen.say(who, what))
        if console.open != NOBODY and not models[console.open].last_was_return:
            model, left = models[console.open], len('[%s] ' % NAMES[console.open])
            assert terminal.rows[-1][left:] == cells(model.row)
            assert terminal.x == left + len(cells(model.row[:model.x]))
    for vm, model in zip(screen.vms, models):
        model.end(console.open == vm.index)
        do(vm.index, lambda: console.finish_all(vm))
    screen.lines()
    for name, model in zip(NAMES, models):
        prefix = '[%s] ' % name
        rows = [terminal.rows[n][len(prefix):] for n in range(len(terminal.rows)) if terminal.text(n).startswith(prefix)]
        assert rows == [cells(row) for row in model.rows]


# -- what shells print

class Shell(object):
    """A guest at its prompt. says(): its bytes, one load for each; row(), column(): what stands behind the prefix, where the cursor is."""

    def __init__(self, prompt):
        self.screen = Screen()
        self.screen.console.focus_first()
        self.screen.say(0, prompt)
        self.screen.wait(QUIET_MS)

    def says(self, *loads):
        for load in loads:
            self.screen.say(0, load)

    def row(self):
        return self.screen.terminal.texts()[-1][len('[a] '):]

    def column(self):
        return self.screen.terminal.x - len('[a] ')


@pytest.fixture
def ash():
    return Shell('/root # \x1b[6n')


def test_the_prompt_of_ash_does_not_ask_the_terminal_where_its_cursor_is(ash):
    assert bytes(ash.screen.screen) == '[a] /root # '


def test_typing_at_the_end_of_a_line_costs_one_byte_each(ash):
    before = len(ash.screen.screen)
    ash.says('l', 's', ' ', '-', 'l')
    assert ash.row() == '/root # ls -l' and len(ash.screen.screen) == before + 5


@pytest.mark.parametrize('backspace', ['\b\x1b[J', '\b \b', '\b\x1b[K', '\x1b[D\x1b[P', '\b\x1b[1P'])
def test_backspace_at_the_end_takes_a_character_away(ash, backspace):
    ash.says('l', 's', 'x', backspace)
    assert ash.row().rstrip() == '/root # ls' and ash.column() == len('/root # ls')
    ash.says('\r\n')
    assert ash.screen.lines()[-1].rstrip() == '[a] /root # ls'


def test_backspace_in_the_middle_moves_the_rest(ash):
    ash.says('echo', '\b', '\b', '\bho\x1b[J\b\b')         # busybox: back, the tail, clear to the end, back
    assert ash.row() == '/root # eho' and ash.column() == len('/root # e')


def test_typing_in_the_middle_inserts(ash):
    ash.says('lsroot', '\b\b\b\b', '/root\b\b\b\b')
    assert ash.row() == '/root # ls/root' and ash.column() == len('/root # ls/')
    ash.says('\x1b[C\x1b[2C', '!t\b')
    assert ash.row() == '/root # ls/roo!t' and ash.column() == len('/root # ls/roo!')


def test_home_and_end_move_over_the_whole_line(ash):
    ash.says('cat /proc/cmdline', '\x1b[17D', 'zcat /proc/cmdline\x1b[17D')
    assert ash.row() == '/root # zcat /proc/cmdline' and ash.column() == len('/root # z')
    ash.says('cat /proc/cmdline')
    assert ash.column() == len(ash.row())


def test_history_replaces_a_long_line_by_a_short_one(ash):
    ash.says('cat /proc/interrupts', '\r/root # ls\x1b[J')
    assert ash.row() == '/root # ls' and ash.column() == len('/root # ls')
    ash.says('\r/root # dmesg\x1b[J')
    assert ash.row() == '/root # dmesg'


def test_clearing_the_screen_leaves_the_prompt_alone(ash):
    ash.says('ls', '\x1b[H\r/root # ls\x1b[J')
    assert ash.row() == '/root # ls'
    ash.says('\x1b[H\x1b[2J/root # ls')                    # readline
    assert ash.row() == '/root # ls'


def test_control_c_leaves_the_line_and_shows_a_new_prompt(ash):
    ash.says('sleep', '\b\b', '^C\r\n', '/root # \x1b[6n')
    ash.screen.wait(QUIET_MS)
    assert ash.screen.terminal.texts()[-2:] == ['[a] /root # sle^C', '[a] /root # ']


def test_deleting_more_than_there_is_stops_at_the_prefix(ash):
    ash.says('\b \b' * 50)
    assert ash.screen.terminal.texts()[-1].rstrip() == '[a]' and ash.column() == 0


def test_readline_inserts_deletes_and_brackets_pastes():
    bash = Shell('\x1b[?2004hroot@a:~# ')
    bash.says('echo one', '\b\b\b', '\x1b[1@t', '\x1b[4@wo  ')
    assert bash.row() == 'root@a:~# echo two  one' and bash.column() == len('root@a:~# echo two  ')
    bash.says('\x1b[1P', '\x1b[K', '\r\x1b[C\x1b[C', '\x1b[?2004l\r\r\n')
    assert bash.screen.lines() == ['[a] root@a:~# echo two  ']


def test_an_editor_that_knows_a_vt102_inserts_by_mode(ash):
    ash.says('lsroot', '\b' * 4, '\x1b[4h', ' /', '\x1b[4l')
    assert ash.row() == '/root # ls /root' and ash.column() == len('/root # ls /')
    ash.says('x')
    assert ash.row() == '/root # ls /xoot'


def test_colours_are_shown_and_end_where_the_guest_stops_drawing(ash):
    ash.says('\x1b[1;34mbin\x1b[m  \x1b[01;32mrun', '\x1b[0m\r\n')
    assert bytes(ash.screen.screen).endswith('# \x1b[0;1;34mbin\x1b[0m  \x1b[0;1;32mrun\x1b[0m\r\n')


def test_a_guest_that_never_ends_its_colour_colours_nobody_else(ash):
    ash.says('\x1b[31;7mred')
    ash.screen.say(1, 'plain\n')
    ash.says('still red\n')
    rows = ash.screen.terminal.rows
    assert [sorted(set(pen for _, pen in row)) for row in rows[:-1]] == [[(), (7, 31)], [()], [(), (7, 31)]]
    assert all(pen == () for row in rows for _, pen in row[:len('[a] ')])


@pytest.mark.parametrize('sgr, pen', [('1', (1,)), ('4;7', (4, 7)), ('1;2;22', ()), ('4;24', ()), ('7;27', ()), ('31;42', (31, 42)),
                                      ('97;107', (97, 107)), ('31;39', ()), ('41;49', ()), ('31;32', (32,)), ('1;38;5;4', (1,)),
                                      ('48;2;1;4;7', ()), ('5;8;3;9;21', ()), ('53;99;108', ()), ('1;0', ()), ('1;', ()), ('', ())])
def test_the_attributes_that_a_guest_may_use(sgr, pen):
    shell = Shell('\x1b[%smx' % sgr)
    assert shell.screen.terminal.rows[0][4] == ('x', pen)


def test_a_progress_line_that_came_at_once_shows_its_end():
    screen = Screen()
    screen.say(0, ''.join('\r%3d%%' % n for n in range(0, 101, 10)) + '\r\x1b[Kdone\r\n')
    assert bytes(screen.screen) == '[a] done\r\n'


def test_a_tab_goes_to_the_next_stop_and_hides_nothing():
    screen = Screen()
    screen.say(0, 'a\tb\tc\n12345678\tx\n' + 'abcdefghij\r\tX\n')
    assert screen.lines() == ['[a] a       b       c', '[a] 12345678        x', '[a] abcdefghXj']


def test_what_follows_a_byte_that_is_not_printable_stays_in_place(ash):
    ash.says('\xc3\xa4bc', '\b\b\b', 'xbc\x1b[J')
    assert ash.row() == '/root # \\xc3xbc'


def test_columns_count_from_where_the_line_goes_on_after_others_have_ended_it(ash):
    ash.screen.say(1, 'noise\n')
    ash.says('abcd\x1b[2GX\x1b[7;4HY\x1b[fZ')
    ash.screen.wait(QUIET_MS)
    assert ash.row() == 'ZXcY'


def test_what_an_insertion_moves_past_the_end_of_a_full_line_is_lost():
    screen = Screen()
    screen.say(0, 'x' * (LINE_BYTES - 10) + 'end\r\x1b[%d@<\r\n' % INSERT_MOST)
    assert screen.lines() == ['[a] <' + ' ' * (INSERT_MOST - 1) + 'x' * (LINE_BYTES - 1 - INSERT_MOST)]


def test_a_line_feed_keeps_what_is_right_of_the_cursor(ash):
    ash.says('reboot', '\r', '\n')
    assert ash.screen.lines() == ['[a] /root # reboot']
    assert bytes(ash.screen.screen) == '[a] /root # reboot\r\n'
