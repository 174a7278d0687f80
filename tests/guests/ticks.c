/* ticks: works without a pause while its local APIC's timer (x2APIC) ticks. A vCPU that has a core, and that core's local APIC, to itself has no
 * exit by that.  It ends with
 *   ticks: N ticks in T us, L lost, the shortest after S us, the longest after G us
 *
 * how=0        0 periodic; 1 by TSC deadline, each set by the handler; 2 one-shot, likewise
 * count=100    ticks;  every=1000  microseconds from one to the next
 * warm=10      ticks before these: they are not in T, S and G
 * deaf=0       1: after its ticks it spins for ever with interrupts off and the highest TPR; 2: it halts so
 * self=0       every so many ticks it interrupts itself as well */
#include "runtime.h"
#include "irq.h"

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, X2APIC_MODE = 1 << 10, TPR = 0x808, EOI = 0x80b, SPURIOUS = 0x80f, LVT_TIMER = 0x832,
       INITIAL = 0x838, DIVIDE = 0x83e, SELF_IPI = 0x83f };
enum { ONE_SHOT = 0, PERIODIC = 1 << 17, DEADLINE = 2 << 17, DIVIDE_BY_1 = 0xb, TICKS_PER_COUNT = 16, VECTOR = 0x51, OTHER = 0x41 };
enum { LEAF_TIMING = 0x40000010 };

static word how, length, self_every;
static volatile word seen, last, first, shortest = -1ul, longest;
static volatile int measuring;

static u64 rdtsc(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static void set_timer(void)
{
    if (how == 1)
        wrmsr(MSR_TSC_DEADLINE, rdtsc() + length);
    else
        wrmsr(INITIAL, length / TICKS_PER_COUNT);
}

static void handle(struct irq_frame *frame)
{
    word now = rdtsc();
    if (frame->vector == VECTOR) {
        if (measuring) {
            word gap = now - last;
            if (gap < shortest)
                shortest = gap;
            if (gap > longest)
                longest = gap;
        }
        last = now;
        seen++;
        if (how)
            set_timer();
        if (self_every && seen % self_every == 0)
            wrmsr(SELF_IPI, OTHER);
    }
    wrmsr(EOI, 0);
}

static void wait_for(word count)
{
    while (seen < count)
        spin(10);
}

int main(void)
{
    word count = option("count", 100), every = option("every", 1000), warm = option("warm", 10), deaf = option("deaf", 0);
    word khz = cpuid(LEAF_TIMING, 0).eax;
    static const u32 modes[] = { PERIODIC, DEADLINE, ONE_SHOT };
    how = option("how", 0) % 3;
    self_every = option("self", 0);
    length = khz * every / 1000;
    irq_init();
    irq_handler = handle;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | X2APIC_MODE);
    wrmsr(SPURIOUS, 0x1ff);
    wrmsr(DIVIDE, DIVIDE_BY_1);
    wrmsr(LVT_TIMER, modes[how] | VECTOR);
    print("ticks: ready\n");
    asm volatile("sti");
    set_timer();
    wait_for(warm);
    first = last;
    measuring = 1;
    wait_for(warm + count);
    measuring = 0;
    word took = last - first;
    if (deaf) {
        wrmsr(TPR, 0xff);
        asm volatile("cli");
        if (deaf == 2)
            asm volatile("hlt");
        for (;;)
            asm volatile("");
    }
    asm volatile("cli");
    /* By the machine's clock there should have been so many, to the nearest one. */
    word due = (took + length / 2) / length;
    print("ticks: %lu ticks in %lu us, %lu lost, the shortest after %lu us, the longest after %lu us\n", count, took * 1000 / khz,
          due > count ? due - count : 0, shortest * 1000 / khz, longest * 1000 / khz);
    if (self_every)
        print("ticks: %u interrupts of its own\n", irq_count[OTHER]);
    return 0;
}
