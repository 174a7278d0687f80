/* bench: what one operation costs a guest, in ticks of the TSC. Where the TSC counts executed instructions (QEMU with
 * -icount, Bochs) these are instructions: the operation itself and all that the hypervisor does about it.
 *
 * For each row: samples of RDTSC, set-up, operation, RDTSC; the same without the operation is taken off. One line a row:
 *     bench: NAME minimum M median D maximum X empty E
 * and at the end "bench: N rows, tsc T" with the TSC as main() began.
 *
 * samples=1000   of each row
 * wait=0         turns to spin first, announced by a line: time for a debugger to step in
 * switch=1       instead: print the gaps in the TSC that other VMs' slices leave (see gaps(), below)
 * gaps=8         how many
 * ipi=1          instead: an interrupt to a second processor and its answer, while both halt; ipi=2: while both spin
 */
#include "runtime.h"
#include "trap.h"
#include "irq.h"

enum { MOST_SAMPLES = 1000, MOST_GAPS = 64 };
enum { X2APIC_ICR = 0x830, ASSERT = 1 << 14, INIT = 5 << 8, STARTUP = 6 << 8, SECOND = 1 };
enum { MSR_APIC_BASE = 0x1b, MSR_PAT = 0x277, MSR_BIOS_SIGN_ID = 0x8b, MSR_TSC_DEADLINE = 0x6e0, X2APIC_SPURIOUS = 0x80f,
       X2APIC_LVT_TIMER = 0x832 };
enum { ENABLED = 1 << 11, X2APIC = 1 << 10, DEADLINE_MODE = 2 << 17 };
enum { SELF = 0x41, ENDED = 0x42, PING = 0x43, PONG = 0x44, TIMER = 0x51 };     /* vectors */
enum { AHEAD = 100000 };               /* ticks from now to a deadline */
enum { GAP = 2000 };                   /* ticks; no turn of the loop takes so long unless the vCPU does not run */
#define UNCLAIMED_MEMORY 0xd0000000u
#define XAPIC_TPR 0xfee00080u

typedef u32 (*sample)(word r9, word r10);

/* One sample without and one with the operation. set_up and operation may use EAX, EBX, ECX, EDX and what is in R9 and
 * R10. The labels are for the profiler: the operation is [op_NAME, end_NAME). */
#define ROW(name, set_up, operation)                                                                                     \
    static __attribute__((noinline, noclone)) u32 empty_##name(word first, word second)                                  \
    {                                                                                                                    \
        TIMED(set_up);                                                                                                   \
    }                                                                                                                    \
    static __attribute__((noinline, noclone)) u32 run_##name(word first, word second)                                    \
    {                                                                                                                    \
        TIMED(set_up "\n.global op_" #name ", end_" #name "\nop_" #name ": " operation "\nend_" #name ":");              \
    }
#define TIMED(code)                                                                                                      \
    register word r9 asm("r9") = first, r10 asm("r10") = second;                                                         \
    u32 ticks;                                                                                                           \
    asm volatile("rdtsc; mov %%eax, %%r8d\n" code "\nrdtsc; sub %%r8d, %%eax"                                            \
                 : "=a"(ticks), "+r"(r9), "+r"(r10) :: "rbx", "rcx", "rdx", "r8", "memory", "cc");                       \
    return ticks

/* What does not depend on a register: RAX is zeroed for all alike where the operation does not care. */
ROW(nop, "", "nop")
ROW(vmmcall, "xor %%eax, %%eax", "vmmcall")
ROW(vmcall, "xor %%eax, %%eax", "vmcall")
ROW(cpuid, "xor %%eax, %%eax; xor %%ecx, %%ecx", "cpuid")
ROW(cpuid_1, "mov $1, %%eax; xor %%ecx, %%ecx", "cpuid")
ROW(cpuid_vmm, "mov $7, %%eax; xor %%ecx, %%ecx", "cpuid")
ROW(rdmsr_efer, "mov $0xc0000080, %%ecx", "rdmsr")
ROW(wrmsr_efer, "mov $0xc0000080, %%ecx; mov %%r9d, %%eax; xor %%edx, %%edx", "wrmsr")
ROW(rdmsr_pat, "mov $0x277, %%ecx", "rdmsr")
ROW(wrmsr_pat, "mov $0x277, %%ecx; mov %%r9d, %%eax; mov %%r10d, %%edx", "wrmsr")
ROW(rdmsr_vmm, "mov $0x8b, %%ecx", "rdmsr")
ROW(wrmsr_vmm, "mov $0x8b, %%ecx; mov %%r9d, %%eax; mov %%r10d, %%edx", "wrmsr")
ROW(in_uart_lsr, "mov $0x3fd, %%edx", "inb %%dx, %%al")
ROW(in_uart_scr, "mov $0x3ff, %%edx", "inb %%dx, %%al")
ROW(out_uart_scr, "mov $0x3ff, %%edx; mov $0x5a, %%eax", "outb %%al, %%dx")
ROW(in_unclaimed, "mov $0xe0, %%edx", "inb %%dx, %%al")
ROW(out_unclaimed, "mov $0xe0, %%edx; xor %%eax, %%eax", "outb %%al, %%dx")
ROW(mmio_read, "", "movl (%%r9), %%eax")
ROW(mmio_write, "", "movl %%ebx, (%%r9)")
ROW(xapic_read, "", "movl (%%r9), %%eax")
ROW(x2apic_tpr, "mov $0x808, %%ecx; xor %%eax, %%eax; xor %%edx, %%edx", "wrmsr")
ROW(mov_cr3, "", "mov %%r9, %%cr3")
ROW(mov_cr4, "", "mov %%r9, %%cr4")
ROW(invlpg, "", "invlpg (%%r9)")

#define UNUSED __attribute__((unused))
#define SAMPLE(name) static __attribute__((noinline, noclone)) u32 name(word vector UNUSED, word unused UNUSED)

/* Interrupts. Their entries note in `arrived` when they came, as low half of the TSC; then EOI. */
static volatile u32 arrived, came;
#define WRMSR(msr) "mov $" msr ", %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr;"
#define ENTER "push %rax; push %rdx; rdtsc;"
#define LEAVE "push %rcx; " WRMSR("0x80b") "pop %rcx; pop %rdx; pop %rax; iretq"

__attribute__((naked, used)) static void interrupted(void)
{
    asm volatile(ENTER "mov %eax, arrived; movl $1, came;" LEAVE);
}

/* The ticks of EOI itself go to `arrived`. */
__attribute__((naked, used)) static void ending(void)
{
    asm volatile("push %rax; push %rcx; push %rdx; push %r8;"
                 "mov $0x80b, %ecx; rdtsc; mov %eax, %r8d; xor %eax, %eax; xor %edx, %edx;"
                 ".global op_x2apic_eoi, end_x2apic_eoi; op_x2apic_eoi: wrmsr; end_x2apic_eoi:"
                 "rdtsc; sub %r8d, %eax; mov %eax, arrived;"
                 "pop %r8; pop %rdx; pop %rcx; pop %rax; iretq");
}

#define ROW_TO_HANDLER(operation)                                                                                        \
    u32 began;                                                                                                           \
    asm volatile("sti; rdtsc; mov %%eax, %0; mov $0x83f, %%ecx; mov %k1, %%eax; xor %%edx, %%edx\n" operation "\ncli"    \
                 : "=&r"(began) : "r"((word)vector) : "rax", "rcx", "rdx", "memory", "cc")
#define OPERATION_TO_HANDLER(name) ".global op_" name ", end_" name "\nop_" name ": wrmsr\nend_" name ":"

SAMPLE(empty_self_ipi)
{
    ROW_TO_HANDLER("push %%rax; push %%rdx; rdtsc; mov %%eax, arrived; pop %%rdx; pop %%rax");
    return arrived - began;
}

SAMPLE(run_self_ipi)
{
    ROW_TO_HANDLER(OPERATION_TO_HANDLER("self_ipi"));
    return arrived - began;
}

SAMPLE(empty_x2apic_eoi)
{
    u32 ticks;
    asm volatile("rdtsc; mov %%eax, %%r8d; xor %%eax, %%eax; xor %%edx, %%edx; rdtsc; sub %%r8d, %%eax" : "=a"(ticks) :: "rdx", "r8");
    return ticks;
}

SAMPLE(run_x2apic_eoi)
{
    ROW_TO_HANDLER("wrmsr");
    return arrived;
}

static u64 rdtsc(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

/* What a handler's own way to its RDTSC takes. */
SAMPLE(empty_timer)
{
    return 3;
}
#define empty_hlt empty_timer

/* From the deadline to the handler, while the guest is busy and while it sleeps. */
SAMPLE(run_timer)
{
    u64 due = rdtsc() + AHEAD;
    came = 0;
    wrmsr(MSR_TSC_DEADLINE, due);
    asm volatile("sti");
    while (!came)
        ;
    asm volatile("cli");
    return arrived - (u32)due;
}

SAMPLE(run_hlt)
{
    u64 due = rdtsc() + AHEAD;
    wrmsr(MSR_TSC_DEADLINE, due);
    asm volatile("sti; hlt; cli" ::: "memory");
    return arrived - (u32)due;
}

/* The second processor answers PING with PONG, to the first. */
__attribute__((naked, used)) static void pinged(void)
{
    asm volatile("push %rax; push %rcx; push %rdx; mov $0x830, %ecx; mov $0x4044, %eax; xor %edx, %edx; wrmsr;"
                 WRMSR("0x80b") "pop %rdx; pop %rcx; pop %rax; iretq");
}

/* What smp_start.S leaves and finds. */
static volatile struct { u32 cs, flags, cr0, efer, edx, starts, unused[2]; u8 gdt[16]; u32 cr3; } *const mailbox = (void *)0x7000;
static u8 *const page = (u8 *)0x8000;
extern u8 smp_start[], smp_start_end[];
static struct { u16 limit; u64 base; } __attribute__((packed)) idt;
static volatile u32 up;
static u32 halting;

static void enter_x2apic(void)
{
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | X2APIC);
    wrmsr(X2APIC_SPURIOUS, 0x1ff);
}

void smp_main(void);

void smp_main(void)
{
    asm volatile("lidt %0" :: "m"(idt));
    enter_x2apic();
    up = 1;
    asm volatile("sti");
    for (;;)
        if (halting)
            asm volatile("hlt");
}

/* From before the interrupt is sent to the answer's handler. */
SAMPLE(run_ipi)
{
    u32 began = (u32)rdtsc();
    came = 0;
    wrmsr(X2APIC_ICR, (u64)SECOND << 32 | ASSERT | PING);
    if (!halting)                      /* on without a break: Bochs' SVM overlooks what comes while they are off */
        asm volatile("sti");
    while (!came)
        if (halting)
            asm volatile("sti; hlt; cli" ::: "memory");
    asm volatile("cli");
    return arrived - began;
}

static void open_apic(void)
{
    irq_init();
    irq_entry(PING, pinged);
    irq_entry(PONG, interrupted);
    irq_entry(SELF, interrupted);
    irq_entry(ENDED, ending);
    irq_entry(TIMER, interrupted);
    enter_x2apic();
    wrmsr(X2APIC_LVT_TIMER, DEADLINE_MODE | TIMER);
}

static u32 samples[MOST_SAMPLES];

/* Shell's. A function of its own, because the profiler stops where a row's samples are complete. */
static __attribute__((noinline, noclone)) void sort(u32 *of, u32 count)
{
    for (u32 gap = count / 2; gap; gap /= 2)
        for (u32 i = gap; i < count; i++) {
            u32 value = of[i], at = i;
            for (; at >= gap && of[at - gap] > value; at -= gap)
                of[at] = of[at - gap];
            of[at] = value;
        }
}

static u32 rows;

static void measure(const char *name, sample empty, sample run, word r9, word r10)
{
    u32 count = option("samples", MOST_SAMPLES), least = ~0u;
    if (count < 1 || count > MOST_SAMPLES)
        count = MOST_SAMPLES;
    for (u32 n = 0; n < count; n++) {
        u32 ticks = empty(r9, r10);
        least = ticks < least ? ticks : least;
    }
    for (u32 n = 0; n < count; n++)
        samples[n] = run(r9, r10);
    sort(samples, count);
    print("bench: %s minimum %u median %u maximum %u empty %u\n", name, samples[0] - least, samples[count / 2] - least,
          samples[count - 1] - least, least);
    rows++;
}

#define MEASURE(name, r9, r10) measure(#name, empty_##name, run_##name, r9, r10)

static void measure_msr(u32 msr, const char *name, sample empty, sample run)
{
    u64 value = rdmsr(msr);
    if (!try_wrmsr(msr, value)) {
        print("bench: %s cannot be measured: #GP\n", name);
        return;
    }
    measure(name, empty, run, (u32)value, value >> 32);
}

static int is_amd(void)
{
    return cpuid(0, 0).ecx == 0x444d4163;              /* "cAMD" of "AuthenticAMD" */
}

/* Two VMs run this at once. Each notes the last TSC before and the first after every stretch in which it did not run; the
 * host puts both lists together: from the last of one VM to the first of the other is one switch of vCPUs.
 * Interrupts are on, though none can come: Bochs' SVM does not let the machine's own end a guest's run while they are off. */
static void gaps(void)
{
    static u64 left[MOST_GAPS], back[MOST_GAPS];
    u32 count = option("gaps", 8), n = 0;
    if (count > MOST_GAPS)
        count = MOST_GAPS;
    asm volatile("sti");
    for (u64 last = rdtsc(), now; n < count; last = now) {
        now = rdtsc();
        if (now - last > GAP) {
            left[n] = last;
            back[n] = now;
            n++;
        }
    }
    for (n = 0; n < count; n++)
        print("bench: gap %llu to %llu\n", left[n], back[n]);
}

static void start_second(void)
{
    u32 size = smp_start_end - smp_start;
    for (u32 n = 0; n < size; n++)
        page[n] = smp_start[n];
    asm volatile("sgdt %0; sidt %1" : "=m"(*(u8 (*)[10])mailbox->gdt), "=m"(idt));
    mailbox->cr3 = read_cr3();
    wrmsr(X2APIC_ICR, (u64)SECOND << 32 | ASSERT | INIT);
    wrmsr(X2APIC_ICR, (u64)SECOND << 32 | ASSERT | STARTUP | (word)page >> 12);
    asm volatile("sti");                /* or, on Bochs' SVM, the other one would not get its turn */
    while (!up)
        asm volatile("pause");
    asm volatile("cli");
}

int main(void)
{
    u64 began = rdtsc();
    if (option("ipi", 0)) {
        halting = option("ipi", 0) == 1;
        open_apic();
        start_second();
        measure(halting ? "ipi" : "ipi_other_core", empty_timer, run_ipi, 0, 0);
        print("bench: %u rows, tsc %llu\n", rows, began);
        return 0;
    }
    if (option("switch", 0)) {
        gaps();
        return 0;
    }
    if (option("wait", 0)) {
        print("bench: waiting\n");
        spin(option("wait", 0));
    }
    MEASURE(nop, 0, 0);
    if (is_amd())
        measure("hypercall", empty_vmmcall, run_vmmcall, 0, 0);
    else
        measure("hypercall", empty_vmcall, run_vmcall, 0, 0);
    MEASURE(cpuid, 0, 0);
    MEASURE(cpuid_1, 0, 0);
    MEASURE(cpuid_vmm, 0, 0);
    MEASURE(rdmsr_efer, 0, 0);
    measure_msr(MSR_EFER, "wrmsr_efer", empty_wrmsr_efer, run_wrmsr_efer);
    MEASURE(rdmsr_pat, 0, 0);
    measure_msr(MSR_PAT, "wrmsr_pat", empty_wrmsr_pat, run_wrmsr_pat);
    MEASURE(rdmsr_vmm, 0, 0);
    measure_msr(MSR_BIOS_SIGN_ID, "wrmsr_vmm", empty_wrmsr_vmm, run_wrmsr_vmm);
    MEASURE(in_uart_lsr, 0, 0);
    MEASURE(in_uart_scr, 0, 0);
    MEASURE(out_uart_scr, 0, 0);
    MEASURE(in_unclaimed, 0, 0);
    MEASURE(out_unclaimed, 0, 0);
    MEASURE(mmio_read, UNCLAIMED_MEMORY, 0);
    MEASURE(mmio_write, UNCLAIMED_MEMORY, 0);
    MEASURE(xapic_read, XAPIC_TPR, 0);
    open_apic();
    MEASURE(x2apic_tpr, 0, 0);
    MEASURE(x2apic_eoi, ENDED, 0);
    MEASURE(self_ipi, SELF, 0);
    MEASURE(timer, 0, 0);
    MEASURE(hlt, 0, 0);
    MEASURE(mov_cr3, read_cr3(), 0);
    MEASURE(mov_cr4, read_cr4(), 0);
    MEASURE(invlpg, UNCLAIMED_MEMORY, 0);
    print("bench: %u rows, tsc %llu\n", rows, began);
    return 0;
}
