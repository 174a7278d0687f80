"""The 8254: modes, latches, read-back, and the interrupts of channel 0.

Source: Intel 8254 data sheet, "Mode Definitions", "Read/Write Control", "Read-Back Command". A period is 1/1193182 s.
"""
import pytest
from hypothesis import given, settings, strategies as st

from tests.unit.vmm.device.pc import HZ, MS, US, Pc

PIT_HZ = 1193182
TIMER = 0


def ticks(periods):
    """TSC ticks that so many periods of the PIT take, rounded up."""
    return -(-periods * HZ // PIT_HZ)


def program(pc, channel, mode, count, bcd=0):
    pc.put(0x43, channel << 6 | 0x30 | mode << 1 | bcd)
    pc.put(0x40 + channel, count & 0xff)
    pc.put(0x40 + channel, count >> 8)


def count_of(pc, channel):
    """Latch and read."""
    pc.put(0x43, channel << 6)
    return pc.get(0x40 + channel) | pc.get(0x40 + channel) << 8


def status_of(pc, channel):
    pc.put(0x43, 0xe0 | 2 << channel)
    return pc.get(0x40 + channel)


def out_2(pc):
    return pc.get(0x61) >> 5 & 1


@pytest.mark.parametrize('mode', [2, 6, 3, 7])
@pytest.mark.parametrize('count', [119, 1193, 11932, 0])
def test_periodic_channel_interrupts_at_each_end_of_its_count(mode, count):
    pc = Pc()
    program(pc, 0, mode, count)
    start = pc.box.now
    pc.let_pass(ticks(10 * (count or 65536)) + 1000)
    times = pc.times(TIMER)
    assert len(times) == 10
    for n, at in enumerate(times):
        assert 0 <= at - start - (n + 1) * (count or 65536) * HZ // PIT_HZ < 2 * US, n


def test_periodic_channel_never_drifts():
    """100 Hz for ten seconds: the thousandth edge is still at its place."""
    pc = Pc()
    program(pc, 0, 2, 11932)
    start = pc.box.now
    pc.let_pass(10100 * MS)
    assert abs(pc.times(TIMER)[999] - start - 1000 * 11932 * HZ // PIT_HZ) < 2 * US


def test_periods_that_were_missed_melt_into_one():
    pc = Pc()
    program(pc, 0, 2, 1193)
    start, agenda = pc.box.now, pc.board.agenda
    pc.box.now += 25 * MS + MS // 2
    agenda.tick(pc.box.now)
    assert len(pc.times(TIMER)) == 1
    assert int(agenda.nearest) - start - ticks(26 * 1193) in range(-2, 3)


def test_fast_periods_do_not_flood_the_vmm():
    pc = Pc()
    program(pc, 0, 2, 2)
    pc.let_pass(10 * MS)
    assert 150 < len(pc.times(TIMER)) <= 201


def test_terminal_count_interrupts_once_and_counts_on():
    pc = Pc()
    program(pc, 0, 0, 1000)
    assert not pc.board.lines.active[TIMER] and status_of(pc, 0) == 0x30
    pc.let_pass(ticks(500))
    assert 499 <= count_of(pc, 0) <= 500
    pc.let_pass(ticks(5000))
    assert len(pc.times(TIMER)) == 1 and pc.board.lines.active[TIMER] and status_of(pc, 0) & 0x80
    assert 65536 + 1000 - 5505 <= count_of(pc, 0) <= 65536 + 1000 - 5500
    pc.put(0x40, 100)
    assert not status_of(pc, 0) & 0x80, 'counting stops at the first byte'
    pc.put(0x40, 0)
    assert not pc.board.lines.active[TIMER]
    pc.let_pass(ticks(200))
    assert len(pc.times(TIMER)) == 2


def test_strobe_goes_low_for_one_period():
    pc = Pc()
    program(pc, 0, 4, 1000)
    assert status_of(pc, 0) & 0x80
    start = pc.box.now
    pc.let_pass(ticks(1000) + US // 4)
    assert not status_of(pc, 0) & 0x80 and not pc.times(TIMER)
    pc.let_pass(ticks(2000))
    assert len(pc.times(TIMER)) == 1 and abs(pc.times(TIMER)[0] - start - ticks(1001)) < US


def test_new_mode_stops_the_old_one():
    pc = Pc()
    program(pc, 0, 2, 1193)
    pc.let_pass(3 * MS)
    pc.put(0x43, 0x34)
    assert not pc.board.lines.active[TIMER] and not pc.board.agenda.nearest
    before = len(pc.times(TIMER))
    pc.let_pass(10 * MS)
    assert len(pc.times(TIMER)) == before and status_of(pc, 0) & 0x40, 'null count: nothing was written yet'
    pc.put(0x40, 0xff)
    assert status_of(pc, 0) & 0x40
    pc.put(0x40, 0xff)
    assert not status_of(pc, 0) & 0x40


@pytest.mark.parametrize('access, value, count', [(1, 0x80, 0x80), (2, 0x12, 0x1200), (1, 0, 0x10000)])
def test_counts_of_one_byte(access, value, count):
    pc = Pc()
    pc.put(0x43, access << 4 | 4)
    pc.put(0x40, value)
    start = pc.box.now
    pc.let_pass(ticks(count) + 1000)
    assert abs(pc.times(TIMER)[0] - start - ticks(count)) < US
    pc.put(0x43, access << 4 | 4)
    pc.put(0x40, value)
    assert pc.get(0x40) in ([count & 0xff, count - 1 & 0xff] if access == 1 else [count >> 8, count - 1 >> 8])


def test_rate_generator_goes_low_for_the_last_period():
    for periods, out in ((997, 1), (999, 0), (1001, 1), (1999, 0)):
        pc = Pc()
        program(pc, 2, 2, 1000)
        pc.put(0x61, 1)
        pc.let_pass(ticks(periods) + HZ // PIT_HZ // 3)
        assert out_2(pc) == out, periods
        pc.put(0x61, 0)
        assert out_2(pc) == 1, 'a closed gate holds it high'


def test_square_wave_counts_down_by_two():
    for periods, right, out in ((0, 1000, 1), (100, 800, 1), (499, 2, 1), (510, 980, 0), (999, 2, 0), (1100, 800, 1)):
        pc = Pc()
        program(pc, 2, 3, 1000)
        pc.put(0x61, 1)
        pc.let_pass(ticks(periods))
        assert abs(count_of(pc, 2) - right) <= 2 and out_2(pc) == out, periods


def test_bcd_counts_to_ten_thousand():
    pc = Pc()
    program(pc, 0, 0, 0x1000, 1)
    pc.let_pass(ticks(1))
    assert count_of(pc, 0) in (0x999, 0x998) and status_of(pc, 0) & 1
    pc.let_pass(ticks(1000))
    assert len(pc.times(TIMER)) == 1 and 0x9990 <= count_of(pc, 0) <= 0x9999
    program(pc, 0, 2, 0, 1)
    start = pc.box.now
    pc.let_pass(ticks(10000) + 1000)
    assert abs(pc.times(TIMER)[-1] - start - ticks(10000)) < US


def test_latch_holds_until_it_is_read_and_a_second_one_waits():
    pc = Pc()
    program(pc, 0, 2, 0)
    pc.put(0x43, 0)
    pc.let_pass(ticks(1000))
    pc.put(0x43, 0)                     # ignored
    value = pc.get(0x40) | pc.get(0x40) << 8
    assert value >= 65530 or value == 0
    assert 64520 <= pc.get(0x40) | pc.get(0x40) << 8 <= 64536, 'not latched any more'


def test_read_back_latches_count_and_status_of_several_channels():
    pc = Pc()
    program(pc, 0, 2, 0x4000)
    program(pc, 1, 3, 0x2000)
    pc.put(0x43, 0xc0 | 2 | 4)
    pc.let_pass(ticks(100))
    for channel, mode, count in ((0, 2, 0x4000), (1, 3, 0x2000)):
        port = 0x40 + channel
        assert pc.get(port) == 0xb0 | mode << 1, 'the status comes first'
        assert count - 20 <= pc.get(port) | pc.get(port) << 8 <= count
    pc.put(0x43, 0xd0 | 2)              # count only
    low, high = pc.get(0x40), pc.get(0x40)
    assert 0x4000 - 140 <= low | high << 8 <= 0x4000 - 100
    assert pc.get(0x43) == 0


def test_gate_of_channel_2_is_in_port_61():
    """How the TSC is measured: mode 0, gate on, wait for OUT."""
    pc = Pc()
    pc.put(0x61, 0)
    program(pc, 2, 0, 11932)
    pc.let_pass(ticks(20000))
    assert not out_2(pc) and count_of(pc, 2) == 11932, 'the gate is closed'
    pc.put(0x61, pc.get(0x61) & 0xc | 1)
    pc.let_pass(ticks(6000))
    assert not out_2(pc)
    pc.put(0x61, 0)
    pc.let_pass(ticks(20000))
    assert not out_2(pc) and abs(count_of(pc, 2) - 5932) <= 3, 'it waits'
    pc.put(0x61, 1)
    pc.let_pass(ticks(5900))
    assert not out_2(pc)
    pc.let_pass(ticks(50))
    assert out_2(pc) and pc.get(0x61) & 0xf == 1


@pytest.mark.parametrize('mode', [1, 5])
def test_triggered_modes_begin_when_the_gate_opens(mode):
    pc = Pc()
    program(pc, 2, mode, 1000)
    pc.let_pass(ticks(3000))
    assert out_2(pc)
    for _ in range(2):                  # the second time it is triggered in the middle
        pc.put(0x61, 0)
        pc.put(0x61, 1)
        pc.let_pass(ticks(600))
        assert out_2(pc) == (mode == 5)
    pc.let_pass(ticks(500))
    assert out_2(pc)


def test_refresh_bit_toggles_every_15_us():
    pc = Pc()
    seen = []
    for _ in range(400):
        seen.append(pc.get(0x61) >> 4 & 1)
        pc.let_pass(US)
    changes = sum(1 for a, b in zip(seen, seen[1:]) if a != b)
    assert 25 <= changes <= 28


@given(mode=st.sampled_from([0, 2, 3, 4]), count=st.integers(2, 65536), now=st.integers(0, 300000))
@settings(max_examples=60)
def test_count_and_out_follow_the_definitions(mode, count, now):
    """The data sheet's tables, counted in whole periods; one period more or less is a matter of when the reading happens."""
    pc = Pc()
    program(pc, 0, mode, count & 0xffff)
    pc.let_pass(ticks(now))

    def right(n):
        if mode == 2:
            return (count - n % count) % 65536, n % count != count - 1
        if mode == 3:
            return (count - 2 * n % count) % 65536, 2 * (n % count) < count
        return (count - n) % 65536, n >= count if mode == 0 else n != count
    near = [right(n) for n in (max(now - 1, 0), now, now + 1)]
    assert count_of(pc, 0) in [value for value, _ in near]
    assert bool(status_of(pc, 0) & 0x80) in [out for _, out in near]
