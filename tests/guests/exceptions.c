/* exceptions: how exceptions and interrupts are delivered, and what changes privilege: single steps over all kinds of instructions,
 * breakpoints, gates, IST, double faults, IRET, SYSCALL, SYSENTER, call gates. (faultmaker has each exception's code and address.)
 *
 * Each line of the report is one promise of a manual; it is the same on a bare PC and under a hypervisor.
 * Sources: Intel SDM Vol. 3A, "Interrupt and Exception Handling", Vol. 3B, "Debug, Branch Profile, TSC"; AMD64 APM Vol. 2.
 */
#include "runtime.h"
#include "irq.h"
#include "report.h"
#include "trap.h"

enum { STACK = 4096, TASK_STATE = 0x40, GATE = 0x50, DR6_BS = 1 << 14, DR6_BD = 1 << 13, DR7_GD = 1 << 13,
       CR4_DE = 1 << 3, FLAG_TF = 0x100, FLAG_IF = 0x200, FLAG_DF = 0x400, FLAG_NT = 0x4000, FLAG_RF = 0x10000,
       MSR_STAR = 0xc0000081, MSR_LSTAR = 0xc0000082, MSR_SFMASK = 0xc0000084, MSR_SYSENTER_CS = 0x174,
       MSR_SYSENTER_ESP = 0x175, MSR_SYSENTER_EIP = 0x176 };
#define ABSENT 0x8000000000ull                 /* nothing is mapped there */
#define NON_CANONICAL 0x0123456789abcdefull

extern u64 gdt[8], pml4[512], pdpt[512], directories[2048];
static u64 table[32] __attribute__((aligned(16)));
static struct { u32 zero; u64 rsp[3]; u64 zero2; u64 ist[7]; u64 zero3; u16 zero4, iomap; } __attribute__((packed)) tss;
static u8 kernel_stack[STACK] __attribute__((aligned(16))), own_stack[STACK] __attribute__((aligned(16)));
static u8 user_stack[STACK] __attribute__((aligned(16)));
#define USER_TOP ((word)user_stack + STACK - 64)

#define MAKE(name) static void name(void *unused __attribute__((unused)))

/* A GDT and a TSS with room for what is needed here, and ring 3 in our own image. */
static void make_tables(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) pointer = { sizeof table - 1, (word)table };
    u64 base = (word)&tss;
    memcpy(table, gdt, 56);
    tss.rsp[0] = (word)kernel_stack + STACK;
    tss.ist[0] = (word)own_stack + STACK;
    tss.iomap = sizeof tss;
    table[TASK_STATE / 8] = (sizeof tss - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24) << 56;
    table[TASK_STATE / 8 + 1] = 0;
    asm volatile("lgdt %0; ltr %w1" :: "m"(pointer), "r"(TASK_STATE));
    pml4[0] |= PAGE_U;
    pdpt[0] |= PAGE_U;
    directories[0] |= PAGE_U;
    write_cr3(read_cr3());
}

static void in_ring3(void (*code)(void), u64 rflags)
{
    asm volatile("pushq %0; pushq %1; pushq %2; pushq %3; pushq %4; iretq"
                 :: "i"(USER_DATA), "r"(USER_TOP), "r"(rflags), "i"(USER_CODE64), "r"(code) : "memory");
}

/* -- single steps ------------------------------------------------------------------------------------------------------- */
static volatile u64 steps[32], step_dr6[32];
static volatile u32 step_count;
static void step_taken(struct irq_frame *frame)
{
    if (step_count < 32) {
        step_dr6[step_count] = read_dr6();
        steps[step_count++] = frame->rip;
    }
    write_dr6(0xffff0ff0);
}

/* Step from `first` to `last`: is there a #DB behind each of the instructions that begin at `at`? */
#define BEGIN "pushf; orl $0x100, (%%rsp); popf;"
#define END "pushf; andl $~0x100, (%%rsp); popf;"
#define STEPPED(code, behind, ...)                                                             \
    ({                                                                                         \
        u64 next;                                                                              \
        step_count = 0;                                                                        \
        asm volatile("lea 2f(%%rip), %0;" BEGIN code "; 2:" END                                \
                     : "=&r"(next) : "m"(behind) : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "memory", ##__VA_ARGS__); \
        step_count >= 1 && steps[0] == next && (step_dr6[0] & DR6_BS);                         \
    })

static volatile u32 scratch[4];
static void single_steps(void)
{
    report_part("step");
    irq_take(VECTOR_DB);
    irq_handler = step_taken;
    check("NOP", STEPPED("nop", scratch));
    check("a MOV to memory", STEPPED("movl $1, %1", scratch));
    check("CPUID", STEPPED("xor %%eax, %%eax; cpuid", scratch) || (step_count >= 2 && step_dr6[1] & DR6_BS));
    check("CPUID, right behind", STEPPED("cpuid", scratch));
    check("IN", STEPPED("inb $0xe0, %%al", scratch));
    check("OUT", STEPPED("outb %%al, $0xe0", scratch));
    asm volatile("" ::: "memory");
    check("RDMSR of EFER", (STEPPED("mov $0xc0000080, %%ecx; rdmsr", scratch), step_count >= 3 && steps[1] - steps[0] == 2));
    check("RDMSR of APIC_BASE", (STEPPED("mov $0x1b, %%ecx; rdmsr", scratch), step_count >= 3 && steps[1] - steps[0] == 2));
    check("MOV to CR3", (STEPPED("mov %%cr3, %%rax; mov %%rax, %%cr3", scratch), step_count >= 3 && steps[1] - steps[0] == 3));
    check("RDTSC", STEPPED("rdtsc", scratch));
    check("a read of the local APIC", (STEPPED("mov $0xfee00030, %%eax; mov (%%rax), %%ecx", scratch), step_count >= 3 && steps[1] - steps[0] == 2));
    check("WBINVD", STEPPED("wbinvd", scratch));
    check("MOV SS hides the step behind it", (STEPPED("mov %%ss, %%eax; mov %%eax, %%ss; nop; nop", scratch),
                                              step_count >= 3 && steps[1] - steps[0] == 3));
    irq_handler = 0;
}

/* -- breakpoints -------------------------------------------------------------------------------------------------------- */
static void write_twice(void *where) { *(volatile u32 *)where = 1; *(volatile u32 *)where = 2; }
static void read_once(void *where) { (void)*(volatile u32 *)where; }
MAKE(touch_dr) { (void)read_dr0(); }
MAKE(touch_dr4) { asm volatile("mov %%dr4, %%rax" ::: "rax"); }
MAKE(bad_dr7) { write_dr7(1ull << 32); }
MAKE(io_break) { asm volatile("out %%al, $0xe0; behind_out: nop" ::: "memory"); }
MAKE(io_in) { asm volatile("in $0xe0, %%al; behind_in: nop" ::: "rax"); }
MAKE(io_string) { asm volatile("cld; outsb; behind_outsb: nop" :: "d"(PORT_UNCLAIMED), "S"(scratch) : "memory"); }
static void io_at(void *port) { out8((u16)(word)port, 0); }
static void io_word_at(void *port) { out16((u16)(word)port, 0); }
#define BEHIND(label) ({ extern u8 label[]; trap.rip == (word)label; })

static void breakpoints(void)
{
    report_part("debug");
    trap_init();
    write_dr6(0xffff0ff0);
    write_dr7(0x400);
    write_dr1((word)&scratch[2]);
    write_dr7(0x00d00404 | 0x400);             /* DR1: writes, 4 bytes */
    check("a write breakpoint", trap_call(write_twice, (void *)&scratch[2]) == VECTOR_DB && (trap.dr6 & 15) == 2);
    write_dr6(0xffff0ff0);
    check("does not see reads", trap_call(read_once, (void *)&scratch[2]) == NO_TRAP);
    check("nor its neighbours", trap_call(write_twice, (void *)&scratch[3]) == NO_TRAP);
    write_dr7(0x00f00404);
    check("a read-write one sees reads", trap_call(read_once, (void *)&scratch[2]) == VECTOR_DB && (trap.dr6 & 15) == 2);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
    check("none is enabled, none comes", trap_call(write_twice, (void *)&scratch[2]) == NO_TRAP);
    check("DR6 reads its fixed bits", (read_dr6() & 0xffff1ff0) == 0xffff0ff0);
    write_dr7(0);
    check("DR7 reads bit 10", read_dr7() == 0x400);
    write_dr0(0x1234);
    check("DR0 keeps its value", read_dr0() == 0x1234);
    u64 dr6 = read_dr6();
    asm volatile("mov %%dr4, %0" : "=r"(dr6));
    check("DR4 is DR6", dr6 == read_dr6());
    write_cr4(read_cr4() | CR4_DE);
    check("but #UD with CR4.DE", trap_call(touch_dr4, 0) == VECTOR_UD);
    write_dr0(PORT_UNCLAIMED);
    write_dr6(0xffff0ff0);
    write_dr7(0x00020402);                     /* DR0: I/O, one byte */
    check("an I/O breakpoint", trap_call(io_break, 0) == VECTOR_DB && (trap.dr6 & 15) == 1 && BEHIND(behind_out));
    write_dr6(0xffff0ff0);
    check("of an IN", trap_call(io_in, 0) == VECTOR_DB && (trap.dr6 & 15) == 1 && BEHIND(behind_in));
    write_dr6(0xffff0ff0);
    check("of an OUTS", trap_call(io_string, 0) == VECTOR_DB && (trap.dr6 & 15) == 1 && BEHIND(behind_outsb));
    write_dr6(0xffff0ff0);
    check("not of its neighbours", trap_call(io_at, (void *)(PORT_UNCLAIMED + 1ul)) == NO_TRAP && trap_call(io_word_at, (void *)(PORT_UNCLAIMED + 2ul)) == NO_TRAP);
    check("of a word that reaches it", trap_call(io_word_at, (void *)(PORT_UNCLAIMED - 1ul)) == VECTOR_DB);
    write_dr7(0x400);
    write_dr2(PORT_UNCLAIMED + 4);
    write_dr6(0xffff0ff0);
    write_dr7(0x0e000420);                     /* DR2, global: I/O, four bytes */
    check("of four ports", trap_call(io_at, (void *)(PORT_UNCLAIMED + 7ul)) == VECTOR_DB && (trap.dr6 & 15) == 4);
    check("and no more", trap_call(io_at, (void *)(PORT_UNCLAIMED + 8ul)) == NO_TRAP && trap_call(io_at, (void *)(PORT_UNCLAIMED + 3ul)) == NO_TRAP);
    write_dr7(0x400);
    write_cr4(read_cr4() & ~(word)CR4_DE);
    check("DR7 has no upper half", trap_call(bad_dr7, 0) == VECTOR_GP);
    write_dr6(0xffff0ff0);
    write_dr7(0x400 | DR7_GD);
    int vector = trap_call(touch_dr, 0);
    check("DR7.GD guards the debug registers", vector == VECTOR_DB && (trap.dr6 & DR6_BD));
    check("and is off in the handler", read_dr7() == 0x400);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
}

/* -- gates and stacks --------------------------------------------------------------------------------------------------- */
static volatile u64 handler_rsp, handler_flags;
__attribute__((naked, used)) static void keep_stack(void)
{
    asm volatile("mov %rsp, handler_rsp; pushf; popq handler_flags; int3");
}

struct gate { u16 low, selector; u8 ist, type; u16 middle; u32 high, zero; };
static void gate(int vector, void (*entry)(void), u8 type, u8 ist)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) pointer;
    asm volatile("sidt %0" : "=m"(pointer));
    u64 at = (word)entry;
    ((struct gate *)pointer.base)[vector] =
        (struct gate){ .low = at, .middle = at >> 16, .high = at >> 32, .selector = CODE64, .type = type, .ist = ist };
}

MAKE(software) { asm volatile("sti; int $0x40"); }
static void user_int40(void) { asm volatile("int $0x40"); }
static void user_int41(void) { asm volatile("int $0x41"); }
static void user_ud(void) { asm volatile("ud2"); }
MAKE(ring3_int40) { in_ring3(user_int40, 2); }
MAKE(ring3_int41) { in_ring3(user_int41, 2); }
MAKE(ring3_ud) { in_ring3(user_ud, 2); }
MAKE(ring3_ud_interruptible) { in_ring3(user_ud, 0x203002 & ~0x200000); }
MAKE(bad_stack) { asm volatile("mov %0, %%rsp; push %%rax" :: "r"(ABSENT + 0x800)); }
MAKE(absent_gate) { asm volatile("int $0x98"); }

static void gates(void)
{
    report_part("gate");
    irq_init();
    gate(0x40, keep_stack, 0x8e, 0);
    check("an interrupt gate", trap_call(software, 0) == VECTOR_BP);
    check("takes IF away", !(handler_flags & FLAG_IF));
    gate(0x40, keep_stack, 0x8f, 0);
    check("a trap gate", trap_call(software, 0) == VECTOR_BP);
    check("keeps it", handler_flags & FLAG_IF);
    asm volatile("cli");
    gate(0x40, keep_stack, 0x8e, 1);
    check("with IST", trap_call(software, 0) == VECTOR_BP);
    check("it is on that stack", handler_rsp == (word)own_stack + STACK - 40);
    gate(0x41, keep_stack, 0x8e, 0);
    check("ring 3 may not INT through a DPL 0 gate", trap_call(ring3_int41, 0) == VECTOR_GP && trap.error == 0x41 * 8 + 2);
    gate(0x40, keep_stack, 0xee, 0);
    check("it may through one of DPL 3", trap_call(ring3_int40, 0) == VECTOR_BP && trap.cs == CODE64);
    check("and is on RSP0", handler_rsp == (word)kernel_stack + STACK - 40);
    check("an exception comes from ring 3 as well", trap_call(ring3_ud, 0) == VECTOR_UD && trap.error == 0);
    check("with ring 3 in its frame", trap.cs == USER_CODE64 && trap.ss == USER_DATA && trap.rsp == USER_TOP && trap.rip == (word)user_ud);
    check("IOPL comes back", trap_call(ring3_ud_interruptible, 0) == VECTOR_UD && (trap.rflags & 0x3000) == 0x3000);
    gate(0x98, keep_stack, 0x0e, 0);
    check("a gate that is not present", trap_call(absent_gate, 0) == VECTOR_NP && trap.error == 0x98 * 8 + 2);
    gate(0x98, keep_stack, 0x82, 0);
    check("a gate of no known type", trap_call(absent_gate, 0) == VECTOR_GP && trap.error == 0x98 * 8 + 2);

    report_part("double-fault");
    trap_init();
    trap_gate(VECTOR_DF, 1, 1);
    check("a page fault on a bad stack", trap_call(bad_stack, 0) == VECTOR_DF && trap.error == 0);
    check("leaves the stack's address in CR2", (trap.cr2 & ~0xfffull) == ABSENT);
    trap_gate(VECTOR_DF, 1, 0);
}

/* -- IRET --------------------------------------------------------------------------------------------------------------- */
static void iret_to(u64 rip, u64 cs, u64 rflags, u64 rsp, u64 ss)
{
    asm volatile("pushq %0; pushq %1; pushq %2; pushq %3; pushq %4; iretq" :: "r"(ss), "r"(rsp), "r"(rflags), "r"(cs), "r"(rip) : "memory");
}
static void breaks(void) { asm volatile("int3"); }
#define HERE ((word)breaks)
#define RSP ((word)user_stack + STACK - 64)
MAKE(iret_same) { iret_to(HERE, CODE64, FLAG_DF | 2, RSP, DATA); }
MAKE(iret_user) { iret_to(HERE, USER_CODE64, 2, RSP, USER_DATA); }
MAKE(iret_null_ss) { iret_to(HERE, CODE64, 2, RSP, 0); }
MAKE(iret_user_null_ss) { iret_to(HERE, USER_CODE64, 2, RSP, 0); }
MAKE(iret_null_cs) { iret_to(HERE, 0, 2, RSP, DATA); }
MAKE(iret_data_cs) { iret_to(HERE, DATA, 2, RSP, DATA); }
MAKE(iret_wrong_ss) { iret_to(HERE, USER_CODE64, 2, RSP, DATA); }
MAKE(iret_non_canonical) { iret_to(NON_CANONICAL, CODE64, 2, RSP, DATA); }
MAKE(iret_nested) { asm volatile("pushf; orl $0x4000, (%rsp); popf"); iret_to(HERE, CODE64, 2, RSP, DATA); }
MAKE(iret_compatibility) { iret_to(HERE, CODE32, 2, RSP, DATA); }

static void irets(void)
{
    report_part("iret");
    check("to the same ring, with another stack", trap_call(iret_same, 0) == VECTOR_BP && trap.rsp == RSP && trap.rip == HERE + 1 && (trap.rflags & FLAG_DF));
    asm volatile("cld");
    check("to ring 3", trap_call(iret_user, 0) == VECTOR_BP && trap.cs == USER_CODE64 && trap.ss == USER_DATA);
    check("to compatibility mode", trap_call(iret_compatibility, 0) == VECTOR_BP && trap.cs == CODE32);
    check("ring 0 may have a null SS", trap_call(iret_null_ss, 0) == VECTOR_BP && trap.ss == 0);
    check("ring 3 may not", trap_call(iret_user_null_ss, 0) == VECTOR_GP && trap.error == 0);
    check("a null CS", trap_call(iret_null_cs, 0) == VECTOR_GP && trap.error == 0);
    check("a CS that is data", trap_call(iret_data_cs, 0) == VECTOR_GP && trap.error == DATA);
    check("an SS of another ring", trap_call(iret_wrong_ss, 0) == VECTOR_GP && trap.error == DATA);
    check("a non-canonical RIP", trap_call(iret_non_canonical, 0) == VECTOR_GP && trap.error == 0);
    check("NT in 64-bit mode", trap_call(iret_nested, 0) == VECTOR_GP && trap.error == 0);
}

/* -- SYSCALL, SYSENTER, call gates --------------------------------------------------------------------------------------- */
static volatile u64 seen_rcx, seen_r11, seen_rsp, seen_flags;
__attribute__((naked, used)) static void kernel_entry(void)
{
    asm volatile("mov %rcx, seen_rcx; mov %r11, seen_r11; mov %rsp, seen_rsp; mov $stray_top, %rsp; pushf; popq seen_flags; int3");
}
u8 stray_area[256] __attribute__((aligned(16)));
asm(".globl stray_top; .set stray_top, stray_area + 256");
__attribute__((naked)) static void user_syscall(void) { asm volatile("syscall; hlt"); }
__attribute__((naked)) static void user_sysenter(void) { asm volatile("sysenter; hlt"); }
MAKE(ring3_syscall) { in_ring3(user_syscall, 0x482); }
MAKE(ring3_sysenter) { in_ring3(user_sysenter, 2); }
MAKE(sysret_flags)
{
    asm volatile("mov %0, %%rsp; mov $0x10402, %%r11d; sysretq" :: "r"(RSP), "c"(HERE) : "memory", "r11");
}
static const struct { u64 offset; u16 selector; } __attribute__((packed)) through_gate = { 0, GATE | 3 };
static void user_call(void) { asm volatile("rex.W lcall *%0" :: "m"(through_gate)); }
MAKE(ring3_call) { in_ring3(user_call, 2); }

static void call_gate(u64 target, u8 type)
{
    table[GATE / 8] = (target & 0xffff) | (u64)CODE64 << 16 | (u64)type << 40 | (target >> 16 & 0xffff) << 48;
    table[GATE / 8 + 1] = target >> 32;
}

static void calls(void)
{
    report_part("syscall");
    u64 efer = rdmsr(MSR_EFER);
    wrmsr(MSR_EFER, efer & ~(u64)EFER_SCE);
    check("#UD with EFER.SCE off", trap_call(ring3_syscall, 0) == VECTOR_UD);
    wrmsr(MSR_EFER, efer | EFER_SCE);
    wrmsr(MSR_STAR, 0x1bull << 48 | 8ull << 32);
    wrmsr(MSR_LSTAR, (word)kernel_entry);
    wrmsr(MSR_SFMASK, FLAG_DF);
    check("to ring 0", trap_call(ring3_syscall, 0) == VECTOR_BP && trap.cs == CODE64 && trap.ss == DATA);
    check("RCX has the next RIP", seen_rcx == (word)user_syscall + 2);
    check("R11 has RFLAGS", (seen_r11 & ~0x10000ull) == 0x482);
    check("SFMASK clears", !(seen_flags & FLAG_DF));
    check("RSP stays", seen_rsp == USER_TOP);
    check("SYSRET to ring 3", trap_call(sysret_flags, 0) == VECTOR_BP && trap.cs == USER_CODE64 && trap.ss == USER_DATA && trap.rip == HERE + 1);
    check("with RFLAGS of R11, without RF", (trap.rflags & (FLAG_DF | FLAG_RF)) == FLAG_DF);

    report_part("sysenter");
    wrmsr(MSR_SYSENTER_CS, CODE64);
    wrmsr(MSR_SYSENTER_EIP, (word)kernel_entry);
    wrmsr(MSR_SYSENTER_ESP, 0x123450);
    int vector = trap_call(ring3_sysenter, 0);
    if (cpuid(0, 0).ecx == 0x444d4163)         /* "cAMD": not in long mode */
        check("in 64-bit mode: the vendor's way", vector == VECTOR_UD);
    else
        check("in 64-bit mode: the vendor's way", vector == VECTOR_BP && trap.cs == CODE64 && seen_rsp == 0x123450);

    report_part("call-gate");
    call_gate((word)kernel_entry, 0xec);
    check("from ring 3 to ring 0", trap_call(ring3_call, 0) == VECTOR_BP && trap.cs == CODE64);
    check("on RSP0", seen_rsp == (word)kernel_stack + STACK - 32);
    call_gate((word)kernel_entry, 0x8c);
    check("not through one of DPL 0", trap_call(ring3_call, 0) == VECTOR_GP && trap.error == GATE);
    call_gate((word)kernel_entry, 0x6c);
    check("nor one that is not present", trap_call(ring3_call, 0) == VECTOR_NP && trap.error == GATE);
    call_gate(NON_CANONICAL, 0xec);
    check("nor to a non-canonical address", trap_call(ring3_call, 0) == VECTOR_GP && trap.error == 0);
}

int main(void)
{
    make_tables();
    irq_init();
    single_steps();
    breakpoints();
    gates();
    trap_init();
    irets();
    calls();
    return report_end("exceptions") ? 1 : 0;
}
