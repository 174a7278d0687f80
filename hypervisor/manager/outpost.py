"""Another core, as the first core's manager knows it: what it is given, how it is started, what its manager tells of its VMs.

It gets all that its VMs need in one stretch, with copies of the manager, the configuration and the VMM programs; images and modules are
given away as they are.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.hw.task import rdtsc
from hypervisor.lib import call
from hypervisor.manager.build import CORE_SILENT, MODULE_WINDOW, NO_FRAMES, WORK_WINDOW
from hypervisor.manager.frames import LARGE_FRAMES, frames_of
from hypervisor.manager.post import NOTHING, Post
from hypervisor.manager.vm import GONE, RUNNING
from hypervisor.spec import core as spec
from hypervisor.spec import ending, exit, layout, link, pages, status
from hypervisor.spec.call import BATCH, MODULES, READ, SLOT_MODULE, SLOT_SELF, WRITE
from hypervisor.spec.config import MODULE_CONFIG, MODULE_MANAGER

INIT_MS = 10                    # between INIT and the first STARTUP; Intel SDM Vol. 3A, "MP Initialization Example"
STARTUP_MS = 1                  # after a STARTUP
START_MS = 5000                 # until a core that says nothing counts as not started
LOOK_MS = 1                     # meanwhile
PROGRAM_FRAMES = LARGE_FRAMES   # of one VM beyond its memory: its VMM's image, stack and boot page

IDLE, READY, LOST = 0, 1, 2
R0 = r_uint(0)


class Outpost(object):
    """state: IDLE where no VM has a vCPU, READY when it was started, LOST when it could not be or has died.

    failure: why it could not be started, a status or a reason of build.py.
    unsure: it may have died without being noticed: the signal that says so may have come while the next core was being started."""

    def __init__(self, core, box, vms):
        self.core = core
        self.box = box
        self.vms = vms
        self.post = Post(core)
        self.state = IDLE
        self.failure = status.OK
        self.unsure = False
        self.in_flight = [False] * len(vms)     # KEYS of these VMs have not been answered

    # -- starting it

    def start(self, count):
        """Give the core what the first `count` VMs' records name for it, and set it going. Returns a status, or a reason of build.py."""
        self.post.start()
        self.state = LOST
        answer = self.give_all(count)
        if answer == status.OK:
            answer = call.core_start(self.core, spec.INIT)
        if answer == status.OK:
            self.pause(INIT_MS)
            call.core_start(self.core, spec.STARTUP)
            self.pause(STARTUP_MS)
            call.core_start(self.core, spec.STARTUP)
            answer = self.wait_for_it()
        if answer == status.OK:
            self.state = READY
            self.unsure = True
        return answer

    def begin(self, running):
        """Let its manager make its VMs. running: bit n for each core n that runs, this one among them."""
        self.post.begin(link.BEGIN, 0, link.WALL['END'])
        self.post.put_word(r_uint(self.box.clock.seconds))
        self.post.put_word(self.box.clock.tsc)
        self.post.put_word(running)
        self.post.pump()

    def pause(self, milliseconds):
        """Wait that long, whatever signals come meanwhile: processors need these times."""
        end = rdtsc() + self.box.tsc_khz * r_uint(milliseconds)
        while rdtsc() < end and call.wait(end) == status.OK:
            pass

    def wait_for_it(self):
        end = rdtsc() + self.box.tsc_khz * r_uint(START_MS)
        while rdtsc() < end:
            answer = call.core_inspect(self.core)
            if answer != status.OK:
                return answer
            state = intmask(call.value())
            if state == spec.RUNNING:
                return status.OK
            if state == spec.DEAD:
                break
            self.pause(LOOK_MS)
        return CORE_SILENT

    def give_all(self, count):
        """Its memory, then the modules. A VM that is at home elsewhere needs nothing of that here."""
        frames = self.box.frames
        need = self.box.core_frames
        for n in range(count):
            if self.vms[n].core == self.core:
                need += self.vms[n].ram_frames + PROGRAM_FRAMES
            if self.vms[n].is_on(self.core):
                need += pages.MOST
        need = (need + LARGE_FRAMES - 1) // LARGE_FRAMES * LARGE_FRAMES
        if not frames.find_ram(need):
            return NO_FRAMES
        answer = self.give(frames.found.region, frames.found.first, need, spec.MEMORY, 0)
        if answer == status.OK:
            answer = self.give_copy(MODULE_MANAGER)
        if answer == status.OK:
            answer = self.give_copy(MODULE_CONFIG)
        for n in range(count):
            if answer == status.OK and self.vms[n].core == self.core:
                answer = self.give_modules(self.vms[n], n)
        return answer

    def give_modules(self, vm, index):
        """The VM's program is copied unless an earlier VM of this core has brought it; the rest is its own."""
        answer = status.OK
        if not self.has_program(vm.vmm_module, index):
            answer = self.give_copy(vm.vmm_module)
        if answer == status.OK:
            answer = self.give_module(vm.image_module)
        for n in range(vm.module_count):
            if answer == status.OK:
                answer = self.give_module(vm.modules[n])
        return answer

    def has_program(self, module, index):
        for n in range(index):
            if self.vms[n].core == self.core and self.vms[n].vmm_module == module:
                return True
        return False

    def give_module(self, module):
        size = self.box.modules.bytes[module]
        return self.give(SLOT_MODULE + module, 0, frames_of(size), module, size)

    def give_copy(self, module):
        """A copy of a module, in frames of this manager's."""
        size = self.box.modules.bytes[module]
        count = frames_of(size)
        frames = self.box.frames
        if not frames.find(count):
            return NO_FRAMES
        region, first = frames.found.region, frames.found.first
        answer = call.map_all(SLOT_SELF, SLOT_MODULE + module, 0, MODULE_WINDOW, count, READ)
        if answer == status.OK:
            answer = call.map_all(SLOT_SELF, region, first, WORK_WINDOW, count, READ | WRITE)
        if answer == status.OK:
            memory.clear(WORK_WINDOW, r_uint(count) * r_uint(layout.PAGE))
            memory.copy(WORK_WINDOW, MODULE_WINDOW, r_uint(size))
        call.unmap_all(SLOT_SELF, WORK_WINDOW, count)
        call.unmap_all(SLOT_SELF, MODULE_WINDOW, count)
        if answer == status.OK:
            answer = self.give(region, first, count, module, size)
        return answer

    def give(self, region, first, count, module, size):
        """CORE_GIVE of `count` frames, however many calls it takes."""
        while count > 0:
            batch = count if count < BATCH else BATCH
            part = size if size < batch * layout.PAGE else batch * layout.PAGE
            answer = call.core_give(self.core, region, first, batch, module, part)
            if answer != status.OK:
                return answer
            first += batch
            count -= batch
            size -= part
        return status.OK

    # -- its VMs

    def send_keys(self, vm, line):
        """Pass on the keys that wait for the VM, once those before have been answered."""
        if self.state != READY or self.in_flight[vm.index] or line.key_count == 0 or not self.post.has_room(line.key_count):
            return
        self.in_flight[vm.index] = True
        self.post.begin(link.KEYS, vm.index, line.key_count)
        for n in range(line.key_count):
            self.post.put(line.keys[n])
        self.post.pump()

    def next(self):
        """The next message. Returns its kind, or NOTHING."""
        if self.state != READY:
            return NOTHING
        return self.post.next()

    def vm(self):
        """The running VM of this core that the message is about, None if it is about none."""
        if self.post.vm >= len(self.vms):
            return None
        vm = self.vms[self.post.vm]
        if vm.core != self.core or vm.state != RUNNING:
            return None
        return vm

    def is_dead(self):
        """Has the core stopped?"""
        return call.core_inspect(self.core) == status.OK and intmask(call.value()) == spec.DEAD

    def note(self, vm):
        """Copy an ENDED message."""
        post = self.post
        vm.how = intmask(post.word(link.END['HOW']))
        vm.detail = post.word(link.END['DETAIL'])
        vm.started = post.word(link.END['STARTED'])
        vm.ended = post.word(link.END['ENDED'])
        vm.ticks = post.word(link.END['TICKS'])
        vm.vmm_ticks = post.word(link.END['VMM_TICKS'])
        for kind in range(exit.COUNT):
            vm.exits[kind] = post.word(link.END['EXITS'] + 8 * kind)
        vm.state = GONE

    def lose(self, vm):
        """The core has stopped, and the VM with it."""
        vm.how = ending.CORE_STOPPED
        vm.started = R0             # it was never told
        vm.ended = R0
        vm.ticks = R0
        vm.vmm_ticks = R0
        vm.detail = r_uint(self.core)
        vm.state = GONE


assert spec.MEMORY == MODULES
