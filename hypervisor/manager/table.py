"""What the manager says about VMs: one line when one ends, the table when all have."""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.lib import text
from hypervisor.lib.text import Sink
from hypervisor.manager.build import reason
from hypervisor.spec import answer, ending, entry, exit

PLAIN, DECIMAL, HEXADECIMAL = 0, 1, 2
CODES = 1 + max(ending.WORDS)
UNKNOWN = 'ended in a way that nobody knows, detail %d'
GAP = 2                 # columns between two columns
HOW_TITLE = 'how it ended'
TIME_TITLE = 'run time ms'
SHARE_TITLE = ' share'


def _split(words):
    """'status %d now' -> ('status ', DECIMAL, ' now')."""
    for mark, kind in (('%d', DECIMAL), ('%x', HEXADECIMAL)):
        if mark in words:
            before, after = words.split(mark)
            return before, kind, after
    return words, PLAIN, ''


_PARTS = [_split(ending.WORDS.get(code, UNKNOWN)) for code in range(CODES)] + [_split(UNKNOWN)]
BEFORE = [before for before, _, _ in _PARTS]
KIND = [kind for _, kind, _ in _PARTS]
AFTER = [after for _, _, after in _PARTS]


def _rules(sentences):
    """Sentences by their number; an empty one where no rule has the number."""
    return [sentences.get(number, '') for number in range(1 + max(sentences))]


ENTRY_RULES = _rules(dict((number, entry.NAMES[number] + ': ' + sentence) for number, sentence in entry.SENTENCES.items()))
ANSWER_RULES = _rules(answer.SENTENCES)


def write_rule(sink, vm):
    """Which rule was broken, where the detail is the number of one."""
    rules = ENTRY_RULES if vm.how == ending.ENTRY_FAILED else ANSWER_RULES
    if vm.how != ending.ENTRY_FAILED and vm.how != ending.VMM_BAD_ANSWER:
        return
    number = intmask(vm.detail)
    if 0 < number and number < len(rules):
        text.write(sink, ' (')
        text.write(sink, rules[number])
        text.write(sink, ')')


class Width(Sink):
    """A sink that only counts."""

    def __init__(self):
        self.count = 0

    def put(self, byte):
        self.count += 1


def write_ending(sink, vm):
    """The words for how the VM ended; for one that did not start, the reason as well."""
    code = vm.how if 0 <= vm.how < CODES else CODES
    text.write(sink, BEFORE[code])
    if KIND[code] == DECIMAL:
        text.decimal(sink, vm.detail)
    elif KIND[code] == HEXADECIMAL:
        text.hexadecimal(sink, vm.detail)
    text.write(sink, AFTER[code])
    if vm.how == ending.NOT_STARTED:
        text.write(sink, ': ')
        text.write(sink, reason(intmask(vm.detail)))


def ended_well(vm):
    return (vm.how == ending.EXITED and vm.detail == r_uint(0)) or vm.how == ending.POWERED_OFF


class Table(object):
    def __init__(self, console, serial):
        self.console = console
        self.serial = serial
        self.width = Width()
        self.name_width = 0
        self.how_width = 0

    def announce(self, vm):
        """The line for a VM that has just ended."""
        self.console.begin()
        self.console.name(vm)
        self.serial.put(ord(' '))
        write_ending(self.serial, vm)
        write_rule(self.serial, vm)
        self.console.end()

    def write(self, vms, count, tsc_khz):
        self.measure(vms, count)
        self.write_title()
        for n in range(count):
            self.write_row(vms[n], tsc_khz)

    def measure(self, vms, count):
        self.name_width = len('VM')
        self.how_width = len(HOW_TITLE)
        for n in range(count):
            self.name_width = max(self.name_width, vms[n].name_length)
            self.width.count = 0
            write_ending(self.width, vms[n])
            self.how_width = max(self.how_width, self.width.count)

    def write_title(self):
        start = self.begin()
        text.write(self.serial, 'VM')
        self.go_to(start + self.name_width + GAP)
        text.write(self.serial, HOW_TITLE)
        self.go_to(start + self.name_width + GAP + self.how_width + GAP)
        text.write(self.serial, TIME_TITLE)
        text.fill(self.serial, ord(' '), GAP)
        text.write(self.serial, SHARE_TITLE)
        text.write(self.serial, '  exits')
        self.console.end()

    def write_row(self, vm, tsc_khz):
        start = self.begin()
        self.console.bare_name(vm)
        self.go_to(start + self.name_width + GAP)
        write_ending(self.serial, vm)
        self.go_to(start + self.name_width + GAP + self.how_width + GAP)
        text.decimal_right(self.serial, vm.ticks // tsc_khz, len(TIME_TITLE))
        text.fill(self.serial, ord(' '), GAP)
        self.write_share(vm)
        text.write(self.serial, '  ')
        self.write_exits(vm)
        self.console.end()

    def write_share(self, vm):
        """How much of a processor it had from its start to its end, its VMM included: `49.8%`."""
        thousandth = (vm.ended - vm.started) // r_uint(1000)
        tenths = r_uint(0)
        if thousandth != r_uint(0):
            tenths = (vm.ticks + vm.vmm_ticks) // thousandth
        text.decimal_right(self.serial, tenths // r_uint(10), len(SHARE_TITLE) - len('.0%'))
        self.serial.put(ord('.'))
        text.decimal(self.serial, tenths % r_uint(10))
        self.serial.put(ord('%'))

    def write_exits(self, vm):
        """Each kind that occurred: `port 12, cpuid 3`; a dash when none did."""
        some = False
        for kind in range(exit.COUNT):
            if vm.exits[kind] != r_uint(0):
                if some:
                    text.write(self.serial, ', ')
                text.write(self.serial, exit.NAMES[kind])
                self.serial.put(ord(' '))
                text.decimal(self.serial, vm.exits[kind])
                some = True
        if not some:
            self.serial.put(ord('-'))

    def begin(self):
        """Start a line. Returns the column after 'bulkhead: '."""
        self.console.begin()
        return self.serial.column

    def go_to(self, column):
        text.fill(self.serial, ord(' '), column - self.serial.column)
