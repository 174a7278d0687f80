"""The terminal that a guest writes to: a single row, its current line.

A guest's bytes change nothing but cells in memory. Only draw() and settle() write to the port, and they know five things: printable
characters, ESC[nG (to column n), ESC[K (erase to the end of the row), ESC[...m with attributes of their own making, and ESC[0m after these.
So whatever a guest writes, on the port nothing left of its part of the row is reached, the cursor never goes up, no attribute
outlasts a drawing, and the terminal is never asked to answer. ESC[nG says where to and not how far, because how far is different
once the row has wrapped; a terminal that does not know it moves nowhere.

What the row obeys:
    BS, CR      one cell to the left; to the first cell
    TAB         to the next column that 8 divides; shown as spaces where nothing stands yet
    ESC[nC D G  right, left, to column n; `H` and `f` are G with their second number
    ESC[nK J    erase: 0 from the cursor on, 1 up to it, 2 all. `J` and K are the same on a single row
    ESC[n@ P X  insert (INSERT_MOST at once), delete, erase n cells
    ESC[4h 4l   what is written is inserted; it replaces, as at first
    ESC[...m    bold, dim, underline, reverse, the 16 colours
The cursor stays between the first cell and the one after the last. Any other complete escape sequence is swallowed: queries, modes,
scrolling, colours out of 256. What begins a string (ESC ] P X ^ _) or is none, for a byte that cannot follow or after SEQUENCE_BYTES,
is text. Text is one cell for each byte: what is not printable ASCII is shown as \\xNN.
Source: ECMA-48, "Representation of the control functions" and "Definition of control functions".
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.lib import text

LINE_BYTES = 1024
SEQUENCE_BYTES = 32
TAB_STOP = 8
CELLS = 2 * LINE_BYTES + SEQUENCE_BYTES + TAB_STOP      # remembered, on the row, and what one byte can add: an old sequence and a TAB
NUMBER_MOST = 9999
INSERT_MOST = 64        # or a few bytes of a guest could keep the port busy for long
BEL, BS, TAB, LF, CR, ESC = 7, 8, 9, 10, 13, 0x1b
TEXT, MORE, WHOLE = 0, 1, 2

# A pen: bit n for attribute n of SGR, then the numbers of the colours or 0 for the usual ones. A cell: a byte, then the pen.
ATTRIBUTES = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 7
BOLD_AND_DIM = 1 << 1 | 1 << 2
INK, PAPER, COLOUR = 10, 17, 0x7f
PEN = 8


def is_printable(byte):
    return ord(' ') <= byte <= ord('~')


def opens_string(byte):
    """Of an escape sequence: DCS, SOS, OSC, PM, APC. Their text has no bound."""
    return byte == ord('P') or byte == ord('X') or ord(']') <= byte <= ord('_')


def is_colour(number, base):
    return base <= number <= base + 7 or base + 60 <= number <= base + 67


def width(cell):
    return 1 if is_printable(cell & 0xff) else 4


class Sequence(object):
    """The escape sequence that is being read. `length` is 0 when there is none."""

    def __init__(self):
        self.bytes = [0] * SEQUENCE_BYTES
        self.length = 0
        self.numbers = [0] * SEQUENCE_BYTES
        self.number_count = 0

    def begin(self):
        self.bytes[0] = ESC
        self.length = 1

    def add(self, byte):
        """The next byte, which is printable. Returns MORE, WHOLE, or TEXT when this is no escape sequence."""
        self.bytes[self.length] = byte
        self.length += 1
        if self.length == 2 and opens_string(byte):
            return TEXT
        if self.ends_with(byte):
            return WHOLE
        return TEXT if self.length == SEQUENCE_BYTES else MORE

    def ends_with(self, byte):
        if self.bytes[1] == ord('['):
            return self.length > 2 and byte >= 0x40
        return byte >= 0x30

    def function(self):
        """The last byte of a whole control sequence whose parameters are plain numbers, which are read; 0 for anything else."""
        self.number_count = 1
        self.numbers[0] = 0
        if self.bytes[1] != ord('['):
            return 0
        for n in range(2, self.length - 1):
            if not self.read(self.bytes[n]):
                return 0
        return self.bytes[self.length - 1]

    def read(self, byte):
        """A byte of the numbers. Returns whether it may stand there."""
        last = self.number_count - 1
        if byte == ord(';'):
            self.numbers[last + 1] = 0
            self.number_count += 1
        elif ord('0') <= byte <= ord('9'):
            self.numbers[last] = min(self.numbers[last] * 10 + byte - ord('0'), NUMBER_MOST)
        else:
            return False
        return True

    def number(self, n):
        return self.numbers[n] if n < self.number_count else 0


class Terminal(object):
    """The cells of the guest's current line, and how much of them stands on the port.

    cells[0..length) is what the guest has made of the line, cells[start..length) what belongs on the row of the port: what is before that
    stands on rows which others have ended. start <= cursor <= length. start <= LINE_BYTES, and between two bytes of the guest
    length - start < LINE_BYTES (the console sees to it with freeze()), or start is 0 and the next byte makes it so.
    """

    def __init__(self):
        self.cells = [0] * CELLS
        self.sequence = Sequence()
        self.clear()

    def clear(self):
        """As if the guest had never written."""
        self.pen = 0
        self.inserts = False
        self.sequence.length = 0
        self.clear_line()

    def clear_line(self):
        self.length = 0
        self.cursor = 0
        self.returned = False       # a CR came last: the port's cursor waits for what follows, mostly LF
        self.new_row(0)

    # -- the row on the port

    def new_row(self, start):
        """Nothing of cells[start..) is on the port, whose cursor stands where the guest's part of a row begins."""
        self.start = start
        self.cut = False
        self.frozen = 0             # columns of the row between the prefix and cells[start]
        self.at = 0                 # the port's cursor, in columns from cells[start]
        self.shown = 0              # where what the port shows ends, in the same columns
        self.first = CELLS          # changed since the last drawing: cells[first..last)
        self.last = 0
        self.mark(start, self.length)

    def cut_off(self):
        """The row on the port has been ended. The line may still be wanted: see repeat()."""
        self.cut = True

    def resume(self):
        """The guest goes on: what comes now belongs on a new row if the old one has been ended."""
        if self.cut:
            if self.length > LINE_BYTES:
                self.length = 0
            self.cursor = self.length
            self.new_row(self.length)

    def repeat(self):
        """All of the line belongs on a new row."""
        self.new_row(0)

    def is_full(self):
        return self.length - self.start >= LINE_BYTES

    def freeze(self):
        """Forget what is on the row, which has been drawn: the guest's part begins after it from now on."""
        frozen = min(self.frozen + self.shown, NUMBER_MOST)
        at = self.at - self.shown
        self.clear_line()
        self.frozen = frozen
        self.at = at

    def is_waiting(self):
        """Of a line without a row on the port: is there something to show?"""
        return not self.cut and self.length > self.start

    def mark(self, first, last):
        self.first = min(self.first, first)
        self.last = max(self.last, last)

    # -- what the guest writes

    def take(self, byte):
        """One byte, neither LF nor BEL: those are the console's."""
        self.returned = byte == CR
        if not is_printable(byte):
            self.end_sequence()
        if self.sequence.length > 0:
            self.go_on(byte)
        elif byte == ESC:
            self.sequence.begin()
        elif byte == CR:
            self.cursor = self.start
        elif byte == BS:
            self.go(self.cursor - 1)
        elif byte == TAB:
            self.tabulate()
        else:
            self.write(byte)

    def go_on(self, byte):
        """The next byte of an escape sequence."""
        what = self.sequence.add(byte)
        if what == WHOLE:
            function = self.sequence.function()
            self.sequence.length = 0
            self.obey(function)
        elif what == TEXT:
            self.end_sequence()

    def end_sequence(self):
        """What has come of an escape sequence is none: it is text."""
        for n in range(self.sequence.length):
            self.write(self.sequence.bytes[n])
        self.sequence.length = 0

    def obey(self, function):
        """function: the last byte of a control sequence; its numbers are in self.sequence."""
        number = self.sequence.number(0)
        count = max(number, 1)
        if function == ord('C'):
            self.go(self.cursor + count)
        elif function == ord('D'):
            self.go(self.cursor - count)
        elif function == ord('G'):
            self.go(self.start + count - 1)
        elif function == ord('H') or function == ord('f'):
            self.go(self.start + self.sequence.number(1) - 1)
        elif function == ord('J') or function == ord('K'):
            self.erase(number)
        elif function == ord('@'):
            self.insert(min(count, INSERT_MOST))
        elif function == ord('P'):
            self.delete(count)
        elif function == ord('X'):
            self.blank(self.cursor, self.cursor + count)
        elif number == 4 and (function == ord('h') or function == ord('l')):
            self.inserts = function == ord('h')
        elif function == ord('m'):
            for n in range(self.sequence.number_count):
                if not self.attribute(self.sequence.number(n)):
                    return

    def go(self, index):
        self.cursor = min(max(index, self.start), self.length)

    def tabulate(self):
        while True:
            if self.cursor < self.length:
                self.cursor += 1
            else:
                self.write(ord(' '))
            if (self.cursor - self.start) & (TAB_STOP - 1) == 0:
                return

    def write(self, byte):
        if self.inserts:
            self.insert(1)
        if self.cursor == self.length:
            self.cells[self.length] = ord(' ')
            self.length += 1
        self.set(self.cursor, byte | self.pen << PEN)
        self.cursor += 1

    def set(self, n, cell):
        """Change a cell of the line. One that is as wide as before moves no other."""
        self.mark(n, n + 1 if width(cell) == width(self.cells[n]) else self.length)
        self.cells[n] = cell

    def blank(self, first, last):
        for n in range(first, min(last, self.length)):
            self.set(n, ord(' '))

    def erase(self, which):
        if which == 1:
            self.blank(self.start, self.cursor + 1)
        elif which == 2:
            self.blank(self.start, self.cursor)
        if which == 0 or which == 2:
            self.length = self.cursor

    def insert(self, count):
        """Make room at the cursor; what has no place on the row any more is lost."""
        if self.cursor == self.length:
            return
        self.length = max(self.length, min(self.length + count, self.start + LINE_BYTES - 1))
        n = self.length - 1
        while n >= self.cursor + count:
            self.cells[n] = self.cells[n - count]
            n -= 1
        while n >= self.cursor:
            self.cells[n] = ord(' ')
            n -= 1
        self.mark(self.cursor, self.length)

    def delete(self, count):
        """Move what is right of the deleted cells to the cursor."""
        for n in range(self.cursor + count, self.length):
            self.cells[n - count] = self.cells[n]
        self.length = max(self.length - count, self.cursor)
        self.mark(self.cursor, self.length)

    def attribute(self, number):
        """Change the pen. Returns whether the next number is one like this: 38 and 48 are followed by a colour out of many."""
        if number == 0:
            self.pen = 0
        elif number <= 9:
            self.pen |= 1 << number & ATTRIBUTES
        elif number == 22:
            self.pen &= ~BOLD_AND_DIM
        elif 23 <= number <= 29:
            self.pen &= ~(1 << number - 20)
        elif is_colour(number, 30) or number == 39:
            self.colour(INK, number if number != 39 else 0)
        elif is_colour(number, 40) or number == 49:
            self.colour(PAPER, number if number != 49 else 0)
        return number != 38 and number != 48

    def colour(self, place, number):
        self.pen = self.pen & ~(COLOUR << place) | number << place

    # -- drawing

    def column(self, index):
        """Columns of cells[start..index)."""
        columns = 0
        for n in range(self.start, index):
            columns += width(self.cells[n])
        return columns

    def draw(self, sink, left):
        """Bring the row up to date, whose first `left` columns hold the prefix. Leaves the port's cursor anywhere."""
        last = min(self.last, self.length)
        if self.first < last:
            self.move(sink, left, self.column(self.first))
            self.draw_cells(sink, self.first, last)
        end = self.column(self.length)
        if self.shown > end:
            self.move(sink, left, end)
            text.write(sink, '\x1b[K')
        self.shown = end
        self.first = CELLS
        self.last = 0

    def settle(self, sink, left):
        """Put the port's cursor where the guest's is, after draw()."""
        if not self.returned:
            self.move(sink, left, self.column(self.cursor))

    def move(self, sink, left, column):
        if column != self.at:
            text.write(sink, '\x1b[')
            text.decimal(sink, r_uint(left + self.frozen + column + 1))
            sink.put(ord('G'))
            self.at = column

    def draw_cells(self, sink, first, last):
        pen = 0
        for n in range(first, last):
            cell = self.cells[n]
            if cell >> PEN != pen:
                pen = cell >> PEN
                take_pen(sink, pen)
            show(sink, cell & 0xff)
            self.at += width(cell)
        if pen != 0:
            take_pen(sink, 0)


def show(sink, byte):
    if is_printable(byte):
        sink.put(byte)
    else:
        text.write(sink, '\\x')
        text.hex_digit(sink, byte >> 4)
        text.hex_digit(sink, byte)


def take_pen(sink, pen):
    """Set all attributes of the port's terminal."""
    text.write(sink, '\x1b[0')
    for n in range(INK):
        if pen >> n & 1 != 0:
            add_number(sink, n)
    if pen >> INK & COLOUR != 0:
        add_number(sink, pen >> INK & COLOUR)
    if pen >> PAPER & COLOUR != 0:
        add_number(sink, pen >> PAPER & COLOUR)
    sink.put(ord('m'))


def add_number(sink, number):
    sink.put(ord(';'))
    text.decimal(sink, r_uint(number))


assert ATTRIBUTES >> INK == 0
