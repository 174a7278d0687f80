"""The long matrix: real guests of Debian's packages, each on both emulators, as far as it honestly gets (docs/guests.md).

`make test-matrix` runs it; it takes an hour on a slow machine. A guest that checks itself (tools/guests/root/check) has to pass and
to power off; the others have to show what their row says, and are ended or left running then.
"""
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from bulkhead.facts import BUILD, ROOT
from bulkhead.mistake import Mistakes
from tests.system.box import Box, config, load, vm
from tests.system.test_smp import check_sixteen, check_two_guests

NAME = 'guest'
SECONDS = {'qemu': 600, 'bochs': 1200}
RUNNING = 'is left running'
OFF, HALTED = 'powered off', 'halted with nothing left to wake it'
PASSED = 'check: passed'
# memtest86+ writes one long line, in which the console's editing overwrites most of its screen.
TESTING, ONE_PASS, ERRORS = 'Errors: 0', 'Pass: +1 ', 'Errors: +[1-9]'
CONSOLE = 'console=ttyS0 cryptomgr.notests bulkhead.check'


@dataclass(frozen=True)
class Row:
    """say: patterns that the guest's lines must show, in this order. end: how its VM ends, or RUNNING.

    only: the one emulator on which it is to run; complaint: a line that it must not show.
    """
    name: str
    kind: str
    image: str
    memory: str
    command_line: str
    say: list
    end: str = OFF
    modules: tuple = ()
    complaint: str = 'WRONG|Kernel panic'
    only: str = ''


def linux(name, package='cloud', words='', memory='128M', say=(), **more):
    """A Debian kernel with the initramfs that checks itself."""
    return Row(name, 'linux', '@debian/%s/vmlinuz' % package, memory, ' '.join((CONSOLE, words)).strip(), [*say, PASSED],
               modules=('@debian/initramfs',), **more)


def memtest(bits, machine, say):
    """memtest86+ of a VM's memory: one pass through all its tests, or the first screen."""
    return Row('memtest-' + bits, 'linux', '@debian/memtest/%s.bin' % bits, '8M', 'console=ttyS0,115200', say, RUNNING,
               complaint=ERRORS, only=machine)


ROWS = [
    linux('amd64', 'amd64', memory='256M', say=[r'Linux version 6\.1\.']),
    linux('rt', 'rt', memory='256M', say=['PREEMPT_RT']),
    linux('backports', 'backports', memory='256M', say=[r'Linux version 6\.12'], only='bochs'),
    # QEMU 7.2's CMPXCHG16B leaves rubbish in RFLAGS, the trap flag included; without it this kernel takes another way.
    linux('backports-without-cmpxchg16b', 'backports', 'clearcpuid=cx16', '256M', [r'Linux version 6\.12'], only='qemu'),
    linux('xapic', words='nox2apic'),
    linux('pic', words='noapic nolapic', say=['Keep in PIC mode']),
    linux('acpi-timer', words='clocksource=acpi_pm', say=['check: clock: acpi_pm']),
    # Not on QEMU: Linux believes the PIT about the TSC when a port read takes less than 10 us, which depends on the machine below.
    linux('without-kvmclock', words='no-kvmclock', say=['check: clock: tsc'], only='bochs'),
    linux('fixed-address', words='nokaslr'),
    linux('without-acpi', words='maxcpus=1 acpi=off', say=['PIC mode'], end=HALTED),
    Row('pvh', 'pvh', '@debian/pvh/vmlinux', '256M', CONSOLE, [PASSED], modules=('@debian/initramfs',)),
    Row('i386', 'linux', '@debian/i386/vmlinuz', '512M', 'console=ttyS0 DEBIAN_FRONTEND=text',
        ['Run /init', 'Starting system log daemon', '[Ll]anguage', 'Prompt:'], RUNNING, ('@debian/i386/initrd.gz',)),
    memtest('x64', 'qemu', [TESTING, ONE_PASS]), memtest('x64', 'bochs', [TESTING]),        # a pass would take most of an hour there
    memtest('ia32', 'qemu', [TESTING]), memtest('ia32', 'bochs', [TESTING]),
    Row('gnumach', 'multiboot', '@debian/gnumach/gnumach', '64M', 'console=com0',
        [r'GNU Mach 1\.8', 'physical memory map', 'RTC time is', 'No bootstrap code loaded with the kernel'], RUNNING),
]


def box(row):
    key = {'linux': 'initrd', 'pvh': 'modules', 'multiboot': 'modules'}[row.kind]
    guest = vm(NAME, row.image, row.memory, row.kind, exit_port=False, command_line=row.command_line)
    guest['boot'].pop('modules')
    if row.modules:
        guest['boot'][key] = row.modules[0] if key == 'initrd' else [{'image': image} for image in row.modules]
    return config(guest, memory='%dM' % (int(row.memory[:-1]) + 256))


def fetch(row):
    names = sorted({path.split('/')[1] for path in (row.image, *row.modules)})
    if not all((BUILD / path[1:]).exists() for path in (row.image, *row.modules)):
        subprocess.run([sys.executable, str(ROOT / 'tools/guests/linux.py'), *names], check=True)


def cases():
    for row in ROWS:
        for machine in [row.only] if row.only else ['qemu', 'bochs']:
            yield pytest.param(row, machine, id='%s-%s' % (row.name, machine))


def wait_for(box, row):
    """Each pattern after the one before, in lines of the guest."""
    at = 0
    for pattern in row.say:
        found = box.wait_for(r'\A(?s:.{%d})(?s:.*?)(?:%s)' % (at, pattern))
        at = found.end()


def run_row(row, machine):
    """Boot the row's guest on one emulator and hold it to the row."""
    fetch(row)
    with Box(box(row), machine, timeout=SECONDS[machine]) as running:
        wait_for(running, row)
        if row.end != RUNNING:
            result = running.finish()
            assert result.table[NAME].how == row.end, result
        assert not re.search(row.complaint, running.output), running.output


@pytest.mark.parametrize('row, machine', list(cases()))
def test_guest_gets_as_far_as_its_row_says(row, machine):
    run_row(row, machine)


def test_guests_with_two_and_four_vcpus_on_bochs():
    check_two_guests('bochs')


def test_ipxe_is_refused_because_there_is_no_bios():
    row = Row('ipxe', 'linux', '@debian/ipxe/ipxe.lkrn', '32M', '', [])
    fetch(row)
    with pytest.raises(Mistakes, match='it starts in real mode and needs a BIOS'):
        load(box(row))


def test_one_linux_guest_with_sixteen_vcpus_on_two_cores():
    check_sixteen('qemu')
