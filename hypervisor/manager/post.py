"""Messages to and from the manager of another core (hypervisor/spec/link.py), over the byte stream of a link.

A message is put in whole or not at all: `has_room` is asked first. The other manager is the same program, but its core may have gone mad:
a message that cannot be ends the stream (`broken`).
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.lib import call
from hypervisor.spec import layout, link, status
from hypervisor.spec.call import SLOT_LINK
from hypervisor.spec.vcpu import RING_BYTES

PAGE = r_uint(layout.TASK_PAGE)
HEADER_BYTES = link.HEADER['END']
BUFFER_BYTES = 2 * (HEADER_BYTES + link.MOST_BYTES)
NOTHING = 0                 # no whole message has come


class Post(object):
    """This manager's end of the stream with core `core`. kind, vm, length: of the message that next() has found; byte() and word() read it."""

    def __init__(self, core):
        self.slot = SLOT_LINK + core
        self.out = ['\0'] * BUFFER_BYTES                 # characters, which take a byte each
        self.out_count = 0
        self.into = ['\0'] * (BUFFER_BYTES + RING_BYTES)
        self.into_count = 0
        self.kind = NOTHING
        self.vm = 0
        self.length = 0
        self.broken = False

    def start(self):
        self.out_count = 0
        self.into_count = 0
        self.kind = NOTHING
        self.length = 0
        self.broken = False

    # -- sending

    def has_room(self, length):
        return self.out_count + HEADER_BYTES + length <= BUFFER_BYTES

    def begin(self, kind, vm, length):
        """Start a message of `length` bytes, which are put in next. There has to be room."""
        self.put(kind)
        self.put(vm)
        self.put(length & 0xff)
        self.put(length >> 8)

    def put(self, byte):
        if self.out_count < BUFFER_BYTES:
            self.out[self.out_count] = chr(byte & 0xff)
            self.out_count += 1

    def put_word(self, word):
        for n in range(8):
            self.put(intmask(word >> (8 * n)) & 0xff)

    def pump(self):
        """Hand on what is waiting, as far as there is room for it."""
        while self.out_count > 0:
            count = min(self.out_count, RING_BYTES)
            for n in range(count):
                memory.store8(PAGE + r_uint(n), r_uint(ord(self.out[n])))
            if call.ring_send(self.slot, count) != status.OK:
                return
            taken = intmask(call.value())
            if taken <= 0 or taken > count:
                return
            self.out_count -= taken
            for n in range(self.out_count):
                self.out[n] = self.out[n + taken]

    # -- receiving

    def next(self):
        """Find the next message; the one before is forgotten. Returns its kind, or NOTHING."""
        if self.kind != NOTHING:
            self.drop(HEADER_BYTES + self.length)
            self.kind = NOTHING
        if not self.is_whole():
            self.fetch()
            if not self.is_whole():
                return NOTHING
        self.kind = ord(self.into[0])
        self.vm = ord(self.into[1])
        return self.kind

    def is_whole(self):
        """Has all of a message come? Sets its length."""
        if self.broken or self.into_count < HEADER_BYTES:
            return False
        self.length = ord(self.into[2]) | ord(self.into[3]) << 8
        kind = ord(self.into[0])
        if self.length > link.MOST_BYTES or kind == NOTHING or kind >= link.KINDS:
            self.broken = True
            return False
        return self.into_count >= HEADER_BYTES + self.length

    def fetch(self):
        """Bytes of a message that is not whole are fewer than BUFFER_BYTES, so that another load has room."""
        if self.broken or call.ring_receive(self.slot) != status.OK:
            return
        count = intmask(call.value())
        if count < 0 or count > RING_BYTES or self.into_count + count > len(self.into):
            self.broken = True
            return
        for n in range(count):
            self.into[self.into_count + n] = chr(intmask(memory.load8(PAGE + r_uint(n))) & 0xff)
        self.into_count += count

    def drop(self, count):
        self.into_count -= count
        for n in range(self.into_count):
            self.into[n] = self.into[n + count]

    def byte(self, n):
        """Byte n of the message; 0 behind its end."""
        return ord(self.into[HEADER_BYTES + n]) if n < self.length else 0

    def word(self, offset):
        result = r_uint(0)
        for n in range(8):
            result |= r_uint(self.byte(offset + n)) << (8 * n)
        return result
