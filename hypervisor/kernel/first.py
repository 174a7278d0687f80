"""The first task: the manager, loaded by the kernel from the first boot module and given everything."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel.arena import arena
from hypervisor.kernel.compartment import LINK, PORTS, REGION, manager
from hypervisor.kernel.core import this
from hypervisor.kernel.create import open_compartment
from hypervisor.kernel.frames import frames
from hypervisor.kernel.inventory import inventory
from hypervisor.kernel.multiboot import loader
from hypervisor.kernel.paging import task_leaf
from hypervisor.kernel.timer import timer
from hypervisor.spec import boot, call, owning, pages, program, refusal, status
from hypervisor.spec.call import EXECUTE, READ, WRITE
from hypervisor.spec.context import AREA
from hypervisor.spec.cpu import RFLAGS_FIXED, RFLAGS_IF
from hypervisor.spec.layout import BOOT_PAGE, PAGE, STACK_PAGES, STACK_TOP, TASK_BASE

R0 = r_uint(0)
OFFSETS = program.OFFSETS


def load_manager():
    """Called while memory is mapped one to one. Returns a refusal or NONE."""
    header = loader.module_start[0]
    size = (loader.module_end[0] - header + PAGE - 1) >> 12
    text = memory.load64(header + OFFSETS['TEXT_BYTES']) >> 12
    rodata = memory.load64(header + OFFSETS['RODATA_BYTES']) >> 12
    data = memory.load64(header + OFFSETS['DATA_BYTES']) >> 12
    bss = memory.load64(header + OFFSETS['BSS_BYTES']) >> 12
    if memory.load64(header + OFFSETS['MAGIC']) != r_uint(program.MAGIC):
        return refusal.BAD_MANAGER
    if memory.load64(header + OFFSETS['VERSION']) != r_uint(program.VERSION):
        return refusal.BAD_MANAGER
    if text + rodata + data + 1 != size or bss > r_uint(4096):
        return refusal.BAD_MANAGER
    manager.set_pages(arena.take_run(pages.MANAGER), r_uint(pages.MANAGER * PAGE))
    if open_compartment(manager) != status.OK:
        return refusal.NO_MEMORY
    extra = data + bss + STACK_PAGES + 1
    own = inventory.take_frames(extra)
    if own == R0:
        return refusal.NO_MEMORY
    frame = header >> 12
    at = r_uint(TASK_BASE)
    ok = place(frame, at, r_uint(1), READ)
    frame += 1
    at += PAGE
    ok = ok and place(frame, at, text, READ | EXECUTE)
    frame += text
    at += text << 12
    ok = ok and place(frame, at, rodata, READ)
    frame += rodata
    at += rodata << 12
    memory.copy(own << 12, frame << 12, data << 12)     # the module stays as it is: managers of other cores are made of it
    ok = ok and place(own, at, data, READ | WRITE)
    own += data
    at += data << 12
    ok = ok and place(own, at, bss, READ | WRITE)
    own += bss
    ok = ok and place(own, r_uint(STACK_TOP - STACK_PAGES * PAGE), r_uint(STACK_PAGES), READ | WRITE)
    own += STACK_PAGES
    ok = ok and place(own, r_uint(BOOT_PAGE), r_uint(1), READ)
    if not ok:
        return refusal.NO_MEMORY
    write_boot_page(own << 12)
    endow()
    begin(memory.load64(header + OFFSETS['ENTRY']))
    return refusal.NONE


def place(frame, address, count, rights):
    """Map the manager's own frames at `address`."""
    if frames.use_all(frame, count, manager.owner) != count:
        return False
    n = R0
    while n < count:
        code = manager.space.map(manager, address + (n << 12), (frame + n) << 12, task_leaf(rights, False), 0)
        if code != status.OK:
            return False
        n += 1
    return True


def write_boot_page(page):
    memory.store64(page + boot.MANAGER['MAGIC'], r_uint(boot.MAGIC))
    memory.store64(page + boot.MANAGER['VERSION'], r_uint(boot.VERSION))
    memory.store64(page + boot.MANAGER['TSC_KHZ'], timer.tsc_khz)
    memory.store64(page + boot.MANAGER['VENDOR'], r_uint(vendor_number.value))
    memory.store64(page + boot.MANAGER['REGIONS'], r_uint(inventory.free_count))
    n = 0
    while n < inventory.free_count:
        memory.store64(page + boot.MANAGER['REGION_0_FRAMES'] + 8 * n, inventory.free_frames[n])
        n += 1
    memory.store64(page + boot.MANAGER['MODULE_COUNT'], r_uint(loader.module_count))
    n = 0
    while n < loader.module_count:
        memory.store64(page + boot.MANAGER['MODULE_0_BYTES'] + 8 * n, loader.module_end[n] - loader.module_start[n])
        n += 1
    memory.store64(page + boot.MANAGER['CORE'], r_uint(this.number))
    memory.store64(page + boot.MANAGER['CORES'], r_uint(this.count))
    memory.store64(page + boot.MANAGER['CORE_FRAMES'], inventory.core_bytes() >> 12)
    memory.store64(page + boot.MANAGER['OWNING'], r_uint(vendor_number.owning))


def endow():
    """The manager's capabilities: all ports (the first core's only), free memory, the modules, links to other managers."""
    if this.is_first():
        manager.set_slot(call.SLOT_PORTS, PORTS, R0, r_uint(0x10000))
    n = 0
    while n < inventory.free_count:
        manager.set_slot(call.SLOT_MEMORY + n, REGION, inventory.free_first[n], inventory.free_frames[n])
        n += 1
    n = 0
    while n < this.count:
        if n != this.number:
            manager.set_slot(call.SLOT_LINK + n, LINK, r_uint(n), R0)
        n += 1
    n = 0
    while n < loader.module_count:
        start = loader.module_start[n]
        count = (loader.module_end[n] - start + PAGE - 1) >> 12
        if count > R0:
            manager.set_slot(call.SLOT_MODULE + n, REGION, start >> 12, count)
        n += 1


def begin(entry):
    area = manager.task.area
    memory.store64(area + AREA['RIP'], entry)
    memory.store64(area + AREA['RSP'], r_uint(STACK_TOP - 8))
    memory.store64(area + AREA['RFLAGS'], r_uint(RFLAGS_FIXED | RFLAGS_IF))
    manager.state = call.STATE_RUNNING
    manager.task.wake()


class VendorNumber(object):
    """Which vendor's processor this is, for the boot page; and whether its local APIC can be lent (owned.py)."""

    def __init__(self):
        self.value = 0
        self.owning = owning.POSSIBLE


vendor_number = VendorNumber()


def relocate_manager():
    """The kernel root is loaded: the manager's areas are at their arena addresses now."""
    manager.task.area = manager.task.area + arena.delta
    manager.task.page = manager.task.page + arena.delta
