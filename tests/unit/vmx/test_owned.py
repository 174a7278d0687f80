"""The core's local APIC lent to a guest: what of it the guest reaches, and that nothing is lost on the way there and back."""
import random

import pytest

from hypervisor.hw import cpu, nmi
from hypervisor.hw import memory as hw_memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel import loop, vmx_check
from hypervisor.kernel import owned as owned_module
from hypervisor.kernel.apic import apic
from hypervisor.kernel.arena import arena
from hypervisor.kernel.compartment import bounds, compartments, manager
from hypervisor.kernel.lapic import TIMER
from hypervisor.kernel.owned import LATE, owned
from hypervisor.kernel.scheduler import Bell, scheduler
from hypervisor.kernel.share import Share
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.timer import timer
from hypervisor.kernel.vcpu import vcpus
from hypervisor.kernel.vmx_setup import setup
from hypervisor.spec import call, lapic, vmx
from hypervisor.spec import cpu as bits
from hypervisor.spec import exit as kinds
from hypervisor.spec.context import QUICK_DONE
from rpython.rlib.rarithmetic import r_uint
from tests.unit.kernel import singletons
from tests.unit.vmx.machine import Compartment, Core

FIRST, DEADLINE = bits.MSR_X2APIC_FIRST, bits.MSR_TSC_DEADLINE
TICKS = 10                      # of the TSC, per count of the real timer
VECTOR = 0x51
PERIODIC, BY_DEADLINE = lapic.LVT_MODE_PERIODIC << 17, lapic.LVT_MODE_DEADLINE << 17
CLEAN = singletons.Snapshot()


class RealApic(dict):
    """The core's x2APIC behind its MSRs; other MSRs are words. A timer that has come to its end requests its vector."""

    def __init__(self, others):
        dict.__init__(self, others)
        self.irr, self.isr, self.tpr, self.svr = set(), set(), 0, 0
        self.lvt, self.initial, self.start, self.deadline = lapic.MASKED, 0, 0, 0
        self.sent, self.kernel_took = [], []
        self.jump = []          # [('read' or 'write', MSR, TSC ticks that pass before)], each once, in this order

    def mode(self):
        return self.lvt >> 17 & 3

    def pass_time(self):
        now = cpu.fake.tsc
        fired = False
        if self.mode() == lapic.LVT_MODE_DEADLINE:
            if self.deadline and self.deadline <= now:
                self.deadline, fired = 0, True
        elif self.initial and now - self.start >= self.initial * TICKS:
            fired = True
            if self.mode() == lapic.LVT_MODE_PERIODIC:
                self.start = now - (now - self.start) % (self.initial * TICKS)
            else:
                self.initial = 0
        if fired and not self.lvt & lapic.MASKED:
            self.irr.add(self.lvt & 0xff)

    def let_pass(self, way, number):
        if self.jump and self.jump[0][:2] == (way, number):
            cpu.fake.tsc += self.jump.pop(0)[2]
        self.pass_time()

    def get(self, number, default=None):
        self.let_pass('read', number)
        if number == DEADLINE:
            return self.deadline
        offset = (number - FIRST) << 4
        for first, vectors in ((lapic.ISR, self.isr), (lapic.IRR, self.irr)):
            if first <= offset < first + 0x80:
                return sum(1 << v % 32 for v in vectors if v // 32 == (offset - first) >> 4) if vectors else 0
        if offset == lapic.TPR:
            return self.tpr
        if offset == lapic.CURRENT_COUNT:
            return self.initial - (cpu.fake.tsc - self.start) // TICKS if self.initial else 0
        return dict.get(self, number, default)

    def __setitem__(self, number, value):
        self.let_pass('write', number)
        offset = (number - FIRST) << 4
        if number == DEADLINE:
            if self.mode() == lapic.LVT_MODE_DEADLINE:
                self.deadline = value
                self.pass_time()
        elif offset == lapic.SELF_IPI:
            assert value >= 16
            self.irr.add(value)
        elif offset == lapic.EOI:
            if self.isr:
                self.isr.remove(max(self.isr))
        elif offset == lapic.TPR:
            self.tpr = value
        elif offset == lapic.SPURIOUS:
            self.svr = value
        elif offset == lapic.TIMER:
            if value >> 17 & 3 != self.mode():
                self.deadline = self.initial = 0
            self.lvt = value
        elif offset == lapic.INITIAL_COUNT:
            self.initial, self.start = value, cpu.fake.tsc
        elif offset == lapic.ICR_LOW:
            self.sent.append(value)
        else:
            dict.__setitem__(self, number, value)

    def next(self):
        """What a processor that lets interrupts in takes now."""
        self.pass_time()
        top = max(self.irr) if self.irr else -1
        return top if top >> 4 > max(self.tpr >> 4, (max(self.isr) if self.isr else 0) >> 4) else -1

    def take(self):
        vector = self.next()
        if vector < 0:
            return 0
        self.irr.remove(vector)
        self.isr.add(vector)
        return vector

    def kernel_takes(self):
        vector = self.take()
        assert vector == 0 or vector >= 32, 'the kernel would take it for an exception'
        self.kernel_took.append(vector)
        return vector


class Box(object):
    """One vCPU, alone on a core that can lend its APIC. guest(box): what it does while it runs; it exits by HLT if that says nothing."""

    def __init__(self):
        CLEAN.restore()
        nmi.fake.reset()
        self.core = Core(spares=True).enable()
        self.real = cpu.fake.msr = RealApic(cpu.fake.msr)
        cpu.fake.take = self.real.kernel_takes
        apic.x2apic = True
        timer.ratio = r_uint((1 << 20) // TICKS)
        scheduler.shortest, scheduler.slice_ticks, scheduler.turn_ticks = r_uint(1000), r_uint(100000), r_uint(10000)
        scheduler.slice_end = r_uint(10 ** 9)
        compartment = Compartment()
        compartment.share, compartment.task, compartment.state, compartment.here = Share(), manager.task, call.STATE_RUNNING, 1
        compartment.others = 0
        compartment.can_wake = lambda vcpu: True
        self.vcpu = self.core.vcpu(0, compartment)
        self.own = self.vcpu.apic
        self.own.base |= r_uint(lapic.APIC_BASE_X2APIC)
        self.own.svr = r_uint(0x1cc)
        switcher.vendor, switcher.owner = self.core.vendor, self.vcpu
        nmi.fake.listening = True
        nmi.fake.interrupt = lambda: self.real.irr.add(bits.VECTOR_DOORBELL)
        owned.possible, owned.deadlines = True, True
        timer.start()
        self.vcpu.started = self.vcpu.ready = self.vcpu.ticked = True
        self.lent = None

    def run(self, guest=None):
        """Once, from the loop. Returns whether the APIC was lent."""
        def play(area, fields):
            self.lent = self.vcpu.owns
            reader = vmx_check.vmcs_reader
            reader.vendor, reader.vcpu = self.core.vendor, self.vcpu
            assert vmx_check.execution_rule(reader) == 0
            fields[vmx.IDT_VECTORING_INFO] = 0
            fields[vmx.ENTRY_INTERRUPTION_INFO] = fields.get(vmx.ENTRY_INTERRUPTION_INFO, 0) & 0x7fffffff
            fields[vmx.EXIT_REASON], fields[vmx.EXIT_INSTRUCTION_LENGTH] = vmx.REASON_WBINVD, 2
            return guest(self, fields) or hw.SUCCEED if guest else hw.SUCCEED
        hw.fake.run = play
        loop.run_vcpu(self.vcpu)
        return self.lent

    def timer(self, mode, masked=0):
        self.own.lvt[TIMER] = r_uint(mode | VECTOR | masked)

    def of(self, words):
        return set(v for v in range(256) if int(words[v >> 6]) >> (v & 63) & 1)

    def is_the_kernels(self):
        real = self.real
        return (not real.isr and not real.irr and real.tpr == 0 and real.svr == 0x1ff and real.lvt == bits.VECTOR_TIMER and real.initial > 0 and
                not nmi.fake.held and not self.vcpu.owns)

    def permitted(self, hpa):
        """(MSR, 'r' or 'w') of what a bitmap lets through, of the low MSRs."""
        page = bytearray(hw_memory.fake.read(int(arena.hva(r_uint(hpa))), 4096))
        return set((n, way) for way, part in (('r', 0), ('w', 2048)) for n in range(0x2000) if not page[part + n // 8] >> n % 8 & 1)


@pytest.fixture
def box():
    yield Box()
    CLEAN.restore()
    nmi.fake.reset()
    cpu.fake.reset()
    hw.fake.reset()


@pytest.mark.parametrize('offset', [0, 5])
def test_the_guest_reaches_four_registers_and_no_more(box, offset):
    box.own.tsc_offset = r_uint(offset)
    fields = box.core.fields(box.vcpu)
    before = dict(fields)
    inside = {}
    assert box.run(lambda box, fields: inside.update(fields))
    more = box.permitted(inside[vmx.MSR_BITMAP]) - box.permitted(before[vmx.MSR_BITMAP])
    assert more == {(0x808, 'r'), (0x808, 'w'), (0x80a, 'r'), (0x80b, 'w')} | (set() if offset else {(DEADLINE, 'r'), (DEADLINE, 'w')})
    assert before[vmx.PIN_CONTROLS] & ~inside[vmx.PIN_CONTROLS] == vmx.PIN_EXTERNAL_INTERRUPT and inside[vmx.PIN_CONTROLS] & vmx.PIN_NMI
    assert before[vmx.PRIMARY_CONTROLS] & ~inside[vmx.PRIMARY_CONTROLS] == vmx.PRIMARY_CR8_LOAD | vmx.PRIMARY_CR8_STORE | vmx.EOI_PRIMARY
    assert before[vmx.SECONDARY_CONTROLS] & ~inside[vmx.SECONDARY_CONTROLS] == vmx.EOI_SECONDARY           # or they would be virtual ones
    for field in (vmx.PIN_CONTROLS, vmx.PRIMARY_CONTROLS, vmx.SECONDARY_CONTROLS, vmx.MSR_BITMAP):
        assert fields[field] == before[field], vmx.NAME_OF[field]
    assert box.is_the_kernels() and box.real.sent == []


def test_requests_go_there_and_what_the_guest_leaves_comes_back(box):
    for vector in (0x31, 0x62, 0xef, 0xf1):
        box.own.request(vector, False)

    def guest(box, fields):
        assert box.real.irr == {0x31, 0x62, 0xef, 0xf1} and box.real.svr == 0x1cc and box.own.irr == [0] * 4
        assert [box.real.take(), box.real.next()] == [0xf1, -1]
        cpu.fake.msr[FIRST + 0xb] = 0
        assert box.real.take() == 0xef
        cpu.fake.msr[FIRST + 8] = 0x40
        box.real.irr.add(0xf0)
    assert box.run(guest)
    assert (box.of(box.own.isr), box.of(box.own.irr), box.own.tpr) == ({0xef}, {0x31, 0x62, 0xf0}, 0x40)
    assert sorted(v for v in box.real.kernel_took if v) == [0x31, 0x62, 0xf0], 'drained'
    assert box.is_the_kernels() and box.vcpu.attention
    box.own.end()
    box.vcpu.ticked, there = True, set()
    assert box.run(lambda box, fields: there.update(box.real.irr)) and there == {0x31, 0x62, 0xf0}


def spoil(name):
    def undo(box):
        own, vcpu = box.own, box.vcpu
        if name == 'in service':
            own.isr[1] = r_uint(1)
        elif name == 'level':
            own.request(0x44, True)
        elif name == 'low vector':
            own.request(0x1f, False)
        elif name == 'NMI':
            own.nmi = True
        elif name == 'ExtINT':
            own.extint = True
            own.lvt[4] = r_uint(lapic.EXTINT << 8)
        elif name == 'event':
            vcpu.event = r_uint(0x80000306)
        elif name == 'xAPIC':
            own.base &= ~r_uint(lapic.APIC_BASE_X2APIC)
        elif name == 'off':
            own.svr = r_uint(0xff)
        elif name == 'no tick':
            vcpu.ticked = False
        elif name == 'core':
            owned.possible = False
        elif name == 'cap':
            vcpu.compartment.share.limit = 1
        elif name == 'another task':
            compartments[1].used = True
            compartments[1].task.want()
            bounds.compartments = 2
        elif name == 'another vCPU':
            vcpus[3].compartment = compartments[1]
            compartments[1].state = call.STATE_RUNNING
            bounds.vcpus = 4
        elif name == 'task timer':
            compartments[1].used = True
            compartments[1].task.deadline = r_uint(1)
            bounds.compartments = 2
        elif name == 'timer vector':
            own.lvt[TIMER] = r_uint(BY_DEADLINE | 0x1f)
        elif name == 'late':
            box.timer(PERIODIC)
            own.initial = r_uint(1000)
            own.start_timer(r_uint(cpu.fake.tsc - 16 * 2 * 1000 // 2 ** LATE - 1000))
        elif name == 'doorbell':
            box.real.irr.add(bits.VECTOR_DOORBELL)
        elif name == 'kernel timer':
            box.real.irr.add(bits.VECTOR_TIMER)
    return undo


@pytest.mark.parametrize('name', ['in service', 'level', 'low vector', 'NMI', 'ExtINT', 'event', 'xAPIC', 'off', 'no tick', 'core', 'cap', 'another task',
                                  'another vCPU', 'task timer', 'timer vector', 'late', 'doorbell', 'kernel timer'])
def test_it_is_not_lent(box, name):
    fields = box.core.fields(box.vcpu)
    controls = fields[vmx.PIN_CONTROLS]
    spoil(name)(box)
    pending = set(box.real.irr)
    box.run()
    assert not box.lent and fields[vmx.PIN_CONTROLS] == controls and not nmi.fake.held
    assert box.real.irr == pending and box.real.lvt == bits.VECTOR_TIMER and not box.vcpu.ticked


# -- the timer

def test_a_deadline_goes_there_and_comes_back(box):
    box.timer(BY_DEADLINE)
    moment = cpu.fake.tsc + 10 ** 6
    box.own.write_deadline(r_uint(moment))

    def guest(box, fields):
        assert box.real.lvt == BY_DEADLINE | VECTOR and box.real.deadline == moment
        cpu.fake.msr[DEADLINE] = moment + 77
    assert box.run(guest)
    assert box.own.deadline == moment + 77 and box.of(box.own.irr) == set() and box.is_the_kernels()


@pytest.mark.parametrize('masked', [0, lapic.MASKED])
def test_a_deadline_that_passes_while_it_is_taken_back_ticks_once(box, masked):
    box.timer(BY_DEADLINE, masked)
    box.own.write_deadline(r_uint(cpu.fake.tsc + 10 ** 6))

    def guest(box, fields):
        box.real.jump = [('write', DEADLINE, 10 ** 6)]
    assert box.run(guest)
    assert box.own.deadline == 0 and box.of(box.own.irr) == (set() if masked else {VECTOR})


def test_a_tick_that_the_guest_has_had_is_not_repeated(box):
    for mode in (BY_DEADLINE, 0):
        box.timer(mode)
        box.vcpu.ticked = True
        if mode:
            box.own.write_deadline(r_uint(cpu.fake.tsc + 10 ** 5))
        else:
            box.own.write(lapic.INITIAL_COUNT, r_uint(10 ** 3), r_uint(cpu.fake.tsc))

        def guest(box, fields):
            cpu.fake.tsc += 2 * 10 ** 5
            assert box.real.take() == VECTOR
            cpu.fake.msr[FIRST + 0xb] = 0
        assert box.run(guest)
        assert box.own.deadline == 0 and box.of(box.own.irr) == box.of(box.own.isr) == set()


def start_periods(box, count, ago):
    box.timer(PERIODIC)
    box.own.initial = r_uint(count)
    box.own.divide = r_uint(lapic.DIVIDE_BY_1)
    box.own.start_timer(r_uint(cpu.fake.tsc - ago))
    return count * 16


def test_periods_stay_where_they_are_over_any_number_of_loans(box):
    cpu.fake.tsc = 10 ** 6
    period = start_periods(box, 10 ** 4, 300)
    begun = int(box.own.started)
    source = random.Random(3)
    ticks = 0
    for _ in range(40):
        def guest(box, fields):
            for _ in range(source.randrange(4)):
                cpu.fake.tsc += source.choice([period // 3, period, 2 * period // 3])
                if box.real.take():
                    got.append(cpu.fake.tsc)
                    cpu.fake.msr[FIRST + 0xb] = 0
        got = []
        assert box.run(guest)
        ticks += len(got) + len(box.of(box.own.irr))
        box.own.irr[VECTOR >> 6] = r_uint(0)
        off = (int(box.own.deadline) - begun) % period
        assert min(off, period - off) <= 40 * 2 * TICKS, 'rounding to counts, no more'
        cpu.fake.tsc = max(cpu.fake.tsc, int(box.own.deadline)) + 250
        box.own.expire(r_uint(cpu.fake.tsc))
        ticks += 1
        box.own.irr[VECTOR >> 6] = r_uint(0)
        box.vcpu.ticked = True
    assert ticks == (cpu.fake.tsc - begun) // period


ENTRY, COUNT = FIRST + (lapic.TIMER >> 4), FIRST + (lapic.CURRENT_COUNT >> 4)


@pytest.mark.parametrize('jump', [[('write', ENTRY, 300)], [('read', COUNT, 0), ('read', COUNT, 300)]])
def test_a_period_that_ends_while_it_is_taken_back_ticks_once(box, jump):
    """Before its entry is masked, and after."""
    start_periods(box, 10 ** 4, 0)

    def guest(box, fields):
        cpu.fake.tsc = box.real.start + box.real.initial * TICKS - 250
        box.real.jump = jump[:]
    assert box.run(guest)
    assert box.of(box.own.irr) == {VECTOR} and box.own.deadline > cpu.fake.tsc


@pytest.mark.parametrize('jump', [[('write', ENTRY, 300)], [('read', COUNT, 0), ('read', COUNT, 300)]])
def test_one_shot_that_ends_while_it_is_taken_back_ticks_once(box, jump):
    box.timer(0)
    box.own.write(lapic.INITIAL_COUNT, r_uint(10 ** 4), r_uint(cpu.fake.tsc))

    def guest(box, fields):
        cpu.fake.tsc = box.real.start + box.real.initial * TICKS - 250
        box.real.jump = jump[:]
    assert box.run(guest)
    assert box.of(box.own.irr) == {VECTOR} and box.own.deadline == 0


def test_a_tasks_timer_ends_the_run(box):
    compartments[1].used = True
    compartments[1].task.deadline = r_uint(cpu.fake.tsc + 320000)
    bounds.compartments = 2

    def guest(box, fields):
        assert 320000 - 5000 <= fields[vmx.GUEST_PREEMPTION_TIMER] << 5 <= 320000
        fields[vmx.EXIT_REASON] = vmx.REASON_PREEMPTION_TIMER
        box.real.irr.add(0x60)
    assert box.run(guest)
    assert box.vcpu.exit_kind == kinds.WINDOW and box.of(box.own.irr) == {0x60} and box.is_the_kernels()
    assert box.core.fields(box.vcpu)[vmx.GUEST_PREEMPTION_TIMER] == setup.longest


# -- doorbells

class Heard(Bell):
    def __init__(self):
        self.count = 0

    def answer(self):
        self.count += 1
        return -1


def test_a_doorbell_ends_the_run(box):
    scheduler.bell = bell = Heard()

    def guest(box, fields):
        fields[vmx.EXIT_REASON] = vmx.REASON_EXCEPTION_OR_NMI
        fields[vmx.EXIT_INTERRUPTION_INFO] = vmx.INTERRUPTION_VALID | vmx.TYPE_NMI << 8 | 2
        nmi.fake.blocked = True
    assert box.run(guest)
    assert bell.count == 1 and not nmi.fake.blocked and box.is_the_kernels()


def test_a_doorbell_just_before_the_entry_is_not_lost(box):
    def guest(box, fields):
        nmi.fake.arrive()
        return QUICK_DONE               # the assembly gives the entry up
    assert box.run(guest)
    assert box.real.irr == {bits.VECTOR_DOORBELL} and not box.vcpu.owns and not nmi.fake.held


def test_an_nmi_that_nobody_has_sent_stops_the_core(monkeypatch):
    sent = [2]
    stopped = []
    monkeypatch.setattr(owned_module, 'links', type('Links', (object,), {'nmis': staticmethod(lambda: r_uint(sent[0]))}))
    monkeypatch.setattr(owned_module.panic, 'stray_nmi', lambda: stopped.append(True))
    box = Box()
    nmi.fake.arrive()
    owned.nmi_exit()
    owned.check_nmis()
    assert not stopped, 'two sent, two come'
    nmi.fake.arrive()
    sent[0] = 4
    owned.check_nmis()
    assert not stopped, 'two of them were one'
    sent[0] = 2
    owned.check_nmis()
    assert stopped and box.own
    CLEAN.restore()


def test_a_doorbell_while_it_is_lent_in_vain_is_not_lost(box):
    box.real.irr.add(bits.VECTOR_TIMER)
    reads = []
    original = box.real.get

    def get(number, default=None):
        if number == FIRST + (lapic.IRR + 0x70 >> 4) and nmi.fake.held and not reads:
            reads.append(number)
            nmi.fake.arrive()
        return original(number, default)
    box.real.get = get
    assert not box.run() and box.real.irr == {bits.VECTOR_TIMER, bits.VECTOR_DOORBELL}


# -- all together

def test_no_interrupt_is_lost_or_comes_twice(box):
    source = random.Random(11)
    raised, taken = [0] * 256, [0] * 256

    def there():
        """Requested: of the vCPU's own and of the real one, which is one of the two."""
        return box.of(box.own.irr) | (box.real.irr if box.vcpu.owns else set())

    def guest(box, fields):
        for _ in range(source.randrange(6)):
            what = source.randrange(5)
            if what < 2 and box.lent:
                vector = box.real.take()
                if vector:
                    taken[vector] += 1
            elif what == 2 and box.lent:
                cpu.fake.msr[FIRST + 0xb] = 0
            elif what == 3 and box.lent:
                cpu.fake.msr[FIRST + 8] = source.choice([0, 0, 0x30, 0x80])
            elif what == 4 and box.lent:
                nmi.fake.arrive()
                return QUICK_DONE
        return None
    loans = 0
    for _ in range(400):
        vector = source.randrange(32, 256)
        if vector not in there():
            raised[vector] += 1
            box.own.request(vector, False)
        if source.random() < .4:
            box.own.end()
        box.vcpu.ticked = True
        box.vcpu.attention = False          # injection is not what this is about
        loans += bool(box.run(guest))
        box.real.irr.discard(bits.VECTOR_DOORBELL)
        assert box.is_the_kernels()
    waiting = there()
    assert loans > 60 and sum(taken) > 60
    assert [raised[v] - taken[v] for v in range(256)] == [v in waiting for v in range(256)]
