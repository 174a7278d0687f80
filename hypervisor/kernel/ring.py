"""One-way byte streams between two compartments, in kernel memory: nothing is shared between the two ends."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel import limit

R0 = r_uint(0)
CAPACITY = r_uint(limit.RING_CAPACITY)


class Ring(object):
    """Invariant: tail <= head <= tail + CAPACITY; both count bytes since the start."""

    def __init__(self):
        self.used = False
        self.buffer = R0            # hva of one page, kept when the ring is closed
        self.head = R0              # bytes ever put in
        self.tail = R0              # bytes ever taken out
        self.sender = None
        self.sender_slot = 0
        self.receiver = None
        self.receiver_slot = 0
        self.starved = False        # the sender could not put in all it had

    def open(self, sender, sender_slot, receiver, receiver_slot):
        self.used = True
        self.head = R0
        self.tail = R0
        self.sender = sender
        self.sender_slot = sender_slot
        self.receiver = receiver
        self.receiver_slot = receiver_slot
        self.starved = False

    def close(self):
        self.used = False
        self.sender = None
        self.receiver = None

    def put(self, source, count):
        """Copy up to count bytes from hva `source`. Returns how many fitted."""
        room = CAPACITY - (self.head - self.tail)
        if count > room:
            self.starved = True
            count = room
        move(self.buffer, source, self.head, count, True)
        self.head += count
        return count

    def get(self, target, most):
        """Copy up to `most` bytes to hva `target`. Returns how many there were."""
        count = self.head - self.tail
        if count > most:
            count = most
        move(self.buffer, target, self.tail, count, False)
        self.tail += count
        return count


def move(buffer, outside, position, count, inwards):
    """Copy count bytes between hva `outside` and the CAPACITY bytes at hva `buffer`, from byte `position` of the stream on."""
    offset = position & (CAPACITY - 1)
    first = CAPACITY - offset
    if first > count:
        first = count
    if inwards:
        memory.copy(buffer + offset, outside, first)
        memory.copy(buffer, outside + first, count - first)
    else:
        memory.copy(outside, buffer + offset, first)
        memory.copy(outside + first, buffer, count - first)


rings = [Ring() for _ in range(limit.RINGS)]
