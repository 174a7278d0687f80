"""`make bench-linux`: a Debian guest under Bulkhead and on the bare emulator, in instructions (QEMU's -icount).

Prints and writes to build/bench/linux.json: instructions of the boot to its first process, the time of a loop in user mode, exits by
kind during the boot, and exits per second while the guest sleeps. Exit status: 0; 1 a goal is missed, and which; 69 something did not run.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

from bulkhead.facts import BUILD, DEBIAN, shown  # noqa: E402
from bulkhead.mistake import Trouble  # noqa: E402

from boxes import Box, Processor  # noqa: E402

KERNEL, INITRAMFS = DEBIAN / 'cloud' / 'vmlinuz', DEBIAN / 'initramfs'
FILE = BUILD / 'bench' / 'linux.json'
MEGABYTES, SECONDS = 256, 600
COMMAND_LINE = 'console=ttyS0 quiet nokaslr bulkhead.bench=%s'
BOX = '''[box]
memory = "512M"
[[vm]]
name = "linux"
memory = "%dM"
[vm.boot]
kind = "linux"
image = "@debian/cloud/vmlinuz"
initrd = "@debian/initramfs"
command_line = "%s"
'''
QEMU = Processor('qemu-svm', 'QEMU, SVM', 'qemu', 'svm', seconds=SECONDS)
IDLE_SECONDS = 10               # that `idle` sleeps longer than `settled`
MOST_LOST, MOST_IDLE = 0.03, 10         # of a loop's time; exits per second
TOOK, UP = re.compile(r'bench: \w+ took ([0-9]+) ns'), re.compile(r'up after ([0-9.]+) s')
NO_START = 69


def bare(what):
    """Run the guest on the emulator itself. Returns (nanoseconds that `what` took, seconds of the boot)."""
    command = ['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-display', 'none', '-vga', 'none', '-no-reboot', '-machine', 'pc',
               '-accel', 'tcg', '-cpu', 'max', '-m', '%dM' % MEGABYTES, '-icount', 'shift=0,sleep=off', '-seed', '1',
               '-rtc', 'base=2024-01-01T00:00:00,clock=vm', '-kernel', str(KERNEL), '-initrd', str(INITRAMFS),
               '-append', COMMAND_LINE % what, '-serial', 'stdio', '-monitor', 'none']
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise Trouble('the bare guest did not end in %d s' % SECONDS) from None
    return times(done.stdout.decode('utf-8', 'replace'))


def boxed(what):
    """Run it under Bulkhead. Returns the same, and the exits by kind."""
    with Box(QEMU, BOX % (MEGABYTES, COMMAND_LINE % what)) as box:
        ending = box.watch.run()
    text = box.output.text()
    if ending.status:
        raise Trouble('the box did not end well: %s\n%s' % (ending.message, text[-2000:]))
    row = re.search(r'bulkhead: linux +powered off +[0-9]+  (.*)$', text, re.MULTILINE)
    exits = {kind: int(count) for kind, count in re.findall(r'([a-z][a-z ]*?) ([0-9]+)(?:, |$)', row[1])}
    return (*times(text), exits)


def times(text):
    took, up = TOOK.search(text), UP.search(text)
    if not took or not up:
        raise Trouble('the guest did not say what it measured:\n' + text[-2000:])
    return int(took[1]), float(up[1])


def measure():
    loop_bare, boot_bare = bare('loop')
    loop_boxed, boot_boxed, _ = boxed('loop')
    _, _, boot = boxed('boot')
    _, _, settled = boxed('settled')        # the first seconds after the boot are not idle yet
    _, _, idle = boxed('idle')
    more = {kind: idle.get(kind, 0) - settled.get(kind, 0) for kind in sorted(idle)}
    return {
        'loop_ns': {'bare': loop_bare, 'bulkhead': loop_boxed, 'lost': loop_boxed / loop_bare - 1},
        'boot_s': {'bare': boot_bare, 'bulkhead': boot_boxed},
        'boot_exits': boot,
        'idle_exits_per_second': {kind: count / IDLE_SECONDS for kind, count in more.items()},
    }


def faults(found):
    """Sentences about goals that are missed."""
    if found['loop_ns']['lost'] > MOST_LOST:
        yield 'a loop in user mode loses %.1f %%, more than %.0f %%' % (100 * found['loop_ns']['lost'], 100 * MOST_LOST)
    idle = sum(found['idle_exits_per_second'].values())
    if idle > MOST_IDLE:
        yield 'a sleeping guest exits %.1f times a second, more than %d' % (idle, MOST_IDLE)


def show(found):
    loop, boot, idle = found['loop_ns'], found['boot_s'], found['idle_exits_per_second']
    print('loop in user mode: %.3f s bare, %.3f s under Bulkhead: %.2f %% lost' % (loop['bare'] / 1e9, loop['bulkhead'] / 1e9, 100 * loop['lost']))
    print('boot, by the guest\'s clock (an instruction is a nanosecond): %.2f s bare, %.2f s under Bulkhead' % (boot['bare'], boot['bulkhead']))
    print('exits of the boot: %d: %s' % (sum(found['boot_exits'].values()), ', '.join('%s %d' % item for item in found['boot_exits'].items())))
    print('exits a second asleep: %.1f: %s' % (sum(idle.values()), ', '.join('%s %.1f' % item for item in idle.items() if item[1])))


def main():
    try:
        found = measure()
    except Trouble as trouble:
        print(trouble, file=sys.stderr)
        return NO_START
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(found, indent=1) + '\n')
    show(found)
    missed = list(faults(found))
    print('\n'.join(missed + ['written: %s' % shown(FILE)]))
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
