"""How long a started core's manager sleeps where nobody rings: each time it wakes costs a guest that has the core to itself an exit."""
import pytest

from hypervisor.hw import task
from hypervisor.manager.frames import Box
from hypervisor.manager.keeper import IDLE_MS, POLL_MS
from hypervisor.manager.station import Station
from hypervisor.manager.vm import AWAITED, Vm
from hypervisor.spec.config import MAX_VMS
from rpython.rlib.rarithmetic import r_uint

NOW, KHZ = 10 ** 9, 1000


@pytest.fixture
def station():
    box = Box()
    box.tsc_khz = r_uint(KHZ)
    it = Station(box, [Vm(n) for n in range(MAX_VMS)])
    it.count = 2
    task.reset_fake(type('Kernel', (object,), {'rdtsc': staticmethod(lambda: NOW)}))
    yield it
    task.reset_fake()


def test_it_sleeps_for_ever_when_there_is_nothing_to_look_at(station):
    assert station.wake_up() == 0


@pytest.mark.parametrize('spare, nap', [(5000 * KHZ, 5000), (1, POLL_MS), (POLL_MS * KHZ, POLL_MS)])
def test_it_sleeps_until_a_time_limit_can_be_used_up_but_does_not_hurry(station, spare, nap):
    station.spare = r_uint(spare)
    assert station.wake_up() == NOW + nap * KHZ


@pytest.mark.parametrize('spare', [~r_uint(0), r_uint(10 ** 9)])
def test_it_looks_often_at_what_waits_for_room(station, spare):
    station.spare = spare
    station.keys[1].count = 3
    assert station.wake_up() == NOW + POLL_MS * KHZ
    station.keys[1].count = 0
    station.post.out_count = 1
    assert station.wake_up() == NOW + POLL_MS * KHZ


def test_it_asks_on_for_what_another_core_has_not_offered(station):
    station.vms[0].branch = AWAITED
    assert station.wake_up() == NOW + IDLE_MS * KHZ
