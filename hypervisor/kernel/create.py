"""Making compartments and vCPUs out of the objects that exist from the start, and giving the objects back."""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import image, memory
from hypervisor.kernel import limit
from hypervisor.kernel import news as marks
from hypervisor.kernel.arena import arena
from hypervisor.kernel.compartment import (COMPARTMENT, EMPTY, NO_NAME, REGION, RING_RECEIVER, RING_SENDER, VCPU, bounds,
                                           compartments)
from hypervisor.kernel.core import this
from hypervisor.kernel.frames import KERNEL, frames
from hypervisor.kernel.news import news
from hypervisor.kernel.offer import core_of
from hypervisor.kernel.paging import TASK_TABLE, kernel_leaf, task_leaf
from hypervisor.kernel.ring import rings
from hypervisor.kernel.root import root
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.task import NOT_BLOCKED
from hypervisor.kernel.vcpu import exit_reasons, vcpus
from hypervisor.lib.cold import cold
from hypervisor.spec import call, context, ending, status, xsave
from hypervisor.spec import exit as kinds
from hypervisor.spec.layout import ARENA_BASE, ARENA_END, PAGE, TASK_PAGE, VCPU_PAGE

R0 = r_uint(0)
FRAMES_IN_WINDOW = r_uint((ARENA_END - ARENA_BASE) >> 12)
FPU_CONTROL_RESET = r_uint(0x37f)       # as FNINIT leaves it; guests see the architectural 0x40 only after a real reset
MXCSR_RESET = r_uint(0x1f80)


@cold
def create_compartment(creator, slot, region, first, count):
    """region, first, count: of the creator's frames, which become the kernel's for as long as the compartment exists. Returns a status; on OK
    the creator's slot holds the capability."""
    n = 1
    while n < limit.COMPARTMENTS and compartments[n].used:
        n += 1
    if n == limit.COMPARTMENTS:
        return status.NO_ROOM
    compartment = compartments[n]
    code = take_run(compartment, creator, region, first, count)
    if code != status.OK:
        return code
    code = open_compartment(compartment)
    if code != status.OK:
        give_run_back(compartment, creator)
        return code
    compartment.creator = creator
    compartment.creator_slot = slot
    bounds.include(compartment)
    creator.set_slot(slot, COMPARTMENT, r_uint(n), R0)
    return status.OK


@cold
def take_run(compartment, creator, region, first, count):
    """Make frames of the creator's the kernel pages of a compartment. Returns a status; nothing is changed unless it is OK."""
    if creator.slot_kind(region) != REGION:
        return status.BAD_SLOT
    size = creator.second[intmask(region)]
    if count == R0 or count > r_uint(limit.PAGES_PER_COMPARTMENT) or first >= size or count > size - first:
        return status.BAD_RANGE
    frame = creator.first[intmask(region)] + first
    if frame + count > FRAMES_IN_WINDOW:
        return status.BAD_RANGE
    code = frames.transferable(frame, count, creator.owner)
    if code != status.OK:
        return code
    start = frame << 12
    end = (frame + count) << 12
    code = root.reveal(start, end)
    if code != status.OK:
        root.hide(start, end)
        return code
    frames.set_owners(frame, frame + count, KERNEL)
    compartment.set_pages(start, count << 12)
    return status.OK


@cold
def give_run_back(compartment, creator):
    """Nothing in the compartment's kernel pages is used any more. They are cleared first: what the kernel wrote there is nobody's to read."""
    start = compartment.pages_start
    end = compartment.pages_end
    memory.clear(arena.hva(start), end - start)
    root.hide(start, end)
    frames.set_owners(start >> 12, end >> 12, creator.owner)
    compartment.set_pages(R0, R0)


def open_compartment(compartment):
    """Space, task area, task page. Also makes the manager's, whose creator is nobody."""
    compartment.used = True
    compartment.state = call.STATE_NEW
    compartment.how = ending.NONE
    compartment.detail = R0
    compartment.signals = R0
    compartment.vcpu_count = 0
    compartment.here = 0
    compartment.vcpu_ticks = R0
    compartment.waits_since = R0
    compartment.tells_stolen = False
    compartment.untold_ticks = R0
    compartment.creator = None
    compartment.share.open()
    compartment.forget_others()
    n = 0
    while n < kinds.COUNT:
        compartment.counts[n] = R0
        n += 1
    n = 0
    while n < call.SLOTS:
        compartment.set_slot(n, EMPTY, R0, R0)
        n += 1
    compartment.set_slot(call.SLOT_SELF, COMPARTMENT, r_uint(compartment.number), R0)
    code = open_task(compartment)
    if code != status.OK:
        compartment.used = False
    return code


def open_task(compartment):
    task = compartment.task
    task.ready = False
    task.blocked = NOT_BLOCKED
    task.owes = False
    task.owed_ticks = R0
    task.ticks = R0
    code = compartment.space.open(compartment, TASK_TABLE)
    if code != status.OK:
        return code
    compartment.publish()
    code = map_entry_pages(compartment)
    if code != status.OK:
        return code
    area = compartment.take_page()
    task.page_hpa = compartment.take_page()
    if area == R0 or task.page_hpa == R0:
        return status.NO_MEMORY
    task.area = arena.hva(area)
    task.page = arena.hva(task.page_hpa)
    return compartment.space.map(compartment, r_uint(TASK_PAGE), task.page_hpa, task_leaf(call.READ | call.WRITE, False), 0)


def map_entry_pages(compartment):
    """The kernel half of a task's root: what gets the processor from ring 3 into the kernel root, and nothing else."""
    code = map_entry_range(compartment, image.symbol(r_uint(image.ENTRY_TEXT_START)),
                           image.symbol(r_uint(image.ENTRY_TEXT_END)), call.READ | call.EXECUTE)
    if code != status.OK:
        return code
    return map_entry_range(compartment, image.symbol(r_uint(image.ENTRY_DATA_START)),
                           image.symbol(r_uint(image.ENTRY_DATA_END)), call.READ | call.WRITE)


def map_entry_range(compartment, address, end, rights):
    while address < end:
        code = compartment.space.map(compartment, address, this.physical(address), kernel_leaf(rights), 0)
        if code != status.OK:
            return code
        address += PAGE
    return status.OK


@cold
def create_vcpu(compartment, slot, core):
    """core: on which it is to live, below MOST. Returns a status; on OK the compartment's own slot holds the capability."""
    if compartment.vcpu_count >= limit.VCPUS_PER_VM:
        return status.NO_ROOM
    n = 0
    while n < limit.VCPUS and vcpus[n].compartment is not None:
        n += 1
    if n == limit.VCPUS:
        return status.NO_ROOM
    vcpu = vcpus[n]
    vcpu.compartment = compartment
    vcpu.task = compartment.task
    vcpu.index = compartment.vcpu_count
    vcpu.core = core
    vcpu.away = core != this.number
    if vcpu.away:
        code = open_away(vcpu, compartment)
    else:
        code = open_vcpu(vcpu, compartment)
    if code != status.OK:
        vcpu.compartment = None
        return code
    compartment.vcpus[vcpu.index] = vcpu
    compartment.vcpu_count += 1
    compartment.cores |= r_uint(core) << (4 * vcpu.index)
    if vcpu.away:
        compartment.others |= 1 << core
    else:
        compartment.here += 1
    bounds.include(compartment)
    compartment.set_slot(slot, VCPU, r_uint(n), R0)
    vcpu.slot = r_uint(slot)
    return status.OK


@cold
def open_away(vcpu, compartment):
    """What stands here for a vCPU of another core. At its VM's home it has the page that it shares with its VMM, and what came with its exit."""
    vcpu.control = R0
    vcpu.control_hpa = R0
    reset_common(vcpu)
    if compartment.is_branch():
        return status.OK
    mirror = compartment.take_page()
    vcpu.page_hpa = compartment.take_page()
    if mirror == R0 or vcpu.page_hpa == R0:
        return status.NO_MEMORY
    vcpu.page = arena.hva(vcpu.page_hpa)
    vcpu.mirror = arena.hva(mirror)
    return map_vcpu_page(vcpu, compartment)


def map_vcpu_page(vcpu, compartment):
    address = r_uint(VCPU_PAGE) + r_uint(vcpu.index) * PAGE
    return compartment.space.map(compartment, address, vcpu.page_hpa, task_leaf(call.READ | call.WRITE, False), 0)


@cold
def create_branch(creator, slot, core, name, offer, region, first, count):
    """The vCPUs of VM `name` of `core` that are to live here. Returns a status; on OK the creator's slot holds the capability."""
    code = create_compartment(creator, slot, region, first, count)
    if code != status.OK:
        return code
    compartment = compartments[intmask(creator.first[slot])]
    compartment.home = core
    compartment.name = name
    compartment.nested.root = offer.root            # the home's own, which this kernel does not map
    n = 0
    while n < offer.count and code == status.OK:
        code = create_vcpu(compartment, call.SLOT_VCPU + n, intmask(core_of(offer.cores, n)))
        n += 1
    if code == status.OK:
        news.of_compartment(compartment, marks.JOINED)
        compartment.state = call.STATE_RUNNING
        return code
    compartment.name = NO_NAME                      # what ends here has never been
    compartment.home = this.number
    compartment.others = 0
    compartment.creator = None
    compartment.stop(ending.NOT_STARTED, r_uint(code))
    release_compartment(creator, compartment, slot)
    return code


@cold
def open_vcpu(vcpu, compartment):
    if compartment.nested.root == R0:
        code = compartment.nested.open(compartment, switcher.vendor.table_bits())
        if code != status.OK:
            return code
        compartment.publish()
    private = compartment.take_page()
    vcpu.page_hpa = compartment.take_page()
    if private == R0 or vcpu.page_hpa == R0:
        return status.NO_MEMORY
    vcpu.page = arena.hva(vcpu.page_hpa)
    base = arena.hva(private)
    vcpu.area = base + context.PRIVATE_AREA
    vcpu.cpuid = base + context.PRIVATE_CPUID
    vcpu.note_apart()
    vcpu.fpu = base + context.PRIVATE_FPU
    memory.store64(vcpu.area + context.VMM['AREA'], compartment.task.area)
    memory.store64(vcpu.area + context.VMM['ROOT'], compartment.space.root)
    memory.store64(vcpu.area + context.VMM['REASONS'], exit_reasons(vcpu))
    reset_vcpu(vcpu)
    vcpu.tag = compartment.tag
    code = switcher.vendor.create(vcpu)
    if code != status.OK:
        return code
    return map_vcpu_page(vcpu, compartment)


def reset_common(vcpu):
    """What there is of every vCPU, wherever it lives."""
    vcpu.ready = False
    vcpu.started = False
    vcpu.outstanding = False
    vcpu.halted = False
    vcpu.deaf = False
    vcpu.waiting = vcpu.index > 0
    vcpu.init = False
    vcpu.attention = False
    vcpu.ticked = False
    vcpu.owns = False
    vcpu.news = 0
    vcpu.untold = 0
    vcpu.to_raise = 0
    vcpu.apic.reset(vcpu.index)
    vcpu.apic.tsc_offset = R0
    vcpu.ticks = R0
    vcpu.stolen = R0
    n = 0
    while n < kinds.COUNT:
        vcpu.counts[n] = R0
        n += 1
    vcpu.forget_quick()


def reset_vcpu(vcpu):
    """What the kernel itself keeps of a vCPU that lives here, as after a reset."""
    reset_common(vcpu)
    vcpu.nmi_blocked = False
    vcpu.stepping = 0
    vcpu.shadow_rip = ~R0
    vcpu.flush = True
    vcpu.event = R0
    vcpu.event_error = R0
    vcpu.xcr0 = r_uint(1)
    vcpu.pkru = R0
    switcher.forget_debug(vcpu)
    vcpu.kernel_gs_base = R0
    vcpu.star = R0
    vcpu.lstar = R0
    vcpu.cstar = R0
    vcpu.sfmask = R0
    memory.clear(vcpu.fpu, r_uint(xsave.BYTES))
    memory.store16(vcpu.fpu, FPU_CONTROL_RESET)
    memory.store32(vcpu.fpu + xsave.MXCSR, MXCSR_RESET)


@cold
def release_compartment(creator, compartment, slot):
    """An ended compartment without regions becomes free for the next CREATE. A branch first tells its home all that it has to."""
    if compartment.is_branch() and (compartment.news != 0 or compartment.name != NO_NAME):
        return status.IN_USE
    n = 0
    while n < call.SLOTS:
        if compartment.kinds[n] == REGION:
            return status.IN_USE
        n += 1
    n = 0
    while n < call.SLOTS:
        close_slot(creator, compartment, n)
        n += 1
    n = 0
    while n < compartment.vcpu_count:
        vcpu = compartment.vcpus[n]
        if vcpu is not None:
            vcpu.compartment = None
            compartment.vcpus[n] = None
        n += 1
    compartment.vcpu_count = 0
    compartment.here = 0
    compartment.forget_others()
    compartment.used = False
    give_run_back(compartment, creator)
    bounds.shrink()
    creator.set_slot(slot, EMPTY, R0, R0)
    return status.OK


def close_slot(creator, compartment, n):
    """Rings end at both ends."""
    kind = compartment.kinds[n]
    if kind == RING_SENDER or kind == RING_RECEIVER:
        ring = rings[intmask(compartment.first[n])]
        if ring.sender is not None:
            ring.sender.set_slot(ring.sender_slot, EMPTY, R0, R0)
        if ring.receiver is not None:
            ring.receiver.set_slot(ring.receiver_slot, EMPTY, R0, R0)
        ring.close()
