"""Whole boxes for tests: run one to its end, or hold one at a chosen moment and look into it from outside.

    result = run_box(config(vm('a', 'hello'), vm('b', 'ticker', command_line='lines=3')), machine='bochs')
    assert result.status == 0, result
    assert result.lines['b'] == ['tick 1 of 3', 'tick 2 of 3', 'tick 3 of 3']

    with Box(config(vm('a', 'spinner')), machine, monitor=True) as box:
        box.wait_for(r'^\\[a\\] spinning')
        box.pause()
        box.registers()['cr3'], box.read_physical(0x100000, 4096)
        box.resume()

A Box has its own folder, sockets and terminal, so any number of them run beside each other.
"""
import re
import select
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from bulkhead import box as bulkhead_box, check, emulator, run
from bulkhead.facts import ROOT, layout

# Seconds from the start to the end of a test's box; Bochs interprets, and both may share a slow machine with another test.
SECONDS = {'qemu': 60, 'bochs': 180}
PAUSE_AFTER_START = 30
GUEST_LINE = re.compile(r'\[([a-z0-9_-]+)\] ?(.*)')
OWN_LINE = re.compile(r'bulkhead: (.*)')


def vm(name, image, memory='16M', kind='multiboot', exit_port=True, command_line='', modules=(), load=None, **more):
    """A [[vm]] table. image: of build/guests by its name alone, or a path as in machine.toml. more: other keys of [[vm]]."""
    boot = {'kind': kind, 'image': image if '/' in image else '@guests/' + image, 'command_line': command_line,
            'modules': list(modules)}
    if load is not None:
        boot['load'] = load
    return {'name': name, 'memory': memory, 'exit_port': exit_port, **more, 'boot': boot}


def config(*vms, memory='128M'):
    """A machine.toml as a dict."""
    return {'box': {'name': 'test', 'memory': memory}, 'vm': list(vms)}


def toml_text(table):
    """A dict of a machine.toml as TOML."""
    if isinstance(table, bool):
        return 'true' if table else 'false'
    if isinstance(table, dict):
        return '{' + ', '.join('%s = %s' % (key, toml_text(value)) for key, value in table.items()) + '}'
    if isinstance(table, (list, tuple)):
        return '[' + ', '.join(toml_text(each) for each in table) + ']'
    if isinstance(table, (int, float)):
        return str(table)
    return '"%s"' % ''.join(c if c.isprintable() and c not in '"\\' else '\\u%04x' % ord(c) for c in table)


def load(description):
    """A checked Machine from a dict, a TOML text or a path (or as it is). In dicts and texts, paths count from the checkout's root."""
    if isinstance(description, check.Machine):
        return description
    if isinstance(description, Path):
        return check.load(description)
    text = description if isinstance(description, str) else '\n'.join('%s = %s' % (key, toml_text(value)) for key, value in description.items())
    return check.load_text(text, ROOT / 'test.toml')


@dataclass(frozen=True)
class Row:
    """What the final table says about one VM."""
    how: str
    milliseconds: int
    share: float                # of a processor, from its start to its end
    exits: dict                 # kind -> count


@dataclass
class Result:
    """One finished run. `status` is what `bulkhead run` would exit with; `message` what it would say."""
    machine: str
    output: str
    status: int
    message: str
    seconds: float
    lines: dict = field(default_factory=dict)       # VM -> its lines, without its name
    own: list = field(default_factory=list)         # the manager's and kernel's lines, without 'bulkhead: '
    table: dict = field(default_factory=dict)       # VM -> Row

    def __post_init__(self):
        for line in self.output.splitlines():
            guest, own = GUEST_LINE.fullmatch(line), OWN_LINE.fullmatch(line)
            if guest:
                self.lines.setdefault(guest[1], []).append(guest[2])
            elif own:
                self.own.append(own[1])
        self.table = parse_table(self.own)

    def text(self, name):
        """All that one guest has printed."""
        return '\n'.join(self.lines.get(name, []))

    def __str__(self):
        return '%s, status %d, %.1f s%s\n%s' % (self.machine, self.status, self.seconds, ': ' + self.message if self.message else '', self.output)

    __repr__ = __str__


def parse_table(own_lines):
    """The final table by its title's columns: {name: Row}."""
    start = next((n for n, line in enumerate(own_lines) if re.match(r'VM +how it ended +run time ms +share +exits$', line)), None)
    if start is None:
        return {}
    how, rows = own_lines[start].index('how it ended'), {}
    time_at = own_lines[start].index('run time ms')
    share_at = time_at + len('run time ms')
    exits_at = own_lines[start].index('exits', share_at)
    for line in own_lines[start + 1:]:
        if line.startswith('box off'):
            break
        exits = dict((kind, int(count)) for kind, count in re.findall(r'([a-z][a-z ]*?) ([0-9]+)(?:, |$)', line[exits_at:]))
        rows[line[:how].strip()] = Row(line[how:time_at].strip(), int(line[time_at:share_at]), float(line[share_at:exits_at].strip().rstrip('%')) / 100, exits)
    return rows


class _Collector:
    """Where a Watch writes to."""

    def __init__(self):
        self.data = bytearray()

    def write(self, data):
        self.data += data

    def flush(self):
        pass


class Box:
    """A box that runs. Its output is read only by wait_for() and finish()."""

    def __init__(self, description, machine='qemu', monitor=False, accel='tcg', icount=False, timeout=None, kernel=bulkhead_box.KERNEL,
                 manager=bulkhead_box.MANAGER, edit=None, quantum=None):
        """edit: called with the laid-out files' folder before the start, to damage something in it. quantum: Bochs' (bulkhead/run.py)."""
        self.machine = machine
        self.timeout = timeout or SECONDS[machine]
        self.loaded = load(description)
        self.folder = Path(run.new_folder('test'))
        self.collected = _Collector()
        try:
            self.emulator = run.start(self.loaded, self.folder, machine, accel, icount=icount, monitor=monitor, kernel=kernel,
                                      manager=manager, edit=edit, quantum=quantum)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.watch = run.Watch(self.emulator, self.collected, timeout=self.timeout, keep_returns=False)
        self.started = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.emulator.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def output(self):
        """What was read so far."""
        return self.since(0)

    def mark(self):
        """A place in the output: its end so far."""
        return len(self.collected.data)

    def since(self, mark):
        """What was read since then."""
        return self.collected.data[mark:].decode('utf-8', 'replace')

    def wait_for(self, pattern, timeout=None, since=0):
        """Read until `pattern` (a regex; ^ and $ match at lines) is in the output, from the mark `since` on. Returns the match, or
        fails the test."""
        compiled, end = re.compile(pattern, re.MULTILINE), time.monotonic() + (timeout or self.timeout)
        while True:
            found = compiled.search(self.since(since))
            if found:
                return found
            if self.emulator.ended() and not self.emulator.wait_for_output(0):
                raise AssertionError('the box ended before %r came:\n%s' % (pattern, self.output))
            if time.monotonic() > end:
                raise AssertionError('%r did not come in %d s:\n%s' % (pattern, timeout or self.timeout, self.output))
            if self.emulator.wait_for_output(0.1):
                self.watch.take()

    def wait_for_end_of_much(self, marker, since, timeout=None):
        """As wait_for(), for plain text that comes after megabytes, each of which is looked at once."""
        marker, end = marker.encode(), time.monotonic() + (timeout or self.timeout)
        while self.collected.data.find(marker, since) < 0:
            since = max(since, self.mark() - len(marker))
            assert time.monotonic() < end and not self.emulator.ended(), self.output[-2000:]
            if self.emulator.wait_for_output(0.1):
                self.watch.take()

    def type(self, text):
        """Type text (or bytes) on the box's keyboard, its serial port. What it says meanwhile is read, or both might wait for each other."""
        data, end = text.encode() if isinstance(text, str) else text, time.monotonic() + self.timeout
        while data:
            readable, writable, _ = select.select([self.emulator], [self.emulator], [], 0.1)
            if readable:
                self.watch.take()
            if writable:
                data = data[self.emulator.write(data[:4096]):]
            assert time.monotonic() < end, 'the box takes no keys'

    def now(self):
        """The outside's clock, in seconds: what the emulated machine's clocks follow. Nothing that the box has measured or told comes in.
        Bochs needs monitor=True."""
        if self.machine == 'qemu':
            return time.monotonic()
        self.pause()
        ticks = int(re.search(r'ptime: ([0-9]+)', self.command('ptime'))[1])
        self.resume()
        return ticks / emulator.BOCHS_TICKS

    def finish(self):
        """Read until the box has ended by itself. Returns a Result."""
        ending = self.watch.run()
        return Result(self.machine, self.output, ending.status, ending.message, time.monotonic() - self.started)

    # The monitor: Box(..., monitor=True) only.
    def pause(self):
        """Stop the machine between two instructions. On Bochs only after it has said something: earlier it does not listen yet."""
        if not self.watch.has_spoken:
            self.wait_for('.', PAUSE_AFTER_START)
        self.emulator.pause()

    def resume(self):
        self.emulator.resume()

    def read_physical(self, address, size):
        """Bytes of the paused machine's physical memory. QEMU: any size at once. Bochs: about a megabyte a second."""
        return self.emulator.read_physical(address, size)

    def registers(self):
        """The paused processor's registers by lower-case names (those of whatever runs now: kernel, task or guest)."""
        return self.emulator.registers()

    def command(self, line):
        """A line for QEMU's human monitor or Bochs' debugger. Returns its text."""
        return self.emulator.human(line) if self.machine == 'qemu' else self.emulator.command(line)

    def physical(self):
        """The paused machine's physical memory, page by page, each fetched once."""
        return Physical(self)


class Physical:
    """Physical memory of a paused box. Forget it when the box is resumed."""

    def __init__(self, box):
        self.box = box
        self.pages = {}

    def page(self, address):
        """The whole page that `address` lies in."""
        first = address - address % layout.PAGE
        if first not in self.pages:
            self.pages[first] = self.box.read_physical(first, layout.PAGE)
        return self.pages[first]

    def read(self, address, size):
        data, start = b'', address
        while len(data) < size:
            offset = start % layout.PAGE
            piece = self.page(start)[offset:offset + size - len(data)]
            data += piece
            start += len(piece)
        return data

    def word(self, address):
        """The 64-bit word at `address`."""
        return int.from_bytes(self.read(address, 8), 'little')


def run_box(description, machine='qemu', timeout=None, script=(), **more):
    """Run a box to its end. script: (pattern, keys) pairs: when the pattern has come, the keys are typed. Returns a Result."""
    with Box(description, machine, timeout=timeout, **more) as box:
        for pattern, keys in script:
            box.wait_for(pattern)
            box.type(keys)
        return box.finish()
