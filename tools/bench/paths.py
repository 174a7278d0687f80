"""The instructions of one exit, one by one: taken from a running box, and named by the programs' symbols and lines."""
import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby

from bulkhead.facts import BUILD, ROOT, layout
from bulkhead.mistake import Trouble
from elftools.elf.elffile import ELFFile

import measure
from boxes import Box

GUEST = BUILD / 'guests' / 'bench.elf'
SAMPLES, SETTLED = 6, 25
STRETCHES = ['hlt', 'switch']       # rows that are a way through the kernel, and no operation
SWITCHES_LOOKED_AT = 4
WAIT = 20000000                     # turns of two instructions, in which Bochs' debugger steps in
INSTRUCTION = re.compile(r' *([0-9a-f]+):\t(.*)')
LINE = re.compile(r'(/[^:]*):([0-9]+)( \(discriminator [0-9]+\))?$')
GUEST_END = 0x200000                # tests/guests/common/guest.ld
GUEST_PART, KERNEL_PART, VMM_PART = 'guest', 'kernel', 'vmm'


def symbols(path):
    """The symbols of an ELF: {name: address}."""
    with open(path, 'rb') as file:
        table = ELFFile(file).get_section_by_name('.symtab')
        return {symbol.name: symbol['st_value'] for symbol in table.iter_symbols() if symbol.name}


def functions(path):
    """{address: name} of an ELF's functions; a section's own label may have the same address as one of them."""
    with open(path, 'rb') as file:
        table = ELFFile(file).get_section_by_name('.symtab')
        return {symbol['st_value']: symbol.name for symbol in table.iter_symbols() if symbol['st_info']['type'] == 'STT_FUNC'}


def rows_of(guest=GUEST):
    """What can be profiled: the operations that the guest can be stopped at, and STRETCHES."""
    return sorted([name[3:] for name in symbols(guest) if name.startswith('op_')] + STRETCHES)


def part_of(address):
    """Whose instruction it is, by its address."""
    if address >= layout.KERNEL_BASE:
        return KERNEL_PART
    return VMM_PART if address >= layout.TASK_BASE else GUEST_PART


def capture(processor, row):
    """Run one operation a few times. Returns the shortest list of instruction addresses: the operation's own, then the hypervisor's.
    (Longer ones had a timer interrupt among them.)"""
    if row in STRETCHES:
        return capture_stretch(processor, row)
    names = symbols(GUEST)
    row = hypercall_of(processor) if row == 'hypercall' else row
    if 'op_' + row not in names:
        raise Trouble('there is no operation %s; there are: hypercall, %s' % (row, ', '.join(rows_of())))
    with Box(processor, description(), monitor=True) as box:
        box.debugger.go_to(names['op_' + row])
        trace = box.debugger.trace_to(names['sort'])
    found = split(trace, names['run_' + row], names['op_' + row], names['end_' + row])
    if not found:
        raise Trouble('the trace of %s holds no whole sample' % row)
    return min(found, key=len)


def capture_stretch(processor, row):
    """The kernel's instructions from one guest's last to another's first, or from a sleeping processor's timer interrupt to the guest's first.
    What the guests themselves do in the bench's number is not among them."""
    if processor.machine != 'qemu':
        raise Trouble('%s can be profiled on QEMU only' % row)
    kernel = Program(KERNEL_PART, BUILD / 'kernel.elf')
    (switched,) = [address for address, place in kernel.places.items() if exchanges(place)]
    box_of_row, once, until = (measure.switch_box(2 * SETTLED), switched, switched) if row == 'switch' else (description(SETTLED + SAMPLES), *sample_of('hlt'))
    with Box(processor, box_of_row, monitor=True) as box:
        for _ in range(SETTLED):                # the manager is silent by then
            box.debugger.go_to(once)
            box.debugger.step()
        trace = box.debugger.trace_to(until)
        for _ in range(SWITCHES_LOOKED_AT if row == 'switch' else 0):
            box.debugger.step()
            trace += [switched] + box.debugger.trace_to(until)
    (entry,) = [address for address, place in kernel.places.items() if place.text.startswith('vmrun')]
    ways = between(entry, [address for address in trace if part_of(address) != GUEST_PART])
    found = [stretch for stretch in (stretch_of(row, kernel, way) for way in ways) if stretch]
    if not found:
        raise Trouble('of %d ways through the kernel none was a %s' % (len(ways), row))
    return min(found, key=len)


def between(address, trace):
    """The whole stretches from one passage of an address to the next, which is in the stretch."""
    passages = [n for n, other in enumerate(trace) if other == address]
    return [trace[begin + 1:end + 1] for begin, end in zip(passages, passages[1:])]


def sample_of(row):
    """The addresses in the guest at which each sample of a row begins, and at which the row has all of them."""
    names = symbols(GUEST)
    return names['run_' + row], names['sort']


def exchanges(place):
    """Is it executed once when another vCPU gets the processor? (Who only wants to know a vCPU's FPU state has an XSAVE of its own.)"""
    return place.text.startswith('xsave') and 'Switcher_keep_fpu' not in place.function


def stretch_of(row, kernel, trace):
    """What of a way from guest to guest belongs to the row, without tasks; nothing if it is another way."""
    if any(part_of(address) != KERNEL_PART for address in trace):
        return []
    places = [kernel.places[address] for address in trace]
    names = [place.function for place in places]
    if row == 'switch':
        return trace if 'bh_wait_interrupt' not in names and any(map(exchanges, places)) else []
    if 'bh_wait_interrupt' not in names:
        return []
    asleep = names.index('bh_wait_interrupt')
    return trace[asleep + next(n for n, name in enumerate(names[asleep:]) if name != 'bh_wait_interrupt'):]


def count_start(processor):
    """Each function's instructions from the kernel's first to the guest's first: [(part, function, instructions)], most first."""
    if processor.machine != 'qemu':
        raise Trouble('the start can be counted on QEMU only: Bochs\' debugger comes too late')
    kernel, guest = symbols(BUILD / 'kernel.elf'), symbols(GUEST)
    with Box(processor, description(), monitor=True) as box:
        box.debugger.go_to(kernel['start32'])
        # kernel_start is high: from there on, low addresses are a guest's.
        counts = box.debugger.count_to([kernel['kernel_start'], guest['start']])
    known = programs()
    manager = Program('manager', BUILD / 'manager.elf')
    totals = Counter()
    for address, count in counts.items():
        totals[whose(address, known, manager)] += count
    return [(part, function, count) for (part, function), count in totals.most_common()]


def whose(address, known, manager):
    """(part, function). Manager and VMM lie at the same addresses: where both have code, both are named."""
    part = part_of(address)
    place = known[part].places.get(address)
    if part != VMM_PART:
        return (part, place.function) if place and address >= GUEST_END else (KERNEL_PART, 'boot')
    other = manager.places.get(address)
    names = ['%s: %s' % (its.part, its.function) for its in (other, place) if its]
    return 'task', ' or '.join(names)


def hypercall_of(processor):
    return 'vmcall' if processor.vendor == 'vmx' else 'vmmcall'


def description(samples=SAMPLES):
    return ('[box]\nname = "profile"\nmemory = "128M"\n[[vm]]\nname = "bench"\nmemory = "16M"\nexit_port = true\nhost_tsc = true\n'
            'boot = {kind = "multiboot", image = "@guests/bench", command_line = "samples=%d wait=%d"}\n' % (samples, WAIT))


def split(trace, function, operation, end):
    """Cut a trace into samples: what follows the set-up, up to `end`. The operation itself comes first, shown by the tracer or not."""
    if 0 in trace:
        return split_blindly(trace, operation)
    found, current = [], None
    for address in trace:
        if function <= address < operation:
            current = [operation]
        elif address == end and current:
            found.append(current)
            current = None
        elif current is not None and address != operation:
            current.append(address)
    return found


def split_blindly(trace, operation):
    """The same where the guest's own instructions are not known: each stretch without one is a sample."""
    stretches = [list(group) for is_guest, group in groupby(trace, key=lambda address: part_of(address) == GUEST_PART) if not is_guest]
    return [[operation] + stretch for stretch in stretches]


@dataclass
class Place:
    """Where an instruction belongs."""
    part: str
    function: str
    text: str = ''                  # the instruction
    file: str = ''
    line: int = 0


@dataclass
class Program:
    """One ELF's functions, instructions and lines, as objdump says them."""
    part: str
    path: object
    places: dict = field(default_factory=dict)

    def __post_init__(self):
        command = ['objdump', '--no-show-raw-insn', '-d', '-l', str(self.path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        names = functions(self.path)
        function, file, line = '', '', 0
        for row in text.splitlines():
            if row.endswith('>:'):
                start, _, name = row[:-2].partition(' <')
                function, file, line = names.get(int(start, 16), name), '', 0
            elif LINE.match(row):
                file, line = LINE.match(row)[1], int(LINE.match(row)[2])
            elif INSTRUCTION.match(row):
                address, instruction = INSTRUCTION.match(row).groups()
                self.places[int(address, 16)] = Place(self.part, function, instruction.strip(), file, line)


def programs():
    return {part: Program(part, path) for part, path in (
        (KERNEL_PART, BUILD / 'kernel.elf'), (VMM_PART, BUILD / 'vmm.elf'), (GUEST_PART, GUEST))}


def places_of(trace):
    """The Place of each instruction. The programs must be those that the box ran: raises Trouble where they are not."""
    known = programs()
    try:
        return [known[part_of(address)].places[address] for address in trace]
    except KeyError as address:
        raise Trouble('0x%x is not in the programs: they were built anew while the box ran. Try again' % address.args[0]) from None
