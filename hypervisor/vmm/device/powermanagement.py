"""ACPI's fixed hardware: PM1a event and control registers and the power-management timer, ports 0x600 to 0x60b.

ACPI mode is always on (SCI_EN reads 1; there is no SMI command). The only event is the timer's overflow; there are no buttons.
Source: ACPI Specification, "PM1 Event Grouping", "PM1 Control Grouping", "Power Management Timer"; SLP_TYP 0 means S5, as the
DSDT says (acpi.py).
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec import ending
from hypervisor.vmm.bus import DONE, Device
from hypervisor.vmm.device import lines as board
from hypervisor.vmm.device.agenda import Timed
from hypervisor.vmm.device.clock import NEVER

PORT, PORTS = 0x600, 12
STATUS, ENABLE, CONTROL, TIMER = 0, 2, 4, 8             # offsets; the timer has 32 bits, the others 16
TIMER_HZ = 3579545
HALF_SHIFT = 31                                         # the status bit is set whenever the timer's bit 31 changes
TIMER_STATUS = 1 << 0
ENABLE_KEPT = 1 << 0 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10       # timer, global lock, power and sleep button, RTC
SCI_ENABLED, CONTROL_KEPT = 1 << 0, 1 << 1 | 7 << 10            # BM_RLD, SLP_TYP
SLEEP_TYPE, SLEEP_ENABLE = 7 << 10, 1 << 13
U32 = r_uint(0xffffffff)


class PowerManagement(Timed):
    def __init__(self, agenda, clock, lines, power):
        Timed.__init__(self, agenda)
        self.clock = clock
        self.lines = lines
        self.power = power
        self.halves = r_uint(0)         # how often bit 31 had changed when the status was last looked at
        self.status = 0
        self.enable = 0
        self.control = 0

    def clear(self):
        self.halves = self._halves(self.clock.now())
        self.status = 0
        self.enable = 0
        self.control = 0
        self._update()

    def _count(self, now):
        return self.clock.count(now, TIMER_HZ)

    def _halves(self, now):
        return self._count(now) >> HALF_SHIFT

    def timer(self, now):
        return self._count(now) & U32

    def advance(self, now):
        halves = self._halves(now)
        if halves != self.halves:
            self.halves = halves
            self.status |= TIMER_STATUS
            self._update()

    def _update(self):
        self.lines.set(board.SCI, self.status & self.enable & TIMER_STATUS != 0)
        due = NEVER
        if self.enable & TIMER_STATUS and not self.status & TIMER_STATUS:
            due = self.clock.ticks((self.halves + r_uint(1)) << HALF_SHIFT, TIMER_HZ)
        self.set_due(due)

    def tick(self, now):
        self.advance(now)

    # Registers of 16 bits.
    def read(self, register):
        if register == STATUS:
            return self.status
        if register == ENABLE:
            return self.enable
        if register == CONTROL:
            return self.control | SCI_ENABLED
        return 0

    def write(self, register, value, mask):
        """mask: the bits that were written."""
        if register == STATUS:
            self.status &= ~(value & mask)              # a one clears
        elif register == ENABLE:
            self.enable = (self.enable & ~mask | value & mask) & ENABLE_KEPT
        elif register == CONTROL:
            self._write_control(self.control & ~mask | value & mask)
        self._update()

    def _write_control(self, value):
        self.control = value & CONTROL_KEPT
        if value & (SLEEP_ENABLE | SLEEP_TYPE) == SLEEP_ENABLE:
            self.power.leave(ending.POWERED_OFF, r_uint(0))


class PowerPorts(Device):
    """Accesses of any width: bytes of the registers. One access sees one value of the timer."""

    def __init__(self, management):
        Device.__init__(self, PORT, PORTS, False)
        self.management = management

    def read(self, offset, size):
        management = self.management
        now = management.clock.now()
        management.advance(now)
        timer = management.timer(now)
        value = r_uint(0)
        for n in range(size):
            value |= (self._byte(offset + n, timer) & r_uint(0xff)) << (8 * n)
        return value

    def _byte(self, offset, timer):
        if offset >= TIMER:
            return timer >> (8 * (offset - TIMER)) if offset < PORTS else r_uint(0xff)
        return r_uint(self.management.read(offset & ~1) >> (8 * (offset & 1)))

    def write(self, offset, size, value):
        """A wide write is one to each register that it covers."""
        self.management.advance(self.management.clock.now())
        word, shift, left = intmask(value), 8 * (offset & 1), size
        register = offset & ~1
        while left > 0:
            count = min_int(left, 2 - shift // 8)
            ones = (1 << (8 * count)) - 1
            self.management.write(register, (word & ones) << shift, ones << shift)
            word >>= 8 * count
            left -= count
            register += 2
            shift = 0
        return DONE


def min_int(a, b):
    return a if a < b else b
