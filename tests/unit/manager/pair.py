"""Two cores, each with its real manager on a fake kernel of its own: what the one sends the other gets, offers and ends of VMs as well.

The managers run in threads of which one has the turn: it passes it on when it waits and nothing can happen on its core. Both have one clock.
"""
import threading

from hypervisor.hw import memory, task
from hypervisor.spec import call, status
from tests.unit.fake_kernel import BoxOff, Stuck
from tests.unit.manager.box import make_manager
from tests.unit.manager.cores import RUNNING, CoresKernel, Peer, make_station


class Over(Exception):
    """The box is off."""


class Bridge(Peer):
    """The other core as it looks from a kernel of the pair: no script, but a kernel."""
    kernel_there = None

    def act(self):
        return False

    def hear(self):
        """Its manager does."""


class Core(CoresKernel):
    """next: when something happens here by itself, None: never. lock: held while the turn is elsewhere."""

    def __init__(self, pair, number, *arguments, **options):
        self.pair, self.next, self.homes = pair, None, {}
        self.bridge = Bridge(1 - number)
        self.lock = threading.Semaphore(0)
        CoresKernel.__init__(self, *arguments, core=number, peers=[self.bridge], **options)

    def ring(self):
        """The doorbell of the other core."""
        there = self.bridge.kernel_there
        if there is not None:
            there.manager.signals |= 1 << (call.SLOT_LINK + self.core)

    def do_ring_send(self, slot, count):
        if slot == call.SLOT_LINK + self.bridge.core:
            self.ring()
        return CoresKernel.do_ring_send(self, slot, count)

    def do_ring_receive(self, slot):
        answer = CoresKernel.do_ring_receive(self, slot)
        if slot == call.SLOT_LINK + self.bridge.core and answer[1]:
            self.ring()             # there may be room again
        return answer

    def do_core_start(self, core, step):
        answer = CoresKernel.do_core_start(self, core, step)
        if self.bridge.state == RUNNING:
            self.pair.begin(self)
        return answer

    def do_start(self, slot, *arguments):
        answer = CoresKernel.do_start(self, slot, *arguments)
        for name in self.bridge.offered:
            owner = self.look(slot, 'compartment')
            if owner.places[0][1] == name:
                self.homes[name] = owner
                self.bridge.kernel_there.bridge.offers[name] = status.OK
                self.ring()
        return answer

    def do_stop(self, slot, how, detail):
        answer = CoresKernel.do_stop(self, slot, how, detail)
        while self.bridge.told:
            name, how, detail = self.bridge.told.pop()
            there = self.bridge.kernel_there
            there.end(there.homes[name], how, detail)
        return answer

    def end(self, owner, how, detail):
        CoresKernel.end(self, owner, how, detail)
        for name, home in self.homes.items():
            if home is owner:
                there = self.bridge.kernel_there
                there.end_branch(there.bridge, name)

    def advance(self, deadline):
        moments = [c.wake for c in self.compartments if c.state == call.STATE_RUNNING and c.script and c.wake > self.now]
        self.next = min(moments + [deadline] * (deadline > 0)) if moments or deadline else None
        self.pair.pass_on(self)


class Pair(object):
    """vms: as blob.make takes them; scripts: of the VMs. After run(): first, second: the kernels; managers: both; status."""

    def __init__(self, modules, scripts, regions=(8192,), seed=None):
        self.scripts, self.second, self.failure, self.seed = scripts, None, None, seed
        self.first = Core(self, 0, modules, regions=regions, scripts=scripts, seed=seed)
        self.managers = [make_manager(self.first), None]
        self.status = None

    def run(self):
        try:
            self.managers[0].run()
        except BoxOff as off:
            self.status = off.status
        finally:
            if self.second is not None:
                self.second.lock.release()
                self.thread.join(20)
        if self.failure is not None:
            raise self.failure
        text = bytes(self.first.uart.output)
        self.lines = text[:-2].split('\r\n')
        return self

    def begin(self, first):
        """Core 1 starts with what it was given."""
        given = [first.module_given(1, module) for module in range(call.MODULES)]
        frames = sum(count for module, _, count, _ in first.bridge.given if module == call.MODULES)
        second = self.second = Core(self, 1, given, regions=(frames,), scripts=self.scripts, seed=self.seed)
        second.now = first.now
        second.bridge.state = RUNNING
        second.bridge.inbox, second.bridge.outbox = first.bridge.outbox, first.bridge.inbox
        first.bridge.kernel_there, second.bridge.kernel_there = second, first
        second.next = second.now
        self.thread = threading.Thread(target=self.run_second)
        self.thread.daemon = True
        self.thread.start()

    def run_second(self):
        self.second.lock.acquire()
        try:
            if self.status is None:
                self.managers[1] = make_station(self.second)
                self.take_turn(self.second)
                self.managers[1].run()
        except Over:
            pass
        except BaseException as failure:
            self.failure = failure
            self.first.lock.release()

    def take_turn(self, core):
        task.fake.kernel, memory.fake = core, core.memory

    def pass_on(self, core):
        """Nothing can happen on `core` for now: let the other one go on, or else the clock."""
        other = self.second if core is self.first else self.first
        while True:
            for each in (other, core):
                if each is not None and (each.manager.signals or each.next is not None and each.next <= core.now):
                    each.now = max(each.now, core.now)
                    if each is other:
                        other.lock.release()
                        core.lock.acquire()
                        if self.status is not None or self.failure is not None:
                            raise Over()
                        self.take_turn(core)
                    return
            moments = [each.next for each in (core, other) if each is not None and each.next is not None]
            if not moments:
                raise Stuck()
            core.now = max(core.now + 1, min(moments))
            assert core.now < 100000 * 1000, 'the box never goes off'
