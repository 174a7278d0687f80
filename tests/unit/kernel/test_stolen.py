"""What is stolen from a VM that wants to know: the time in which it could have run and others did."""
import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.kernel import state
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.context import wanting
from hypervisor.kernel.create import open_compartment
from hypervisor.kernel.loop import step
from hypervisor.kernel.scheduler import scheduler
from hypervisor.spec import call, ending, lapic, status, vcpu
from tests.unit.kernel.machine import TSC_HZ, Guest, Program
from tests.unit.kernel.test_shares import FOUR_VMS, MS, PERIOD, PERIODIC, SECOND, SLOT, TURN, WAIT, manager, spins, used, works
from tests.unit.kernel.vm import put_answer, vcpu_page

RUN, VCPU = call.VCPU_RUN, call.SLOT_VCPU


def vmm(box, number, told, wish=vcpu.TELL_STOLEN, period=0):
    """Lets its guest run. told: what the page says at each signal."""
    put_answer(box, number, RFLAGS=0x202, DIRTY=vcpu.GROUP_FLOW | wish)
    if period:
        for offset, value in ((lapic.SPURIOUS, 0x1ff), (lapic.TIMER, PERIODIC | 0x40), (lapic.DIVIDE, 0xb), (lapic.INITIAL_COUNT, period // 16)):
            assert (yield ('call', call.VCPU_APIC, VCPU, offset, 1, value)) == (status.OK, 0)
    while True:
        answer = yield ('call', RUN, VCPU, 0)
        if answer == (status.OK, call.REASON_SIGNAL):
            told.append(stolen(box, number))
            yield ('call', WAIT, 1)


def stolen(box, number):
    return box.memory.word(vcpu_page(number) + vcpu.STOLEN)


def start(fresh, guests, **options):
    """guests: {number: a guest}. options: vmmN=(wish, period). Returns the box and {number: what its VMM was told}."""
    box = fresh(FOUR_VMS)
    told = dict((number, []) for number in guests)
    for number in (1, 2, 3, 4):
        if number in guests:
            box.tasks[number], box.guests[number] = Program(vmm, box, number, told[number], *options.get('vmm%d' % number, ())), guests[number]
        else:
            box.kernel_call(0, call.STOP, SLOT + number - 1, ending.DESTROYED, 0)
    box.tasks[0] = Program(manager)
    return box, told


def run(box, ticks):
    end = box.cpu.tsc + ticks
    while box.cpu.tsc < end:
        step()


@pytest.mark.parametrize('count', [2, 3])
def test_what_others_have_is_stolen(fresh, count):
    """Who always wants the processor has each tick, or has it stolen."""
    box, told = start(fresh, dict((n + 1, Guest(spins)) for n in range(count)))
    run(box, 5 * PERIOD)
    for number in told:
        had, lost, begin = used(box, number), stolen(box, number), box.cpu.tsc
        run(box, SECOND)
        length = box.cpu.tsc - begin
        had, lost = used(box, number) - had, stolen(box, number) - lost
        assert abs(had + lost - length) < 2 * PERIOD, (had, lost, length)
        assert abs(lost - length * (count - 1) // count) < length // 20
        assert told[number] and all(a < b for a, b in zip(told[number], told[number][1:])), 'each time there is more'
        assert stolen(box, number) - told[number][-1] < 2 * PERIOD, 'it hears of it soon'


def test_from_who_is_alone_nothing_is_stolen(fresh):
    """But what the manager needs."""
    box, told = start(fresh, {1: Guest(spins)})
    run(box, SECOND)
    assert stolen(box, 1) < SECOND // 100 and len(told[1]) <= stolen(box, 1) // MS


def test_who_sleeps_loses_nothing_but_the_time_until_it_is_let_in(fresh):
    """It works for a millisecond of 30, beside one that spins. What passes until the scheduler sees that it wants something, a turn at most, is not counted."""
    woken = []
    box, told = start(fresh, {1: Guest(works, MS, 1), 2: Guest(spins)}, vmm1=(vcpu.TELL_STOLEN, 30 * MS))
    box.guests[1] = Guest(works, MS, 1, woken, box)
    run(box, SECOND)
    late = sum((moment - int(compartments[1].vcpus[0].apic.started)) % (30 * MS) for moment in woken)
    assert len(woken) > 30 and late - len(woken) * TURN * 5 // 4 < stolen(box, 1) <= late
    assert abs(stolen(box, 2) - used(box, 1)) < SECOND // 50


def test_who_has_not_asked_is_told_nothing(fresh):
    box, told = start(fresh, {1: Guest(spins), 2: Guest(spins)}, vmm2=(0,))
    run(box, SECOND // 5)
    assert told[1] and not told[2] and stolen(box, 2) == 0 and not compartments[2].signals


def test_it_is_forgotten_with_the_vm(fresh):
    box, told = start(fresh, {1: Guest(spins), 2: Guest(spins)})
    run(box, SECOND // 10)
    assert compartments[1].tells_stolen
    open_compartment(compartments[1])
    assert not compartments[1].tells_stolen and not compartments[1].waits_since


def test_a_millisecond_is_what_it_is_told_for(fresh):
    """It loses some tenths at a time."""
    assert TSC_HZ == 1000 * MS
    box, told = start(fresh, {1: Guest(spins), 2: Guest(works, MS * 3 // 10, 2)}, vmm2=(0, 2 * MS))
    run(box, SECOND // 2)
    assert len(told[1]) > 10 and all(MS <= b - a < 2 * MS for a, b in zip(told[1], told[1][1:]))


def test_little_waits_until_it_is_a_millisecond(fresh):
    box, told = start(fresh, {1: Guest(spins), 2: Guest(spins)})
    run(box, SECOND // 10)
    c = compartments[1]
    c.signals = c.untold_ticks = r_uint(0)
    c.vcpus[0].ready = True
    before, heard = stolen(box, 1), []
    for _ in range(6):
        c.waits_since = r_uint(10 * MS)
        c.had_to_wait(r_uint(10 * MS + MS * 2 // 5), scheduler.turn_ticks)
        heard.append(c.signals != 0)
        c.signals = r_uint(0)
        assert c.waits_since == 0
    assert heard == [False, False, True, False, False, True] and stolen(box, 1) == before + 6 * (MS * 2 // 5)


def test_who_stops_to_want_the_processor_waits_no_longer(fresh):
    """Others can stop it while it waits."""
    box, told = start(fresh, {1: Guest(spins), 2: Guest(spins)})
    run(box, SECOND // 10)
    c = compartments[1]
    c.waits_since = r_uint(1)
    c.task.ready = c.vcpus[0].ready = False
    compartments[2].task.want()
    wanting.bits |= r_uint(1 << 1)
    assert scheduler.first() is compartments[2] and c.waits_since == 0


def test_what_the_manager_takes_for_a_line_is_stolen_too(fresh):
    box, told = start(fresh, {1: Guest(spins)})
    run(box, SECOND // 10)
    while scheduler.compartment is not compartments[1]:
        step()
    compartments[0].task.want()
    scheduler.favour(0)
    assert scheduler.compartment is compartments[0] and compartments[1].waits_since == scheduler.charged


def test_only_the_home_keeps_account(fresh):
    """Another core's part of a VM has no VMM that could hear of it."""
    fresh(FOUR_VMS)
    c = compartments[1]
    for home, told in ((c.home + 1, False), (c.home, True)):
        c.home = home
        assert state.apply(c.vcpus[0], r_uint(vcpu.TELL_STOLEN)) == 0 and c.tells_stolen == told
