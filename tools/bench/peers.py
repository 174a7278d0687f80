"""`make bench-peers`: the bench guest under other hypervisors, on the same emulated processor: QEMU's SVM, its TSC counting instructions.

    .env/bin/python3 tools/bench/peers.py [--only NAME]... [--keep]

ours    Bulkhead, as `make bench` measures it
kvm     Debian's cloud kernel with kvm_amd, and a monitor of our own (peers/monitor.c) in user space
xen     Debian's Xen; the guest is its PVH dom0, so there is no other kernel beside it

Prints a table, writes it to build/bench/peers.json and, with all columns, into docs/performance.md. Exit status: 0, or 69 something did not run.
"""
import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / 'guests'))

from bulkhead.facts import BUILD, DEBIAN, GUESTS, ROOT, shown  # noqa: E402
from bulkhead.mistake import Trouble  # noqa: E402

import budget  # noqa: E402
import debian  # noqa: E402
import document  # noqa: E402
import initramfs  # noqa: E402
import measure  # noqa: E402
import trouble  # noqa: E402
from boxes import PROCESSORS  # noqa: E402
from cpio import Archive  # noqa: E402
from table import number_text, out, say  # noqa: E402

HERE = Path(__file__).resolve().parent / 'peers'
FOLDER = BUILD / 'bench' / 'peers'
FILE = BUILD / 'bench' / 'peers.json'
BEGIN, END = '<!-- peers: written by tools/bench/peers.py -->\n', '<!-- end of peers -->'
OURS = PROCESSORS['qemu-svm']
SAMPLES = 1000
NO_EXIT = 2             # instructions: no exit is as cheap
MEGABYTES, SECONDS = 512, 1200
NO_START = 69
GCC = ['gcc', '-O2', '-Wall', '-Wextra', '-Werror', '-static']
OUR_WAY = re.compile(r', (from the table|in the kernel|(asked of|by) the VMM|decoded)$')       # which is not the peers'
MODULES = ['irqbypass.ko', 'kvm.ko', 'kvm-amd.ko']


def qemu(*options):
    """Run QEMU to its end, with the TSC counting instructions. Returns what came out of the serial port."""
    command = ['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-display', 'none', '-vga', 'none', '-no-reboot', '-machine', 'pc',
               '-accel', 'tcg', '-cpu', 'max,-monitor', '-m', '%dM' % MEGABYTES, '-icount', 'shift=0,sleep=off', '-seed', '1',
               '-rtc', 'base=2024-01-01T00:00:00,clock=vm', '-serial', 'stdio', '-monitor', 'none', *options]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS)
    except subprocess.TimeoutExpired as late:
        raise Trouble('QEMU did not end in %d s:\n%s' % (SECONDS, (late.stdout or b'').decode('utf-8', 'replace')[-2000:])) from None
    return done.stdout.decode('utf-8', 'replace').replace('\r\n', '\n')


def rows_in(text, whose):
    """{row: {'minimum', 'median'}} of what the guest has printed. Raises Trouble unless it has come to its end. QEMU has not counted the
    instructions that exited, and which these are is the hypervisor's choice."""
    rows = {name: dict(zip(('minimum', 'median'), map(int, numbers))) for name, *numbers in measure.ROW.findall(text)}
    end = measure.END.search(text)
    if not end or int(end[1]) != len(rows):
        raise Trouble('the bench guest did not come to its end on %s:\n%s' % (whose, text[-3000:]))
    return {name: measure.corrected(OURS, numbers) if numbers['minimum'] > NO_EXIT else numbers for name, numbers in rows.items()}


def fetched(name):
    """The folder of a package's files, fetched if need be."""
    try:
        debian.fetch(debian.PACKAGES[name], DEBIAN / name, say)
    except trouble.Trouble as error:
        raise Trouble(str(error)) from None
    return DEBIAN / name


def kvm():
    """The guest on KVM."""
    folder = fetched('kvm')
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
    text = qemu('-kernel', str(folder / 'vmlinuz'), '-initrd', str(FOLDER / 'kvm.cpio'), '-append', 'console=ttyS0 quiet nokaslr')
    return rows_in(text, 'KVM')


def xen():
    """The guest on Xen, which has no kernel but this one. Its dom0 has all ports but Xen's own, so it may end the machine itself."""
    guest = str(GUESTS / 'bench').replace(',', ',,')
    text = qemu('-device', 'isa-debug-exit,iobase=0xf4,iosize=1', '-kernel', str(fetched('xen') / 'xen'),
                '-initrd', '%s samples=%d' % (guest, SAMPLES),
                '-append', 'dom0=pvh dom0-iommu=none dom0_mem=64M com1=115200 console=com1')
    return rows_in(re.sub('^bench: ', '[bench] bench: ', text, flags=re.MULTILINE), 'Xen')


def ours():
    return measure.operations(OURS)


COLUMNS = {'ours': ('Bulkhead', ours), 'kvm': ('KVM, Linux', kvm), 'xen': ('Xen', xen)}


def lines(found):
    plan = budget.load()
    titles = [COLUMNS[name][0] + (' ' + found['versions'][name] if name in found['versions'] else '') for name in found['rows']]
    yield document.line('operation', 'row', *titles)
    yield '|---' * (2 + len(titles)) + '|\n'
    for name, row in plan.row.items():
        if any(name in rows for rows in found['rows'].values()):
            cells = [number_text(rows[name]['minimum']) if name in rows else 'none' for rows in found['rows'].values()]
            yield document.line(OUR_WAY.sub('', row['about']), name, *cells)


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


def main():
    parser = argparse.ArgumentParser(description='Run the bench guest under other hypervisors on QEMU.')
    parser.add_argument('--only', choices=COLUMNS, action='append', help='only this column; may be repeated')
    names = parser.parse_args().only or list(COLUMNS)
    found = {'rows': {}, 'versions': {}}
    try:
        for name in names:
            say('%s ...' % COLUMNS[name][0])
            found['rows'][name] = COLUMNS[name][1]()
            if name in debian.PACKAGES:
                found['versions'][name] = version(name)
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + '\n')
        for line in lines(found):
            out.print(line, end='')
        if names == list(COLUMNS):
            write(found)
            say('written: %s, %s' % (shown(FILE), shown(document.FILE)))
    except Trouble as error:
        say(str(error))
        return NO_START
    return 0


if __name__ == '__main__':
    sys.exit(main())
