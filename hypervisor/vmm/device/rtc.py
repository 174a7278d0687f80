"""The real-time clock and its battery-backed memory: MC146818, ports 0x70 and 0x71.

The clock starts with the time that the manager has read from the machine's own, in UTC, or 2024-01-01 00:00:00 where there is none, and
counts by the TSC from there; a reset of the VM does not touch it. Clock and alarm bytes are kept as the software writes them, in the format of register B, and change
when a second ends. The periodic interrupt comes late, and not twice, when the VM was not running.
Source: Motorola MC146818 data sheet, "Time, Calendar, and Alarm Locations", "Registers", "Update Cycle"; the memory's contents: IBM
PC/AT Technical Reference, "CMOS RAM Data".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.lib.calendar import DAY_SECONDS, UNIX_DAY, day_number, unix_seconds
from hypervisor.spec.cmos import (
    A, A_UPDATING, B, B_24, B_BINARY, C, CENTURY, D, DAY, HOURS, HOURS_ALARM, MINUTES, MINUTES_ALARM, MONTH, PM, PORT, SECONDS,
    SECONDS_ALARM, WEEKDAY, YEAR)
from hypervisor.vmm.bus import DONE, Device
from hypervisor.vmm.device import lines as board
from hypervisor.vmm.device.agenda import Timed
from hypervisor.vmm.device.clock import MICROSECOND, NEVER

BYTES = 128
NMI_MASK = 0x80                 # of the index port: kept, there is nothing to mask

SHUTDOWN_STATUS, EQUIPMENT, BASE_LOW, BASE_HIGH, EXTENDED_LOW, EXTENDED_HIGH = 0x0f, 0x14, 0x15, 0x16, 0x17, 0x18
SUM_FIRST, SUM_LAST, SUM_HIGH, SUM_LOW = 0x10, 0x2d, 0x2e, 0x2f
EXTENDED_2_LOW, EXTENDED_2_HIGH, ABOVE_16_LOW, ABOVE_16_HIGH = 0x30, 0x31, 0x34, 0x35
ANY = 0xc0                      # an alarm byte from here on matches all

A_DIVIDER, A_RATE, A_RUNNING, A_WRITABLE = 0x70, 0x0f, 0x20, 0x7f
A_AT_START = A_RUNNING | 6      # 32.768 kHz, 1024 Hz
B_SET, B_PERIODIC, B_ALARM, B_UPDATE = 0x80, 0x40, 0x20, 0x10
B_AFTER_RESET = 0x87            # what a reset keeps: SET, format, daylight saving
C_REQUEST, C_PERIODIC, C_ALARM, C_UPDATE = 0x80, 0x40, 0x20, 0x10
D_VALID = 0x80                  # the battery is good

UPDATE_US = 2228                # the update-in-progress bit is set for the last 244 + 1984 us of each second
CRYSTAL = 32768
DAY_MINUTES = 1440
START_UNIX = unix_seconds(2024, 1, 1, 0)        # when nobody knows better
COPROCESSOR = 0x02              # equipment: no diskette, no display, no keyboard


def to_bcd(value):
    return value // 10 % 10 << 4 | value % 10


class Rtc(Timed):
    def __init__(self, agenda, clock, lines):
        Timed.__init__(self, agenda)
        self.clock = clock
        self.lines = lines
        self.bytes = [0] * BYTES
        self.index = 0
        self.flags = 0                  # of register C, without C_REQUEST
        self.second = NEVER             # TSC at which the current second began
        self.period = NEVER             # TSC at which the current period of the periodic interrupt began

    def start(self, now, ram_bytes, unix):
        """The battery is put in: time and memory as a PC's firmware sets them. unix: the time, in seconds."""
        for n in range(BYTES):
            self.bytes[n] = 0
        self.bytes[A] = A_AT_START
        self.bytes[B] = B_24
        self._set_date(UNIX_DAY + intmask(unix) // DAY_SECONDS)
        self._set_time(intmask(unix) % DAY_SECONDS)
        self._set_memory(ram_bytes)
        self.second = now
        self.period = now

    def reset(self):
        """A reset of the PC switches the interrupts off and leaves the rest alone."""
        self.bytes[B] &= B_AFTER_RESET
        self.flags = 0
        self.index = 0
        self._update(self.clock.now())

    def _set_memory(self, ram_bytes):
        kib = intmask(ram_bytes >> 10)
        extended = min_int(kib - 1024, 0xfc00)
        above = max_int(kib - 16384, 0) >> 6
        self._set_word(BASE_LOW, 640)
        self._set_word(EXTENDED_LOW, extended)
        self._set_word(EXTENDED_2_LOW, extended)
        self._set_word(ABOVE_16_LOW, min_int(above, 0xffff))
        self.bytes[EQUIPMENT] = COPROCESSOR
        total = 0
        for n in range(SUM_FIRST, SUM_LAST + 1):
            total += self.bytes[n]
        self.bytes[SUM_HIGH] = total >> 8 & 0xff
        self.bytes[SUM_LOW] = total & 0xff

    def _set_word(self, n, value):
        self.bytes[n] = value & 0xff
        self.bytes[n + 1] = value >> 8 & 0xff

    # The format of register B.
    def _decode(self, n):
        byte = self.bytes[n]
        return byte if self.bytes[B] & B_BINARY else (byte >> 4) * 10 + (byte & 15)

    def _encode(self, n, value):
        self.bytes[n] = value if self.bytes[B] & B_BINARY else to_bcd(value)

    def _decode_hours(self, n):
        """0 to 23; something else for what no clock says."""
        if self.bytes[B] & B_24:
            return self._decode(n)
        byte = self.bytes[n]
        hours = byte & 0x7f
        if not self.bytes[B] & B_BINARY:
            hours = (hours >> 4) * 10 + (hours & 15)
        return hours % 12 + (12 if byte & PM else 0)

    def _encode_hours(self, hours):
        if self.bytes[B] & B_24:
            self._encode(HOURS, hours)
            return
        self._encode(HOURS, 12 if hours % 12 == 0 else hours % 12)
        if hours >= 12:
            self.bytes[HOURS] |= PM

    # Time.
    def _second_of_day(self):
        return self._decode_hours(HOURS) * 3600 + self._decode(MINUTES) * 60 + self._decode(SECONDS)

    def _set_time(self, second):
        """second: of the day."""
        self._encode_hours(second // 3600)
        self._encode(MINUTES, second // 60 % 60)
        self._encode(SECONDS, second % 60)

    def _day_number(self):
        return day_number(self._decode(CENTURY) * 100 + self._decode(YEAR), self._decode(MONTH), self._decode(DAY))

    def _set_date(self, days):
        """days: as of day_number(). Source: the Gregorian calendar, whose 400 years have 146097 days."""
        era, rest = days // 146097, days % 146097
        of_era = (rest - rest // 1460 + rest // 36524 - rest // 146096) // 365
        of_year = rest - (365 * of_era + of_era // 4 - of_era // 100)
        month = (5 * of_year + 2) // 153
        year = era * 400 + of_era + (1 if month >= 10 else 0)
        self._encode(DAY, of_year - (153 * month + 2) // 5 + 1)
        self._encode(MONTH, month + 3 if month < 10 else month - 9)
        self._encode(YEAR, year % 100)
        self._encode(CENTURY, year // 100 % 100)
        self._encode(WEEKDAY, (days + 3) % 7 + 1)       # 0000-03-01 was a Wednesday; Sunday is 1

    def _is_running(self):
        return self.bytes[A] & A_DIVIDER == A_RUNNING

    def _advance(self, now):
        """Bring time, flags and interrupt line up to `now`."""
        if not self._is_running():
            return
        self._count_periods(now)
        seconds = (now - self.second) // self.clock.hz
        if seconds != r_uint(0):
            self.second += seconds * self.clock.hz
            if not self.bytes[B] & B_SET:
                self._add(intmask(seconds))

    def _add(self, seconds):
        """That many updates, at least one."""
        until = self._until_alarm()
        if until != 0 and until <= seconds:
            self.flags |= C_ALARM
        self.flags |= C_UPDATE
        total = self._second_of_day() + seconds
        if total >= DAY_SECONDS:
            self._set_date(self._day_number() + total // DAY_SECONDS)
        self._set_time(total % DAY_SECONDS)

    def _count_periods(self, now):
        ticks = self._period()
        if ticks != NEVER and now - self.period >= ticks:
            self.period += (now - self.period) // ticks * ticks
            self.flags |= C_PERIODIC

    def _period(self):
        """TSC ticks between two periodic interrupts, NEVER for none."""
        rate = self.bytes[A] & A_RATE
        if rate == 0 or not self._is_running():
            return NEVER
        if rate < 3:
            rate += 7
        return self.clock.ticks(r_uint(1 << (rate - 1)), CRYSTAL)

    # Alarm.
    def _until_alarm(self):
        """Seconds to the next time that the alarm bytes match, 1 to 86400; 0: never."""
        second = self._second_of_day()
        for n in range(DAY_MINUTES + 1):
            minute = second // 60 + n
            if self._minute_matches(minute % DAY_MINUTES):
                first = second % 60 + 1 if n == 0 else 0
                found = self._second_from(first)
                if found >= 0:
                    return minute * 60 + found - second
        return 0

    def _minute_matches(self, minute):
        return ((self.bytes[HOURS_ALARM] >= ANY or self._decode_hours(HOURS_ALARM) == minute // 60) and
                (self.bytes[MINUTES_ALARM] >= ANY or self._decode(MINUTES_ALARM) == minute % 60))

    def _second_from(self, first):
        """The first matching second of a minute from `first` on, or -1."""
        wanted = first if self.bytes[SECONDS_ALARM] >= ANY else self._decode(SECONDS_ALARM)
        return wanted if first <= wanted and wanted < 60 else -1

    # Interrupts.
    def _requests(self):
        return self.flags & self.bytes[B] & (C_PERIODIC | C_ALARM | C_UPDATE)

    def _update(self, now):
        """Line and next event, after anything has changed. Time is up to `now`."""
        self.lines.set(board.RTC, self._requests() != 0)
        self.set_due(self._next(now))

    def _next(self, now):
        """The nearest event that an interrupt is wanted for and that has not happened yet."""
        control = self.bytes[B]
        if not self._is_running():
            return NEVER
        nearest = NEVER
        if control & B_PERIODIC and not self.flags & C_PERIODIC and self._period() != NEVER:
            nearest = self.period + self._period()
        if control & B_SET:
            return nearest
        seconds = 0
        if control & B_UPDATE and not self.flags & C_UPDATE:
            seconds = 1
        elif control & B_ALARM and not self.flags & C_ALARM:
            seconds = self._until_alarm()
        if seconds != 0:
            at = self.second + r_uint(seconds) * self.clock.hz
            if nearest == NEVER or at < nearest:
                nearest = at
        return nearest

    def tick(self, now):
        self._advance(now)
        self._update(now)

    # Ports.
    def write_index(self, byte):
        self.index = byte

    def read(self, now):
        n = self.index & ~NMI_MASK
        self._advance(now)
        value = self.bytes[n]
        if n == A:
            value |= A_UPDATING if self._is_updating(now) else 0
        elif n == C:
            value = self.flags
            if self._requests() != 0:
                value |= C_REQUEST
            self.flags = 0
        elif n == D:
            value = D_VALID
        self._update(now)
        return value

    def _is_updating(self, now):
        if not self._is_running() or self.bytes[B] & B_SET:
            return False
        return now - self.second >= self.clock.hz - self.clock.ticks(r_uint(UPDATE_US), MICROSECOND)

    def write(self, byte, now):
        n = self.index & ~NMI_MASK
        self._advance(now)
        if n == A:
            self._write_a(byte & A_WRITABLE, now)
        elif n == B:
            self.bytes[B] = byte
            if byte & B_SET:
                self.bytes[B] &= ~B_UPDATE              # SET clears UIE
        elif n != C and n != D:
            self.bytes[n] = byte
        self._update(now)

    def _write_a(self, byte, now):
        was_running, rate = self._is_running(), self.bytes[A] & A_RATE
        self.bytes[A] = byte
        if self._is_running() and not was_running:
            self.second = now - self.clock.hz // r_uint(2)          # the first update comes half a second later
            self.period = now
        elif rate != byte & A_RATE:
            self.period = now


def min_int(a, b):
    return a if a < b else b


def max_int(a, b):
    return a if a > b else b


class RtcPorts(Device):
    def __init__(self, rtc):
        Device.__init__(self, PORT, 2, True)
        self.rtc = rtc

    def read(self, offset, size):
        if offset == 0:
            return r_uint(0xff)         # the index can only be written
        return r_uint(self.rtc.read(self.rtc.clock.now()))

    def write(self, offset, size, value):
        byte = intmask(value) & 0xff
        if offset == 0:
            self.rtc.write_index(byte)
        else:
            self.rtc.write(byte, self.rtc.clock.now())
        return DONE
