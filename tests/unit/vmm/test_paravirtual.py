"""The paravirtual clock and stolen time, read as Linux reads them.

Source: Linux, Documentation/virt/kvm/x86/msr.rst: pvclock_vcpu_time_info, pvclock_wall_clock and kvm_steal_time.
"""
import datetime
import struct

import pytest

from hypervisor.spec import boot, call, exit, vcpu
from tests.unit.vmm.box import MIB, VCPU_PAGE, Box, exits, out, run, store64, then

WALL, TIME, STEAL, WALL_OLD, TIME_OLD = 0x4b564d00, 0x4b564d01, 0x4b564d03, 0x11, 0x12


def write(number, value):
    return exits(exit.MSR_WRITE, SELECTOR=number, VALUE=value)


def look_at(box, steps, look):
    box.script = steps + [then(look, out(0xf4, 0))]
    run(box)


def nanoseconds(page, tsc):
    """The guest's formula. Source: Linux, pvclock_scale_delta."""
    version, _, stamp, system, multiplier, shift, flags = struct.unpack_from('<IIQQIbB', page)
    assert version and version % 2 == 0 and flags & 1, 'nobody writes, and the TSC is stable'
    delta = tsc - stamp
    delta = delta << shift if shift >= 0 else delta >> -shift
    return system + (delta * multiplier >> 32)


@pytest.mark.parametrize('numbers', [(WALL, TIME), (WALL_OLD, TIME_OLD)])
@pytest.mark.parametrize('khz, flags', [(1000, 0), (999999, boot.FLAG_HOST_TSC), (1000000, 0), (1000001, 0), (2400000, boot.FLAG_HOST_TSC), (4999999, 0)])
def test_time_by_the_page_is_time_by_the_guests_tsc(khz, flags, numbers):
    box, seen = Box(tsc_khz=khz, flags=boot.FLAG_EXIT_PORT | flags), []
    box.now = 12345
    box.put_guest(0x2000, b'\xee' * 32)

    def look(box):
        seen.append((bytes(box.guest(0x2000, 32)), bytes(box.guest(0x3000, 12))))
    look_at(box, [write(numbers[1], 0x2001), write(numbers[0], 0x3000)], look)
    page, wall = seen[0]
    start = struct.unpack_from('<Q', page, 8)[0]
    assert 12345 <= start < 12445 if flags else start == 0
    assert (start + box.state('TSC_OFFSET')) % (1 << 64) in ((start,) if flags else range((1 << 64) - 12445, (1 << 64) - 12344))
    for seconds in (0, 1, 60, 86400 * 365):
        right = seconds * 10 ** 9
        assert abs(nanoseconds(page, start + seconds * khz * 1000) - right) <= 1 + right // 10 ** 8
    version, second, rest = struct.unpack('<3I', wall)
    assert version and version % 2 == 0 and rest == 0
    assert datetime.datetime.utcfromtimestamp(second) == datetime.datetime(2024, 1, 1), 'as the real-time clock has it'


@pytest.mark.parametrize('number, value, right', [
    (TIME, 0x2001, True), (TIME, 0x2000, True), (TIME, 0x2003, False), (TIME, 4 * MIB - 32 + 1, True), (TIME, 4 * MIB - 28 + 1, False),
    (TIME, 0xa0001, False), (TIME, 0xffffffffffffffe1, False), (TIME, 0xfffffffffffffffd, False), (TIME, 1 << 40 | 1, False), (TIME, 0, True),
    (STEAL, 0x2001, True), (STEAL, 0x2000, True), (STEAL, 0x2003, False), (STEAL, 0x2021, False), (STEAL, 4 * MIB - 64 + 1, True), (STEAL, 4 * MIB + 1, False),
    (STEAL, 0xa0001, False), (STEAL, 0xffffffffffffffc1, False), (STEAL, 1 << 40 | 1, False), (STEAL, 0, True),
    (WALL, 0x3000, True), (WALL, 0x3002, False), (WALL, 4 * MIB - 12, True), (WALL, 4 * MIB - 8, False), (WALL, 0xfffffffffffffffc, False)])
def test_only_memory_of_the_guest_can_be_named(number, value, right):
    box, seen = Box(ram=4 * MIB), []
    steps = [write(number, value), then(lambda box: seen.append(box.answer('ACTION')), exits(exit.MSR_READ, SELECTOR=number))]
    look_at(box, steps, lambda box: seen.append(box.answer('RESULT')))
    assert seen[0] == (vcpu.COMPLETE if right else vcpu.INJECT)
    assert seen[1] == (value if right else 0)


def test_switched_off_page_is_left_alone():
    box, seen = Box(), []
    box.put_guest(0x2000, b'\xee' * 32)
    look_at(box, [write(TIME, 0x2000)], lambda box: seen.append(bytes(box.guest(0x2000, 32))))
    assert seen == [b'\xee' * 32]


def test_reset_forgets_the_pages():
    box, seen = Box(restarts=1), []
    steps = [write(TIME, 0x2001), write(WALL, 0x3000), write(STEAL, 0x2041), out(0xcf9, 6), exits(exit.MSR_READ, SELECTOR=TIME),
             then(lambda box: seen.append(box.answer('RESULT')), exits(exit.MSR_READ, SELECTOR=STEAL)),
             then(lambda box: seen.append(box.answer('RESULT')), exits(exit.MSR_READ, SELECTOR=WALL))]
    look_at(box, steps, lambda box: seen.append(box.answer('RESULT')))
    assert seen == [0, 0, 0]


# Stolen time

def steals(ticks):
    """The kernel has counted so many, and signals."""
    def happens(box):
        store64(VCPU_PAGE + vcpu.STOLEN, ticks)
        box.signals |= 1 << call.SLOT_VCPU
        return call.REASON_SIGNAL
    return happens


@pytest.mark.parametrize('khz', [1000, 999999, 2400000])
def test_what_is_stolen_is_in_memory_as_nanoseconds(khz):
    box, seen, wishes = Box(tsc_khz=khz), [], []
    box.put_guest(0x2000, b'\0' * 64 + b'\xee')

    def look(box):
        wishes.append(box.answer('DIRTY'))
        seen.append(struct.unpack('<QII48x', bytes(box.guest(0x2000, 64))))
    box.script = [steals(12), write(STEAL, 0x2001), then(look, steals(12 + khz * 5)), exits(exit.MSR_READ, SELECTOR=STEAL), then(look, steals(khz * 10 ** 9)),
                  exits(exit.MSR_READ, SELECTOR=STEAL), then(look, steals(khz * 10 ** 9)), exits(exit.MSR_READ, SELECTOR=STEAL), then(look, out(0xf4, 0))]
    run(box)
    assert wishes == [vcpu.TELL_STOLEN, 0, 0, 0], 'it asks the kernel once'
    first = 12 * 10 ** 6 // khz
    assert [steal for steal, _, _ in seen] == [first, first + 5 * 10 ** 6, 10 ** 15, 10 ** 15]
    versions = [version for _, version, _ in seen]
    assert all(version % 2 == 0 for version in versions) and versions[0] < versions[1] < versions[2] == versions[3], 'no change, no new version'
    assert all(flags == 0 for _, _, flags in seen) and bytes(box.guest(0x2040, 1)) == b'\xee'


def test_nobody_asks_for_what_is_stolen_who_switches_it_off():
    box, seen = Box(), []
    box.put_guest(0x2000, b'\xee' * 64)
    box.script = [write(STEAL, 0x2000), then(lambda box: seen.append(box.answer('DIRTY')), steals(1 << 40)), exits(exit.MSR_READ, SELECTOR=STEAL),
                  then(lambda box: seen.append(bytes(box.guest(0x2000, 64))), out(0xf4, 0))]
    run(box)
    assert seen == [0, b'\xee' * 64]


@pytest.mark.parametrize('number', [0x10, 0x13, 0x4b564cff, 0x4b564d02, 0x4b564d04, 0x4b564d05, 0xffffffff])
def test_what_is_not_offered_is_no_msr(number):
    box, seen = Box(), []
    look = lambda box: seen.append(box.answer('ACTION'))
    box.script = [exits(exit.MSR_READ, SELECTOR=number), then(look, write(number, 0x2001)), then(look, out(0xf4, 0))]
    run(box)
    assert seen == [vcpu.INJECT] * 2
