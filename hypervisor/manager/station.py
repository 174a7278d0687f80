"""The manager of a core that was started: its VMs' console bytes, keys and ends go over the link to the first core's manager.

It has no port. What does not fit into the link waits, in the end in the VM's ring and so in the VM.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.hw.task import rdtsc
from hypervisor.lib import call
from hypervisor.manager import config
from hypervisor.manager.keeper import IDLE_MS, POLL_MS, Keeper
from hypervisor.manager.post import NOTHING, Post
from hypervisor.manager.vm import AWAITED, CLOSING, ENDED, RUNNING
from hypervisor.spec import core, ending, exit, layout, link, status
from hypervisor.spec.call import SLOT_SELF
from hypervisor.spec.config import MAX_VMS
from hypervisor.spec.vcpu import RING_BYTES

PAGE = r_uint(layout.TASK_PAGE)


class Keys(object):
    """Typed bytes that a VM is being offered."""

    def __init__(self):
        self.bytes = [0] * link.MOST_BYTES
        self.count = 0


class Station(Keeper):
    def __init__(self, box, vms):
        Keeper.__init__(self, box, vms)
        self.post = Post(core.FIRST)
        self.keys = [Keys() for _ in range(MAX_VMS)]
        self.begun = False

    def run(self):
        """Does not return: what the VMs have had is taken back, and nobody asks for more."""
        self.post.start()
        while not self.post.broken:
            self.turn()
        while call.wait(r_uint(0)) == status.OK:
            pass

    def turn(self):
        """Everything once. Then wait, unless there is more to do."""
        heard = self.take_message()
        more = self.serve_all() or heard
        self.post.pump()
        call.wait(r_uint(1) if more else self.wake_up())
        self.signals = call.value()
        self.handle_ends()
        self.join_all()
        self.enforce_limits()

    def wake_up(self):
        """When something is to be looked at though nobody has rung; 0: never. Each time costs a guest that has this core to itself an exit."""
        poll = self.box.tsc_khz * r_uint(POLL_MS)
        nap = max(self.spare, poll)         # nobody has more than the whole core
        if self.post.out_count > 0:
            nap = poll
        for n in range(self.count):
            if self.keys[n].count > 0:
                nap = poll
            elif self.vms[n].branch == AWAITED:
                nap = min(nap, self.box.tsc_khz * r_uint(IDLE_MS))
        if nap == ~r_uint(0):
            return r_uint(0)
        return rdtsc() + nap

    # -- from the first core's manager

    def take_message(self):
        """Handle one message. Returns whether there was one."""
        kind = self.post.next()
        if kind == link.BEGIN:
            self.begin()
        elif kind == link.KEYS:
            self.take_keys(self.post.vm)
        return kind != NOTHING

    def begin(self):
        """Create this core's VMs, once. A core whose manager refuses the configuration stops: VMs of other cores would wait for the
        vCPUs that they have here."""
        if self.begun:
            return
        self.begun = True
        self.box.clock.seconds = intmask(self.post.word(link.WALL['SECONDS']))
        self.box.clock.tsc = self.post.word(link.WALL['TSC'])
        running = self.post.word(link.WALL['CORES'])
        self.config.core = self.box.core
        code = self.read_config()
        if code != config.OK:
            self.post.begin(link.REFUSED, 0, 8)
            self.post.put_word(r_uint(code))
            self.post.pump()
            call.stop(SLOT_SELF, ending.NOT_STARTED, r_uint(code))
            return
        self.forget_all()
        for n in range(self.count):
            self.keys[n].count = 0
        self.make_all(running)

    def take_keys(self, index):
        if index >= self.count:
            return
        keys = self.keys[index]
        keys.count = self.post.length
        for n in range(keys.count):
            keys.bytes[n] = self.post.byte(n)

    # -- this core's VMs

    def serve_all(self):
        """Serve each VM. Returns whether one of them has more to do at once."""
        more = False
        for n in range(self.count):
            vm = self.vms[n]
            if vm.state == RUNNING:
                self.send_keys(vm)
                more = self.receive(vm) or more
            elif vm.state == CLOSING:
                more = self.close(vm) or more
            elif vm.state == ENDED:
                self.recalls[n].step(vm)
                more = True
        return more

    def send_keys(self, vm):
        """Offer the VM its keys, and say how many it has taken."""
        keys = self.keys[vm.index]
        if keys.count == 0 or not self.post.has_room(8):
            return
        for n in range(keys.count):
            memory.store8(PAGE + r_uint(n), r_uint(keys.bytes[n]))
        if call.ring_send(vm.input, keys.count) != status.OK or call.value() == r_uint(0):
            return
        taken = call.value()
        keys.count = 0
        self.post.begin(link.TAKEN, vm.index, 8)
        self.post.put_word(taken)

    def receive(self, vm):
        """Pass on one load of the VM's bytes, if there is room for it. Returns whether there was one."""
        if not self.post.has_room(RING_BYTES) or call.ring_receive(vm.output) != status.OK:
            return False
        count = intmask(call.value())
        if count <= 0 or count > RING_BYTES:
            return False
        self.post.begin(link.OUTPUT, vm.index, count)
        for n in range(count):
            self.post.put(intmask(memory.load8(PAGE + r_uint(n))))
        self.post.pump()
        return True

    def end(self, vm):
        vm.state = CLOSING

    def close(self, vm):
        """Pass on what an ended VM has said, then say that it has ended. Returns whether something of that was done."""
        if self.receive(vm):
            return True
        if not self.post.has_room(max(RING_BYTES, link.END['END'])):
            return False                # nor was there for what it may have said
        self.announce(vm)
        vm.state = ENDED
        return True

    def announce(self, vm):
        self.post.begin(link.ENDED, vm.index, link.END['END'])
        self.post.put_word(r_uint(vm.how))
        self.post.put_word(vm.detail)
        self.post.put_word(vm.started)
        self.post.put_word(vm.ended)
        self.post.put_word(vm.ticks)
        self.post.put_word(vm.vmm_ticks)
        for kind in range(exit.COUNT):
            self.post.put_word(vm.exits[kind])


