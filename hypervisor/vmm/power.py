"""What the guest, or the VMM itself, has asked to happen to the VM as a whole.

Devices leave a wish here while an exit is handled; the loop looks at it before it answers (main.py).
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import ending

RUN, LEAVE, RESET = 0, 1, 2


class Power(object):
    def __init__(self):
        self.wish = RUN
        self.how = ending.NONE          # LEAVE: the codes of STOP
        self.detail = r_uint(0)
        self.restarts = 0               # resets that are still allowed

    def set_restarts(self, count):
        self.restarts = count

    def leave(self, how, detail):
        """End the VM. The first reason counts."""
        if self.wish != LEAVE:
            self.wish = LEAVE
            self.how = how
            self.detail = detail

    def reset(self):
        """Start the guest again, or end the VM when it has done that often enough."""
        self._restart(ending.RESET)

    def panic(self):
        """The guest's operating system has given up: likewise."""
        self._restart(ending.PANICKED)

    def _restart(self, how):
        if self.wish != RUN:
            return
        if self.restarts <= 0:
            self.leave(how, r_uint(0))
            return
        self.restarts -= 1
        self.wish = RESET

    def started(self):
        """The reset is done."""
        if self.wish == RESET:
            self.wish = RUN
