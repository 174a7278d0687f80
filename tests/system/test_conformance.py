"""A guest that expects a bare PC finds one: what the guests of tests/guests/build.py CONFORMANCE report on QEMU's bare PC, they
report under Bulkhead as well, line by line, on both emulators.

A line is "part: what: result", with a result of "ok", "WRONG", "not offered" or a number. Where an emulator or Bulkhead may
say something else, DIFFERENCES says what, and why.
"""
import fnmatch
import functools
import re
import subprocess
from dataclasses import dataclass

import pytest

from tests.guests import build as guests
from tests.system.box import config, run_box, vm

BARE_SECONDS = 60
LINE = re.compile(r'(.+: .+): (ok|WRONG|not offered|[0-9a-f]+)')


@dataclass(frozen=True)
class Difference:
    """what: the line without its result, * and ? stand for others. where: some of "bare", "qemu" and "bochs" (under Bulkhead there).
    result: what it may say there instead of `ok`, or of what it says on the bare PC."""
    what: str
    where: str
    result: str
    why: str


TCG = 'bare qemu'
DIFFERENCES = [
    Difference('pit: a new mode has no count yet', 'bare', 'WRONG', "QEMU's 8254 has no null-count bit"),
    Difference('pit: channel 2 stands while its gate is closed', 'bare', 'WRONG', "QEMU's gate does nothing in mode 0"),
    Difference('apic-errors: a vector below 16 does not come', 'bare', 'WRONG', 'QEMU delivers it like any other'),
    Difference('apic-errors: it is an error', 'bare', 'WRONG', 'and tells of no error'),
    Difference('apic-errors: the error entry interrupts', 'bare', 'WRONG', 'nor interrupts'),
    Difference('software-disabled: the LVT entries are masked', 'bare', 'WRONG', 'QEMU masks none'),
    Difference('software-disabled: and stay so', 'bare', 'WRONG', 'QEMU masks none'),
    Difference('com1: interrupts that loop-back lets through to line 4', 'qemu bochs', '0',
               'in loop-back OUT2 is cut off from the line; QEMU has no OUT2 gate, and interrupts once'),
    Difference('debug: DR7.GD guards the debug registers', TCG, 'WRONG', 'TCG knows no DR7.GD'),
    Difference('debug: and is off in the handler', TCG, 'WRONG', 'TCG knows no DR7.GD'),
    Difference('gate: ring 3 may not INT through a DPL 0 gate', TCG, 'WRONG', "TCG's error code for an IDT entry is twice too large"),
    Difference('gate: a gate that is not present', TCG, 'WRONG', "TCG's error code for an IDT entry is twice too large"),
    Difference('gate: a gate of no known type', TCG, 'WRONG', "TCG's error code for an IDT entry is twice too large"),
    Difference('nx: a reserved bit without EFER.NXE', TCG, 'WRONG', "TCG's error code has no P beside RSVD"),
    Difference('reserved: *', TCG, 'WRONG', "TCG's error code has no P beside RSVD"),
    Difference('1-gib: reserved bits', TCG, 'WRONG', "TCG's error code has no P beside RSVD"),
    Difference('pku: *', 'bochs', 'not offered', "Bochs' corei7_haswell_4770 has none"),
    Difference('xsave-keys: *', 'bochs', 'not offered', "Bochs' corei7_haswell_4770 has none"),
    Difference('smap: *', 'bochs', 'not offered', "Bochs' corei7_haswell_4770 has none"),
    Difference('cr0: an upper half', TCG, 'WRONG', 'TCG drops it'),
    Difference('cr8: four bits', TCG, 'WRONG', 'TCG takes any'),
    Difference('fpu: a reserved bit of MXCSR', TCG, 'WRONG', 'TCG takes any'),
    Difference('xsave: TS: #NM', TCG, 'WRONG', 'TCG does not look at it'),
    Difference('msr: are canonical', TCG, 'WRONG', 'TCG takes any; SVM passes these MSRs through'),
    Difference('msr: LSTAR and CSTAR are canonical', TCG, 'WRONG', 'TCG takes any; SVM passes these MSRs through'),
    Difference('msr: MSR 0x10 is the TSC', TCG, 'WRONG', 'TCG reads 0'),
    Difference("msr: EFER's reserved bits", 'bare', 'WRONG', 'TCG drops them'),
    Difference('msr: LME cannot go while paging is on', 'bare', 'WRONG', 'TCG drops it'),
    Difference('msr: and no others', 'bare', 'WRONG', 'TCG takes any'),
    Difference('msr: an MSR that is none', 'bare', 'WRONG', 'TCG reads 0'),
    Difference("msr: APIC_BASE's reserved bits", 'bare', 'WRONG', 'TCG drops them'),
    Difference('x2apic: *', 'bare', 'not offered', "QEMU 7.2's TCG has none; Bulkhead makes its own"),
    Difference('msr: RDTSCP', 'qemu bochs', 'not offered', 'Bulkhead does not exchange TSC_AUX (docs/platform.md)'),
    Difference('ring3: SGDT and SMSW with CR4.UMIP', 'bochs', 'not offered', "Bochs' corei7_haswell_4770 has none"),
    Difference('syscall: with RFLAGS of R11, without RF', TCG, 'WRONG', "TCG's SYSRET loads RF"),
    Difference('query: system types that long mode does not have*', TCG, 'WRONG', "TCG does not know long mode's shorter list"),
    Difference('load: with its own RPL only', TCG, 'WRONG', 'TCG does not look at the RPL of a null SS'),
    Difference('far: CALL by a gate to conforming code, from ring 3', TCG, 'WRONG', "TCG puts the segment's DPL into CS, not the CPL"),
    Difference('far: JMP by a gate to code that is not present', TCG, 'WRONG', 'TCG raises #GP, not #NP'),
    Difference('far: code cannot be of 64 and of 32 bits', TCG, 'WRONG', 'TCG lets a far JMP go there'),
    Difference('system: LTR of a TSS of 16 bits', TCG, 'WRONG', 'TCG takes it in long mode too'),
    Difference('system: LTR of null', TCG, 'WRONG', 'TCG takes it'),
    Difference('tables: L?DT of *', TCG, 'WRONG', 'TCG takes any base'),
    Difference('tables: none with CR4.UMIP', 'bochs', 'not offered', "Bochs' corei7_haswell_4770 has none"),
    Difference('tables: but ring 0', 'bochs', 'not offered', "Bochs' corei7_haswell_4770 has none"),
    Difference('base: WRFSBASE of a non-canonical address', TCG, 'WRONG', 'TCG takes any'),
    Difference('exception: #AC in ring 3', TCG, 'WRONG', 'TCG checks no alignment'),
    Difference('inner-stack: not present is #SS', TCG, 'WRONG', 'TCG raises #TS'),
    Difference('inner-stack: without room is #SS', TCG, 'WRONG', "TCG knows no segment's limit when memory is accessed"),
    Difference('return: EIP behind the limit', TCG, 'WRONG', "TCG's IRET does not look at it"),
    Difference('v86: an offset above 64 KiB', TCG, 'WRONG', "TCG knows no segment's limit when memory is accessed"),
    Difference('pse: bit 21 of a 4-MiB page is reserved', TCG, 'WRONG', "TCG's error code has no P beside RSVD"),
    Difference('pae-nx: a reserved bit without EFER.NXE', TCG, 'WRONG', "TCG's error code has no P beside RSVD"),
    Difference('pae-reserved: *', TCG, 'WRONG', "TCG's error code has no P beside RSVD"),
    *[Difference('pae-top: ' + what, TCG, 'WRONG', "TCG keeps no copy of PAE's top entries: it reads and checks them at each walk")
      for what in ('reserved bits: #GP of MOV to CR3', 'and the old ones stay', 'of MOV to CR4 that changes PGE', 'of MOV to CR0 that changes CD',
                   'they are not read at a walk', 'with paging off: #GP of the MOV to CR0 that turns it on')],
    Difference('levels: five: PS of a PML5 entry', TCG, 'WRONG', "TCG's error code has no P beside RSVD"),
    Difference('levels: five*', 'bochs', 'not offered', "Bochs' corei7_haswell_4770 has none"),
    Difference('*smep-smap: SMAP: *', 'bochs', 'not offered', "Bochs' corei7_haswell_4770 has none"),
    Difference('*smep-smap: nothing without CR4.SMAP', 'bochs', 'not offered', "Bochs' corei7_haswell_4770 has none"),
    Difference('jmp: the old EFLAGS too', TCG, 'WRONG', 'TCG loses flags that it has not computed yet'),
    Difference('call: with the old EFLAGS', TCG, 'WRONG', 'TCG loses flags that it has not computed yet'),
    Difference('state: which is accessed now', TCG, 'WRONG', "TCG's task switch sets no accessed bit"),
    *[Difference('compatibility: ' + what, TCG, 'WRONG', "TCG knows no segment's limit when memory is accessed, nor what kind of access it allows")
      for what in ('and limit', 'a limit in pages', 'an expand-down segment is above its limit', 'and ends at 4 GiB', 'or at 64 KiB',
                   'a read-only segment', 'a null segment', 'code that may be read', "a stack's end is #SS", 'code that runs into it')],
]


def parse(lines):
    """{what: result}, in order, and the lines that are none."""
    matches = [(LINE.fullmatch(line), line) for line in lines]
    return {match[1]: match[2] for match, _ in matches if match}, [line for match, line in matches if not match]


@functools.lru_cache(None)
def bare(guest):
    """What a guest reports on QEMU's PC, without a hypervisor. Its time counts instructions, so that a slow host makes no timer late; not with
    two processors, one of which then waits for ever at times."""
    guests.build(guests.BY_NAME[guest])
    time = ['-icount', 'shift=7,sleep=off'] if guests.BY_NAME[guest].processors == 1 else []
    command = ['qemu-system-x86_64', '-machine', 'pc', '-accel', 'tcg', '-cpu', 'max', '-smp', str(guests.BY_NAME[guest].processors), '-m', '64', '-no-reboot', '-display', 'none',
               '-monitor', 'none', '-serial', 'stdio', '-net', 'none', *time, '-rtc', 'clock=vm', '-device', 'isa-debug-exit,iobase=0xf4,iosize=4',
               '-kernel', str(guests.BY_NAME[guest].image)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=BARE_SECONDS)
    return tuple(done.stdout.decode('latin-1').replace('\r', '').splitlines())


def allowed(what, where, result):
    return any(fnmatch.fnmatchcase(what, row.what) and where in row.where.split() and row.result == result
               for row in DIFFERENCES)


def complaints(guest, machine, lines):
    """What is wrong with a guest's report under Bulkhead."""
    there, _ = parse(lines)
    here, others = parse(bare(guest))
    if not others or not re.fullmatch(r'%s: \d+ checks, \d+ wrong' % guest, others[-1]):
        yield '%s: did not end on the bare PC' % guest
    if list(here) != list(there):
        for what in sorted(set(here) ^ set(there)):
            yield '%s: only %s: %s' % (guest, 'on the bare PC' if what in here else 'under Bulkhead', what)
    for what in here:
        if here[what] == 'WRONG' and not allowed(what, 'bare', 'WRONG'):
            yield '%s: on the bare PC: %s: WRONG' % (guest, what)
        if what not in there:
            continue
        good = 'ok' if here[what] == 'WRONG' or allowed(what, 'bare', here[what]) else here[what]
        if there[what] != good and not allowed(what, machine, there[what]):
            yield '%s: under Bulkhead: %s: %s, not %s' % (guest, what, there[what], good)


ALONE_ON_BOCHS = ['pcapic']     # Bochs 2.7 blocks the next guest's NMIs, too, when it leaves one in an NMI's handler (docs/proven.md)


def boxes():
    """(machine, guests): several boxes, because one takes eight VMs."""
    yield 'qemu', guests.CONFORMANCE[::2]
    yield 'qemu', guests.CONFORMANCE[1::2]
    together = [guest for guest in guests.CONFORMANCE if guest.name not in ALONE_ON_BOCHS]
    yield 'bochs', together[::2]
    yield 'bochs', together[1::2]
    for name in ALONE_ON_BOCHS:
        yield 'bochs', [guests.BY_NAME[name]]


@pytest.mark.parametrize('machine, some', [pytest.param(*box, id='%s-%d' % (box[0], n)) for n, box in enumerate(boxes())])
def test_reports_are_those_of_a_bare_pc(machine, some):
    names = [guest.name for guest in some]
    for guest in some:
        guests.build(guest)
    result = run_box(config(*[vm(guest.name, guest.name, vcpus=guest.processors) for guest in some], memory='192M'), machine)
    wrong = [sentence for name in names for sentence in complaints(name, machine, result.lines.get(name, []))]
    assert not wrong, '\n'.join(wrong) + '\n' + str(result)


def test_every_difference_is_one():
    """A row that no guest's line fits any more goes."""
    lines = [what for guest in guests.CONFORMANCE for what in parse(bare(guest.name))[0]]
    assert not [row for row in DIFFERENCES if not fnmatch.filter(lines, row.what)]
