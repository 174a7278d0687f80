"""The manager: starts the VMs, serves their consoles until all have ended, prints the table, switches the box off."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.hw.task import rdtsc, seal_heap
from hypervisor.lib import call, text
from hypervisor.manager import config, power
from hypervisor.manager.build import CONFIG_WINDOW, Builder
from hypervisor.manager.config import Config
from hypervisor.manager.console import Console
from hypervisor.manager.frames import Box, frames_of
from hypervisor.manager.recall import Recall
from hypervisor.manager.serial import Serial
from hypervisor.manager.table import Table, ended_well
from hypervisor.manager.vm import ABSENT, ENDED, GONE, RUNNING, Vm
from hypervisor.spec import ending, exit, layout, status
from hypervisor.spec.call import READ, SLOT_MODULE, SLOT_SELF, STATE_ENDED
from hypervisor.spec.config import MAX_VMS, MODULE_CONFIG
from hypervisor.spec.vcpu import INSPECT

POLL_MS = 20            # how often everything is looked at while something is pending, or nobody tells what comes in
IDLE_MS = 1000          # else
REFUSED = 2             # the box's status when the configuration is refused
PAGE = r_uint(layout.TASK_PAGE)


class Manager(object):
    def __init__(self):
        self.box = Box()
        self.serial = Serial()
        self.vms = [Vm(n) for n in range(MAX_VMS)]
        self.config = Config(self.vms)
        self.console = Console(self.serial, self.vms)
        self.builder = Builder(self.box, self.config)
        self.recalls = [Recall() for _ in range(MAX_VMS)]
        self.table = Table(self.console, self.serial)
        self.count = 0
        self.signals = r_uint(0)        # fetched and not yet handled

    def run(self):
        """Does not return."""
        known = self.box.read()
        self.serial.start(self.box.tsc_khz)
        self.box.clock.read()
        refusal = self.read_config() if known else config.NO_BLOB
        if refusal != config.OK:
            self.refuse(refusal)
            self.leave(REFUSED)
            return
        self.create_all()
        while self.is_busy():
            self.turn()
        self.table.write(self.vms, self.count, self.box.tsc_khz)
        self.leave(self.verdict())

    # -- start and end

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

    def refuse(self, code):
        self.console.begin()
        text.write(self.serial, 'cannot start: ')
        if self.config.culprit >= 0:
            text.write(self.serial, 'VM record ')
            text.decimal(self.serial, r_uint(self.config.culprit))
            text.write(self.serial, ': ')
        text.write(self.serial, config.SENTENCES[code])
        self.console.end()

    def create_all(self):
        self.count = self.config.count
        self.console.start(self.count, self.box.tsc_khz)
        for n in range(MAX_VMS):
            self.vms[n].state = ABSENT
        for n in range(self.count):
            self.recalls[n].start()
            self.builder.create(self.vms[n])
            if self.vms[n].state != RUNNING:
                self.table.announce(self.vms[n])
        self.console.focus_first()

    def verdict(self):
        """The box's status: 0 when every VM ended well."""
        for n in range(self.count):
            if not ended_well(self.vms[n]):
                return 1
        return 0

    def leave(self, number):
        self.console.begin()
        text.write(self.serial, 'box off, status ')
        text.decimal(self.serial, r_uint(number))
        self.console.end()
        self.serial.drain()
        power.power_off(number)

    # -- the loop

    def is_busy(self):
        for n in range(self.count):
            if self.vms[n].state != GONE:
                return True
        return False

    def turn(self):
        """Everything once: keyboard, output, ended VMs. Then wait, unless there is more to do."""
        typed = self.serial.poll()
        more = self.serve_all(rdtsc()) or typed
        self.console.type(rdtsc())
        self.collect(rdtsc() + self.box.tsc_khz * r_uint(self.nap_ms()), more)
        self.handle_ends()
        self.enforce_limits()

    def nap_ms(self):
        """How long nothing but a signal needs the manager."""
        if not self.serial.told:
            return POLL_MS
        for n in range(self.count):
            line = self.console.lines[n]
            if line.terminal.is_waiting() or line.key_count > 0 or self.vms[n].time_limit != 0:
                return POLL_MS
        return IDLE_MS

    def serve_all(self, now):
        """Serve each VM. Returns whether one of them has more to do at once."""
        more = False
        for n in range(self.count):
            vm = self.vms[n]
            if vm.state == RUNNING:
                self.console.send_keys(vm, now)
                more = self.console.receive(vm) > 0 or more
            elif vm.state == ENDED:
                self.recall(vm)
                more = True
        return more

    def collect(self, deadline, more):
        """Fetch the signals. Block until there are some or the deadline, but only when nothing is left to do: what came in while the
        serial port was busy may mean a ring that has been passed over."""
        self.serial.wait(r_uint(1) if more or self.serial.signals != r_uint(0) else deadline)
        self.signals = self.serial.take_signals()

    def handle_ends(self):
        for n in range(self.count):
            vm = self.vms[n]
            if vm.state == RUNNING and self.signals & vm.end_signal != r_uint(0):
                self.examine(vm)

    def enforce_limits(self):
        """End each VM that has had the processor for longer than its configuration allows."""
        for n in range(self.count):
            vm = self.vms[n]
            if vm.state == RUNNING and vm.time_limit != 0 and self.has_had(vm, r_uint(vm.time_limit)):
                call.stop(vm.compartment, ending.TIME_LIMIT, r_uint(vm.time_limit))

    def has_had(self, vm, milliseconds):
        """Have its vCPUs run for so long? The VMM's own time counts as well: it works for its guest."""
        if call.inspect(vm.compartment) != status.OK:
            return False
        ticks = self.word(INSPECT['TICKS']) + self.word(INSPECT['VMM_TICKS'])
        return ticks > milliseconds * self.box.tsc_khz

    def examine(self, vm):
        """The VM is said to have ended: note how, show its last words."""
        if call.inspect(vm.compartment) != status.OK or intmask(call.value()) != STATE_ENDED:
            return
        self.note(vm)
        while self.console.receive(vm) > 0:
            pass
        vm.state = ENDED
        self.console.finish_all(vm)
        self.table.announce(vm)
        self.console.leave(vm)

    def note(self, vm):
        """Copy the INSPECT record, before the next call overwrites the task page."""
        vm.how = intmask(self.word(INSPECT['HOW']))
        vm.detail = self.word(INSPECT['DETAIL'])
        vm.ticks = self.word(INSPECT['TICKS'])
        vm.vmm_ticks = self.word(INSPECT['VMM_TICKS'])
        for kind in range(exit.COUNT):
            vm.exits[kind] = self.word(INSPECT['EXITS'] + 8 * kind)

    def word(self, offset):
        return memory.load64(PAGE + r_uint(offset))

    def recall(self, vm):
        """Take back a piece of what an ended VM had; say so if that failed."""
        recall = self.recalls[vm.index]
        recall.step(vm)
        if vm.state == GONE and recall.failure != status.OK:
            self.console.begin()
            text.write(self.serial, 'the memory of ')
            self.console.name(vm)
            text.write(self.serial, ' could not be taken back, status ')
            text.decimal(self.serial, r_uint(recall.failure))
            self.console.end()


manager = Manager()


def task_main(argument):
    """Called by boot/task/start.S. Everything is prebuilt: from here on nothing allocates."""
    seal_heap()
    manager.run()
    return 0


task_main.c_name = 'task_main'
export_symbol(task_main)
