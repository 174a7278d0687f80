"""What every core's manager does for the VMs of its core: make them, notice how they end, keep their limits, take back what they had.

A VM is at home on the core of its first vCPU. vCPUs that it has on other cores are a *branch* there: that core's manager fetches it when
the home's has started the VM, gives it its share and watches its time; that the VM ends, and how, is told at home alone.

The first core's manager (main.py) also serves the serial port; another core's (station.py) tells it what happens here.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.hw.task import rdtsc
from hypervisor.lib import call
from hypervisor.manager import config
from hypervisor.manager.build import CONFIG_WINDOW, CORE_SILENT, NO_CORE, Builder
from hypervisor.manager.config import Config
from hypervisor.manager.frames import frames_of
from hypervisor.manager.recall import Recall
from hypervisor.manager.vm import ABSENT, AWAITED, ELSEWHERE, GONE, JOINED, NOWHERE, RUNNING
from hypervisor.spec import ending, exit, layout, pages, status
from hypervisor.spec.call import READ, SLOT_MODULE, SLOT_SELF, STATE_ENDED
from hypervisor.spec.config import MAX_VMS, MODULE_CONFIG
from hypervisor.spec.vcpu import INSPECT

POLL_MS = 20            # how often everything is looked at while something is pending, or nobody tells what comes in
IDLE_MS = 1000          # else
PAGE = r_uint(layout.TASK_PAGE)


class Keeper(object):
    def __init__(self, box, vms):
        self.box = box
        self.vms = vms
        self.config = Config(self.vms)
        self.builder = Builder(self.box, self.config)
        self.recalls = [Recall() for _ in range(MAX_VMS)]
        self.count = 0
        self.signals = r_uint(0)        # fetched and not yet handled
        self.spare = ~r_uint(0)         # TSC ticks before which no VM can have used up its time limit

    def read_config(self):
        """Map and read the blob. Returns OK or a code of config.py."""
        size = self.box.modules.config_bytes()
        if size == 0:
            return config.NO_BLOB
        if size > config.MOST_BYTES:
            return config.TOO_LONG
        if call.map_all(SLOT_SELF, SLOT_MODULE + MODULE_CONFIG, 0, CONFIG_WINDOW, frames_of(size), READ) != status.OK:
            return config.NOT_MAPPED
        return self.config.read(CONFIG_WINDOW, self.box.modules, self.box.frames.total())

    def is_here(self, vm):
        return vm.core == self.box.core

    def forget_all(self):
        self.count = self.config.count
        for n in range(MAX_VMS):
            self.vms[n].state = ABSENT
            self.vms[n].branch = ELSEWHERE
            self.recalls[n].start()

    def make_all(self, running):
        """Make this core's VMs, and look out for what others' have here. running: bit n for each core n that runs; a VM that needs
        another one is not made at all."""
        for n in range(self.count):
            vm = self.vms[n]
            missing = vm.missing(running)
            if missing != NOWHERE:
                if self.speaks_for(vm):
                    self.fail(vm, self.why(missing))
            elif self.is_here(vm):
                self.create(vm)
            elif vm.is_on(self.box.core):
                vm.branch = AWAITED

    def speaks_for(self, vm):
        """Is it this manager who tells that the VM could not be started?"""
        return self.is_here(vm)

    def why(self, core):
        """Why a core does not run: a status, or a reason of build.py."""
        return NO_CORE if core >= self.box.cores else CORE_SILENT

    def fail(self, vm, reason):
        """It has ended before it began."""
        vm.how = ending.NOT_STARTED
        vm.detail = r_uint(reason)
        vm.state = GONE
        self.announce(vm)

    def create(self, vm):
        self.builder.create(vm)
        vm.started = rdtsc()
        vm.ended = vm.started
        if vm.state != RUNNING:
            self.announce(vm)

    def announce(self, vm):
        """Say that the VM has ended."""


    def handle_ends(self):
        for n in range(self.count):
            vm = self.vms[n]
            if self.signals & vm.end_signal == r_uint(0):
                continue
            if vm.branch == JOINED:
                self.examine_branch(vm)
            elif vm.state == RUNNING and self.is_here(vm):
                self.examine(vm)

    def examine(self, vm):
        """The VM is said to have ended: note how."""
        if call.inspect(vm.compartment) != status.OK or intmask(call.value()) != STATE_ENDED:
            return
        self.note(vm)
        self.end(vm)

    def end(self, vm):
        """It has ended, and how is noted."""

    def note(self, vm):
        """Copy the INSPECT record, before the next call overwrites the task page."""
        vm.how = intmask(self.word(INSPECT['HOW']))
        vm.detail = self.word(INSPECT['DETAIL'])
        vm.ended = rdtsc()
        vm.ticks = self.word(INSPECT['TICKS'])
        vm.vmm_ticks = self.word(INSPECT['VMM_TICKS'])
        for kind in range(exit.COUNT):
            vm.exits[kind] = self.word(INSPECT['EXITS'] + 8 * kind)

    def word(self, offset):
        return memory.load64(PAGE + r_uint(offset))

    # -- branches

    def join_all(self):
        """Fetch what others' VMs have here and their cores have offered by now. One that is never offered has ended before; the first
        core's manager hears that, another one asks on."""
        for n in range(self.count):
            vm = self.vms[n]
            if vm.branch == AWAITED and vm.state != GONE:
                self.join(vm)

    def join(self, vm):
        if not self.builder.find_run(vm, pages.for_vm(0, vm.vcpus)):
            return
        answer = call.join(vm.compartment, vm.core, vm.index, vm.run.region, vm.run.first, vm.run.count)
        if answer == status.NOT_OFFERED:
            return
        if answer != status.OK:
            vm.branch = ELSEWHERE       # for good: the kernel has told the VM's own, which ends it
            return
        vm.branch = JOINED
        answer = call.share(vm.compartment, vm.entitlement, vm.cap, vm.weight)
        if answer != status.OK:
            call.stop(vm.compartment, ending.NOT_STARTED, r_uint(answer))

    def examine_branch(self, vm):
        """Release a branch that has ended. One that is not in its slot any more had ended by itself before this manager stopped it."""
        answer = call.inspect(vm.compartment)
        if answer == status.OK:
            if intmask(call.value()) != STATE_ENDED:
                return
            call.stop(vm.compartment, ending.DESTROYED, r_uint(0))
        vm.branch = ELSEWHERE

    # -- time limits

    def enforce_limits(self):
        """End each VM that has had this processor for longer than its configuration allows. Nobody's limit comes earlier than `spare`."""
        self.spare = ~r_uint(0)
        for n in range(self.count):
            vm = self.vms[n]
            if vm.time_limit != 0 and self.has_part_of(vm):
                left = self.left(vm)
                if left == r_uint(0):
                    call.stop(vm.compartment, ending.TIME_LIMIT, r_uint(vm.time_limit))
                elif left < self.spare:
                    self.spare = left

    def has_part_of(self, vm):
        return vm.branch == JOINED or vm.state == RUNNING and self.is_here(vm)

    def left(self, vm):
        """TSC ticks that its vCPUs here may still run. The VMM's own time counts as well: it works for its guest."""
        if call.inspect(vm.compartment) != status.OK:
            return ~r_uint(0)
        ticks = self.word(INSPECT['TICKS']) + self.word(INSPECT['VMM_TICKS'])
        limit = r_uint(vm.time_limit) * self.box.tsc_khz
        if ticks > limit:
            return r_uint(0)
        return limit - ticks + 1
