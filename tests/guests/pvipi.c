/* pvipi: KVM's hypercall that sends one interrupt to many processors, of which it wants four to sixteen. Not for a bare PC, which has no
 * hypervisor to ask.
 * Source: Linux, Documentation/virt/kvm/x86/hypercalls.rst, "KVM_HC_SEND_IPI".
 */
#include "runtime.h"
#include "irq.h"
#include "report.h"

enum { ID = 0x20, EOI = 0xb0, SPURIOUS = 0xf0, ICR = 0x300, ICR_HIGH = 0x310, INIT = 5 << 8, STARTUP = 6 << 8, NMI = 4 << 8, ASSERT = 1 << 14,
       LEVEL = 1 << 15, LOGICAL = 1 << 11, SELF = 1 << 18, FEATURES = 0x40000001, SEND_IPI = 10, MOST = 16, VECTOR = 0x45, PATIENCE = 20000000 };       /* turns of the others may come first */

/* What smp_start.S leaves and finds. */
static volatile struct { u32 cs, flags, cr0, efer, edx, starts, unused[2]; u8 gdt[16]; u32 cr3; } *const mailbox = (void *)0x7000;
extern u8 smp_start[], smp_start_end[];

static struct { u16 limit; u64 base; } __attribute__((packed)) idt;
static volatile u32 came[MOST][256], loaded_idt, up;
static u32 cpus;
static int amd;

static u32 apic(u32 at) { return *(volatile u32 *)(0xfee00000ul + at); }
static void set_apic(u32 at, u32 value) { *(volatile u32 *)(0xfee00000ul + at) = value; }

static long hypercall(u64 number, u64 low, u64 high, u64 first, u64 icr)
{
    long answer = number;
    if (amd)
        asm volatile("vmmcall" : "+a"(answer) : "b"(low), "c"(high), "d"(first), "S"(icr) : "memory");
    else
        asm volatile("vmcall" : "+a"(answer) : "b"(low), "c"(high), "d"(first), "S"(icr) : "memory");
    return answer;
}

static long send(u64 low, u64 high, u64 first, u64 icr) { return hypercall(SEND_IPI, low, high, first, icr); }

static void arrived(struct irq_frame *frame)
{
    came[apic(ID) >> 24 & (MOST - 1)][frame->vector]++;
    if (frame->vector != 2)
        set_apic(EOI, 0);
}

/* Have the processors in `mask` had this vector `times` times by now, and no other? */
static int had(u32 mask, u32 vector, u32 times)
{
    for (u32 turn = 0; turn < 2; turn++)
        for (u32 n = 0; n < cpus; n++)
            for (u32 patience = turn ? 20 : PATIENCE; patience && came[n][vector] != (mask >> n & 1 ? times : 0); patience--) {
                let_in();
                asm volatile("pause");
            }
    int right = 1;
    for (u32 n = 0; n < cpus; n++) {
        right &= came[n][vector] == (mask >> n & 1 ? times : 0);
        came[n][vector] = 0;
    }
    return right;
}

/* Does a message to these come to reach so many? Whether its APIC is on is its own core's news, which takes its time. */
static int reached(u32 mask, long number)
{
    u32 patience = 100000;
    while (patience && send(mask, 0, 0, VECTOR) != number)
        patience--;
    return patience != 0;
}

/* The other processors, from smp_start.S, on one stack after the other. */
static u8 stacks[MOST][4096] __attribute__((aligned(16)));
void smp_main(void);
static void stay(void)
{
    for (;;)
        halt();
}

void smp_main(void)
{
    asm volatile("lidt %0" :: "m"(idt));
    set_apic(SPURIOUS, 0x1ff);
    u64 stack = (u64)stacks[apic(ID) >> 24 & (MOST - 1)] + sizeof *stacks;
    loaded_idt++;
    up++;
    asm volatile("mov %0, %%rsp; jmp *%1" :: "r"(stack), "r"(stay));
    __builtin_unreachable();
}

static void start_all(void)
{
    asm volatile("sgdt %0" : "=m"(*(u8 (*)[10])mailbox->gdt));
    asm volatile("sidt %0" : "=m"(idt));
    mailbox->cr3 = read_cr3();
    memcpy((u8 *)0x8000, smp_start, smp_start_end - smp_start);
    irq_handler = arrived;
    set_apic(SPURIOUS, 0x1ff);
    for (u32 n = 1; n < cpus; n++) {
        set_apic(ICR_HIGH, n << 24);
        set_apic(ICR, INIT | ASSERT);
        set_apic(ICR_HIGH, n << 24);
        set_apic(ICR, STARTUP | ASSERT | 8);
        while (up != n)
            asm volatile("pause");
    }
}

int main(void)
{
    irq_init();
    amd = cpuid(0, 0).ebx == 0x68747541;
    cpus = cpuid(1, 0).ebx >> 16 & 0xff;
    report_part("pv-ipi");
    if (cpus < 4 || cpus > MOST) {
        check("has four to sixteen processors", 0);
        return report_end("pvipi") ? 1 : 0;
    }
    u32 all = (1u << cpus) - 1, others = all & ~1u;
    check("is offered", cpuid(FEATURES, 0).eax >> 11 & 1);
    start_all();
    u32 last = 1u << (cpus - 1);
    if (!reached(last, 1) || !had(last, VECTOR, 1))
        check("the last one is reached", 0);
    check("one to all but the first", send(others, 0, 0, VECTOR) == cpus - 1 && had(others, VECTOR, 1));
    check("to itself too", send(all, 0, 0, VECTOR) == cpus && had(all, VECTOR, 1));
    check("to two", send(0x5, 0, 1, VECTOR) == 2 && had(0xa, VECTOR, 1));
    check("the bitmap's upper half begins 64 IDs higher", send(0, all, 0, VECTOR) == 0 && had(0, VECTOR, 0));
    check("IDs that are not there are not counted", send(~0ull, ~0ull, 2, VECTOR) == cpus - 2 && had(all & ~3u, VECTOR, 1));
    check("a lowest ID that is not there", send(~0ull, ~0ull, cpus, VECTOR) == 0 && send(~0ull, ~0ull, 0xffffffff, VECTOR) == 0 && had(0, VECTOR, 0));
    check("one that is there and an empty bitmap", send(0, 0, 0, VECTOR) == 0 && had(0, VECTOR, 0));
    check("NMI", send(0x6, 0, 0, NMI) == 2 && had(0x6, 2, 1));
    check("a logical destination is invalid", send(all, 0, 0, LOGICAL | VECTOR) == -22 && had(0, VECTOR, 0));
    check("a shorthand is invalid", send(all, 0, 0, SELF | VECTOR) == -22 && had(0, VECTOR, 0));
    check("a level that is not asserted reaches nobody", send(all, 0, 0, LEVEL | VECTOR) == 0 && had(0, VECTOR, 0));
    check("nor does a vector that is none", send(all, 0, 0, 15) == 0);
    check("an unknown hypercall", hypercall(11, 0, 0, 0, 0) == -1000);
    u32 right = 0;
    for (u32 n = 0; n < 50; n++)
        right += send(all, 0, 0, VECTOR) == cpus && had(all, VECTOR, 1);
    check("50 to all", right == 50);
    set_apic(SPURIOUS, 0xff);
    check("none to an APIC that is off", send(all, 0, 0, VECTOR) == cpus - 1 && had(others, VECTOR, 1));
    check("INIT stops a processor", send(0x8, 0, 0, INIT | ASSERT) == 1 && reached(0x8, 0) && send(others, 0, 0, VECTOR) == cpus - 2 && had(others & ~8u, VECTOR, 1));
    check("STARTUP starts it", send(0x8, 0, 0, STARTUP | 8) == 1);
    for (u32 n = 0; n < PATIENCE && up != cpus; n++)
        asm volatile("pause");
    check("so that it works again", reached(0x8, 1) && had(0x8, VECTOR, 1) && send(others, 0, 0, VECTOR) == cpus - 1 && had(others, VECTOR, 1));
    return report_end("pvipi") ? 1 : 0;
}
