"""What the kernel calls mean, in dicts and sets: docs/abi.md once more, and none of the kernel's code.

Each call gives the set of statuses that would be right (several, where several conditions are broken at once) and, for OK, the value.
Where the kernel may run out of pages, or stop in the middle of a range, the model follows what the kernel says it has done, after
checking that it may.
"""
from hypervisor.spec import call, ending, status
from hypervisor.spec.config import MAX_VMS
from hypervisor.spec.layout import PAGE, TASK_END, TASK_PAGE, VCPU_PAGE

COMPARTMENTS = 9
VCPUS_PER_VM, VCPUS, RINGS = 16, 32, 32
RING_CAPACITY = 4096
KERNEL, KERNEL_PAGES, FEW_PAGES = 1, 192, 14    # FEW: too few may be for an empty compartment
KERNEL_ADDRESSES = [TASK_PAGE] + [VCPU_PAGE + PAGE * n for n in range(VCPUS_PER_VM)]
GPA_END = 1 << 46
NEW, RUNNING, ENDED = call.STATE_NEW, call.STATE_RUNNING, call.STATE_ENDED
READY, WAITING, IN_RUN = 'ready', 'in WAIT', 'in VCPU_RUN'


class Vm(object):
    def __init__(self, number):
        self.number = number
        self.owner = 2 + number
        self.state = NEW
        self.how, self.detail = ending.NONE, 0
        self.slots = {call.SLOT_SELF: ('compartment', number)}
        self.task, self.nested = {}, {}         # page number -> (frame, writable, executable)
        self.signals = set()
        self.activity = None                    # READY, WAITING or IN_RUN while it runs
        self.vcpus = []                         # True: has been run
        self.slot = None                        # the manager's slot that names it
        self.owes = False
        self.version = 0                        # changes with every mapping
        self.run = []                           # the kernel's frames for it

    def maps(self, guest):
        return self.nested if guest else self.task


class Ring(object):
    def __init__(self, sender, sender_slot, receiver, receiver_slot):
        self.sender, self.sender_slot = sender, sender_slot
        self.receiver, self.receiver_slot = receiver, receiver_slot
        self.content = bytearray()
        self.starved = False


class Model(object):
    """owners: one byte per frame, as the owner table would have it."""

    def __init__(self, owners, regions, modules):
        """regions: {slot: (first, count)} of free memory; modules likewise."""
        self.owners = owners
        manager = Vm(0)
        manager.state, manager.activity = RUNNING, READY
        manager.slots[call.SLOT_PORTS] = ('ports', 0, 0x10000)
        for slot, (first, count) in list(regions.items()) + list(modules.items()):
            manager.slots[slot] = ('region', first, count)
        self.vms = {0: manager}

    # Help

    def kind(self, vm, slot):
        return vm.slots.get(slot, ('empty',))[0]

    def named(self, vm, slot):
        if self.kind(vm, slot) != 'compartment':
            return None
        return self.vms[vm.slots[slot][1]]

    def other(self, vm, slot):
        target = self.named(vm, slot)
        return None if target is vm else target

    def uses(self, frame, vm):
        return sum(1 for maps in (vm.task, vm.nested) for entry in maps.values() if entry[0] == frame)

    def signal(self, vm, slot):
        vm.signals.add(slot)
        if vm.activity == WAITING:
            self.wake(vm, sum(1 << s for s in vm.signals))
            vm.signals.clear()
        elif vm.activity == IN_RUN:
            self.wake(vm, call.REASON_SIGNAL)

    def wake(self, vm, value):
        vm.activity = READY
        vm.woken = (status.OK, value)

    def end(self, vm, how, detail):
        vm.state, vm.how, vm.detail = ENDED, how, detail
        vm.activity, vm.owes = None, False
        vm.task.clear()
        vm.nested.clear()
        vm.version += 1
        self.signal(self.vms[0], vm.slot)

    # Calls. Each returns (set of right statuses, value when OK); the change is made by the function that comes third.

    def wait(self, vm, deadline):
        if vm.signals:
            value = sum(1 << s for s in vm.signals)
            return {status.OK}, value, vm.signals.clear
        return {None}, 0, lambda: setattr(vm, 'activity', WAITING)

    def ring_send(self, vm, slot, count, page):
        wrong = set()
        if self.kind(vm, slot) != 'sender':
            wrong.add(status.BAD_SLOT)
        if count > 2048:
            wrong.add(status.BAD_SIZE)
        if wrong:
            return wrong, 0, None
        ring = vm.slots[slot][1]
        taken = min(count, RING_CAPACITY - len(ring.content))

        def send():
            ring.starved = ring.starved or taken < count
            ring.content += page[:taken]
            if taken:
                self.signal(ring.receiver, ring.receiver_slot)
        return {status.OK}, taken, send

    def ring_receive(self, vm, slot):
        if self.kind(vm, slot) != 'receiver':
            return {status.BAD_SLOT}, 0, None
        ring = vm.slots[slot][1]
        count = min(2048, len(ring.content))

        def receive():
            vm.received = bytes(ring.content[:count])
            del ring.content[:count]
            if count and ring.starved:
                ring.starved = False
                self.signal(ring.sender, ring.sender_slot)
        return {status.OK}, count, receive

    def port(self, vm, slot, port, size):
        wrong = set()
        if self.kind(vm, slot) != 'ports':
            wrong.add(status.BAD_SLOT)
        if size not in (1, 2, 4):
            wrong.add(status.BAD_SIZE)
        if port + size > 0x10000:
            wrong.add(status.BAD_RANGE)
        return wrong or {status.OK}

    def range_wrong(self, address, count, guest):
        end = address + count * PAGE
        if address % PAGE:
            return True
        if guest:
            return end > GPA_END
        return address < PAGE or end > TASK_END or any(address <= a < end for a in KERNEL_ADDRESSES)

    def map_wrong(self, vm, slot, region, first, address, count, rights):
        """Statuses of conditions that are broken whatever is mapped; empty when the call may begin."""
        wrong = set()
        target = self.named(vm, slot)
        guest = bool(rights & call.GUEST)
        if target is None or target.state == ENDED:
            wrong.add(status.BAD_SLOT)
        if not 1 <= count <= call.BATCH:
            wrong.add(status.BAD_RANGE)
        if self.range_wrong(address, count, guest):
            wrong.add(status.BAD_ADDRESS)
        if rights & ~call.GUEST == 0:
            return wrong
        if rights >= 16 or not rights & call.READ or (not guest and rights & 6 == 6):
            wrong.add(status.BAD_RIGHTS)
        if target is not None:
            if self.kind(target, region) != 'region':
                wrong.add(status.BAD_SLOT)
            elif first + count > target.slots[region][2]:
                wrong.add(status.BAD_RANGE)
        return wrong

    def page_wrong(self, target, maps, frame, page):
        """What forbids one page."""
        wrong = set()
        if self.owners[frame] != target.owner:
            wrong.add(status.NOT_OWNER)
        if page in maps:
            wrong.add(status.ALREADY_MAPPED)
        return wrong

    def mapped(self, vm, slot, region, first, address, count, rights, code, done, room):
        """Follow a MAP that had no plain mistake. room: may the kernel have run out of pages?"""
        target = self.named(vm, slot)
        guest = bool(rights & call.GUEST)
        maps = target.maps(guest)
        frame = target.slots[region][1] + first
        page = address // PAGE
        target.version += 1
        assert done <= count
        for n in range(done):
            assert not self.page_wrong(target, maps, frame + n, page + n), 'page %d of the range was mapped wrongly' % n
            maps[page + n] = (frame + n, bool(rights & call.WRITE), bool(rights & call.EXECUTE))
        if code == status.OK:
            assert done == count
            return
        assert done < count
        wrong = self.page_wrong(target, maps, frame + done, page + done)
        if (frame + done) % 512 == 0 and (page + done) % 512 == 0 and count - done >= 512:
            for n in range(512):
                wrong |= self.page_wrong(target, maps, frame + done + n, page + done + n)
        if room:
            wrong.add(status.NO_MEMORY)
        assert code in wrong, 'MAP answers %s, right would be %s' % (status.NAMES[code], [status.NAMES[w] for w in wrong])

    def unmapped(self, vm, slot, address, count, rights, code, done, large):
        """Follow an unmap. large: the page numbers where 2-MiB pages begin."""
        target = self.named(vm, slot)
        maps = target.maps(bool(rights & call.GUEST))
        page = address // PAGE
        target.version += 1
        n = 0
        while n < count:
            at = page + n
            if at // 512 * 512 in large:
                if at % 512 or count - n < 512:
                    break
                for each in range(512):
                    del maps[at + each]
                n += 512
            else:
                maps.pop(at, None)
                n += 1
        assert done == n, 'unmap says %d, right would be %d' % (done, n)
        assert code == (status.OK if n == count else status.BAD_RANGE)

    def create(self, vm, slot, region, first, count):
        wrong = set()
        if vm.number:
            wrong.add(status.BAD_SLOT)
        if slot >= call.SLOTS or self.kind(vm, slot) != 'empty':
            wrong.add(status.SLOT_IN_USE)
        free = [n for n in range(COMPARTMENTS) if n not in self.vms]
        if not free:
            wrong.add(status.NO_ROOM)

        if self.kind(vm, region) != 'region':
            return wrong | {status.BAD_SLOT}, 0, None
        start, size = vm.slots[region][1:]
        frames = range(start + first, start + first + count) if count <= KERNEL_PAGES else []
        if not frames or first + count > size:
            wrong.add(status.BAD_RANGE)
        else:
            wrong |= self.not_free(vm, frames)

        def make():
            new = self.vms[free[0]] = Vm(free[0])
            new.slot = slot
            new.run = frames
            self.hand_over(frames, KERNEL)
            vm.slots[slot] = ('compartment', new.number)
        return wrong or {status.OK} | ({status.NO_MEMORY} if count < FEW_PAGES else set()), 0, make

    def not_free(self, vm, frames):
        wrong = set()
        for each in frames:
            if self.owners[each] != vm.owner:
                wrong.add(status.NOT_OWNER)
            elif (vm.task or vm.nested) and self.uses(each, vm):
                wrong.add(status.IN_USE)
        return wrong

    def hand_over(self, frames, owner):
        for each in frames:
            self.owners[each] = owner

    def give(self, vm, slot, region, first, count, to):
        wrong = set()
        target = self.other(vm, slot)
        if target is None or self.kind(vm, region) != 'region':
            return {status.BAD_SLOT}, 0, None
        if target.state == ENDED:
            wrong.add(status.BAD_STATE)
        start, size = vm.slots[region][1:]
        frame = start + first
        if not 1 <= count <= call.BATCH or first + count > size:
            wrong.add(status.BAD_RANGE)
        else:
            wrong |= self.not_free(vm, range(frame, frame + count))
        at = target.slots.get(to, ('empty',))
        if to >= call.SLOTS or at[0] not in ('empty', 'region') or (at[0] == 'region' and at[1] + at[2] != frame):
            wrong.add(status.SLOT_IN_USE)

        def hand_over():
            for each in range(frame, frame + count):
                self.owners[each] = target.owner
            target.slots[to] = ('region', at[1], at[2] + count) if at[0] == 'region' else ('region', frame, count)
        return wrong or {status.OK}, count, hand_over

    def take(self, vm, slot, region, to):
        wrong = set()
        target = self.other(vm, slot)
        if target is None or self.kind(target, region) != 'region':
            return {status.BAD_SLOT}, 0, None
        if target.state != ENDED:
            wrong.add(status.BAD_STATE)
        start, size = target.slots[region][1:]
        count = min(size, call.BATCH)
        frame = start + size - count
        mine = vm.slots.get(to, ('empty',))
        if to >= call.SLOTS or mine[0] not in ('empty', 'region'):
            wrong.add(status.SLOT_IN_USE)
        elif mine[0] == 'region' and mine[1] != frame + count and not mine[1] <= frame <= frame + count <= mine[1] + mine[2]:
            wrong.add(status.SLOT_IN_USE)

        def come_back():
            for each in range(frame, frame + count):
                self.owners[each] = vm.owner
            if mine[0] == 'empty':
                vm.slots[to] = ('region', frame, count)
            elif mine[1] == frame + count:
                vm.slots[to] = ('region', frame, mine[2] + count)
            if size == count:
                del target.slots[region]
            else:
                target.slots[region] = ('region', start, size - count)
        return wrong or {status.OK}, size - count, come_back

    def vcpu_create(self, vm, slot, to, core, name):
        """The box has one core."""
        target = self.other(vm, slot)
        if target is None:
            return {status.BAD_SLOT}, 0, None
        wrong = set()
        if target.state != NEW:
            wrong.add(status.BAD_STATE)
        if to >= call.SLOTS or self.kind(target, to) != 'empty':
            wrong.add(status.SLOT_IN_USE)
        if len(target.vcpus) == VCPUS_PER_VM or sum(len(each.vcpus) for each in self.vms.values()) == VCPUS:
            wrong.add(status.NO_ROOM)
        if core != 0 or name >= MAX_VMS:
            wrong.add(status.BAD_RANGE)

        def make():
            target.slots[to] = ('vcpu', len(target.vcpus))
            target.vcpus.append(False)
        return wrong or {status.OK}, 0, make

    def ring_create(self, vm, sender_slot, sender_at, receiver_slot, receiver_at):
        sender, receiver = self.named(vm, sender_slot), self.named(vm, receiver_slot)
        if vm.number or sender is None or receiver is None or sender is receiver:
            return {status.BAD_SLOT}, 0, None
        wrong = set()
        if ENDED in (sender.state, receiver.state):
            wrong.add(status.BAD_STATE)
        for end, at in ((sender, sender_at), (receiver, receiver_at)):
            if at >= call.SLOTS or self.kind(end, at) != 'empty':
                wrong.add(status.SLOT_IN_USE)
        if sum(1 for each in self.vms.values() for slot in each.slots.values() if slot[0] == 'sender') == RINGS:
            wrong.add(status.NO_ROOM)

        def make():
            ring = Ring(sender, sender_at, receiver, receiver_at)
            sender.slots[sender_at] = ('sender', ring)
            receiver.slots[receiver_at] = ('receiver', ring)
        return wrong or {status.OK}, 0, make

    def start(self, vm, slot, entry, stack, argument):
        target = self.other(vm, slot)
        if target is None:
            return {status.BAD_SLOT}, 0, None
        wrong = set()
        if target.state != NEW:
            wrong.add(status.BAD_STATE)
        if entry >= TASK_END:
            wrong.add(status.BAD_ADDRESS)

        def go():
            target.state, target.activity = RUNNING, READY
            target.owes = bool(target.vcpus)
        return wrong or {status.OK}, 0, go

    def stop(self, vm, slot, how, detail):
        target = self.named(vm, slot)
        if target is None:
            return {status.BAD_SLOT}, 0, None
        if target is vm:
            allowed = how in ending.VMM_MAY_SAY
            return {None}, 0, lambda: self.end(vm, how if allowed else ending.VMM_BAD_ANSWER, detail if allowed else 14)
        if target.state != ENDED:
            if how not in ending.MANAGER_MAY_SAY:
                return {status.BAD_STATE}, 0, None
            return {status.OK}, 0, lambda: self.end(target, how, detail)
        if any(entry[0] == 'region' for entry in target.slots.values()):
            return {status.IN_USE}, 0, None
        return {status.OK}, 0, lambda: self.release(vm, target, slot)

    def release(self, vm, target, slot):
        for entry in list(target.slots.values()):
            if entry[0] in ('sender', 'receiver'):
                ring = entry[1]
                del ring.sender.slots[ring.sender_slot]
                del ring.receiver.slots[ring.receiver_slot]
        self.hand_over(target.run, vm.owner)
        del self.vms[target.number]
        del vm.slots[slot]

    def inspect(self, vm, slot):
        target = self.other(vm, slot)
        if target is None:
            return {status.BAD_SLOT}, 0, None
        return {status.OK}, target.state, lambda: None

    def vcpu_run(self, vm, slot):
        if self.kind(vm, slot) != 'vcpu':
            return {status.BAD_SLOT}, 0, None

        def run():
            vm.vcpus[vm.slots[slot][1]] = True
            vm.owes = False
            if not vm.signals:
                vm.activity = IN_RUN
        if vm.signals:
            return {status.OK}, call.REASON_SIGNAL, run
        return {None}, 0, run

    def vcpu_read(self, vm, slot):
        """No exit is ever outstanding here."""
        return {status.BAD_SLOT if self.kind(vm, slot) != 'vcpu' else status.BAD_STATE}, 0, None
