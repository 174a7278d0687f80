"""The machine's clock in each of its formats, against datetime; and clocks that are none."""
import calendar
import datetime

import pytest
from hypothesis import given, strategies as st

from hypervisor.manager.clock import TRIES, UNKNOWN, Clock
from tests.unit.fake_kernel import FakeKernel


class Cmos(object):
    """Registers as the chip shows them. ends: at which reads of the seconds (counted from 0) a second ends right after."""

    def __init__(self, when, binary=False, hours_24=True, ends=()):
        self.when, self.binary, self.hours_24, self.ends = when, binary, hours_24, ends
        self.updating = 0           # so many reads of A show that an update is going on
        self.index, self.reads = 0, 0

    def coded(self, value):
        return value if self.binary else value // 10 << 4 | value % 10

    def read(self):
        when = self.when
        if self.index == 0:
            self.reads += 1
            if self.reads - 1 in self.ends:
                self.when = when + datetime.timedelta(seconds=1)
        if self.index == 10:
            self.updating -= 1
            return 0x80 if self.updating >= 0 else 0x26
        if self.index == 11:
            return 4 * self.binary | 2 * self.hours_24
        if self.index == 4 and not self.hours_24:
            return self.coded((when.hour + 11) % 12 + 1) | (0x80 if when.hour >= 12 else 0)
        return self.coded({0: when.second, 2: when.minute, 4: when.hour, 7: when.day, 8: when.month, 9: when.year % 100,
                           0x32: when.year // 100}[self.index])


def read(cmos):
    """What the clock says of this chip; None for no chip."""
    kernel = FakeKernel()
    kernel.boot_manager()
    port_in, port_out = kernel.do_port_in, kernel.do_port_out

    def do_port_in(slot, port, size):
        return (0, cmos.read()) if port == 0x71 and cmos else port_in(slot, port, size)

    def do_port_out(slot, port, size, value):
        if port == 0x70 and cmos:
            cmos.index = value
        return port_out(slot, port, size, value)
    kernel.do_port_in, kernel.do_port_out = do_port_in, do_port_out
    clock = Clock()
    clock.read()
    return clock.seconds


def unix(when):
    return calendar.timegm(when.timetuple())


@given(st.integers(unix(datetime.datetime(2020, 1, 1)), unix(datetime.datetime(2199, 12, 31))), st.booleans(), st.booleans())
def test_every_format_tells_the_time(seconds, binary, hours_24):
    when = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    assert read(Cmos(when, binary, hours_24)) == seconds


@pytest.mark.parametrize('hour', [0, 11, 12, 13, 23])
def test_noon_and_midnight_of_the_12_hour_format(hour):
    when = datetime.datetime(2026, 2, 28, hour, 59, 59)
    assert read(Cmos(when, hours_24=False)) == unix(when)


def test_second_that_ends_meanwhile_is_read_again():
    """Between the first look and the last all else may have changed as well."""
    when = datetime.datetime(2027, 12, 31, 23, 59, 59)
    assert read(Cmos(when, ends=[1])) == unix(when) + 1


def test_update_is_waited_for_but_not_for_ever():
    cmos = Cmos(datetime.datetime(2026, 1, 1))
    cmos.updating = TRIES - 1
    assert read(cmos) == unix(cmos.when)
    cmos.updating = TRIES
    assert read(cmos) == UNKNOWN


def test_no_clock_and_one_that_has_lost_its_battery_are_unknown():
    assert read(None) == UNKNOWN
    assert read(Cmos(datetime.datetime(2000, 1, 1))) == UNKNOWN
