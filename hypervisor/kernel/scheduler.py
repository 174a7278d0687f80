"""Who runs next: round robin over compartments in slices; inside a compartment the task goes before its vCPUs.

An exit that the VMM finishes runs the VMM in the very slice of its vCPU, so a VM pays for its own devices.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu
from hypervisor.kernel import limit
from hypervisor.kernel.compartment import bounds, compartments
from hypervisor.kernel.line import lines
from hypervisor.kernel.link import links
from hypervisor.kernel.task import IN_WAIT, NEVER
from hypervisor.kernel.timer import timer
from hypervisor.kernel.vcpu import vcpus
from hypervisor.spec import ending
from hypervisor.spec.cpu import VECTOR_DOORBELL

R0 = r_uint(0)


def passed(now, moment):
    """Has the TSC reached the moment? Both may be anything that a VMM has made up."""
    return now >= moment


class Scheduler(object):
    """compartment, vcpu: what runs now; vcpu is None when it is the compartment's task."""

    def __init__(self):
        self.compartment = compartments[0]
        self.vcpu = None
        self.since = R0             # TSC when the running context began
        self.slice_end = R0
        self.slice_ticks = R0
        self.turn_ticks = R0
        self.turn_over = False      # the vCPU whose VMM runs has had its turn
        self.silence_ticks = R0
        self.shortest = R0
        self.armed = R0             # TSC at which the timer fires

    def open(self):
        self.slice_ticks = timer.tsc_khz * limit.SLICE_MICROSECONDS // 1000
        self.turn_ticks = timer.tsc_khz * limit.TURN_MICROSECONDS // 1000
        self.silence_ticks = timer.tsc_khz * limit.SILENCE_MICROSECONDS // 1000
        self.shortest = timer.tsc_khz * limit.SHORTEST_MICROSECONDS // 1000
        self.since = cpu.rdtsc()
        self.start_slice(self.since)

    def pick(self):
        """Decide what runs next, in `compartment` and `vcpu`; sleeps while nothing is ready."""
        if self.choose_in(self.compartment):
            return
        self.rotate()

    def rotate(self):
        """The next compartment that has something to run gets a slice. Others' timers are looked at here too: who gives the processor
        away before its slice ends would keep them waiting otherwise."""
        self.account()
        self.expire_timers(self.since)
        while not self.choose_other():
            self.sleep()

    def choose_in(self, compartment):
        """Prefer what ran last, so that an exit that is finished in the kernel costs no search."""
        if compartment.task.ready:
            if self.vcpu is not None or self.compartment is not compartment:
                self.run_next(compartment, None)
            return True
        if self.vcpu is not None and self.vcpu.ready and self.compartment is compartment:
            return True
        vcpu = compartment.next_vcpu()
        if vcpu is None:
            return False
        self.run_next(compartment, vcpu)
        return True

    def run_next(self, compartment, vcpu):
        self.account()
        self.compartment = compartment
        self.vcpu = vcpu

    def hand_over(self, compartment, giver, taker):
        """A vCPU and its VMM wait for one another: if the giver has the processor, the taker is next, without a search. None: the task."""
        if self.compartment is not compartment or self.vcpu is not giver:
            return
        if taker is not None and self.turn_over:
            self.turn_over = False          # a sibling may want the processor: `pick` looks for one
            return
        self.run_next(compartment, taker)

    def choose_other(self):
        n = 0
        number = self.compartment.number
        while n < bounds.compartments:
            number += 1
            if number >= bounds.compartments:
                number = 0
            compartment = compartments[number]
            if compartment.used and self.choose_in(compartment):
                self.start_slice(self.since)
                return True
            n += 1
        return False

    def favour(self, number):
        """A device has something for this compartment (negative: for nobody), and its buffer is small: its task goes first. What was
        interrupted waits for its next turn. Guests cannot cause that."""
        if number >= 0 and number < limit.COMPARTMENTS and compartments[number].task.ready:
            self.run_next(compartments[number], None)
            self.start_slice(self.since)

    def account(self):
        """Charge the time since `since` to what ran, and to the VMM's debt if it owes an answer."""
        now = cpu.rdtsc()
        spent = now - self.since
        self.since = now
        if self.vcpu is not None:
            self.vcpu.ticks += spent
            return
        task = self.compartment.task
        task.ticks += spent
        if task.owes:
            task.owed_ticks += self.creditable(spent)

    def creditable(self, spent):
        """The timer ends every run within a slice. A longer one means that the whole machine stood still (a host below has taken
        the processor away), and that is not the VMM's fault."""
        if spent > self.slice_ticks * 2:
            return self.slice_ticks * 2
        return spent

    def start_slice(self, now):
        self.slice_end = now + self.slice_ticks
        self.arm_slice(now)

    def arm_slice(self, now):
        """vCPUs of one VM take shorter turns within their slice: they wait for one another more than VMs do."""
        until = self.slice_end
        if self.compartment.vcpu_count > 1 and now + self.turn_ticks < until:
            until = now + self.turn_ticks
        self.arm(now, until, False)

    def take_turn(self):
        """The timer has fired within a slice: the next vCPU of the same VM, if there is one; when its VMM is at work, after that."""
        compartment = self.compartment
        if compartment.vcpu_count <= 1:
            return
        if self.vcpu is None:
            self.turn_over = True
            return
        vcpu = compartment.next_vcpu()
        if vcpu is not None:
            self.run_next(compartment, vcpu)

    def arm(self, now, until, everybody):
        """Set the timer to the earliest deadline, at most `until`. Guests' APIC timers count in their own VM's slice, and while everybody
        sleeps: to another VM they are worth no interrupt, however fast they go."""
        n = 0
        while n < bounds.compartments:
            deadline = self.wake_time(compartments[n])
            if deadline != NEVER and deadline < until:
                until = deadline
            n += 1
        n = 0
        while n < bounds.vcpus:
            vcpu = vcpus[n]
            deadline = R0
            if everybody or vcpu.compartment is self.compartment:
                deadline = vcpu.apic.deadline
            if deadline != R0 and deadline < until:
                until = deadline
            n += 1
        self.arm_at(now, until)

    def arm_at(self, now, moment):
        """Never nearer than `shortest`: a timer that fires too early is only armed again, and no guest's may fire without end."""
        if moment < now + self.shortest:
            moment = now + self.shortest
        self.armed = moment
        timer.arm(moment - now)

    def nudge(self, deadline):
        """A deadline has been set while the timer is armed already: fire earlier if it comes first."""
        if deadline != R0 and deadline < self.armed:
            self.arm_at(cpu.rdtsc(), deadline)

    def expire_timers(self, now):
        """Guests' APIC timers whose time has come."""
        n = 0
        while n < bounds.vcpus:
            vcpu = vcpus[n]
            deadline = vcpu.apic.deadline
            if deadline != R0 and passed(now, deadline):
                vcpu.apic.expire(now)
                vcpu.wake_for_interrupt()
            n += 1

    def wake_time(self, compartment):
        """When a blocked task has to be looked at: at its deadline, or when a VMM in WAIT has owed an answer too long."""
        task = compartment.task
        if task.blocked == IN_WAIT and task.owes:
            limit_time = task.waiting_since + (self.silence_ticks - task.owed_ticks)
            if task.deadline == NEVER or limit_time < task.deadline:
                return limit_time
        return task.deadline

    def tick(self):
        """The timer has fired: wake whom it is for, stop VMMs that are silent, end the slice if it is over."""
        timer.acknowledge()
        self.account()
        now = self.since
        n = 0
        while n < bounds.compartments:
            self.look_at(compartments[n], now)
            n += 1
        self.expire_timers(now)
        if passed(now, self.slice_end):
            self.take_turn()
            if not self.choose_other():
                self.start_slice(now)
        else:
            self.take_turn()
            self.arm_slice(now)

    def look_at(self, compartment, now):
        task = compartment.task
        if not compartment.used:
            return
        if task.blocked == IN_WAIT and task.owes and now - task.waiting_since > self.silence_ticks - task.owed_ticks:
            task.owed_ticks = self.silence_ticks + 1
        if task.deadline != NEVER and passed(now, task.deadline):
            task.deadline_passed()
        if task.owes and task.owed_ticks > self.silence_ticks:
            compartment.stop(ending.VMM_SILENT, R0)

    def sleep(self):
        """Nothing is ready: wait for an interrupt."""
        now = cpu.rdtsc()
        self.since = now
        self.arm(now, now + self.slice_ticks * 100, True)
        vector = cpu.wait_interrupt()
        if lines.is_line(vector):
            lines.arrive(vector)
        elif vector == r_uint(VECTOR_DOORBELL):
            timer.acknowledge()
            links.arrive()
        else:
            timer.acknowledge()
        now = cpu.rdtsc()
        self.since = now
        n = 0
        while n < bounds.compartments:
            self.look_at(compartments[n], now)
            n += 1
        self.expire_timers(now)


scheduler = Scheduler()
