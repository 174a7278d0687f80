"""The real-time clock, against Python's calendar and against a clock that goes second by second.

Source: Motorola MC146818 data sheet, "Time, Calendar, and Alarm Locations", "Registers".
"""
import datetime

import pytest
from hypothesis import given, settings, strategies as st

from tests.unit.vmm.box import MIB
from tests.unit.vmm.device.pc import HZ, MS, US, Pc

LINE = 8
SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR, A, B, C, D, CENTURY = list(range(14)) + [0x32]
SET, PERIODIC, ALARM, UPDATE, BINARY, H24 = 0x80, 0x40, 0x20, 0x10, 4, 2
START = datetime.datetime(2024, 1, 1)


def get(pc, n):
    pc.put(0x70, n)
    return pc.get(0x71)


def put(pc, n, value):
    pc.put(0x70, n)
    pc.put(0x71, value)


def encode(value, control):
    return value if control & BINARY else value // 10 << 4 | value % 10


def encode_hour(hour, control):
    if control & H24:
        return encode(hour, control)
    return encode((hour + 11) % 12 + 1, control) | (0x80 if hour >= 12 else 0)


def set_clock(pc, moment, control):
    """With SET, as the data sheet wants it; `control` without SET is what B is afterwards."""
    put(pc, B, SET | control)
    for n, value in ((SECONDS, moment.second), (MINUTES, moment.minute), (DAY, moment.day), (MONTH, moment.month), (YEAR, moment.year % 100),
                     (CENTURY, moment.year // 100), (WEEKDAY, moment.isoweekday() % 7 + 1)):
        put(pc, n, encode(value, control))
    put(pc, HOURS, encode_hour(moment.hour, control))
    put(pc, B, control)


def shown(pc):
    return [get(pc, n) for n in (SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY)]


def right(moment, control):
    return [encode(moment.second, control), encode(moment.minute, control), encode_hour(moment.hour, control),
            moment.isoweekday() % 7 + 1] + [encode(value, control) for value in (moment.day, moment.month, moment.year % 100, moment.year // 100)]


def test_as_it_starts():
    pc = Pc(ram=32 * MIB)
    assert shown(pc) == right(START, H24)
    assert get(pc, A) & 0x7f == 0x26 and get(pc, B) == H24 and get(pc, C) == 0 and get(pc, D) == 0x80
    assert get(pc, 0x15) | get(pc, 0x16) << 8 == 640 and get(pc, 0x17) | get(pc, 0x18) << 8 == 31 * 1024 == get(pc, 0x30) | get(pc, 0x31) << 8
    assert get(pc, 0x34) | get(pc, 0x35) << 8 == 16 * 16
    total = sum(get(pc, n) for n in range(0x10, 0x2e))
    assert get(pc, 0x2e) << 8 | get(pc, 0x2f) == total
    assert pc.get(0x70) == 0xff


MOMENTS = [datetime.datetime(2024, 2, 28, 23, 59, 58), datetime.datetime(2023, 2, 28, 23, 59, 58), datetime.datetime(1999, 12, 31, 23, 59, 59),
           datetime.datetime(2100, 2, 28, 23, 59, 59), datetime.datetime(2000, 2, 28, 23, 59, 59), datetime.datetime(2024, 3, 1, 11, 59, 59),
           datetime.datetime(2024, 6, 30, 12, 0, 0), datetime.datetime(2024, 12, 31, 0, 0, 0)]
moments = st.datetimes(datetime.datetime(1901, 1, 1), datetime.datetime(2199, 12, 31))


@pytest.mark.parametrize('control', [0, H24, BINARY, H24 | BINARY])
@pytest.mark.parametrize('moment', MOMENTS, ids=str)
def test_turn_of_the_day_in_each_format(moment, control):
    pc = Pc()
    set_clock(pc, moment, control)
    assert shown(pc) == right(moment, control)
    for n in range(1, 4):
        pc.let_pass(HZ)
        assert shown(pc) == right(moment + datetime.timedelta(seconds=n), control)


@given(moment=moments, seconds=st.one_of(st.integers(0, 200), st.integers(0, 4 * 10 ** 8)), control=st.sampled_from([0, H24, BINARY, H24 | BINARY]))
@settings(max_examples=60)
def test_any_time_later_is_what_the_calendar_says(moment, seconds, control):
    pc = Pc()
    set_clock(pc, moment.replace(microsecond=0), control)
    pc.box.now += seconds * HZ
    assert shown(pc) == right(moment.replace(microsecond=0) + datetime.timedelta(seconds=seconds), control)


def test_set_stops_the_clock_and_clears_the_update_interrupt():
    pc = Pc()
    put(pc, B, SET | UPDATE | H24)
    assert get(pc, B) == SET | H24
    pc.let_pass(10 * HZ)
    assert shown(pc) == right(START, H24) and get(pc, C) & (UPDATE | ALARM) == 0
    put(pc, B, H24)
    pc.let_pass(2 * HZ)
    assert shown(pc)[0] in (1, 2)


def test_divider_in_reset_stops_it_and_the_first_update_comes_after_half_a_second():
    pc = Pc()
    put(pc, A, 0x76)
    pc.let_pass(5 * HZ)
    assert get(pc, SECONDS) == 0
    put(pc, A, 0x26)
    pc.let_pass(HZ // 2 - MS)
    assert get(pc, SECONDS) == 0
    pc.let_pass(2 * MS)
    assert get(pc, SECONDS) == 1


def test_update_in_progress_is_shown_before_each_second():
    """Who sees it clear has at least 244 us before anything changes."""
    pc = Pc()
    pc.let_pass(HZ - (pc.box.now - pc.start) - 3 * MS)
    seen = []
    for _ in range(700):
        seen.append((get(pc, A) >> 7, get(pc, SECONDS)))
        pc.let_pass(10 * US)
    change = [second for _, second in seen].index(1)
    assert all(flag for flag, _ in seen[change - 24:change]) and not any(flag for flag, _ in seen[change + 1:])
    assert 180 <= sum(flag for flag, _ in seen) <= 260


@pytest.mark.parametrize('rate, frequency', [(3, 8192), (6, 1024), (10, 64), (15, 2), (1, 256), (2, 128)])
def test_periodic_interrupt(rate, frequency):
    pc = Pc()
    put(pc, A, 0x20 | rate)
    put(pc, B, PERIODIC | H24)
    start, count = pc.box.now, 0
    for _ in range(6):
        pc.let_pass(HZ // frequency + US)
        if pc.board.lines.active[LINE]:
            count += 1
            assert get(pc, C) & 0xc0 == 0xc0 and not pc.board.lines.active[LINE]
    assert count == 6
    for n, at in enumerate(pc.times(LINE)):
        assert abs(at - start - (n + 1) * HZ // frequency) < 10 * US


def test_one_periodic_interrupt_until_c_is_read():
    pc = Pc()
    put(pc, B, PERIODIC | H24)
    pc.let_pass(HZ)
    assert len(pc.times(LINE)) == 1 and not pc.board.agenda.nearest
    assert get(pc, C) & 0xc0 == 0xc0 and get(pc, C) == 0


def test_periods_that_were_missed_do_not_shift_the_others():
    pc = Pc()
    put(pc, A, 0x2a)                    # 64 Hz
    put(pc, B, PERIODIC | H24)
    start = pc.box.now
    pc.box.now += HZ * 5 // 128         # two and a half periods
    pc.board.agenda.tick(pc.box.now)
    get(pc, C)
    assert abs(int(pc.board.agenda.nearest) - start - HZ * 3 // 64) < 10 * US


def test_no_rate_no_interrupt():
    pc = Pc()
    put(pc, A, 0x20)
    put(pc, B, PERIODIC | H24)
    pc.let_pass(3 * HZ)
    assert not pc.times(LINE) and not get(pc, C) & PERIODIC


def test_update_ended_interrupt_comes_with_the_new_second():
    pc = Pc()
    put(pc, B, UPDATE | H24)
    for n in range(1, 4):
        pc.let_pass(HZ)
        assert len(pc.times(LINE)) == n and get(pc, C) & 0x90 == 0x90
        assert abs(pc.times(LINE)[-1] - pc.start - n * HZ) < US


def test_flags_without_their_enable_are_set_but_ask_for_nothing():
    pc = Pc()
    pc.let_pass(2 * HZ)
    assert not pc.times(LINE)
    assert get(pc, C) & 0xd0 == UPDATE | PERIODIC
    put(pc, B, UPDATE | H24)
    pc.let_pass(HZ)
    assert pc.board.lines.active[LINE]
    put(pc, B, H24)
    assert not pc.board.lines.active[LINE], 'the enable gates the line'


@pytest.mark.parametrize('alarm, control', [((7, 30, 5), H24), ((7, 30, 5), BINARY), ((19, 30, 5), 0), ((0, 0, 0), 0), ((12, 0, 0), BINARY | H24),
                                            ((None, None, 30), H24), ((None, 15, 0), H24), ((3, None, None), H24), ((None, None, None), 0)])
def test_alarm_at_the_second_that_a_slow_clock_finds(alarm, control):
    """alarm: hour, minute, second; None is any."""
    begin = datetime.datetime(2024, 5, 5, 6, 59, 50)
    pc = Pc()
    set_clock(pc, begin, control)
    hour, minute, second = alarm
    put(pc, HOURS_ALARM, 0xff if hour is None else encode_hour(hour, control))
    put(pc, MINUTES_ALARM, 0xc0 if minute is None else encode(minute, control))
    put(pc, SECONDS_ALARM, 0xff if second is None else encode(second, control))
    get(pc, C)
    put(pc, B, ALARM | control)
    moment, expected = begin, []
    while len(expected) < 2:
        moment += datetime.timedelta(seconds=1)
        if all(want is None or want == is_ for want, is_ in zip(alarm, (moment.hour, moment.minute, moment.second))):
            expected.append(moment)
    for n, moment in enumerate(expected):
        at = pc.start + int((moment - begin).total_seconds()) * HZ
        pc.let_pass(at - HZ // 2 - pc.box.now)
        assert len(pc.times(LINE)) == n
        pc.let_pass(HZ * 3 // 4)
        assert len(pc.times(LINE)) == n + 1 and abs(pc.times(LINE)[-1] - at) < MS and get(pc, C) & 0xa0 == 0xa0


@pytest.mark.parametrize('register, value', [(SECONDS_ALARM, 0x60), (MINUTES_ALARM, 0x61), (HOURS_ALARM, 0x24), (SECONDS_ALARM, 0xbf)])
def test_alarm_that_no_clock_ever_says_is_never(register, value):
    pc = Pc()
    put(pc, register, value)
    put(pc, B, ALARM | H24)
    pc.let_pass(90000 * HZ)
    assert not pc.times(LINE) and not get(pc, C) & ALARM


def test_alarm_is_seen_also_by_one_who_polls_rarely():
    pc = Pc()
    put(pc, HOURS_ALARM, 0x05)
    put(pc, MINUTES_ALARM, 0)
    put(pc, SECONDS_ALARM, 0)
    pc.box.now += 5 * 3600 * HZ - HZ // 2
    assert not get(pc, C) & ALARM
    pc.box.now += HZ
    assert get(pc, C) & ALARM and not get(pc, C) & ALARM


def test_memory_keeps_all_else_and_c_and_d_cannot_be_written():
    pc = Pc()
    for n in range(14, 128):
        if n != CENTURY:
            put(pc, n, n ^ 0x5a)
    put(pc, C, 0xff)
    put(pc, D, 0)
    assert all(get(pc, 0x80 | n) == n ^ 0x5a for n in range(14, 128) if n != CENTURY)
    assert get(pc, C) == 0 and get(pc, D) == 0x80
    put(pc, A, 0xff)
    assert get(pc, A) == 0x7f


def test_reset_of_the_pc_keeps_time_and_format_and_stops_interrupts():
    pc = Pc()
    set_clock(pc, datetime.datetime(2030, 7, 8, 9, 10, 11), BINARY | H24)
    put(pc, B, PERIODIC | ALARM | UPDATE | BINARY | H24)
    pc.let_pass(2 * HZ)
    assert pc.board.lines.active[LINE]
    pc.board.clear()
    assert not pc.board.lines.active[LINE] and not pc.board.agenda.nearest
    assert get(pc, B) == BINARY | H24 and get(pc, C) & 0x80 == 0
    assert shown(pc) == right(datetime.datetime(2030, 7, 8, 9, 10, 13), BINARY | H24)


@given(values=st.lists(st.tuples(st.integers(0, 13), st.integers(0, 255)), min_size=1, max_size=12), wait=st.integers(0, 10 ** 11))
@settings(max_examples=50)
def test_rubbish_in_the_registers_harms_nobody(values, wait):
    pc = Pc()
    for n, value in values:
        put(pc, n, value)
    pc.box.now += wait
    assert all(0 <= get(pc, n) <= 255 for n in list(range(14)) + [CENTURY])
    due = int(pc.board.agenda.nearest)
    assert not due or due > pc.box.now - HZ // 100, 'an event in the past would come again and again'
