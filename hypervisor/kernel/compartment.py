"""Compartments: who owns frames. Each has one task and, if it is a VM, a nested address space and vCPUs."""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu, memory
from hypervisor.hw.audit import publish_root
from hypervisor.kernel import limit
from hypervisor.kernel.arena import Account
from hypervisor.kernel import news as marks
from hypervisor.kernel.core import this
from hypervisor.kernel.frames import FIRST_COMPARTMENT
from hypervisor.kernel.news import news
from hypervisor.kernel.paging import Space
from hypervisor.kernel.share import Share
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.task import NEVER, NOT_BLOCKED, Task
from hypervisor.lib.cold import cold
from hypervisor.spec import audit, call, ending, status
from hypervisor.spec import exit as kinds
from hypervisor.spec.vcpu import STOLEN

R0 = r_uint(0)

# Kinds of capability in a slot, and what its two words mean
EMPTY = 0
REGION = 1              # first frame, frames
COMPARTMENT = 2         # number
VCPU = 3                # number in the kernel
RING_SENDER = 4         # number
RING_RECEIVER = 5       # number
PORTS = 6               # first port, ports
LINK = 7                # number of the other core

NO_NAME = -1            # of a VM that lives on one core


class Compartment(Account):
    """Number 0 is the manager's. A compartment is free while `used` is not set. Its run of kernel pages is its own until then."""

    def __init__(self, number):
        Account.__init__(self)
        self.number = number
        self.owner = FIRST_COMPARTMENT + number
        self.used = False
        self.state = call.STATE_NEW
        self.how = ending.NONE
        self.detail = R0
        self.task = Task()
        self.task.compartment = self
        self.task.bit = r_uint(1) << number
        self.space = Space()
        self.nested = Space()
        self.tag = r_uint(number)       # ASID and VPID: never 0, which is the host's
        self.vcpus = [None] * limit.VCPUS_PER_VM
        self.vcpu_count = 0
        self.here = 0                   # of them, how many live on this core
        self.turn = 0                   # the vCPU that the scheduler looked at last
        self.forget_others()
        self.share = Share()
        self.kinds = [EMPTY] * call.SLOTS
        self.first = [R0] * call.SLOTS
        self.second = [R0] * call.SLOTS
        self.signals = R0
        self.counts = [R0] * kinds.COUNT    # exits of vCPUs that are gone
        self.vcpu_ticks = R0                # likewise
        self.waits_since = R0               # TSC since when others have the processor that it wants; 0: it has it, or wants none
        self.tells_stolen = False           # its VMM wants to know what is stolen from its vCPUs
        self.untold_ticks = R0              # ticks of that since it was told last
        self.creator = None
        self.creator_slot = 0

    def forget_others(self):
        """It is all on this core. `home` and `name` say which VM it is in messages between cores; a branch's home is another core. cores:
        where each vCPU lives (spec/wire.py). Of cores, as bits: others, on which its vCPUs live; to_offer, offered, joined: that have yet to
        hear of it, have heard, have a branch; to_stop: that are to be told that it has ended; leaving: that have not confirmed it."""
        self.home = this.number
        self.name = NO_NAME
        self.cores = R0
        self.others = 0
        self.news = 0
        self.to_offer = 0
        self.offered = 0
        self.joined = 0
        self.to_stop = 0
        self.leaving = 0

    def is_branch(self):
        return self.home != this.number

    def slot_kind(self, slot):
        """The kind of capability in a slot that the caller named; EMPTY for a number out of range."""
        if slot >= r_uint(call.SLOTS):
            return EMPTY
        return self.kinds[intmask(slot)]

    def slot_free(self, slot):
        return slot < r_uint(call.SLOTS) and self.kinds[intmask(slot)] == EMPTY

    def set_slot(self, slot, kind, first, second):
        self.kinds[slot] = kind
        self.first[slot] = first
        self.second[slot] = second

    def signal(self, slot):
        """Set a signal bit; wakes the task if it waits for one."""
        self.signals |= r_uint(1) << slot
        self.task.signalled()

    @dont_inline                            # who has not waited, or whose VMM does not care, pays for no more than the question
    def had_to_wait(self, now, telling):
        """It gets the processor that it has wanted, of which its VMM keeps account. telling: ticks after which it hears of them."""
        spent = now - self.waits_since
        self.waits_since = R0
        if not self.tells_stolen:
            return
        n = 0
        while n < self.vcpu_count:
            vcpu = self.vcpus[n]
            if vcpu is not None and vcpu.ready:
                vcpu.stolen += spent
                memory.store64(vcpu.page + STOLEN, vcpu.stolen)
            n += 1
        self.untold_ticks += spent
        if self.untold_ticks >= telling:
            self.untold_ticks = R0
            self.signal(call.SLOT_VCPU)

    def publish(self):
        """Tell an auditor outside which roots this compartment has."""
        number = r_uint(self.number)
        publish_root(number * 2, r_uint(audit.KIND_TASK), number, self.space.root)
        publish_root(number * 2 + 1, r_uint(audit.KIND_NESTED), number, self.nested.root)

    @cold
    def stop(self, how, detail):
        """End it: nothing of it runs again, its creator is told. Its frames stay its own until the creator takes them. Where vCPUs of it run
        on other cores all of that comes when these have said that they run no longer."""
        if self.state == call.STATE_ENDED or self.leaving != 0:
            return
        self.how = how
        self.detail = detail
        self.task.ready = False
        self.task.blocked = NOT_BLOCKED
        self.task.deadline = NEVER
        self.task.owes = False
        n = 0
        while n < self.vcpu_count:
            self._stop_vcpu(self.vcpus[n])
            n += 1
        self.to_offer = 0
        self.leaving = self.offered
        self.to_stop = self.offered
        if self.leaving != 0:
            news.of_compartment(self, marks.STOP)
            return
        if self.is_branch():
            news.of_compartment(self, marks.ENDED)
        self.finish()

    def leave(self, core):
        """Another core runs nothing of it any more."""
        self.to_stop &= ~(1 << core)
        if self.leaving != 0:
            self.leaving &= ~(1 << core)
            if self.leaving == 0:
                self.finish()

    @cold
    def finish(self):
        """Nobody runs it."""
        self.state = call.STATE_ENDED
        self.space.close()
        self.nested.close()
        self.publish()
        if self.creator is not None:
            self.creator.signal(self.creator_slot)

    def _stop_vcpu(self, vcpu):
        if vcpu is None:
            return
        vcpu.ready = False
        vcpu.outstanding = False
        vcpu.halted = False
        vcpu.apic.deadline = R0
        vcpu.news = 0
        switcher.release(vcpu)
        self.vcpu_ticks += vcpu.ticks
        vcpu.settle()
        n = 0
        while n < kinds.COUNT:
            self.counts[n] += vcpu.counts[n]
            vcpu.counts[n] = R0
            n += 1
        vcpu.ticks = R0

    def flush_nested(self):
        """Nested mappings were taken away: no vCPU of it may run on old translations."""
        n = 0
        while n < self.vcpu_count:
            vcpu = self.vcpus[n]
            if vcpu is not None:
                vcpu.flush = True
            n += 1

    def run_ticks(self):
        """TSC ticks of all its vCPUs."""
        total = self.vcpu_ticks
        n = 0
        while n < self.vcpu_count:
            vcpu = self.vcpus[n]
            if vcpu is not None:
                total += vcpu.ticks
            n += 1
        return total

    def exits(self, kind):
        total = self.counts[kind]
        n = 0
        while n < self.vcpu_count:
            vcpu = self.vcpus[n]
            if vcpu is not None:
                vcpu.settle()
                total += vcpu.counts[kind]
            n += 1
        return total

    def finish_wait(self):
        """End the task's WAIT: it gets the signal bits, which are cleared. What it waited counts while it owes an answer, or many short
        waits would be no silence."""
        if self.task.owes:
            self.task.owed_ticks += cpu.rdtsc() - self.task.waiting_since
        self.task.answer(status.OK, self.signals)
        self.signals = R0
        self.task.wake()

    def has_outstanding(self):
        """Does any exit wait for the VMM's answer?"""
        n = 0
        while n < self.vcpu_count:
            vcpu = self.vcpus[n]
            if vcpu is not None and vcpu.outstanding:
                return True
            n += 1
        return False

    def untold(self):
        """A vCPU with an exit that the VMM does not know of, None if there is none."""
        n = 0
        while n < self.vcpu_count:
            vcpu = self.vcpus[n]
            if vcpu is not None and vcpu.outstanding and not vcpu.told:
                return vcpu
            n += 1
        return None

    def can_wake(self, vcpu):
        """Is there another vCPU that may still send something to this one?"""
        n = 0
        while n < self.vcpu_count:
            other = self.vcpus[n]
            if other is not None and other is not vcpu and (other.away or not other.is_stopped()):
                return True
            n += 1
        return False

    def wants(self):
        """Has it anything to run?"""
        if self.task.ready:
            return True
        n = 0
        while n < self.vcpu_count:
            vcpu = self.vcpus[n]
            if vcpu is not None and vcpu.ready:
                return True
            n += 1
        return False

    def next_vcpu(self):
        """The vCPU to run next, None if none is ready. Takes turns."""
        count = self.vcpu_count
        n = 0
        while n < count:
            self.turn += 1
            if self.turn >= count:
                self.turn = 0
            vcpu = self.vcpus[self.turn]
            if vcpu is not None and vcpu.ready:
                return vcpu
            n += 1
        return None


class Bounds(object):
    """How far loops over all compartments and vCPUs have to go: past the last one in use. It only falls when nobody is left behind."""

    def __init__(self):
        self.compartments = 1
        self.vcpus = 0

    def include(self, compartment):
        """A compartment is in use, or has a vCPU more."""
        if compartment.number >= self.compartments:
            self.compartments = compartment.number + 1
        n = 0
        while n < compartment.vcpu_count:
            vcpu = compartment.vcpus[n]
            if vcpu is not None and vcpu.number >= self.vcpus:
                self.vcpus = vcpu.number + 1
            n += 1

    def shrink(self):
        """A compartment was released."""
        self.vcpus = 0
        n = self.compartments
        self.compartments = 1
        while n > 1:
            n -= 1
            if compartments[n].used:
                self.include(compartments[n])


bounds = Bounds()
assert 2 * limit.COMPARTMENTS < audit.RECORDS
compartments = [Compartment(n) for n in range(limit.COMPARTMENTS)]
manager = compartments[0]
