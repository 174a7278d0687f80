"""Every small guest (tests/guests/build.py) under Bulkhead, several to a box, on both emulators.

The guests check the platform themselves; what they print and how they end must be what their table says, whatever their
neighbours do.
"""
import re
import zlib

import pytest

from tests.guests import build as guests
from tests.system.box import config, run_box, vm

PER_BOX = 5
ENDS = {guests.HALTED: r'halted with nothing left to wake it', guests.SHUTDOWN: r'shut down by a triple fault',
        guests.RESET: r'asked for a reset, more often than it may', guests.ANY: r'.'}


def all_runs():
    """(name, guest, run) of every run that ends by itself and needs no keyboard."""
    for guest in guests.GUESTS:
        for number, each in enumerate(guest.runs):
            if each.bulkhead and not each.typed and each.status != guests.SPINNING:
                yield '%s-%d' % (guest.name.replace('_', '-'), number), guest, each


def boxes():
    """(machine, runs) for each box: on each emulator the runs that fit its vendor, mixed, but the same every time."""
    for machine, vendor in (('qemu', 'svm'), ('bochs', 'vmx')):
        runs = sorted((item for item in all_runs() if item[2].vendor in ('', vendor)), key=lambda item: zlib.crc32(item[0].encode()))
        for at in range(0, len(runs), PER_BOX):
            yield pytest.param(machine, runs[at:at + PER_BOX], id='%s-%s' % (machine, '+'.join(item[0] for item in runs[at:at + PER_BOX])))


def table(name, guest, each, folder):
    modules = []
    for number, (text, string) in enumerate(each.modules):
        path = folder / ('%s-module-%d' % (name, number))
        path.write_bytes(text.encode())
        modules.append({'image': str(path), 'command_line': string})
    return vm(name, str(guest.image), memory='16M', kind=guest.kind, vcpus=guest.processors,
              **({'command_line': each.cmdline, 'modules': modules} if guest.kind == 'multiboot' else {}))


def complaints(name, each, result):
    """What is wrong with one guest's run."""
    lines, at = result.lines.get(name, []), 0
    for pattern in each.expect:
        while at < len(lines) and not re.search(pattern, lines[at]):
            at += 1
        if at == len(lines):
            yield '%s: %r did not come' % (name, pattern)
            return
        at += 1
    for pattern in each.reject:
        yield from ('%s: said %r' % (name, line) for line in lines if re.search(pattern, line))
    end = ENDS[each.status] if each.status in ENDS else r'exited with status %d$' % each.status
    how = result.table[name].how if name in result.table else 'not in the table'
    if not re.match(end, how):
        yield '%s: %s, and not as expected: %s' % (name, how, end)


@pytest.mark.parametrize('machine, runs', boxes())
def test_guests(machine, runs, tmp_path):
    box = config(*[table(name, guest, each, tmp_path) for name, guest, each in runs], memory='160M')
    result = run_box(box, machine)
    wrong = [sentence for name, _, each in runs for sentence in complaints(name, each, result)]
    assert not wrong, '\n'.join(wrong) + '\n' + str(result)
    statuses = [each.status for _, _, each in runs]
    if any(status not in (0, guests.ANY) for status in statuses):
        assert result.status == 1
    elif guests.ANY not in statuses:
        assert result.status == 0
