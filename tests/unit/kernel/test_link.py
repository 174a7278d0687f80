"""The pages between cores: what is put in comes out, in order and once; whoever waits is told; whoever lies gets nothing; nobody writes another's page."""
import random
import thread
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.hw import cpu as hw_cpu
from hypervisor.hw import memory as hw_memory
from hypervisor.kernel import link, ring
from hypervisor.kernel.core import this
from hypervisor.kernel.link import Links
from hypervisor.spec import call, lapic
from hypervisor.spec import core as spec
from hypervisor.spec.cpu import VECTOR_DOORBELL
from rpython.rlib.rarithmetic import r_uint
from tests.unit.kernel import machine as machines
from tests.unit.kernel.memory import PAGE, Memory, install

BASE = 0x40000000               # of the first core's outbox; what is before and behind is not there
OWN = 0x50000000                # a core's own page, for what goes in and comes out: core n's at OWN + 2 n pages
CAPACITY = 4096
WORD = (1 << 64) - 1


def own(core):
    return r_uint(OWN + 2 * PAGE * core)


class Manager(object):
    """Takes the place of each core's: the one that is told is the one whose core runs."""
    number = 0

    def __init__(self):
        self.running = 0
        self.signals = [0] * spec.MOST

    def signal(self, slot):
        self.signals[self.running] |= 1 << slot


class Bells(object):
    """The local APICs: a doorbell that rings twice before anybody looks has rung once."""

    def __init__(self):
        self.pending = set()

    def send(self, identity, command):
        assert command == VECTOR_DOORBELL
        self.pending.add(int(identity) - 100)


class Box(object):
    """`count` cores that run, with nothing but their links."""

    def __init__(self, count, memory=None):
        self.count = count
        self.size = count * (count + 1) * PAGE
        ranges = [(BASE, BASE + self.size)] + [(int(own(n)), int(own(n)) + PAGE) for n in range(count)]
        self.memory = memory or Memory(ranges)
        install(hw_memory, self.memory)
        hw_memory.fence = getattr(self.memory, 'fence', lambda: None)
        link.manager, link.apic = self.manager, self.bells = Manager(), Bells()
        this.pages, this.count, this.apic = r_uint(BASE), count, [r_uint(100 + n) for n in range(spec.MOST)]
        self.links = []
        for n in range(count):
            this.number = n
            one = Links(spec.MANAGERS)
            one.open()
            self.links.append(one)
        self.memory.watch = self.stored
        for n in range(count):
            self.run(n).say_state(spec.RUNNING)
        self.bells.pending.clear()

    def run(self, core):
        self.manager.running = core
        return self.links[core]

    def outbox(self, core):
        start = BASE + core * (self.count + 1) * PAGE
        return start, start + (self.count + 1) * PAGE

    def stored(self, address, size, value):
        """One writer per page: each store goes to the outbox of the core that runs, or to its own page."""
        running = self.manager.running
        start, end = self.outbox(running)
        assert start <= address < end or address & ~0xfff == own(running), 'core %d writes to %#x' % (running, address)

    def status(self, core, name):
        return BASE + (core * (self.count + 1) + self.count) * PAGE + spec.STATUS[name]

    def put(self, core, to, data):
        self.memory.put(int(own(core)), data)
        return int(self.run(core).put(to, own(core), r_uint(len(data))))

    def get(self, core, source, most):
        count = int(self.run(core).get(source, own(core), r_uint(most)))
        return self.memory.take(int(own(core)), count)

    def answer_bell(self, core):
        """Returns the cores that the manager is told of."""
        self.bells.pending.discard(core)
        self.manager.signals[core] = 0
        self.run(core).arrive()
        return set(n for n in range(self.count) if self.manager.signals[core] >> (call.SLOT_LINK + n) & 1)


@pytest.fixture
def boxes():
    """boxes(count): as often as a property wants."""
    before = link.manager, link.apic, hw_memory.fence
    yield Box
    link.manager, link.apic, hw_memory.fence = before
    machines.disconnect()


def test_a_core_that_lends_its_local_apic_is_rung_by_nmi(boxes):
    box, rung = boxes(3), []
    link.apic = type('Apic', (object,), {'send': staticmethod(lambda identity, command: rung.append((int(identity), int(command))))})
    box.run(1).say_by_nmi()
    box.put(0, 1, b'x')
    box.put(0, 2, b'x')
    box.put(1, 2, b'x')
    assert rung == [(101, lapic.NMI << 8 | lapic.ICR_ASSERT), (102, VECTOR_DOORBELL), (102, VECTOR_DOORBELL)]
    box.put(2, 1, b'x')
    assert [int(box.run(n).nmis()) for n in range(3)] == [0, 2, 0]


def test_links_know_where_their_own_cores_messages_go(boxes):
    """`ring` finds a core's local APIC."""
    from hypervisor.kernel.link import links
    box = boxes(3)
    this.number = 1
    links.open()
    box.manager.running = 1
    links.ring(2)
    assert box.bells.pending == set([2])


STEPS = st.lists(st.tuples(st.sampled_from(['put', 'put', 'get', 'get', 'bell']), st.integers(0, 2), st.integers(1, 2),
                           st.sampled_from([0, 1, 7, 100, 1000, 2047, 2048, 2048])), min_size=1, max_size=60)


@pytest.mark.parametrize('cores', [2, 3])
def test_what_is_put_in_comes_out_in_order_and_waits_when_there_is_no_room(boxes, cores):
    """Against a deque per direction. Doorbells come late and together; whoever has to be told is told by the next one."""
    @given(steps=STEPS, start=st.sampled_from([0, 4095, WORD - 5000]))
    def run(steps, start):
        box = boxes(cores)
        model = dict(((a, b), deque()) for a in range(cores) for b in range(cores) if a != b)
        starved, told, fresh = set(), dict((n, set()) for n in range(cores)), 0
        for (a, b) in model:                # the counts wrap: begin anywhere
            box.links[a].links[b].head = box.links[b].links[a].tail = r_uint(start)
            box.memory.put_word(box.status(a, 'HEAD_%d' % b), start)
            box.memory.put_word(box.status(b, 'TAIL_%d' % a), start)
        for n in range(cores):
            box.answer_bell(n)
        for action, core, other, size in steps:
            core %= cores
            other = (core + other) % cores
            if other == core:
                other = (core + 1) % cores
            if action == 'put':
                data = bytes(bytearray((fresh + n) * 31 >> 2 & 0xff for n in range(size)))
                stream = model[core, other]
                fits = min(size, CAPACITY - len(stream))
                assert box.put(core, other, data) == fits
                stream.extend(data[:fits])
                fresh += fits
                starved.discard((core, other))
                if fits < size:
                    starved.add((core, other))
                if fits:
                    assert other in box.bells.pending
                    told[other].add(core)
            elif action == 'get':
                stream = model[other, core]
                right = bytes(bytearray(ord(stream.popleft()) for _ in range(min(size, len(stream)))))
                rung = other in box.bells.pending
                assert box.get(core, other, size) == right
                hungry = bool(right) and (other, core) in starved
                assert (other in box.bells.pending) == (rung or hungry)
                if hungry:
                    told[other].add(core)
            elif core in box.bells.pending:
                assert box.answer_bell(core) >= told[core]
                told[core].clear()
        for core in list(box.bells.pending):
            assert box.answer_bell(core) >= told[core]
        for (a, b), stream in model.items():
            left = b''.join(iter(lambda: box.get(b, a, 1000), b''))
            assert left == b''.join(stream)
    run()


# -- between any two stores

class Deadlock(Exception):
    pass


class Buffered(object):
    """Memory as x86 shows it to several cores: each core's stores wait in its own queue, in order, and only the core itself sees
    them until they come out, which a fence waits for.
    Source: Intel SDM Vol. 3A, "Memory Ordering in P6 and More Recent Processor Families"."""

    def __init__(self):
        self.shared = {}
        self.queues = dict((n, deque()) for n in range(spec.MOST))
        self.core = lambda: 0
        self.point = lambda: None
        self.watch = None

    def take(self, address, size):
        view = dict((address + n, self.shared.get(address + n, 0)) for n in range(size))
        for at, data in self.queues[self.core()]:
            if at < address + size and at + len(data) > address:
                view.update((at + n, byte) for n, byte in enumerate(data) if at + n in view)
        return bytearray(view[address + n] for n in range(size))

    def drain(self, core):
        at, data = self.queues[core].popleft()
        for n, byte in enumerate(data):
            self.shared[at + n] = byte

    def load(self, address, size):
        self.point()
        value = 0
        for byte in reversed(self.take(address, size)):
            value = value << 8 | byte
        return value

    def store(self, address, size, value):
        self.write(address, bytearray(value >> 8 * n & 0xff for n in range(size)))

    def read(self, address, size):
        self.point()
        return self.take(int(address), int(size))

    def write(self, address, data):
        if not data:
            return
        self.point()
        if self.watch is not None:
            self.watch(int(address), len(data), None)
        self.queues[self.core()].append((int(address), bytearray(data)))

    def fence(self):
        self.point()
        while self.queues[self.core()]:
            self.drain(self.core())


class Race(object):
    """Each core's manager is a thread that sends and receives; one of them runs at a time, and another may go on at each access to
    memory. Interrupts come between calls, as in the kernel. A page of bytes has four of them here, so that it is full all the time."""

    def __init__(self, boxes, seed, cores, amount):
        self.random = random.Random(seed)
        self.burst = 0                      # accesses until the next switch
        self.flow = 0.0                     # how likely a store comes out of its queue before an access
        self.places = {}                    # how far each sender has come
        self.memory = Buffered()
        self.box = boxes(cores, self.memory)
        for n in range(cores):
            while self.memory.queues[n]:
                self.memory.drain(n)
        self.cores = cores
        self.memory.core = lambda: self.box.manager.running
        self.turns = [thread.allocate_lock() for _ in range(cores)]
        self.ended = thread.allocate_lock()
        self.over = False
        self.left = 100000                  # accesses
        self.failure = None
        self.asleep = set()
        self.sent = dict(((a, b), bytearray(self.random.randrange(256) for _ in range(self.random.choice([0, amount]))))
                         for a in range(cores) for b in range(cores) if a != b)
        self.got = dict((pair, bytearray()) for pair in self.sent)

    def go(self):
        self.box.manager.running = 0
        self.memory.point = self.point
        self.ended.acquire()
        for n in range(self.cores):
            self.turns[n].acquire()
            thread.start_new_thread(self.thread, (n,))
        self.turns[0].release()
        self.ended.acquire()
        if self.failure is not None:
            raise self.failure

    def finish(self, failure=None):
        if not self.over:
            self.over = True
            self.failure = failure
            self.ended.release()

    def switch(self, me):
        """Let somebody go on, perhaps this core."""
        able = [n for n in range(self.cores) if n not in self.asleep or n in self.box.bells.pending]
        if not able:
            self.finish(Deadlock() if self.got != self.sent else None)
            return
        to = self.random.choice(able)
        self.burst = self.random.choice([1, 2, 3, 4, 10, 30])
        self.flow = self.random.choice([0.0, 0.0, 0.0, 0.0, 0.3])
        if to != me:
            self.box.manager.running = to
            self.turns[to].release()
            self.turns[me].acquire()        # a thread of a race that is over never gets it

    def point(self):
        for n in range(self.cores):
            while self.memory.queues[n] and self.random.random() < self.flow:
                self.memory.drain(n)
        self.burst -= 1
        self.left -= 1
        assert self.left > 0, 'the race does not end'
        if self.burst < 0:
            self.switch(self.box.manager.running)

    def thread(self, core):
        self.turns[core].acquire()
        try:
            self.manage(core)
        except Exception as failure:        # noqa: the test's own thread raises it
            self.finish(failure)

    def manage(self, core):
        """A manager's loop: everything once, then WAIT unless there was something to do."""
        while True:
            more = False
            for other in range(self.cores):
                if other != core:
                    more = self.send(core, other) or more
                    more = self.receive(core, other) or more
                    self.interrupt(core)
            if more:
                continue
            while not self.box.manager.signals[core]:
                if core not in self.box.bells.pending:
                    while self.memory.queues[core]:
                        self.memory.drain(core)
                    self.asleep.add(core)
                    self.switch(core)
                    self.asleep.discard(core)
                    if self.over:
                        return
                self.interrupt(core, True)
            self.box.manager.signals[core] = 0

    def send(self, core, other):
        """Hand on a piece. Returns whether all of it fitted and there is more."""
        left = self.sent[core, other][self.places.setdefault((core, other), 0):]
        piece = left[:self.random.choice([1, 2, 4, 5])]
        if not piece:
            return False
        self.own_bytes(core, piece)
        taken = int(self.box.links[core].put(other, own(core), r_uint(len(piece))))
        self.places[core, other] += taken
        return taken == len(piece)

    def receive(self, core, other):
        count = int(self.box.links[core].get(other, own(core), r_uint(4)))
        self.got[other, core] += self.memory.take(int(own(core)), count)
        return count > 0

    def own_bytes(self, core, data):
        for n, byte in enumerate(data):
            self.memory.shared[int(own(core)) + n] = byte

    def interrupt(self, core, surely=False):
        if core in self.box.bells.pending and (surely or self.random.random() < 0.5):
            self.box.bells.pending.discard(core)
            self.box.links[core].arrive()


@pytest.mark.parametrize('cores, amount, count', [(2, 60, 80), (3, 30, 20)])
def test_nobody_waits_for_ever_whatever_comes_between_two_stores(boxes, monkeypatch, cores, amount, count):
    """All bytes arrive though each side sleeps whenever it has nothing to do, and no core is woken but by a doorbell."""
    monkeypatch.setattr(link, 'CAPACITY', r_uint(4))
    monkeypatch.setattr(ring, 'CAPACITY', r_uint(4))
    for seed in range(count):
        Race(boxes, seed, cores, amount).go()


# -- a core that lies

LIES = st.one_of(st.integers(0, WORD), st.integers(0, 3 * CAPACITY), st.integers(WORD - 2 * CAPACITY, WORD),
                 st.sampled_from([CAPACITY, CAPACITY + 1, CAPACITY - 1, 1 << 63, 1 << 32, WORD]))


@settings(max_examples=150)
@given(head=LIES, tail=LIES, before=st.integers(0, 9000), sent=st.integers(0, 2048), size=st.integers(0, 2048), most=st.integers(0, 2048))
def check_lies(boxes, head, tail, before, sent, size, most):
    box = boxes(3)
    for _ in range(before // 1000):                     # an honest past
        box.put(0, 1, b'x' * 1000)
        box.get(1, 0, 1000)
        box.put(1, 0, b'y' * 1000)
        box.get(0, 1, 1000)
    box.put(0, 1, b's' * sent)
    true_head, true_tail = int(box.links[0].links[1].head), int(box.links[0].links[1].tail)
    box.memory.put_word(box.status(1, 'HEAD_0'), head)
    box.memory.put_word(box.status(1, 'TAIL_0'), tail)
    copies = []
    plain = hw_memory.copy

    def copy(to, source, count):
        copies.append((int(to), int(source), int(count)))
        plain(to, source, count)
    hw_memory.copy = copy
    used = true_head - tail & WORD
    room = CAPACITY - used if used <= CAPACITY else 0
    assert box.run(0).put(1, own(0), r_uint(size)) == min(size, room)
    inside(copies, box.links[0].bytes_page(0, 1), 0)
    del copies[:]
    there = head - true_tail & WORD
    assert box.run(0).get(1, own(0), r_uint(most)) == (min(most, there) if there <= CAPACITY else 0)
    inside(copies, box.links[0].bytes_page(1, 0), 1)
    box.answer_bell(0)


def inside(copies, page, which):
    """All copies stay in the page of bytes and in the task's own."""
    for pair in copies:
        at, mine, count = pair[which], pair[1 - which], pair[2]
        assert count == 0 or page <= at and at + count <= page + PAGE, 'a copy leaves the page'
        assert count == 0 or int(own(0)) <= mine and mine + count <= int(own(0)) + 2048


def test_a_core_that_lies_about_its_counts_moves_no_copy_out_of_its_page(boxes):
    check_lies(boxes)


@pytest.mark.parametrize('starved', [0, 1, 2, WORD])
def test_a_core_that_lies_about_hunger_gets_doorbells_and_nothing_else(boxes, starved):
    box = boxes(2)
    box.memory.put_word(box.status(1, 'STARVED_0'), starved)
    assert box.get(0, 1, 100) == b'' and not box.bells.pending
    box.put(1, 0, b'abc')
    box.memory.put_word(box.status(1, 'STARVED_0'), starved)
    box.bells.pending.clear()
    assert box.get(0, 1, 100) == b'abc' and (1 in box.bells.pending) == (starved != 0)


def test_a_core_that_is_no_longer_starved_is_not_rung(boxes):
    box = boxes(2)
    assert [box.put(0, 1, b's' * 2048) for _ in range(3)] == [2048, 2048, 0]
    box.bells.pending.clear()
    box.get(1, 0, 2048)
    assert box.bells.pending == set([0]) and box.answer_bell(0) == set([1])
    assert box.put(0, 1, b's' * 2048) == 2048
    box.bells.pending.clear()
    box.get(1, 0, 2048)
    assert box.bells.pending == set()


@pytest.mark.parametrize('state', [0, 2, 3, WORD])
def test_a_core_that_does_not_run_is_not_rung(boxes, state):
    box = boxes(2)
    box.memory.put_word(box.status(1, 'STATE'), state)
    assert box.put(0, 1, b'abc') == 3 and not box.bells.pending


@settings(max_examples=40)
@given(length=LIES)
def check_text(boxes, length):
    box = boxes(2)
    box.memory.put(box.status(1, 'HEAD_0') + spec.STATUS_TEXT, b'last words'.ljust(spec.STATUS_TEXT_BYTES, b'.'))
    box.memory.put_word(box.status(1, 'TEXT_BYTES'), length)
    box.run(0).copy_text(1, own(0))
    right = min(length, spec.STATUS_TEXT_BYTES)
    assert box.memory.word(int(own(0))) == right
    page = box.memory.take(int(own(0)) + 8, PAGE - 8)
    assert page == b'last words'.ljust(spec.STATUS_TEXT_BYTES, b'.')[:right].ljust(PAGE - 8, b'\0')


def test_last_words_of_a_lying_length_stay_in_the_task_page(boxes):
    check_text(boxes)


def test_last_words_end_where_the_page_ends(boxes):
    box = boxes(2)
    links = box.run(1)
    for n in range(spec.STATUS_TEXT_BYTES + 10):
        links.say(r_uint(ord('a') + n % 26))
    box.run(0).copy_text(1, own(0))
    assert box.memory.word(int(own(0))) == spec.STATUS_TEXT_BYTES
    assert box.memory.take(int(own(0)) + 8, 30) == b'abcdefghijklmnopqrstuvwxyzabcd'


def test_a_change_of_state_is_told_once_and_the_first_cores_end_is_everybodys(boxes):
    box = boxes(3)
    for n in range(3):
        box.answer_bell(n)
    box.run(2).say_state(spec.DEAD)
    assert box.bells.pending == set([0, 1])
    assert box.answer_bell(0) == set([2]) and box.answer_bell(0) == set() and box.answer_bell(1) == set([2])
    box.run(0).say_state(spec.DEAD)
    assert box.bells.pending == set([1])
    with pytest.raises(hw_cpu.Halted):
        box.answer_bell(1)


@pytest.mark.parametrize('core, right', [(0, False), (1, True), (2, True), (3, False), (8, False), (WORD, False), (1 << 63, False)])
def test_only_another_core_of_the_box_is_a_peer(boxes, core, right):
    assert boxes(3).links[0].is_peer(r_uint(core)) == right
    assert not Links(spec.MANAGERS).is_peer(r_uint(core))
