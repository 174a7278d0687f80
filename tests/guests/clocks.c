/* clocks: how far each clock that a guest is given has gone while its TSC went so far. It keeps the processor busy meanwhile.
 * The host knows the TSC's real rate where instructions are counted, and judges.
 *
 * milliseconds=1000   how long, by KVM's clock
 * Sources: Linux, Documentation/virt/kvm/x86/msr.rst, "MSR_KVM_SYSTEM_TIME_NEW"; ACPI Specification, "Power Management Timer".
 */
#include "runtime.h"

enum { MSR_SYSTEM_TIME = 0x4b564d01, MSR_APIC_BASE = 0x1b, X2APIC = 1 << 10, SPURIOUS = 0x80f, LVT_TIMER = 0x832, INITIAL = 0x838, CURRENT = 0x839,
       DIVIDE = 0x83e, MASKED = 1 << 16, TIMING = 0x40000010, PM_TIMER = 0x608, PM_MASK = 0xffffff, AT_ONCE = 20000 };

static volatile struct { u32 version, pad; u64 tsc, time; u32 multiplier; signed char shift; u8 flags; } page __attribute__((aligned(64)));

struct look { u64 tsc, kvm; u32 pm, lapic; };

static u64 rdtsc(void)
{
    u32 low, high;
    asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) :: "memory");
    return (u64)high << 32 | low;
}

static u64 kvm_clock(u64 tsc)
{
    u64 ticks = tsc - page.tsc;
    ticks = page.shift < 0 ? ticks >> -page.shift : ticks << page.shift;
    return page.time + (u64)((unsigned __int128)ticks * page.multiplier >> 32);
}

/* All of them within a moment in which nobody else had the processor. */
static struct look look(void)
{
    struct look found;
    u64 before, after;
    do {
        before = rdtsc();
        found.pm = in32(PM_TIMER) & PM_MASK;
        found.lapic = (u32)rdmsr(CURRENT);
        after = rdtsc();
    } while (after - before > AT_ONCE);
    found.tsc = before + (after - before) / 2;
    found.kvm = kvm_clock(found.tsc);
    return found;
}

int main(void)
{
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | X2APIC);
    wrmsr(SPURIOUS, 0x1ff);
    wrmsr(DIVIDE, 0xb);
    wrmsr(LVT_TIMER, MASKED | 0x40);
    wrmsr(INITIAL, 0xffffffff);
    wrmsr(MSR_SYSTEM_TIME, (word)&page | 1);
    struct look first = look(), last = first, now;
    u64 pm = 0, length = option("milliseconds", 1000) * 1000000ull;
    do {                                        /* often enough for the PM timer's 24 bits */
        now = look();
        pm += (now.pm - last.pm) & PM_MASK;
        last = now;
        for (u64 end = now.tsc + 1000000; rdtsc() < end;)
            ;
    } while (now.kvm - first.kvm < length);
    struct cpuid told = cpuid(TIMING, 0);
    print("clocks: tsc %llu kvm %llu pm %llu lapic %u told %u %u\n", now.tsc - first.tsc, now.kvm - first.kvm, pm, first.lapic - now.lapic, told.eax, told.ebx);
    return 0;
}
