"""Time for devices: TSC ticks to and from the counts of other frequencies.

All values are r_uint. Frequencies are below 2^23 Hz and the TSC's is below 2^34 Hz, so that no product here overflows.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import task

NEVER = r_uint(0)               # as a point in time
ONE = r_uint(1)
MICROSECOND = 1000000           # as a frequency


class Clock(object):
    def __init__(self):
        self.hz = r_uint(1000000)       # of the TSC

    def set_rate(self, khz):
        """khz: the TSC's rate, not 0."""
        self.hz = khz * r_uint(1000)

    def now(self):
        return task.rdtsc()

    def count(self, ticks, frequency):
        """Whole periods of `frequency` in so many TSC ticks."""
        frequency = r_uint(frequency)
        return ticks // self.hz * frequency + ticks % self.hz * frequency // self.hz

    def ticks(self, count, frequency):
        """TSC ticks until `count` periods are over: count(ticks(n)) is n, or more where the TSC is the slower one."""
        frequency = r_uint(frequency)
        return count // frequency * self.hz + (count % frequency * self.hz + frequency - ONE) // frequency
