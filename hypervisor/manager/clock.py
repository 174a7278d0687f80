"""The machine's real-time clock: read once, when the box starts.

Source: Motorola MC146818 data sheet, "Time, Calendar, and Alarm Locations", "Update Cycle".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw.task import rdtsc
from hypervisor.lib import call
from hypervisor.lib.calendar import unix_seconds
from hypervisor.spec.cmos import A, A_UPDATING, B, B_24, B_BINARY, CENTURY, DAY, HOURS, MINUTES, MONTH, PM, PORT, SECONDS, YEAR

INDEX, DATA = PORT, PORT + 1
TRIES = 8
FIRST_YEAR, LAST_YEAR = 2020, 2199      # what a clock that works says
UNKNOWN = 0


class Clock(object):
    """seconds: Unix time when the TSC was `tsc`; UNKNOWN when there is no clock, or none that says anything sensible."""

    def __init__(self):
        self.seconds = UNKNOWN
        self.tsc = r_uint(0)
        self.control = 0

    def read(self):
        self.control = self._byte(B)
        for _ in range(TRIES):
            before = self._byte(SECONDS)
            if self._byte(A) & A_UPDATING == 0:
                self.tsc = rdtsc()
                self.seconds = self._time()
                if self._byte(SECONDS) == before:       # no second has ended meanwhile
                    return
        self.seconds = UNKNOWN

    def _byte(self, register):
        call.port_out(INDEX, 1, r_uint(register))
        call.port_in(DATA, 1)
        return intmask(call.value()) & 0xff

    def _number(self, byte):
        return byte if self.control & B_BINARY else (byte >> 4) * 10 + (byte & 15)

    def _time(self):
        century, year = self._number(self._byte(CENTURY)), self._number(self._byte(YEAR))
        year += 100 * (century if 20 <= century <= 21 else 20)
        month, day = self._number(self._byte(MONTH)), self._number(self._byte(DAY))
        hour, minute, second = self._hour(self._byte(HOURS)), self._number(self._byte(MINUTES)), self._number(self._byte(SECONDS))
        sane = (FIRST_YEAR <= year <= LAST_YEAR and 1 <= month <= 12 and 1 <= day <= 31 and
                hour < 24 and minute < 60 and second < 60)
        return unix_seconds(year, month, day, hour * 3600 + minute * 60 + second) if sane else UNKNOWN

    def _hour(self, byte):
        if self.control & B_24:
            return self._number(byte)
        return self._number(byte & ~PM) % 12 + (12 if byte & PM else 0)
