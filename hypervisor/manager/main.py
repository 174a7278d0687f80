"""The manager: starts the VMs, serves their consoles until all have ended, prints the table, switches the box off."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.hw.task import rdtsc, seal_heap
from hypervisor.lib import call, text
from hypervisor.manager import config, power
from hypervisor.manager.build import NO_CORE
from hypervisor.manager.console import Console
from hypervisor.manager.frames import Box
from hypervisor.manager.keeper import IDLE_MS, PAGE, POLL_MS, Keeper
from hypervisor.manager.outpost import IDLE, LOST, READY, Outpost
from hypervisor.manager.post import NOTHING
from hypervisor.manager.serial import Serial
from hypervisor.manager.station import Station
from hypervisor.manager.table import Table, ended_well
from hypervisor.manager.vm import ENDED, GONE, JOINED, RUNNING, Vm
from hypervisor.spec import core, ending, link, owning, share, status
from hypervisor.spec.call import SLOT_LINK
from hypervisor.spec.config import MAX_VMS

REFUSED = 2             # the box's status when the configuration is refused


class Manager(Keeper):
    """The first core's. outposts: the other cores; the first place is nobody's."""

    def __init__(self, box, vms):
        Keeper.__init__(self, box, vms)
        self.serial = Serial()
        self.console = Console(self.serial, self.vms)
        self.table = Table(self.console, self.serial)
        self.outposts = [Outpost(n, box, vms) for n in range(core.MOST)]

    def run(self):
        """Does not return."""
        self.serial.start(self.box.tsc_khz)
        self.box.clock.read()
        refusal = self.read_config() if self.box.known else config.NO_BLOB
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
        """The other cores first, all of them: a VM may need several. They make their VMs while this one makes its own."""
        self.forget_all()
        self.console.start(self.count, self.box.tsc_khz)
        running = r_uint(1) << core.FIRST
        for n in range(1, core.MOST):
            self.start_core(n)
            if self.outposts[n].state == READY:
                running |= r_uint(1) << n
        for n in range(1, core.MOST):
            if self.outposts[n].state == READY:
                self.outposts[n].begin(running)
        for n in range(self.count):
            vm = self.vms[n]
            if not self.is_here(vm) and not self.speaks_for(vm):
                vm.state = RUNNING
        self.make_all(running)
        self.say_who_owns()
        self.console.focus_first()

    def say_who_owns(self):
        """Of each core that one vCPU has to itself: whether it gets the local APIC as well, or why not."""
        for n in range(1, core.MOST):
            vm = self.only_one_on(n)
            if vm is not None and self.outposts[n].state == READY:
                self.console.begin()
                text.write(self.serial, 'core ')
                text.decimal(self.serial, r_uint(n))
                text.write(self.serial, ' and its local APIC are for ' if self.why_not(vm) == '' else ' is for ')
                self.console.name(vm)
                text.write(self.serial, ' alone')
                if self.why_not(vm) != '':
                    text.write(self.serial, ', but not its local APIC: ')
                    text.write(self.serial, self.why_not(vm))
                self.console.end()

    def only_one_on(self, number):
        """The VM of the one vCPU that lives on a core, None where none or several do."""
        found = None
        for n in range(self.count):
            for k in range(self.vms[n].vcpus):
                if self.vms[n].core_of(k) == number:
                    if found is not None:
                        return None
                    found = self.vms[n]
        return found

    def why_not(self, vm):
        if vm.cap != share.NO_CAP:
            return 'the VM has a cap'
        return owning.SENTENCES[self.box.owning]

    def start_core(self, number):
        """Start a core if a vCPU is to live there."""
        outpost = self.outposts[number]
        outpost.state = IDLE
        if not self.is_needed(number):
            return
        if number >= self.box.cores:
            outpost.failure = NO_CORE
            return
        outpost.failure = outpost.start(self.count)
        if outpost.failure != status.OK:
            self.say_last_words(number)

    def is_needed(self, number):
        for n in range(self.count):
            if self.vms[n].is_on(number):
                return True
        return False

    def speaks_for(self, vm):
        """Also for those whose own manager does not run."""
        return self.is_here(vm) or self.outposts[vm.core].state != READY

    def why(self, core):
        return self.outposts[core].failure

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
        self.watch_cores()
        self.join_all()
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
            if vm.state == RUNNING and self.is_here(vm):
                self.console.send_keys(vm, now)
                more = self.console.receive(vm) > 0 or more
            elif vm.state == RUNNING:
                self.outposts[vm.core].send_keys(vm, self.console.lines[n])
                self.console.heard(vm, 0)
            elif vm.state == ENDED:
                self.recall(vm)
                more = True
        for n in range(1, self.box.cores):
            more = self.serve_core(self.outposts[n]) or more
        return more

    # -- other cores

    def serve_core(self, outpost):
        """Handle one message of a core. Returns whether there was one."""
        kind = outpost.next()
        if kind == NOTHING:
            return False
        if kind == link.REFUSED:
            self.lose_core(outpost)
            return True
        vm = outpost.vm()
        if vm is not None:
            self.hear(outpost, kind, vm)
        return True

    def hear(self, outpost, kind, vm):
        """A message about a running VM of another core."""
        post = outpost.post
        if kind == link.OUTPUT:
            for n in range(post.length):
                self.console.hear(vm, post.byte(n))
            self.console.heard(vm, post.length)
        elif kind == link.TAKEN:
            outpost.in_flight[vm.index] = False
            self.console.taken(vm, intmask(post.word(0)), rdtsc())
        elif kind == link.ENDED:
            outpost.note(vm)
            self.say_end(vm)

    def watch_cores(self):
        """A core that has news and says nothing may have died."""
        for n in range(1, self.box.cores):
            outpost = self.outposts[n]
            if outpost.state == READY and (outpost.post.broken or (self.has_news(n) or outpost.unsure) and outpost.is_dead()):
                while self.serve_core(outpost):
                    pass
                if outpost.state == READY:
                    self.lose_core(outpost)
            outpost.unsure = False

    def has_news(self, number):
        return self.signals & (r_uint(1) << (SLOT_LINK + number)) != r_uint(0)

    def lose_core(self, outpost):
        """The VMs that are at home there are gone; what it left behind is shown. Those that had only vCPUs there end at their homes."""
        outpost.state = LOST
        self.say_last_words(outpost.core)
        for n in range(self.count):
            vm = self.vms[n]
            if vm.core == outpost.core and vm.state == RUNNING:
                if vm.branch == JOINED:         # its kernel may go on, with a manager who has gone mad
                    call.stop(vm.compartment, ending.DESTROYED, r_uint(0))
                outpost.lose(vm)
                self.say_end(vm)

    def say_last_words(self, number):
        """The text that a core has left, line by line."""
        if call.core_inspect(number) != status.OK:
            return
        size = min(intmask(memory.load64(PAGE)), core.STATUS_TEXT_BYTES)
        begun = False
        for n in range(size):
            byte = intmask(memory.load8(PAGE + r_uint(8 + n)))
            if byte == ord('\n'):
                if begun:
                    self.console.end()
                begun = False
                continue
            if not begun:
                self.console.begin()
                text.write(self.serial, 'core ')
                text.decimal(self.serial, r_uint(number))
                text.write(self.serial, ': ')
                begun = True
            self.serial.put(byte)
        if begun:
            self.console.end()

    def collect(self, deadline, more):
        """Fetch the signals. Block until there are some or the deadline, but only when nothing is left to do: what came in while the
        serial port was busy may mean a ring that has been passed over."""
        self.serial.wait(r_uint(1) if more or self.serial.signals != r_uint(0) else deadline)
        self.signals = self.serial.take_signals()

    def end(self, vm):
        """Show its last words."""
        while self.console.receive(vm) > 0:
            pass
        vm.state = ENDED
        self.say_end(vm)

    def say_end(self, vm):
        self.console.finish_all(vm)
        self.table.announce(vm)
        self.console.leave(vm)

    def announce(self, vm):
        self.table.announce(vm)

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


box = Box()
vms = [Vm(n) for n in range(MAX_VMS)]
manager = Manager(box, vms)
station = Station(box, vms)


def task_main(argument):
    """Called by boot/task/start.S. Everything is prebuilt: from here on nothing allocates."""
    seal_heap()
    box.read()
    if box.core == core.FIRST:
        manager.run()
    else:
        station.run()
    return 0


task_main.c_name = 'task_main'
export_symbol(task_main)
