"""How a run ends, on both emulators: with the box's own status, or with a sentence and a status of its own. It never hangs.

The boxes here boot a stand-in for the kernel (fake/kernel.c) that prints and ends as its VM's command line tells it.
"""
import functools
import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bulkhead import accel, emulator, run
from bulkhead.facts import BUILD, config as facts
from bulkhead.mistake import Trouble
from tests.system.box import Box, config, parse_table, run_box, vm

FAKE = Path(__file__).parent / 'fake'
FLAGS = ['-m32', '-O1', '-ffreestanding', '-nostdlib', '-fno-pie', '-no-pie', '-fno-stack-protector', '-fno-asynchronous-unwind-tables',
         '-mgeneral-regs-only', '-fcf-protection=none', '-Wl,--build-id=none,-n,--no-warn-rwx-segments,-Ttext-segment=0x100000', '-Wall', '-Wextra', '-Werror', '-Wno-implicit-fallthrough']
BULKHEAD = [sys.executable, '-m', 'bulkhead.cli']
MACHINES = ['qemu', 'bochs']


@pytest.fixture(scope='module')
def kernel(tmp_path_factory):
    result = tmp_path_factory.mktemp('fake') / 'kernel.elf'
    define = '-DCOMMAND_LINE=%d' % (facts.HEADER['END'] + facts.VM['COMMAND_LINE_STRING'])
    subprocess.run(['gcc', *FLAGS, define, str(FAKE / 'start.S'), str(FAKE / 'kernel.c'), '-o', str(result)], check=True)
    return result


@pytest.fixture(scope='module')
def described(kernel):
    """A box that does what the letters say."""
    return lambda letters: config(vm('one', str(kernel), command_line=letters), memory='64M')


@pytest.fixture
def file(kernel, tmp_path):
    def write(letters):
        path = tmp_path / 'box.toml'
        path.write_text('[box]\nmemory = "64M"\n[[vm]]\nname = "one"\nmemory = "16M"\n[vm.boot]\nkind = "multiboot"\nimage = "%s"\n'
                        'command_line = "%s"\n' % (kernel, letters))
        return path
    return write


def command(file, kernel, *options):
    return BULKHEAD + ['run', str(file), '--kernel', str(kernel), *options]


ENDINGS = [
    # machine, what the box does, status, part of the message
    ('qemu', 'h0', 0, ''),
    ('bochs', 'h0', 0, ''),
    ('qemu', 'h7', 7, ''),
    ('bochs', 'h1', 1, ''),
    ('bochs', 'u', 0, ''),              # a last line whose end was lost
    ('qemu', 'hf', 70, 'kernel stopped with a fault'),
    ('qemu', 'hc', 69, 'could not start: this processor is a fake'),
    ('qemu', 'ht', 70, 'before the box said that it was off: the machine reset itself'),
    ('bochs', 'ht', 70, 'exception with no resolution'),
]


@pytest.mark.parametrize('machine, letters, status, message', ENDINGS)
def test_run_ends_with_the_status_of_the_box(described, kernel, machine, letters, status, message):
    result = run_box(described(letters), machine, kernel=kernel)
    assert (result.status, bool(result.message)) == (status, bool(message)), result
    assert message in result.message


def test_guest_cannot_imitate_the_boxs_own_lines(described, kernel):
    """The box runs on after them, and its status is its own."""
    result = run_box(described('ieh5'), 'qemu', kernel=kernel, script=[('kernel fault', 'q')])
    assert (result.status, result.message) == (5, ''), result


@pytest.mark.parametrize('machine', MACHINES)
def test_screen_of_a_fault_comes_out_whole(described, kernel, machine):
    assert run_box(described('f'), machine, kernel=kernel).output.endswith('bulkhead: kernel fault\n code 14\n the last line\n')


@pytest.mark.parametrize('machine', MACHINES)
def test_boot_modules_come_in_the_order_of_the_blob(described, kernel, machine):
    result = run_box(described('m0'), machine, kernel=kernel)
    names = [line.split()[-1] for line in result.output.splitlines() if line.startswith('module ')]
    assert names == ['manager', 'config', 'vmm-0', 'image-one'], result


@pytest.mark.parametrize('machine', MACHINES)
def test_silent_box_is_ended(described, kernel, machine):
    with Box(described('hs'), machine, kernel=kernel) as box:
        box.watch.quiet_limit = 1
        box.wait_for('hello')
        result = box.finish()
    assert result.status == 124 and 'printed nothing for 1 s' in result.message, result


def test_box_out_of_time_is_ended(described, kernel):
    with Box(described('he'), 'qemu', kernel=kernel, timeout=2) as box:
        box.watch.quiet_limit = 10              # what ends this test when the other limit does not
        result = box.finish()
    assert result.status == 124 and '--timeout' in result.message, result


def test_status_that_the_emulator_contradicts_is_a_fault(described, kernel):
    result = run_box(described('l'), 'qemu', kernel=kernel)
    assert result.status == 70 and 'ended with 3 (status 1)' in result.message


def test_box_that_is_off_and_runs_on_is_a_fault(described, kernel, monkeypatch):
    monkeypatch.setattr(run, 'OFF_SECONDS', 1)
    result = run_box(described('w'), 'qemu', kernel=kernel)
    assert result.status == 70 and 'still ran' in result.message


@pytest.mark.parametrize('machine', MACHINES)
def test_keys_reach_the_box(described, kernel, machine):
    result = run_box(described('heh0'), machine, kernel=kernel, script=[('hello', 'some keys q')])
    assert result.status == 0 and 'some keys q' in result.output, result


@pytest.mark.parametrize('machine', MACHINES)
def test_monitor_stops_the_box_and_shows_memory_and_registers(described, kernel, machine):
    """What the monitor reads is what the kernel's file holds; a paused box does not take keys."""
    data = kernel.read_bytes()
    start = int.from_bytes(data[24:28], 'little')                   # the entry point
    table = int.from_bytes(data[28:32], 'little')
    offset, _, address = (int.from_bytes(data[table + at:table + at + 4], 'little') for at in (4, 8, 12))
    with Box(described('he0'), machine, kernel=kernel, monitor=True) as box:
        box.wait_for(r'hello.*\n')                                  # the whole line: its end must not come while the box is paused
        for _ in range(2):                                          # pausing works more than once
            box.pause()
            registers = box.registers()
            assert registers['cr0'] & 1 and registers['efer'] == 0 and 0x100000 <= registers['rip'] < 0x110000
            assert box.read_physical(start, 37) == data[offset + start - address:][:37]
            assert box.read_physical(start + 3, 5) == data[offset + start - address + 3:][:5]
            memory = box.physical()
            assert memory.read(start - 2, 9000)[2:39] == box.read_physical(start, 37)
            assert memory.word(start) == int.from_bytes(box.read_physical(start, 8), 'little')
            before = box.output
            box.type('x')
            time.sleep(0.3)
            assert box.emulator.read() == b'' and box.output == before
            box.resume()
            box.wait_for('x' if before.count('x') == 0 else 'xx')
        box.type('q')
        assert box.finish().status == 0


@pytest.mark.parametrize('machine', MACHINES)
def test_two_boxes_run_beside_each_other(described, kernel, machine):
    with Box(described('he0'), machine, kernel=kernel) as one, Box(described('he3'), machine, kernel=kernel) as other:
        for box in (one, other):
            box.wait_for('hello')
            box.type('q')
        assert (one.finish().status, other.finish().status) == (0, 3)


def test_bochs_box_that_grub_cannot_load_is_not_silent(described, tmp_path):
    (tmp_path / 'nonsense').write_bytes(b'no kernel at all' * 100)
    with Box(described('h0'), 'bochs', kernel=tmp_path / 'nonsense') as box:
        box.wait_for('no multiboot header found', 60)


def test_bochs_listens_on_no_port_of_this_machine(described, kernel):
    """Its display is a VNC server without a password."""
    with Box(described('he0'), 'bochs', kernel=kernel) as box:
        box.wait_for('hello')
        assert os.readlink('/proc/%d/ns/net' % box.emulator.process.pid) != os.readlink('/proc/self/ns/net')


def test_edit_changes_what_boots(described, kernel):
    """A damaged file is what the box gets: here the command line's first letter becomes a 5."""
    def edit(folder):
        blob = bytearray((folder / 'config').read_bytes())
        blob[blob.index(b'0\0', facts.HEADER['END'] + 32)] = ord('5')
        (folder / 'config').write_bytes(blob)
    assert run_box(described('0'), 'qemu', kernel=kernel, edit=edit).status == 5


def test_table_is_read_by_its_columns():
    own = ['keyboard now goes to [a]',
           'VM         how it ended                          run time ms   share  exits',
           'port       exited with status 0                           25   49.8%  interrupt 2, port 320',
           'starboard  its VMM did not answer in time            1234567  100.0%  -',
           'box off, status 1']
    table = parse_table(own)
    assert table['port'].how == 'exited with status 0' and table['port'].milliseconds == 25
    assert table['port'].exits == {'interrupt': 2, 'port': 320} and abs(table['port'].share - .498) < 1e-9
    assert table['starboard'].how == 'its VMM did not answer in time' and table['starboard'].exits == {}
    assert table['starboard'].share == 1


# The command itself, as a process.

def test_without_terminal_it_ends_by_itself_and_says_what_it_chose(file, kernel):
    done = subprocess.run(command(file('h3'), kernel), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and done.stdout == '[one] hello\nbulkhead: box off, status 3\n'
    assert done.stderr.count('\n') == 1 and 'QEMU with' in done.stderr


def test_piped_keys_reach_the_box(file, kernel):
    done = subprocess.run(command(file('e0'), kernel), input='abcq', capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and 'abcq' in done.stdout, done


def test_log_has_what_was_printed(file, kernel, tmp_path):
    subprocess.run(command(file('h0'), kernel, '--log', str(tmp_path / 'log')), stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert (tmp_path / 'log').read_bytes() == b'[one] hello\r\nbulkhead: box off, status 0\r\n'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_emulator_is_left_behind(file, kernel, number):
    """However the command ends, its emulator ends too."""
    # In the background of a shell, SIGINT would be ignored from the start.
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command(file('he0'), kernel), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          preexec_fn=default) as process:
        assert process.stdout.readline() == b'[one] hello\r\n'.replace(b'\r', b'')
        children = Path('/proc/%d/task/%d/children' % (process.pid, process.pid)).read_text().split()
        assert len(children) == 1 and 'qemu' in Path('/proc/%s/cmdline' % children[0]).read_text()
        process.send_signal(number)
        process.communicate(timeout=60)
    end = time.monotonic() + 5
    while Path('/proc/%s' % children[0]).exists() and 'Z' not in Path('/proc/%s/stat' % children[0]).read_text().rpartition(')')[2].split()[0]:
        assert time.monotonic() < end, 'QEMU still runs'
        time.sleep(0.05)


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, words):
        self.process, self.fd = None, None
        pid, self.fd = pty.fork()
        if pid == 0:
            os.execvp(words[0], words)
        self.pid, self.text = pid, ''

    def wait_for(self, text, seconds=60):
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, '%r did not come: %r' % (text, self.text)
            self.read(0.1)

    def read(self, seconds):
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                return False
            self.text += data.decode('utf-8', 'replace')
            return bool(data)
        return True

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self, seconds=30):
        """Returns the exit status."""
        end = time.monotonic() + seconds
        while self.read(0.1):
            assert time.monotonic() < end, 'still runs: %r' % self.text
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_terminal_passes_keys_and_ends_with_ctrl_a_x(file, kernel):
    terminal = Terminal(command(file('he0'), kernel))
    terminal.wait_for('hello')
    terminal.type('ab\x03\x01\x01cd')
    terminal.wait_for('ab\x03\x01cd')               # Ctrl-C goes to the box, Ctrl-A Ctrl-A is one Ctrl-A, nothing is echoed twice
    terminal.type('\x01x')
    assert terminal.end() == 130 and 'Ctrl-A x' in terminal.text


@pytest.mark.parametrize('letters', ['he0', 'hef'])
def test_terminal_is_as_before_at_the_end(file, kernel, letters):
    shell = 'before=$(stty -g); %s; echo "status $?"; [ "$before" = "$(stty -g)" ] && echo same || echo different' % ' '.join(
        command(file(letters), kernel))
    terminal = Terminal(['sh', '-c', shell])
    terminal.wait_for('hello')
    terminal.type('q')
    terminal.wait_for('status ')
    terminal.end()
    assert 'same' in terminal.text.split('status ')[-1], terminal.text


def test_quiet_limit_on_a_terminal_ends_with_the_first_words(file, kernel, monkeypatch):
    watch = run.Watch(Silent(spoken=True), io.BytesIO(), quiet_limit=0.2, timeout=1, patient=True)
    watch.has_spoken = True
    assert '--timeout' in watch.run().message
    assert '--quiet-limit' in run.Watch(Silent(), io.BytesIO(), quiet_limit=0.2, timeout=1, patient=True).run().message


class Silent:
    """An emulator that says nothing."""
    name = 'nothing'

    def __init__(self, spoken=False):
        self.ends = os.pipe()

    def fileno(self):
        return self.ends[0]

    def read(self):
        return b''

    def ended(self):
        return False

    def said(self):
        return ''


# KVM.

@pytest.mark.parametrize('flags, nested, device, choice, why', [
    ('fpu vme', 'Y', True, 'tcg', 'neither vmx nor svm'),
    ('fpu vmx', 'N', True, 'tcg', 'nesting is switched off'),
    ('fpu vmx', None, True, 'tcg', 'cannot be read'),
    ('fpu vmx', 'Y', False, 'tcg', 'is not there'),
    ('fpu vmx', 'Y', True, 'kvm', 'can nest'),
    ('fpu svm', '1', True, 'kvm', 'can nest'),
    ('fpu svm', '0', True, 'tcg', 'nesting is switched off'),
])
def test_auto_takes_kvm_only_where_it_can_nest(tmp_path, monkeypatch, flags, nested, device, choice, why):
    (tmp_path / 'cpuinfo').write_text('processor\t: 0\nflags\t\t: %s\nbugs\t\t:\n' % flags)
    parameters = tmp_path / 'module' / ('kvm_amd' if 'svm' in flags else 'kvm_intel') / 'parameters'
    parameters.mkdir(parents=True)
    if nested is not None:
        (parameters / 'nested').write_text(nested + '\n')
    if device:
        (tmp_path / 'kvm').write_bytes(b'')
    monkeypatch.setattr(accel, 'CPUINFO', tmp_path / 'cpuinfo')
    monkeypatch.setattr(accel, 'PARAMETERS', tmp_path / 'module')
    monkeypatch.setattr(accel, 'DEVICE', str(tmp_path / 'kvm'))
    chosen, reason = accel.choose('auto')
    assert chosen == choice and why in reason
    if choice == 'tcg':
        with pytest.raises(Trouble, match='KVM cannot run this box'):
            accel.choose('kvm')
    assert accel.choose('tcg')[0] == 'tcg'


@pytest.mark.parametrize('accelerator, right', [('tcg', 'tcg,thread=single'), ('kvm', 'kvm')])
def test_all_of_an_emulated_machines_processors_have_one_thread(accelerator, right):
    """QEMU 7.2 loses GIF and nested paging of the first processor otherwise, when another one loads its FPU (docs/proven.md)."""
    folder = SimpleNamespace(modules=[], machine=SimpleNamespace(memory=1 << 28, cpus=2))
    options = emulator.Qemu.options(folder, accelerator, False)
    assert options[options.index('-accel') + 1] == right


def test_nothing_is_left_in_the_folder_of_runs(described, kernel):
    with Box(described('h0'), 'qemu', kernel=kernel) as box:
        mine = box.folder
        assert box.finish().status == 0
    assert not mine.exists()


def test_folders_of_killed_runs_go_away():
    gone = subprocess.Popen(['true'])
    gone.wait()
    runs = BUILD / 'run'
    left, other = runs / ('box-%d-x' % gone.pid), runs / ('box-%d-y' % os.getpid())
    left.mkdir(parents=True)
    other.mkdir()
    with run.private_folder():
        assert not left.exists() and other.exists()
    other.rmdir()
