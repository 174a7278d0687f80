"""Dividing the machine's memory at boot: the kernel's image, its arena, the boot modules, and the rest for the manager."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import image, memory
from hypervisor.kernel.arena import arena
from hypervisor.kernel.core import this
from hypervisor.kernel.frames import FIRST_COMPARTMENT, KERNEL, frames
from hypervisor.kernel.multiboot import loader
from hypervisor.spec import core as spec
from hypervisor.spec import refusal
from hypervisor.spec.call import MEMORY_REGIONS, MODULES
from hypervisor.spec.layout import ARENA_BASE, ARENA_BYTES, LARGE_PAGE, PAGE

R0 = r_uint(0)
LOW_END = r_uint(0x100000)              # below: firmware's, and not worth the care
REACH = r_uint(1) << 32                 # what is mapped one to one while the kernel starts
LARGE = r_uint(LARGE_PAGE)
MANAGER_OWNER = FIRST_COMPARTMENT
BUSY = MODULES + 3


class Inventory(object):
    """base, size: the owner table and the arena behind it, bytes. free_*: the manager's regions, in frames."""

    def __init__(self):
        self.base = R0
        self.size = R0
        self.table_bytes = R0
        self.busy_start = [R0] * BUSY
        self.busy_end = [R0] * BUSY
        self.busy_count = 0
        self.free_first = [R0] * MEMORY_REGIONS
        self.free_frames = [R0] * MEMORY_REGIONS
        self.free_count = 0

    def open(self):
        """Returns a refusal or NONE."""
        self._busy(LOW_END, image.symbol(r_uint(image.IMAGE_END)))
        if this.private != R0:
            self._busy(this.private, this.private + this.private_bytes)
        n = 0
        while n < loader.module_count:
            if loader.module_end[n] > loader.module_start[n]:
                self._busy(loader.module_start[n], up(loader.module_end[n], r_uint(PAGE)))
            n += 1
        top = R0
        n = 0
        while n < loader.range_count:
            if loader.range_end[n] > top:
                top = loader.range_end[n]
            n += 1
        if self.busy_end[self.busy_count - 1] > top:
            top = self.busy_end[self.busy_count - 1]
        self.table_bytes = up((top >> 12) * 2, r_uint(PAGE))
        self.size = self.table_bytes + r_uint(ARENA_BYTES)
        if not self._place_arena():
            return refusal.NO_ARENA
        self._busy(self.base, self.base + self.size)
        memory.clear(self.base, self.table_bytes)
        frames.open(self.base, top >> 12)
        arena.set_pages(self.base + self.table_bytes, r_uint(ARENA_BYTES))
        self._own()
        self._free_regions()
        if self.free_count == 0:
            return refusal.NO_ARENA
        return refusal.NONE

    def relocate(self):
        """The kernel root is loaded: the kernel's memory is at its addresses now."""
        frames.relocate(r_uint(ARENA_BASE) + self.base)
        arena.relocate(r_uint(ARENA_BASE))

    def _busy(self, start, end):
        """Keep the busy ranges sorted by their start."""
        n = self.busy_count
        while n > 0 and self.busy_start[n - 1] > start:
            self.busy_start[n] = self.busy_start[n - 1]
            self.busy_end[n] = self.busy_end[n - 1]
            n -= 1
        self.busy_start[n] = start
        self.busy_end[n] = end
        self.busy_count += 1

    def _place_arena(self):
        """The lowest stretch that is long enough and free: it fills what lies between the modules and the next 2-MiB boundary."""
        n = 0
        while n < loader.range_count:
            at = loader.range_start[n]
            if at < LOW_END:
                at = LOW_END
            moved = True
            while moved:
                moved = False
                b = 0
                while b < self.busy_count:
                    if at < self.busy_end[b] and at + self.size > self.busy_start[b]:
                        at = up(self.busy_end[b], r_uint(PAGE))
                        moved = True
                    b += 1
            if at + self.size <= loader.range_end[n] and at + self.size <= REACH:
                self.base = at
                return True
            n += 1
        return False

    def _own(self):
        """The first owners: the manager has all memory but the kernel's image and arena. A boot module is memory wherever it
        lies: UEFI loaders may put it where the memory map names it otherwise."""
        n = 0
        while n < loader.range_count:
            at = loader.range_start[n]
            if at < LOW_END:
                at = LOW_END
            self._set(at, loader.range_end[n], MANAGER_OWNER)
            n += 1
        n = 0
        while n < self.busy_count:
            self._set(self.busy_start[n], self.busy_end[n], MANAGER_OWNER)
            n += 1
        self._set(LOW_END, image.symbol(r_uint(image.IMAGE_END)), KERNEL)
        self._set(this.private, this.private + this.private_bytes, KERNEL)
        self._set(self.base, self.base + self.size, KERNEL)

    def _set(self, at, end, owner):
        if at < end:
            frames.set_owners(at >> 12, (end + r_uint(PAGE - 1)) >> 12, owner)

    def _free_regions(self):
        n = 0
        while n < loader.range_count:
            at = loader.range_start[n]
            if at < LOW_END:
                at = LOW_END
            b = 0
            while b < self.busy_count:
                if self.busy_end[b] > at and self.busy_start[b] < loader.range_end[n]:
                    self._free(at, self.busy_start[b])
                    at = self.busy_end[b]
                b += 1
            self._free(at, loader.range_end[n])
            n += 1

    def _free(self, start, end):
        """A region for the manager, 2-MiB-aligned at its start: a VM's memory begins at its large page."""
        start = up(start, LARGE)
        if start >= end or end - start < LARGE or self.free_count >= MEMORY_REGIONS:
            return
        self.free_first[self.free_count] = start >> 12
        self.free_frames[self.free_count] = (end - start) >> 12
        self.free_count += 1

    def core_bytes(self):
        """What a core that is started needs of what it is given, generously: its arena, its copy of the image's data, its manager's stack."""
        data = image.symbol(r_uint(image.DATA_END)) - image.symbol(r_uint(image.DATA_START))
        return self.size + up(data + r_uint(spec.BOOT_TABLE_PAGES * PAGE), LARGE) + 2 * LARGE

    def take_frames(self, count):
        """`count` frames from the end of the longest region that is mapped one to one by now, cleared; they are the manager's. Returns
        the first, 0 if there is none."""
        best = -1
        n = 0
        while n < self.free_count:
            reached = (self.free_first[n] + self.free_frames[n]) << 12 <= REACH
            if reached and (best < 0 or self.free_frames[n] > self.free_frames[best]):
                best = n
            n += 1
        if best < 0 or self.free_frames[best] <= count:
            return R0
        self.free_frames[best] -= count
        first = self.free_first[best] + self.free_frames[best]
        memory.clear(first << 12, count << 12)
        return first


def up(value, step):
    return (value + step - 1) & ~(step - 1)


inventory = Inventory()
