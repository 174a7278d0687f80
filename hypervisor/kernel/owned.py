"""A vCPU on a core of its own gets the core's local APIC itself, so that its timer ticks cost no exit.

The APIC is *lent* for one run: while the guest runs it is the guest's, and at the exit that ends the run it is the kernel's again, with what
it has for the guest put back into the vCPU's own (lapic.py). So everything else of the kernel, and the VMM, finds the vCPU's local APIC where
it always is. Exits that the quick path finishes do not end a run.

It is lent when a timer has just ticked, while nothing of the guest's is in service or level-triggered; until then, and after each exit that
ends the run, the vCPU's own APIC works as anywhere. While it is lent no interrupt exits: other cores ring by NMI, and what tasks have
timers for ends the run by VMX's preemption timer. Of the real registers the guest reaches EOI, TPR, PPR and, where its TSC is the
machine's, TSC_DEADLINE; so it can neither mask an NMI nor send anything.

Source: Intel SDM Vol. 3A, "Extended XAPIC (x2APIC)", "Local APIC Timer"; Vol. 3C, "VMX Preemption Timer".
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu, memory, nmi
from hypervisor.kernel import panic
from hypervisor.kernel.apic import apic
from hypervisor.kernel.compartment import bounds, compartments
from hypervisor.kernel.core import this
from hypervisor.kernel.lapic import TIMER, WORDS
from hypervisor.kernel.link import links
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.task import NEVER
from hypervisor.kernel.timer import LONGEST, timer
from hypervisor.kernel.vcpu import vcpus
from hypervisor.spec import call, lapic as spec
from hypervisor.spec import owning
from hypervisor.spec import cpu as bits

R0 = r_uint(0)
R1 = r_uint(1)
LOW32 = r_uint(0xffffffff)
MASKED = r_uint(spec.MASKED)
VECTOR = r_uint(0xff)
FIRST_VECTOR = r_uint(32)           # the lower ones would come to the kernel as exceptions, when it takes back what the guest has left
KERNELS_OWN = spec.IRR + 0x70       # the word of IRR in which all of the kernel's vectors are
LONGEST_PERIOD = R1 << 40           # TSC ticks
LATE = 4                            # a periodic timer is lent when no more than 2^-LATE of its period has passed
MOST_VECTORS = 256
assert min(bits.VECTOR_TIMER, bits.VECTOR_DOORBELL, bits.VECTOR_SPURIOUS) >= 0xe0

STOPPED, DEADLINE, PERIODIC, ONE_SHOT = range(4)        # what the real timer does for the guest


class Owned(object):
    """possible: this core may lend its APIC at all. how: what the real timer does for the guest. late: TSC ticks by which its periods are
    later than the vCPU's own. count: of a period, in the real timer's counts."""

    def __init__(self):
        self.possible = False
        self.deadlines = False          # the processor has TSC_DEADLINE
        self.nmi_exits = R0
        self.how = STOPPED
        self.late = R0
        self.count = R0

    def why(self, vendor):
        """Why a core of this machine, other than the first, does not lend its APIC (spec/owning.py)."""
        if not apic.x2apic:
            return owning.NO_X2APIC
        return vendor.can_lend()

    def open(self):
        """On a core that another one has started, when the vendor is enabled: from now on its doorbell is an NMI."""
        self.possible = not this.is_first() and self.why(switcher.vendor) == owning.POSSIBLE
        switcher.lends = self.possible
        self.deadlines = cpu.cpuid(r_uint(1), R0, r_uint(2)) & r_uint(spec.LEAF_1_ECX_DEADLINE) != R0
        if self.possible:
            nmi.listen()
            links.say_by_nmi()

    def nmi_exit(self):
        self.nmi_exits += 1
        nmi.unblock()

    def check_nmis(self):
        """Two that come together are one, so fewer come than are sent, never more."""
        if self.possible and nmi.count() + self.nmi_exits > links.nmis():
            panic.stray_nmi()

    # -- may it be lent?

    @dont_inline                        # most entries and exits are not about that
    def lend(self, vcpu):
        """Called before an entry, after a tick. If the APIC is the guest's now (vcpu.owns) nothing is left to inject."""
        vcpu.ticked = False
        if not self.possible or not is_alone(vcpu) or not is_plain(vcpu):
            return
        now = cpu.rdtsc()
        moment = nearest(now)
        if moment - now < scheduler.shortest or not self.choose_timer(vcpu.apic, now) or not self.take_from_kernel():
            return
        switcher.vendor.lend(vcpu, moment - now, self.deadlines and vcpu.apic.tsc_offset == R0)
        vcpu.owns = True
        vcpu.attention = False
        self.give(vcpu.apic)

    def choose_timer(self, own, now):
        """What the real timer is to do. Returns False when it cannot do that, or not now."""
        self.how = STOPPED
        entry = own.lvt[TIMER]
        mode = own.timer_mode()
        if mode == spec.LVT_MODE_DEADLINE:
            self.how = DEADLINE
            return self.deadlines and (entry & MASKED != R0 or entry & VECTOR >= FIRST_VECTOR)
        if entry & MASKED != R0 or own.deadline == R0:
            return True
        if own.deadline <= now or entry & VECTOR < FIRST_VECTOR:
            return False
        if mode == spec.LVT_MODE_PERIODIC:
            period = own.initial << own.shift()
            self.how = PERIODIC
            self.late = now - own.started
            return self.late <= period >> LATE and self.choose_count(period)
        self.how = ONE_SHOT
        return self.choose_count(own.deadline - now)

    def choose_count(self, ticks):
        if ticks > LONGEST_PERIOD:
            return False
        self.count = (ticks * timer.ratio + (R1 << 19)) >> 20
        return self.count > R0 and self.count <= LONGEST

    # -- there and back

    def take_from_kernel(self):
        """The kernel's timer stops. Returns False, with the timer running again, when something has come for the kernel already."""
        apic.write(spec.TIMER, r_uint(spec.MASKED | bits.VECTOR_TIMER))
        apic.write(spec.INITIAL_COUNT, R0)
        nmi.hold()
        if apic.read(KERNELS_OWN) == R0:
            return True
        self.return_to_kernel()
        return False

    def return_to_kernel(self):
        """All is silent: the kernel's timer goes again, and so does the doorbell."""
        apic.write(spec.TIMER, r_uint(bits.VECTOR_TIMER))
        if nmi.release() != R0:
            apic.write(spec.SELF_IPI, r_uint(bits.VECTOR_DOORBELL))
        scheduler.arm_slice(cpu.rdtsc())

    def give(self, own):
        """The vCPU's requests and its timer."""
        apic.write(spec.SPURIOUS, own.svr)
        apic.write(spec.TPR, own.tpr)
        n = WORDS - 1
        while n >= 0:
            while own.irr[n] != R0:
                bit = intmask(cpu.bsr(own.irr[n]))
                own.irr[n] &= ~(R1 << bit)
                apic.write(spec.SELF_IPI, r_uint(64 * n + bit))
            n -= 1
        if self.how != STOPPED:
            apic.write(spec.TIMER, own.lvt[TIMER])
        if self.how == DEADLINE:
            memory.fence()              # the mode is set before the deadline
            cpu.wrmsr(r_uint(bits.MSR_TSC_DEADLINE), own.deadline)
        elif self.how != STOPPED:
            apic.write(spec.INITIAL_COUNT, self.count)

    @dont_inline
    def take_back(self, vcpu):
        """Called after the run. The APIC is the kernel's, and the vCPU's own one has all that the guest would find in it."""
        own = vcpu.apic
        vcpu.owns = False
        self.stop_timer(own)
        own.tpr = apic.read(spec.TPR)
        n = 0
        while n < WORDS:
            own.isr[n] |= apic.read(spec.ISR + 32 * n) | apic.read(spec.ISR + 32 * n + 16) << 32
            pending = apic.read(spec.IRR + 32 * n) | apic.read(spec.IRR + 32 * n + 16) << 32
            own.irr[n] |= pending
            own.tmr[n] &= ~(own.isr[n] | pending)
            n += 1
        silence()
        switcher.vendor.take_back(vcpu)
        vcpu.attention = True
        self.return_to_kernel()

    def stop_timer(self, own):
        """A tick that comes while the timer is being stopped is none too many: it has been requested, or is requested here."""
        came = False
        if self.how == DEADLINE:
            deadline = cpu.rdmsr(r_uint(bits.MSR_TSC_DEADLINE))
            cpu.wrmsr(r_uint(bits.MSR_TSC_DEADLINE), R0)
            came = deadline != R0 and deadline <= cpu.rdtsc()
            own.set_deadline(deadline)
            if came:
                own.deadline = R0
        elif self.how != STOPPED:
            came = self.stop_count(own)
        if came and own.lvt[TIMER] & MASKED == R0:
            own.request(intmask(own.lvt[TIMER] & VECTOR), False)
        apic.write(spec.TIMER, r_uint(spec.MASKED | bits.VECTOR_TIMER))

    def stop_count(self, own):
        """Returns whether the timer has come to its end in between."""
        before = apic.read(spec.CURRENT_COUNT)
        now = cpu.rdtsc()
        apic.write(spec.TIMER, r_uint(spec.MASKED | bits.VECTOR_TIMER) | own.lvt[TIMER] & r_uint(3 << 17))
        left = apic.read(spec.CURRENT_COUNT)
        apic.write(spec.INITIAL_COUNT, R0)
        if self.how == ONE_SHOT:
            if left == R0:
                own.deadline = R0
            return left == R0 and before != R0
        # The vCPU's own periods go on where they would be: what the real ones are late by is made up for now.
        own.set_deadline(now + (left << 20) // timer.ratio - self.late)
        own.started = own.deadline - (own.initial << own.shift())
        return left > before


def silence():
    """Nothing is in service any more, and nothing pending: all of it is in the vCPU's own APIC by now."""
    n = 0
    while n < MOST_VECTORS and has_any(spec.ISR):
        apic.acknowledge()
        n += 1
    apic.write(spec.TPR, R0)
    apic.write(spec.SPURIOUS, r_uint(spec.SPURIOUS_ENABLE | bits.VECTOR_SPURIOUS))
    n = 0
    while n < MOST_VECTORS and has_any(spec.IRR):
        if cpu.take_interrupt() != R0:
            apic.acknowledge()
        n += 1


def has_any(first):
    """first: ISR or IRR."""
    n = 0
    while n < 8:
        if apic.read(first + 16 * n) != R0:
            return True
        n += 1
    return False


def is_alone(vcpu):
    """Does nobody else want this core, now or later, but by a doorbell or a task's timer?"""
    n = 0
    while n < bounds.compartments:
        compartment = compartments[n]
        if compartment.used and compartment.task.ready:
            return False
        n += 1
    n = 0
    while n < bounds.vcpus:
        other = vcpus[n]
        if other is not vcpu and other.compartment is not None and not other.away and other.compartment.state != call.STATE_ENDED:
            return False
        n += 1
    return vcpu.compartment.share.limit == 0


def is_plain(vcpu):
    """Could the real APIC be in the state that the vCPU's own one is in?"""
    own = vcpu.apic
    if not own.is_x2apic() or not own.software_enabled() or own.nmi or own.accepts_extint() or vcpu.event != R0:
        return False
    busy = own.irr[0] & LOW32
    n = 0
    while n < WORDS:
        busy |= own.isr[n] | own.irr[n] & own.tmr[n]
        n += 1
    return busy == R0


def nearest(now):
    """TSC when a task's timer is due; a long time ahead if there is none."""
    moment = now + (R1 << 62)
    n = 0
    while n < bounds.compartments:
        compartment = compartments[n]
        deadline = scheduler.wake_time(compartment)
        if compartment.used and deadline != NEVER and deadline < moment:
            moment = deadline
        n += 1
    if moment < now:
        return now
    return moment


owned = Owned()
