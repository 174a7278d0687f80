"""Running the bench guest, and reading what it says."""
import re

from bulkhead.mistake import Trouble

import budget
from boxes import run_box

# The guest's maximum is for people: whether the manager's turn came in between depends on how fast the console is read.
ROW = re.compile(r'^\[bench\] bench: (\w+) minimum (\d+) median (\d+) maximum \d+ empty \d+$', re.MULTILINE)
END = re.compile(r'^\[bench\] bench: (\d+) rows, ', re.MULTILINE)
TABLE = re.compile(r'^bulkhead: bench +exited with status 0 +\d+ +(.*)$', re.MULTILINE)
GAP = re.compile(r'^\[(\w+)\] bench: gap (\d+) to (\d+)$', re.MULTILINE)
SAMPLES = 1000              # machines/bench.toml
STRAY = 50                  # exits of a kind that the guest may have besides: its start, and what it asks before it measures
LONGEST_SWITCH = 100000     # ticks; between two slices that follow one another
UNCOUNTED = {'qemu': 1}     # QEMU takes an instruction that ends in an exit back before it has counted it
PLAYERS = ('port', 'starboard')


def operations(processor):
    """{row: {'minimum', 'median'}} of one run. Raises Trouble when the guest's exits are not those that its rows should cause."""
    text = run_box(processor)
    rows = {name: dict(zip(('minimum', 'median'), map(int, numbers))) for name, *numbers in ROW.findall(text)}
    end = END.search(text)
    if not end or int(end[1]) != len(rows):
        raise Trouble('the bench guest did not print all of its rows on %s:\n%s' % (processor.title, text))
    plan = budget.load()
    check_exits(rows, text, plan, processor.name)
    return {name: corrected(processor, numbers) if plan.exit_of(name) else numbers for name, numbers in rows.items()}


def corrected(processor, numbers):
    """The operation itself is part of its row, whether the emulator has counted it or not. The profiler sees it either way."""
    return {name: number + UNCOUNTED.get(processor.machine, 0) for name, number in numbers.items()}


def check_exits(rows, text, plan, processor):
    """Each sample of a row with an exit must be in the manager's table. Ports have no upper bound: the guest prints."""
    expected = {}
    for name in rows:
        for kind, count in plan.exits_of(name, processor).items():
            expected[kind] = expected.get(kind, 0) + SAMPLES * count
    counted = {kind: int(count) for kind, count in re.findall(r'([a-z][a-z ]*?) (\d+)(?:, |$)', TABLE.search(text)[1])}
    for kind, count in expected.items():
        if not count <= counted.get(kind, 0) or kind != 'port' and counted[kind] > count + STRAY:
            raise Trouble('the rows should cause %d exits of kind %s, and the table counts %d' % (count, kind, counted.get(kind, 0)))


def single(value):
    return {'minimum': value, 'median': value}


def switch(processor):
    """From the last RDTSC of one VM to the first of the other, by the lists of both. One turn of the guests' loop is in it."""
    found = GAP.findall(run_box(processor, switch_box()))
    left = sorted((int(left), name) for name, left, _ in found)
    back = sorted((int(back), name) for name, _, back in found)
    ticks = sorted(switches(left, back))
    if len(ticks) < 4:
        raise Trouble('only %d switches between the two VMs were seen on %s' % (len(ticks), processor.title))
    return {'minimum': ticks[0], 'median': ticks[len(ticks) // 2]}


def switches(left, back):
    """For each moment at which one VM was left: the time until another came, when nobody else was in between."""
    for moment, name in left:
        later = [(other, its_name) for other, its_name in back if other > moment]
        if later and later[0][1] != name and later[0][0] - moment < LONGEST_SWITCH:
            yield later[0][0] - moment


def ipi(processor, cores):
    """An interrupt to the other vCPU of the guest and its answer. On one core both halt in between, or each would wait for the end of the
    other's turn; on two both spin, so that nothing is in it but the way of the two interrupts."""
    text = run_box(processor, ipi_box(cores), quantum=1 if cores > 1 else None)
    rows = {name: dict(zip(('minimum', 'median'), map(int, numbers))) for name, *numbers in ROW.findall(text)}
    sent = int(re.search(r'wrmsr (\d+)', TABLE.search(text)[1])[1])
    if sent < 2 * SAMPLES:
        raise Trouble('%d interrupts there and back should be more exits than %d' % (SAMPLES, sent))
    (numbers,) = rows.values()
    return corrected(processor, numbers)


def ipi_box(cores):
    return ('[box]\nname = "ipi"\nmemory = "128M"\ncpus = %d\n[[vm]]\nname = "bench"\nmemory = "16M"\nexit_port = true\nhost_tsc = true\nvcpus = 2\ncpus = %s\n'
            'boot = {kind = "multiboot", image = "@guests/bench", command_line = "ipi=%d"}\n' % (cores, list(range(cores)), cores))


def switch_box(gaps=12):
    vms = ''.join('[[vm]]\nname = "%s"\nmemory = "16M"\nexit_port = true\nhost_tsc = true\n'
                  'boot = {kind = "multiboot", image = "@guests/bench", command_line = "switch=1 gaps=%d"}\n' % (name, gaps) for name in PLAYERS)
    return '[box]\nname = "switch"\nmemory = "128M"\n' + vms
