"""Who runs next: compartments in slices, by their shares (share.py); inside a compartment the task goes before its vCPUs.

An exit that the VMM finishes runs the VMM in the very slice of its vCPU, so a VM pays for its own devices. A slice is charged when
it ends or the timer fires, never at an exit.
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu
from hypervisor.kernel import limit
from hypervisor.kernel.compartment import bounds, compartments
from hypervisor.kernel.context import timed, wanting
from hypervisor.kernel.hold import holds
from hypervisor.kernel.line import lines
from hypervisor.kernel.task import IN_WAIT, NEVER
from hypervisor.kernel.timer import timer
from hypervisor.kernel.vcpu import vcpus
from hypervisor.lib.cold import hot
from hypervisor.spec import ending, share
from hypervisor.spec.cpu import VECTOR_DOORBELL

R0, R1 = r_uint(0), r_uint(1)
LONGEST_DEBT = 10                   # periods
AROUND = 2                          # a doorbell's exit and entry take about as long as its message


def passed(now, moment):
    """Has the TSC reached the moment? Both may be anything that a VMM has made up."""
    return now >= moment


class Bell(object):
    """What is done about a doorbell (away.py, which needs the scheduler itself)."""

    def answer(self):
        """Returns whose compartment it concerns first of all, or a negative number."""
        return -1


class Scheduler(object):
    """compartment, vcpu: what runs now; vcpu is None when it is the compartment's task."""

    def __init__(self):
        self.bell = Bell()
        self.compartment = compartments[0]
        self.vcpu = None
        self.since = R0             # TSC when the running context began
        self.charged = R0           # TSC up to which the compartment's share is charged
        self.slice_start = R0
        self.slice_end = R0
        self.of_promise = False     # the slice is of what the compartment is promised
        self.rivals = 0             # how many others wanted the processor when the slice began
        self.fresh = 0              # how many who have just come had something left of their promise then, what runs among them
        self.throttled = False      # somebody wants it and has used up its cap
        self.woken = False          # somebody else has come to want it since
        self.clock = 0              # `virtual` of whom had least of what nobody is promised; never goes back
        self.period = 0
        self.period_end = R0
        self.slice_ticks = R0
        self.turn_ticks = R0
        self.period_ticks = R0
        self.alone_ticks = R0
        self.turn_over = False      # the vCPU whose VMM runs has had its turn
        self.silence_ticks = R0
        self.shortest = R0
        self.armed = R0             # TSC at which the timer fires
        self.too_late = R0          # ... and at which it must have fired, if the machine has not stood still
        self.due = R0               # no deadline of anybody is earlier, but those that have been set since the timer was armed

    def open(self):
        self.slice_ticks = timer.tsc_khz * limit.SLICE_MICROSECONDS // 1000
        self.turn_ticks = timer.tsc_khz * limit.TURN_MICROSECONDS // 1000
        self.period_ticks = timer.tsc_khz * limit.PERIOD_MICROSECONDS // 1000
        self.alone_ticks = timer.tsc_khz * limit.ALONE_MICROSECONDS // 1000
        self.silence_ticks = timer.tsc_khz * limit.SILENCE_MICROSECONDS // 1000
        self.shortest = timer.tsc_khz * limit.SHORTEST_MICROSECONDS // 1000
        self.promise(compartments[0], share.MANAGER, share.NO_CAP, share.WEIGHT)
        compartments[0].share.reserve = intmask(self.period_ticks)      # it sleeps much, and should not be cut short where it serves a port
        self.since = cpu.rdtsc()
        self.charged = self.since
        self.period_end = self.since + self.period_ticks
        self.start_slice(self.since)

    # -- shares

    def promise(self, compartment, entitlement, cap, weight):
        """entitlement, cap: hundredths of this core; weight: 1 to WEIGHT_MOST. Returns whether there is so much left to promise."""
        total = entitlement
        n = 0
        while n < bounds.compartments:
            other = compartments[n]
            if other.used and other is not compartment:
                total += other.share.hundredths
            n += 1
        if total > share.WHOLE:
            return False
        compartment.share.set(entitlement, cap, weight, intmask(self.period_ticks // r_uint(share.WHOLE)))
        compartment.share.period = self.period
        return True

    def charge(self, now):
        """What the current compartment has had since it was charged last. Of a stretch longer than LONGEST_DEBT periods the
        rest is no debt: the whole machine stood still, or nobody else wanted it."""
        spent = now - self.charged
        self.charged = now
        if spent > self.period_ticks * LONGEST_DEBT:
            spent = self.period_ticks * LONGEST_DEBT
        own = self.compartment.share
        own.charge(intmask(spent), self.of_promise)
        if self.rivals == 0 and own.virtual > self.clock:
            self.clock = own.virtual

    def bill(self, compartment, spent):
        """Another core's message about this compartment has cost so much. What it has interrupted does not pay for it; and when the messages of
        this period have cost what the compartment is promised, the rest of them waits for the next, or until it runs."""
        if compartment is self.compartment:
            return
        self.charged += spent
        self.since += spent
        compartment.share.catch_up(self.period, 0)
        if compartment.share.hear(intmask(spent) * AROUND) and self.compartment.wants():
            holds.hold(compartment)
            if self.period_end < self.slice_end:
                self.slice_end = self.period_end
            if self.period_end < self.armed:
                self.arm_at(self.since, self.period_end)

    def renew(self, now):
        """A period has ended, or several have while nobody looked; how many. Shares catch up when they are looked at."""
        periods = (now - self.period_end) // self.period_ticks + 1
        self.period_end += periods * self.period_ticks
        self.period += intmask(periods)
        if holds.bits != R0:
            holds.lift()
        return intmask(periods)

    def pick(self):
        """Decide what runs next, in `compartment` and `vcpu`; sleeps while nothing is ready."""
        if not self.goes_on() and not self.choose_in(self.compartment):
            self.rotate()

    def goes_on(self):
        """Is what ran last, or was handed the processor, what `choose_in` would choose? After nearly every exit it is."""
        vcpu, task = self.vcpu, self.compartment.task
        if vcpu is None:
            return task.ready
        return vcpu.ready and not task.ready

    @hot
    def rotate(self):
        """What ran wants the processor no longer. Others' timers are looked at here too: who gives the processor away before its slice
        ends would keep them waiting otherwise."""
        self.account()
        self.charge(self.since)
        if passed(self.since, self.due):
            self.expire_timers(self.since)
        self.elect()

    @hot
    def elect(self):
        """Who comes first gets a slice, now that all is charged up to `since`; sleeps while nobody may run."""
        first = self.first()
        while first is None:
            self.sleep()
            first = self.first()
        if self.must_serve():
            first = compartments[lines.unserved]
            self.of_promise = first.share.budget > 0
        if first is self.compartment:
            first.waits_since = R0
        elif first.waits_since != R0:
            first.had_to_wait(self.since, self.turn_ticks)
        if first.task.ready:
            self.vcpu = None
        elif first is not self.compartment or self.vcpu is None or not self.vcpu.ready:
            self.vcpu = first.next_vcpu()
        if first is not self.compartment and first.share.heard != 0 and holds.bits != R0:
            holds.lift()
        self.compartment = first
        first.share.fresh = False
        self.start_slice(self.since)

    def must_serve(self):
        """Is there a compartment at work whose line has come, and would not come again for what the device gets meanwhile? Nobody goes before
        it: its device's buffer is small. The device's speed is what bounds that."""
        number = lines.unserved
        return number >= 0 and number < limit.COMPARTMENTS and compartments[number].used and compartments[number].task.ready

    @hot
    def first(self):
        """The compartment that comes first, None if none may run. What runs stays on if it comes as early as another."""
        just_ended = 0
        if passed(self.since, self.period_end):
            just_ended = self.renew(self.since)
        bits = wanting.bits
        if bits & (bits - 1) == R0 and bits != R0:
            only = compartments[intmask(cpu.bsr(bits))]
            if only.used and only.wants():
                return self.alone(only, just_ended)
        return self.first_of_all(just_ended)

    @hot
    def alone(self, compartment, just_ended):
        """first(), when nobody else wants the processor."""
        own = compartment.share
        own.catch_up(self.period, just_ended)
        if own.idle:
            own.arrive(self.clock)
        self.rivals = 0
        self.fresh = 0
        self.of_promise = False
        self.throttled = not own.may_run()
        if self.throttled:
            return None
        if own.budget <= 0 and own.virtual > self.clock:
            self.clock = own.virtual
        return compartment

    @hot
    @dont_inline                        # or first() would keep registers for it
    def first_of_all(self, just_ended):
        first = None
        least = 0
        count = 0
        fresh = 0
        below = (R1 << self.compartment.number) - 1
        bits = wanting.bits & ~below
        others = wanting.bits & below
        while bits | others != R0:
            if bits == R0:
                bits = others
                others = R0
            bit = bits & (~bits + 1)
            bits ^= bit
            compartment = compartments[intmask(cpu.bsr(bit))]
            own = compartment.share
            if not compartment.used or not compartment.wants():
                own.idle = True
                compartment.waits_since = R0
                wanting.bits ^= bit
                continue
            count += 1
            if compartment.waits_since == R0:
                compartment.waits_since = self.since
            own.catch_up(self.period, just_ended)
            if own.idle:
                own.arrive(self.clock)
            if own.may_run():
                precedence = own.precedence()
                if own.fresh and own.budget > 0:
                    fresh += 1
                if first is None or precedence < least:
                    first = compartment
                    least = precedence
        self.rivals = count - 1
        self.fresh = fresh
        self.of_promise = least < 0 and count > 1
        self.throttled = count > 0 and first is None
        if least > self.clock:
            self.clock = least
        return first

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

    def favour(self, number):
        """A device has something for this compartment (negative: for nobody), and its buffer is small: its task goes first, for a period if
        need be, even beyond what the compartment is promised. What was interrupted waits. Guests cannot cause that; the line's speed is
        what bounds it."""
        if number < 0 or number >= limit.COMPARTMENTS or not compartments[number].task.ready:
            return
        favoured = compartments[number]
        self.charge(cpu.rdtsc())
        if favoured is not self.compartment and self.compartment.wants():
            self.compartment.waits_since = self.charged
        self.run_next(favoured, None)
        favoured.share.catch_up(self.period, 0)
        self.of_promise = favoured.share.budget > 0
        self.rivals = 1
        self.woken = False
        self.slice_start = self.since
        self.slice_end = self.since + self.period_ticks
        self.arm_slice(self.since)

    def wake(self, compartment):
        """Another compartment has come to want the processor, by something that the current one did: it has not long to wait if it comes
        first."""
        if compartment is self.compartment:
            return
        self.woken = True
        self.shorten(cpu.rdtsc())

    def shorten(self, now):
        """Who is interrupted for others that wake has had a turn's length of its slice."""
        moment = self.slice_start + self.turn_ticks
        if moment < self.slice_end:
            self.slice_end = moment
        if moment < self.armed:
            self.arm_at(now, moment)

    def lap(self):
        """What runs now ends here: the ticks since it began."""
        now = cpu.rdtsc()
        spent = now - self.since
        self.since = now
        return spent

    def account(self):
        """Charge the time since `since` to what ran, and to the VMM's debt if it owes an answer."""
        spent = self.lap()
        if self.vcpu is not None:
            self.vcpu.ticks += spent
            return
        task = self.compartment.task
        task.ticks += spent
        if task.owes:
            task.owed_ticks += self.creditable(spent)

    def creditable(self, spent):
        """The timer ends every run when it is armed to. One that goes on longer by more than two slices means that the whole machine stood
        still (a host below has taken the processor away), and that is not the VMM's fault."""
        if not passed(self.since, self.too_late):
            return spent
        excess = self.since - self.too_late
        if excess + self.slice_ticks * 2 > spent:
            return self.slice_ticks * 2
        return spent - excess

    @hot
    def start_slice(self, now):
        """Of the current compartment. It ends when what it is promised in this period is used up, or its cap is. Who has more than it is
        promised has it while others wait for their next period at most; nothing ends it while nobody else wants the processor."""
        own = self.compartment.share
        length = self.slice_ticks
        if self.rivals <= 0:
            length = self.alone_ticks
        elif self.of_promise:
            length = r_uint(own.budget)
        elif self.period_end - now < length:
            length = self.period_end - now
        if own.limit != 0 and r_uint(own.allowance) < length:
            length = r_uint(own.allowance)
        if self.fresh > 1 and self.turn_ticks < length:
            length = self.turn_ticks
        if holds.bits != R0 and self.period_end - now < length:
            length = self.period_end - now
        self.woken = False
        self.slice_start = now
        self.slice_end = now + length
        self.arm_slice(now)

    def arm_slice(self, now):
        """vCPUs of one VM take shorter turns within their slice: they wait for one another more than VMs do."""
        until = self.slice_end
        if self.compartment.here > 1 and now + self.turn_ticks < until:
            until = now + self.turn_ticks
        task = self.compartment.task
        if task.owes and now + (self.silence_ticks - task.owed_ticks) < until:
            until = now + (self.silence_ticks - task.owed_ticks) + 1
        self.arm(now, until, False)

    def take_turn(self):
        """The timer has fired within a slice: the next vCPU of the same VM, if there is one; when its VMM is at work, after that."""
        compartment = self.compartment
        if compartment.here <= 1:
            return
        if self.vcpu is None:
            self.turn_over = True
            return
        vcpu = compartment.next_vcpu()
        if vcpu is not None:
            self.run_next(compartment, vcpu)

    @hot
    def arm(self, now, until, everybody):
        """Set the timer to the earliest deadline, at most `until`. Those of the current compartment count exactly, and all do while
        everybody sleeps; others' are worth an interrupt after a turn's length only, however fast they go."""
        if timed.tasks | timed.vcpus == R0:
            self.due = ~R0
            self.arm_at(now, until)
        else:
            self.arm_among(now, until, everybody)

    @hot
    @dont_inline                        # or arm() would keep registers for it
    def arm_among(self, now, until, everybody):
        later = now + self.turn_ticks
        due = ~R0
        bits = timed.tasks
        while bits != R0:
            n = intmask(cpu.bsr(bits))
            bits ^= R1 << n
            compartment = compartments[n]
            task = compartment.task
            if task.deadline == NEVER and not task.owes:
                timed.tasks ^= task.bit
                continue
            deadline = self.wake_time(compartment)
            if deadline != NEVER:
                if deadline < due:
                    due = deadline
                if deadline < later and not everybody and compartment is not self.compartment:
                    deadline = later
                if deadline < until:
                    until = deadline
        bits = timed.vcpus
        while bits != R0:
            n = intmask(cpu.bsr(bits))
            bits ^= R1 << n
            vcpu = vcpus[n]
            deadline = vcpu.apic.deadline
            if deadline == R0:
                timed.vcpus ^= vcpu.apic.bit
                continue
            if deadline < due:
                due = deadline
            if deadline < until:
                deadline = self.heard(vcpu, deadline, later, everybody)
                if deadline < until:
                    until = deadline
        self.due = due
        self.arm_at(now, until)

    def heard(self, vcpu, deadline, later, everybody):
        """When a guest's APIC timer is to be looked at: never, if its VM waits for the processor anyway."""
        if everybody or vcpu.compartment is self.compartment:
            return deadline
        if not vcpu.compartment.share.idle:
            return ~R0
        if deadline < later:
            return later
        return deadline

    def arm_at(self, now, moment):
        """Never nearer than `shortest`: a timer that fires too early is only armed again, and no guest's may fire without end."""
        if moment < now + self.shortest:
            moment = now + self.shortest
        self.armed = moment
        self.too_late = moment + self.slice_ticks * 2
        timer.arm_until(moment)

    def nudge(self, deadline):
        """A deadline has been set while the timer is armed already: fire earlier if it comes first."""
        if self.is_nearer(deadline):
            if deadline < self.due:
                self.due = deadline
            self.arm_at(cpu.rdtsc(), deadline)

    def is_nearer(self, deadline):
        """Does it come before the timer fires? 0: never."""
        return deadline - 1 < self.armed - 1

    @hot
    def expire_timers(self, now):
        """Guests' APIC timers whose time has come."""
        bits = timed.vcpus
        while bits != R0:
            n = intmask(cpu.bsr(bits))
            bits ^= R1 << n
            vcpu = vcpus[n]
            deadline = vcpu.apic.deadline
            if deadline != R0 and passed(now, deadline):
                slept = vcpu.halted
                vcpu.ticked = True
                vector = vcpu.apic.expire(now)
                if vector >= 0:
                    vcpu.request_edge(vector)
                if slept and not vcpu.halted and vcpu.compartment is not self.compartment:
                    self.woken = True

    def wake_time(self, compartment):
        """When a blocked task has to be looked at: at its deadline, or when a VMM in WAIT has owed an answer too long."""
        task = compartment.task
        if task.blocked == IN_WAIT and task.owes:
            limit_time = task.waiting_since + (self.silence_ticks - task.owed_ticks)
            if task.deadline == NEVER or limit_time < task.deadline:
                return limit_time
        return task.deadline

    @hot
    def tick(self):
        """The timer has fired: wake whom it is for, stop VMMs that are silent, end the slice if it is over or somebody has woken."""
        timer.acknowledge()
        self.account()
        now = self.since
        if self.vcpu is not None:
            self.vcpu.ticked = True
        if passed(now, self.due):
            self.look_at_all(now)
        elif self.compartment.task.owes:
            self.look_at(self.compartment, now)
        if passed(now, self.slice_end) or self.woken and passed(now, self.slice_start + self.turn_ticks):
            interrupted = self.compartment
            self.charge(now)
            self.elect()
            if self.compartment is interrupted:     # else its next slice begins with the next vCPU
                self.take_turn()
            return
        self.take_turn()
        if self.woken:
            self.shorten(now)
        self.arm_slice(now)

    @hot
    def look_at_all(self, now):
        bits = timed.tasks
        while bits != R0:
            n = intmask(cpu.bsr(bits))
            bits ^= R1 << n
            task = compartments[n].task
            if task.owes or task.deadline - 1 < now:        # NEVER is 0
                self.look_at(compartments[n], now)
        self.expire_timers(now)

    def look_at(self, compartment, now):
        task = compartment.task
        if not compartment.used:
            return
        if task.blocked == IN_WAIT and task.owes and now - task.waiting_since > self.silence_ticks - task.owed_ticks:
            task.owed_ticks = self.silence_ticks + 1
        if task.deadline != NEVER and passed(now, task.deadline):
            task.deadline_passed()
            if compartment is not self.compartment:
                self.woken = True
        if task.owes and task.owed_ticks > self.silence_ticks:
            compartment.stop(ending.VMM_SILENT, R0)
            self.woken = True

    def sleep(self):
        """Nobody may run: wait for an interrupt, or for the next period if that will let somebody."""
        if holds.bits != R0:
            holds.lift()
        now = cpu.rdtsc()
        self.since = now
        until = now + self.alone_ticks
        if self.throttled:
            until = self.period_end
        self.arm(now, until, True)
        vector = cpu.wait_interrupt()
        if lines.is_line(vector):
            lines.arrive(vector)
        elif vector == r_uint(VECTOR_DOORBELL):
            timer.acknowledge()
            self.bell.answer()
        else:
            timer.acknowledge()
        now = cpu.rdtsc()
        self.since = now
        self.charged = now
        if passed(now, self.due):
            self.look_at_all(now)


scheduler = Scheduler()
