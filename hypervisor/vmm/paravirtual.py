"""KVM's paravirtual interface, as far as it helps: the clock that needs no exit, interrupts to many vCPUs by one hypercall, and stolen time.

The kernel's TSC runs evenly on the one core there is, so a clock page is written once, when the guest names it, and stays right;
the guest reads the time by RDTSC alone. The hypercall is the kernel's (hypervisor/kernel/hypercall.py). Of a vCPU on its home
core the kernel says how long it had to wait for others (`STOLEN`), and when there is a millisecond more of that; here it becomes nanoseconds in the guest's memory. What
vCPUs of one VM take from each other does not count, and of those on other cores nothing is known. Not offered: PV EOI (docs/design.md says why).
Source: Linux, Documentation/virt/kvm/x86/msr.rst and cpuid.rst; the layouts are pvclock_wall_clock and pvclock_vcpu_time_info.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec.call import VCPUS_PER_VM
from hypervisor.spec.record import offsets

CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, STEAL_TIME, SEND_IPI, CLOCKSOURCE_STABLE = 1 << 0, 1 << 1, 1 << 3, 1 << 5, 1 << 11, 1 << 24
FEATURES = CLOCKSOURCE | NOP_IO_DELAY | CLOCKSOURCE2 | STEAL_TIME | SEND_IPI | CLOCKSOURCE_STABLE       # CPUID leaf 0x40000001, EAX

MSR_WALL_CLOCK_OLD, MSR_SYSTEM_TIME_OLD = r_uint(0x11), r_uint(0x12)            # of CLOCKSOURCE
MSR_WALL_CLOCK, MSR_SYSTEM_TIME = r_uint(0x4b564d00), r_uint(0x4b564d01)        # of CLOCKSOURCE2
MSR_ASYNC_PAGE_FAULT = r_uint(0x4b564d02)       # not offered
MSR_STEAL_TIME = r_uint(0x4b564d03)
OLD_COUNT, COUNT = MSR_SYSTEM_TIME_OLD - MSR_WALL_CLOCK_OLD + r_uint(1), MSR_STEAL_TIME - MSR_WALL_CLOCK + r_uint(1)

WALL = offsets([(name, 4) for name in ('VERSION', 'SECONDS', 'NANOSECONDS')])
TIME = offsets([('VERSION', 4), ('PAD', 4), ('TSC_TIMESTAMP', 8), ('SYSTEM_TIME', 8), ('MULTIPLIER', 4), ('SHIFT', 1), ('FLAGS', 1),
                ('PAD2', 2)])
STEAL = offsets([('STEAL', 8), ('VERSION', 4), ('FLAGS', 4), ('PREEMPTED', 1), ('PAD', 47)])
assert STEAL['END'] == 64
assert WALL['END'] == 12 and TIME['END'] == 32
TSC_STABLE = r_uint(1)                  # FLAGS
ENABLED = r_uint(1)                     # of MSR_SYSTEM_TIME and MSR_STEAL_TIME
STEAL_RESERVED = r_uint(0x3e)           # of MSR_STEAL_TIME
NANOSECONDS_PER_MS = r_uint(1000000)
NANOSECONDS = r_uint(1000000000)
U32 = r_uint(0xffffffff)
ZERO = r_uint(0)
EVEN = r_uint(2)                        # VERSION: odd while it is being written


class Paravirtual(object):
    def __init__(self, ram, vcpu):
        self.ram = ram
        self.vcpu = vcpu
        self.tsc_khz = r_uint(1)
        self.multiplier = ZERO          # nanoseconds are (ticks << shift) * multiplier >> 32
        self.shift = 0
        self.start = ZERO               # TSC at which the guest's system time is 0
        self.wall = ZERO                # Unix time at `start`, in seconds
        self.wall_clock = ZERO          # what the MSRs read
        self.system_time = [ZERO] * VCPUS_PER_VM       # of each vCPU
        self.steal_time = [ZERO] * VCPUS_PER_VM
        self.stolen = [ZERO] * VCPUS_PER_VM            # ticks that are in the guest's memory

    def set_clock(self, tsc_khz, now, wall):
        """tsc_khz: not 0. now: the guest's TSC, from which on its system time counts. wall: Unix time at that moment, in seconds."""
        self.tsc_khz = tsc_khz
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
            self.steal_time[n] = ZERO

    def is_msr(self, number):
        return number - MSR_WALL_CLOCK_OLD < OLD_COUNT or number - MSR_WALL_CLOCK < COUNT and number != MSR_ASYNC_PAGE_FAULT

    def read(self, number, index):
        """number: is_msr() knows it. index: the vCPU's."""
        if number == MSR_WALL_CLOCK or number == MSR_WALL_CLOCK_OLD:
            return self.wall_clock
        if number == MSR_STEAL_TIME:
            return self.steal_time[index]
        return self.system_time[index]

    def write(self, number, value, index):
        """Returns whether the value is allowed; #GP(0) else: what it names must be aligned memory of the guest's."""
        if number == MSR_WALL_CLOCK or number == MSR_WALL_CLOCK_OLD:
            return self._write_wall_clock(value)
        if number == MSR_STEAL_TIME:
            return self._write_steal_time(value, index)
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

    # Stolen time
    def _write_steal_time(self, value, index):
        if value & ENABLED != ZERO and (value & STEAL_RESERVED != ZERO or not self.ram.holds(value & ~ENABLED, r_uint(STEAL['END']))):
            return False
        self.steal_time[index] = value
        if value & ENABLED != ZERO:
            self._write_stolen(index)
        return True

    def wants_stolen(self, number, index):
        """Has this write asked for the time that is stolen from vCPU `index`?"""
        return number == MSR_STEAL_TIME and self.steal_time[index] & ENABLED != ZERO

    def stolen_changed(self):
        """The kernel has signalled, that or something else."""
        for index in range(VCPUS_PER_VM):
            if self.steal_time[index] & ENABLED != ZERO and self.vcpu.stolen(index) != self.stolen[index]:
                self._write_stolen(index)

    def _write_stolen(self, index):
        """PREEMPTED stays 0: where it is looked at, the vCPU of the guest that looks has the processor, and on this core nobody else has."""
        ram, gpa, ticks = self.ram, self.steal_time[index] & ~ENABLED, self.vcpu.stolen(index)
        version = ram.load32(gpa + r_uint(STEAL['VERSION'])) & ~r_uint(1)
        ram.store32(gpa + r_uint(STEAL['VERSION']), (version + r_uint(1)) & U32)
        ram.store64(gpa + r_uint(STEAL['STEAL']), self._nanoseconds(ticks))
        ram.store32(gpa + r_uint(STEAL['VERSION']), (version + EVEN) & U32)
        self.stolen[index] = ticks

    def _nanoseconds(self, ticks):
        khz = self.tsc_khz
        return ticks // khz * NANOSECONDS_PER_MS + ticks % khz * NANOSECONDS_PER_MS // khz
