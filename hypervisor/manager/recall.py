"""Takes back and clears the frames of VMs that have ended, a piece at a time, so that the consoles of the others do not wait.

One step is one TAKE or the clearing of one batch; the last one lets the kernel forget the VM. The frames are named by the regions they were given from (docs/abi.md, TAKE).
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.lib import call
from hypervisor.manager.build import clear_batch
from hypervisor.manager.vm import ENDED, GONE
from hypervisor.spec import ending, status
from hypervisor.spec.call import BATCH

CLEARED_AT_ONCE = BATCH // 8    # frames: the serial port must not wait for longer


class Recall(object):
    """The work on one VM: grants[grant] is being taken, then cleared up to frame `cleared`. `failure`: the first bad status."""

    def __init__(self):
        self.grant = 0
        self.taken = False
        self.cleared = 0
        self.failure = status.OK

    def start(self):
        self.grant = 0
        self.taken = False
        self.cleared = 0
        self.failure = status.OK

    def step(self, vm):
        """Do one piece for a VM in state ENDED; the last piece makes it GONE."""
        assert vm.state == ENDED
        if self.grant >= vm.grant_count:
            self.release(vm)
            vm.state = GONE
            return
        grant = vm.grants[self.grant]
        answer = self.clear(grant) if self.taken else self.take(vm, grant)
        if answer != status.OK:
            if self.failure == status.OK:
                self.failure = answer
            self.next()

    def release(self, vm):
        """Nothing is its any more: the kernel's pages for it come back. A VM that could not be started may never have had any."""
        answer = call.stop(vm.compartment, ending.DESTROYED, r_uint(0))
        if answer != status.BAD_SLOT and self.failure == status.OK:
            self.failure = answer

    def take(self, vm, grant):
        """Take one batch back. An empty slot is no failure: a VM that could not be started may have been given nothing here."""
        answer = call.take_batch(vm.compartment, grant.target, grant.region)
        if answer == status.OK:
            self.taken = call.value() == r_uint(0)
        elif answer == status.BAD_SLOT:
            self.next()
            return status.OK
        return answer

    def clear(self, grant):
        left = grant.count - self.cleared
        count = left if left < CLEARED_AT_ONCE else CLEARED_AT_ONCE
        answer = clear_batch(grant.region, grant.first + self.cleared, count)
        self.cleared += count
        if answer == status.OK and self.cleared >= grant.count:
            self.next()
        return answer

    def next(self):
        self.grant += 1
        self.taken = False
        self.cleared = 0
