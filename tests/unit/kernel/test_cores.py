"""Two and four cores: what the first one gives away, and the second kernel that boots on the same physical memory."""
import random
import struct

import pytest

from hypervisor.hw import audit as hw_audit
from hypervisor.hw import cpu as hw_cpu
from hypervisor.hw import image
from hypervisor.kernel import cores as module
from hypervisor.kernel import main, panic
from hypervisor.kernel.compartment import EMPTY, LINK, PORTS, REGION, compartments, manager
from hypervisor.kernel.core import this
from hypervisor.kernel.inventory import inventory
from hypervisor.kernel.link import links
from hypervisor.kernel.timer import timer
from hypervisor.spec import boot, call, lapic, refusal, status
from hypervisor.spec import core as spec
from hypervisor.spec import panic as codes
from hypervisor.spec.core import HANDOVER, MEMORY
from hypervisor.spec.cpu import VECTOR_DOORBELL
from hypervisor.spec.layout import BOOT_PAGE, KERNEL_BASE, LINK_BASE
from rpython.rlib.rarithmetic import r_uint
from tests.unit.kernel import acpi, audit, singletons, walker
from tests.unit.kernel import machine as machines
from tests.unit.kernel.machine import LAPIC, MEGA, PAGE, manager_image
from tests.unit.kernel.vm import run

M = call.SLOT_MEMORY
WORD = (1 << 64) - 1
APIC = [0, 4, 6, 9]             # IDs of the cores
IMAGE_SLOT = call.SLOT_MODULE + 2
CORE_MEGA = 16                  # what is enough for a core


class Box(machines.Machine):
    """messages: (APIC ID, command) of each message between processors."""

    def __init__(self, count, mega=40, **options):
        self.messages = []
        machines.PRISTINE.restore()
        hw_audit.fake.clear()
        machines.Machine.__init__(self, ram=options.pop('ram', ((0, 0x9fc00, 1), (0x9fc00, 0x400, 2), (MEGA, mega * MEGA, 1))), **options)
        self.memory.ranges += [(0, 0x1000)]
        acpi.write(self.memory, [acpi.lapic(n) for n in APIC[:count]])
        self.private = 0

    def lapic_written(self, register, value):
        machines.Machine.lapic_written(self, register, value)
        if register == lapic.ICR_LOW:
            high, = struct.unpack('<I', self.memory.take(LAPIC + lapic.ICR_HIGH, 4))
            self.messages.append((high >> 24, value))

    def call(self, which, *arguments):
        return self.kernel_call(0, which, *arguments)

    def slot(self, slot):
        return int(manager.first[slot]), int(manager.second[slot])

    def state(self):
        """All that a call to a core may change."""
        pages = [self.memory.take(int(this.pages) + n * PAGE, PAGE) for n in range(spec.CHANNELS * this.count * (this.count + 1))]
        return audit.owner_bytes(self), pages, list(module.cores.started), list(self.messages)


class Booted(machines.Booted):
    """Boots once, by make(), and starts each use from the state right after it."""

    def __init__(self, make):
        self.made = make()
        self.machine = getattr(self.made, 'box', self.made)
        self.private = self.machine.private
        self.remember()

    def fresh(self):
        machines.Booted.fresh(self)
        self.machine.messages, self.machine.private = [], self.private
        self.machine.__dict__.pop('kept', None)
        return self.made


BOOTED = {}


def booted(key, make):
    if key not in BOOTED:
        BOOTED[key] = Booted(make)
    return BOOTED[key].fresh()


def make_box(count, mega):
    box = Box(count, mega)
    assert box.boot() == refusal.NONE
    links.say_state(spec.RUNNING)
    return box


@pytest.fixture
def boxes():
    """boxes(cores): a box that has just booted."""
    yield lambda count, mega=40: booted((count, mega), lambda: make_box(count, mega))
    machines.disconnect()


def give(box, core=1):
    """What a manager gives: memory, a copy of itself, a copy of the configuration, an image. Returns the frames."""
    first, _ = box.slot(M)
    memory = CORE_MEGA * 256
    for done in range(0, memory, call.BATCH):
        assert box.call(call.CORE_GIVE, core, M, done, call.BATCH, MEMORY, 0) == (status.OK, call.BATCH)
    copy = manager_image()
    box.memory.put((first + memory) * PAGE, copy)
    assert box.call(call.CORE_GIVE, core, M, memory, 5, 0, len(copy)) == (status.OK, 5)
    assert box.call(call.CORE_GIVE, core, M, memory + 5, 1, 1, 13) == (status.OK, 1)
    assert box.call(call.CORE_GIVE, core, IMAGE_SLOT, 0, 2, 2, 5000) == (status.OK, 2)
    image_first, _ = box.slot(IMAGE_SLOT)
    return set(range(first, first + memory + 6)) | set([image_first, image_first + 1])


@pytest.mark.parametrize('count', [1, 2, 4])
def test_a_box_boots_with_the_cores_that_its_firmware_names(boxes, count):
    box = boxes(count)
    assert this.count == count and [int(n) for n in this.apic[:count]] == APIC[:count]
    assert [manager.kinds[call.SLOT_LINK + n] for n in range(spec.MOST)] == [EMPTY] + [LINK] * (count - 1) + [EMPTY] * (spec.MOST - count)
    reach = audit.check(box)
    assert link_pages(reach) == (expected_links(0, count) if count > 1 else {})
    assert not box.messages


def test_a_box_whose_page_for_starting_is_taken_says_so(make_machine):
    box = Box(2, ram=[(0, 0x8000, 1), (0x9000, 0x96c00, 1), (MEGA, 20 * MEGA, 1)])
    assert box.boot() == refusal.NO_TRAMPOLINE
    box = Box(1, ram=[(0, 0x8000, 1), (0x9000, 0x96c00, 1), (MEGA, 20 * MEGA, 1)])
    assert box.boot() == refusal.NONE


def expected_links(me, count):
    """offset from the first outbox -> writable: one writer for each page, and one reader for a page of bytes."""
    found = {}
    for row in range(spec.CHANNELS * count):
        start, core = row * (count + 1), row % count
        found[start + count] = core == me
        for page in range(count):
            if page != core and (core == me or page == me):
                found[start + page] = core == me
    return found


def link_pages(reach):
    """The same of a kernel root; each page at its place."""
    found = {}
    for page in reach.kernel:
        if page.address >= LINK_BASE:
            offset = (page.address - LINK_BASE) // PAGE
            assert page.frame == int(this.pages) // PAGE + offset and page.frames == 1 and not page.executable
            found[offset] = page.writable
    return found


# -- hostile arguments

GIVE, START, INSPECT = call.CORE_GIVE, call.CORE_START, call.CORE_INSPECT


@pytest.mark.parametrize('which, arguments, right', [
    (GIVE, (0, M, 0, 1, MEMORY, 0), status.BAD_SLOT), (GIVE, (2, M, 0, 1, MEMORY, 0), status.BAD_SLOT),
    (GIVE, (8, M, 0, 1, MEMORY, 0), status.BAD_SLOT), (GIVE, (WORD, M, 0, 1, MEMORY, 0), status.BAD_SLOT),
    (GIVE, (1, 0, 0, 1, MEMORY, 0), status.BAD_SLOT), (GIVE, (1, call.SLOT_PORTS, 0, 1, MEMORY, 0), status.BAD_SLOT),
    (GIVE, (1, call.SLOT_LINK + 1, 0, 1, MEMORY, 0), status.BAD_SLOT), (GIVE, (1, 63, 0, 1, MEMORY, 0), status.BAD_SLOT),
    (GIVE, (1, 64, 0, 1, MEMORY, 0), status.BAD_SLOT), (GIVE, (1, WORD, 0, 1, MEMORY, 0), status.BAD_SLOT),
    (GIVE, (1, M, 0, 0, MEMORY, 0), status.BAD_RANGE), (GIVE, (1, M, 0, call.BATCH + 1, MEMORY, 0), status.BAD_RANGE),
    (GIVE, (1, M, 0, WORD, MEMORY, 0), status.BAD_RANGE), (GIVE, (1, M, WORD, 1, MEMORY, 0), status.BAD_RANGE),
    (GIVE, (1, M, 1 << 52, 1, MEMORY, 0), status.BAD_RANGE), (GIVE, (1, M, WORD - 3, 8, MEMORY, 0), status.BAD_RANGE),
    (GIVE, (1, IMAGE_SLOT, 2, 1, MEMORY, 0), status.BAD_RANGE), (GIVE, (1, IMAGE_SLOT, 1, 2, 2, 1), status.BAD_RANGE),
    (GIVE, (1, M, 0, 1, MEMORY + 1, 0), status.BAD_RANGE), (GIVE, (1, M, 0, 1, WORD, 0), status.BAD_RANGE),
    (GIVE, (1, M, 0, 1, 1 << 32, 0), status.BAD_RANGE), (GIVE, (1, M, 0, 1, 3, 0), status.BAD_SIZE),
    (GIVE, (1, M, 0, 1, 3, PAGE + 1), status.BAD_SIZE), (GIVE, (1, M, 0, 1, 3, WORD), status.BAD_SIZE),
    (GIVE, (1, call.SLOT_MODULE, 0, 1, 0, 1), status.IN_USE),
    (START, (0, spec.INIT), status.BAD_SLOT), (START, (2, spec.INIT), status.BAD_SLOT), (START, (WORD, spec.INIT), status.BAD_SLOT),
    (START, (1, spec.STARTUP), status.BAD_STATE), (START, (1, 2), status.BAD_STATE), (START, (1, WORD), status.BAD_STATE),
    (START, (1, spec.INIT), status.NO_MEMORY),
    (INSPECT, (0,), status.BAD_SLOT), (INSPECT, (2,), status.BAD_SLOT), (INSPECT, (WORD,), status.BAD_SLOT)])
def test_what_is_refused_changes_nothing(boxes, which, arguments, right):
    box = boxes(2)
    before = box.state()
    assert box.call(which, *arguments) == (right, 0)
    assert box.state() == before


def test_what_was_given_is_given_once_and_in_order(boxes):
    box = boxes(2)

    def refused(right, *arguments):
        before = box.state()
        assert box.call(GIVE, *arguments) == (right, 0) and box.state() == before
    for n in range(call.MEMORY_REGIONS):
        assert box.call(GIVE, 1, M, 10 * n, 2, MEMORY, 0) == (status.OK, 2)
    refused(status.NO_ROOM, 1, M, 100, 1, MEMORY, 0)
    refused(status.NOT_OWNER, 1, M, 1, 2, MEMORY, 0)
    refused(status.NOT_OWNER, 1, M, 0, 1, 3, 9)
    assert box.call(GIVE, 1, M, 52, 3, MEMORY, 0) == (status.OK, 3)         # behind the last: the same range
    assert box.call(GIVE, 1, M, 200, 2, 5, 2 * PAGE) == (status.OK, 2)
    refused(status.SLOT_IN_USE, 1, M, 203, 1, 5, 9)
    assert box.call(GIVE, 1, M, 202, 1, 5, 9) == (status.OK, 1)
    refused(status.SLOT_IN_USE, 1, M, 203, 1, 5, 9)                         # it has ended in the middle of a page
    assert box.call(GIVE, 1, M, 300, 1, 6, PAGE) == (status.OK, 1)
    assert box.call(GIVE, 1, M, 400, 1, 7, 8) == (status.OK, 1)
    refused(status.SLOT_IN_USE, 1, M, 301, 1, 6, 9)                         # another module came between
    record = int(this.pages) + PAGE
    assert box.memory.word(record + HANDOVER['MODULE_5_BYTES']) == 2 * PAGE + 9
    audit.check(box)


def test_no_random_call_gives_a_frame_away_that_it_does_not_answer_for(boxes):
    box, source, given = boxes(3), random.Random(7), set()
    size = box.slot(M)[1]
    for _ in range(400):
        before = box.state()
        arguments = (source.choice([0, 1, 2, 2, 1, 3, WORD]), source.choice([M, M, M, IMAGE_SLOT, call.SLOT_MODULE, 40, WORD]),
                     source.choice([0, 1, 5, 8, size - 1, size, source.randrange(2000)]), source.choice([0, 1, 2, 3, 3, 513]),
                     source.choice([MEMORY, MEMORY, 0, 5, 6, MEMORY + 1]), source.choice([0, 1, PAGE, 2 * PAGE, 3 * PAGE, WORD]))
        code, done = box.call(GIVE, *arguments)
        after = box.state()
        if code != status.OK:
            assert done == 0 and after == before
            continue
        first = box.slot(arguments[1])[0] + arguments[2]
        frames = set(range(first, first + arguments[3]))
        changed = set(n for n in range(len(after[0]) // 2) if after[0][2 * n:2 * n + 2] != before[0][2 * n:2 * n + 2])
        assert done == arguments[3] and changed == frames and not frames & given
        assert all(after[0][2 * n:2 * n + 2] == b'\xff\0' for n in frames)
        given |= frames
        pages = [n for n in range(len(after[1])) if after[1][n] != before[1][n]]
        assert pages == [arguments[0]], 'the record of that core alone'
    assert len(given) > 10
    audit.check(box)


def test_given_frames_are_neither_mapped_nor_given_by_the_first_core_again(boxes):
    box = boxes(2)
    given = give(box)
    assert box.call(call.CREATE, 40, *run(1)) == (status.OK, 0)
    before = box.state()
    for n in (0, 17, CORE_MEGA * 256 + 5):
        assert box.call(call.MAP, 0, M, n, 0x10000000, 1, call.READ) == (status.NOT_OWNER, 0)
        assert box.call(call.GIVE, 40, M, n, 1, 3) == (status.NOT_OWNER, 0)
        assert box.call(GIVE, 1, M, n, 1, MEMORY, 0) == (status.NOT_OWNER, 0)
    assert box.call(call.MAP, 0, IMAGE_SLOT, 0, 0x10000000, 1, call.READ) == (status.NOT_OWNER, 0)
    assert box.state() == before
    owners = audit.owners(box)
    assert set(n for n in range(len(owners)) if owners[n] == 255) == given


def test_only_the_manager_may_speak_of_cores(boxes):
    box = boxes(2)
    assert box.call(call.CREATE, 40, *run(1)) == (status.OK, 0)
    assert box.call(call.GIVE, 40, M, 0, 8, M) == (status.OK, 8)
    assert box.call(call.START, 40, 0x401000, 0x10000, 0) == (status.OK, 0)
    before = box.state()
    for which, arguments in ((GIVE, (1, M, 0, 1, MEMORY, 0)), (START, (1, spec.INIT)), (START, (1, spec.STARTUP)), (INSPECT, (1,)),
                             (call.RING_SEND, (call.SLOT_LINK + 1, 1)), (call.RING_RECEIVE, (call.SLOT_LINK + 1,))):
        assert box.kernel_call(1, which, *arguments) == (status.BAD_SLOT, 0)
    assert box.state() == before


# -- setting a core going

INIT_COMMAND, STARTUP_COMMAND = 0x4500, 0x4608


def test_messages_come_in_order_and_only_to_that_core(boxes):
    box = boxes(4, mega=60)
    give(box, 2)
    assert box.call(START, 2, spec.STARTUP) == (status.BAD_STATE, 0) and not box.messages
    assert box.call(START, 2, spec.INIT) == (status.OK, 0) and box.messages == [(6, INIT_COMMAND)]
    assert box.call(START, 2, spec.INIT) == (status.BAD_STATE, 0)
    assert box.call(GIVE, 2, M, 0x1fff, 1, MEMORY, 0) == (status.BAD_SLOT, 0)
    for _ in range(2):
        assert box.call(START, 2, spec.STARTUP) == (status.OK, 0)
    assert box.messages == [(6, INIT_COMMAND), (6, STARTUP_COMMAND), (6, STARTUP_COMMAND)]
    assert box.memory.word(image.fake[image.CORE_RECORD] - KERNEL_BASE) == int(this.pages) + 2 * PAGE


def test_a_core_that_said_nothing_cannot_come_when_the_next_is_started(boxes):
    """There is one record at a time: the silent core would begin in the next one's memory."""
    box = boxes(4, mega=60)
    first, _ = box.slot(M)
    for n, core in enumerate((1, 2, 3)):
        for done in range(0, 1024, 512):
            assert box.call(GIVE, core, M, n * 1024 + done, 512, MEMORY, 0)[0] == status.OK
    assert box.call(START, 1, spec.INIT)[0] == status.OK and box.call(START, 1, spec.STARTUP)[0] == status.OK
    del box.messages[:]
    assert box.call(START, 2, spec.INIT)[0] == status.OK
    assert box.messages == [(4, INIT_COMMAND), (6, INIT_COMMAND)]
    assert box.call(START, 1, spec.STARTUP) == (status.BAD_STATE, 0)
    box.memory.put_word(int(this.pages) + (2 * 5 + 4) * PAGE + spec.STATUS['STATE'], spec.RUNNING)
    del box.messages[:]
    assert box.call(START, 3, spec.INIT)[0] == status.OK
    assert box.messages == [(4, INIT_COMMAND), (9, INIT_COMMAND)], 'the one that runs is left alone'


@pytest.mark.parametrize('frames', [1, 2, 10, 30])
def test_a_core_with_too_little_memory_is_not_started(boxes, frames):
    box = boxes(2)
    assert box.call(GIVE, 1, M, 0, frames, MEMORY, 0)[0] == status.OK
    before = box.state()
    assert box.call(START, 1, spec.INIT) == (status.NO_MEMORY, 0)
    assert box.state() == before


# -- the second kernel

class Two(object):
    """A box whose second core has booted. given: its frames. first, second: what each kernel's objects hold."""

    def __init__(self, box):
        self.box = box
        self.given = give(box)
        assert box.call(START, 1, spec.INIT)[0] == status.OK and box.call(START, 1, spec.STARTUP)[0] == status.OK
        self.private = box.memory.word(image.fake[image.CORE_PRIVATE] - KERNEL_BASE)
        record = box.memory.word(image.fake[image.CORE_RECORD] - KERNEL_BASE)
        self.rates = int(timer.tsc_khz), int(timer.ratio)
        self.first_kernel = audit.Reach(box).kernel
        self.first_arena = set(range(int(inventory.base) // PAGE, int(inventory.base + inventory.size) // PAGE))
        self.link_frames = set(int(this.pages) // PAGE + n for n in range(6 * spec.CHANNELS))
        self.first = singletons.Snapshot(), box.memory.view, image.fake_root[0]
        machines.PRISTINE.restore()
        box.memory.view = None
        box.cpu.output = []
        box.memory.put(LAPIC + lapic.ID, struct.pack('<I', APIC[1] << 24))
        this.join(r_uint(record))
        links.open()
        assert main.start(r_uint(spec.HANDOVER_MAGIC), r_uint(record)) == refusal.NONE
        links.say_state(spec.RUNNING)
        self.published = dict(hw_audit.fake)
        box.private = self.private

    def back_to_first(self):
        objects, view, root = self.first
        objects.restore()
        self.box.memory.view = view
        list.__setitem__(image.fake_root, 0, root)
        self.box.private = 0
        self.box.__dict__.pop('kept', None)


@pytest.fixture
def two():
    yield booted('two', lambda: Two(make_box(2, 40)))
    machines.disconnect()


def test_the_second_kernel_reaches_its_own_memory_and_what_it_may_share(two):
    reach = audit.check(two.box)
    text = set(range((image.fake[image.TEXT_START] - KERNEL_BASE) // PAGE, (image.fake[image.RODATA_END] - KERNEL_BASE) // PAGE))
    for page in reach.kernel:
        for frame in range(page.frame, page.frame + page.frames):
            if frame in text:
                assert not page.writable and page.address == frame * PAGE + KERNEL_BASE
            elif frame not in two.link_frames and frame != LAPIC // PAGE:
                assert frame in two.given, 'frame %#x at %#x' % (frame, page.address)
    for pages in reach.spaces.values():
        for page in pages:
            assert page.frame in two.given or (not page.user and page.frame in text)
    writable = [set(frame for page in pages if page.writable for frame in range(page.frame, page.frame + page.frames))
                for pages in (two.first_kernel, reach.kernel)]
    assert writable[0] & writable[1] == set([LAPIC // PAGE]), 'no frame has two writers; the local APIC\'s page is each core\'s own'
    assert not two.first_arena & set(page.frame for page in reach.kernel)


def test_the_second_kernels_data_is_its_own_copy(two):
    pages = dict((page.address, page) for page in audit.Reach(two.box).kernel)
    start, end = image.fake[image.DATA_START], image.fake[image.DATA_END]
    for address in range(start, end, PAGE):
        if address in (image.fake[image.KERNEL_STACK_GUARD], image.fake[image.PANIC_STACK_GUARD]):
            assert address not in pages
            continue
        page = pages[address]
        assert page.frame * PAGE == two.private + spec.BOOT_TABLE_PAGES * PAGE + address - start
        assert page.writable and not page.executable
    auditor = two.published[2 * len(compartments) + 1]
    assert auditor[1:] == (1, two.private)


def test_link_pages_have_one_writer_each(two):
    second = link_pages(audit.Reach(two.box))
    assert second == expected_links(1, 2)
    two.back_to_first()
    first = link_pages(audit.Reach(two.box))
    assert first == expected_links(0, 2)
    assert not [n for n in first if first[n] and second.get(n)]


def test_the_second_manager_finds_its_core_its_memory_and_its_modules(two):
    space = dict((page.address, page) for page in audit.Reach(two.box).spaces[0, 'task'])
    page = space[BOOT_PAGE].frame * PAGE

    def word(name):
        return two.box.memory.word(page + boot.MANAGER[name])
    assert [word(name) for name in ('MAGIC', 'CORE', 'CORES', 'TSC_KHZ')] == [boot.MAGIC, 1, 2, two.rates[0]]
    assert (int(timer.tsc_khz), int(timer.ratio)) == two.rates
    assert word('MODULE_COUNT') == call.MODULES
    assert [word('MODULE_%d_BYTES' % n) for n in range(call.MODULES)] == [5 * PAGE, 13, 5000] + [0] * (call.MODULES - 3)
    kinds = dict((n, kind) for n, kind in enumerate(manager.kinds) if kind != EMPTY)
    assert kinds.pop(call.SLOT_LINK) == LINK and kinds.pop(call.SLOT_SELF) is not None
    assert PORTS not in kinds.values() and set(kinds.values()) == set([REGION])
    assert sorted(n for n in kinds if n >= call.SLOT_MODULE) == [call.SLOT_MODULE + n for n in range(3)]
    regions = word('REGIONS')
    assert regions >= 1 and sorted(n for n in kinds if n < call.SLOT_MODULE) == [M + n for n in range(regions)]
    owned, used = audit.owners(two.box), set(page.frame for page in space.values())
    for n in range(regions):
        first, count = two.box.slot(M + n)
        assert count == word('REGION_%d_FRAMES' % n) and set(range(first, first + count)) <= two.given
        assert set(owned[first:first + count]) == set([2]) and not used & set(range(first, first + count))


def test_the_second_kernel_works_and_has_no_ports(two):
    box = two.box
    assert box.call(call.CREATE, 40, *run(1)) == (status.OK, 0)
    assert box.call(call.GIVE, 40, M, 0, 4, M) == (status.OK, 4)
    assert box.call(call.MAP, 0, M, 8, 0x10000000, 4, call.READ | call.WRITE) == (status.OK, 4)
    for which, arguments in ((call.PORT_OUT, (call.SLOT_PORTS, 0x3f8, 1, 65)), (call.PORT_IN, (call.SLOT_PORTS, 0x3f8, 1)), (call.LINE, (call.SLOT_PORTS, 4)),
                             (GIVE, (0, M, 0, 1, MEMORY, 0)), (START, (0, spec.INIT)), (START, (1, spec.INIT))):
        assert box.call(which, *arguments) == (status.BAD_SLOT, 0), which
    assert not box.cpu.output
    audit.check(box)


def test_bytes_pass_between_the_two_managers(two):
    box = two.box
    page = int(compartments[0].task.page_hpa)
    box.memory.put(page, b'from the second')
    assert box.call(call.RING_SEND, call.SLOT_LINK, 15) == (status.OK, 15)
    assert box.messages == [(APIC[0], VECTOR_DOORBELL)]
    assert box.call(call.RING_SEND, call.SLOT_LINK + 1, 1) == (status.BAD_SLOT, 0)
    two.back_to_first()
    box.memory.put(LAPIC + lapic.ID, b'\0' * 4)
    links.arrive()
    assert int(manager.signals) >> (call.SLOT_LINK + 1) & 1
    assert box.call(call.RING_RECEIVE, call.SLOT_LINK + 1) == (status.OK, 15)
    assert box.memory.take(int(manager.task.page_hpa), 15) == b'from the second'


def test_a_panic_of_the_second_core_is_text_in_its_page_and_no_port(two):
    box = two.box
    with pytest.raises(hw_cpu.Halted):
        panic.k_panic_code(1, r_uint(0))
    assert not box.cpu.output and box.messages == [(APIC[0], VECTOR_DOORBELL)]
    two.back_to_first()
    links.arrive()
    assert int(manager.signals) >> (call.SLOT_LINK + 1) & 1
    assert box.call(INSPECT, 1) == (status.OK, spec.DEAD)
    page = int(manager.task.page_hpa)
    text = box.memory.take(page + 8, box.memory.word(page))
    assert text == '\nbulkhead: kernel fault: ' + codes.SENTENCES[1] + '\n'


def test_a_panic_of_the_first_core_stops_the_second(two):
    second = singletons.Snapshot(), two.box.memory.view, image.fake_root[0]
    two.back_to_first()
    with pytest.raises(hw_cpu.Halted):
        panic.k_panic_code(1, r_uint(0))
    assert two.box.messages[-1] == (APIC[1], VECTOR_DOORBELL)
    second[0].restore()
    two.box.memory.view = second[1]
    with pytest.raises(hw_cpu.Halted):
        links.arrive()


def test_a_second_core_without_a_manager_says_why(boxes):
    box = boxes(2)
    for done in range(0, CORE_MEGA * 256, 512):
        box.call(GIVE, 1, M, done, 512, MEMORY, 0)
    assert box.call(START, 1, spec.INIT)[0] == status.OK
    record, first = int(this.pages) + PAGE, (singletons.Snapshot(), box.memory.view)
    machines.PRISTINE.restore()
    box.memory.view, box.cpu.output = None, []
    with pytest.raises(hw_cpu.Halted):
        main.kernel_start(r_uint(spec.HANDOVER_MAGIC), r_uint(record))
    assert not box.cpu.output
    first[0].restore()
    box.memory.view = first[1]
    assert box.call(INSPECT, 1) == (status.OK, spec.DEAD)
    page = int(manager.task.page_hpa)
    assert refusal.SENTENCES[refusal.BAD_MANAGER] in box.memory.take(page + 8, box.memory.word(page))


def test_walker_knows_the_second_root(two):
    """The audit above is not empty: it saw the second kernel's root and not the first's."""
    assert len(walker.tables(two.box.memory, image.fake_root[0])) > 4 and image.fake_root[0] // PAGE in two.given
