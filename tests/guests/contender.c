/* contender: wants the processor, in one way or another, and says how much of it it had, by the TSC alone: what no turn of its loop
 * explains was somebody else's. Windows begin at whole multiples of their length, so that guests whose TSC is the machine's
 * (host_tsc) can be compared. One line for each:  contender: window K had R of W
 *
 * how=0        0 spins; 1 CPUID without end; 2 hypercalls; 3 interrupts itself; 4 spins, and its timer fires all the time;
 *              5 halts at once whenever its timer wakes it; 6 the same, and works for `work` instructions each time;
 *              7 sends NMIs to its second processor, which nobody has started
 * windows=2    whole ones to measure;  window=1000  milliseconds
 * from=0       the first of them: the one that begins so many milliseconds of the TSC after zero, or the next one, if that is later
 * gap=50       microseconds that no turn takes
 * every=100    microseconds of its timer;  work=0 */
#include "runtime.h"
#include "irq.h"

enum { MSR_APIC_BASE = 0x1b, X2APIC_MODE = 1 << 10, X2APIC_EOI = 0x80b, X2APIC_SPURIOUS = 0x80f, X2APIC_ICR = 0x830, X2APIC_LVT_TIMER = 0x832,
       X2APIC_INITIAL = 0x838, X2APIC_DIVIDE = 0x83e, X2APIC_SELF_IPI = 0x83f };
enum { PERIODIC = 1 << 17, DIVIDE_BY_1 = 0xb, TICKS_PER_COUNT = 16, VECTOR = 0x41, ASSERT_NMI = 0x4400 };
enum { SPINS, ASKS, CALLS, INTERRUPTS, FIRES, HALTS, WORKS, FLOODS };
enum { MOST_WINDOWS = 16 };
enum { LEAF_TIMING = 0x40000010 };

static u64 rdtsc(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static void end_of_interrupt(struct irq_frame *frame)
{
    (void)frame;
    wrmsr(X2APIC_EOI, 0);
}

static void open_apic(int timer, word ticks)
{
    irq_init();
    irq_handler = end_of_interrupt;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | X2APIC_MODE);
    wrmsr(X2APIC_SPURIOUS, 0x1ff);
    if (timer) {
        wrmsr(X2APIC_DIVIDE, DIVIDE_BY_1);
        wrmsr(X2APIC_LVT_TIMER, PERIODIC | VECTOR);
        wrmsr(X2APIC_INITIAL, ticks / TICKS_PER_COUNT);
    }
}

static int amd;

static void hypercall(void)
{
    word nothing = 0;
    if (amd)
        asm volatile("vmmcall" : "+a"(nothing));
    else
        asm volatile("vmcall" : "+a"(nothing));
}

static void one_turn(word how, word work)
{
    if (how == ASKS)
        cpuid(0, 0);
    else if (how == CALLS)
        hypercall();
    else if (how == INTERRUPTS)
        wrmsr(X2APIC_SELF_IPI, VECTOR);
    else if (how == FLOODS)
        wrmsr(X2APIC_ICR, 1ul << 32 | ASSERT_NMI);
    else if (how == HALTS || how == WORKS) {
        asm volatile("hlt");
        spin(work / 2);
    } else
        spin(100);
}

int main(void)
{
    word how = option("how", SPINS), windows = option("windows", 2), work = option("work", 0);
    word khz = cpuid(LEAF_TIMING, 0).eax, length = khz * option("window", 1000), gap = khz * option("gap", 50) / 1000;
    word had[MOST_WINDOWS], first, last, end;
    if (windows > MOST_WINDOWS)
        windows = MOST_WINDOWS;
    open_apic(how >= FIRES && how <= WORKS, khz * option("every", 100) / 1000);
    memset(had, 0, sizeof had);
    amd = cpuid(0, 0).ebx == 0x68747541;       /* "Auth" */
    print("contender: ready, a window is %lu ticks\n", length);
    asm volatile("sti");
    last = rdtsc();
    first = (last / length + 1) * length;
    if (first < khz * option("from", 0))
        first = khz * option("from", 0) / length * length;
    end = first + windows * length;
    while (last < end) {
        word now;
        one_turn(how, work);
        now = rdtsc();
        if (now - last < gap && last >= first && last < end)
            had[(last - first) / length] += now - last;
        last = now;
    }
    asm volatile("cli");
    for (word n = 0; n < windows; n++)
        print("contender: window %lu had %lu of %lu\n", first / length + n, had[n], length);
    return 0;
}
