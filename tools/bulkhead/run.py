"""Watching a box until it ends: its lines go out, keys go in, and it ends with one status.

The box's own last line says how it ended; docs/abi.md, "What the box prints".
"""
import contextlib
import os
import re
import select
import shutil
import signal
import sys
import tempfile
import termios
import time
from dataclasses import dataclass

from bulkhead import box, emulator
from bulkhead.mistake import Trouble

NO_START, FAULT, SILENT, QUIT = 69, 70, 124, 130
BOX_OFF = re.compile(rb'bulkhead: box off, status ([0-9]+)\s*$')
KERNEL_FAULT, CANNOT_START = b'bulkhead: kernel fault', b'bulkhead: cannot start:'
SCREEN_QUIET, SCREEN_MOST = 0.2, 5.0    # seconds: when a fault's screen counts as complete
OFF_SECONDS = 10                        # from the box's last line to the emulator's end
QUIET_SECONDS = 60
STEP = 0.1
ESCAPE, QUIT_KEY = 0x01, ord('x')       # Ctrl-A x
MOST_LINE = 64 << 10


@dataclass(frozen=True)
class Ending:
    """How a run ended. `status`: of the command; `message`: a sentence, '' where the box has said it all."""
    status: int
    message: str = ''


class Lines:
    """Finds the box's own lines in its output. Guests' lines begin with their names, so a guest cannot say these."""

    def __init__(self):
        self.partial = b''
        self.status = None              # N of the last line
        self.verdict = None             # KERNEL_FAULT or CANNOT_START
        self.sentence = ''

    def feed(self, data):
        *whole, self.partial = (self.partial + data).split(b'\n')
        self.partial = self.partial[-MOST_LINE:]
        for line in whole:
            self._look_at(line.strip(b'\r'))

    def look_at_partial(self):
        """The last line may have lost its end."""
        self._look_at(self.partial.strip(b'\r'))

    def _look_at(self, line):
        off = BOX_OFF.match(line)
        if off and self.status is None:
            self.status = int(off[1])
        for sign in (KERNEL_FAULT, CANNOT_START):
            if line.startswith(sign) and self.verdict is None:
                self.verdict, self.sentence = sign, line[len(sign):].decode('utf-8', 'replace').strip()


class Watch:
    """One run of one emulator, seen from outside."""

    def __init__(self, machine, out, keyboard=None, quiet_limit=None, timeout=None, log=None, first_output=lambda: None,
                 keep_returns=True, patient=False):
        self.machine, self.out, self.keyboard = machine, out, keyboard
        self.quiet_limit, self.timeout, self.log = quiet_limit, timeout, log
        self.first_output = first_output
        self.keep_returns = keep_returns
        self.patient = patient          # on a terminal: a box that has spoken may wait for keys as long as it likes
        self.lines = Lines()
        self.started = self.heard = time.monotonic()
        self.has_spoken = False
        self.typed = b''

    def run(self):
        """Returns an Ending."""
        ending = self._run()
        if self.lines.partial:
            self.out.write(b'\n')       # what follows begins its own line
            self.out.flush()
        return ending

    def _run(self):
        while True:
            self._wait()
            said = self.take()
            ending = self._ending(said)
            if ending:
                return ending

    def _wait(self):
        if self.keyboard and self.keyboard.ended:
            self.keyboard = None
        readers = [self.machine] + ([self.keyboard] if self.keyboard else [])
        ready = select.select(readers, [self.machine] if self.typed else [], [], STEP)
        if self.keyboard and self.keyboard in ready[0]:
            self.typed += self.keyboard.read()
        if self.typed:
            self.typed = self.typed[self.machine.write(self.typed):]

    def take(self):
        """Pass on what the box has said. Returns whether it said something."""
        data = self.machine.read()
        if not data:
            return False
        if not self.has_spoken:
            self.first_output()
            self.has_spoken = True
        self.heard = time.monotonic()
        self.lines.feed(data)
        if self.log:
            self.log.write(data)
            self.log.flush()
        self.out.write(data if self.keep_returns else data.replace(b'\r', b''))
        self.out.flush()
        return True

    def _drain(self, quiet, most):
        """Pass on what still comes: until it is quiet for `quiet` seconds, `most` seconds are over, or the emulator is gone."""
        start = heard = time.monotonic()
        while time.monotonic() - heard < quiet and time.monotonic() - start < most:
            ended = self.machine.ended()
            if self.machine.wait_for_output(STEP / 2) and self.take():
                heard = time.monotonic()
            elif ended:
                break
        while self.take():
            pass

    def _ending(self, said):
        lines, now = self.lines, time.monotonic()
        if lines.status is not None:
            return self._off()
        if lines.verdict:
            self._drain(SCREEN_QUIET, SCREEN_MOST)
            if lines.verdict == CANNOT_START:
                return Ending(NO_START, 'the box could not start: %s' % lines.sentence)
            return Ending(FAULT, 'the kernel stopped with a fault: the screen above says which')
        if self.keyboard and self.keyboard.quit:
            return Ending(QUIT, 'ended by Ctrl-A x')
        if not said and self.machine.ended():
            self._drain(SCREEN_QUIET, SCREEN_MOST)
            lines.look_at_partial()
            if lines.status is not None or lines.verdict:
                return self._ending(False)
            return self._vanished()
        if self.timeout and now - self.started > self.timeout:
            return Ending(SILENT, 'the box was still running after %g s (--timeout): ended it' % self.timeout)
        if self.quiet_limit and now - self.heard > self.quiet_limit and not (self.patient and self.has_spoken):
            return Ending(SILENT, 'the box has printed nothing for %g s (--quiet-limit): ended it%s'
                          % (self.quiet_limit, '' if self.has_spoken else self._never_spoke()))
        return None

    def _never_spoke(self):
        said = self.machine.said()
        return '. It never printed anything' + (':\n' + said if said else '')

    def _off(self):
        """The box has said that it is off. The emulator has to agree."""
        status = self.lines.status
        self._drain(OFF_SECONDS, OFF_SECONDS)
        if not self.machine.ended():
            return Ending(FAULT, 'the box said "box off, status %d", but %s still ran %d s later' % (status, self.machine.name, OFF_SECONDS))
        code = self.machine.wait(1)
        known = self.machine.box_status(code)
        if known is not None and known != status:
            return Ending(FAULT, 'the box said "status %d", but %s ended with %d (status %d)' % (status, self.machine.name, code, known))
        return Ending(min(status, 255))

    def _vanished(self):
        code = self.machine.wait(1)
        what = '%s ended (exit code %s) before the box said that it was off' % (self.machine.name, code)
        hint = ': the machine reset itself, as after a triple fault' if self.machine.name == 'QEMU' and code == 0 else ''
        said = self.machine.said()
        return Ending(FAULT, what + hint + ('\n' + said if said else ''))


class Keyboard:
    """Keys for the box. On a terminal, Ctrl-A x ends the run and Ctrl-A twice is one Ctrl-A for the box."""

    def __init__(self, file, is_terminal):
        self.fd, self.is_terminal = file.fileno(), is_terminal
        self.quit = False
        self.escaped = False
        self.ended = False

    def fileno(self):
        return self.fd

    def read(self):
        try:
            data = os.read(self.fd, 1024)
        except OSError:
            data = b''
        if not data:
            self.ended = True
        return self._unescaped(data) if self.is_terminal else data

    def _unescaped(self, data):
        keys = bytearray()
        for byte in data:
            if self.escaped:
                self.escaped = False
                if byte == QUIT_KEY:
                    self.quit = True
                elif byte == ESCAPE:
                    keys.append(ESCAPE)
                else:
                    keys += bytes([ESCAPE, byte])
            elif byte == ESCAPE:
                self.escaped = True
            else:
                keys.append(byte)
        return bytes(keys)


@contextlib.contextmanager
def raw_terminal(file):
    """Keys come one by one and unechoed, Ctrl-C among them; output is treated as before. Restored however this ends."""
    fd = file.fileno()
    before = termios.tcgetattr(fd)
    raw = termios.tcgetattr(fd)
    raw[0] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON | termios.ISTRIP | termios.BRKINT)
    raw[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
    raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSADRAIN, raw)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def orderly_signals():
    """SIGTERM and SIGHUP unwind like an exception, so that the terminal is restored and the emulator ended."""
    def leave(number, _frame):
        raise SystemExit(128 + number)
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def new_folder(kind):
    """A folder for one run's files below build/run, named after this process. What killed processes left there goes away."""
    box.RUNS.mkdir(parents=True, exist_ok=True)
    for folder in box.RUNS.iterdir():
        owner = folder.name.split('-')[1:2]
        if owner and owner[0].isdigit() and not os.path.exists('/proc/' + owner[0]):
            shutil.rmtree(folder, ignore_errors=True)
    return tempfile.mkdtemp(prefix='%s-%d-' % (kind, os.getpid()), dir=box.RUNS)


@contextlib.contextmanager
def private_folder():
    """As new_folder(), removed at the end."""
    folder = new_folder('box')
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(machine, folder, kind, accel='tcg', gdb=False, icount=False, monitor=False, kernel=box.KERNEL, manager=box.MANAGER,
          edit=None, cpu_model=None, quantum=None):
    """Lay the box out in `folder` and start it. edit: called with that folder before the start. cpu_model: another of
    Bochs' processors; quantum: instructions that each of its processors executes in turn. Returns the Emulator."""
    laid_out = box.Folder(folder, machine, kernel, manager).write()
    if edit:
        edit(laid_out.path)
    if kind == 'qemu':
        return emulator.Qemu(laid_out, accel, gdb, icount, monitor)
    if gdb:
        raise Trouble('Debian\'s Bochs has no port for GDB: use --machine qemu with --gdb')
    if icount:
        raise Trouble('--icount is QEMU\'s; Bochs counts instructions anyway (100 million are one second)')
    return emulator.Bochs(laid_out, monitor, cpu_model, quantum=quantum)


def out_stream():
    return sys.stdout.buffer
