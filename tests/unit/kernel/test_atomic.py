"""Every store to page tables and to the owner table, one after the other: no walk ever meets half a mapping."""
import pytest

from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.inventory import inventory
from hypervisor.spec import call, ending, status
from tests.unit.kernel import audit, walker
from tests.unit.kernel.memory import PAGE

MEMORY = call.SLOT_MEMORY
VM = call.SLOT_MANAGER_FREE
GUEST = call.GUEST


class Watch(object):
    """Looks after every store. tables: hpas of the pages that are tables of live roots now, with what they held."""

    def __init__(self, box):
        self.box = box
        self.stores = 0
        self.remember()
        box.watch(self.stored)

    def remember(self):
        roots = [int(space.root) for c in compartments if c.used for space in (c.space, c.nested) if space.root]
        self.tables = {}
        for root in roots:
            for table in walker.tables(self.box.memory, root):
                assert table not in self.tables, 'a table that two roots share'
                self.tables[table] = dict(self.box.memory.entries(table))

    def stored(self, hpa, size, value):
        page = hpa & ~0xfff
        owner_table = inventory.base <= hpa < inventory.base + inventory.table_bytes
        if page in self.tables:
            self.entry_written(page, hpa, size, value)
        elif not owner_table:
            return
        self.stores += 1
        self.remember()
        reach = audit.Reach(self.box)
        audit.rights(reach)
        self.counted(reach)

    def entry_written(self, page, hpa, size, value):
        assert size == 8 and hpa % 8 == 0, 'a table entry was not written whole: %d bytes at %#x' % (size, hpa)
        old = self.tables[page].get(hpa % PAGE // 8, 0)
        assert old == 0 or value == 0, 'an entry changed from %#x to %#x without being empty between' % (old, value)
        if value and self.points_to_table(page, value):
            table = value & walker.FRAME_BITS
            assert not any(self.box.memory.frame(table >> 12)), 'a table was entered before it was clear'
            assert table not in self.tables, 'a table was entered twice'

    def points_to_table(self, page, value):
        """Tables are pages of the kernel that no address maps; message pages are entered at level 1 only."""
        hpa = value & walker.FRAME_BITS
        return any(c.pages_start <= hpa < c.pages_end for c in compartments) and not value >> 63

    def counted(self, reach):
        """Each mapped frame is its compartment's, and counted as used at least as often as it is mapped."""
        owners, uses = audit.owners(self.box), audit.uses(self.box)
        found = {}
        for (number, kind), pages in reach.spaces.items():
            for page in pages:
                if page.user and owners[page.frame] != audit.KERNEL:
                    for frame in range(page.frame, page.frame + page.frames):
                        assert owners[frame] == audit.FIRST_COMPARTMENT + number, 'frame %#x is mapped by %d' % (frame, number)
                        found[frame] = found.get(frame, 0) + 1
        for frame, count in found.items():
            assert uses[frame] >= count, 'frame %#x is mapped %d times and counted %d times' % (frame, count, uses[frame])


CALLS = [
    # the manager's calls, in order; right status
    (call.CREATE, (VM, MEMORY, 4096, 192), status.OK),
    (call.MAP, (0, MEMORY, 0, 0x40000000, 3, 3), status.OK),
    (call.MAP, (0, MEMORY, 510, 0x401fe000, 6, 1), status.OK),
    (call.MAP, (0, MEMORY, 512, 0x50000000, 512, 5), status.OK),
    (call.MAP, (0, MEMORY, 511, 0x401ff000, 3, 3), status.ALREADY_MAPPED),
    (call.GIVE, (VM, MEMORY, 3, 2, 3), status.OK),
    (call.GIVE, (VM, MEMORY, 1024, 20, 2), status.OK),
    (call.MAP, (VM, 2, 0, 0x400000, 9, 5), status.OK),
    (call.VCPU_CREATE, (VM, 16, 0, 0), status.OK),
    (call.MAP, (VM, 2, 0, 0, 20, 7 | GUEST), status.OK),
    (call.MAP, (VM, 3, 0, 1 << 40, 2, 1 | GUEST), status.OK),
    (call.MAP, (VM, 0, 0, PAGE, 7, GUEST), status.OK),
    (call.MAP, (0, 0, 0, 0x50000000, 512, 0), status.OK),
    (call.MAP, (0, 0, 0, 0x40000000, 512, 0), status.OK),
    (call.MAP, (0, MEMORY, 1536, 0x40000000, 4, 1), status.OK),
    (call.STOP, (VM, ending.DESTROYED, 0), status.OK),
    (call.TAKE, (VM, 2, MEMORY), status.OK),
    (call.TAKE, (VM, 3, MEMORY), status.OK),
    (call.STOP, (VM, 0, 0), status.OK),
    (call.CREATE, (VM, MEMORY, 4096, 192), status.OK),
]


def test_update_never_exposes_half_mapping(box):
    watch = Watch(box)
    for which, arguments, right in CALLS:
        code, _ = box.kernel_call(0, which, *arguments)
        assert code == right, (call.TABLE[which], arguments, status.NAMES[code])
        watch.remember()
    assert watch.stores > 200


def test_vm_unmaps_and_maps_again_whole_large_pages(box):
    """The same through a VM's own calls, with 2-MiB pages of its guest."""
    for which, arguments in [(call.CREATE, (VM, MEMORY, 4096, 192)), (call.GIVE, (VM, MEMORY, 512, 512, 2)), (call.VCPU_CREATE, (VM, 16, 0, 0)), (call.START, (VM, 0x400000, 0, 0))]:
        assert box.kernel_call(0, which, *arguments)[0] == status.OK
    watch = Watch(box)
    guest = GUEST | 7
    assert box.kernel_call(1, call.MAP, 0, 2, 0, 0x200000, 512, guest) == (status.OK, 512)
    assert box.kernel_call(1, call.MAP, 0, 0, 0, 0x201000, 3, GUEST) == (status.BAD_RANGE, 0)
    assert box.kernel_call(1, call.MAP, 0, 2, 0, 0x3ff000, 2, guest) == (status.ALREADY_MAPPED, 0)
    assert box.kernel_call(1, call.MAP, 0, 0, 0, 0x200000, 512, GUEST) == (status.OK, 512)
    assert box.kernel_call(1, call.MAP, 0, 2, 0, 0x200000, 2, guest) == (status.OK, 2)
    assert watch.stores > 500


def test_guest_is_flushed_after_every_unmap(box):
    for which, arguments in [(call.CREATE, (VM, MEMORY, 4096, 192)), (call.GIVE, (VM, MEMORY, 511, 512, 2)), (call.GIVE, (VM, MEMORY, 1023, 1, 2)), (call.VCPU_CREATE, (VM, 16, 0, 0)),
                             (call.START, (VM, 0x400000, 0, 0))]:
        assert box.kernel_call(0, which, *arguments)[0] == status.OK
    assert box.kernel_call(1, call.MAP, 0, 2, 0, 0x1ff000, 512, GUEST | 7) == (status.OK, 512)
    assert box.kernel_call(1, call.MAP, 0, 2, 512, 0x3ff000, 1, GUEST | 7) == (status.OK, 1)
    vcpu = compartments[1].vcpus[0]
    for address, count in ((0x1ff000, 1), (0x200000, 2)):
        vcpu.flush = False
        assert box.kernel_call(1, call.MAP, 0, 0, 0, address, count, GUEST) == (status.OK, count)
        assert vcpu.flush


def test_guest_is_flushed_even_when_an_unmap_stops_at_a_large_page(box):
    """The pages that are gone by then must not stay in the TLB."""
    for which, arguments in [(call.CREATE, (VM, MEMORY, 4096, 192)), (call.GIVE, (VM, MEMORY, 511, 1, 3)), (call.GIVE, (VM, MEMORY, 512, 512, 2)), (call.VCPU_CREATE, (VM, 16, 0, 0)),
                             (call.START, (VM, 0x400000, 0, 0))]:
        assert box.kernel_call(0, which, *arguments)[0] == status.OK
    assert box.kernel_call(1, call.MAP, 0, 3, 0, 0x1ff000, 1, GUEST | 7) == (status.OK, 1)
    assert box.kernel_call(1, call.MAP, 0, 2, 0, 0x200000, 512, GUEST | 7) == (status.OK, 512)
    compartments[1].vcpus[0].flush = False
    assert box.kernel_call(1, call.MAP, 0, 0, 0, 0x1ff000, 2, GUEST) == (status.BAD_RANGE, 1)
    assert compartments[1].vcpus[0].flush


@pytest.mark.parametrize('large_first', [False, True])
def test_large_pages_are_used_where_they_fit(box, large_first):
    """2-MiB pages where address, frame and count allow; small ones where a table has been left behind."""
    if not large_first:
        assert box.kernel_call(0, call.MAP, 0, MEMORY, 0, 0x40000000, 1, 1) == (status.OK, 1)
        assert box.kernel_call(0, call.MAP, 0, 0, 0, 0x40000000, 1, 0) == (status.OK, 1)
    assert box.kernel_call(0, call.MAP, 0, MEMORY, 0, 0x40000000, 512, 1) == (status.OK, 512)
    pages = [page for page in audit.check(box).spaces[0, 'task'] if 0x40000000 <= page.address < 0x40200000]
    assert len(pages) == (1 if large_first else 512)
