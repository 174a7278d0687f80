"""What a compartment is promised of its core, and what it has left of that in this period.

The ten lines: docs/design.md, "Shares". Times are TSC ticks, as plain integers: what is overdrawn is below zero.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec.share import LEAST, NO_CAP, WEIGHT

SCALE = r_uint(1 << 16)             # of the part that is left, as `precedence` tells it
AHEAD = 1 << 56                     # more than any budget times any scale
SLOWNESS_SHIFT = 20
SLOWNESS = r_uint(WEIGHT << SLOWNESS_SHIFT)
assert LEAST > 0 and NO_CAP == 0


class Share(object):
    """Invariant: with a cap, promised <= limit; budget <= 2 * promised, allowance <= 2 * limit."""

    def __init__(self):
        self.open()

    def open(self):
        """Of a new compartment: nothing is promised, nothing forbidden."""
        self.hundredths = 0         # promised, of a core
        self.promised = 0           # in each period
        self.limit = 0              # in each period, 0: none
        self.budget = 0             # left of what is promised
        self.allowance = 0          # left of the limit
        self.reserve = 0            # of the budget, kept though nothing is wanted
        self.hearing = 0            # what messages about it may cost in each period, 0: nothing is set yet
        self.heard = 0              # what they have cost in this one
        self.virtual = 0            # what it had beyond its promise, divided by its weight
        self.scale = 0
        self.slowness = 1 << SLOWNESS_SHIFT
        self.idle = True            # wanted nothing when the scheduler looked last
        self.fresh = False          # has come to want the processor, and has not had it since
        self.period = 0             # up to which it is renewed

    def set(self, entitlement, cap, weight, hundredth):
        """entitlement, cap: hundredths of a core; cap 0: none, else at least the entitlement. weight: 1 to WEIGHT_MOST. hundredth: ticks of
        a hundredth of a period."""
        self.hundredths = entitlement
        self.promised = entitlement * hundredth
        self.limit = cap * hundredth
        self.hearing = max(self.promised, hundredth)
        self.budget = self.promised
        self.allowance = self.limit
        self.scale = 0
        if entitlement > 0:
            self.scale = intmask(SCALE // r_uint(entitlement))
        self.slowness = intmask(SLOWNESS // r_uint(weight))

    def catch_up(self, period, just_ended):
        """Before anything is asked or charged: the periods that have ended since, up to this one. just_ended: how many of them have only been
        found now to have ended; then even who has just come to want the processor has wanted it."""
        periods = period - self.period
        if periods == 0:
            return
        self.period = period
        if self.idle and periods > just_ended:
            self.renew(periods - just_ended, False)
            periods = just_ended
        if periods > 0:
            self.renew(periods, True)

    def renew(self, periods, wanting):
        """So many periods have ended, 1 or more. What could not be had although it was wanted is had in the one that begins, at most as much
        again; and what was overdrawn is missing."""
        most = self.promised + self.reserve
        if wanting and self.promised > self.reserve:
            most = self.promised + self.promised
        budget = self.budget + periods * self.promised
        if budget > most:
            budget = most
        most = self.limit
        if budget > self.promised:
            most += budget - self.promised
        allowance = self.allowance + periods * self.limit
        if allowance > most:
            allowance = most
        self.budget = budget
        self.allowance = allowance
        self.heard = 0

    def arrive(self, clock):
        """It wants the processor again. Having wanted nothing gives no claim on what the others share beyond their promises."""
        self.idle = False
        self.fresh = True
        if self.virtual < clock:
            self.virtual = clock

    def may_run(self):
        return self.limit == 0 or self.allowance > 0

    def precedence(self):
        """Who has the lowest goes first: those with something left of their promise, who has just come before others, by the part of it; then
        those who had least."""
        if self.budget > 0:
            if self.fresh:
                return -self.budget * self.scale - AHEAD
            return -self.budget * self.scale
        return self.virtual

    def charge(self, spent, of_promise):
        if self.limit != 0:
            self.allowance -= spent
        if of_promise:
            self.budget -= spent
        else:
            self.virtual += (spent * self.slowness) >> SLOWNESS_SHIFT

    def hear(self, spent):
        """Charge what messages about it have cost. Returns whether that is enough for this period."""
        self.charge(spent, self.budget > 0)
        self.heard += spent
        return self.hearing != 0 and self.heard > self.hearing
