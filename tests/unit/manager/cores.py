"""Other cores for the fake kernel: each plays a script at the other end of its link, byte by byte as hypervisor/spec/link.py words it."""
import struct

from hypervisor.manager.frames import Box
from hypervisor.manager.station import Station
from hypervisor.manager.vm import Vm
from hypervisor.spec import boot, call, ending, exit, status, vcpu
from hypervisor.spec.config import MAX_VMS
from tests.unit.fake_kernel import PAGE, TSC_KHZ, FakeKernel

BEGIN, KEYS, OUTPUT, TAKEN, ENDED, REFUSED = 1, 2, 3, 4, 5, 6
ABSENT, RUNNING, DEAD = 0, 1, 2
CAPACITY = 4096
MEMORY = 24                     # of CORE_GIVE: no module
CORE_FRAMES = 1024


def message(kind, vm, data=b''):
    return struct.pack('<BBH', kind, vm, len(data)) + bytes(data)


def word(value):
    return struct.pack('<Q', value)


def ended(vm, how=1, detail=0, ticks=5000):
    return message(ENDED, vm, struct.pack('<4Q', how, detail, ticks, ticks // 2) + word(3) * exit.COUNT)


class Finished(Exception):
    """The script says that the test has seen enough."""


class Peer(object):
    """The other end, manager and kernel. script: ('say', bytes) in whole messages or not; ('hear', n) waits until n messages have come in
    all; ('sleep', ms); ('until', f) waits for f(peer); ('die', text); ('do', f); ('finish',); ('offer', vm[, status]): what its VM has here may be fetched, or that fails;
    ('end', vm): the VM has ended, and what it has here with it."""

    def __init__(self, core, script=(), answers=True):
        self.core, self.script, self.answers = core, list(script), answers
        self.state, self.text = ABSENT, b''
        self.inbox, self.outbox = bytearray(), bytearray()
        self.wants_room = False     # the manager has more than fitted
        self.deaf = False           # takes nothing
        self.heard = []             # (kind, vm, data)
        self.given = []             # (module, first frame, count, bytes)
        self.steps = []
        self.wake = 0
        self.offers = {}            # VM -> what the first JOIN for it comes to
        self.told = []              # (vm, how, detail): branches that this core has stopped
        self.offered = []           # VMs that were started and have vCPUs there

    def hear(self):
        if self.wants_room and not self.deaf and self.inbox:
            self.wants_room = False
            self.tell()
        while not self.deaf and len(self.inbox) >= 4:
            kind, vm, length = struct.unpack('<BBH', bytes(self.inbox[:4]))
            assert kind in (BEGIN, KEYS, OUTPUT, TAKEN, ENDED, REFUSED) and length <= vcpu.RING_BYTES
            if len(self.inbox) < 4 + length:
                return
            self.heard.append((kind, vm, bytes(self.inbox[4:4 + length])))
            del self.inbox[:4 + length]

    def tell(self):
        self.kernel.manager.signals |= 1 << (call.SLOT_LINK + self.core)

    def act(self):
        """One step of the script, if one can be done now."""
        self.hear()
        if not self.script or self.wake > self.kernel.now:
            return False
        action = self.script[0]
        if action[0] == 'say':
            taken = min(len(action[1]), CAPACITY - len(self.outbox))
            self.outbox += action[1][:taken]
            self.script[0] = ('say', action[1][taken:])
            if taken:
                self.tell()
            if self.script[0][1]:
                return taken > 0
        elif action[0] == 'hear' and len(self.heard) < action[1] or action[0] == 'until' and not action[1](self):
            return False
        self.script.pop(0)
        if action[0] == 'sleep':
            self.wake = self.kernel.now + int(action[1] * TSC_KHZ)
        elif action[0] == 'die':
            self.state, self.text, self.script = DEAD, action[1], []
            for core, name in list(self.kernel.branches):
                if core == self.core:
                    self.kernel.end_branch(self, name)
            self.tell()
        elif action[0] == 'offer':
            self.offers[action[1]] = action[2] if len(action) > 2 else status.OK
            self.tell()
        elif action[0] == 'end':
            self.kernel.end_branch(self, action[1])
        elif action[0] == 'do':
            action[1](self)
        elif action[0] == 'finish':
            raise Finished()
        return True


class CoresKernel(FakeKernel):
    """peers: the other cores, by number. core: the one that the manager is on."""

    def __init__(self, *arguments, **options):
        peers = options.pop('peers', ())
        self.core = options.pop('core', 0)
        self.owning = options.pop('owning', 0)
        self.peers = dict((peer.core, peer) for peer in peers)
        self.branches = {}          # (core, VM) -> Compartment
        self.asked = []             # (slot, core, VM) of each JOIN
        FakeKernel.__init__(self, *arguments, **options)
        for peer in peers:
            peer.kernel = self
        if self.core:
            del self.manager.slots[call.SLOT_PORTS]

    def manager_boot_page(self):
        page = FakeKernel.manager_boot_page(self)
        for name, value in (('CORE', self.core), ('CORES', len(self.peers) + 1), ('CORE_FRAMES', CORE_FRAMES), ('OWNING', self.owning)):
            struct.pack_into('<Q', page, boot.MANAGER[name], value)
        return page

    def run_others(self):
        did = FakeKernel.run_others(self)
        for peer in self.peers.values():
            if peer.state == RUNNING:
                did = peer.act() or did
        return did

    def advance(self, deadline):
        assert self.now < 100000 * TSC_KHZ, 'the box never goes off'
        moments = [peer.wake for peer in self.peers.values() if peer.state == RUNNING and peer.script and peer.wake > self.now]
        FakeKernel.advance(self, min(moments + [deadline]) if deadline else min(moments) if moments else 0)

    def do_ring_send(self, slot, count):
        peer = self.peers.get(slot - call.SLOT_LINK)
        if peer is None:
            return FakeKernel.do_ring_send(self, slot, count)
        if count > vcpu.RING_BYTES:
            return status.BAD_SIZE
        taken = min(count, CAPACITY - len(peer.inbox))
        peer.inbox += self.memory.read(0x70001000, taken)
        peer.wants_room = taken < count
        return status.OK, taken

    def do_ring_receive(self, slot):
        peer = self.peers.get(slot - call.SLOT_LINK)
        if peer is None:
            return FakeKernel.do_ring_receive(self, slot)
        data = bytes(peer.outbox[:vcpu.RING_BYTES])
        del peer.outbox[:vcpu.RING_BYTES]
        self.page_write(data)
        return status.OK, len(data)

    def has_core(self, core):
        return core == self.core or core in self.peers

    # -- VMs on several cores

    def do_start(self, slot, *arguments):
        answer = FakeKernel.do_start(self, slot, *arguments)
        if answer == status.OK:
            for core, name in sorted(set(self.look(slot, 'compartment').places)):
                if core != self.core:
                    self.peers[core].offered.append(name)
        return answer

    def do_join(self, slot, core, name, region, first, count):
        self.asked.append((slot, core, name))
        peer = self.peers.get(core)
        if peer is None or name >= MAX_VMS:
            return status.BAD_RANGE
        if not 0 <= slot < call.SLOTS or slot in self.current.slots:
            return status.BAD_SLOT
        if name not in peer.offers:
            return status.NOT_OFFERED
        answer = peer.offers.pop(name)
        if answer == status.OK:
            answer, run = self.take_run(region, first, count)
        if answer == status.OK:
            made = self.make_compartment()
            made.run = run
            made.state, made.watcher_slot, made.home = call.STATE_RUNNING, slot, (peer, name)
            self.current.slots[slot] = self.branches[core, name] = made
        return answer

    def do_stop(self, slot, how, detail):
        owner = self.look(slot, 'compartment')
        if owner not in self.branches.values():
            return FakeKernel.do_stop(self, slot, how, detail)
        if owner.state == call.STATE_ENDED:
            return self.release(slot, owner)
        peer, name = owner.home
        peer.told.append((name, how, detail))
        self.end(owner, how, detail)
        return status.OK

    def end_branch(self, peer, name):
        peer.offers.pop(name, None)
        branch = self.branches.get((peer.core, name))
        if branch is not None and branch.state == call.STATE_RUNNING:
            self.end(branch, ending.EXITED, 0)

    def startable(self, core):
        peer = self.peers.get(core)
        return peer if peer is not None and self.core == 0 else None

    def do_core_give(self, core, region_slot, first, count, module, size):
        peer, region = self.startable(core), self.look(region_slot, 'region')
        if peer is None or region is None or peer.steps:
            return status.BAD_SLOT
        if not 1 <= count <= call.BATCH or first + count > region.count or module > MEMORY:
            return status.BAD_RANGE
        frames = range(region.first + first, region.first + first + count)
        if any(self.owner[frame] is not self.manager for frame in frames):
            return status.NOT_OWNER
        if any(self.mapped.get(frame) for frame in frames):
            return status.IN_USE
        if module != MEMORY and not 0 < size <= count * PAGE:
            return status.BAD_SIZE
        for frame in frames:
            self.owner[frame] = peer
        peer.given.append((module, frames[0], count, size))
        return status.OK, count

    def do_core_start(self, core, step):
        peer = self.startable(core)
        if peer is None:
            return status.BAD_SLOT
        if step != 0 and not peer.steps:
            return status.BAD_STATE
        peer.steps.append((step, self.now))
        if len(peer.steps) == 3 and peer.answers:
            peer.state = RUNNING
            peer.tell()
        return status.OK

    def do_core_inspect(self, core):
        peer = self.peers.get(core)
        if peer is None:
            return status.BAD_SLOT
        self.page_write(word(len(peer.text)) + peer.text)
        return status.OK, peer.state

    def module_given(self, core, module):
        """The bytes of a module that a core was given."""
        out, size = b'', 0
        for number, first, count, part in self.peers[core].given:
            if number == module:
                out += b''.join(bytes(self.frame(first + n)) for n in range(count))
                size += part
        return out[:size]


def make_station(kernel):
    kernel.boot_manager()
    box = Box()
    box.read()
    return Station(box, [Vm(n) for n in range(MAX_VMS)])
