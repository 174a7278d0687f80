"""The core's timer: the local APIC's, one-shot, told in TSC ticks. Also keeps the PIC quiet.

Both rates are measured against the PIT at start, because neither CPUID nor an MSR tells them on every processor.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu
from hypervisor.kernel.apic import apic
from hypervisor.spec import lapic, refusal
from hypervisor.spec.cpu import VECTOR_SPURIOUS, VECTOR_TIMER

R0 = r_uint(0)
SHORT = lapic.PIT_HZ // 510             # counts of the PIT: 1.96 ms, which is enough where a port is read at once
LONG = lapic.PIT_HZ // 100              # a hundredth of a second
CALIBRATIONS = 8
SHARP = r_uint(2000)                    # good enough: 1 / 2000 of the interval left open
PATIENCE = r_uint(1000000000)           # TSC ticks before a PIT that never ends is given up
LONGEST = r_uint(0x7fffffff)            # LAPIC counts


class Timer(object):
    """tsc_khz: TSC ticks per millisecond. ratio: LAPIC counts per 2^20 TSC ticks."""

    def __init__(self):
        self.tsc_khz = R0
        self.ratio = R0
        # One measurement: TSC before and behind its start, and what it finds
        self.first = R0
        self.begun = R0
        self.ticks = R0
        self.counted = R0
        self.blur = R0

    def begin(self):
        """While memory is mapped one to one: silence the PIC, switch the local APIC on, and begin to measure both rates: what is done before `measure`
        is done while the PIT counts. Returns a refusal or NONE."""
        self._quiet_pic()
        code = self._open_apic(r_uint(lapic.EXTINT << lapic.MODE_SHIFT))        # the PICs, all of whose lines are masked (line.py)
        if code == refusal.NONE:
            self._begin(r_uint(SHORT))
        return code

    def open_again(self, tsc_khz, ratio):
        """As `begin` and `measure`, on a core that another one has started: the rates are known, and the PICs are the first core's."""
        self.tsc_khz = tsc_khz
        self.ratio = ratio
        return self._open_apic(r_uint(lapic.MASKED))

    def _open_apic(self, lint0):
        if cpu.cpuid(r_uint(1), R0, r_uint(3)) & r_uint(1 << 9) == R0:
            return refusal.NO_LAPIC
        apic.open()
        apic.write(lapic.LINT0, lint0)
        apic.write(lapic.LINT1, r_uint(lapic.MASKED))
        apic.write(lapic.ERROR, r_uint(lapic.MASKED))
        apic.write(lapic.TPR, R0)
        apic.write(lapic.SPURIOUS, r_uint(lapic.SPURIOUS_ENABLE | VECTOR_SPURIOUS))
        apic.write(lapic.DIVIDE, r_uint(lapic.DIVIDE_BY_1))
        apic.write(lapic.TIMER, r_uint(lapic.MASKED | VECTOR_TIMER))
        return refusal.NONE

    def _quiet_pic(self):
        """Move the PIC's lines away from the exceptions' vectors and mask them all."""
        for port, value in [(lapic.PIC1_COMMAND, 0x11), (lapic.PIC2_COMMAND, 0x11),
                            (lapic.PIC1_DATA, lapic.PIC_VECTOR), (lapic.PIC2_DATA, lapic.PIC_VECTOR + 8),
                            (lapic.PIC1_DATA, 4), (lapic.PIC2_DATA, 2), (lapic.PIC1_DATA, 1), (lapic.PIC2_DATA, 1),
                            (lapic.PIC1_DATA, 0xff), (lapic.PIC2_DATA, 0xff)]:
            cpu.port_out(r_uint(port), r_uint(1), r_uint(value))

    def measure(self):
        """Until one measurement is sharp enough; else take the sharpest long one: whoever has the processor below may take it away at any moment.
        Returns a refusal or NONE."""
        code = self._finish(r_uint(SHORT))
        if code != refusal.NONE or self._is_sharp():
            return code
        best = ~R0
        n = 0
        while n < CALIBRATIONS:
            kept_khz, kept_ratio = self.tsc_khz, self.ratio
            self._begin(r_uint(LONG))
            code = self._finish(r_uint(LONG))
            if code != refusal.NONE:
                return code
            if self.blur < best:
                best = self.blur
                if self._is_sharp():
                    break
            else:
                self.tsc_khz = kept_khz
                self.ratio = kept_ratio
            n += 1
        return refusal.NONE

    def _is_sharp(self):
        return self.blur * SHARP < self.ticks

    def _begin(self, count):
        """`count` counts of the PIT, during which the LAPIC counts too."""
        gate = cpu.port_in(r_uint(lapic.PIT_GATE), r_uint(1)) & r_uint(0xfc)
        cpu.port_out(r_uint(lapic.PIT_GATE), r_uint(1), gate)
        cpu.port_out(r_uint(lapic.PIT_COMMAND), r_uint(1), r_uint(0xb0))       # channel 2, one-shot
        cpu.port_out(r_uint(lapic.PIT_CHANNEL2), r_uint(1), count & 0xff)
        cpu.port_out(r_uint(lapic.PIT_CHANNEL2), r_uint(1), count >> 8)
        self.first = cpu.rdtsc()
        apic.write(lapic.INITIAL_COUNT, r_uint(0xffffffff))
        cpu.port_out(r_uint(lapic.PIT_GATE), r_uint(1), gate | r_uint(1))      # go
        self.begun = cpu.rdtsc()

    def _finish(self, count):
        """Both rates by this interval. Returns a refusal or NONE."""
        self._time(count)
        if self.ticks == R0:
            return refusal.PIT_SILENT
        if self.counted == R0:
            return refusal.LAPIC_SILENT
        self.tsc_khz = self.ticks * lapic.PIT_HZ // (count * 1000)
        self.ratio = (self.counted << 20) // self.ticks
        return refusal.NONE

    def _time(self, count):
        """The interval in TSC ticks and LAPIC counts. It starts and ends somewhere between two readings of the TSC, and the PIT begins with its
        own next count; `blur` is what these leave open: all of it, when it has ended before it is looked at. ticks: 0 when the PIT does not count."""
        first, start = self.first, self.begun
        before = start
        while cpu.port_in(r_uint(lapic.PIT_GATE), r_uint(1)) & r_uint(0x20) == R0:
            before = cpu.rdtsc()
            if before - start > PATIENCE:
                break
            cpu.pause()
        self.counted = r_uint(0xffffffff) - apic.read(lapic.CURRENT_COUNT)
        last = cpu.rdtsc()
        apic.write(lapic.INITIAL_COUNT, R0)
        if before - start > PATIENCE:
            self.ticks = R0                 # it never ends
            return
        self.ticks = ((last - start) + (before - first)) >> 1
        self.blur = (start - first) + (last - before) + self.ticks // count

    def start(self):
        apic.write(lapic.TIMER, r_uint(VECTOR_TIMER))

    def arm_until(self, moment):
        """Interrupt this core when the TSC is at `moment`, or a little later. It is read here: what the caller knows of it is older."""
        now = cpu.rdtsc()
        if now < moment:
            self.arm(moment - now)
        else:
            self.arm(R0)

    def arm(self, ticks):
        """Interrupt this core in `ticks` TSC ticks, or a little later."""
        if ticks > r_uint(1) << 40:
            ticks = r_uint(1) << 40
        count = ((ticks * self.ratio) >> 20) + 1
        if count > LONGEST:
            count = LONGEST
        apic.write(lapic.INITIAL_COUNT, count)

    def acknowledge(self):
        apic.acknowledge()


timer = Timer()
