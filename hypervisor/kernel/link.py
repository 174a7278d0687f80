"""Byte streams between this core and the others, in pages that one core writes and one other reads; a doorbell says that there is news.
There are two sets of them: `links` for the managers, `wires` for what the kernels say to each other (wire.py).

A link has two directions. Each has a count of the bytes ever put in, which the sender keeps in its status page, and one of the bytes
ever taken out, which the receiver keeps in its own; a core takes its own counts from private memory and believes nobody else's further
than the page reaches. What does not fit stays with the sender: it says that it is starved, and the receiver rings when it has taken
something. Both look once more after they have said so, or each could wait for the other.
Sources: Intel SDM Vol. 3A, "Memory Ordering"; Lamport, "Concurrent Reading and Writing", 1977 (one writer per word).
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu, memory
from hypervisor.kernel.apic import apic
from hypervisor.kernel.compartment import manager
from hypervisor.kernel.core import this
from hypervisor.kernel.paging import kernel_leaf
from hypervisor.kernel.ring import move
from hypervisor.spec import call, lapic, status
from hypervisor.spec import core as spec
from hypervisor.spec.call import READ, WRITE
from hypervisor.spec.cpu import VECTOR_DOORBELL
from hypervisor.spec.layout import LINK_BASE, PAGE

R0 = r_uint(0)
R1 = r_uint(1)
NOBODY = -1
CAPACITY = r_uint(spec.CAPACITY)
HEAD, TAIL, STARVED = spec.STATUS['HEAD_0'], spec.STATUS['TAIL_0'], spec.STATUS['STARVED_0']
STATE, TEXT_BYTES, HELD, BY_NMI, NMIS = [spec.STATUS[name] for name in ('STATE', 'TEXT_BYTES', 'HELD', 'BY_NMI', 'NMIS_0')]
DOORBELL_NMI = r_uint(lapic.NMI << lapic.MODE_SHIFT | lapic.ICR_ASSERT)


def of(core):
    """Offset of a core's word among those of all cores."""
    return r_uint(8 * core)


class Link(object):
    """This core's end. Invariant: head - what the peer has taken <= CAPACITY, unless the peer lies."""

    def __init__(self):
        self.head = R0              # bytes ever put in by this core
        self.tail = R0              # bytes ever taken out by this core
        self.starved = False
        self.seen_head = R0         # of the peer, when its doorbell was last answered
        self.seen_tail = R0
        self.seen_state = R0


class Channel(object):
    """base: hva of the first core's outbox of the first channel; 0 while there are no pages. channel: which one this is."""

    def __init__(self, channel):
        self.channel = channel
        self.base = R0
        self.number = 0
        self.count = 1
        self.links = [Link() for _ in range(spec.MOST)]

    def open(self):
        """While memory is mapped one to one. `this` knows where the pages are, or there are none."""
        self.base = this.pages
        self.number = this.number
        self.count = this.count

    def relocate(self):
        """The kernel root is loaded."""
        if self.base != R0:
            self.base = r_uint(LINK_BASE)

    # -- pages

    def place(self, core, page):
        """Offset of a page from `base`. page: the core that may read it; `count` for the status page."""
        return r_uint((self.channel * self.count + core) * (self.count + 1) + page) * PAGE

    def bytes_page(self, sender, receiver):
        return self.base + self.place(sender, receiver)

    def status_page(self, core):
        return self.base + self.place(core, self.count)

    def state_page(self, core):
        """The status page that also says how the core is: that of the first channel."""
        return self.base + r_uint(core * (self.count + 1) + self.count) * PAGE

    def map(self, space, owner):
        """Map what is this core's to write, and what others have written for it. Returns a status."""
        if this.pages == R0:
            return status.OK
        core = 0
        while core < self.count:
            code = self.map_page(space, owner, core, self.count)
            page = 0
            while page < self.count and code == status.OK:
                if page != core and (core == self.number or page == self.number):
                    code = self.map_page(space, owner, core, page)
                page += 1
            if code != status.OK:
                return code
            core += 1
        return status.OK

    def map_page(self, space, owner, core, page):
        rights = READ
        if core == self.number:
            rights = READ | WRITE
        offset = self.place(core, page)
        return space.map(owner, r_uint(LINK_BASE) + offset, this.pages + offset, kernel_leaf(rights), 0)

    # -- what is in them

    def is_peer(self, core):
        """core: r_uint, anything."""
        return self.base != R0 and core < r_uint(self.count) and core != r_uint(self.number)

    def state(self, core):
        """ABSENT, RUNNING or DEAD, as the core itself says."""
        return memory.load64(self.state_page(core) + STATE)

    def ring(self, core):
        """Have another core look at its links, if it listens."""
        if core != self.number and self.state(core) == r_uint(spec.RUNNING):
            if memory.load64(self.state_page(core) + BY_NMI) != R0:
                count = self.state_page(self.number) + NMIS + of(core)
                memory.store64(count, memory.load64(count) + 1)
                memory.fence()
                apic.send(this.apic[core], DOORBELL_NMI)
            else:
                memory.fence()
                apic.send(this.apic[core], r_uint(VECTOR_DOORBELL))

    def room(self, core):
        """Bytes that the page for `core` has room for; none when the core's count cannot be true."""
        taken = memory.load64(self.status_page(core) + TAIL + of(self.number))
        used = self.links[core].head - taken
        if used > CAPACITY:
            return R0
        return CAPACITY - used

    def room_for(self, core, count):
        """Up to count bytes: how many fit now. If not all do, the core rings when it has taken something."""
        room = self.room(core)
        if count > room:
            memory.store64(self.starved(core), R1)
            memory.fence()
            room = self.room(core)
        if count > room:
            return room
        return count

    def starved(self, core):
        return self.status_page(self.number) + STARVED + of(core)

    def put(self, core, source, count):
        """Copy up to count bytes from hva `source`. Returns how many fitted."""
        fits = self.room_for(core, count)
        self.links[core].starved = fits != count
        if fits == count:
            memory.store64(self.starved(core), R0)
        if fits != R0:
            self.copy_in(core, source, fits)
        return fits

    def put_whole(self, core, source, count):
        """Copy count bytes or, if they do not fit, none. Returns whether they did. What does not fit has the core ring even if something
        shorter fits after it: until `satisfied`."""
        if self.room_for(core, count) != count:
            return False
        self.copy_in(core, source, count)
        return True

    def satisfied(self):
        """No core need ring: all that has found no room is about to be tried again."""
        core = 0
        while core < self.count:
            memory.store64(self.starved(core), R0)
            core += 1

    def copy_in(self, core, source, count):
        link = self.links[core]
        move(self.bytes_page(self.number, core), source, link.head, count, True)
        link.head += count
        memory.store64(self.status_page(self.number) + HEAD + of(core), link.head)
        self.ring(core)

    def waiting(self, core):
        """How many bytes the core has put in that were not taken out; none when its count cannot be true."""
        count = memory.load64(self.status_page(core) + HEAD + of(self.number)) - self.links[core].tail
        if count > CAPACITY:
            return R0
        return count

    def get(self, core, target, most):
        """Copy up to `most` bytes to hva `target`. Returns how many there were."""
        link = self.links[core]
        count = self.waiting(core)
        if count > most:
            count = most
        if count == R0:
            return R0
        move(self.bytes_page(core, self.number), target, link.tail, count, False)
        link.tail += count
        memory.store64(self.status_page(self.number) + TAIL + of(core), link.tail)
        memory.fence()
        if memory.load64(self.status_page(core) + STARVED + of(self.number)) != R0:
            self.ring(core)
        return count


class Links(Channel):
    """The managers'. How a core is, and what it leaves when it dies, is in the same status pages."""

    def say_state(self, state):
        """Tell all others how this core is; there may be none."""
        if self.base == R0:
            return
        memory.store64(self.status_page(self.number) + STATE, r_uint(state))
        core = 0
        while core < self.count:
            self.ring(core)
            core += 1

    def say_by_nmi(self):
        """This core's doorbell is an NMI. Said before it says that it runs: until then nobody rings."""
        memory.store64(self.status_page(self.number) + BY_NMI, R1)

    def nmis(self):
        """How many NMIs all others have sent this core."""
        total = R0
        core = 0
        while core < self.count:
            if core != self.number:
                total += memory.load64(self.status_page(core) + NMIS + of(self.number))
            core += 1
        return total

    def arrive(self):
        """The doorbell: signal the manager for each core that has news. Returns whose compartment that is, NOBODY when there are none."""
        told = NOBODY
        core = 0
        while core < self.count:
            if core != self.number and self.has_news(core):
                manager.signal(call.SLOT_LINK + core)
                told = manager.number
            core += 1
        if self.number != spec.FIRST and self.state(spec.FIRST) == r_uint(spec.DEAD):
            cpu.halt()              # with the first core's manager the box is gone
        return told

    def has_news(self, core):
        link = self.links[core]
        page = self.status_page(core)
        head = memory.load64(page + HEAD + of(self.number))
        tail = memory.load64(page + TAIL + of(self.number))
        state = memory.load64(page + STATE)
        news = head != link.seen_head or state != link.seen_state or (link.starved and tail != link.seen_tail)
        link.seen_head = head
        link.seen_tail = tail
        link.seen_state = state
        return news

    # -- last words

    def say(self, byte):
        """Add a byte to what this core leaves when it dies."""
        page = self.status_page(self.number)
        count = memory.load64(page + TEXT_BYTES)
        if count < r_uint(spec.STATUS_TEXT_BYTES):
            memory.store8(page + spec.STATUS_TEXT + count, byte)
            memory.store64(page + TEXT_BYTES, count + 1)

    def copy_text(self, core, target):
        """Copy what a core has left to hva `target`: a word with the number of bytes, then these."""
        page = self.status_page(core)
        count = memory.load64(page + TEXT_BYTES)
        if count > r_uint(spec.STATUS_TEXT_BYTES):
            count = r_uint(spec.STATUS_TEXT_BYTES)
        memory.store64(target, count)
        memory.copy(target + 8, page + spec.STATUS_TEXT, count)


links = Links(spec.MANAGERS)
wires = Channel(spec.KERNELS)
