"""What boot loaders say, odd maps among it, and how the machine's memory is divided by it."""
import struct

import pytest
from hypothesis import example, given, settings, strategies as st

from hypervisor.kernel import limit
from hypervisor.kernel.arena import arena
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.frames import KERNEL, NOBODY
from hypervisor.kernel.inventory import inventory
from hypervisor.kernel.multiboot import RANGES, loader
from hypervisor.kernel.timer import timer
from hypervisor.spec import boot, call, refusal
from hypervisor.spec.layout import ARENA_BASE, ARENA_BYTES, BOOT_PAGE
from rpython.rlib.rarithmetic import r_uint
from tests.unit.kernel import audit
from tests.unit.kernel.machine import FIRST_MODULE, INFORMATION, MEGA, PAGE, manager_image, up

MAGIC1, MAGIC2 = 0x2badb002, 0x36d76289
IMAGE = (MEGA, 0x130000)
GIGA = 1 << 30
MANAGER = 2
LOW = (0, 0x9fc00, 1)


def overlap(a, b):
    return a[0] < b[1] and b[0] < a[1]


def available(ram, count):
    """One byte per frame: 1 where memory is for sure: named available, whole, and never named otherwise."""
    marks = bytearray(count)

    def mark(first, end, value):
        first, end = min(first, count), min(end, count)
        if first < end:
            marks[first:end] = bytearray([value]) * (end - first)
    for start, size, kind in ram:
        if kind == 1:
            mark(up(start) // PAGE, (start + size) // PAGE, 1)
    for start, size, kind in ram:
        if kind != 1 and size:
            mark(start // PAGE, up(start + size) // PAGE, 0)
    return marks


def regions():
    """The manager's free memory, as (start, end) in bytes."""
    manager = compartments[0]
    found = []
    for slot in range(call.SLOT_MEMORY, call.SLOT_MEMORY + call.MEMORY_REGIONS):
        if manager.kinds[slot]:
            first, count = int(manager.first[slot]), int(manager.second[slot])
            found.append((first * PAGE, (first + count) * PAGE))
    return found


def divided_well(machine):
    """The arena, the regions and the owners are right for this machine."""
    owners = audit.owners(machine)
    memory = available(machine.ram, len(owners))
    modules = [(start, up(end)) for start, end in machine.places]
    arena = int(inventory.base), int(inventory.base + inventory.size)
    assert arena[1] <= 4 * GIGA
    taken = [('the image', IMAGE), ('the arena', arena)] + [('module %d' % n, module) for n, module in enumerate(modules)]
    for name, other in taken[:1] + taken[2:]:
        assert not overlap(arena, other), 'the arena lies in %s' % name
    assert all(memory[arena[0] // PAGE:arena[1] // PAGE]), 'the arena lies where no memory is'
    found = regions()
    for n, region in enumerate(found):
        assert region[0] % (2 * MEGA) == 0 and region[0] < region[1]
        assert all(memory[region[0] // PAGE:region[1] // PAGE]) and region[1] <= len(memory) * PAGE, 'region %r where no memory is' % (region,)
        for name, other in taken + [('region', other) for other in found[:n]]:
            assert not overlap(region, other), 'region %r lies in %s' % (region, name)
    assert NOBODY == 0
    expected = bytearray(256) + memory[256:].replace(b'\1', bytearray([MANAGER]))
    for (start, end), owner in [(module, MANAGER) for module in modules] + [(IMAGE, KERNEL), (arena, KERNEL)]:
        expected[start // PAGE:end // PAGE] = bytearray([owner]) * ((end - start) // PAGE)
    if owners != expected:
        frame = [n for n in range(len(owners)) if owners[n] != expected[n]][0]
        assert False, 'frame %#x belongs to %d, right would be %d' % (frame, owners[frame], expected[frame])
    manager = compartments[0]
    for n, (start, end) in enumerate(machine.places):
        if n:
            assert (int(manager.first[call.SLOT_MODULE + n]) * PAGE, int(manager.second[call.SLOT_MODULE + n])) == (start, up(end - start) // PAGE)
    boot_page(machine, found)
    audit.check(machine)


def boot_page(machine, found):
    reach = audit.Reach(machine)
    page = [page for page in reach.spaces[0, 'task'] if page.address == BOOT_PAGE][0]
    assert not page.writable

    def field(name, n=0):
        return machine.memory.word(page.frame * PAGE + boot.MANAGER[name] + 8 * n)
    assert (field('MAGIC'), field('VENDOR')) == (boot.MAGIC, boot.VENDOR_AMD)
    assert abs(field('TSC_KHZ') - 1000000) < 1000
    assert [field('REGION_0_FRAMES', n) * PAGE for n in range(field('REGIONS'))] == [end - start for start, end in found]
    assert [field('MODULE_0_BYTES', n) for n in range(field('MODULE_COUNT'))] == [end - start for start, end in machine.places]


@pytest.mark.parametrize('magic', [MAGIC1, MAGIC2])
def test_plain_machine_is_divided(make_machine, magic):
    machine = make_machine()
    assert machine.boot(magic) == refusal.NONE
    divided_well(machine)
    assert len(regions()) == 1


@pytest.mark.parametrize('low, high', [(32, 48), (48, 16)])
def test_machine_with_memory_above_4_gib_boots(make_machine, low, high):
    """The manager's own frames come from below, wherever most of the memory is."""
    machine = make_machine(ram=[LOW, (MEGA, low * MEGA, 1), (0xfffc0000, 0x40000, 2), (4 * GIGA, high * MEGA, 1)])
    assert machine.boot() == refusal.NONE
    divided_well(machine)
    assert len(regions()) == 2 and regions()[1] == (4 * GIGA, 4 * GIGA + high * MEGA)


@pytest.mark.parametrize('places', [[3, 5], [13, 4], [1.5, 11], [2, 13]])
def test_arena_keeps_clear_of_modules_wherever_they_lie(make_machine, places):
    """Modules in the middle of where the arena would go, at its end, at its start; in any order. Places in MiB."""
    machine = make_machine(modules=[None, b'x' * MEGA])
    machine.places[:] = [(int(at * MEGA), int(at * MEGA) + len(content)) for at, content in zip(places, machine.contents)]
    assert machine.boot() == refusal.NONE
    divided_well(machine)


starts = st.one_of(st.sampled_from([0, 0x9fc00, MEGA, 2 * MEGA, 3 * MEGA, 13 * MEGA, 14 * MEGA, 20 * MEGA + 0x800, 4 * GIGA, 4 * GIGA - 2 * MEGA, 64 * MEGA]),
                   st.integers(0, 80 * MEGA))
sizes = st.one_of(st.sampled_from([0, 1, 0xfff, PAGE, MEGA, 2 * MEGA, 5 * MEGA + 0x123]), st.integers(0, 12 * MEGA))
odd = st.lists(st.tuples(starts, sizes, st.sampled_from([1, 1, 1, 2, 3, 5])), max_size=6)


@given(more=odd, at=st.integers(0, 6), lengths=st.lists(st.sampled_from([1, 4095, 4096, 4097, 3 * MEGA]), max_size=3), low=st.sampled_from([16, 30, 40]),
       magic=st.sampled_from([MAGIC1, MAGIC2]))
@example(more=[(20 * MEGA, MEGA, 2)], at=0, lengths=[], low=40, magic=MAGIC1)
@example(more=[(20 * MEGA, 30 * MEGA, 1)], at=0, lengths=[], low=40, magic=MAGIC2)
@example(more=[(64 * MEGA, 4 * MEGA, 1), (50 * MEGA, 4 * MEGA, 1)], at=0, lengths=[3 * MEGA], low=30, magic=MAGIC2)
@example(more=[(20 * MEGA + 0x800, 0, 2)], at=0, lengths=[], low=40, magic=MAGIC1)
@settings(max_examples=20)
def test_odd_maps_are_divided_well_or_refused(make_machine, more, at, lengths, low, magic):
    """Overlapping, unsorted, with holes, unaligned, above 4 GiB; modules of any length."""
    ram = [LOW, (MEGA, low * MEGA, 1)]
    ram[at:at] = more
    machine = make_machine(ram=ram, modules=[None] + [bytes(bytearray(length)) for length in lengths])
    code = machine.boot(magic)
    if code == refusal.NONE:
        divided_well(machine)
    else:
        assert code in (refusal.NO_ARENA, refusal.NO_MEMORY)
        assert low < 40 or any(kind != 1 for _, _, kind in more), 'a clean stretch of 40 MiB is enough'


@given(ranges=st.lists(st.tuples(st.integers(0, 1 << 44), st.integers(0, 1 << 40), st.integers(0, 6)), max_size=20),
       modules=st.lists(st.tuples(st.integers(0, 0xffeff), st.integers(0, 1 << 20)), max_size=30), magic=st.sampled_from([MAGIC1, MAGIC2]))
def test_loader_reads_both_formats_alike(make_machine, ranges, modules, magic):
    """What is read is what was written, in order: modules, and memory that no range names otherwise."""
    from tests.unit.kernel.machine import multiboot1, multiboot2
    machine = make_machine()
    lines = [(page * PAGE, page * PAGE + length) for page, length in modules]
    make = multiboot1 if magic == MAGIC1 else multiboot2
    machine.memory.put(INFORMATION, make(ranges, lines))
    code = loader.read(r_uint(magic), r_uint(INFORMATION))
    if len(modules) > call.MODULES:
        assert code == refusal.TOO_MANY_MODULES
    elif not any(kind == 1 for _, _, kind in ranges):
        assert code == refusal.NO_MEMORY_MAP
    elif not modules:
        assert code == refusal.NO_MANAGER
    else:
        assert code == refusal.NONE
        read = [(int(loader.module_start[n]), int(loader.module_end[n])) for n in range(loader.module_count)]
        assert read == lines
        found = [(int(loader.range_start[n]), int(loader.range_end[n])) for n in range(loader.range_count)]
        found = sorted((start, end) for start, end in found if start < end)
        assert merged(found) == merged(memory_of(ranges))
        for one, two in zip(found, found[1:]):
            assert one[1] <= two[0], 'ranges overlap'


@pytest.mark.parametrize('ranges, right', [
    ([(MEGA, MEGA, 1), ((1 << 64) - 0xfff, 0xffe, 1)], [(MEGA, 2 * MEGA)]),
    ([(MEGA, MEGA, 1), ((1 << 64) - PAGE, PAGE, 1)], [(MEGA, 2 * MEGA)]),
    ([(MEGA, MEGA, 1), ((1 << 64) - 3 * PAGE, (1 << 64) - 1, 1)], [(MEGA, 2 * MEGA), ((1 << 64) - 3 * PAGE, (1 << 64) - PAGE)]),
    ([(MEGA, 8 * MEGA, 1), (2 * MEGA, (1 << 64) - 2 * MEGA - 1, 2)], [(MEGA, 2 * MEGA)]),
    ([(MEGA, 8 * MEGA, 1), (2 * MEGA, (1 << 64) - 1, 2)], [(MEGA, 2 * MEGA)]),
])
def test_ranges_up_to_the_end_of_all_addresses_do_not_begin_anew(make_machine, ranges, right):
    assert ranges_of(make_machine(), ranges) == (refusal.NONE, right)


def test_more_reserved_stretches_than_can_be_kept_are_refused_and_neighbours_are_one(make_machine):
    """Forgetting one could make memory of it."""
    apart = [(MEGA, 8 * MEGA, 1)] + [(2 * MEGA + 2 * n * PAGE, PAGE, 2) for n in range(RANGES)]
    assert ranges_of(make_machine(), apart)[0] == refusal.NONE
    assert ranges_of(make_machine(), apart + [(7 * MEGA, PAGE, 2)])[0] == refusal.TOO_MANY_RANGES
    side_by_side = [(MEGA, 8 * MEGA, 1)] + [(2 * MEGA + n * PAGE, PAGE, 2 + n % 2) for n in range(RANGES + 1)]
    assert ranges_of(make_machine(), side_by_side) == (refusal.NONE, [(MEGA, 2 * MEGA), (2 * MEGA + (RANGES + 1) * PAGE, 9 * MEGA)])


def ranges_of(machine, ranges):
    from tests.unit.kernel.machine import multiboot2
    machine.memory.put(INFORMATION, multiboot2(ranges, [(FIRST_MODULE, FIRST_MODULE + PAGE)]))
    code = loader.read(r_uint(MAGIC2), r_uint(INFORMATION))
    found = [(int(loader.range_start[n]), int(loader.range_end[n])) for n in range(loader.range_count)]
    return code, sorted((start, end) for start, end in found if start < end)


def memory_of(ranges):
    """Available, whole frames, minus what is named otherwise; by sweeping over all borders."""
    good = [(up(start), (start + size) // PAGE * PAGE) for start, size, kind in ranges if kind == 1]
    bad = [(start // PAGE * PAGE, up(start + size)) for start, size, kind in ranges if kind != 1 and size]
    borders = sorted(set(border for pair in good + bad for border in pair))
    return [(one, two) for one, two in zip(borders, borders[1:])
            if any(a <= one and two <= b for a, b in good) and not any(a <= one and two <= b for a, b in bad)]


def merged(pairs):
    out = []
    for start, end in pairs:
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


@pytest.mark.parametrize('change, right', [
    (lambda machine: MAGIC1 + 1, refusal.BAD_LOADER),
    (lambda machine: machine.ram.__setitem__(slice(None), [(0, 16 * MEGA, 2)]), refusal.NO_MEMORY_MAP),
    (lambda machine: machine.places.__setitem__(slice(None), []), refusal.NO_MANAGER),
    (lambda machine: machine.places.__setitem__(1, (FIRST_MODULE + 0x8001, FIRST_MODULE + 0x9000)), refusal.MODULE_UNALIGNED),
    (lambda machine: machine.places.extend([(0x200000, 0x201000)] * 24), refusal.TOO_MANY_MODULES),
    (lambda machine: machine.ram.__setitem__(slice(None), [(0, 0x9fc00, 1), (MEGA, MEGA // 2, 1)]), refusal.NO_ARENA),
    (lambda machine: machine.contents.__setitem__(0, b'no program'.ljust(5 * PAGE)), refusal.BAD_MANAGER),
    (lambda machine: machine.contents.__setitem__(0, manager_image(5000)), refusal.BAD_MANAGER),
    (lambda machine: machine.contents.__setitem__(0, manager_image()[:16] + struct.pack('<QQQQQ', 0, 0, 0, (1 << 64) - 1, 1 << 63)), refusal.BAD_MANAGER),
    (lambda machine: machine.cpu.leaves.__setitem__(1, (0, 0, 1 << 26, 0)), refusal.NO_LAPIC),
    (lambda machine: machine.cpu.leaves.__setitem__(0x80000001, (0, 0, 0, 0)), refusal.NO_VENDOR),
    (lambda machine: machine.cpu.leaves.__setitem__(0x8000000a, (1, 16, 0, 8)), refusal.NO_NPT),
    (lambda machine: machine.cpu.leaves.__setitem__(0x8000000a, (1, 9, 0, 9)), refusal.NO_ASIDS),
    (lambda machine: machine.cpu.msr.__setitem__(0xc0010114, 1 << 4), refusal.SVM_DISABLED),
], ids=lambda value: refusal.SENTENCES[value][:30] if isinstance(value, int) else '')
def test_what_cannot_start_is_refused_with_its_reason(make_machine, change, right):
    machine = make_machine()
    assert machine.boot(change(machine) or MAGIC1) == right


def test_manager_gets_its_program_and_nothing_else(make_machine):
    """Header, text, rodata, data, bss, stack and boot page, with their rights; a guard page below the stack."""
    machine = make_machine()
    assert machine.boot() == refusal.NONE
    pages = dict((page.address, page) for page in audit.Reach(machine).spaces[0, 'task'] if page.user)
    layout = [(0x400000, 1, 'r')] + [(0x401000, 2, 'x')] + [(0x403000, 1, 'r'), (0x404000, 3, 'w'), (0x700f0000, 16, 'w'), (BOOT_PAGE, 1, 'r'), (BOOT_PAGE + PAGE, 1, 'w')]
    expected = dict((start + n * PAGE, right) for start, count, right in layout for n in range(count))
    assert dict((at, 'w' if page.writable else 'x' if page.executable else 'r') for at, page in pages.items()) == expected
    for n in range(4):
        assert pages[0x400000 + n * PAGE].frame * PAGE == FIRST_MODULE + n * PAGE
    data = pages[0x404000].frame
    assert data != FIRST_MODULE // PAGE + 4, 'the module stays as it was loaded: managers of other cores are made of it'
    assert machine.memory.frame(data) == machine.memory.frame(FIRST_MODULE // PAGE + 4)


def test_kernel_root_has_guard_pages_and_no_one_to_one_map(make_machine):
    from hypervisor.hw import image
    machine = make_machine()
    assert machine.boot() == refusal.NONE
    addresses = set(page.address for page in audit.Reach(machine).kernel)
    for symbol in (image.KERNEL_STACK_GUARD, image.PANIC_STACK_GUARD):
        assert image.fake[symbol] not in addresses and image.fake[symbol] + PAGE in addresses
    assert min(addresses) >= ARENA_BASE


@pytest.mark.parametrize('disturbed', [0, 1, 5, 7])
def test_rate_is_right_though_the_processor_was_away_while_it_was_measured(make_machine, disturbed):
    """A millisecond away at the end of an interval would make the clock a tenth too fast."""
    machine = make_machine()
    machine.cpu.input.away = [1000000] * disturbed
    assert machine.boot() == refusal.NONE
    assert abs(int(timer.tsc_khz) - 1000000) < 1000
    assert machine.cpu.input.measured == max(disturbed, 1) + 1, 'no more than needed'


@pytest.mark.parametrize('gate_ticks, disturbed, measured', [(60, 0, 1), (60, 1, 2), (60, 2, 3), (300, 0, 2), (1500, 0, 2)])
def test_a_short_interval_is_enough_where_it_leaves_as_little_open(make_machine, gate_ticks, disturbed, measured):
    """A 2000th, the PIT's own count among it, which is a 2339th. A read of its gate of 300 ns is too blurred for that."""
    machine = make_machine()
    machine.cpu.rdtsc_ticks = 20
    machine.cpu.input.gate_ticks = gate_ticks
    machine.cpu.input.away = [1000000] * disturbed
    assert machine.boot() == refusal.NONE
    assert machine.cpu.input.measured == measured
    assert abs(int(timer.tsc_khz) - 1000000) < 1000000 // 2000


def test_the_rate_knows_that_the_pit_cannot_count_a_hundredth_of_a_second_exactly(make_machine):
    assert make_machine().boot() == refusal.NONE
    assert abs(int(timer.tsc_khz) - 1000000) < 50           # of 69 that the fraction of a count is worth


def test_the_sharpest_of_eight_disturbed_measurements_is_taken(make_machine):
    machine = make_machine()
    machine.cpu.input.away = [3000, 1000000, 500000, 8000, 900000] + [2000000] * 100
    assert machine.boot() == refusal.NONE and machine.cpu.input.measured == 1 + 8
    assert abs(int(timer.tsc_khz) - 1000000) < 1000


def test_pit_that_never_ends_is_refused(make_machine):
    machine = make_machine()
    machine.cpu.input.stuck = True
    assert machine.boot() == refusal.PIT_SILENT


def test_the_kernel_keeps_what_it_wants_itself_and_room_to_map_the_runs_of_eight_vms(make_machine):
    machine = make_machine()
    assert machine.boot() == refusal.NONE
    most_tables = 3 * (limit.COMPARTMENTS - 1)      # of the kernel root, for runs that lie far apart
    assert arena.pages_left() >= most_tables
    assert arena.pages_left() < most_tables + 32, 'more than it needs'
    assert int(inventory.size) == ARENA_BYTES + int(inventory.table_bytes)
