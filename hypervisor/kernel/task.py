"""Tasks: a compartment's program in ring 3."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel.context import Context, timed
from hypervisor.spec import call, status
from hypervisor.spec.context import AREA

R0 = r_uint(0)

# Why a task is not ready
NOT_BLOCKED, IN_WAIT, IN_VCPU_RUN, IN_ASK = 0, 1, 2, 3     # IN_ASK: for what another core has to say about a vCPU

NEVER = r_uint(0)


class Task(Context):
    """Invariant: `ready` is set exactly when the task is started and `blocked` is NOT_BLOCKED."""

    def __init__(self):
        Context.__init__(self)
        self.area = R0              # hva of the register area
        self.page = R0              # hva of the task page
        self.page_hpa = R0
        self.blocked = NOT_BLOCKED
        self.deadline = NEVER       # TSC at which it wakes, while blocked
        self.owes = False           # a VMM with an exit to answer, or that has not run its vCPU yet
        self.bit = R0               # of `timed`
        self.owed_ticks = R0        # processor time or waiting time that it has used since
        self.waiting_since = R0     # TSC of the WAIT it is in, while it owes

    def argument(self, register):
        return memory.load64(self.area + register)

    def answer(self, code, value):
        """The result of a kernel call."""
        memory.store64(self.area + AREA['RAX'], r_uint(code))
        memory.store64(self.area + AREA['RDX'], value)

    def block(self, why, deadline):
        self.blocked = why
        self.deadline = deadline
        self.ready = False
        if deadline != NEVER:
            timed.tasks |= self.bit

    def owe(self):
        """There is something for the VMM to answer."""
        self.owes = True
        timed.tasks |= self.bit

    def wake(self):
        self.blocked = NOT_BLOCKED
        self.deadline = NEVER
        self.want()

    def signalled(self):
        """A signal bit was set. WAIT fetches the bits itself when it runs on; VCPU_RUN only says that there are some."""
        if self.blocked == IN_WAIT:
            self.compartment.finish_wait()
        elif self.blocked == IN_VCPU_RUN:
            self.answer(status.OK, r_uint(call.REASON_SIGNAL))
            self.wake()

    def deadline_passed(self):
        if self.blocked == IN_WAIT:
            self.compartment.finish_wait()
        elif self.blocked == IN_VCPU_RUN:
            self.answer(status.OK, r_uint(call.REASON_DEADLINE))
            self.wake()
