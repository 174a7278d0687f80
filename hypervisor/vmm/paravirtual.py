"""KVM's paravirtual interface, as far as it helps: the clock that needs no exit, and interrupts to many vCPUs by one hypercall.

The kernel's TSC runs evenly on the one core there is, so a clock page is written once, when the guest names it, and stays right;
the guest reads the time by RDTSC alone. The hypercall is the kernel's (hypervisor/kernel/hypercall.py). Not offered: PV EOI and steal
time (docs/design.md says why).
Source: Linux, Documentation/virt/kvm/x86/msr.rst and cpuid.rst; the layouts are pvclock_wall_clock and pvclock_vcpu_time_info.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec.call import VCPUS_PER_VM
from hypervisor.spec.record import offsets

CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, SEND_IPI, CLOCKSOURCE_STABLE = 1 << 0, 1 << 1, 1 << 3, 1 << 11, 1 << 24
FEATURES = CLOCKSOURCE | NOP_IO_DELAY | CLOCKSOURCE2 | SEND_IPI | CLOCKSOURCE_STABLE       # CPUID leaf 0x40000001, EAX

MSR_WALL_CLOCK_OLD, MSR_SYSTEM_TIME_OLD = r_uint(0x11), r_uint(0x12)            # of CLOCKSOURCE
MSR_WALL_CLOCK, MSR_SYSTEM_TIME = r_uint(0x4b564d00), r_uint(0x4b564d01)        # of CLOCKSOURCE2

WALL = offsets([(name, 4) for name in ('VERSION', 'SECONDS', 'NANOSECONDS')])
TIME = offsets([('VERSION', 4), ('PAD', 4), ('TSC_TIMESTAMP', 8), ('SYSTEM_TIME', 8), ('MULTIPLIER', 4), ('SHIFT', 1), ('FLAGS', 1),
                ('PAD2', 2)])
assert WALL['END'] == 12 and TIME['END'] == 32
TSC_STABLE = r_uint(1)                  # FLAGS
ENABLED = r_uint(1)                     # of MSR_SYSTEM_TIME
NANOSECONDS = r_uint(1000000000)
U32 = r_uint(0xffffffff)
ZERO = r_uint(0)
EVEN = r_uint(2)                        # VERSION: odd while it is being written


class Paravirtual(object):
    def __init__(self, ram):
        self.ram = ram
        self.multiplier = ZERO          # nanoseconds are (ticks << shift) * multiplier >> 32
        self.shift = 0
        self.start = ZERO               # TSC at which the guest's system time is 0
        self.wall = ZERO                # Unix time at `start`, in seconds
        self.wall_clock = ZERO          # what the MSRs read
        self.system_time = [ZERO] * VCPUS_PER_VM       # of each vCPU

    def set_clock(self, tsc_khz, now, wall):
        """tsc_khz: not 0. now: the guest's TSC, from which on its system time counts. wall: Unix time at that moment, in seconds."""
        hz = tsc_khz * r_uint(1000)
        shift = 0
        while hz > NANOSECONDS * r_uint(2):
            hz >>= 1
            shift -= 1
        while hz <= NANOSECONDS:
            hz <<= 1
            shift += 1
        self.shift = shift
        self.multiplier = (NANOSECONDS << 32) // hz
        self.start = now
        self.wall = wall

    def clear(self):
        """A reset: no page is known."""
        self.wall_clock = ZERO
        for n in range(VCPUS_PER_VM):
            self.system_time[n] = ZERO

    def is_msr(self, number):
        return (number == MSR_WALL_CLOCK or number == MSR_SYSTEM_TIME or
                number == MSR_WALL_CLOCK_OLD or number == MSR_SYSTEM_TIME_OLD)

    def read(self, number, index):
        """number: is_msr() knows it. index: the vCPU's."""
        if number == MSR_WALL_CLOCK or number == MSR_WALL_CLOCK_OLD:
            return self.wall_clock
        return self.system_time[index]

    def write(self, number, value, index):
        """Returns whether the value is allowed; #GP(0) else: what it names must be aligned memory of the guest's."""
        if number == MSR_WALL_CLOCK or number == MSR_WALL_CLOCK_OLD:
            return self._write_wall_clock(value)
        return self._write_system_time(value, index)

    def _write_wall_clock(self, gpa):
        """The guest wants to know once at what time of day its system time was 0."""
        if gpa & r_uint(3) != ZERO or not self.ram.holds(gpa, r_uint(WALL['END'])):
            return False
        self.wall_clock = gpa
        self.ram.store32(gpa + r_uint(WALL['SECONDS']), self.wall & U32)
        self.ram.store32(gpa + r_uint(WALL['NANOSECONDS']), ZERO)
        self.ram.store32(gpa + r_uint(WALL['VERSION']), EVEN)
        return True

    def _write_system_time(self, value, index):
        gpa = value & ~ENABLED
        if value & ENABLED != ZERO:
            if gpa & r_uint(3) != ZERO or not self.ram.holds(gpa, r_uint(TIME['END'])):
                return False
            self._write_time(gpa)
        self.system_time[index] = value
        return True

    def _write_time(self, gpa):
        ram = self.ram
        version = ram.load32(gpa + r_uint(TIME['VERSION'])) & ~r_uint(1)
        ram.store32(gpa + r_uint(TIME['VERSION']), (version + r_uint(1)) & U32)
        ram.store64(gpa + r_uint(TIME['TSC_TIMESTAMP']), self.start)
        ram.store64(gpa + r_uint(TIME['SYSTEM_TIME']), ZERO)
        ram.store32(gpa + r_uint(TIME['MULTIPLIER']), self.multiplier)
        ram.store8(gpa + r_uint(TIME['SHIFT']), r_uint(self.shift & 0xff))
        ram.store8(gpa + r_uint(TIME['FLAGS']), TSC_STABLE)
        ram.store32(gpa + r_uint(TIME['VERSION']), (version + EVEN) & U32)
