/* tasks: what the processor's own task switches promise: JMP, CALL and IRET to a TSS and through task gates, interrupts and exceptions by
 * task gates in the IDT, what is kept and loaded, the busy bit, the link and NT, CR3, the LDT, TSS of 16 bits, and what is refused.
 *
 * Each line of the report is one promise of a manual; it is the same on a bare PC and under a hypervisor.
 * Under VMX each of these switches is an exit, whatever the hypervisor wants.
 * Sources: Intel SDM Vol. 3A, "Task Management"; AMD64 APM Vol. 2, "Task Management".
 */
#include "runtime.h"
#include "report.h"
#include "trap32.h"

enum { TSS_FREE = 9, TSS_BUSY = 11, TSS_FREE_16 = 1, TASK_GATE = 5, LDT = 2, PRESENT = 0x80, DPL3 = 0x60, FLAG_NT = 0x4000, G = 8, B = 4, FLAT = 0xfffff,
       STACK = 1024, CR4_PSE_ON = 1 << 4 };
#define NAKED __attribute__((naked, used)) static
#define CODE_OF(name, text) NAKED void name(void) { asm volatile(text); }
#define WINDOW ((volatile u32 *)0x80000000)

static struct tss32 other;

struct tss16 { u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt; };
static struct tss16 small;
static u8 stacks[2][STACK] __attribute__((aligned(16)));
static u64 local[4];
static u32 directories[2][1024] __attribute__((aligned(4096)));
u32 kept[16], seen;
u16 bad_selector;
#define TOP(n) ((word)stacks[n] + STACK - 64)

/* What a task finds when it starts: EAX ECX EDX EBX ESP EBP ESI EDI, EFLAGS, TR, LDTR, CR0, what is on its stack, CR3. */
#define KEEP "mov %eax, kept; mov %ecx, kept + 4; mov %edx, kept + 8; mov %ebx, kept + 12; mov %esp, kept + 16; mov %ebp, kept + 20;" \
             "mov %esi, kept + 24; mov %edi, kept + 28; pushf; popl kept + 32; xor %eax, %eax; str %ax; mov %eax, kept + 36; sldt %ax; mov %eax, kept + 40;" \
             "mov %cr0, %eax; mov %eax, kept + 44; mov (%esp), %eax; mov %eax, kept + 48; mov %cr3, %eax; mov %eax, kept + 52; clts; "
CODE_OF(arrive, KEEP "int3")
CODE_OF(arrive_and_return, KEEP "cpuid; iret; behind_iret: int3")
CODE_OF(arrive_and_return_error, KEEP "add $4, %esp; iret; int3")
CODE_OF(breaks, "int3")
#define OLD "mov $1, %eax; mov $2, %ecx; mov $3, %edx; mov $4, %ebx; mov $6, %ebp; mov $7, %esi; mov $8, %edi; stc; "
CODE_OF(jump, OLD "ljmp $0x50, $0; behind_jump: int3")
CODE_OF(call_task, OLD "lcall $0x50, $0; behind_call: mov %eax, seen; int3")
CODE_OF(jump_gate, OLD "ljmp $0x40, $0; int3")
CODE_OF(call_gate, OLD "lcall $0x43, $0; int3")
CODE_OF(int40, OLD "int $0x40; behind_int: mov %esi, seen; int3")
CODE_OF(general_protection, OLD "fault_gp: mov bad_selector, %ds; int3")
CODE_OF(undefined, OLD "fault_ud: ud2; int3")
CODE_OF(nested_return, "pushf; orl $0x4000, (%esp); popf; iret")

CODE_OF(arrive_local, KEEP "mov $0xf5, %eax; mov %eax, %fs:0; int3")
CODE_OF(arrive_paged, KEEP "mov 0x80001000, %eax; mov %eax, seen; int3")
CODE_OF(user_arrive, "int3")
#define LABEL(name) ({ extern u8 name[]; (word)name; })

static void ready(struct tss32 *tss, int selector, void (*code)(void), int stack)
{
    memset(tss, 0, sizeof *tss);
    tss->eip = (word)code;
    tss->eflags = 2 | 0x400;
    tss->eax = 0xa, tss->ecx = 0xc, tss->edx = 0xd, tss->ebx = 0xb, tss->ebp = 0xbb, tss->esi = 0x51, tss->edi = 0xd1;
    tss->esp = TOP(stack);
    tss->cs = CODE, tss->ss = tss->ds = tss->es = tss->fs = DATA, tss->gs = USER_DATA;
    tss->esp0 = tss32.esp0, tss->ss0 = DATA;
    tss->cr3 = read_cr3();
    gdt32[selector / 8] = descriptor((word)tss, sizeof *tss - 1, PRESENT | TSS_FREE, 0);
    memset(kept, 0, sizeof kept);
}

/* A fresh pair of tasks, then `code` in the first one. */
static int from_fresh(void (*code)(void), void (*there)(void))
{
    memset(&tss32, 0, 104);
    tss32.esp0 = (word)ring_stack[0] + 4096;
    tss32.ss0 = DATA;
    asm volatile("lldt %w0" :: "r"(0));
    load_task(103);
    if (there)
        ready(&other, OTHER_TASK, there, 0);
    seen = 0;
    int vector = in_ring(0, code);
    asm volatile("clts; cld");
    return vector;
}
static u32 type(int selector) { return gdt32[selector / 8] >> 40 & 15; }
static int loaded(void)
{
    return kept[0] == 0xa && kept[1] == 0xc && kept[2] == 0xd && kept[3] == 0xb && kept[4] == TOP(0) && kept[5] == 0xbb && kept[6] == 0x51 && kept[7] == 0xd1;
}
static int saved(u32 eip)
{
    return tss32.eax == 1 && tss32.ecx == 2 && tss32.edx == 3 && tss32.ebx == 4 && tss32.ebp == 6 && tss32.esi == 7 && tss32.edi == 8 && tss32.eip == eip
        && (u16)tss32.cs == CODE && (u16)tss32.ss == DATA && (u16)tss32.ds == DATA && (u16)tss32.es == DATA;
}

static void switches(void)
{
    report_part("jmp");
    check("to another task", from_fresh(jump, arrive) == VECTOR_BP && loaded());
    check("TR is that one", kept[9] == OTHER_TASK);
    check("it is busy, the old one is free", type(OTHER_TASK) == TSS_BUSY && type(TASK) == TSS_FREE);
    check("the old state is kept", saved(LABEL(behind_jump)));
    check("the old EFLAGS too", tss32.eflags & 1);
    check("EFLAGS is the new one, without NT", (kept[8] & (FLAG_NT | 0x401)) == 0x400);
    check("CR0.TS is set", kept[11] & CR0_TS);
    check("through a task gate", (gdt32[SECOND / 8] = gate(OTHER_TASK, 0, PRESENT | TASK_GATE), from_fresh(jump_gate, arrive)) == VECTOR_BP && loaded() && kept[9] == OTHER_TASK);

    report_part("call");
    check("nests", from_fresh(call_task, arrive) == VECTOR_BP && loaded() && (kept[8] & FLAG_NT) && (u16)other.link == TASK);
    check("both are busy", type(OTHER_TASK) == TSS_BUSY && type(TASK) == TSS_BUSY);
    check("IRET returns", from_fresh(call_task, arrive_and_return) == VECTOR_BP && loaded() && seen == 1);
    check("and the inner task is free again", type(OTHER_TASK) == TSS_FREE && type(TASK) == TSS_BUSY && other.eip == LABEL(behind_iret) && !(other.eflags & FLAG_NT));
    check("through a task gate", (gdt32[SECOND / 8] = gate(OTHER_TASK, 0, PRESENT | TASK_GATE | DPL3), from_fresh(call_gate, arrive_and_return)) == VECTOR_BP && loaded());
    check("with the old EFLAGS", trap.eflags & 1);

    report_part("interrupt");
    idt32[64] = gate(OTHER_TASK, 0, PRESENT | TASK_GATE | DPL3);
    check("INT by a task gate, and back", from_fresh(int40, arrive_and_return) == VECTOR_BP && loaded() && seen == 7 && saved(LABEL(behind_int)) && (kept[8] & FLAG_NT));
    u64 gp_gate = idt32[VECTOR_GP], ud_gate = idt32[VECTOR_UD], df_gate = idt32[VECTOR_DF];
    idt32[VECTOR_UD] = gate(OTHER_TASK, 0, PRESENT | TASK_GATE);
    check("an exception", from_fresh(undefined, arrive) == VECTOR_BP && loaded() && saved(LABEL(fault_ud)));
    idt32[VECTOR_UD] = ud_gate;
    idt32[VECTOR_GP] = gate(OTHER_TASK, 0, PRESENT | TASK_GATE);
    bad_selector = 0x200;
    from_fresh(general_protection, arrive);
    check("its error code is on the new stack", kept[12] == 0x200 && kept[4] == TOP(0) - 4 && tss32.eip == LABEL(fault_gp));
    idt32[VECTOR_GP] = gp_gate;
    idt32[VECTOR_GP] = gate(CODE, (word)breaks, 0);            /* not present: a double fault */
    idt32[VECTOR_DF] = gate(OTHER_TASK, 0, PRESENT | TASK_GATE);
    from_fresh(general_protection, arrive);
    check("a double fault too", kept[12] == 0 && kept[4] == TOP(0) - 4 && tss32.eip == LABEL(fault_gp));
    idt32[VECTOR_GP] = gp_gate;
    idt32[VECTOR_DF] = df_gate;
}

static void contents(void)
{
    report_part("state");
    gdt32[LOCAL / 8] = descriptor((word)local, sizeof local - 1, PRESENT | LDT, 0);
    local[1] = descriptor((word)&seen, 3, PRESENT | 0x12, B);
    from_fresh(breaks, arrive_local);
    other.ldt = LOCAL;
    other.fs = 12;
    check("the LDT, and a segment of it", in_ring(0, jump) == VECTOR_BP && kept[10] == LOCAL && seen == 0xf5);
    check("which is accessed now", local[1] >> 40 & 1);
    asm volatile("clts; cld");

    for (u32 n = 0; n < 2; n++) {
        directories[n][0] = PAGE_PS | PAGE_P | PAGE_W;
        directories[n][512] = n << 22 | PAGE_PS | PAGE_P | PAGE_W;
    }
    *(volatile u32 *)0x1000 = 0x1111;
    *(volatile u32 *)0x401000 = 0x2222;
    write_cr4(read_cr4() | CR4_PSE_ON);
    write_cr3((word)directories[0]);
    write_cr0(read_cr0() | CR0_PG);
    from_fresh(breaks, arrive_paged);
    other.cr3 = (word)directories[1];
    check("CR3", in_ring(0, jump) == VECTOR_BP && kept[13] == (word)directories[1] && seen == 0x2222 && WINDOW[0x400] == 0x2222);
    write_cr0(read_cr0() & ~(CR0_PG | CR0_TS));

    from_fresh(breaks, 0);
    memset(&small, 0, sizeof small);
    small.cs = TEST, small.ss = small.ds = small.es = DATA, small.sp = 0x800, small.flags = 2, small.ax = 0xa16, small.ip = 0;
    gdt32[TEST / 8] = descriptor((word)breaks, 0xffff, PRESENT | 0x1a, B);
    gdt32[OTHER_TASK / 8] = descriptor((word)&small, sizeof small - 1, PRESENT | TSS_FREE_16, 0);
    check("a TSS of 16 bits", in_ring(0, jump) == VECTOR_BP && trap.cs == TEST && trap.eip == 1 && type(OTHER_TASK) == 3);
    asm volatile("clts");

    from_fresh(breaks, user_arrive);
    other.cs = USER_CODE, other.ss = other.ds = other.es = USER_DATA, other.fs = 0;
    check("a task of ring 3", in_ring(0, jump) == VECTOR_BP && trap.cs == USER_CODE && trap.ss == USER_DATA && trap.esp == TOP(0));
    asm volatile("clts");
}

static int refused(void (*code)(void), u32 access, u32 limit, int vector, u32 error)
{
    from_fresh(breaks, arrive);
    gdt32[OTHER_TASK / 8] = descriptor((word)&other, limit, access, 0);
    int got = in_ring(0, code);
    return got == vector && trap.error == error && (gdt32[OTHER_TASK / 8] >> 40 & 0xff) == access && type(TASK) == TSS_BUSY;
}

static void refusals(void)
{
    report_part("refused");
    check("a busy task", refused(jump, PRESENT | TSS_BUSY, 103, VECTOR_GP, OTHER_TASK) && refused(call_task, PRESENT | TSS_BUSY, 103, VECTOR_GP, OTHER_TASK));
    check("one that is not present", refused(jump, TSS_FREE, 103, VECTOR_NP, OTHER_TASK));
    check("one that is too small", refused(jump, PRESENT | TSS_FREE, 102, VECTOR_TS, OTHER_TASK));
    gdt32[SECOND / 8] = gate(OTHER_TASK, 0, TASK_GATE);
    check("a gate that is not present", refused(jump_gate, PRESENT | TSS_FREE, 103, VECTOR_NP, SECOND));
    gdt32[SECOND / 8] = gate(DATA, 0, PRESENT | TASK_GATE);
    check("a gate to something else", refused(jump_gate, PRESENT | TSS_FREE, 103, VECTOR_GP, DATA));
    from_fresh(breaks, arrive);
    tss32.link = OTHER_TASK;
    check("IRET to a task that is not busy", in_ring(0, nested_return) == VECTOR_TS && trap.error == OTHER_TASK);
    check("from ring 3, with DPL 0", (from_fresh(breaks, arrive), in_ring(3, jump)) == VECTOR_GP && trap.error == OTHER_TASK);

    /* From here on the fault is the new task's. */
    from_fresh(breaks, arrive);
    other.cs = DATA;
    check("a CS that is data: #TS in the new task", in_ring(0, jump) == VECTOR_TS && trap.error == DATA && type(OTHER_TASK) == TSS_BUSY && type(TASK) == TSS_FREE);
    asm volatile("clts");
    from_fresh(breaks, arrive);
    other.ds = CODE | 0x100;
    check("a DS outside the GDT", in_ring(0, jump) == VECTOR_TS && trap.error == (CODE | 0x100));
    asm volatile("clts");
    from_fresh(breaks, arrive);
    other.ldt = DATA;
    check("an LDT that is none", in_ring(0, jump) == VECTOR_TS && trap.error == DATA);
    asm volatile("clts");
}

int main(void)
{
    trap_init();
    write_cr0(read_cr0() & ~(word)CR0_TS);
    switches();
    contents();
    refusals();
    return report_end("tasks") ? 1 : 0;
}
