"""`make bench-peers`: the bench guest under other hypervisors, on the same emulated processors, whose TSCs count instructions.

    .env/bin/python3 tools/bench/peers.py [--on PROCESSOR]... [--only NAME]...

ours    Bulkhead, as `make bench` measures it
kvm     Debian's cloud kernel with KVM, and a monitor of our own (peers/monitor.c) in user space
xen     Debian's Xen; the guest is its PVH dom0, so there is no other kernel beside it

Prints tables, writes them to build/bench/peers.json and, when nothing was left out, into docs/performance.md. Exit status: 0, or 69 something
did not run.
"""
import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / 'guests'))

from bulkhead import box, emulator, run  # noqa: E402
from bulkhead.facts import BUILD, DEBIAN, GUESTS, shown  # noqa: E402
from bulkhead.mistake import Trouble  # noqa: E402

import budget  # noqa: E402
import debian  # noqa: E402
import document  # noqa: E402
import initramfs  # noqa: E402
import measure  # noqa: E402
import trouble  # noqa: E402
from boxes import PROCESSORS, Output  # noqa: E402
from cpio import Archive  # noqa: E402
from table import number_text, out, say  # noqa: E402

HERE = Path(__file__).resolve().parent / 'peers'
FOLDER = BUILD / 'bench' / 'peers'
FILE = BUILD / 'bench' / 'peers.json'
BEGIN, END = '<!-- peers: written by tools/bench/peers.py -->\n', '<!-- end of peers -->'
SAMPLES = 1000
NO_EXIT = 2             # instructions: no exit is as cheap
MEGABYTES, SECONDS = 512, 1200
NO_START = 69
GCC = ['gcc', '-O2', '-Wall', '-Wextra', '-Werror', '-static']
OUR_WAY = re.compile(r', (from the table|in the kernel|(asked of|by) the VMM|decoded)$')       # which is not the peers'
MODULES = ['irqbypass.ko', 'kvm.ko', 'kvm-amd.ko', 'kvm-intel.ko']
SAYS = re.compile(r'^(?:\[bench\] )?(?=bench: )', re.MULTILINE)         # Xen's console is the guest's alone


@dataclass
class Load:
    """What the machine boots. way: GRUB's command, 'linux' or 'multiboot' (Xen's multiboot2 entry does not work from GRUB on Bochs' BIOS).
    modules: (path, string) pairs."""
    way: str
    kernel: Path
    arguments: str
    modules: list = field(default_factory=list)


def on_qemu(load, _):
    """Run QEMU until it ends. The debug-exit device is for a guest that has the machine's ports."""
    modules = ','.join(('%s %s' % (path, string)).strip().replace(',', ',,') for path, string in load.modules)
    command = ['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-display', 'none', '-vga', 'none', '-no-reboot', '-machine', 'pc',
               '-accel', 'tcg', '-cpu', 'max,-monitor', '-m', '%dM' % MEGABYTES, '-icount', 'shift=0,sleep=off', '-seed', '1',
               '-rtc', 'base=2024-01-01T00:00:00,clock=vm', '-serial', 'stdio', '-monitor', 'none',
               '-device', 'isa-debug-exit,iobase=0xf4,iosize=1',
               '-kernel', str(load.kernel), '-initrd', modules, '-append', load.arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS)
    except subprocess.TimeoutExpired as late:
        raise Trouble('QEMU did not end in %d s:\n%s' % (SECONDS, (late.stdout or b'').decode('utf-8', 'replace')[-2000:])) from None
    return done.stdout.decode('utf-8', 'replace').replace('\r\n', '\n')


class Disc:
    """A folder as the emulator wants it, with a disc whose GRUB boots a Load."""
    machine = SimpleNamespace(memory=MEGABYTES << 20, cpus=1)

    def __init__(self, path, load):
        self.path, self.load = path, load

    def make_iso(self, iso, bios_only):
        tree = self.path / 'tree'
        (tree / 'boot/grub').mkdir(parents=True)
        files = [(self.load.kernel, self.load.arguments), *self.load.modules]
        commands = [self.load.way] + [{'linux': 'initrd', 'multiboot': 'module'}[self.load.way]] * len(self.load.modules)
        lines = ['serial --unit=0 --speed=115200', 'terminfo serial dumb', 'terminal_output serial']
        for n, (command, (path, string)) in enumerate(zip(commands, files)):
            shutil.copyfile(path, tree / 'boot' / str(n))
            lines.append('%s /boot/%d %s' % (command, n, string))
        (tree / 'boot/grub/grub.cfg').write_text('\n'.join([*lines, 'boot', '']))
        box.grub_image(tree, iso, bios_only, more='linux multiboot')
        return iso


def on_bochs(load, processor):
    """Run Bochs until the guest has said all, or nothing can come any more."""
    output, end = Output(), time.monotonic() + SECONDS
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(run.private_folder()))
        machine = stack.enter_context(emulator.Bochs(Disc(folder, load), cpu_model=processor.model, lenient=True))
        watch = run.Watch(machine, output, keep_returns=False)
        while not measure.END.search(marked(output.text())) and not machine.ended() and time.monotonic() < end:
            if machine.wait_for_output(0.5):
                watch.take()
        said = machine.said()
    return output.text() + said


def on(processor, load):
    return {'qemu': on_qemu, 'bochs': on_bochs}[processor.machine](load, processor)


def marked(text):
    return SAYS.sub('[bench] ', text)


def rows_in(text, whose, processor):
    """{row: {'minimum', 'median'}} of what the guest has printed. Raises Trouble unless it has come to its end. QEMU has not counted the
    instructions that exited, and which these are is the hypervisor's choice."""
    text = marked(text)
    rows = {name: dict(zip(('minimum', 'median'), map(int, numbers))) for name, *numbers in measure.ROW.findall(text)}
    end = measure.END.search(text)
    if not end or int(end[1]) != len(rows):
        raise Trouble('the bench guest did not come to its end on %s:\n%s' % (whose, text[-3000:]))
    return {name: measure.corrected(processor, numbers) if numbers['minimum'] > NO_EXIT else numbers for name, numbers in rows.items()}


def fetched(name):
    """The folder of a package's files, fetched if need be."""
    try:
        debian.fetch(debian.PACKAGES[name], DEBIAN / name, say)
    except trouble.Trouble as error:
        raise Trouble(str(error)) from None
    return DEBIAN / name


def root_files(folder):
    """The archive with the first root file system of the kernel that carries KVM."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run([*GCC, '-o', FOLDER / 'monitor', HERE / 'monitor.c'], check=True)
    archive = Archive()
    for name in ('bin', 'dev', 'modules'):
        archive.folder(name)
    archive.device('dev/console', *initramfs.CONSOLE)
    program = initramfs.busybox()
    archive.file('bin/busybox', program.read_bytes(), 0o755)
    for name in initramfs.applets(program):
        archive.link('bin/' + name, 'busybox')
    for name in MODULES:
        archive.file('modules/' + name, next(folder.rglob(name)).read_bytes())
    archive.file('init', (HERE / 'init').read_bytes(), 0o755)
    archive.file('monitor', (FOLDER / 'monitor').read_bytes(), 0o755)
    archive.file('guest', (GUESTS / 'bench').read_bytes())
    archive.file('command_line', b'samples=%d\n' % SAMPLES)
    (FOLDER / 'kvm.cpio').write_bytes(archive.bytes())
    return FOLDER / 'kvm.cpio'


def kvm(processor):
    folder = fetched('kvm')
    load = Load('linux', folder / 'vmlinuz', 'console=ttyS0,115200 quiet nokaslr', [(root_files(folder), '')])
    return rows_in(on(processor, load), 'KVM', processor)


def xen(processor):
    """Its dom0 has all ports but Xen's own, so on QEMU it may end the machine itself."""
    load = Load('multiboot', fetched('xen') / 'xen', 'dom0=pvh dom0-iommu=none dom0_mem=64M com1=115200 console=com1',
                [(GUESTS / 'bench', 'samples=%d' % SAMPLES)])
    return rows_in(on(processor, load), 'Xen', processor)


COLUMNS = {'ours': ('Bulkhead', measure.operations), 'kvm': ('KVM, Linux', kvm), 'xen': ('Xen', xen)}
# Linux is said to hang on Bochs' SVM processor, in MWAITX; not tried.
ABSENT = {('bochs-svm', 'kvm')}


def lines(found):
    """The tables, one for each processor."""
    plan = budget.load()
    for processor, columns in found['rows'].items():
        titles = [COLUMNS[name][0] + (' ' + found['versions'][name] if name in found['versions'] else '') for name in columns]
        yield '**%s**\n\n' % PROCESSORS[processor].title
        yield document.line('operation', 'row', *titles)
        yield '|---' * (2 + len(titles)) + '|\n'
        for name, row in plan.row.items():
            if any(name in rows for rows in columns.values()):
                cells = [number_text(rows[name]['minimum']) if name in rows else 'none' for rows in columns.values()]
                yield document.line(OUR_WAY.sub('', row['about']), name, *cells)
        yield '\n'


def write(found):
    text = document.FILE.read_text('utf-8')
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise Trouble('%s has lost the marks around the peers\' numbers' % document.FILE.name)
    document.FILE.write_text(head + begin + ''.join(lines(found)) + end + tail)


def version(name):
    """Of a fetched package."""
    return (DEBIAN / name / debian.RECORD).read_text().split()[1]


def measured(processors, names):
    found = {'rows': {}, 'versions': {}}
    for processor in processors:
        columns = found['rows'][processor] = {}
        for name in names:
            if (processor, name) not in ABSENT:
                say('%s: %s ...' % (PROCESSORS[processor].title, COLUMNS[name][0]))
                columns[name] = COLUMNS[name][1](PROCESSORS[processor])
    found['versions'] = {name: version(name) for name in names if name in debian.PACKAGES}
    return found


def main():
    parser = argparse.ArgumentParser(description='Run the bench guest under other hypervisors on the emulated processors.')
    parser.add_argument('--on', choices=PROCESSORS, action='append', help='only this emulated processor; may be repeated')
    parser.add_argument('--only', choices=COLUMNS, action='append', help='only this column; may be repeated')
    arguments = parser.parse_args()
    try:
        found = measured(arguments.on or list(PROCESSORS), arguments.only or list(COLUMNS))
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(found, indent=1) + '\n')
        for line in lines(found):
            out.print(line, end='')
        if not arguments.on and not arguments.only:
            write(found)
            say('written: %s, %s' % (shown(FILE), shown(document.FILE)))
    except Trouble as error:
        say(str(error))
        return NO_START
    return 0


if __name__ == '__main__':
    sys.exit(main())
