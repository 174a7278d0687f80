/* flood: interrupts that come in all ways at once: the UART's as an edge, the PIT's as a level, the local APIC's timer's (x2APIC), and those that it
 * sends itself. Meanwhile it opens and closes itself to them by STI, CLI, POPF, IRET and MOV SS, and computes. Each handler says EOI first, as
 * Linux' do, and dwells.  None may come while interrupts are off or in a shadow, none be lost or come twice; registers and stack are kept.
 *
 * rounds=2000  of all that;  dwell=3000  TSC ticks at most in a handler, or with interrupts off;  every=40  microseconds from tick to tick
 * only=0       1: no more than what needs three things at once: a request that waits because interrupts are off, and the timer's end */
#include "runtime.h"
#include "irq.h"

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, X2APIC_MODE = 1 << 10, TPR = 0x808, EOI = 0x80b, SPURIOUS = 0x80f, ISR = 0x810, IRR = 0x820,
       LVT_TIMER = 0x832, SELF_IPI = 0x83f, DEADLINE_MODE = 2 << 17, LEAF_TIMING = 0x40000010, IF = 1 << 9 };
enum { LOW = 0x41, TIMER = 0x51, UART = 0x61, PIT = 0x71, HIGH = 0xa1 };
enum { COM1 = 0x3f8, IER = COM1 + 1, IIR = COM1 + 2, MCR = COM1 + 4, THRE = 2, OUT2 = 8, LEVEL = 1 << 15, MASK = 1 << 16, SENTINEL = 0x5eed5eed };

static word only, khz, length, dwell_most;
static volatile word sent[256], due, late, ticks, letters;
static volatile int shadow;
static u32 wrong;
static const char *text = "flood: the quick brown fox jumps over the lazy dog\n";

static void check(int right, const char *what, word detail)
{
    if (!right && wrong++ < 10)
        print("flood: wrong: %s (%lx)\n", what, detail);
}

static u64 rdtsc(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static word chance(word below)
{
    static u64 state = 0x123456789abcdef1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static void dwell(word at_most)
{
    u64 until = rdtsc() + chance(at_most + 1);
    while (rdtsc() < until)
        ;
}

static void send(u32 vector)
{
    if (sent[vector] == irq_count[vector]) {          /* one bit holds one */
        sent[vector]++;
        wrmsr(SELF_IPI, vector);
    }
}

static void set_timer(void)
{
    due = rdtsc() + length / 2 + chance(length);
    wrmsr(MSR_TSC_DEADLINE, due);
}

static void set_ioapic(u32 n, u32 value)
{
    *(volatile u32 *)0xfec00000ul = n;
    *(volatile u32 *)0xfec00010ul = value;
}

static void handle(struct irq_frame *frame)
{
    u32 vector = frame->vector;
    check((frame->rflags & IF) != 0, "an interrupt came while they were off", vector);
    check(!shadow, "an interrupt came in a shadow", vector);
    check((rdmsr(ISR + (vector >> 5)) >> (vector & 31)) & 1, "what is served is not in ISR", vector);
    if (vector == PIT)
        out8(0x43, 0x30);                           /* mode 0: OUT is low until a count has run down */
    wrmsr(EOI, 0);
    if (vector == TIMER) {
        u64 now = rdtsc();
        check(now >= due, "the timer came too early", due - now);
        ticks++;
        if (!only)
            set_timer();
    } else if (vector == UART) {
        if ((in8(IIR) & 7) == THRE) {
            out8(COM1, text[letters % 51]);
            if (++letters % 51 == 0)
                out8(IER, 0);
        }
    } else if (vector == LOW || vector == HIGH)
        check(irq_count[vector] == sent[vector], "an interrupt to itself came twice, or not", vector);
    if (!only && chance(4) == 0)
        send(chance(2) ? LOW : HIGH);               /* waits until this handler ends */
    dwell(dwell_most);
}

/* All registers hold what nobody else would put there, for a while with interrupts on. */
static void keep_registers(void)
{
    word bad;
    asm volatile("push %%rbp; sti; mov $0x1111, %%eax; mov $0x2222, %%ecx; mov $0x3333, %%edx; mov $0x4444, %%esi; mov $0x5555, %%edi;"
                 "mov $0x6666, %%ebp; mov $0x7777, %%r8d; mov $0x8888, %%r9d; mov $0x9999, %%r10d; mov $0xaaaa, %%r11d; mov $0xbbbb, %%r12d;"
                 "mov $0xcccc, %%r13d; mov $0xdddd, %%r14d; mov $400, %%r15d; 1: dec %%r15d; jnz 1b; cli;"
                 "sub $0x1111, %%rax; sub $0x2222, %%rcx; sub $0x3333, %%rdx; sub $0x4444, %%rsi; sub $0x5555, %%rdi; sub $0x6666, %%rbp;"
                 "sub $0x7777, %%r8; sub $0x8888, %%r9; sub $0x9999, %%r10; sub $0xaaaa, %%r11; sub $0xbbbb, %%r12; sub $0xcccc, %%r13; sub $0xdddd, %%r14;"
                 "or %%rcx, %%rax; or %%rdx, %%rax; or %%rsi, %%rax; or %%rdi, %%rax; or %%rbp, %%rax; or %%r8, %%rax; or %%r9, %%rax;"
                 "or %%r10, %%rax; or %%r11, %%rax; or %%r12, %%rax; or %%r13, %%rax; or %%r14, %%rax; pop %%rbp"
                 : "=a"(bad) :: "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
    check(bad == 0, "a register has changed", bad);
}

static void open_by_popf(void) { asm volatile("pushf; orl $0x200, (%%rsp); popf; nop; nop; pushf; andl $~0x200, (%%rsp); popf" ::: "memory", "cc"); }

static void open_by_iret(void)
{
    asm volatile("mov %%rsp, %%rax; mov %%ss, %%ecx; push %%rcx; push %%rax; pushf; orl $0x200, (%%rsp); mov %%cs, %%ecx; push %%rcx;"
                 "lea 1f(%%rip), %%rax; push %%rax; iretq; 1: nop; nop; cli" ::: "rax", "rcx", "memory", "cc");
}

/* The one instruction behind STI, and behind MOV SS, is not interrupted before it has been executed. */
static void open_with_shadow(void)
{
    asm volatile("movl $1, %0; sti; movl $0, %0; nop; cli" : "+m"(shadow) :: "memory");
    asm volatile("mov %%ss, %%ecx; sti; nop; movl $0, %0; mov %%ecx, %%ss; nop; nop; cli" : "+m"(shadow) :: "rcx", "memory");
}

static void one_round(word n)
{
    word stack[8];
    for (int i = 0; i < 8; i++)
        stack[i] = SENTINEL * (n + i);
    asm volatile("" : "+m"(stack));
    if (chance(2))
        send(LOW);
    if (chance(3) == 0)
        send(HIGH);
    if (chance(8) == 0) {                           /* held back by TPR too */
        wrmsr(TPR, 0xb0);
        asm volatile("sti; nop; nop; cli");
        wrmsr(TPR, 0);
    }
    if (letters % 51 == 0 && chance(16) == 0)
        out8(IER, 2);
    if (chance(16) == 0) {
        out8(0x43, 0x30);
        out8(0x40, chance(200));
        out8(0x40, 0);
    }
    dwell(dwell_most);
    switch (chance(5)) {
    case 0: let_in(); break;
    case 1: open_by_popf(); break;
    case 2: open_by_iret(); break;
    case 3: open_with_shadow(); break;
    default: keep_registers();
    }
    let_in();
    check(sent[HIGH] == irq_count[HIGH] && sent[LOW] == irq_count[LOW], "an interrupt to itself has not come", n);
    for (int i = 0; i < 8; i++)
        check(stack[i] == (word)SENTINEL * (n + i), "the stack has changed", n);
}

/* A request waits, because interrupts are off; so does the timer's, which ends a run of the machine's. */
static void wait_closed(void)
{
    set_timer();
    let_in();
    send(LOW);
    u64 until = due + 20 * length;
    while (rdtsc() < until)
        ;
    check(irq_count[LOW] != sent[LOW], "what waits has come while interrupts are off", LOW);
    let_in();
    check(irq_count[LOW] == sent[LOW], "what has waited has not come", LOW);
}

int main(void)
{
    word rounds = option("rounds", 2000);
    only = option("only", 0);
    khz = cpuid(LEAF_TIMING, 0).eax;
    dwell_most = option("dwell", 3000);
    length = khz * option("every", 40) / 1000;
    irq_init();
    irq_handler = handle;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | X2APIC_MODE);
    wrmsr(SPURIOUS, 0x1ff);
    wrmsr(LVT_TIMER, DEADLINE_MODE | TIMER);
    if (only) {
        for (word n = 0; n < 20; n++)
            wait_closed();
        print("flood: %u wrong\n", wrong);
        return wrong != 0;
    }
    out8(0x43, 0x30);
    set_ioapic(0x10 + 2 * 2, PIT | LEVEL);
    set_ioapic(0x10 + 2 * 4, UART);
    out8(MCR, in8(MCR) | OUT2);
    set_timer();
    for (word n = 0; n < rounds; n++)
        one_round(n);
    for (word n = 0; letters % 51 && n < 1000; n++) {
        dwell(dwell_most);
        let_in();
    }
    wrmsr(MSR_TSC_DEADLINE, 0);
    let_in();
    check(letters % 51 == 0, "an interrupt of the UART is lost", letters);
    print("flood: %lu ticks, %u from the UART, %u from the PIT, %u to itself\n", ticks, irq_count[UART], irq_count[PIT], irq_count[LOW] + irq_count[HIGH]);
    check(ticks && irq_count[PIT] && irq_count[UART], "none of some kind came", 0);
    print("flood: %u wrong\n", wrong);
    return wrong != 0;
}
