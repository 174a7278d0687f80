"""Time: equal slices, deadlines in order, silent VMMs, sleep. The timer is the fakes'; tasks and guests are generators that use it up."""
import pytest
from hypothesis import example, given, settings, strategies as st

from rpython.rlib.rarithmetic import r_uint

from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.context import timed, wanting
from hypervisor.kernel.loop import step
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.task import IN_WAIT
from hypervisor.kernel.timer import timer
from hypervisor.spec import call, ending, lapic, status, svm
from tests.unit.kernel.machine import TSC_HZ, Guest, Program
from tests.unit.kernel.vm import SLOT, make_vm, put_answer, vcpu_page
from hypervisor.spec.vcpu import ANSWER, GROUP_FLOW, RESUME

MS = TSC_HZ // 1000
SLICE, SILENCE = 10 * MS, 1000 * MS
FOREVER = 1 << 60
RUN, WAIT = call.VCPU_RUN, call.WAIT
VCPU = call.SLOT_VCPU


def spin():
    while True:
        yield ('spin', FOREVER)


def waits_for_ever():
    """The manager while nothing happens: fetches its signals."""
    while True:
        yield ('call', WAIT, 0)


def runs_its_vcpu():
    while True:
        yield ('call', RUN, VCPU, 0)


def machine_with(fresh, count):
    box = fresh(THREE_VMS)
    box.tasks[0] = Program(waits_for_ever)
    for number in range(1, 4):
        box.tasks[number] = Program(waits_for_ever if number > count else runs_its_vcpu)
        box.guests[number] = Guest(spin)
    return box


def THREE_VMS(box):
    for number in (1, 2, 3):
        make_vm(box, number)


def used(number):
    """What a compartment's task and vCPUs have used."""
    c = compartments[number]
    return int(c.run_ticks()) + int(c.task.ticks)


@pytest.mark.parametrize('spinning_task', [False, True])
def test_spinning_contexts_get_equal_time(fresh, spinning_task):
    """Three VMs whose guests spin, or one of them in its VMM: after any time nobody is more than one slice ahead."""
    box = machine_with(fresh, 3)
    if spinning_task:
        def vmm():
            yield ('call', RUN, VCPU, box.cpu.tsc + 5 * MS)
            yield ('spin', FOREVER)
        box.tasks[2] = Program(vmm)
    start = box.cpu.tsc
    for n in range(40):
        box.let_pass(7 * MS)
        times = [used(number) for number in (1, 2, 3)]
        if n > 8:
            assert max(times) - min(times) <= SLICE + MS, times
            assert min(times) > 0
    total = sum(times) + used(0)
    assert -MS // 100 <= box.cpu.tsc - start - total < 2 * SLICE, 'time is lost or invented: %d' % total


@given(pauses=st.lists(st.integers(0, 30), min_size=1, max_size=6))
@settings(max_examples=15)
def test_slices_are_never_much_longer_than_a_slice(fresh, pauses):
    """Whatever a VM does between, a neighbour that always wants to run gets its turn after one slice of each other."""
    box = machine_with(fresh, 2)

    def restless():
        while True:
            for pause in pauses:
                yield ('spin', 1 + pause * MS)
                yield ('exit', svm.EXIT_VMMCALL)
    box.guests[1] = Guest(restless)
    last, longest = box.cpu.tsc, 0
    for _ in range(300):
        before = box.guests[2].ticks
        step()
        if box.guests[2].ticks != before:
            longest = max(longest, box.cpu.tsc - SLICE - last)
            last = box.cpu.tsc
    assert longest <= SLICE + MS


def test_exits_finished_in_the_kernel_do_not_lengthen_a_slice(fresh):
    box = machine_with(fresh, 2)

    def exits_often():
        while True:
            yield ('spin', MS // 10)
            yield ('exit', svm.EXIT_VMMCALL)
    box.guests[1] = Guest(exits_often)
    box.let_pass(200 * MS)
    assert abs(used(1) - used(2)) <= SLICE + MS


def test_vm_pays_for_its_own_devices(fresh):
    """A guest whose VMM works long for each exit has no more time than its neighbour."""
    box = machine_with(fresh, 2)

    def exits_often():
        while True:
            yield ('spin', MS)
            yield ('exit', svm.EXIT_HLT)

    def slow():
        while True:
            box.memory.put_word(vcpu_page(1) + ANSWER['ACTION'], RESUME)
            yield ('call', RUN, VCPU, 0)
            yield ('spin', 3 * MS)
    box.guests[1], box.tasks[1] = Guest(exits_often), Program(slow)
    box.let_pass(400 * MS)
    assert abs(used(1) - used(2)) <= SLICE + MS
    assert int(compartments[1].task.ticks) > 2 * int(compartments[1].run_ticks())


# Silence

def silent_task(kind, box):
    def never_runs_it():
        yield ('spin', FOREVER)

    def spins_on_an_exit():
        yield ('call', RUN, VCPU, 0)
        yield ('spin', FOREVER)

    def waits_on_an_exit():
        yield ('call', RUN, VCPU, 0)
        yield ('call', WAIT, 0)
        assert False, 'WAIT came back'

    def waits_in_small_pieces():
        yield ('call', RUN, VCPU, 0)
        while True:
            yield ('call', WAIT, box.cpu.tsc + 50 * MS)

    def waits_at_once():
        while True:
            yield ('call', WAIT, 0)

    def calls_without_end():
        yield ('call', RUN, VCPU, 0)
        while True:
            yield ('call', 99)
            yield ('spin', MS)

    def waits_for_the_past():
        yield ('call', RUN, VCPU, 0)
        while True:
            yield ('spin', MS)
            yield ('call', WAIT, 1)
    return Program({f.__name__: f for f in (never_runs_it, spins_on_an_exit, waits_on_an_exit, waits_in_small_pieces, waits_at_once, calls_without_end,
                                            waits_for_the_past)}[kind])


KINDS = ['never_runs_it', 'spins_on_an_exit', 'waits_on_an_exit', 'waits_in_small_pieces', 'waits_at_once', 'calls_without_end', 'waits_for_the_past']


def exits_once():
    yield ('spin', MS)
    yield ('exit', svm.EXIT_HLT)
    yield ('spin', FOREVER)


@pytest.mark.parametrize('kind', KINDS)
def test_silent_vmm_is_stopped_after_about_a_second(fresh, kind):
    """Alone on the machine; and the manager hears of it."""
    box = machine_with(fresh, 0)
    for number in (2, 3):
        box.kernel_call(0, call.STOP, SLOT + number - 1, ending.DESTROYED, 0)
    box.tasks[0] = Program(waits_for_ever)
    box.tasks[1], box.guests[1] = silent_task(kind, box), Guest(exits_once)
    start = box.cpu.tsc
    box.let_pass(SILENCE - 30 * MS)
    assert compartments[1].state == call.STATE_RUNNING or box.cpu.tsc > start + SILENCE, 'too early'
    box.let_pass(100 * MS)
    assert (compartments[1].state, compartments[1].how) == (call.STATE_ENDED, ending.VMM_SILENT)


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'waits_for_the_past'])      # that one uses too little time to be silent soon
def test_silent_vmm_does_not_take_its_neighbours_time(fresh, kind):
    """It has at most half of the processor, and none once it is stopped."""
    box = machine_with(fresh, 2)
    box.kernel_call(0, call.STOP, SLOT + 2, ending.DESTROYED, 0)
    box.tasks[0] = Program(waits_for_ever)
    box.tasks[1], box.guests[1] = silent_task(kind, box), Guest(exits_once)
    start = box.cpu.tsc
    box.let_pass(2300 * MS)
    assert compartments[1].how == ending.VMM_SILENT
    assert compartments[2].state == call.STATE_RUNNING
    own = used(2)
    assert own >= (box.cpu.tsc - start) - used(1) - 20 * MS, 'somebody else had the time'
    assert used(1) <= SILENCE + 2 * SLICE


def test_vmm_that_answers_in_time_is_not_silent(fresh):
    """Half a second for every answer, for ever."""
    box = machine_with(fresh, 0)
    for number in (2, 3):
        box.kernel_call(0, call.STOP, SLOT + number - 1, ending.DESTROYED, 0)
    box.tasks[0] = Program(waits_for_ever)

    def slow():
        while True:
            box.memory.put_word(vcpu_page(1) + ANSWER['ACTION'], RESUME)
            yield ('call', RUN, VCPU, 0)
            yield ('spin', 250 * MS)
            yield ('call', WAIT, box.cpu.tsc + 250 * MS)

    def halts():
        while True:
            yield ('spin', MS)
            yield ('exit', svm.EXIT_HLT)
    box.tasks[1], box.guests[1] = Program(slow), Guest(halts)
    box.let_pass(5 * SILENCE)
    assert compartments[1].state == call.STATE_RUNNING


def test_vmm_may_wait_for_ever_while_its_vcpu_runs(fresh):
    box = machine_with(fresh, 1)
    box.let_pass(3 * SILENCE)
    assert compartments[1].state == call.STATE_RUNNING


# Deadlines

@given(delays=st.lists(st.integers(0, 400), min_size=3, max_size=3), busy=st.booleans())
@example(delays=[0, 164, 153], busy=True)
@settings(max_examples=20)
def test_deadlines_wake_in_order_and_not_early(fresh, delays, busy):
    """Three VMMs without vCPUs that owe nothing wait; the manager spins, or the machine sleeps."""
    box = fresh(THREE_WITHOUT_VCPUS)
    start, woken = box.cpu.tsc, []

    def sleeper(number, deadline):
        answer = yield ('call', WAIT, deadline)
        woken.append((number, box.cpu.tsc, answer))
        while True:
            yield ('call', WAIT, 0)
    box.tasks[0] = Program(spin if busy else waits_for_ever)
    deadlines = {}
    for number, delay in zip((1, 2, 3), delays):
        deadlines[number] = start + 50 * MS + delay * MS
        box.tasks[number] = Program(sleeper, number, deadlines[number])
    box.let_pass(700 * MS)
    assert sorted(number for number, _, _ in woken) == [1, 2, 3]
    late = 4 * SLICE if busy else MS
    for number, when, answer in woken:
        assert deadlines[number] <= when <= deadlines[number] + late, (number, when - deadlines[number])
        assert answer == (status.OK, 0)
    if not busy:                        # else those who come while the manager has what it is promised in one go have no order among them
        times = [deadlines[number] for number, _, _ in woken]
        assert times == sorted(times)
    assert compartments[1].state == call.STATE_RUNNING


def THREE_WITHOUT_VCPUS(box):
    for number in (1, 2, 3):
        make_vm(box, number, vcpus=0)


@pytest.mark.parametrize('deadline', [0, 1, 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize('which', [WAIT, RUN])
def test_hostile_deadlines_harm_nobody(fresh, deadline, which):
    """0 is never; the past is at once; the far future is not now. The neighbour has its share."""
    box = machine_with(fresh, 2)
    returns = []

    def hostile():
        if which == WAIT:
            yield ('call', RUN, VCPU, 1)
        while True:
            returns.append((yield ('call', which, deadline) if which == WAIT else ('call', RUN, VCPU, deadline)))
    box.tasks[1] = Program(hostile)
    box.let_pass(300 * MS)
    if deadline in (1, 2):
        assert len(returns) > 3
        assert set(returns) == set([(status.OK, call.REASON_DEADLINE if which == RUN else 0)])
    else:
        assert returns == []
    assert compartments[1].state == compartments[2].state == call.STATE_RUNNING
    assert used(2) > 140 * MS


# Sleep

def test_processor_sleeps_only_when_nothing_is_ready(fresh):
    box = machine_with(fresh, 0)
    for number in (1, 2, 3):
        box.kernel_call(0, call.STOP, SLOT + number - 1, ending.DESTROYED, 0)
    box.tasks[0] = Program(waits_for_ever)
    box.let_pass(20 * MS)
    assert [kind for kind, _ in box.log].count('sleep') > 0
    del box.log[:]

    box = machine_with(fresh, 1)
    box.let_pass(500 * MS)
    assert 'sleep' not in [kind for kind, _ in box.log]


def test_sleep_is_charged_to_nobody(fresh):
    box = fresh(THREE_WITHOUT_VCPUS)

    def wakes_now_and_then():
        while True:
            yield ('call', WAIT, box.cpu.tsc + 100 * MS)
    for number in range(4):
        box.tasks[number] = Program(wakes_now_and_then if number == 2 else waits_for_ever)
    box.let_pass(900 * MS)
    assert [kind for kind, _ in box.log].count('sleep') > 0
    assert sum(used(number) for number in range(4)) < MS


def test_ring_data_wakes_a_sleeping_manager(fresh):
    box = machine_with(fresh, 0)
    heard = []

    def sends():
        yield ('call', WAIT, box.cpu.tsc + 30 * MS)
        yield ('call', call.RING_SEND, call.SLOT_CONSOLE_OUT, 5)
        while True:
            yield ('call', WAIT, 0)

    def hears():
        while True:
            heard.append((yield ('call', WAIT, 0)))
    box.tasks[0], box.tasks[1] = Program(hears), Program(sends)
    box.let_pass(60 * MS)
    assert heard == [(status.OK, 1 << 48)]


def test_fault_of_a_task_ends_its_compartment_alone(fresh):
    box = machine_with(fresh, 2)

    def faults():
        yield ('fault', 14)
    box.tasks[1] = Program(faults)
    box.let_pass(50 * MS)
    assert (compartments[1].state, compartments[1].how) == (call.STATE_ENDED, ending.VMM_FAULT)
    assert compartments[2].state == call.STATE_RUNNING and used(2) > 20 * MS


@given(events=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(['stop', 'hlt', 'spin', 'wait', 'fault', 'call']), st.integers(1, 40)), max_size=12))
@settings(max_examples=25)
def test_everybody_who_is_ready_runs_within_a_round(fresh, events):
    """Whatever three VMs do, one that only spins is never left out, and nothing raises."""
    box = machine_with(fresh, 3)
    plans = dict((number, [event[1:] for event in events if event[0] == number]) for number in (1, 2))

    def task(number):
        yield ('call', RUN, VCPU, 0)
        for what, amount in plans[number]:
            if what == 'stop':
                yield ('call', call.STOP, 0, ending.EXITED, amount)
            elif what == 'wait':
                yield ('call', WAIT, box.cpu.tsc + amount * MS)
            elif what == 'spin':
                yield ('spin', amount * MS)
            elif what == 'fault':
                yield ('fault', 13)
            elif what == 'hlt':
                box.memory.put_word(vcpu_page(number) + ANSWER['ACTION'], RESUME)
                yield ('call', RUN, VCPU, box.cpu.tsc + amount * MS)
            else:
                yield ('call', amount)
        while True:
            yield ('call', RUN, VCPU, 0)

    def guest():
        while True:
            yield ('spin', 2 * MS)
            yield ('exit', svm.EXIT_HLT)

    def busy():
        while True:
            yield ('spin', MS)
            yield ('exit', svm.EXIT_VMMCALL)
    for number in (1, 2):
        box.tasks[number], box.guests[number] = Program(task, number), Guest(guest)
    box.guests[3] = Guest(busy)
    last = box.cpu.tsc
    end = box.cpu.tsc + 400 * MS
    while box.cpu.tsc < end:
        before = box.guests[3].ticks
        step()
        if box.guests[3].ticks != before:
            assert box.cpu.tsc - last <= 4 * SLICE + MS
            last = box.cpu.tsc
    assert last > end - 5 * SLICE


# Guests' timers

def arms_a_timer(box, lvt, count, divide=0xb):
    """VM 1's VMM sets its guest's APIC timer and lets it run with interrupts on."""
    put_answer(box, 1, RFLAGS=0x202, DIRTY=GROUP_FLOW)
    for offset, value in ((lapic.SPURIOUS, 0x1ff), (lapic.TIMER, lvt), (lapic.DIVIDE, divide), (lapic.INITIAL_COUNT, count)):
        assert (yield ('call', call.VCPU_APIC, VCPU, offset, 1, value)) == (status.OK, 0)
    while True:
        yield ('call', RUN, VCPU, 0)


PERIODIC, MASKED = lapic.LVT_MODE_PERIODIC << 17, lapic.MASKED


def sleeps():
    while True:
        yield ('exit', svm.EXIT_HLT)


@pytest.mark.parametrize('lvt, guest', [(PERIODIC | 0x40, spin), (PERIODIC | 0x40 | MASKED, sleeps), (PERIODIC, spin), (PERIODIC | 0xff, sleeps)])
def test_fast_timer_of_a_guest_costs_nobody_else_time(fresh, lvt, guest):
    """A period of 16 TSC ticks, which is shorter than an entry and an exit: a processor that has to serve it does nothing else."""
    box = machine_with(fresh, 2)
    box.tasks[1], box.guests[1] = Program(arms_a_timer, box, lvt, 1), Guest(guest)
    start = box.cpu.tsc
    for _ in range(4000):
        step()
    passed = box.cpu.tsc - start
    assert passed > 6 * SLICE, 'only %d ticks in 4000 runs' % passed
    assert box.log.count(('guest', 2)) <= 3 * (passed // MS + 1)
    assert box.guests[2].ticks > passed // 2 - 2 * SLICE


@pytest.mark.parametrize('count', [1, 1000, MS // 16])
def test_timer_ends_a_halt_in_its_time(fresh, count):
    """Alone on the machine, and beside a neighbour that spins: then after that one's slice."""
    for neighbours in (1, 2):
        box = machine_with(fresh, neighbours)
        woken = []

        def guest():
            while True:
                yield ('exit', svm.EXIT_HLT)
                woken.append(box.cpu.tsc)
        box.tasks[1], box.guests[1] = Program(arms_a_timer, box, 0x40, count), Guest(guest)
        start = box.cpu.tsc
        box.let_pass(100 * MS)
        late = MS + SLICE * (neighbours - 1)
        assert woken and start + 16 * count <= woken[0] <= start + 16 * count + late


def ONE_AND_ONE_WITHOUT_VCPU(box):
    make_vm(box, 1)
    make_vm(box, 2, vcpus=0)


def test_timer_ends_a_halt_also_beside_two_that_never_use_up_a_slice(fresh):
    """A VM and the manager that wake each other begin slice after slice, and none ever ends by the timer."""
    box = fresh(ONE_AND_ONE_WITHOUT_VCPU)
    woken = []

    def guest():
        while True:
            yield ('exit', svm.EXIT_HLT)
            woken.append(box.cpu.tsc)

    def answers():
        while True:
            yield ('call', WAIT, 0)
            yield ('call', call.RING_RECEIVE, 50)
            yield ('call', call.RING_SEND, 51, 1)

    def asks():
        while True:
            yield ('call', call.RING_SEND, call.SLOT_CONSOLE_OUT, 1)
            yield ('call', WAIT, 0)
            yield ('call', call.RING_RECEIVE, call.SLOT_CONSOLE_IN)
    box.tasks[0], box.tasks[2] = Program(answers), Program(asks)
    box.tasks[1], box.guests[1] = Program(arms_a_timer, box, 0x40, MS // 16), Guest(guest)
    start = box.cpu.tsc
    box.let_pass(50 * MS)
    assert box.log.count(('task', 2)) > 300 and 'sleep' not in [kind for kind, when in box.log if when > start + 10 * MS]
    assert woken and start + MS <= woken[0] <= start + 2 * MS + SLICE


LOOK = 200              # TSC ticks: what a look at the TSC takes here, and a count of the timer


@pytest.mark.parametrize('ahead, ticks', [(5000, 5000), (1, 1), (0, 0), (-1, 0), (-MS, 0)])
def test_the_timer_is_armed_for_a_moment_even_if_that_has_just_passed(box, ahead, ticks):
    box.due = None
    now = box.cpu.tsc
    timer.arm_until(r_uint(now + ahead))
    assert now + ticks <= box.due <= now + ticks + LOOK


def test_who_becomes_ready_is_among_those_that_the_scheduler_looks_at(fresh):
    """The scheduler forgets who has nothing ready when it sees that, and nobody else."""
    fresh(THREE_VMS)
    compartments[1].task.block(IN_WAIT, r_uint(0))
    for number in (1, 2):
        wanting.bits &= ~r_uint(1 << number)
        compartments[number].task.wake()
        assert wanting.bits >> number & 1
    assert scheduler.first() in (compartments[0], compartments[1], compartments[2]) and wanting.bits >> 1 & 3 == 3
    compartments[1].task.block(IN_WAIT, r_uint(0))
    compartments[1].vcpus[0].ready = False
    scheduler.first()
    assert not wanting.bits >> 1 & 1 and compartments[1].share.idle and wanting.bits >> 2 & 1


def due_after(now):
    """Arm the timer; returns when somebody is to be looked at at the earliest, None if never."""
    scheduler.arm(r_uint(now), r_uint(now + 100 * MS), False)
    return None if scheduler.due == ~r_uint(0) else int(scheduler.due) - now


def test_whose_time_is_to_be_looked_at_is_known_and_whose_has_passed_is_forgotten(fresh):
    """Two guests' timers and two tasks' deadlines; each that goes leaves the others."""
    box = fresh(THREE_VMS)
    now = box.cpu.tsc
    first, second = [compartments[number].vcpus[0] for number in (1, 2)]
    assert timed.tasks == sum(compartments[number].task.bit for number in (1, 2, 3))      # each owes its first answer
    for number in (1, 2, 3):
        compartments[number].task.owes = False
    assert due_after(now) is None and timed.tasks == timed.vcpus == r_uint(0)
    for vcpu, when in ((first, 5 * MS), (second, 7 * MS)):
        vcpu.apic.svr = r_uint(0x1ff)
        vcpu.apic.lvt[1] = r_uint(lapic.LVT_MODE_DEADLINE << 17 | 0x40)
        vcpu.apic.write_deadline(r_uint(now + when))
    assert due_after(now) == 5 * MS and timed.vcpus == first.apic.bit | second.apic.bit
    scheduler.expire_timers(r_uint(now + 6 * MS))
    assert timed.vcpus == second.apic.bit and due_after(now) == 7 * MS
    first.apic.write_deadline(r_uint(now + 8 * MS))
    first.apic.write_deadline(r_uint(0))
    assert due_after(now) == 7 * MS and timed.vcpus == second.apic.bit
    for number, when in ((1, 3 * MS), (3, 4 * MS)):
        compartments[number].task.block(IN_WAIT, r_uint(now + when))
    assert due_after(now) == 3 * MS
    compartments[1].task.wake()
    assert due_after(now) == 4 * MS and timed.tasks == compartments[3].task.bit
    compartments[3].task.wake()
    second.apic.write_deadline(r_uint(0))
    assert due_after(now) is None and timed.tasks == timed.vcpus == r_uint(0)
    scheduler.due = r_uint(now)
    assert due_after(now) is None


@pytest.mark.parametrize('deaf, lint0, wakes', [(False, lapic.EXTINT << 8, True), (True, lapic.EXTINT << 8, False), (False, lapic.EXTINT << 8 | lapic.MASKED, False)])
def test_pic_ends_a_halt_if_its_interrupt_comes_through(fresh, deaf, lint0, wakes):
    fresh(THREE_VMS)
    vcpu = compartments[1].vcpus[0]
    vcpu.apic.svr, vcpu.apic.lvt[4] = r_uint(0x1ff), r_uint(lint0)
    vcpu.halted, vcpu.deaf, vcpu.ready, vcpu.apic.extint = True, deaf, False, True
    vcpu.wake_for_interrupt()
    assert vcpu.attention and vcpu.halted == (not wakes) and vcpu.ready == wakes
