/* ticks: works without a pause while its local APIC's timer (x2APIC) ticks. A vCPU that has a core, and that core's local APIC, to itself has no
 * exit by that.  It ends with
 *   ticks: N ticks in T us, L lost, the shortest after S us, the longest after G us
 *
 * how=0        0 periodic; 1 by TSC deadline, each set by the handler; 2 one-shot, likewise
 * count=100    ticks;  every=1000  microseconds from one to the next
 * warm=10      ticks before these: they are not in T, S and G
 * deaf=0       1: after its ticks it spins for ever with interrupts off and the highest TPR; 2: it halts so
 * self=0       every so many ticks it interrupts itself as well
 * partner=0    it is the second processor that ticks, and the first one interrupts it so often, each time after another while. The second one asks
 *              CPUID all the time, and a little longer; then it leaves nobody any other chance to notice
 * patience=20  milliseconds after which such an interrupt is late */
#include "runtime.h"
#include "irq.h"

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, X2APIC_MODE = 1 << 10, TPR = 0x808, EOI = 0x80b, SPURIOUS = 0x80f, LVT_TIMER = 0x832,
       INITIAL = 0x838, DIVIDE = 0x83e, SELF_IPI = 0x83f, ICR = 0x830 };
enum { INIT = 5 << 8, STARTUP = 6 << 8, ASSERT = 1 << 14 };
enum { ONE_SHOT = 0, PERIODIC = 1 << 17, DEADLINE = 2 << 17, DIVIDE_BY_1 = 0xb, TICKS_PER_COUNT = 16, VECTOR = 0x51, OTHER = 0x41 };
enum { LEAF_TIMING = 0x40000010, LEAST_ASKED = 6, MORE_ASKED = 32 };

/* What smp_start.S leaves and finds. */
static volatile struct { u32 cs, flags, cr0, efer, edx, starts, unused[2]; u8 gdt[16]; u32 cr3; } *const mailbox = (void *)0x7000;
extern u8 smp_start[], smp_start_end[];
static struct { u16 limit; u64 base; } __attribute__((packed)) idt;

static word how, length, khz, self_every, asks;
static volatile word sent;                      /* an interrupt is on its way to the second processor */
static volatile word seen, last, first, shortest = -1ul, longest;
static volatile int measuring;
static struct cpuid leaf_0;
static volatile word wrong;                     /* answers of CPUID that were others */

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
    if (frame->vector == OTHER)
        sent = 0;
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

/* Does CPUID tell what it has told at first, whatever was in the registers? */
static int tells_the_same(void)
{
    struct cpuid now;
    asm volatile("cpuid" : "=a"(now.eax), "=b"(now.ebx), "=c"(now.ecx), "=d"(now.edx) : "a"(0), "b"(-1), "c"(-1), "d"(-1));
    return now.eax == leaf_0.eax && now.ebx == leaf_0.ebx && now.ecx == leaf_0.ecx && now.edx == leaf_0.edx;
}

static void wait_for(word count)
{
    while (seen < count) {
        for (word n = 0; asks && n < LEAST_ASKED + irq_count[OTHER] * 13 % MORE_ASKED; n += sent)
            wrong += !tells_the_same();
        do
            spin(10);
        while (asks && sent);
    }
}

static void start_timer(void)
{
    static const u32 modes[] = { PERIODIC, DEADLINE, ONE_SHOT };
    wrmsr(DIVIDE, DIVIDE_BY_1);
    wrmsr(LVT_TIMER, modes[how] | VECTOR);
    asm volatile("sti");
    set_timer();
}

static void open_apic(void)
{
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | X2APIC_MODE);
    wrmsr(SPURIOUS, 0x1ff);
}

/* The second processor, from smp_start.S. */
void smp_main(void);
void smp_main(void)
{
    asm volatile("lidt %0" :: "m"(idt));
    open_apic();
    start_timer();
    wait_for(-1ul);
}

static void start_partner(void)
{
    asm volatile("sidt %0" : "=m"(idt));
    struct { u16 limit; u64 base; } __attribute__((packed)) gdt;
    asm volatile("sgdt %0" : "=m"(gdt));
    memset((void *)mailbox, 0, sizeof *mailbox);
    memcpy((void *)mailbox->gdt, &gdt, sizeof gdt);
    u64 cr3;
    asm volatile("mov %%cr3, %0" : "=r"(cr3));
    mailbox->cr3 = cr3;
    memcpy((void *)0x8000, smp_start, smp_start_end - smp_start);
    wrmsr(ICR, 1ul << 32 | ASSERT | INIT);
    wrmsr(ICR, 1ul << 32 | ASSERT | STARTUP | 8);
}

static int with_partner(word times)
{
    word lost = 0, patience = option("patience", 20) * khz;
    open_apic();
    asks = 1;
    leaf_0 = cpuid(0, 0);
    start_partner();
    while (seen < 20)
        asm volatile("pause");
    for (word n = 0; n < times; n++) {
        word before = irq_count[OTHER], since = rdtsc();
        sent = 1;
        wrmsr(ICR, 1ul << 32 | ASSERT | OTHER);
        while (irq_count[OTHER] == before && rdtsc() - since < patience)
            asm volatile("pause");
        lost += irq_count[OTHER] == before;
        spin(n * 7 % 5000);
    }
    print("ticks: the second processor had %u of %lu interrupts, %lu late, and %s ticks\n", irq_count[OTHER], times, lost, seen > 20 ? "its" : "no");
    if (wrong)
        print("ticks: CPUID has told the second processor something else %lu times\n", wrong);
    return lost != 0 || wrong != 0;
}

int main(void)
{
    word count = option("count", 100), every = option("every", 1000), warm = option("warm", 10), deaf = option("deaf", 0);
    khz = cpuid(LEAF_TIMING, 0).eax;
    how = option("how", 0) % 3;
    self_every = option("self", 0);
    length = khz * every / 1000;
    irq_init();
    irq_handler = handle;
    print("ticks: ready\n");
    if (option("partner", 0))
        return with_partner(option("partner", 0));
    open_apic();
    start_timer();
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
