"""Arbitrary and hostile kernel calls of the manager and of VMMs, against a model in dicts, with the page tables walked after each."""
import random
import struct

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.scheduler import scheduler
from hypervisor.spec import call, ending, status
from hypervisor.spec.layout import BOOT_PAGE, TASK_BASE, TASK_END, TASK_PAGE, VCPU_PAGE
from hypervisor.spec.vcpu import INSPECT
from tests.unit.kernel import audit
from tests.unit.kernel.memory import PAGE
from tests.unit.kernel.model import ENDED, KERNEL_PAGES, NEW, READY, RUNNING, WAITING, Model

HUGE = [1 << 32, 1 << 52, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
MEMORY = call.SLOT_MEMORY
VMS = [call.SLOT_MANAGER_FREE, call.SLOT_MANAGER_FREE + 1, call.SLOT_MANAGER_FREE + 2]
RUNS = dict((slot, 8192 + KERNEL_PAGES * slot) for slot in VMS)      # frames of MEMORY that become the kernel's


draws = st.integers(0, 31)
who = st.integers(0, 5)
manager = st.sampled_from([0, 0, 0, 0, 0, 1])


def pick(draw, usual, hostile):
    """Two times in three what may work, else what should not."""
    if draw < 21 and usual:
        return usual[draw % len(usual)]
    return hostile[draw % len(hostile)]


SLOT_NUMBERS = [0, 1, MEMORY, 3, 8, 9, 16, 63, 64, 65] + HUGE
FIRSTS = [511, 513, 1023, 13293, 13292, 13294, (1 << 64) - 512] + HUGE
COUNTS = [0, 5, 511, 513] + HUGE
TASK_ADDRESSES = [TASK_BASE, TASK_BASE + PAGE, 0x40000000, 0x40001000, 0x401ff000, 0x40200000]
ADDRESSES = [0, PAGE, 0x1ff000, 0x200000, TASK_BASE + 1, BOOT_PAGE, TASK_PAGE, TASK_PAGE - PAGE * 2, VCPU_PAGE, VCPU_PAGE + PAGE, 0x70000000 - PAGE,
             VCPU_PAGE + 15 * PAGE, VCPU_PAGE + 16 * PAGE, TASK_END - PAGE, TASK_END, TASK_END - 0x200000, 1 << 46, (1 << 46) - PAGE, 1 << 47, 0xffffffff80101000,
             0xffffffffc0000000, 0xfffffffffffff000, (1 << 64) - 0x200000] + HUGE
RIGHTS = [2, 4, 6, 7, 10, 12, 13, 14, 16, 17, 1 << 32 | 1, (1 << 64) - 1, (1 << 64) - 8]
PORTS = [0xfffc, 0xfffd, 0xffff] + HUGE
words = st.one_of(st.integers(0, 16), st.sampled_from(HUGE), st.integers(0, (1 << 64) - 1))


class Calls(RuleBasedStateMachine):
    """caller picks among the tasks that are ready."""
    box = None              # set by the test: makes a box that has just booted

    def __init__(self):
        RuleBasedStateMachine.__init__(self)
        self.machine = self.fresh()
        manager = compartments[0]
        slots = dict((slot, (int(manager.first[slot]), int(manager.second[slot]))) for slot in range(call.SLOTS) if manager.kinds[slot] == 1)
        self.model = Model(audit.owners(self.machine), slots, {})
        self.model.vms[0].task = self.seen_pages(audit.check(self.machine), 0, 'task')
        self.compared = None
        self.page_bytes = bytes(bytearray(n * 7 % 251 for n in range(PAGE)))

    # The calls, made and followed

    def caller(self, index):
        ready = [vm for _, vm in sorted(self.model.vms.items()) if vm.activity == READY]
        return ready[index % len(ready)] if ready else None

    def make(self, vm, which, arguments, right, value, change):
        """Make the call; compare the answer with what is right; change the model when it was OK or does not return."""
        answer = self.machine.kernel_call(vm.number, which, *arguments)
        code = None if answer is None else answer[0]
        if code == status.NO_MEMORY and status.OK in right and code not in right:
            assert any(self.nearly_empty(number) for number in self.model.vms), 'out of pages too early'
            return answer
        assert code in right, '%s%r of %d answers %s, right would be %s' % (
            call.TABLE[which][1], arguments, vm.number, status.NAMES.get(code), [status.NAMES.get(w) for w in right])
        if code == status.OK:
            assert answer[1] == value, 'value %d, right would be %d' % (answer[1], value)
        if code in (status.OK, None):
            change()
        return answer

    def nearly_empty(self, number):
        """May the kernel say NO_MEMORY? What one call needs is at most root, areas, VMCB and their tables."""
        return compartments[number].pages_left() < 10

    def seen_pages(self, reach, number, kind):
        """The tables as the model writes them, without the kernel's own pages."""
        seen = {}
        for page in reach.spaces.get((number, kind), []):
            if page.user and not (kind == 'task' and TASK_PAGE <= page.address < VCPU_PAGE + 16 * PAGE):
                for n in range(page.frames):
                    seen[page.address // PAGE + n] = (page.frame + n, page.writable, page.executable)
        return seen

    def large(self, number, guest):
        pages = self.reach.spaces.get((number, 'nested' if guest else 'task'), [])
        return set(page.address // PAGE for page in pages if page.frames == 512)

    @initialize(sizes=st.lists(st.sampled_from([1, 3, 512, 513]), min_size=2, max_size=2))
    def two_vms(self, sizes):
        """Something to begin with; everything after this is arbitrary."""
        self.reach = audit.check(self.machine)
        manager, first = self.model.vms[0], 0
        for slot, size in zip(VMS, sizes):
            arguments = (slot, MEMORY, RUNS[slot], KERNEL_PAGES)
            self.make(manager, call.CREATE, arguments, *self.model.create(manager, *arguments))
            for done in range(0, size, call.BATCH):
                arguments = (slot, MEMORY, first + done, min(size - done, call.BATCH), 2)
                self.make(manager, call.GIVE, arguments, *self.model.give(manager, *arguments))
            self.make(manager, call.VCPU_CREATE, (slot, 16, 0, 0), *self.model.vcpu_create(manager, slot, 16, 0, 0))
            arguments = (slot, 8, call.SLOT_SELF, 48 + slot % 8)
            self.make(manager, call.RING_CREATE, arguments, *self.model.ring_create(manager, *arguments))
            self.make(manager, call.START, (slot, TASK_BASE, 0, 0), *self.model.start(manager, slot, TASK_BASE, 0, 0))
            first += 1024
        self.check()

    def vm_slot(self, draw, states=(NEW, RUNNING, ENDED)):
        """The manager's slot of a VM in one of these states, mostly."""
        vms = [vm for number, vm in sorted(self.model.vms.items()) if number]
        return pick(draw, [vm.slot for vm in vms if vm.state in states], [vm.slot for vm in vms] + VMS + SLOT_NUMBERS)

    def slots_of(self, vm, kind):
        return sorted(slot for slot, entry in vm.slots.items() if entry[0] == kind)

    def target(self, vm, draw):
        """The compartment argument of MAP: itself, or for the manager also a VM."""
        if vm.number or draw % 3 == 0:
            return pick(draw, [0], SLOT_NUMBERS)
        return self.vm_slot(draw, (NEW, RUNNING))

    @rule(who=who, compartment=draws, region=draws, first=draws, address=draws, count=draws, right=draws)
    def map(self, who, compartment, region, first, address, count, right):
        vm = self.caller(who)
        if vm is None:
            return
        compartment = self.target(vm, compartment)
        target = self.model.named(vm, compartment)
        right = pick(right, [1, 3, 5, 9, 11, 15, 0, 8], RIGHTS)
        first = pick(first, [0, 0, 512, 1, 1024, 3], FIRSTS)
        count = pick(count, [1, 2, 3, 512], COUNTS)
        if first % 512 and count > 500:
            count = 600                     # many small pages are slow: only where nothing comes of it
        arguments = (compartment, pick(region, self.slots_of(target or vm, 'region'), SLOT_NUMBERS), first,
                     pick(address, TASK_ADDRESSES, ADDRESSES), count, right)
        wrong = self.model.map_wrong(vm, *arguments)
        large = self.large(target.number, right & call.GUEST) if target is not None else set()
        code, done = self.machine.kernel_call(vm.number, call.MAP, *arguments)
        if wrong:
            assert code in wrong, 'MAP%r answers %s, right would be %s' % (arguments, status.NAMES[code], [status.NAMES[w] for w in wrong])
            assert done == 0
        elif right & ~call.GUEST == 0:
            self.model.unmapped(vm, compartment, arguments[3], count, right, code, done, large)
        else:
            self.model.mapped(vm, *(arguments + (code, done, self.nearly_empty(target.number))))
        self.check()

    @rule(who=who, step=st.integers(1, 40), count=st.integers(10, 60))
    def map_far_apart(self, who, step, count):
        """Each page needs tables of its own: the account runs empty."""
        vm = self.caller(who)
        if vm is None or step > 3:
            return
        for n in range(count):
            arguments = (0, MEMORY, 0, 0x100000000 + (n * step << 30) + (n << 21), 1, call.READ)
            wrong = self.model.map_wrong(vm, *arguments)
            code, done = self.machine.kernel_call(vm.number, call.MAP, *arguments)
            if wrong:
                assert code in wrong
                return
            self.model.mapped(vm, *(arguments + (code, done, self.nearly_empty(vm.number))))
        self.check()

    @rule(draw=draws, who=manager, region=draws, first=draws, count=draws)
    def create(self, draw, who, region, first, count):
        self.plain(who, call.CREATE, self.model.create, pick(draw, VMS, SLOT_NUMBERS), pick(region, [MEMORY], SLOT_NUMBERS),
                   pick(first, sorted(RUNS.values()) + [0, 1024], FIRSTS), pick(count, [KERNEL_PAGES, KERNEL_PAGES, 40, 13, 1], COUNTS + [KERNEL_PAGES + 1]))

    @rule(who=manager, slot=draws, region=draws, first=draws, count=draws, to=draws)
    def give(self, who, slot, region, first, count, to):
        self.plain(who, call.GIVE, self.model.give, self.vm_slot(slot, (NEW, RUNNING)), pick(region, self.slots_of(self.model.vms[0], 'region'), SLOT_NUMBERS),
                   pick(first, [0, 1, 2, 3, 512, 1024, 1536], FIRSTS), pick(count, [1, 2, 511, 512], COUNTS), pick(to, [1, 2, 3], SLOT_NUMBERS))

    @rule(who=manager, slot=draws, region=draws, to=draws)
    def take(self, who, slot, region, to):
        slot = self.vm_slot(slot, (ENDED,))
        target = self.model.named(self.model.vms[0], slot)
        self.plain(who, call.TAKE, self.model.take, slot, pick(region, self.slots_of(target, 'region') if target else [], SLOT_NUMBERS),
                   pick(to, [MEMORY, 50, 51], SLOT_NUMBERS))

    @rule(who=manager, slot=draws, to=draws, core=draws, name=draws)
    def vcpu_create(self, who, slot, to, core, name):
        self.plain(who, call.VCPU_CREATE, self.model.vcpu_create, self.vm_slot(slot, (NEW,)), pick(to, [16, 17, 18, 19, 20], SLOT_NUMBERS),
                   pick(core, [0], [1, 7, 8] + HUGE), pick(name, [0, 7], [8] + HUGE))

    @rule(who=manager, a=draws, at=draws, b=draws, to=draws)
    def ring_create(self, who, a, at, b, to):
        a = 0 if a > 24 else self.vm_slot(a, (NEW, RUNNING))
        b = 0 if b > 24 else self.vm_slot(b, (NEW, RUNNING))
        self.plain(who, call.RING_CREATE, self.model.ring_create, a, pick(at, [8, 9, 10, 52], SLOT_NUMBERS), b, pick(to, [8, 9, 11, 53], SLOT_NUMBERS))

    @rule(who=manager, slot=draws, entry=draws, stack=words)
    def start(self, who, slot, entry, stack):
        self.plain(who, call.START, self.model.start, self.vm_slot(slot, (NEW,)),
                   pick(entry, [TASK_BASE], [0, TASK_END - 1, TASK_END, 1 << 47] + HUGE), stack, 7)

    @rule(who=who, slot=draws, how=draws, detail=words)
    def stop(self, who, slot, how, detail):
        vm = self.caller(who)
        if vm is None:
            return
        slot = pick(slot, [0], SLOT_NUMBERS) if vm.number else self.vm_slot(slot)
        if vm.number or self.model.named(vm, slot) is not vm:
            how = pick(how, [ending.EXITED, ending.DESTROYED, ending.NOT_STARTED], list(range(33)) + HUGE)
            self.plain(who, call.STOP, self.model.stop, slot, how, detail)

    @rule(draw=draws)
    def end_and_take_back(self, draw):
        """What the manager does with a VM that has ended, whole."""
        manager = self.model.vms[0]
        slot = self.vm_slot(draw)
        target = self.model.other(manager, slot)
        if manager.activity != READY or target is None:
            return
        if target.state != ENDED:
            self.make(manager, call.STOP, (slot, ending.DESTROYED, 0), *self.model.stop(manager, slot, ending.DESTROYED, 0))
        for region in self.slots_of(target, 'region'):
            while region in target.slots:
                to = self.slot_to_take_to(slot, region)
                answer = self.make(manager, call.TAKE, (slot, region, to), *self.model.take(manager, slot, region, to))
                assert answer[0] == status.OK
        self.make(manager, call.STOP, (slot, 0, 0), *self.model.stop(manager, slot, 0, 0))
        self.check()

    def slot_to_take_to(self, slot, region):
        """Memory, if the frames came from there; else another region of the manager's that they came from; else an empty slot."""
        manager = self.model.vms[0]
        for to in [MEMORY] + self.slots_of(manager, 'region') + list(range(call.SLOTS)):
            if status.OK in self.model.take(manager, slot, region, to)[0]:
                return to
        raise AssertionError('the manager has no slot left')

    @rule(who=who, draw=draws)
    def inspect(self, who, draw):
        vm = self.caller(who)
        if vm is None:
            return
        slot = self.vm_slot(draw)
        answer = self.make(vm, call.INSPECT, (slot,), *self.model.inspect(vm, slot))
        if answer[0] == status.OK:
            target = self.model.named(vm, slot)
            page = self.task_page(vm)
            values = [struct.unpack_from('<Q', page, INSPECT[name])[0] for name in ('STATE', 'HOW', 'DETAIL')]
            assert values == [target.state, target.how, target.detail]

    @rule(who=who, slot=draws, count=draws, times=st.integers(1, 3))
    def ring_send(self, who, slot, count, times):
        vm = self.caller(who)
        if vm is None:
            return
        for n in range(times):
            if vm.activity == READY:
                self.page_bytes = self.page_bytes[1:] + self.page_bytes[:1]
                self.machine.memory.put(int(compartments[vm.number].task.page_hpa), self.page_bytes)
                arguments = (pick(slot, self.slots_of(vm, 'sender'), SLOT_NUMBERS), pick(count, [1, 7, 2048, 2047], [0, 2049] + HUGE))
                self.make(vm, call.RING_SEND, arguments, *self.model.ring_send(vm, *(arguments + (self.page_bytes,))))
        self.check()

    @rule(who=who, draw=draws)
    def ring_receive(self, who, draw):
        vm = self.caller(who)
        if vm is None:
            return
        slot = pick(draw, self.slots_of(vm, 'receiver'), SLOT_NUMBERS)
        answer = self.make(vm, call.RING_RECEIVE, (slot,), *self.model.ring_receive(vm, slot))
        if answer[0] == status.OK:
            assert self.task_page(vm)[:answer[1]] == vm.received
        self.check()

    @rule(who=who, slot=draws, port=st.one_of(st.integers(0, 0xffff), st.sampled_from(PORTS)), size=draws)
    def port(self, who, slot, port, size):
        vm = self.caller(who)
        if vm is None:
            return
        slot, size = pick(slot, [1], SLOT_NUMBERS), pick(size, [1, 2, 4], [0, 3, 8] + HUGE)
        del self.machine.cpu.output[:]
        right = self.model.port(vm, slot, port, size)
        code, _ = self.machine.kernel_call(vm.number, call.PORT_OUT, slot, port, size, 0x12345678)
        assert code in right
        assert bool(self.machine.cpu.output) == (code == status.OK)
        code, _ = self.machine.kernel_call(vm.number, call.PORT_IN, slot, port, size)
        assert code in right

    @rule(who=st.integers(1, 3), draw=draws, groups=words, read=st.booleans())
    def vcpu(self, who, draw, groups, read):
        vm = self.caller(who)
        if vm is None:
            return
        slot = pick(draw, self.slots_of(vm, 'vcpu'), SLOT_NUMBERS)
        if read:
            self.make(vm, call.VCPU_READ, (slot, groups), *self.model.vcpu_read(vm, slot))
        else:
            self.make(vm, call.VCPU_RUN, (slot, 0), *self.model.vcpu_run(vm, slot))
        self.check()

    @rule(who=who, draw=draws, offset=st.one_of(st.integers(0, 63).map(lambda n: 16 * n), words), write=st.integers(0, 1), value=words)
    def apic(self, who, draw, offset, write, value):
        """Any register and any interrupt, of vCPUs that sleep or run; who may ask is all that the model knows."""
        vm = self.caller(who)
        if vm is None:
            return
        slot = pick(draw, self.slots_of(vm, 'vcpu'), SLOT_NUMBERS)
        right = {status.BAD_SLOT} if self.model.kind(vm, slot) != 'vcpu' else {status.OK, status.BAD_RANGE}
        for which, arguments in ((call.VCPU_APIC, (slot, offset, write, value)), (call.VCPU_INTERRUPT, (slot, offset >> 4, value))):
            code, _ = self.machine.kernel_call(vm.number, which, *arguments)
            assert code in right
            wrong = offset % 16 or offset >= 0x400 if which == call.VCPU_APIC else offset >> 4 > call.INTERRUPT_RESET or value > 255
            assert (code == status.BAD_RANGE) == bool(wrong) or code == status.BAD_SLOT
        self.check()

    @rule(who=who, which=st.one_of(st.integers(call.COUNT, 40), st.sampled_from(HUGE)), a=words)
    def unknown(self, who, which, a):
        vm = self.caller(who)
        if vm is not None:
            assert self.machine.kernel_call(vm.number, which, a, a, a, a, a, a) == (status.BAD_CALL, 0)

    @rule(who=who, deadline=st.sampled_from([1, 2, 1 << 62, (1 << 64) - 1]))
    def wait(self, who, deadline):
        """The manager never waits for ever here; a VMM may."""
        self.plain(who, call.WAIT, self.model.wait, deadline)

    @precondition(lambda self: any(vm.activity == WAITING for vm in self.model.vms.values()))
    @rule()
    def time_passes(self):
        """A tick: everybody whose deadline is in the past wakes without a signal."""
        for vm in self.model.vms.values():
            if vm.activity == WAITING and int(compartments[vm.number].task.deadline) <= self.machine.cpu.tsc:
                self.model.wake(vm, 0)
        scheduler.tick()
        self.check()

    @precondition(lambda self: self.model.vms[0].activity != READY and not any(vm.number and vm.activity == READY for vm in self.model.vms.values()))
    @rule()
    def manager_wakes(self):
        """Nobody would ever do anything again."""
        compartments[0].signal(63)
        self.model.signal(self.model.vms[0], 63)
        self.check()

    def plain(self, who, which, model, *arguments):
        vm = self.caller(who)
        if vm is not None:
            self.make(vm, which, arguments, *model(vm, *arguments))
            self.check()

    # Looking

    def task_page(self, vm):
        return self.machine.memory.take(int(compartments[vm.number].task.page_hpa), PAGE)

    def check(self):
        """All invariants; the tables say what the model says."""
        self.reach = audit.check(self.machine)
        owners = audit.owners(self.machine)
        assert owners == self.model.owners, 'the owner table differs'
        for number, vm in self.model.vms.items():
            c = compartments[number]
            assert c.used and c.state == vm.state and int(c.signals) == sum(1 << s for s in vm.signals), 'state of %d' % number
            assert c.task.ready == (vm.activity == READY)
            if getattr(vm, 'woken', None):
                assert self.machine.result(number) == vm.woken
                vm.woken = None
        now = [(number, vm, vm.version, vm.state) for number, vm in self.model.vms.items()], self.reach.spaces, audit.owner_bytes(self.machine)
        if now != self.compared:
            self.compared = now
            self.check_mappings(owners)
        for c in compartments:
            assert c.used == (c.number in self.model.vms)

    def check_mappings(self, owners):
        uses = audit.uses(self.machine)
        expected = bytearray(len(uses))
        for number, vm in self.model.vms.items():
            if vm.state == ENDED:
                continue
            for kind, maps in (('task', vm.task), ('nested', vm.nested)):
                assert self.seen_pages(self.reach, number, kind) == maps, '%s space of %d' % (kind, number)
                for frame, _, _ in maps.values():
                    expected[frame] += 1
        if uses != expected:
            for frame in range(len(uses)):
                owner = self.model.vms.get(owners[frame] - 2)
                assert uses[frame] == expected[frame] or owner is not None and owner.state == ENDED, (
                    'frame %#x: %d uses counted, %d exist' % (frame, uses[frame], expected[frame]))


def test_any_calls_leave_every_frame_with_its_owner(fresh):
    """Short ones, which Hypothesis makes shorter still when one fails."""
    Calls.fresh = staticmethod(fresh)
    run_state_machine_as_test(Calls, settings(max_examples=25, stateful_step_count=25))


# rule: how often, and the largest value of each argument, or a list to choose from
SOME_WORDS = [0, 1, 3, 16, 0x123456789abcdef] + HUGE
WALK = {
    'map': (30, dict(who=5, compartment=31, region=31, first=31, address=31, count=31, right=31)), 'map_far_apart': (1, dict(who=5, step=3, count=60)),
    'create': (3, dict(draw=31, who=1, region=31, first=31, count=31)), 'give': (8, dict(who=0, slot=31, region=31, first=31, count=31, to=31)), 'take': (4, dict(who=0, slot=31, region=31, to=31)),
    'vcpu_create': (4, dict(who=0, slot=31, to=31, core=31, name=31)), 'ring_create': (3, dict(who=0, a=31, at=31, b=31, to=31)), 'start': (4, dict(who=0, slot=31, entry=31, stack=SOME_WORDS)),
    'stop': (3, dict(who=5, slot=31, how=31, detail=SOME_WORDS)), 'end_and_take_back': (1, dict(draw=31)), 'inspect': (2, dict(who=5, draw=31)),
    'ring_send': (6, dict(who=5, slot=31, count=31, times=3)), 'ring_receive': (4, dict(who=5, draw=31)), 'port': (3, dict(who=1, slot=31, port=[0, 0x3f8] + PORTS, size=31)),
    'vcpu': (2, dict(who=3, draw=31, groups=SOME_WORDS, read=1)), 'unknown': (1, dict(who=5, which=[call.COUNT, 40] + HUGE, a=SOME_WORDS)),
    'apic': (2, dict(who=5, draw=31, offset=[16 * n for n in range(65)] + SOME_WORDS, write=1, value=[0x20, 255, 256] + SOME_WORDS)),
    'wait': (3, dict(who=5, deadline=[1, 2, 1 << 62, (1 << 64) - 1])),
}
NAMES = [name for name, (often, _) in sorted(WALK.items()) for _ in range(often)]


@pytest.mark.parametrize('seed', list(range(60)) + [83])
def test_long_random_walk_leaves_every_frame_with_its_owner(fresh, seed):
    """Many calls one after the other, so that mappings, rings and owners get old. The seed tells it all again."""
    Calls.fresh = staticmethod(fresh)
    rng = random.Random(seed)
    walk, steps = Calls(), []
    walk.two_vms([rng.choice([3, 512, 513, 1024]) for _ in range(2)])
    try:
        for _ in range(90):
            vms = walk.model.vms.values()
            if walk.model.vms[0].activity != READY:
                if any(vm.activity == WAITING for vm in vms) and rng.randint(0, 1):
                    walk.time_passes()
                elif not any(vm.activity == READY for vm in vms) or rng.randint(0, 2) == 0:
                    walk.manager_wakes()
            name = rng.choice(NAMES)
            arguments = dict((key, rng.choice(most) if isinstance(most, list) else rng.randint(0, most)) for key, most in sorted(WALK[name][1].items()))
            steps.append((name, arguments))
            getattr(walk, name)(**arguments)
    except Exception:
        print('\n'.join('%s(%s)' % (name, ', '.join('%s=%r' % item for item in sorted(arguments.items()))) for name, arguments in steps))
        raise
