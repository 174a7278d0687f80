"""The three emulated processors, and a box that runs on one of them: to its end, or held at an instruction."""
import contextlib
import os
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bulkhead import check, run
from bulkhead.facts import ROOT
from bulkhead.mistake import Trouble

BOX = ROOT / 'machines' / 'bench.toml'
TRACED = re.compile(r'^\(0\)\.\[[0-9]+\] (?:\[0x[0-9a-f]+\] [0-9a-f]{4}:([0-9a-f]{16}) |\?\?\?)', re.MULTILINE)    # Bochs' `trace on`


@dataclass(frozen=True)
class Processor:
    """One column of the bench. Its TSC counts executed instructions: QEMU's with -icount, Bochs' always."""
    name: str
    title: str
    machine: str            # of tools/bulkhead: qemu or bochs
    vendor: str             # svm or vmx
    model: str = None       # Bochs' cpu model; None: QEMU's -cpu max
    seconds: int = 60       # until the box must have ended

    @property
    def counts_cores(self):
        """Can it count while several processors run? QEMU's counter gives them long turns."""
        return self.machine == 'bochs'


PROCESSORS = {each.name: each for each in (
    Processor('qemu-svm', 'QEMU, SVM', 'qemu', 'svm'),
    Processor('bochs-vmx', 'Bochs, VMX', 'bochs', 'vmx', 'corei7_haswell_4770', 180),
    Processor('bochs-svm', 'Bochs, SVM with NRIPS', 'bochs', 'svm', 'ryzen', 180),
)}


class Output:
    """Where a Watch writes to."""

    def __init__(self):
        self.data = b''

    def write(self, data):
        self.data += data

    def flush(self):
        pass

    def text(self):
        return self.data.decode('utf-8', 'replace')


class Box:
    """A box that runs. Use as a context manager. monitor: its debugger is wanted."""

    def __init__(self, processor, description=BOX, monitor=False, edit=None, quantum=None):
        """edit: called with the laid-out files' folder before the start. quantum: Bochs' (bulkhead/run.py)."""
        self.edit = edit
        self.quantum = quantum
        self.processor = processor
        self.monitor = monitor
        self.machine = check.load(description) if isinstance(description, Path) else check.load_text(description, ROOT / 'bench.toml')
        self.output = Output()
        self._stack = contextlib.ExitStack()
        self.debugger = None

    def __enter__(self):
        self.folder = Path(self._stack.enter_context(run.private_folder()))
        is_qemu = self.processor.machine == 'qemu'
        self.emulator = self._stack.enter_context(run.start(
            self.machine, self.folder, self.processor.machine, icount=is_qemu, monitor=self.monitor, edit=self.edit,
            cpu_model=self.processor.model, quantum=self.quantum))
        self.watch = run.Watch(self.emulator, self.output, timeout=self.processor.seconds, keep_returns=False)
        if self.monitor:
            self.debugger = (QemuDebugger if is_qemu else BochsDebugger)(self)
            self._stack.callback(self.debugger.close)
        return self

    def __exit__(self, *_):
        self._stack.close()

    def finish(self):
        """Run to the end. Returns what the box has printed; raises Trouble unless it ended well."""
        ending = self.watch.run()
        if ending.status:
            raise Trouble('the bench box ended with status %d on %s: %s\n%s'
                          % (ending.status, self.processor.title, ending.message, self.output.text()))
        return self.output.text()

    def wait_for_output(self, seconds=60):
        end = time.monotonic() + seconds
        while not self.watch.has_spoken:
            if self.emulator.ended() or time.monotonic() > end:
                raise Trouble('%s says nothing:\n%s' % (self.emulator.name, self.emulator.said()))
            if self.emulator.wait_for_output(0.1):
                self.watch.take()

    def listen(self):
        """Take what the box has said, so that its console never fills."""
        while self.emulator.wait_for_output(0) and self.watch.take():
            pass


def run_box(processor, description=BOX, quantum=None):
    """Run a box on a processor to its end. Returns what it has printed."""
    with Box(processor, description, quantum=quantum) as box:
        return box.finish()


class QemuDebugger:
    """Breakpoints by the stub for GDB, on a socket in the box's own folder; instructions by QEMU's log."""

    def __init__(self, box):
        self.box, self.emulator = box, box.emulator
        self.emulator.pause()
        self.emulator.human('gdbserver unix:gdb,server=on,wait=off')
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(1)
        self.socket.connect(str((box.folder / 'gdb').resolve()))
        self.data = b''

    def close(self):
        self.socket.close()

    def _send(self, text):
        data = text.encode()
        self.socket.sendall(b'$%s#%02x' % (data, sum(data) & 0xff))

    def _receive(self, seconds):
        end = time.monotonic() + seconds
        while True:
            found = re.search(rb'\$([^#]*)#..', self.data)
            if found:
                self.data = self.data[found.end():]
                self.socket.sendall(b'+')
                return found[1].decode()
            self.box.listen()
            if time.monotonic() > end or self.emulator.ended():
                raise Trouble('QEMU did not come to the instruction in %d s:\n%s' % (seconds, self.box.output.text()))
            try:
                more = self.socket.recv(65536)
            except TimeoutError:
                continue
            if not more:
                raise Trouble('QEMU ended:\n' + self.box.output.text())
            self.data += more

    def ask(self, text, seconds=10):
        self._send(text)
        return self._receive(seconds)

    def go_to(self, address, seconds=None):
        """Run until the instruction at the linear `address` is the next one."""
        self._expect_ok('Z0,%x,1' % address)
        if not self.ask('c', seconds or self.box.processor.seconds).startswith('T05'):
            raise Trouble('QEMU stopped somewhere else')
        self._expect_ok('z0,%x,1' % address)
        if self.program_counter() != address:
            raise Trouble('QEMU stopped at 0x%x instead of 0x%x' % (self.program_counter(), address))

    def step(self):
        """Execute one instruction."""
        self.ask('s')

    def program_counter(self):
        return int.from_bytes(bytes.fromhex(self.ask('g'))[16 * 8:17 * 8], 'little')

    def _expect_ok(self, text):
        answer = self.ask(text)
        if answer != 'OK':
            raise Trouble('QEMU\'s stub for GDB answers %r to %r' % (answer, text))

    def trace_to(self, address):
        """Run to `address`. Returns the addresses of the instructions on the way; those that end in an exit are among them."""
        log = self.box.folder / 'trace.log'
        log.unlink(missing_ok=True)
        self.emulator.human('logfile ' + log.name)
        self.emulator.human('singlestep on')
        self.emulator.human('log exec,nochain')
        self.go_to(address)
        self.emulator.human('log none')
        self.emulator.human('singlestep off')
        return read_qemu_log(log)

    def count_to(self, addresses):
        """Run to the last of `addresses`, through the others. Returns {address: how often}. Takes a minute for ten million."""
        counts, pipe = Counter(), self.box.folder / 'trace.pipe'
        os.mkfifo(pipe)
        reader = threading.Thread(target=count_qemu_log, args=(pipe, counts), daemon=True)
        reader.start()
        self.emulator.human('logfile ' + pipe.name)
        self.emulator.human('singlestep on')
        self.emulator.human('log exec,nochain')
        for address in addresses:
            self.go_to(address, 10 * self.box.processor.seconds)
        self.emulator.human('log none')
        self.emulator.human('logfile trace.log')
        reader.join(60)
        return {int(address, 16): count for address, count in counts.items()}


def count_qemu_log(pipe, counts):
    """As read_qemu_log, for a log of many millions: how often each address (16 digits, as bytes) was executed."""
    last = b''
    with open(pipe, 'rb') as log:
        for line in log:
            if line.startswith(b'Trace '):
                start = line.index(b'/') + 1
                last = line[start:start + 16]
                counts[last] += 1
            elif line.startswith(b'Stopped execution'):
                counts[last] -= 1


def read_qemu_log(path):
    """The addresses in a log of one-instruction translation blocks. A block that was stopped before it began is taken back."""
    found = []
    with open(path, errors='replace') as log:
        for line in log:
            if line.startswith('Trace '):
                found.append(int(re.search(r'\[[0-9a-f]+/([0-9a-f]+)/', line)[1], 16))
            elif line.startswith('Stopped execution') and found:
                found.pop()
    return found


class BochsDebugger:
    """The debugger that Debian builds into Bochs."""

    def __init__(self, box):
        self.box, self.emulator = box, box.emulator
        box.wait_for_output()
        self.emulator.pause()

    def close(self):
        pass

    def go_to(self, address):
        """Run until the instruction at the linear `address` is the next one. Returns what Bochs has said meanwhile."""
        self.emulator.command('lb 0x%x' % address)
        start = self.emulator.counted
        self.emulator.resume()
        end = time.monotonic() + self.box.processor.seconds
        while not self.emulator.ended():
            self.box.listen()
            if time.monotonic() > end:
                raise Trouble('Bochs did not come to 0x%x:\n%s' % (address, self.box.output.text()))
            time.sleep(0.002)
        self.emulator._await_prompt()
        text = (self.box.folder / 'bochs.out').read_bytes()[start:].decode('utf-8', 'replace')
        number = re.search(r'([0-9]+) lbreakpoint +keep y +0x0*%x\b' % address, self.emulator.command('info break'))
        if not number or 'Breakpoint %s,' % number[1] not in text:
            raise Trouble('Bochs did not come to 0x%x:\n%s' % (address, text[-2000:]))
        self.emulator.command('d ' + number[1])
        return text

    def trace_to(self, address):
        """Run to `address`. Returns the addresses of the instructions on the way. VMX: those that end in an exit are not among them.
        SVM: those of a guest are zeros, because the debugger does not know nested paging."""
        self.emulator.command('trace on')
        text = self.go_to(address)
        self.emulator.command('trace off')
        return [int(found or '0', 16) for found in TRACED.findall(text)]

    def ticks(self):
        """How many instructions have been executed since the machine was switched on."""
        return int(re.search(r'ptime: ([0-9]+)', self.emulator.command('ptime'))[1])
