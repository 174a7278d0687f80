"""MAP: frames of a compartment appear in its task's space or in its nested one, and go away again."""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.kernel import limit
from hypervisor.kernel.frames import frames
from hypervisor.kernel.paging import ADDRESS_MASK, NOT_LARGE_ALIGNED, R0, task_leaf
from hypervisor.kernel.switch import switcher
from hypervisor.lib.cold import cold
from hypervisor.spec import call, status
from hypervisor.spec.layout import BOOT_PAGE, PAGE, STACK_PAGES, STACK_TOP, TASK_END, VCPU_PAGE

OFFSET = r_uint(PAGE - 1)
FRAMES_PER_LARGE = r_uint(512)
RIGHTS = r_uint(call.READ | call.WRITE | call.EXECUTE | call.GUEST)
GUEST = r_uint(call.GUEST)
GPA_END = r_uint(1) << 46               # what four levels of either vendor reach on every processor
KERNEL_PAGES_START = r_uint(BOOT_PAGE + PAGE)       # the message pages, which the kernel maps
KERNEL_PAGES_END = r_uint(VCPU_PAGE + limit.VCPUS_PER_VM * PAGE)
assert VCPU_PAGE + limit.VCPUS_PER_VM * PAGE < STACK_TOP - STACK_PAGES * PAGE


def space_status(address, count, rights):
    """Is [address, address + count pages) a range that may be mapped or unmapped in the space that `rights` names?"""
    if address & OFFSET != R0:
        return status.BAD_ADDRESS
    if rights & GUEST != R0:
        if address >= GPA_END or address + count * PAGE > GPA_END:
            return status.BAD_ADDRESS
        return status.OK
    end = address + count * PAGE
    if address < r_uint(PAGE) or address >= r_uint(TASK_END) or end > r_uint(TASK_END):
        return status.BAD_ADDRESS
    if address < KERNEL_PAGES_END and end > KERNEL_PAGES_START:
        return status.BAD_ADDRESS
    return status.OK


def rights_status(rights):
    if rights & ~RIGHTS != R0 or rights & r_uint(call.READ) == R0:
        return status.BAD_RIGHTS
    if rights & GUEST == R0 and rights & r_uint(call.WRITE) != R0 and rights & r_uint(call.EXECUTE) != R0:
        return status.BAD_RIGHTS
    return status.OK


@cold
def map_frames(task, target, frame, address, count, rights):
    """Map up to `count` frames; answers the task with how many were done."""
    code = rights_status(rights)
    if code == status.OK:
        code = space_status(address, count, rights)
    if code != status.OK:
        task.answer(code, R0)
        return
    done = R0
    while done < count and code == status.OK:
        at = address + (done << 12)
        hpa = (frame + done) << 12
        if (at | hpa) & NOT_LARGE_ALIGNED == R0 and count - done >= FRAMES_PER_LARGE and room_for_large(target, at, rights):
            code = map_page(target, frame + done, at, FRAMES_PER_LARGE, rights)
            if code == status.OK:
                done += FRAMES_PER_LARGE
        else:
            code = map_page(target, frame + done, at, r_uint(1), rights)
            if code == status.OK:
                done += 1
    task.answer(code, done)


def room_for_large(target, address, rights):
    """A table that small pages have left behind stays; large ones are then mapped as small ones."""
    space = target.space
    if rights & GUEST != R0:
        space = target.nested
    return space.root == R0 or not space.table_at(address)


def map_page(target, frame, address, count, rights):
    """One page of 1 or 512 frames: all owned by the target. Counts the uses first, and takes them back if it fails."""
    used = frames.use_all(frame, count, target.owner)
    if used == count:
        code = enter(target, frame << 12, address, count != r_uint(1), rights)
    elif frames.owner(frame + used) != target.owner:
        code = status.NOT_OWNER
    else:
        code = status.IN_USE
    if code != status.OK:
        frames.unuse_all(frame, used)
    return code


def enter(target, hpa, address, large, rights):
    level = 0
    if large:
        level = 1
    plain = intmask(rights & r_uint(7))
    if rights & GUEST != R0:
        if target.nested.root == R0:
            code = target.nested.open(target, switcher.vendor.table_bits())
            if code != status.OK:
                return code
            target.publish()
        return target.nested.map(target, address, hpa, switcher.vendor.leaf_bits(plain, large), level)
    return target.space.map(target, address, hpa, task_leaf(plain, large), level)


@cold
def unmap_pages(task, target, address, count, rights):
    """Take mappings away; a 2-MiB page only whole. Answers with the pages passed, holes included."""
    code = space_status(address, count, rights)
    if code != status.OK:
        task.answer(code, R0)
        return
    guest = rights & GUEST != R0
    if guest and target.others != 0:
        task.answer(status.BAD_STATE, R0)       # other cores' translations would stay
        return
    space = target.space
    if guest:
        space = target.nested
    done = R0
    if space.root == R0:
        done = count
    while done < count and code == status.OK:
        at = address + (done << 12)
        if not space.large_at(at):
            forget(space.unmap(at), r_uint(1))
            done += 1
        elif at & NOT_LARGE_ALIGNED == R0 and count - done >= FRAMES_PER_LARGE:
            forget(space.unmap_large(at), FRAMES_PER_LARGE)
            done += FRAMES_PER_LARGE
        else:
            code = status.BAD_RANGE
    if guest:
        target.flush_nested()
    task.answer(code, done)


def forget(entry, count):
    """The frames that a removed entry mapped are used once less."""
    if entry == R0:
        return
    frames.unuse_all((entry & ADDRESS_MASK) >> 12, count)
