"""The kernel's own root: image, arena, the local APIC's page and those of the links to other cores; writable or executable, never both; no guest memory."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import image
from hypervisor.kernel.apic import apic
from hypervisor.kernel.arena import arena
from hypervisor.kernel.core import this
from hypervisor.kernel.inventory import inventory
from hypervisor.kernel.link import links, wires
from hypervisor.kernel.paging import KERNEL_TABLE, NOT_LARGE_ALIGNED, Space, kernel_leaf
from hypervisor.spec import status
from hypervisor.spec.call import EXECUTE, READ, WRITE
from hypervisor.spec.layout import ARENA_BASE, DEVICE_BASE, LARGE_PAGE, PAGE
from hypervisor.spec.paging import CACHE_DISABLE, LARGE, WRITE_THROUGH

R0 = r_uint(0)


class Root(Space):
    """Built once per core. After that only the runs of compartments come and go."""

    def build(self):
        """Returns OK or the first failure's status."""
        owner = arena
        self.open(owner, KERNEL_TABLE)
        code = self._range(owner, image.TEXT_START, image.TEXT_END, READ | EXECUTE)
        if code == status.OK:
            code = self._range(owner, image.TEXT_END, image.RODATA_END, READ)
        if code == status.OK:
            code = self._range(owner, image.DATA_START, image.DATA_END, READ | WRITE)
        if code == status.OK:
            code = self.reveal(inventory.base, inventory.base + inventory.size)
        if code == status.OK:
            bits = kernel_leaf(READ | WRITE) | r_uint(CACHE_DISABLE | WRITE_THROUGH)
            code = self.map(owner, r_uint(DEVICE_BASE), apic.base(), bits, 0)
        if code == status.OK:
            code = links.map(self, owner)
        if code == status.OK:
            code = wires.map(self, owner)
        return code

    def _range(self, owner, first, last, rights):
        """The guard pages under the stacks stay out."""
        guard1 = image.symbol(r_uint(image.KERNEL_STACK_GUARD))
        guard2 = image.symbol(r_uint(image.PANIC_STACK_GUARD))
        address = image.symbol(r_uint(first))
        end = image.symbol(r_uint(last))
        while address < end:
            if address != guard1 and address != guard2:
                code = self.map(owner, address, this.physical(address), kernel_leaf(rights), 0)
                if code != status.OK:
                    return code
            address += PAGE
        return status.OK

    def reveal(self, at, end):
        """Map memory of the kernel's, page-aligned, at its place in the window. Returns OK, or NO_MEMORY: then part of it may be mapped."""
        bits = kernel_leaf(READ | WRITE)
        code = status.OK
        while at < end and code == status.OK:
            if at & NOT_LARGE_ALIGNED == R0 and end - at >= r_uint(LARGE_PAGE):
                code = self.map(arena, r_uint(ARENA_BASE) + at, at, bits | r_uint(LARGE), 1)
                at += LARGE_PAGE
            else:
                code = self.map(arena, r_uint(ARENA_BASE) + at, at, bits, 0)
                at += PAGE
        return code

    def hide(self, at, end):
        """Take a compartment's run, which is mapped by small pages or not at all, out again; no translation of it stays."""
        while at < end:
            self.unmap(r_uint(ARENA_BASE) + at)
            at += PAGE
        image.set_kernel_root(self.root)


root = Root()
