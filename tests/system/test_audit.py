"""Promises 1 and 2, seen from outside: who reaches which frame, by the emulator's own view of physical memory.

The walker is the auditor's own (tests/system/walker.py). The roots are those that the kernel publishes, and these are held against
what the processor really uses: the kernel's CR3 in its entry page, and the nested roots in the VMCBs or VMCSs.
"""
import struct

import pytest
from elftools.elf.elffile import ELFFile

from bulkhead.facts import ROOT, core as cores, layout
from hypervisor.spec import audit as published
from tests.system.box import Box, config, vm
from tests.system.walker import ADDRESS, KERNEL, NESTED, TASK, Root, audit, audit_cores, leaves

KERNEL_ELF = ROOT / 'build' / 'kernel.elf'
COMPARTMENTS = (0, 1, 2)
STACK = layout.STACK_TOP - layout.PAGE


def symbols(*names):
    with open(KERNEL_ELF, 'rb') as file:
        table = ELFFile(file).get_section_by_name('.symtab')
        return [table.get_symbol_by_name(name)[0]['st_value'] for name in names]


def physical(address):
    """The boot core's private data lies where the loader put it."""
    return address - layout.KERNEL_BASE


def read_records(memory, private=None):
    """What the first core publishes or, given its private memory, another one."""
    place, data_start = symbols('published_roots', 'data_start')
    at = physical(place) if private is None else private + cores.BOOT_TABLE_PAGES * layout.PAGE + place - data_start
    data = memory.read(at, published.RECORD['END'] * published.RECORDS)
    return [Root(*words) for words in struct.iter_unpack('<QQQ', data) if words[0]]


def read_roots(memory, private=None):
    return [record for record in read_records(memory, private) if record.kind != published.KIND_CORE]


def frames_between(first, last):
    start, end = symbols(first, last)
    return set(range(physical(start) >> 12, physical(end) >> 12))


def nested_roots_in_use(memory, kernel, ept, roots):
    """What the control blocks in the kernel's own memory hold: {compartment: nested root}."""
    arena = sorted(frame for frame, mapping in kernel.items() if layout.ARENA_BASE <= mapping.virtual < layout.ARENA_END)
    expected = {root.compartment: root.address for root in roots if root.kind == NESTED}
    found = {}
    for frame in arena:
        page = memory.page(frame << 12)
        if ept:
            for compartment, root in expected.items():
                if any(struct.pack('<Q', root | bits) in page for bits in (0x1e, 0x5e)) and struct.unpack_from('<I', page)[0] not in (0,):
                    found[compartment] = root
        else:
            asid, enabled, root = struct.unpack_from('<I', page, 0x58)[0], struct.unpack_from('<Q', page, 0x90)[0], struct.unpack_from('<Q', page, 0xb0)[0]
            intercepts = struct.unpack_from('<I', page, 0x10)[0]
            if enabled == 1 and 0 < asid < 16 and intercepts & 1 and root:
                found[asid] = root
    return found, expected


@pytest.fixture
def two_guests(machine):
    with Box(config(vm('a', 'ticker', command_line='lines=1000000 loops=2000000'), vm('b', 'spinner')), machine, monitor=True) as box:
        box.wait_for(r'^\[b\] ')
        box.wait_for(r'^\[a\] ')
        box.pause()
        yield box


def test_no_frame_has_two_owners_and_ring_0_maps_no_guest(two_guests, machine):
    memory = two_guests.physical()
    roots = read_roots(memory)
    assert sorted((root.kind, root.compartment) for root in roots) == sorted(
        [(KERNEL, 0)] + [(TASK, n) for n in COMPARTMENTS] + [(NESTED, n) for n in COMPARTMENTS if n])
    ept = machine == 'bochs'
    entry = frames_between('entry_text_start', 'entry_text_end') | frames_between('entry_data_start', 'entry_data_end')
    faults, shared, held, kernel = audit(memory, roots, ept, entry)
    assert not faults, '\n'.join(faults[:20])

    guest_frames = {n: sum(1 for owners in held.values() if NESTED in owners.get(n, ())) for n in COMPARTMENTS}
    assert guest_frames == {0: 0, 1: 4096 - 32, 2: 4096 - 32}, 'the whole of both guests was seen: 16 MiB less the hole from A0000 to C0000'
    # What kernel and task share is the message pages: one task page each, one vCPU page per guest, and nothing else.
    assert sorted(shared.values()) == [0, 1, 1, 2, 2]

    (place,) = symbols('kernel_root')
    (kernel_root,) = [root.address for root in roots if root.kind == KERNEL]
    assert memory.word(physical(place)) == kernel_root
    in_use, expected = nested_roots_in_use(memory, kernel, ept, roots)
    assert in_use == expected


def leaf_slot(memory, root, virtual):
    """Physical address of the entry that maps `virtual` with a 4-KiB page."""
    table = root
    for level in (3, 2, 1):
        table = memory.word((table & ADDRESS) + 8 * (virtual >> (12 + 9 * level) & 511))
    return (table & ADDRESS) + 8 * (virtual >> 12 & 511)


def plant(memory, address, value):
    page = bytearray(memory.page(address))
    page[address % layout.PAGE:address % layout.PAGE + 8] = struct.pack('<Q', value)
    memory.pages[address - address % layout.PAGE] = bytes(page)


def test_the_auditor_finds_what_is_planted(two_guests, machine):
    """The check above can fail: the same memory with one wrong entry is refused, each in its words."""
    memory = two_guests.physical()
    roots = read_roots(memory)
    by_name = {(root.kind, root.compartment): root for root in roots}
    ept = machine == 'bochs'
    entry = frames_between('entry_text_start', 'entry_text_end') | frames_between('entry_data_start', 'entry_data_end')
    victim = next(mapping for mapping in leaves(memory, by_name[NESTED, 2].address, ept))
    task, kernel = by_name[TASK, 1].address, by_name[KERNEL, 0].address
    for root, virtual, entry_value, words in [
            (task, layout.BOOT_PAGE, victim.frame << 12 | 7, 'is reachable by compartments [1, 2]'),
            (task, layout.BOOT_PAGE, victim.frame << 12 | 3, 'for ring 0 beside the entry pages'),
            (task, layout.BOOT_PAGE, task | 7, 'holds a page table and is reachable by [1]'),
            (task, STACK, memory.word(leaf_slot(memory, task, STACK)) & ~(1 << 63), 'writable and executable'),
            (kernel, symbols('text_start')[0], victim.frame << 12 | 1, 'of a guest of [2] is mapped in ring 0')]:
        slot = leaf_slot(memory, root, virtual)
        before = memory.word(slot)
        plant(memory, slot, entry_value)
        faults = audit(memory, roots, ept, entry)[0]
        assert any(words in fault for fault in faults), (words, faults[:5])
        plant(memory, slot, before)
    assert not audit(memory, roots, ept, entry)[0]


def test_guard_pages_are_not_mapped(two_guests, machine):
    memory = two_guests.physical()
    roots = read_roots(memory)
    entry = frames_between('entry_text_start', 'entry_text_end') | frames_between('entry_data_start', 'entry_data_end')
    _, _, _, kernel = audit(memory, roots, machine == 'bochs', entry)
    for guard in symbols('kernel_stack_guard', 'panic_stack_guard'):
        assert physical(guard) >> 12 not in kernel


@pytest.fixture
def two_cores(machine):
    description = config(vm('a', 'ticker', command_line='lines=1000000 loops=2000000'), vm('b', 'spinner', cpus=[1]), memory='256M')
    description['box']['cpus'] = 2
    with Box(description, machine, monitor=True) as box:
        box.wait_for(r'^\[b\] ')
        box.wait_for(r'^\[a\] ')
        box.pause()
        yield box


def test_cores_share_nothing_but_text_and_pages_with_one_writer(two_cores, machine):
    memory = two_cores.physical()
    ept = machine == 'bochs'
    (started,) = [record for record in read_records(memory) if record.kind == published.KIND_CORE]
    assert started.compartment == 1
    text = frames_between('text_start', 'rodata_end')
    entry_text = frames_between('entry_text_start', 'entry_text_end')
    entry_data = frames_between('entry_data_start', 'entry_data_end')
    data_start, entry_data_start = symbols('data_start', 'entry_data_start')
    private = (started.address >> 12) + cores.BOOT_TABLE_PAGES
    moved = {private + frame - (physical(data_start) >> 12) for frame in entry_data}
    roots = {0: read_roots(memory), 1: read_roots(memory, started.address)}
    for number in (0, 1):
        assert sorted((root.kind, root.compartment) for root in roots[number]) == [(KERNEL, 0), (TASK, 0), (TASK, 1), (NESTED, 1)]
        faults = audit(memory, roots[number], ept, entry_text | (moved if number else entry_data))[0]
        assert not faults, '\n'.join(faults[:20])
    assert entry_data_start == data_start and not moved & entry_data

    (kernel_one,) = [root.address for root in roots[1] if root.kind == KERNEL]
    device = memory.word(leaf_slot(memory, kernel_one, layout.DEVICE_BASE)) >> 12 & (1 << 40) - 1
    first = physical_of(memory, kernel_one, layout.LINK_BASE + 2 * layout.PAGE)
    links = set(range(first - 2, first + 10))       # each core and channel: a page of bytes for each core, and its status page
    faults, kernel = audit_cores(memory, roots, ept, text, device, links)
    assert not faults, '\n'.join(faults[:20])
    rights = {number: {frame - first + 2: kernel[number][frame][0].writable for frame in links & set(kernel[number])} for number in (0, 1)}
    first_core = {1: True, 2: True, 3: False, 5: False, 7: True, 8: True, 9: False, 11: False}
    assert rights == {0: first_core, 1: {frame: not writable for frame, writable in first_core.items()}}

    # It can fail: a data page of the first core, one of its guest's and a second writer, each planted in the other core's root.
    (nested,) = [root.address for root in roots[0] if root.kind == NESTED]
    guest_frame = next(iter(leaves(memory, nested, ept))).frame
    slot = leaf_slot(memory, kernel_one, layout.LINK_BASE + 2 * layout.PAGE)
    for value, words in [((physical(data_start) & ~4095) + (8 << 12) | 1, 'is in the kernel roots of cores'), (guest_frame << 12 | 1, 'of a compartment of core 0 is reachable on core 1'),
                         (first << 12 | 3, 'has two writers'), (min(text) << 12 | 3, 'and can be written')]:
        before = memory.word(slot)
        plant(memory, slot, value)
        faults, _ = audit_cores(memory, roots, ept, text, device, links)
        assert any(words in fault for fault in faults), (words, faults[:5])
        plant(memory, slot, before)


def physical_of(memory, root, virtual):
    """The frame that a 4-KiB page maps."""
    return memory.word(leaf_slot(memory, root, virtual)) >> 12 & (1 << 40) - 1
