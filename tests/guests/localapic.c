/* localapic: a guest's own interrupt controller, by x2APIC: registers, priorities, the timer, interrupts to itself.
 *
 * Each line that goes wrong says what was expected; the last one counts them.
 * Source: Intel SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)".
 */
#include "runtime.h"
#include "trap.h"

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, ENABLE = 1 << 11, X2APIC = 1 << 10,
       ID = 0x802, VERSION = 0x803, TPR = 0x808, PPR = 0x80a, EOI = 0x80b, SPURIOUS = 0x80f, ISR = 0x810, TMR = 0x818, IRR = 0x820, ESR = 0x828,
       ICR = 0x830, LVT_TIMER = 0x832, INITIAL = 0x838, CURRENT = 0x839, DIVIDE = 0x83e, SELF_IPI = 0x83f,
       MASKED = 1 << 16, PERIODIC = 1 << 17, DEADLINE = 2 << 17, SELF = 1 << 18,
       LOW = 0x41, LOW_TOO = 0x45, HIGH = 0x61, TIMER = 0x51, VECTORS = 256 };

struct gate { u16 low, selector; u8 ist, type; u16 middle; u32 high, zero; };
static struct gate idt[VECTORS] __attribute__((aligned(16)));
static volatile u32 count[VECTORS];
static volatile u8 order[16];
static volatile u32 orders;
static volatile int nest, silent;               /* what the next handler does: raise HIGH and let it in; give no EOI */
static volatile u32 lower_at;                   /* LOW is the PIT's, as a level: the visit in which its line falls before the EOI */
static u32 wrong;

static void check(int right, const char *what)
{
    if (!right) {
        wrong++;
        print("localapic: wrong: %s\n", what);
    }
}

/* Called by the stubs below with interrupts off. */
__attribute__((used)) static void arrived(u64 vector)
{
    count[vector]++;
    order[orders++ & 15] = vector;
    if (nest && vector == LOW) {
        nest = 0;
        wrmsr(SELF_IPI, LOW_TOO);               /* the same class: must wait */
        wrmsr(SELF_IPI, HIGH);                  /* a higher one: comes in between */
        asm volatile("sti; nop; nop; cli");
        check(count[HIGH] == 1 && count[LOW_TOO] == 0, "while a vector is served, only a higher class comes through");
        check(rdmsr(PPR) == (LOW & 0xf0), "PPR is the class in service");
        check(rdmsr(ISR + (LOW >> 5)) & 1u << (LOW & 31), "the vector is in ISR");
    }
    if (lower_at && vector == LOW && count[LOW] == lower_at)
        out8(0x43, 0x30);                       /* mode 0: OUT is low until a count has run down */
    if (!silent)
        wrmsr(EOI, 0);
}

#define STUB(vector)                                                                                              \
    __attribute__((naked)) static void stub_##vector(void)                                                        \
    {                                                                                                             \
        asm volatile("push %rax; push %rcx; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %r11; cld;" \
                     "mov $" #vector ", %edi; call arrived;"                                                      \
                     "pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax; iretq"); \
    }
STUB(0x41) STUB(0x45) STUB(0x51) STUB(0x61)

static void gate(u32 vector, void (*entry)(void))
{
    u64 at = (word)entry;
    idt[vector] = (struct gate){ .low = at, .middle = at >> 16, .high = at >> 32, .selector = CODE64, .type = 0x8e };
}

/* The exceptions' gates stay those of the runtime. */
static void load_idt(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) old, new = { sizeof idt - 1, (word)idt };
    asm volatile("sidt %0" : "=m"(old));
    memcpy(idt, (void *)old.base, 32 * sizeof idt[0]);
    gate(LOW, stub_0x41);
    gate(LOW_TOO, stub_0x45);
    gate(TIMER, stub_0x51);
    gate(HIGH, stub_0x61);
    asm volatile("lidt %0" :: "m"(new));
}

static u64 rdtsc(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static void let_in(void) { asm volatile("sti; nop; nop; cli" ::: "memory"); }

static void registers(void)
{
    check(rdmsr(ID) == 0, "the only processor has ID 0");
    check((rdmsr(VERSION) & 0xff) >= 0x10, "VERSION tells an integrated APIC");
    check(rdmsr(LVT_TIMER) & MASKED, "the timer is masked at first");
    wrmsr(TPR, 0x35);
    check(rdmsr(TPR) == 0x35 && rdmsr(PPR) == 0x35, "TPR keeps its value, PPR follows");
    wrmsr(TPR, 0);
    check(!try_wrmsr(TPR, 0x100) && !try_wrmsr(SELF_IPI, 0x141) && rdmsr(TPR) == 0, "#GP for reserved bits of TPR and SELF_IPI");
    write_cr8(7);
    check(rdmsr(TPR) == 0x70 && read_cr8() == 7, "CR8 is TPR's upper half");
    wrmsr(TPR, 0x2f);
    check(read_cr8() == 2, "and the other way");
    wrmsr(TPR, 0);
    check(rdmsr(ESR) == 0, "no error yet");
    wrmsr(SELF_IPI, 15);
    wrmsr(ESR, 0);
    check(rdmsr(ESR) & (1 << 5 | 1 << 6), "a vector below 16 is an error");
    wrmsr(ESR, 0);
    check(!try_wrmsr(ID, 1) && !try_wrmsr(VERSION, 0) && !try_wrmsr(EOI, 1), "#GP for what cannot be written");
    u64 value;
    check(!try_rdmsr(EOI, &value) && !try_rdmsr(0x831, &value), "#GP for what cannot be read");
    check(!try_wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) & ~(u64)X2APIC), "#GP for x2APIC straight to xAPIC");
}

static void priorities(void)
{
    wrmsr(TPR, 0x50);
    wrmsr(SELF_IPI, LOW);
    wrmsr(SELF_IPI, HIGH);
    let_in();
    check(count[LOW] == 0 && count[HIGH] == 1, "TPR holds back its own class and those below");
    check(rdmsr(IRR + (LOW >> 5)) & 1u << (LOW & 31), "what is held back is in IRR");
    wrmsr(TPR, 0);
    let_in();
    check(count[LOW] == 1, "it comes when TPR falls");
    count[LOW] = count[HIGH] = orders = 0;
    wrmsr(SELF_IPI, LOW);
    wrmsr(ICR, SELF | HIGH);
    wrmsr(SELF_IPI, LOW);                       /* one bit holds one */
    let_in();
    check(count[LOW] == 1 && count[HIGH] == 1 && order[0] == HIGH && order[1] == LOW, "the higher vector comes first, each once");
    count[LOW] = count[HIGH] = orders = 0;
    nest = 1;
    wrmsr(SELF_IPI, LOW);
    let_in();
    check(count[LOW_TOO] == 1 && order[1] == HIGH && order[2] == LOW_TOO, "the equal class comes after EOI");
    count[LOW] = 0;
    wrmsr(SELF_IPI, LOW);
    asm volatile("sti; cli" ::: "memory");
    check(count[LOW] == 0, "nothing comes between STI and the next instruction");
    let_in();
    check(count[LOW] == 1, "it comes after it");
}

static void set_ioapic(u32 n, u32 value)
{
    *(volatile u32 *)0xfec00000ul = n;
    *(volatile u32 *)0xfec00010ul = value;
}

/* The PIT's line at the IOAPIC's input 2, as a level: it comes again for as long as it is high when its interrupt ends. */
static void levels(void)
{
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    count[LOW] = 0;
    lower_at = 3;
    set_ioapic(0x15, 0);
    set_ioapic(0x14, 1 << 15 | LOW);
    out8(0x43, 0x30);
    out8(0x40, 100);
    out8(0x40, 0);
    while (count[LOW] < lower_at)
        asm volatile("sti; hlt; cli" ::: "memory");
    check(rdmsr(TMR + (LOW >> 5)) >> (LOW & 31) & 1, "a level is one in TMR");
    spin(2000000);
    let_in();
    check(count[LOW] == lower_at, "a level comes until it has fallen");
    set_ioapic(0x14, 1 << 16);
    lower_at = 0;
    wrmsr(ICR, SELF | LOW);
    let_in();
    check(!(rdmsr(TMR + (LOW >> 5)) >> (LOW & 31) & 1), "an edge is none");
}

/* In software's hands: SPURIOUS switches it off and on, what is pending stays. */
static void off_and_on(void)
{
    count[LOW] = 0;
    wrmsr(SELF_IPI, LOW);
    wrmsr(SPURIOUS, 0xff);
    let_in();
    check(count[LOW] == 0 && rdmsr(IRR + (LOW >> 5)) >> (LOW & 31) & 1, "nothing comes while it is off, and what was requested is kept");
    wrmsr(SPURIOUS, 0x1ff);
    let_in();
    check(count[LOW] == 1, "it comes when it is on again");
}

/* Halt until the timer has come so often. */
static void sleep(u32 times)
{
    while (count[TIMER] < times)
        asm volatile("sti; hlt; cli" ::: "memory");
}

/* How far the timer counts in 1,024 clocks of the TSC; the least of some, because others may have the processor between
   the two readings. That the clocks are read inside makes the figure too high then, never too low. */
static u64 counts(u32 divider)
{
    u64 least = ~0ull;
    wrmsr(DIVIDE, divider);
    for (int n = 0; n < 200; n++) {
        wrmsr(INITIAL, 0xffffffff);
        u64 before = rdmsr(CURRENT), start = rdtsc();
        spin(10000);
        u64 clocks = rdtsc() - start, passed = before - rdmsr(CURRENT);
        passed = (passed << 10) / clocks;
        least = passed < least ? passed : least;
    }
    wrmsr(INITIAL, 0);
    return least;
}

static void timer(void)
{
    wrmsr(DIVIDE, 0xb);
    wrmsr(LVT_TIMER, TIMER);
    wrmsr(INITIAL, 0xf0000000);
    u64 first = rdmsr(CURRENT), second = rdmsr(CURRENT);
    check(first <= 0xf0000000 && second <= first && second > 0, "CURRENT counts down");
    wrmsr(INITIAL, 50000);
    sleep(1);
    check(rdmsr(CURRENT) == 0, "a one-shot timer stands at 0");
    u64 fast = counts(0xb), slow = counts(0);
    check(slow * 4 < fast * 3 && slow * 4 > fast, "a divider of 2 counts half as fast");
    wrmsr(DIVIDE, 0xb);
    wrmsr(LVT_TIMER, PERIODIC | TIMER);
    wrmsr(INITIAL, 20000);
    sleep(7);
    wrmsr(LVT_TIMER, MASKED | PERIODIC | TIMER);
    u32 seen = count[TIMER];
    spin(2000000);
    let_in();
    check(seen >= 7 && count[TIMER] <= seen + 1, "a periodic timer goes on until it is masked");
    wrmsr(INITIAL, 0);
    count[TIMER] = 0;
    wrmsr(LVT_TIMER, DEADLINE | TIMER);
    u64 start = rdtsc();
    wrmsr(MSR_TSC_DEADLINE, start + (1ull << 40));
    check(rdmsr(MSR_TSC_DEADLINE) == start + (1ull << 40), "TSC_DEADLINE keeps its value");
    wrmsr(MSR_TSC_DEADLINE, start + 2000000);
    sleep(1);
    check(rdtsc() >= start + 2000000, "the deadline does not come early");
    check(rdmsr(MSR_TSC_DEADLINE) == 0, "TSC_DEADLINE is 0 when it has come");
    wrmsr(MSR_TSC_DEADLINE, 1);
    sleep(2);
    check(count[TIMER] == 2, "a deadline in the past comes at once");
}

int main(void)
{
    load_idt();
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | ENABLE);
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | X2APIC);
    wrmsr(SPURIOUS, 0x1ff);
    registers();
    priorities();
    levels();
    off_and_on();
    timer();
    print("localapic: %u wrong\n", wrong);
    return wrong ? 1 : 0;
}
