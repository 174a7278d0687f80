"""Kernel calls: what tasks ask for. Numbers, arguments and meaning: docs/abi.md.

Every argument is hostile. A call checks all of them before it changes anything, and does at most BATCH frames.
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu, memory
from hypervisor.kernel import answer, away, interrupts, limit, state
from hypervisor.kernel import news as marks
from hypervisor.kernel.arena import arena
from hypervisor.kernel.compartment import (COMPARTMENT, EMPTY, LINK, NO_NAME, PORTS, REGION, RING_RECEIVER, RING_SENDER, VCPU,
                                           compartments)
from hypervisor.kernel.core import this
from hypervisor.kernel.cores import cores
from hypervisor.kernel.create import create_compartment, create_vcpu, release_compartment
from hypervisor.kernel.frames import OTHER_CORE, frames
from hypervisor.kernel.line import lines
from hypervisor.kernel.link import links
from hypervisor.kernel.mapping import map_frames, unmap_pages
from hypervisor.kernel.news import news
from hypervisor.kernel.ring import rings
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.task import IN_VCPU_RUN, IN_WAIT
from hypervisor.kernel.vcpu import vcpus
from hypervisor.lib.cold import cold
from hypervisor.spec import call, ending, status
from hypervisor.spec import exit as kinds
from hypervisor.spec import share as shares
from hypervisor.spec.config import MAX_VMS
from hypervisor.spec.context import AREA
from hypervisor.spec.core import INIT, MEMORY, STARTUP
from hypervisor.spec.cpu import RFLAGS_FIXED, RFLAGS_IF
from hypervisor.spec.layout import PAGE, TASK_END
from hypervisor.spec.vcpu import INSPECT, READABLE, RING_BYTES

R0 = r_uint(0)
BATCH = r_uint(call.BATCH)
MANAGER_ENDINGS = r_uint(sum(1 << code for code in ending.MANAGER_MAY_SAY))
RDI, RSI, RDX, R10, R8, R9, RAX = [AREA[name] for name in ('RDI', 'RSI', 'RDX', 'R10', 'R8', 'R9', 'RAX')]


def dispatch(caller):
    """Do the call that the caller's task has just made."""
    task = caller.task
    if task.argument(RAX) == r_uint(call.VCPU_RUN):     # first and apart: it is the hot one
        answer.vcpu_run(caller, task.argument(RDI), task.argument(RSI))
    else:
        dispatch_other(caller)


@dont_inline
def dispatch_other(caller):
    task = caller.task
    number = task.argument(RAX)
    a = task.argument(RDI)
    b = task.argument(RSI)
    c = task.argument(RDX)
    d = task.argument(R10)
    if number == r_uint(call.WAIT):
        wait(caller, a)
    elif number == r_uint(call.RING_SEND):
        ring_send(caller, a, b)
    elif number == r_uint(call.RING_RECEIVE):
        ring_receive(caller, a)
    elif number == r_uint(call.PORT_IN):
        port_in(caller, a, b, c)
    elif number == r_uint(call.PORT_OUT):
        port_out(caller, a, b, c, d)
    elif number == r_uint(call.MAP):
        map_region(caller, a, b, c, d, task.argument(R8), task.argument(R9))
    elif number == r_uint(call.CREATE):
        create(caller, a, b, c, d)
    elif number == r_uint(call.GIVE):
        give(caller, a, b, c, d, task.argument(R8))
    elif number == r_uint(call.TAKE):
        take(caller, a, b, c)
    elif number == r_uint(call.VCPU_CREATE):
        vcpu_create(caller, a, b, c, d)
    elif number == r_uint(call.RING_CREATE):
        ring_create(caller, a, b, c, d)
    elif number == r_uint(call.START):
        start(caller, a, b, c, d)
    elif number == r_uint(call.STOP):
        stop(caller, a, b, c)
    elif number == r_uint(call.INSPECT):
        inspect(caller, a)
    elif number == r_uint(call.VCPU_READ):
        vcpu_read(caller, a, b)
    elif number == r_uint(call.VCPU_INTERRUPT):
        vcpu_interrupt(caller, a, b, c, d)
    elif number == r_uint(call.VCPU_APIC):
        vcpu_apic(caller, a, b, c, d)
    elif number == r_uint(call.LINE):
        line(caller, a, b)
    elif number == r_uint(call.SHARE):
        share(caller, a, b, c, d)
    elif number == r_uint(call.CORE_GIVE):
        core_give(caller, a, b, c, d, task.argument(R8), task.argument(R9))
    elif number == r_uint(call.CORE_START):
        core_start(caller, a, b)
    elif number == r_uint(call.CORE_INSPECT):
        core_inspect(caller, a)
    elif number == r_uint(call.JOIN):
        away.join(caller, a, b, c, d, task.argument(R8), task.argument(R9))
    else:
        task.answer(status.BAD_CALL, R0)


def named(caller, slot):
    """The compartment that a slot names: another one's capability, or the caller itself. None if it names none."""
    kind = caller.slot_kind(slot)
    if kind != COMPARTMENT:
        return None
    number = caller.first[intmask(slot)]
    if number >= r_uint(limit.COMPARTMENTS):
        return None
    return compartments[intmask(number)]


def other(caller, slot):
    """As `named`, but never the caller: what only the creator of a compartment may do."""
    compartment = named(caller, slot)
    if compartment is caller:
        return None
    return compartment


def wait(caller, deadline):
    task = caller.task
    if caller.signals != R0:
        task.answer(status.OK, caller.signals)
        caller.signals = R0
        return
    task.waiting_since = cpu.rdtsc()
    task.block(IN_WAIT, deadline)
    scheduler.nudge(deadline)


def ring_send(caller, slot, count):
    kind = caller.slot_kind(slot)
    if kind != RING_SENDER and kind != LINK:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    if count > r_uint(RING_BYTES):
        caller.task.answer(status.BAD_SIZE, R0)
        return
    if kind == LINK:
        caller.task.answer(status.OK, links.put(intmask(caller.first[intmask(slot)]), caller.task.page, count))
        return
    ring = rings[intmask(caller.first[intmask(slot)])]
    taken = ring.put(caller.task.page, count)
    caller.task.answer(status.OK, taken)
    if taken > R0 and ring.receiver is not None:
        ring.receiver.signal(ring.receiver_slot)
        wake(ring.receiver)


def wake(compartment):
    """Its task has been signalled."""
    if compartment.task.ready:
        scheduler.wake(compartment)


def ring_receive(caller, slot):
    if caller.slot_kind(slot) == LINK:
        caller.task.answer(status.OK, links.get(intmask(caller.first[intmask(slot)]), caller.task.page, r_uint(RING_BYTES)))
        return
    if caller.slot_kind(slot) != RING_RECEIVER:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    ring = rings[intmask(caller.first[intmask(slot)])]
    count = ring.get(caller.task.page, r_uint(RING_BYTES))
    caller.task.answer(status.OK, count)
    if count > R0 and ring.starved and ring.sender is not None:
        ring.starved = False
        ring.sender.signal(ring.sender_slot)
        wake(ring.sender)


@cold
def line(caller, slot, number):
    """LINE: who may use the machine's ports may also hear its interrupt lines."""
    if caller.slot_kind(slot) != PORTS:
        caller.task.answer(status.BAD_SLOT, R0)
    elif not lines.exists(number):
        caller.task.answer(status.BAD_RANGE, R0)
    else:
        lines.arm(caller, intmask(slot), intmask(number))
        caller.task.answer(status.OK, R0)


@cold
def core_give(caller, core, region, first, count, module, size):
    """CORE_GIVE: at most BATCH frames of the caller's to a core that has not been started, all or nothing."""
    if caller.number != 0 or not cores.is_startable(core) or caller.slot_kind(region) != REGION:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    most = caller.second[intmask(region)]
    if count == R0 or count > BATCH or first >= most or count > most - first or module > r_uint(MEMORY):
        caller.task.answer(status.BAD_RANGE, R0)
        return
    frame = caller.first[intmask(region)] + first
    code = frames.transferable(frame, count, caller.owner)
    if code == status.OK:
        code = cores.give(intmask(core), frame, count, intmask(module), size)
    if code != status.OK:
        caller.task.answer(code, R0)
        return
    frames.set_owners(frame, frame + count, OTHER_CORE)
    caller.task.answer(status.OK, count)


@cold
def core_start(caller, core, step):
    """CORE_START: one step after the other; how long to wait between them is the caller's to know."""
    if caller.number != 0 or not this.is_first() or not links.is_peer(core):
        caller.task.answer(status.BAD_SLOT, R0)
    elif step == r_uint(INIT) and not cores.started[intmask(core)]:
        caller.task.answer(cores.init(intmask(core)), R0)
    elif step == r_uint(STARTUP) and cores.started[intmask(core)]:
        caller.task.answer(cores.startup(intmask(core)), R0)
    else:
        caller.task.answer(status.BAD_STATE, R0)


@cold
def core_inspect(caller, core):
    """CORE_INSPECT: how another core is, and its last words in the task page."""
    if caller.number != 0 or not links.is_peer(core):
        caller.task.answer(status.BAD_SLOT, R0)
        return
    links.copy_text(intmask(core), caller.task.page)
    caller.task.answer(status.OK, links.state(intmask(core)))


def port_allowed(caller, slot, port, size):
    """Status of an access to `size` ports from `port` on."""
    if caller.slot_kind(slot) != PORTS:
        return status.BAD_SLOT
    if size != r_uint(1) and size != r_uint(2) and size != r_uint(4):
        return status.BAD_SIZE
    first = caller.first[intmask(slot)]
    end = first + caller.second[intmask(slot)]
    if port < first or port > r_uint(0xffff) or port + size > end:
        return status.BAD_RANGE
    return status.OK


def port_in(caller, slot, port, size):
    code = port_allowed(caller, slot, port, size)
    value = R0
    if code == status.OK:
        value = cpu.port_in(port, size)
    caller.task.answer(code, value)


def port_out(caller, slot, port, size, value):
    code = port_allowed(caller, slot, port, size)
    if code == status.OK:
        cpu.port_out(port, size, value)
    caller.task.answer(code, R0)


@cold
def map_region(caller, slot, region, first, address, count, rights):
    target = named(caller, slot)
    if target is None or target.state == call.STATE_ENDED:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    if target.is_branch():
        caller.task.answer(status.BAD_STATE, R0)        # its nested tables are its home's
        return
    if count == R0 or count > BATCH:
        caller.task.answer(status.BAD_RANGE, R0)
        return
    if rights & ~r_uint(call.GUEST) == R0:
        unmap_pages(caller.task, target, address, count, rights)
        return
    if target.slot_kind(region) != REGION:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    size = target.second[intmask(region)]
    if first >= size or count > size - first:
        caller.task.answer(status.BAD_RANGE, R0)
        return
    map_frames(caller.task, target, target.first[intmask(region)] + first, address, count, rights)


@cold
def create(caller, slot, region, first, count):
    if caller.number != 0:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    if not caller.slot_free(slot):
        caller.task.answer(status.SLOT_IN_USE, R0)
        return
    caller.task.answer(create_compartment(caller, intmask(slot), region, first, count), R0)


@cold
def give(caller, slot, region, first, count, target_slot):
    """All or nothing for at most BATCH frames: each must be the caller's and unmapped."""
    target = other(caller, slot)
    if target is None or caller.slot_kind(region) != REGION:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    if target.state == call.STATE_ENDED or target.is_branch():
        caller.task.answer(status.BAD_STATE, R0)
        return
    size = caller.second[intmask(region)]
    if count == R0 or count > BATCH or first >= size or count > size - first:
        caller.task.answer(status.BAD_RANGE, R0)
        return
    frame = caller.first[intmask(region)] + first
    kind = target.slot_kind(target_slot)
    if target_slot >= r_uint(call.SLOTS) or not (kind == EMPTY or kind == REGION):
        caller.task.answer(status.SLOT_IN_USE, R0)
        return
    to = intmask(target_slot)
    if kind == REGION and target.first[to] + target.second[to] != frame:
        caller.task.answer(status.SLOT_IN_USE, R0)
        return
    code = frames.transferable(frame, count, caller.owner)
    if code != status.OK:
        caller.task.answer(code, R0)
        return
    hand_over(target, frame, count)
    if kind == REGION:
        target.second[to] += count
    else:
        target.set_slot(to, REGION, frame, count)
    caller.task.answer(status.OK, count)


def hand_over(target, frame, count):
    frames.set_owners(frame, frame + count, target.owner)


@cold
def take(caller, slot, target_slot, own_slot):
    """The frames of an ended compartment come back from the end of the region; its mappings are already gone."""
    target = other(caller, slot)
    if target is None or target.slot_kind(target_slot) != REGION:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    if target.state != call.STATE_ENDED:
        caller.task.answer(status.BAD_STATE, R0)
        return
    at = intmask(target_slot)
    size = target.second[at]
    count = size
    if count > BATCH:
        count = BATCH
    frame = target.first[at] + (size - count)
    if not receive(caller, own_slot, frame, count):
        caller.task.answer(status.SLOT_IN_USE, R0)
        return
    hand_over(caller, frame, count)
    target.second[at] = size - count
    if size == count:
        target.set_slot(at, EMPTY, R0, R0)
    caller.task.answer(status.OK, size - count)


@cold
def receive(caller, slot, frame, count):
    """Let `slot` cover the frames: an empty slot, a region that begins where they end, or one that contains them anyway."""
    kind = caller.slot_kind(slot)
    if slot >= r_uint(call.SLOTS):
        return False
    mine = intmask(slot)
    if kind == EMPTY:
        caller.set_slot(mine, REGION, frame, count)
        return True
    if kind != REGION:
        return False
    first = caller.first[mine]
    if first == frame + count:
        caller.first[mine] = frame
        caller.second[mine] += count
        return True
    return frame >= first and frame + count <= first + caller.second[mine]


@cold
def vcpu_create(caller, slot, target_slot, core, name):
    target = other(caller, slot)
    if target is None:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    if target.state != call.STATE_NEW:
        caller.task.answer(status.BAD_STATE, R0)
        return
    if not target.slot_free(target_slot):
        caller.task.answer(status.SLOT_IN_USE, R0)
        return
    here = core == r_uint(this.number)
    if name >= r_uint(MAX_VMS) or not here and not links.is_peer(core) or not here and target.vcpu_count == 0:
        caller.task.answer(status.BAD_RANGE, R0)
        return
    if not here and target.name == NO_NAME:
        if away.find(this.number, intmask(name)) is not None:
            caller.task.answer(status.BAD_STATE, R0)
            return
        target.name = intmask(name)
    caller.task.answer(create_vcpu(target, intmask(target_slot), intmask(core)), R0)


@cold
def ring_create(caller, from_slot, from_at, to_slot, to_at):
    sender = named(caller, from_slot)
    receiver = named(caller, to_slot)
    if caller.number != 0 or sender is None or receiver is None or sender is receiver:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    if sender.state == call.STATE_ENDED or receiver.state == call.STATE_ENDED:
        caller.task.answer(status.BAD_STATE, R0)
        return
    if not sender.slot_free(from_at) or not receiver.slot_free(to_at):
        caller.task.answer(status.SLOT_IN_USE, R0)
        return
    n = 0
    while n < limit.RINGS and rings[n].used:
        n += 1
    if n == limit.RINGS:
        caller.task.answer(status.NO_ROOM, R0)
        return
    if rings[n].buffer == R0:
        hpa = caller.take_page()        # the creator pays, and its pages outlive the other end
        if hpa == R0:
            caller.task.answer(status.NO_MEMORY, R0)
            return
        rings[n].buffer = arena.hva(hpa)
    rings[n].open(sender, intmask(from_at), receiver, intmask(to_at))
    sender.set_slot(intmask(from_at), RING_SENDER, r_uint(n), R0)
    receiver.set_slot(intmask(to_at), RING_RECEIVER, r_uint(n), R0)
    caller.task.answer(status.OK, R0)


@cold
def start(caller, slot, entry, stack, argument):
    target = other(caller, slot)
    if target is None:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    if target.state != call.STATE_NEW:
        caller.task.answer(status.BAD_STATE, R0)
        return
    if entry >= r_uint(TASK_END):       # IRET to an address that is not canonical would fault here, in ring 0
        caller.task.answer(status.BAD_ADDRESS, R0)
        return
    target.state = call.STATE_RUNNING
    area = target.task.area
    memory.store64(area + AREA['RIP'], entry)
    memory.store64(area + AREA['RSP'], stack)
    memory.store64(area + RDI, argument)
    memory.store64(area + AREA['RFLAGS'], r_uint(RFLAGS_FIXED | RFLAGS_IF))
    if target.vcpu_count > 0:
        target.task.owe()
    if target.others != 0:              # it begins when its vCPUs have their branches
        target.to_offer = target.others
        news.of_compartment(target, marks.OFFER)
    else:
        target.task.wake()
        scheduler.wake(target)
    caller.task.answer(status.OK, R0)


@cold
def stop(caller, slot, how, detail):
    target = named(caller, slot)
    if target is None:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    if target is caller:
        answer.stop_self(caller, how, detail)
        return
    if target.state == call.STATE_ENDED:
        caller.task.answer(release_compartment(caller, target, intmask(slot)), R0)
        return
    if how >= r_uint(32) or (MANAGER_ENDINGS >> intmask(how)) & 1 == R0:
        caller.task.answer(status.BAD_STATE, R0)
        return
    target.stop(intmask(how), detail)
    caller.task.answer(status.OK, R0)


@cold
def share(caller, slot, entitlement, cap, weight):
    target = other(caller, slot)
    if target is None:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    if target.state == call.STATE_ENDED:
        caller.task.answer(status.BAD_STATE, R0)
        return
    if (entitlement > r_uint(shares.WHOLE) or cap > r_uint(shares.WHOLE) or cap != r_uint(shares.NO_CAP) and cap < entitlement or
            weight == R0 or weight > r_uint(shares.WEIGHT_MOST)):
        caller.task.answer(status.BAD_SIZE, R0)
        return
    if not scheduler.promise(target, intmask(entitlement), intmask(cap), intmask(weight)):
        caller.task.answer(status.PROMISED, R0)
        return
    caller.task.answer(status.OK, R0)


@cold
def inspect(caller, slot):
    target = other(caller, slot)
    if target is None:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    page = caller.task.page
    memory.store64(page + INSPECT['STATE'], r_uint(target.state))
    memory.store64(page + INSPECT['HOW'], r_uint(target.how))
    memory.store64(page + INSPECT['DETAIL'], target.detail)
    memory.store64(page + INSPECT['TICKS'], target.run_ticks())
    memory.store64(page + INSPECT['VMM_TICKS'], target.task.ticks)
    n = 0
    while n < kinds.COUNT:
        memory.store64(page + INSPECT['EXITS'] + 8 * n, target.exits(n))
        n += 1
    caller.task.answer(status.OK, r_uint(target.state))


def vcpu_interrupt(caller, slot, kind, vector, destination):
    if caller.slot_kind(slot) != VCPU:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    interrupts.interrupt(caller, vcpus[intmask(caller.first[intmask(slot)])], kind, vector, destination)


def vcpu_apic(caller, slot, offset, write, value):
    if caller.slot_kind(slot) != VCPU:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    interrupts.access(caller, vcpus[intmask(caller.first[intmask(slot)])], offset, write, value)


def vcpu_read(caller, slot, groups):
    if caller.slot_kind(slot) != VCPU:
        caller.task.answer(status.BAD_SLOT, R0)
        return
    vcpu = vcpus[intmask(caller.first[intmask(slot)])]
    if not vcpu.outstanding:
        caller.task.answer(status.BAD_STATE, R0)
        return
    if groups & ~r_uint(READABLE) != R0:
        caller.task.answer(status.BAD_RANGE, R0)
        return
    if vcpu.away:
        answer.write_mirrored(vcpu, groups)
    else:
        state.write(vcpu, groups)
    caller.task.answer(status.OK, R0)
