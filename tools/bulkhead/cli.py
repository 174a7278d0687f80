"""The `bulkhead` command: check, build, run. Thin: what it does is in the modules beside it."""
import contextlib
import os
import shlex
import stat
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.text import Text

from bulkhead import accel as accelerator, blob, box, check as checker, config, emulator, run as runner
from bulkhead.facts import BOXES, KERNEL, KERNEL_TO_DEBUG, shown, size_text
from bulkhead.mistake import Mistakes, Trouble

BAD_CONFIG = 78
HELP = 'Bulkhead divides one machine between guests that cannot reach each other. These commands check, build and run boxes.'

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  context_settings={'help_option_names': ['-h', '--help']})
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class MachineKind(str, Enum):
    qemu = 'qemu'
    bochs = 'bochs'


class Accel(str, Enum):
    auto = 'auto'
    kvm = 'kvm'
    tcg = 'tcg'


def say(text, style=''):
    """A sentence on stderr: the box's own output has stdout for itself."""
    err.print(Text('bulkhead: ', style='bold').append(Text(text, style=style or 'not bold')))


def show(mistakes):
    for mistake in mistakes.mistakes:
        text = Text(mistake.place(), style='bold')
        text.append(': ' + (mistake.key + ': ' if mistake.key else ''), style='not bold')
        text.append(mistake.what, style='not bold red')
        if mistake.write:
            text.append('\n    write: ', style='not bold').append(mistake.write, style='not bold green')
        err.print(text)
    count = len(mistakes.mistakes)
    say('%d mistake%s' % (count, '' if count == 1 else 's'))


@contextlib.contextmanager
def sentences():
    """What goes wrong ends the command with a sentence and a status, never with a traceback."""
    try:
        yield
    except Mistakes as mistakes:
        show(mistakes)
        raise typer.Exit(BAD_CONFIG) from None
    except Trouble as trouble:
        say(str(trouble), 'red')
        raise typer.Exit(runner.NO_START) from None
    except BrokenPipeError:
        sys.stderr.close()          # nobody reads any more: say nothing, not even at exit
        raise typer.Exit(runner.FAULT) from None
    except OSError as error:
        say('%s: %s' % (error.filename or 'the system', (error.strerror or str(error)).lower()), 'red')
        raise typer.Exit(runner.NO_START) from None
    except KeyboardInterrupt:
        say('interrupted')
        raise typer.Exit(runner.QUIT) from None


Kernel = Annotated[Path, typer.Option('--kernel', hidden=True, help='Another kernel; the tests\' own.')]
File = Annotated[Path, typer.Argument(metavar='FILE', help='A machine.toml.')]


@app.command()
def check(files: Annotated[list[Path], typer.Argument(metavar='FILE...', help='machine.toml files.')],
          dump: Annotated[bool, typer.Option('--dump', help='Show the compiled configuration as well.')] = False):
    """Check machine.toml files without booting anything. All mistakes are listed, each with its line and what to write."""
    with sentences():
        found = []
        for file in files:
            try:
                machine = checker.load(file)
            except Mistakes as mistakes:
                found += mistakes.mistakes
                continue
            out.print('%s: box %s, %d VM%s, no mistakes' % (shown(file), machine.name, len(machine.vms), '' if len(machine.vms) == 1 else 's'),
                      markup=False)
            if dump:
                _dump(machine)
        if found:
            show(Mistakes(found))
            raise typer.Exit(BAD_CONFIG)


def _dump(machine):
    """What the compiler made of it, read back from the blob itself."""
    data = blob.compile_blob(machine)
    decoded = blob.decode(data)
    text = ['  blob: %d bytes, version %d, CRC 0x%08x' % (len(data), decoded['version'], decoded['crc']), '  boot modules:']
    for n, module in enumerate(blob.boot_modules(machine, box.MANAGER)):
        text.append('    %2d %-20s %s' % (n, module.name, shown(module.path) if module.path else ''))
    for vm in decoded['vms']:
        vcpus = '%d vCPU%s' % (vm['vcpus'], '' if vm['vcpus'] == 1 else 's')
        text.append('  vm %s: %s, %s on %s, %s' % (vm['name'], size_text(vm['memory']), vcpus, _places(vm['places']), vm['kind']) + (' at 0x%x' % vm['load'] if vm['kind'] == 'flat' else ''))
        text.append('    program: module %d, image: module %d, restarts: %d, exit port: %s, TSC: %s'
                    % (vm['vmm'], vm['image'], vm['restarts'], 'yes' if vm['exit_port'] else 'no', "the machine's" if vm['host_tsc'] else 'its own'))
        text.append('    command line: %s' % vm['command_line'])
        text += ['    module %d: %s' % pair for pair in vm['modules']]
    out.print('\n'.join(text), markup=False)


def _places(places):
    """Where a VM runs: 'processor 1', or 'processors 0, 1, 0' when its virtual ones are on several, in their order."""
    return 'processor %d' % places[0] if len(set(places)) == 1 else 'processors ' + ', '.join(map(str, places))


@app.command()
def build(file: File,
          output: Annotated[Optional[Path], typer.Option('-o', '--output', metavar='DIR|ISO',
                            help='Where to: a folder, or with --iso (or a name ending in .iso) a file. Default: build/boxes/NAME.')] = None,
          iso: Annotated[bool, typer.Option('--iso', help='Make an ISO that boots on BIOS and UEFI machines, from CD or USB.')] = False,
          kernel: Kernel = KERNEL):
    """Build a box: a folder with kernel, boot modules and manifest, or one ISO that boots anywhere."""
    with sentences():
        machine = _load(file)
        iso = iso or output is not None and output.suffix == '.iso'
        if iso:
            target = output or BOXES / (machine.name + '.iso')
            target.parent.mkdir(parents=True, exist_ok=True)
            with runner.private_folder() as folder, _progress('making %s' % shown(target)):
                box.Folder(folder, machine, kernel).write().make_iso(target.absolute())
            out.print('%s: %d KiB; write it to a USB stick, or try: qemu-system-x86_64 -cpu max -m %d -cdrom %s'
                      % (shown(target), target.stat().st_size >> 10, machine.memory >> 20, shlex.quote(shown(target))), markup=False)
        else:
            target = output or BOXES / machine.name
            folder = box.Folder(target, machine, kernel).write()
            out.print('%s: kernel.elf and %d boot modules' % (shown(target), len(folder.modules)), markup=False)


@app.command()
def run(file: File,
        machine: Annotated[MachineKind, typer.Option('--machine', help='qemu: a PC with AMD SVM. bochs: a PC with Intel VMX.')] = MachineKind.qemu,
        accel: Annotated[Accel, typer.Option('--accel', help='auto: KVM only where it can nest.')] = Accel.auto,
        gdb: Annotated[bool, typer.Option('--gdb', help='Wait for GDB before the first instruction (QEMU).')] = False,
        timeout: Annotated[Optional[float], typer.Option('--timeout', metavar='SECONDS', min=0, help='End the box after that long.')] = None,
        quiet_limit: Annotated[Optional[float], typer.Option('--quiet-limit', metavar='SECONDS', min=0, show_default=False,
                               help='End a box that prints nothing for that long; 0: never. Default: 60, on a terminal only until its first words.')] = None,
        unattended: Annotated[Optional[bool], typer.Option('--unattended/--attended', show_default=False,
                              help='Whether nobody is at the keyboard: then guests get their `unattended` words. Default: without a terminal.')] = None,
        icount: Annotated[bool, typer.Option('--icount', help='Count instructions instead of time: the same run twice (QEMU).')] = False,
        log: Annotated[Optional[Path], typer.Option('--log', metavar='FILE', help='Write what the box prints to a file as well.')] = None,
        kernel: Kernel = KERNEL):
    """Run a box on an emulated machine.

    Its serial line is this terminal: keys go to the box, Ctrl-A x ends it. The exit status is the box's own: 0 when every VM ended well, 1
    otherwise; 69 when it could not start, 70 after a kernel fault, 78 for mistakes in FILE, 124 when it was silent or out of time.
    """
    with sentences():
        loaded = _load(file)
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        if not terminal if unattended is None else unattended:
            loaded = loaded.unattended()
        chosen = _choose_accel(machine.value, accel.value)
        _explain_gdb(gdb)
        with contextlib.ExitStack() as stack:
            stack.enter_context(runner.orderly_signals())
            folder = stack.enter_context(runner.private_folder())
            logged = stack.enter_context(open(log, 'wb')) if log else None
            progress = stack.enter_context(_progress('Bochs boots (BIOS, GRUB, kernel: some seconds)' if machine is MachineKind.bochs else ''))
            emulated = stack.enter_context(runner.start(loaded, folder, machine.value, chosen, gdb, icount, kernel=kernel))
            keyboard = runner.Keyboard(sys.stdin, terminal) if terminal or _is_piped(sys.stdin) else None
            if terminal:
                say('keys go to the box: Ctrl-] switches to its next guest, Ctrl-A x ends it')
                stack.enter_context(runner.raw_terminal(sys.stdin))
            ending = runner.Watch(emulated, runner.out_stream(), keyboard, _quiet_limit(quiet_limit, gdb), timeout, logged,
                                  progress.stop, keep_returns=terminal, patient=terminal and quiet_limit is None).run()
        if ending.message:
            say(ending.message, 'red')
        raise typer.Exit(ending.status)


def _load(file):
    """The machine of a file; what `make` would build is built first when it is not there."""
    wanted = config.read(file)[0] if file.is_file() else None
    if wanted:
        said = [path for vm in wanted.vm if vm.boot for path in [vm.boot.image, *(module.image for module in config.modules_of(vm.boot))]]
        box.ensure_built(say, [checker.resolve(path, file.parent) for path in said if path])
    return checker.load(file)


def _choose_accel(machine, accel):
    if machine == 'bochs':
        if accel == 'kvm':
            raise Trouble('Bochs interprets every instruction and has no KVM: leave --accel away')
        say('Bochs: a PC with Intel VMX (%s), every instruction interpreted' % emulator.BOCHS_CPU)
        return ''
    chosen, why = accelerator.choose(accel)
    say('QEMU with %s: %s' % ({'kvm': 'KVM', 'tcg': 'TCG (emulated AMD SVM)'}[chosen], why))
    return chosen


def _explain_gdb(gdb):
    if gdb:
        say('waiting for GDB: gdb %s -ex "target remote 127.0.0.1:%d"' % (shown(KERNEL_TO_DEBUG), emulator.GDB_PORT))


def _quiet_limit(limit, gdb):
    if limit is not None:
        return limit or None
    return None if gdb else runner.QUIET_SECONDS


def _is_piped(file):
    """Is there something to read that is no terminal? /dev/null is not."""
    try:
        mode = os.fstat(file.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


class _progress:
    """What takes long shows that it goes on, on a terminal; ends with stop() or with its block."""

    def __init__(self, text):
        self.status = err.status(text) if text and err.is_terminal else None

    def __enter__(self):
        if self.status:
            self.status.start()
        return self

    def stop(self):
        if self.status:
            self.status.stop()
            self.status = None

    def __exit__(self, *_):
        self.stop()


if __name__ == '__main__':
    app()
