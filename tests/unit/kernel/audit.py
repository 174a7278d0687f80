"""What must hold after every step, found in physical memory by an independent walk. The kernel's objects are asked only for roots, for
page numbers of areas and where their runs of pages are."""
from hypervisor.hw import image
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.frames import FIRST_COMPARTMENT, KERNEL, NOBODY, OTHER_CORE, frames
from hypervisor.kernel.inventory import inventory
from hypervisor.spec.call import STATE_ENDED
from hypervisor.spec.core import BOOT_TABLE_PAGES
from hypervisor.spec.layout import ARENA_BASE, ARENA_END, DEVICE_BASE, KERNEL_BASE, PAGE, TASK_END, TASK_PAGE, VCPU_PAGE
from tests.unit.kernel import walker


class Reach(object):
    """All that the roots reach. spaces: (compartment number, 'task' or 'nested') -> pages; kernel: pages of the kernel root."""

    def __init__(self, machine):
        self.machine = machine
        self.kernel = walker.pages(machine.memory, image.fake_root[0], walker.AMD)
        self.spaces = {}
        for c in compartments:
            if c.used and c.state != STATE_ENDED:
                self.spaces[c.number, 'task'] = walker.pages(machine.memory, int(c.space.root), walker.AMD)
                if c.nested.root:
                    self.spaces[c.number, 'nested'] = walker.pages(machine.memory, int(c.nested.root), walker.AMD)


def message_addresses(c):
    return [TASK_PAGE] + [VCPU_PAGE + PAGE * n for n in range(c.vcpu_count) if not (c.is_branch() and c.vcpus[n].away)]


def check(machine):
    """Raises AssertionError where a promise is broken. Returns the Reach."""
    reach = Reach(machine)
    one_owner(machine, reach)
    rights(reach)
    pages_of_the_arena(machine, reach)
    return reach


def one_owner(machine, reach):
    """No frame is reached from two owners' roots; message pages are the kernel's, in one task each; none of a compartment's frames
    is in the kernel root."""
    table = owners(machine)
    by = bytearray(len(table))          # the owner whose roots reach the frame
    message = {}
    for (number, kind), pages in reach.spaces.items():
        expected = set(message_addresses(compartments[number])) if kind == 'task' else set()
        for page in pages:
            if not page.user:
                assert kind == 'task' and page.address >= KERNEL_BASE, 'a kernel page below: %r' % (page,)
                assert page.frame * PAGE == image_hpa(machine, page.address) and entry_page(page.address), 'not an entry page: %r' % (page,)
                continue
            assert page.address < (TASK_END if kind == 'task' else 1 << 46)
            if kind == 'task' and page.address in message_addresses(compartments[number]):
                assert page.frames == 1 and page.frame not in message, 'a message page in two places'
                message[page.frame] = number
                expected.remove(page.address)
                continue
            here = slice(page.frame, page.frame + page.frames)
            if kind == 'nested' and compartments[number].is_branch():       # its home's: to this core they are nobody's, or nothing
                assert not table[here].strip(bytes(bytearray([NOBODY]))).strip(bytes(bytearray([OTHER_CORE]))), 'a branch reaches what is this core\'s'
                continue
            owner = bytearray([FIRST_COMPARTMENT + number]) * page.frames
            assert here.stop <= len(table), 'a frame that no memory has: %#x' % page.frame
            assert table[here] == owner, 'frames %#x of %r are reached by %d' % (page.frame, set(table[here]), number)
            assert by[here].strip(b'\0' + bytes(owner[:1])) == b'', 'frames %#x are reached by two' % page.frame
            by[here] = owner
        assert not expected, 'message pages that are not mapped: %r' % (expected,)
    for frame in message:
        assert table[frame] == KERNEL
    for page in reach.kernel:
        if page.address == DEVICE_BASE:
            continue
        here = slice(page.frame, page.frame + page.frames)
        assert not any(by[here]), 'the kernel reaches frames that others reach, from %#x' % page.frame
        assert set(table[here]) <= set([0, KERNEL]), 'the kernel reaches frames of %r, from %#x' % (set(table[here]), page.frame)


def image_hpa(machine, address):
    """Where a page of the image lies. machine.private: hpa of what a core that was started has for itself."""
    private = getattr(machine, 'private', 0)
    if private and image.fake[image.DATA_START] <= address < image.fake[image.DATA_END]:
        return private + BOOT_TABLE_PAGES * PAGE + address - image.fake[image.DATA_START]
    return address - KERNEL_BASE


def entry_page(address):
    return (image.fake[image.ENTRY_TEXT_START] <= address < image.fake[image.ENTRY_TEXT_END] or
            image.fake[image.ENTRY_DATA_START] <= address < image.fake[image.ENTRY_DATA_END])


def owner_bytes(machine):
    """The owner table in physical memory: two bytes a frame."""
    return machine.memory.take(int(inventory.base), 2 * int(frames.count))


def owners(machine):
    return bytearray(owner_bytes(machine)[0::2])


def uses(machine):
    return bytearray(owner_bytes(machine)[1::2])


def rights(reach):
    for page in reach.kernel:
        assert not page.user and not (page.writable and page.executable), 'kernel root: %r' % (page,)
    for (number, kind), pages in reach.spaces.items():
        if kind == 'task':
            for page in pages:
                assert not (page.writable and page.executable), 'task %d: %r' % (number, page)


def pages_of_the_arena(machine, reach):
    """The kernel's pages are the arena and the compartments' runs; what a root reaches is on its owner's account, and nothing else of the kernel's is
    in the window."""
    runs = [(int(inventory.base), int(inventory.base + inventory.size))]
    for c in compartments:
        start, taken, end = int(c.pages_start), int(c.pages_next), int(c.pages_end)
        assert start <= taken <= end
        if not c.used:
            assert start == end, 'compartment %d is gone and still has pages' % c.number
            continue
        if c.number:
            runs.append((start, end))
        if c.state == STATE_ENDED:
            continue
        held = walker.tables(machine.memory, int(c.space.root)) + [page_of(c.task.area), int(c.task.page_hpa)]
        if c.nested.root and not c.is_branch():
            held += walker.tables(machine.memory, int(c.nested.root))
        for vcpu in c.vcpus[:c.vcpu_count]:
            if not vcpu.away:
                held += [page_of(vcpu.area), int(vcpu.page_hpa), int(vcpu.control_hpa)]
            elif not c.is_branch():
                held += [page_of(vcpu.mirror), int(vcpu.page_hpa)]
        assert len(set(held)) == len(held), 'compartment %d uses a page of the kernel for two things' % c.number
        assert all(start <= page < taken for page in held), 'compartment %d uses pages that are not on its account' % c.number
    expected = [frame for start, end in runs for frame in range(start // PAGE, end // PAGE)]
    window = [page for page in reach.kernel if ARENA_BASE <= page.address < ARENA_END]
    assert all(page.address - ARENA_BASE == page.frame * PAGE for page in window)
    mapped = [page.frame + n for page in window for n in range(page.frames)]
    assert sorted(mapped) == sorted(expected), 'the window shows other frames than the kernel has'
    kept = kernel_frames(machine) - (len(expected) - int(inventory.size) // PAGE)
    if not hasattr(machine, 'kept'):
        machine.kept = kept
    assert kept == machine.kept, 'the kernel owns %d frames beside the runs of compartments, %d at boot' % (kept, machine.kept)


def kernel_frames(machine):
    return bytes(owners(machine)).count(bytes(bytearray([KERNEL])))


def page_of(hva):
    """The hpa of the kernel's page at hva."""
    return (int(hva) & ~0xfff) - ARENA_BASE
