"""The two emulated machines, with one interface: a console of bytes, and a monitor that stops the machine and reads its memory.

QEMU's console and monitor are socket pairs, Bochs' console is a pseudo-terminal and its monitor the debugger that Debian builds in.
Nothing here uses a port or a name that a second run could meet. Every process dies with its parent.
"""
import functools
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
import tty
from pathlib import Path

from bulkhead.box import need
from bulkhead.facts import shown
from bulkhead.mistake import Trouble

EXIT_PORT = 0x501
KILL_SECONDS = 5
PROMPT = re.compile(rb'<bochs:\d+> ')
BOCHS_SHARE = Path('/usr/share/bochs')
BOCHS_CPU = 'corei7_haswell_4770'
BOCHS_AMD = 'ryzen'                 # has SVM, but not its MSR VM_CR: unknown MSRs have to read as 0
BOCHS_MOST_MEGABYTES = 2048
BOCHS_TICKS = 100000000         # instructions that are a second of all its clocks
GDB_PORT = 1234


def _with_parent():
    """What makes a command end with this process, however that ends."""
    return ['setpriv', '--pdeathsig', 'KILL', '--'] if shutil.which('setpriv') else []


@functools.lru_cache(None)
def _without_network():
    """What takes the network from a command: Bochs' display would listen on one of fifty ports, for everybody."""
    for command in (['unshare', '--net', '--'], ['unshare', '--map-root-user', '--net', '--']):     # root in a chroot may only the first
        try:
            if subprocess.run(command + ['true'], capture_output=True, timeout=10).returncode == 0:
                return command
        except (OSError, subprocess.TimeoutExpired):
            pass
    return []


class Emulator:
    """A machine that runs. Use as a context manager, or call close()."""
    name = ''

    def __init__(self):
        self.process = None
        self.console = -1               # file descriptor, non-blocking
        self._open = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # Console.
    def fileno(self):
        return self.console

    def read(self):
        """What the console has said since last time; b'' when that is nothing."""
        try:
            return os.read(self.console, 65536)
        except (BlockingIOError, OSError):
            return b''

    def write(self, data):
        """Type `data`. Returns how many bytes were taken."""
        try:
            return os.write(self.console, data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)

    def wait_for_output(self, seconds):
        """Wait for the console to say something or for the process to end."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if select.select([self.console], [], [], max(0, min(left, 0.05)))[0]:
                return True
            if left <= 0 or self.ended():
                return False

    # Process.
    def ended(self):
        return self.process.poll() is not None

    def wait(self, seconds):
        """Wait for the process to end. Returns its exit code, None when it did not end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(KILL_SECONDS)
        for each in self._open:
            each.close() if hasattr(each, 'close') else os.close(each)
        self._open = []

    def _start(self, command, **more):
        try:
            self.process = subprocess.Popen(command, start_new_session=True, **more)
        except OSError as error:
            self.close()
            raise Trouble('%s could not be started: %s' % (command[0], error.strerror.lower())) from None

    def said(self):
        """The last lines that the emulator itself (not the box) has said."""
        return ''

    def box_status(self, code):
        """The box's status by the process's exit code; None where the emulator does not tell."""
        return None


class Qemu(Emulator):
    """QEMU with `-kernel` and the boot modules of a folder."""
    name = 'QEMU'

    def __init__(self, folder, accel='tcg', gdb=False, icount=False, monitor=False):
        super().__init__()
        need('qemu-system-x86_64')
        self.log = open(folder.path / 'qemu.log', 'w+b')
        self._open.append(self.log)
        ours, theirs = self._pair()
        self.console = ours.fileno()
        inherited = [theirs]
        command = _with_parent() + ['qemu-system-x86_64'] + self.options(folder, accel, icount)
        command += ['-chardev', 'socket,id=com1,fd=%d' % theirs.fileno(), '-serial', 'chardev:com1']
        if monitor:
            self.monitor, qemu_end = self._pair()
            inherited.append(qemu_end)
            command += ['-chardev', 'socket,id=qmp,fd=%d' % qemu_end.fileno(), '-mon', 'chardev=qmp,mode=control']
        else:
            self.monitor = None
            command += ['-monitor', 'none']
        if gdb:
            command += ['-gdb', 'tcp:127.0.0.1:%d' % GDB_PORT, '-S']
        self._start(command, cwd=folder.path, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                    pass_fds=[each.fileno() for each in inherited])
        for each in inherited:
            each.close()
        ours.setblocking(False)
        if monitor:
            self._begin_qmp()

    def _pair(self):
        ours, theirs = socket.socketpair()
        self._open.append(ours)
        return ours, theirs

    @staticmethod
    def options(folder, accel, icount):
        # The folder is QEMU's working folder and the names in it are plain: -initrd takes no blanks and splits at commas.
        modules = ','.join('%s %s' % (module.name, module.name) for module in folder.modules)
        # One thread for all processors: each XRSTOR of any of them writes to the first one's hflags2, which holds whether that one is in a guest
        # (cpu_clear_ignne(), QEMU 7.2 and later); on threads of their own what a VMRUN or #VMEXIT writes there at the same moment is lost.
        threads = 'tcg,thread=single' if accel == 'tcg' else accel
        options = ['-nodefaults', '-no-user-config', '-display', 'none', '-vga', 'none', '-no-reboot', '-machine', 'pc',
                   '-accel', threads, '-cpu', 'host' if accel == 'kvm' else 'max',
                   '-m', '%dM' % (folder.machine.memory >> 20), '-smp', str(folder.machine.cpus),
                   '-device', 'isa-debug-exit,iobase=0x%x,iosize=2' % EXIT_PORT,
                   '-kernel', 'kernel.elf', '-initrd', modules]
        if icount:          # True, or how long an instruction takes: 2 to the power of it, in ns
            options += ['-icount', 'shift=%d,sleep=off' % (0 if icount is True else icount), '-seed', '1', '-rtc', 'base=2024-01-01T00:00:00,clock=vm']
        return options

    def said(self):
        return _tail(self.log)

    def box_status(self, code):
        return code >> 1 if code is not None and code & 1 else None

    # Monitor (QMP). The box keeps running until pause().
    def _begin_qmp(self):
        self.monitor.settimeout(30)
        self.lines = self.monitor.makefile('rb')
        self._open.append(self.lines)
        if b'QMP' not in self.lines.readline():
            raise Trouble('QEMU did not start:\n' + self.said())
        self.command('qmp_capabilities')

    def command(self, name, **arguments):
        """One QMP command. Returns its answer."""
        self.monitor.sendall(json.dumps({'execute': name, 'arguments': arguments}).encode() + b'\n')
        while True:
            line = self.lines.readline()
            if not line:
                raise Trouble('QEMU ended while it was asked to %s:\n%s' % (name, self.said()))
            answer = json.loads(line)
            if 'error' in answer:
                raise Trouble('QEMU: %s: %s' % (name, answer['error']['desc']))
            if 'return' in answer:
                return answer['return']

    def human(self, line):
        """One command of QEMU's human monitor. Returns the text."""
        return self.command('human-monitor-command', **{'command-line': line})

    def pause(self):
        self.command('stop')

    def resume(self):
        self.command('cont')

    def read_physical(self, address, size):
        """`size` bytes of the paused machine's physical memory."""
        file = Path(self.log.name).with_name('memory')
        try:
            self.command('pmemsave', val=address, size=size, filename=str(file))
            return file.read_bytes()
        finally:
            file.unlink(missing_ok=True)

    def registers(self):
        """The paused processor's registers, by their manuals' names in lower case: cr0, cr3, cr4, efer, rip, rsp, rax, ..."""
        text = self.human('info registers')
        found = re.findall(r'\b([RE][A-Z]{2}|R1?[0-9]|CR[02348]|EFER|DR[0-7]) *= *([0-9a-f]+)', text)
        # Outside of 64-bit mode the general registers are shown as EAX, EIP, EFL.
        registers = {re.sub('^e(?!fer)', 'r', name.lower()): int(value, 16) for name, value in found}
        registers['rflags'] = registers.pop('rfl')
        return registers


class Bochs(Emulator):
    """Bochs with an ISO in its CD drive."""
    name = 'Bochs'

    def __init__(self, folder, monitor=False, cpu_model=None, lenient=False, quantum=None):
        """lenient: MSRs that Bochs does not know read as zero and take anything, for kernels that do not expect an exception. quantum:
        instructions that each of several processors executes in turn."""
        super().__init__()
        need('bochs')
        if folder.machine.memory > BOCHS_MOST_MEGABYTES << 20:
            raise Trouble('Bochs has at most %d MiB of memory and the box asks for %d: use --machine qemu'
                          % (BOCHS_MOST_MEGABYTES, folder.machine.memory >> 20))
        self.folder = folder.path
        iso = folder.make_iso(self.folder / 'box.iso', bios_only=True)
        self.console, terminal = os.openpty()
        self._open += [self.console, terminal]
        tty.setraw(terminal)
        os.set_blocking(self.console, False)
        (self.folder / 'bochsrc').write_text(self.options(folder.machine, iso, os.ttyname(terminal), cpu_model or BOCHS_CPU, lenient, quantum))
        (self.folder / 'commands').write_text('c\n')
        self.output = open(self.folder / 'bochs.out', 'w+b')
        self._open.append(self.output)
        self.prompts = 0                # those that were answered
        self.seen = self.counted = 0    # all of them; how far the output has been searched
        command = _without_network() + _with_parent() + ['bochs', '-q', '-f', 'bochsrc', '-rc', 'commands']
        self._start(command, cwd=self.folder, stdin=subprocess.PIPE if monitor else subprocess.DEVNULL,
                    stdout=self.output, stderr=self.output, env={**os.environ, 'LC_ALL': 'C', 'BXSHARE': str(BOCHS_SHARE)})
        if monitor:
            self._open.append(self.process.stdin)

    @staticmethod
    def options(machine, iso, terminal, cpu_model=BOCHS_CPU, lenient=False, quantum=None):
        for file in ('BIOS-bochs-latest', 'VGABIOS-lgpl-latest'):
            if not (BOCHS_SHARE / file).exists():
                raise Trouble('%s is not there: `make setup` installs it, or on Debian `apt install bochsbios vgabios`' % (BOCHS_SHARE / file))
        return '\n'.join([
            'config_interface: textconfig',
            'display_library: rfb, options="timeout=0"',
            'cpu: model=%s, count=%d, ips=%d, reset_on_triple_fault=0, ignore_bad_msrs=%d%s'
            % (cpu_model, machine.cpus, BOCHS_TICKS, lenient or cpu_model == BOCHS_AMD, ', quantum=%d' % quantum if quantum else ''),
            'megs: %d' % (machine.memory >> 20),
            'romimage: file=%s/BIOS-bochs-latest, options=fastboot' % BOCHS_SHARE,      # no wait for a key, of seconds, or many with several processors
            'vgaromimage: file=%s/VGABIOS-lgpl-latest' % BOCHS_SHARE,
            'ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14',
            'ata0-master: type=cdrom, path="%s", status=inserted' % iso.name,
            'boot: cdrom',
            'com1: enabled=1, mode=term, dev=%s' % terminal,
            'port_e9_hack: enabled=1',
            'magic_break: enabled=0',
            'log: bochs.log',
            'panic: action=fatal', 'error: action=report', 'info: action=ignore', 'debug: action=ignore',
            'clock: sync=none',
            'mouse: enabled=0',
            'plugin_ctrl: speaker=0, gameport=0, parallel=0',   # the speaker would look for a sound card
        ]) + '\n'

    def ended(self):
        # A panic of Bochs leads to its debugger's prompt, which waits for ever where somebody may type.
        return super().ended() or self.process.stdin is not None and self._prompts_seen() > self.prompts

    def said(self):
        panics = [line for line in _tail(self.folder / 'bochs.log', 400).splitlines() if '>>PANIC<<' in line]
        if panics or not super().ended():
            return '\n'.join(panics[-6:])
        return _tail(self.output)

    # Monitor: the debugger's prompt. The box runs until pause().
    def _text(self, start):
        with open(self.folder / 'bochs.out', 'rb') as file:
            file.seek(start)
            return file.read()

    def _prompts_seen(self):
        """How many prompts there were so far. A prompt is the last thing written before Bochs waits, so none is cut in two."""
        text = self._text(self.counted)
        last = 0
        for prompt in PROMPT.finditer(text):
            last = prompt.end()
            self.seen += 1
        self.counted += last
        return self.seen

    def _await_prompt(self, seconds=60):
        end = time.monotonic() + seconds
        while self._prompts_seen() <= self.prompts:
            if self.process.poll() is not None:
                raise Trouble('Bochs ended while its debugger was waited for:\n' + self.said())
            if time.monotonic() > end:
                raise Trouble('Bochs\' debugger did not answer in %d s' % seconds)
            time.sleep(0.002)
        self.prompts = self._prompts_seen()

    def command(self, line):
        """One line for the debugger of the paused machine. Returns its text."""
        start = self.counted
        self.process.stdin.write(line.encode() + b'\n')
        self.process.stdin.flush()
        self._await_prompt()
        return PROMPT.split(self._text(start))[0].decode('utf-8', 'replace')

    def pause(self):
        # The signal is lost when it comes before Bochs has set its handler, so not before the console has said something.
        self.process.send_signal(signal.SIGINT)
        self._await_prompt()

    def resume(self):
        self.process.stdin.write(b'c\n')
        self.process.stdin.flush()

    def read_physical(self, address, size):
        """`size` bytes of the paused machine's physical memory."""
        first, end = address // 8 * 8, -(-(address + size) // 8) * 8
        text = self.command('xp /%dgx 0x%x' % ((end - first) // 8, first))
        words = [int(word, 16) for line in text.splitlines() if line.startswith('0x') for word in line.split('\t')[1:]]
        data = b''.join(word.to_bytes(8, 'little') for word in words)
        if len(data) != end - first:
            raise Trouble('Bochs\' debugger gave %d bytes for %d at 0x%x: %s' % (len(data), end - first, first, text[-200:]))
        return data[address - first:address - first + size]

    def registers(self):
        """The paused processor's registers, by their manuals' names in lower case: cr0, cr3, cr4, efer, rip, rsp, rax, ..."""
        text = self.command('creg') + self.command('r')
        registers = {name.lower(): int(value, 16) for name, value in re.findall(r'\b(CR[02348]|EFER|XCR0) ?[=:] ?0x([0-9a-f]+)', text)}
        registers['cr2'] = int(re.search(r'CR2=page fault laddr=0x([0-9a-f]+)', text)[1], 16)
        for name, high, low in re.findall(r'^(r[a-z0-9]+) *: ([0-9a-f]{8})_([0-9a-f]{8})', text, re.MULTILINE):
            registers[name] = int(high + low, 16)
        found = re.search(r'eflags 0x([0-9a-f]+)', text)
        registers['rflags'] = int(found[1], 16)
        return registers


def _tail(file, lines=8):
    path = Path(file if isinstance(file, (str, Path)) else file.name)
    try:
        return '\n'.join(path.read_text('utf-8', 'replace').strip().splitlines()[-lines:])
    except OSError:
        return 'nothing (%s is not there)' % shown(path)
