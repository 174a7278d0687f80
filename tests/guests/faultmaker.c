/* faultmaker: provoke each exception that a program can provoke, and check what the processor reports:
 * vector, error code, the address of the instruction, CR2, DR6.
 *
 * strict=1  an exception that does not come at all, or one of QEMU's TCG's known deviations, is a
 *           failure too. (TCG has neither #AC nor #XM, raises #GP for a non-canonical stack, and reports
 *           twice the vector for INT n behind the IDT's limit, and no P bit beside RSVD. Without `strict` these are reported.)
 * icebp=1   try INT1 too. (Bare QEMU's TCG takes it for its own debugger's and stops.)
 */
#include "runtime.h"
#include "trap.h"

#define WINDOW (512ull << 30)              /* virtual: pages made to fault; slot below */
#define SLOT(n) (WINDOW + (n) * (2ull << 20))
enum { SLOT_READ_ONLY, SLOT_RESERVED, SLOT_NO_EXECUTE, SLOT_ABSENT };
#define NON_CANONICAL 0x0123456789abcdefull
#define ANY_RIP 1

/* RIP as the exception must report it: a fault reports the instruction, a trap the one after it. */
#define FAULT(code) "leaq 1f(%%rip), %%rax; movq %%rax, expected_rip; 1: " code
#define TRAP(code) "leaq 1f(%%rip), %%rax; movq %%rax, expected_rip; " code "; 1: nop"
u64 expected_rip;

extern u64 pml4[512], pdpt[512], directories[2048];
static u64 window_pdpt[512] __attribute__((aligned(4096)));
static u64 window_directory[512] __attribute__((aligned(4096)));
static u8 exception_stack[4096] __attribute__((aligned(16)));
static u8 user_stack[4096] __attribute__((aligned(16)));
static volatile u32 watched[4] __attribute__((aligned(16)));

/* One function for each fault. All are called through trap_call. */
#define MAKE(name) static void name(void *unused __attribute__((unused)))

MAKE(divide_by_zero) { asm volatile("xor %%edx, %%edx; xor %%ecx, %%ecx;" FAULT("divl %%ecx") ::: "rax", "rcx", "rdx"); }
MAKE(divide_overflow) { asm volatile("mov $-1, %%edx; mov $1, %%ecx;" FAULT("divl %%ecx") ::: "rax", "rcx", "rdx"); }
MAKE(single_step)
{
    asm volatile("leaq 1f(%%rip), %%rax; movq %%rax, expected_rip;"
                 "pushf; orl $0x100, (%%rsp); popf; nop; 1: nop" ::: "rax", "memory");
}
MAKE(watch_write)
{
    write_dr0((word)&watched[1]);
    write_dr7(0x000d0401);                 /* L0, 4 bytes, write */
    asm volatile(TRAP("movl $1, %0") : "=m"(watched[1]) :: "rax", "memory");
}
MAKE(break_execute)
{
    asm volatile("leaq 1f(%%rip), %%rax; movq %%rax, expected_rip; mov %%rax, %%dr1;"
                 "mov $0x404, %%eax; mov %%rax, %%dr7; nop; 1: nop" ::: "rax", "memory");
}
MAKE(icebp) { asm volatile(TRAP(".byte 0xf1") ::: "rax"); }
MAKE(breakpoint) { asm volatile(TRAP("int3") ::: "rax"); }
MAKE(undefined) { asm volatile(FAULT("ud2") ::: "rax"); }
MAKE(push_es) { asm volatile(FAULT(".byte 0x06") ::: "rax"); }     /* no longer in 64-bit code */
MAKE(no_fpu)
{
    write_cr0(read_cr0() | CR0_TS);
    asm volatile(FAULT("fnop") ::: "rax");
}
MAKE(double_fault)
{
    trap_gate(VECTOR_GP, 0, 0);            /* #GP, and while delivering it #NP: two contributory faults */
    asm volatile("mov %0, %%rcx; movb (%%rcx), %%al" :: "r"(NON_CANONICAL) : "rax", "rcx");
}
MAKE(short_task_segment)
{
    trap_tss(exception_stack + sizeof exception_stack, 0x1f);
    trap_gate(VECTOR_BP, 1, 1);            /* IST1 lies behind the limit */
    asm volatile("int3");
}
MAKE(segment_not_present) { asm volatile(FAULT("mov %w0, %%fs") :: "c"(NOT_PRESENT) : "rax"); }
MAKE(stack_not_present) { asm volatile(FAULT("mov %w0, %%ss") :: "c"(NOT_PRESENT) : "rax"); }
MAKE(stack_non_canonical)
{
    asm volatile("push %%rbp; mov %0, %%rbp;" FAULT("movb (%%rbp), %%al") "; pop %%rbp" :: "c"(NON_CANONICAL) : "rax");
}
MAKE(non_canonical) { asm volatile(FAULT("movb (%0), %%al") :: "c"(NON_CANONICAL) : "rax"); }
MAKE(selector_outside) { asm volatile(FAULT("mov %w0, %%fs") :: "c"(0x1230) : "rax"); }
MAKE(interrupt_outside) { asm volatile(FAULT("int $0x80") ::: "rax"); }
MAKE(five_levels) { asm volatile(FAULT("mov %0, %%cr4") :: "c"(read_cr4() ^ 1 << 12) : "rax"); }

MAKE(read_absent) { asm volatile(FAULT("movb (%0), %%cl") :: "c"(SLOT(SLOT_ABSENT) + 0x1234) : "rax"); }
MAKE(write_absent) { asm volatile(FAULT("movb $1, (%0)") :: "c"(SLOT(SLOT_ABSENT) + 0x5678) : "rax"); }
MAKE(write_read_only)
{
    write_cr0(read_cr0() | CR0_WP);
    asm volatile(FAULT("movb $1, (%0)") :: "c"(SLOT(SLOT_READ_ONLY)) : "rax");
}
MAKE(read_reserved) { asm volatile(FAULT("movb (%0), %%cl") :: "c"(SLOT(SLOT_RESERVED)) : "rax"); }
MAKE(execute_forbidden) { expected_rip = SLOT(SLOT_NO_EXECUTE); ((void (*)(void))expected_rip)(); }
MAKE(execute_absent) { expected_rip = SLOT(SLOT_ABSENT); ((void (*)(void))expected_rip)(); }

MAKE(x87_divide)
{
    u16 unmasked = 0x37b;                  /* all masked but ZM */
    write_cr0(read_cr0() | CR0_NE);
    asm volatile("fninit; fldcw %0; fld1; fldz; fdivrp;" FAULT("fwait") :: "m"(unmasked) : "rax");
}
MAKE(sse_divide)
{
    u32 unmasked = 0x1d80, one = 0x3f800000, zero = 0;
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    asm volatile("ldmxcsr %0; movss %1, %%xmm0;" FAULT("divss %2, %%xmm0")
                 :: "m"(unmasked), "m"(one), "m"(zero) : "rax");
}

/* Exceptions that 64-bit code has no instruction for come from compatibility mode. Written in bytes,
 * because this file is assembled as 64-bit code. */
static void in_compatibility_mode(const void *code)
{
    asm volatile("pushq %0; pushq %1; lretq" :: "i"(CODE32), "r"(code) : "memory");
}
MAKE(overflow)
{
    /* mov $0x7fffffff, %eax; add $1, %eax; into */
    static const u8 code[] = { 0xb8, 0xff, 0xff, 0xff, 0x7f, 0x83, 0xc0, 0x01, 0xce, 0x90 };
    expected_rip = (word)code + 9;
    in_compatibility_mode(code);
}
static const u32 bounds[2] = { 5, 10 };
MAKE(bound_range)
{
    static u8 code[] = { 0xb8, 11, 0, 0, 0, 0x62, 0x05, 0, 0, 0, 0, 0x90 };   /* mov $11, %eax; bound %eax, bounds */
    *(u32 *)(code + 7) = (word)bounds;
    expected_rip = (word)code + 5;
    in_compatibility_mode(code);
}

/* Ring 3: the way there is IRETQ, the way back is the exception. Code that raises none returns to
 * user_end, and INT 4 is then the sign that nothing happened. */
#define NOTHING_HAPPENED VECTOR_OF
static void user_end(void) { asm volatile("int $4"); }
static void in_ring3(void (*code)(void), u64 rflags)
{
    *(u64 *)(user_stack + sizeof user_stack - 8) = (word)user_end;
    asm volatile("pushq %0; pushq %1; pushq %2; pushq %3; pushq %4; iretq"
                 :: "i"(USER_DATA), "r"(user_stack + sizeof user_stack - 8), "r"(rflags), "i"(USER_CODE64), "r"(code)
                 : "memory");
}
static void user_misaligned(void) { asm volatile(FAULT("movl %0, %%ecx") :: "m"(*(u32 *)((u8 *)watched + 1)) : "rax", "rcx"); }
static void user_halt(void) { asm volatile(FAULT("hlt") ::: "rax"); }
static void user_port(void) { asm volatile("mov $0xe0, %%edx;" FAULT("inb %%dx, %%al") ::: "rax", "rdx"); }
static void user_reads_kernel(void) { asm volatile(FAULT("movb (%0), %%cl") :: "c"(SLOT(SLOT_READ_ONLY)) : "rax"); }
static void user_breakpoint(void) { asm volatile(TRAP("int3") ::: "rax"); }
MAKE(alignment)
{
    write_cr0(read_cr0() | CR0_AM);
    in_ring3(user_misaligned, 0x40002);    /* AC */
}
MAKE(ring3_halt) { in_ring3(user_halt, 2); }
MAKE(ring3_port) { in_ring3(user_port, 2); }
MAKE(ring3_kernel_page) { in_ring3(user_reads_kernel, 2); }
MAKE(ring3_breakpoint) { in_ring3(user_breakpoint, 2); }

enum { P = 1, W = 2, U = 4, RSVD = 8, I = 16 };            /* #PF error code */

static const struct attempt {
    const char *what;
    void (*make)(void *);
    int vector;
    u32 error;
    u64 cr2;                               /* 0: not looked at */
    u32 dr6;                               /* bits that must be set */
    int any_rip;
    int tcg_vector;                        /* what QEMU's TCG raises instead; 0: the same */
    u32 tcg_error;
} attempts[] = {
    { "#DE division by zero", divide_by_zero, VECTOR_DE, 0, 0, 0, 0, 0, 0 },
    { "#DE quotient too large", divide_overflow, VECTOR_DE, 0, 0, 0, 0, 0, 0 },
    { "#DB single step", single_step, VECTOR_DB, 0, 0, 1 << 14, 0, 0, 0 },
    { "#DB write watched by DR0", watch_write, VECTOR_DB, 0, 0, 1, 0, 0, 0 },
    { "#DB execution watched by DR1", break_execute, VECTOR_DB, 0, 0, 2, 0, 0, 0 },
    { "#DB INT1", icebp, VECTOR_DB, 0, 0, 0, 0, 0, 0 },
    { "#BP INT3", breakpoint, VECTOR_BP, 0, 0, 0, 0, 0, 0 },
    { "#OF INTO", overflow, VECTOR_OF, 0, 0, 0, 0, 0, 0 },
    { "#BR BOUND", bound_range, VECTOR_BR, 0, 0, 0, 0, 0, 0 },
    { "#UD UD2", undefined, VECTOR_UD, 0, 0, 0, 0, 0, 0 },
    { "#UD PUSH ES", push_es, VECTOR_UD, 0, 0, 0, 0, 0, 0 },
    { "#NM CR0.TS", no_fpu, VECTOR_NM, 0, 0, 0, 0, 0, 0 },
    { "#DF #GP without a gate", double_fault, VECTOR_DF, 0, 0, 0, ANY_RIP, 0, 0 },
    { "#TS IST outside the TSS", short_task_segment, VECTOR_TS, TASK, 0, 0, ANY_RIP, 0, 0 },
    { "#NP FS not present", segment_not_present, VECTOR_NP, NOT_PRESENT, 0, 0, 0, 0, 0 },
    { "#SS SS not present", stack_not_present, VECTOR_SS, NOT_PRESENT, 0, 0, 0, 0, 0 },
    { "#SS non-canonical stack", stack_non_canonical, VECTOR_SS, 0, 0, 0, 0, VECTOR_GP, 0 },
    { "#GP non-canonical address", non_canonical, VECTOR_GP, 0, 0, 0, 0, 0, 0 },
    { "#GP selector outside the GDT", selector_outside, VECTOR_GP, 0x1230, 0, 0, 0, 0, 0 },
    { "#GP vector outside the IDT", interrupt_outside, VECTOR_GP, 0x80 * 8 + 2, 0, 0, 0, VECTOR_GP, 0x80 * 16 + 2 },
    { "#GP CR4.LA57 changed in long mode", five_levels, VECTOR_GP, 0, 0, 0, 0, 0, 0 },
    { "#PF read, absent", read_absent, VECTOR_PF, 0, SLOT(SLOT_ABSENT) + 0x1234, 0, 0, 0, 0 },
    { "#PF write, absent", write_absent, VECTOR_PF, W, SLOT(SLOT_ABSENT) + 0x5678, 0, 0, 0, 0 },
    { "#PF write, read-only", write_read_only, VECTOR_PF, P | W, SLOT(SLOT_READ_ONLY), 0, 0, 0, 0 },
    { "#PF reserved bit", read_reserved, VECTOR_PF, P | RSVD, SLOT(SLOT_RESERVED), 0, 0, VECTOR_PF, RSVD },
    { "#PF execute, NX", execute_forbidden, VECTOR_PF, P | I, SLOT(SLOT_NO_EXECUTE), 0, 0, 0, 0 },
    { "#PF execute, absent", execute_absent, VECTOR_PF, I, SLOT(SLOT_ABSENT), 0, 0, 0, 0 },
    { "#PF ring 3, supervisor page", ring3_kernel_page, VECTOR_PF, P | U, SLOT(SLOT_READ_ONLY), 0, 0, 0, 0 },
    { "#GP ring 3, HLT", ring3_halt, VECTOR_GP, 0, 0, 0, 0, 0, 0 },
    { "#GP ring 3, IN", ring3_port, VECTOR_GP, 0, 0, 0, 0, 0, 0 },
    { "#BP ring 3, INT3", ring3_breakpoint, VECTOR_BP, 0, 0, 0, 0, 0, 0 },
    { "#MF x87 division by zero", x87_divide, VECTOR_MF, 0, 0, 0, 0, 0, 0 },
    { "#AC ring 3, misaligned", alignment, VECTOR_AC, 0, 0, 0, 0, 0, 0 },
    { "#XM SSE division by zero", sse_divide, VECTOR_XM, 0, 0, 0, 0, 0, 0 },
};

static void map_window(void)
{
    const u64 large = PAGE_P | PAGE_PS;
    pml4[1] = (word)window_pdpt | PAGE_P | PAGE_W | PAGE_U;
    window_pdpt[0] = (word)window_directory | PAGE_P | PAGE_W | PAGE_U;
    window_directory[SLOT_READ_ONLY] = large;
    window_directory[SLOT_RESERVED] = large | PAGE_W | 1 << 13;
    window_directory[SLOT_NO_EXECUTE] = large | PAGE_W | 1ull << 63;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    /* Ring 3 runs on our own image: the first 2 MiB. */
    pml4[0] |= PAGE_U;
    pdpt[0] |= PAGE_U;
    directories[0] |= PAGE_U;
    write_cr3(read_cr3());
}

static int right(const struct attempt *a, int vector)
{
    return vector == a->vector && trap.error == a->error && (!a->cr2 || trap.cr2 == a->cr2)
        && (trap.dr6 & a->dr6) == a->dr6 && (a->any_rip || trap.rip == expected_rip);
}

/* Returns the vector that came, with everything as it was before. */
static int attempt(const struct attempt *a)
{
    word cr0 = read_cr0(), cr4 = read_cr4();
    int vector;
    write_dr6(0xffff0ff0);
    trap_tss(exception_stack + sizeof exception_stack, 103);
    vector = trap_call(a->make, 0);
    write_dr7(0x400);
    write_cr0(cr0);
    write_cr4(cr4);
    asm volatile("fninit");
    trap_gate(VECTOR_GP, 1, 0);
    trap_gate(VECTOR_BP, 1, 0);
    return vector;
}

int main(void)
{
    u32 good = 0, silent = 0, deviant = 0, wrong = 0;
    map_window();
    for (u32 i = 0; i < sizeof attempts / sizeof attempts[0]; i++) {
        const struct attempt *a = &attempts[i];
        int vector;
        if (a->make == icebp && !option("icebp", 0))
            continue;
        vector = attempt(a);
        if (vector == NO_TRAP || (trap.cs == USER_CODE64 && vector == NOTHING_HAPPENED)) {
            silent++;
            print("%s: not raised\n", a->what);
        } else if (right(a, vector)) {
            good++;
            print("%s: ok\n", a->what);
        } else if (a->tcg_vector == vector && a->tcg_error == trap.error) {
            deviant++;
            print("%s: vector %u error %llx, as QEMU's TCG has it\n", a->what, vector, trap.error);
        } else {
            wrong++;
            print("%s: wrong: vector %u error %llx rip %llx (not %llx) cr2 %llx dr6 %llx\n", a->what, vector,
                  trap.error, trap.rip, expected_rip, trap.cr2, trap.dr6);
        }
    }
    print("faultmaker: %u right, %u not raised, %u deviant, %u wrong\n", good, silent, deviant, wrong);
    return wrong || (silent + deviant && option("strict", 0));
}
