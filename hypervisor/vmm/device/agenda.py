"""When devices have something to do by themselves: the loop asks for the nearest time and calls those that are due."""
from hypervisor.vmm.device.clock import NEVER


class Timed(object):
    """A device with a next event."""

    def __init__(self, agenda):
        self.agenda = agenda
        agenda.add(self)
        self.due_at = NEVER             # TSC

    def due(self):
        return self.due_at

    def set_due(self, at):
        """at: TSC of the next event, or NEVER."""
        if at != self.due_at:
            self.due_at = at
            self.agenda.update()

    def tick(self, now):
        """The event is due. Called by the agenda, after which due_at must lie in the future or be NEVER."""


class Agenda(object):
    def __init__(self):
        self.devices = []               # all there are, before anything runs
        self.nearest = NEVER            # TSC: what the loop hands to VCPU_RUN

    def add(self, device):
        self.devices = self.devices + [device]

    def update(self):
        nearest = NEVER
        for device in self.devices:
            due = device.due_at
            if due != NEVER and (nearest == NEVER or due < nearest):
                nearest = due
        self.nearest = nearest

    def tick(self, now):
        """Call whoever is due."""
        for device in self.devices:
            due = device.due_at
            if due != NEVER and due <= now:
                device.tick(now)


def earlier(a, b):
    """Of two times that may be NEVER."""
    if a == NEVER:
        return b
    return a if b == NEVER or a < b else b
