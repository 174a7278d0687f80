"""The local APIC against a model: sets of vectors and a list of moments, written from the manual.

Source: Intel SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)". Offsets and bits are written out here again.
"""
import random

import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.kernel.lapic import Lapic

ID, VERSION, TPR, APR, PPR, LDR, DFR, SVR, ISR, TMR, IRR, ESR = 0x20, 0x30, 0x80, 0x90, 0xa0, 0xd0, 0xe0, 0xf0, 0x100, 0x180, 0x200, 0x280
CMCI, ICR_LOW, ICR_HIGH, TIMER, THERMAL, PERFORMANCE, LINT0, LINT1, ERROR = 0x2f0, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370
INITIAL, CURRENT, DIVIDE = 0x380, 0x390, 0x3e0
LVT_BITS = {CMCI: 0x107ff, TIMER: 0x700ff, THERMAL: 0x107ff, PERFORMANCE: 0x107ff, LINT0: 0x1a7ff, LINT1: 0x1a7ff, ERROR: 0x100ff}
MASKED = 1 << 16
DIVIDERS = {0: 2, 1: 4, 2: 8, 3: 16, 8: 32, 9: 64, 10: 128, 11: 1}
COUNT_TICKS = 16                # TSC ticks of one count, with a divider of 1 (docs/abi.md)
ONE_SHOT, PERIODIC, DEADLINE = 0, 1, 2
SLACK = 1 << 20                 # TSC ticks by which a very fast periodic timer may lag behind
BSP, X2APIC, ENABLE, WINDOW = 1 << 8, 1 << 10, 1 << 11, 0xfee00000
U32 = 0xffffffff


class Model(object):
    def __init__(self, identity):
        self.identity = identity
        self.base = WINDOW | ENABLE | (BSP if identity == 0 else 0)
        self.switch_on()

    def switch_on(self):
        self.irr, self.isr, self.level = set(), set(), set()
        self.lvt = dict((offset, MASKED) for offset in LVT_BITS)
        self.tpr, self.ldr, self.dfr, self.svr, self.icr_high = 0, 0, U32, 0xff, 0
        self.esr, self.errors, self.divide, self.initial = 0, 0, 0, 0
        self.begun, self.due = 0, None      # due: the moment of the next end of a count, None when nothing counts

    # Modes
    def enabled(self):
        return bool(self.base & ENABLE)

    def x2apic(self):
        return bool(self.base & X2APIC)

    def works(self):
        return self.enabled() and bool(self.svr & 0x100)

    def write_base(self, value):
        """The manual's figure "Local x2APIC State Transitions"."""
        state = lambda word: {0: 'off', ENABLE: 'xapic', ENABLE | X2APIC: 'x2apic', X2APIC: 'invalid'}[word & (ENABLE | X2APIC)]
        old, new = state(self.base), state(value)
        if value & ~0xd00 != WINDOW or new == 'invalid' or (old, new) in (('off', 'x2apic'), ('x2apic', 'xapic')):
            return False
        if new == 'off' and old != 'off':
            self.switch_on()
        if (old, new) == ('xapic', 'x2apic'):
            self.ldr = (self.identity // 16) << 16 | 1 << self.identity % 16
        self.base = value
        return True

    # Priorities
    def ppr(self):
        serving = max(self.isr) if self.isr else 0
        return self.tpr if self.tpr // 16 >= serving // 16 else serving // 16 * 16

    def pending(self):
        if self.works() and self.irr and max(self.irr) // 16 > self.ppr() // 16:
            return max(self.irr)
        return -1

    def error(self, bit):
        """An interrupt for the first one since ESR was written."""
        entry = self.lvt[ERROR]
        if not self.errors and not entry & MASKED and entry & 0xff >= 16:
            self.irr.add(entry & 0xff)
            self.level.discard(entry & 0xff)
        self.errors |= 1 << bit

    def request(self, vector, level):
        if vector < 16:
            self.error(6)
        elif self.works():
            self.irr.add(vector)
            (self.level.add if level else self.level.discard)(vector)

    def take(self, vector):
        self.irr.remove(vector)
        self.isr.add(vector)

    def end(self):
        if not self.isr:
            return -1
        vector = max(self.isr)
        self.isr.remove(vector)
        return vector if vector in self.level else -1

    # Timer
    def mode(self):
        return self.lvt[TIMER] >> 17 & 3

    def tick(self):
        return COUNT_TICKS * DIVIDERS[self.divide]

    def begin(self, now):
        self.begun = now
        self.due = now + self.initial * self.tick() if self.initial else None

    def current(self, now):
        if self.mode() == DEADLINE or self.due is None:
            return 0
        counts = (now - self.begun) // self.tick()
        return self.initial - counts % self.initial if self.mode() == PERIODIC else max(self.initial - counts, 0)

    def expire(self, now):
        if self.mode() == PERIODIC:
            period = self.initial * self.tick()
            while self.due <= now:
                self.due += period * max((now - self.due) // period, 1)
        else:
            self.due = None
        if not self.lvt[TIMER] & MASKED:
            self.request(self.lvt[TIMER] & 0xff, False)

    # Registers
    def write(self, offset, value, now):
        if offset in LVT_BITS:
            old, self.lvt[offset] = self.lvt[offset], value & LVT_BITS[offset] | (0 if self.works() else MASKED)
            if offset == TIMER and (old ^ value) >> 17 & 3:
                self.due, self.initial = None, 0
        elif offset == TPR:
            self.tpr = value & 0xff
        elif offset == LDR:
            self.ldr = value & 0xff000000
        elif offset == DFR:
            self.dfr = value | 0x0fffffff
        elif offset == SVR:
            self.svr = value & 0x1ff
            if not self.works():
                for each in self.lvt:
                    self.lvt[each] |= MASKED
        elif offset == ESR:
            self.esr, self.errors = self.errors, 0
        elif offset == ICR_HIGH:
            self.icr_high = value
        elif offset == INITIAL:
            if self.mode() != DEADLINE:
                self.initial = value
                self.begin(now)
        elif offset == DIVIDE:
            self.divide = value & 0xb
            if self.due is not None and self.mode() != DEADLINE:
                self.begin(now)             # the manual does not say; it begins anew
        else:
            self.error(7)

    def registers(self, now):
        words = dict((offset, 0) for offset in range(0, 0x400, 16))
        words.update(self.lvt)
        for first, vectors in ((ISR, self.isr), (TMR, self.level), (IRR, self.irr)):
            for vector in vectors:
                words[first + vector // 32 * 16] |= 1 << vector % 32
        words.update({ID: self.identity if self.x2apic() else self.identity << 24, VERSION: 5 << 16 | 0x14, TPR: self.tpr, PPR: self.ppr(),
                      LDR: self.ldr, DFR: self.dfr, SVR: self.svr, ESR: self.esr, ICR_HIGH: self.icr_high, INITIAL: self.initial,
                      CURRENT: self.current(now), DIVIDE: self.divide})
        return words

    def addressed(self, destination, logical):
        if self.x2apic():
            if destination == U32:
                return True
            if not logical:
                return destination == self.identity
            return destination >> 16 == self.ldr >> 16 and bool(destination & self.ldr & 0xffff)
        if destination == 0xff:
            return True
        if not logical:
            return destination == self.identity
        mine = self.ldr >> 24
        if self.dfr >> 28 == 15:
            return bool(destination & mine)
        return destination >> 4 == mine >> 4 and bool(destination & mine & 15)


class Walk(object):
    """The APIC and the model side by side. Nothing is compared but what somebody outside can see."""

    def __init__(self, rng, identity):
        self.rng, self.now = rng, 1000
        self.apic, self.model = Lapic(0), Model(identity)
        self.apic.reset(identity)
        self.check('reset')

    def check(self, what):
        self.time()
        now = r_uint(self.now)
        for offset, right in self.model.registers(self.now).items():
            seen = int(self.apic.read(offset, now))
            assert seen == right, '%s: register %#x is %#x, right would be %#x' % (what, offset, seen, right)
        assert self.apic.pending() == self.model.pending(), what
        assert (int(self.apic.base), self.apic.is_enabled(), self.apic.is_x2apic(), self.apic.software_enabled()) == (
            self.model.base, self.model.enabled(), self.model.x2apic(), self.model.works()), what
        right = self.model.due or 0 if self.model.mode() == DEADLINE else 0
        assert int(self.apic.read_deadline()) == right, what

    def time(self):
        """What the kernel does whenever it looks at the clock; and the moment at which it will look again."""
        apic, model = self.apic, self.model
        if apic.deadline and self.now >= int(apic.deadline):
            assert model.due is not None and model.due <= self.now, 'too early'
            expire(apic, self.now)
            model.expire(self.now)
        if model.due is None:
            assert not apic.deadline, 'nothing is counting'
        elif model.mode() == PERIODIC and model.initial * model.tick() < SLACK:
            assert self.now < int(apic.deadline) <= self.now + 2 * SLACK
            while model.due <= self.now:            # the model has no lag
                model.expire(self.now)
        else:
            assert int(apic.deadline) == model.due

    def write(self, offset, value):
        self.apic.write(offset, r_uint(value), r_uint(self.now))
        self.model.write(offset, value, self.now)
        self.check('write %#x to %#x' % (value, offset))

    def vector(self):
        return self.rng.choice([self.rng.randint(0, 255), self.rng.randint(0x30, 0x37), self.rng.choice([15, 16, 31, 32, 63, 64, 127, 128, 192, 255])])

    # Steps
    def request(self):
        vector, level = self.vector(), self.rng.random() < 0.4
        self.apic.request(vector, level)
        self.model.request(vector, level)
        self.check('request %d' % vector)

    def take(self):
        vector = self.apic.pending()
        if vector >= 0:
            self.apic.take(vector)
            self.model.take(vector)
            self.check('take %d' % vector)

    def end(self):
        assert self.apic.end() == self.model.end()
        self.check('end')

    def priority(self):
        self.write(TPR, self.rng.choice([0, 0, 0x20, 0x30, 0x35, 0xf0, 0xff, 0x12345]))

    def enable(self):
        self.write(SVR, self.rng.choice([0x1ff, 0x1ff, 0x1ff, 0x10f, 0xff, 0xfffff1ff]))

    def local_vector(self):
        self.write(self.rng.choice(sorted(LVT_BITS)), self.rng.choice([0x40, 0x10040, 0x700, U32, 0, self.rng.getrandbits(32)]))

    def timer_mode(self):
        self.write(TIMER, self.rng.choice([ONE_SHOT, PERIODIC, DEADLINE]) << 17 | self.rng.choice([0, 0, MASKED]) | self.vector())

    def timer(self):
        self.write(INITIAL, self.rng.choice([0, 1, 2, 1000, 100000, U32, self.rng.getrandbits(20)]))

    def divider(self):
        self.write(DIVIDE, self.rng.choice(sorted(DIVIDERS) + [U32]))

    def deadline(self):
        value = self.rng.choice([0, 1, self.now, self.now + 1, self.now + 100000, (1 << 64) - 1])
        self.apic.write_deadline(r_uint(value))
        if self.model.mode() == DEADLINE:
            self.model.due = value or None
        self.check('deadline')

    def pass_time(self):
        model = self.model
        self.now += self.rng.choice([1, 15, 16, 17, 1000, SLACK, 3 * SLACK, self.rng.getrandbits(28)])
        if model.due is not None and self.rng.random() < 0.5:
            self.now = max(self.now, model.due - self.rng.randint(0, 1))
        self.now = min(self.now, 1 << 62)
        self.check('time')

    def other_register(self):
        self.write(self.rng.choice([ESR, ESR, ICR_HIGH, LDR, DFR, ID, VERSION, APR, PPR, ISR, IRR + 0x70, CURRENT, 0, 0x3f0]),
                   self.rng.choice([0, U32, self.rng.getrandbits(32)]))

    def base(self):
        if self.rng.random() < 0.3:
            value = self.rng.choice([WINDOW, WINDOW | ENABLE, WINDOW | ENABLE | X2APIC, WINDOW | X2APIC, ENABLE, 0xfed00000 | ENABLE,
                                     WINDOW | ENABLE | 1, 1 << 36 | WINDOW | ENABLE, WINDOW | ENABLE | BSP])
            assert self.apic.write_base(r_uint(value)) == self.model.write_base(value), '%#x' % value
            self.check('base %#x' % value)

    def destination(self):
        for _ in range(20):
            destination = self.rng.choice([0xff, self.model.identity, 0, 1 << self.rng.randint(0, 7), self.rng.getrandbits(8)])
            if self.model.x2apic():
                destination = self.rng.choice([U32, destination, self.model.ldr, self.model.ldr & 0xffff0000, self.rng.getrandbits(32)])
            for logical in (False, True):
                assert self.apic.is_addressed(r_uint(destination), logical) == self.model.addressed(destination, logical)


STEPS = {'request': 20, 'take': 12, 'end': 10, 'priority': 4, 'enable': 2, 'local_vector': 4, 'timer_mode': 6, 'timer': 6, 'divider': 3,
         'deadline': 5, 'pass_time': 16, 'other_register': 4, 'base': 3, 'destination': 2}
NAMES = [name for name, often in sorted(STEPS.items()) for _ in range(often)]


@pytest.mark.parametrize('seed', range(24))
def test_random_walk_shows_what_the_manual_says(seed):
    rng = random.Random(seed)
    walk = Walk(rng, rng.choice([0, 0, 1, 5, 17]))
    walk.write(SVR, 0x1ff)
    for _ in range(120):
        getattr(walk, rng.choice(NAMES))()


def apic(identity=0):
    """One that software has switched on."""
    made = Lapic(0)
    made.reset(identity)
    write(made, SVR, 0x1ff)
    return made


def write(made, offset, value, now=0):
    made.write(offset, r_uint(value), r_uint(now))


def expire(made, now):
    vector = made.expire(r_uint(now))
    if vector >= 0:
        made.request(vector, False)


def read(made, offset, now=0):
    return int(made.read(offset, r_uint(now)))


# The same in single examples, one for each rule, so that a failure says which.

def test_higher_class_interrupts_lower_and_same_class_waits():
    a = apic()
    a.request(0x41, False)
    assert a.pending() == 0x41
    a.take(0x41)
    a.request(0x4f, False)
    assert a.pending() == -1 and read(a, PPR) == 0x40
    a.request(0x50, True)
    assert a.pending() == 0x50
    a.take(0x50)
    assert a.end() == 0x50 and a.end() == -1 and a.pending() == 0x4f


def test_request_that_comes_while_it_is_served_is_kept_once():
    a = apic()
    a.request(0x41, False)
    a.take(0x41)
    a.request(0x41, False)
    a.request(0x41, False)
    a.end()
    assert a.pending() == 0x41
    a.take(0x41)
    a.end()
    assert a.pending() == -1


def test_nothing_is_accepted_while_software_has_it_off_but_what_waits_is_kept():
    a = apic()
    a.request(0x41, False)
    write(a, LINT0, 0x700)
    write(a, SVR, 0xff)
    assert a.pending() == -1 and read(a, LINT0) == 0x10700
    a.request(0x42, False)
    write(a, LINT0, 0x700)
    assert read(a, LINT0) == 0x10700, 'masks cannot be cleared'
    write(a, SVR, 0x1ff)
    assert a.pending() == 0x41 and read(a, LINT0) == 0x10700


@pytest.mark.parametrize('divide', sorted(DIVIDERS))
def test_one_shot_fires_once_at_its_count(divide):
    a, tick = apic(), 16 * DIVIDERS[divide]
    write(a, DIVIDE, divide)
    write(a, TIMER, 0x40)
    write(a, INITIAL, 100000, 5000)
    assert int(a.deadline) == 5000 + 100000 * tick
    assert [read(a, CURRENT, 5000 + n) for n in (0, tick - 1, tick, 99999 * tick, 100000 * tick, 1 << 50)] == [100000, 100000, 99999, 1, 0, 0]
    expire(a, a.deadline)
    assert a.pending() == 0x40 and not a.deadline


def test_periodic_fires_again_and_again_and_missed_periods_melt_into_one():
    a = apic()
    write(a, DIVIDE, 0xb)
    write(a, TIMER, PERIODIC << 17 | 0x40)
    write(a, INITIAL, 1 << 16)
    period = 1 << 20
    for now, following in ((period, 2 * period), (2 * period + 5, 3 * period), (10 * period + 7, 11 * period)):
        assert int(a.deadline) <= now
        expire(a, now)
        assert int(a.deadline) == following and a.pending() == 0x40
        a.take(0x40)
        a.end()
        assert a.pending() == -1


def test_masked_timer_counts_and_keeps_quiet():
    a = apic()
    write(a, DIVIDE, 0xb)
    write(a, TIMER, PERIODIC << 17 | MASKED | 0x40)
    write(a, INITIAL, 1 << 16)
    expire(a, 1 << 20)
    assert a.pending() == -1 and read(a, CURRENT, (1 << 20) + 32) == (1 << 16) - 2
    write(a, TIMER, PERIODIC << 17 | 0x40)
    assert int(a.deadline) == 2 << 20, 'unmasking does not begin anew'


@pytest.mark.parametrize('old, new', [(a, b) for a in range(3) for b in range(3) if a != b])
def test_another_timer_mode_disarms_it(old, new):
    a = apic()
    write(a, TIMER, old << 17 | 0x40)
    if old == DEADLINE:
        a.write_deadline(r_uint(1 << 40))
    else:
        write(a, INITIAL, 1 << 20)
    assert a.deadline
    write(a, TIMER, new << 17 | 0x40)
    assert not a.deadline and read(a, CURRENT) == 0 and int(a.read_deadline()) == 0


def test_deadline_means_something_only_in_its_mode():
    a = apic()
    write(a, TIMER, 0x40)
    a.write_deadline(r_uint(77))
    assert not a.deadline and int(a.read_deadline()) == 0
    write(a, TIMER, DEADLINE << 17 | 0x40)
    a.write_deadline(r_uint(77))
    assert int(a.deadline) == int(a.read_deadline()) == 77
    expire(a, 80)
    assert a.pending() == 0x40 and int(a.read_deadline()) == 0


@pytest.mark.parametrize('start', [0, 1000, 1 << 62])
def test_deadlines_count_as_the_guests_tsc_does(start):
    """The guest's TSC was 0 when the processor's was `start`."""
    a = apic()
    a.tsc_offset = r_uint(-start)
    write(a, TIMER, DEADLINE << 17 | 0x40)
    for guest in (1, 77, 1 << 40, 1 << 61):
        a.write_deadline(r_uint(guest))
        assert int(a.deadline) == start + guest and int(a.read_deadline()) == guest
    a.write_deadline(r_uint(0))
    assert not a.deadline and int(a.read_deadline()) == 0


def test_deadline_beyond_the_processors_tsc_never_comes():
    a = apic()
    a.tsc_offset = r_uint(-1000)
    write(a, TIMER, DEADLINE << 17 | 0x40)
    a.write_deadline(~r_uint(0))
    assert int(a.deadline) == (1 << 64) - 1
    a.write_deadline(r_uint((1 << 64) - 1000))
    assert int(a.deadline) == (1 << 64) - 1, 'and is not taken for an early one'


def test_count_written_in_deadline_mode_is_ignored():
    a = apic()
    write(a, TIMER, DEADLINE << 17 | 0x40)
    a.write_deadline(r_uint(1 << 40))
    write(a, INITIAL, 1000)
    assert int(a.read_deadline()) == 1 << 40 and read(a, INITIAL) == read(a, CURRENT) == 0
    write(a, DIVIDE, 0xb)
    assert int(a.read_deadline()) == 1 << 40


def test_one_shot_that_is_over_reads_zero_whatever_the_divider_becomes():
    a = apic()
    write(a, DIVIDE, 0xb)
    write(a, TIMER, 0x40)
    write(a, INITIAL, 1000)
    expire(a, 16000)
    write(a, DIVIDE, 0xa, 16001)
    assert read(a, CURRENT, 16002) == 0 and not a.deadline


def test_errors_are_told_at_the_next_write_and_then_forgotten():
    a = apic()
    a.request(3, False)
    assert read(a, ESR) == 0
    write(a, ESR, 0)
    assert read(a, ESR) == 1 << 6
    write(a, ESR, 0)
    assert read(a, ESR) == 0


def test_first_error_since_esr_was_written_is_an_interrupt():
    a = apic()
    write(a, ERROR, 0x45)
    a.request(3, False)
    assert a.pending() == 0x45
    a.take(0x45)
    a.end()
    a.request(4, False)
    write(a, 0x40, 0)
    assert a.pending() == -1
    write(a, ESR, 0)
    write(a, 0x40, 0)
    assert a.pending() == 0x45
    for entry in (0x10045, 0x0f):
        b = apic()
        write(b, ERROR, entry)
        b.request(3, False)
        assert b.pending() == -1 and read(b, IRR) == 0


def test_the_pics_pin_comes_through_lint0_or_past_an_apic_that_is_off():
    a = apic()
    a.extint = True
    assert not a.accepts_extint()
    write(a, LINT0, 0x700)
    assert a.accepts_extint()
    for closed in (0x10700, 0x000, 0x400):
        write(a, LINT0, closed)
        assert not a.accepts_extint()
    assert a.write_base(r_uint(WINDOW))
    assert a.accepts_extint(), 'the pin is the PIC\'s: switching the APIC off does not change it'
    a.extint = False
    assert not a.accepts_extint()


def test_switching_off_forgets_all_and_an_x2apic_must_go_through_it():
    a = apic(3)
    a.request(0x41, False)
    write(a, TIMER, 0x40)
    write(a, INITIAL, 1000)
    assert a.write_base(r_uint(WINDOW | ENABLE | X2APIC))
    assert read(a, ID) == 3 and read(a, LDR) == 8 and a.pending() == 0x41 and a.deadline
    assert not a.write_base(r_uint(WINDOW | ENABLE))
    assert a.write_base(r_uint(WINDOW))
    assert not a.deadline and a.pending() == -1 and not a.write_base(r_uint(WINDOW | ENABLE | X2APIC))
    assert a.write_base(r_uint(WINDOW | ENABLE))
    assert read(a, ID) == 3 << 24 and read(a, SVR) == 0xff and read(a, IRR + 0x20) == 0



# What an EOI does beside clearing a bit

def with_vectors(serving, requested, levels):
    a = apic(5)
    assert a.write_base(r_uint(WINDOW | ENABLE | X2APIC))
    for words, vectors in ((a.isr, serving), (a.irr, requested), (a.tmr, levels)):
        for vector in vectors:
            words[vector >> 6] |= r_uint(1 << (vector & 63))
    return a


@pytest.mark.parametrize('serving, requested, levels, vector, alone', [
    ([0x61], [], [], 0x61, True), ([0xff], [], [0x7f, 0xfe], 0xff, True), ([0x10], [], [], 0x10, True),
    ([], [], [], 0x61, False), ([0x21], [], [], 0x61, False), ([0x62], [], [], 0x61, False),        # not in service
    ([0x61, 0x21], [], [], 0x61, False), ([0xbf, 0x7f, 0x3f], [], [], 0xbf, False), ([0x61, 0x60], [], [], 0x61, False),
    ([0x61], [], [0x61], 0x61, False), ([0x61], [0x20], [], 0x61, False), ([0x61], [0xff], [], 0x61, False)])
def test_an_interrupt_ends_alone_when_nothing_else_is_there(serving, requested, levels, vector, alone):
    a = with_vectors(serving, requested, levels)
    before = list(a.isr)
    assert a.ends_alone(vector) == alone and a.isr == before


def test_out_of_x2apic_mode_none_ends_alone():
    a = with_vectors([0x61], [], [])
    a.base = r_uint(WINDOW | ENABLE)
    assert not a.ends_alone(0x61)


# Destinations, each way to name an APIC by itself. (logical, destination) -> is it this one?

@pytest.mark.parametrize('logical, destination, right', [
    (False, 5, True), (False, 4, False), (False, 0xff, True), (False, 0, False), (True, 0xff, True), (True, 0, False)])
@pytest.mark.parametrize('dfr', [U32, 0x0fffffff])
def test_physical_destination_and_broadcast(logical, destination, right, dfr):
    a = apic(5)
    write(a, DFR, dfr)
    write(a, LDR, 0x21 << 24)
    assert a.is_addressed(r_uint(destination), logical) == right


@pytest.mark.parametrize('dfr, destination, right', [
    (U32, 0x20, True), (U32, 0x01, True), (U32, 0xde, False), (U32, 0x3f, True),            # flat: one bit in common
    (0, 0x21, True), (0, 0x2f, True), (0, 0x2e, False), (0, 0x20, False), (0, 0x11, False), (0, 0x01, False)])       # cluster 2, member 1
def test_logical_destination_flat_and_by_cluster(dfr, destination, right):
    a = apic(5)
    write(a, DFR, dfr)
    write(a, LDR, 0x21 << 24)
    assert a.is_addressed(r_uint(destination), True) == right


@pytest.mark.parametrize('logical, destination, right', [
    (False, 0x25, True), (False, 0xff, False), (False, U32, True), (True, U32, True), (True, 0x20020, True), (True, 0x2ffff, True),
    (True, 0x2ffdf, False), (True, 0x10020, False), (True, 0x20, False)])
def test_x2apic_destination(logical, destination, right):
    a = apic(0x25)
    assert a.write_base(r_uint(WINDOW | ENABLE | X2APIC)) and read(a, LDR) == 2 << 16 | 1 << 5
    assert a.is_addressed(r_uint(destination), logical) == right
