/* protected: what 32-bit protected mode promises, without paging: each exception that it has more than long mode, error codes, stacks,
 * gates of 16 and 32 bits, the segments by sweeps (descriptors says how), I/O permission, SYSENTER, virtual-8086 mode.
 * (Task switches are tasks', paging is paging32's.)
 *
 * Each line of the report is one promise of a manual; it is the same on a bare PC and under a hypervisor.
 * QEMU's TCG deviates: no limit, no kind of access, no alignment is checked when memory is accessed.
 * Sources: Intel SDM Vol. 3A, "Protection", "Interrupt and Exception Handling", Vol. 3B, "8086 Emulation"; Vol. 2.
 */
#include "runtime.h"
#include "report.h"
#include "trap32.h"

enum { S = 0x10, IS_CODE = 8, CONFORMING = 4, READABLE = 2, WRITABLE = 2, DOWN = 4, PRESENT = 0x80, A = 1, DPL3 = 0x60,
       G = 8, B = 4, FLAT = 0xfffff, OUTSIDE = 0x100,
       LDT = 2, TSS_FREE = 9, INTERRUPT_GATE = 0xe, TRAP_GATE = 0xf, CALL_GATE = 0xc, INTERRUPT_GATE_16 = 6, CALL_GATE_16 = 4,
       FLAG_IF = 0x200, FLAG_IOPL = 0x3000, FLAG_NT = 0x4000, FLAG_RF = 0x10000, FLAG_VM = 0x20000, FLAG_AC = 0x40000,
       DR6_BS = 1 << 14, FREE_PORT = PORT_UNCLAIMED,
       MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP = 0x175, MSR_SYSENTER_EIP = 0x176 };
#define NAKED __attribute__((naked, used)) static
#define CODE_OF(name, text) NAKED void name(void) { asm volatile(text); }
#define RING3_TOP ((word)ring_stack[1] + 4096 - 64)
#define RING0_TOP ((word)ring_stack[0] + 4096)

static volatile u64 *const test = &gdt32[TEST / 8];
static volatile u64 *const second = &gdt32[SECOND / 8];
static u32 dpl_of(u32 access) { return access >> 5 & 3; }
static u32 max(u32 a, u32 b) { return a > b ? a : b; }
u32 place, seen, seen_too;

/* One line for a sweep: what it met first is on a line of its own. */
static u32 met, met_access, met_selector;
static void begin(void) { met = 0; }
static void expect(int right, u32 access, u32 selector)
{
    if (!right && !met++) {
        met_access = access;
        met_selector = selector;
    }
}
static void swept(const char *what)
{
    check(what, !met);
    if (met)
        print("%s: first access byte %x, selector %x, of %u\n", what, met_access, met_selector, met);
}

/* -- exceptions --------------------------------------------------------------------------------------------------------- */
CODE_OF(divide, "xor %eax, %eax; cltd; mov %eax, %ecx; fault_de: div %ecx")
CODE_OF(step, "pushf; orl $0x100, (%esp); popf; nop; behind_step: nop; int3")
CODE_OF(int1, ".byte 0xf1; behind_int1: nop")
CODE_OF(breaks, "int3")
CODE_OF(breaks_long, ".byte 0xcd, 3; behind_long: nop")
CODE_OF(into, "mov $0x7fffffff, %eax; inc %eax; into; behind_into: nop; ud2")
CODE_OF(into_not, "xor %eax, %eax; into; int3")
CODE_OF(bound_in, "mov $3, %eax; bound %eax, bounds; mov $5, %eax; bound %eax, bounds; int3")
CODE_OF(bound_below, "mov $2, %eax; fault_below: bound %eax, bounds; ud2")
CODE_OF(bound_above, "mov $6, %eax; fault_above: bound %eax, bounds; ud2")
CODE_OF(bound_16, "mov $-3, %eax; bound %ax, bounds_16; mov $7, %eax; bound %ax, bounds_16; ud2")
int bounds[2] __attribute__((used)) = { 3, 5 };
short bounds_16[2] __attribute__((used)) = { -4, 6 };
CODE_OF(undefined, "fault_ud: ud2")
CODE_OF(lock_register, ".byte 0xf0, 0x40; int3")                 /* LOCK INC EAX */
CODE_OF(no_fpu, "mov %cr0, %eax; or $8, %eax; mov %eax, %cr0; fnop")
CODE_OF(misaligned, "pushf; orl $0x40000, (%esp); popf; mov place, %eax; mov (%eax), %ecx; int3")
CODE_OF(long_instruction, ".rept 14; .byte 0x66; .endr; nop; nop; int3")       /* 15 bytes */
CODE_OF(longer_instruction, ".rept 15; .byte 0x66; .endr; nop; int3")
CODE_OF(aam_0, ".byte 0xd4, 0; int3")
CODE_OF(bcd, "mov $0x0f, %al; clc; daa; movzx %al, %ecx; mov %ecx, seen; mov $57, %al; aam; movzx %ax, %ecx; mov %ecx, seen_too; int3")
CODE_OF(privileged_hlt, "hlt") CODE_OF(privileged_cr, "mov %cr0, %eax") CODE_OF(privileged_dr, "mov %dr0, %eax")
CODE_OF(privileged_clts, "clts") CODE_OF(privileged_invlpg, "invlpg place") CODE_OF(privileged_wbinvd, "wbinvd")
CODE_OF(privileged_msr, "mov $0x10, %ecx; rdmsr") CODE_OF(privileged_lmsw, "lmsw place") CODE_OF(privileged_cli, "cli")
CODE_OF(privileged_sti, "sti") CODE_OF(privileged_lldt, "lldt place") CODE_OF(privileged_ltr, "ltr place") CODE_OF(privileged_lgdt, "lgdt place")
static void (*const privileged[])(void) = {
    privileged_hlt, privileged_cr, privileged_dr, privileged_clts, privileged_invlpg, privileged_wbinvd, privileged_msr, privileged_lmsw,
    privileged_cli, privileged_sti, privileged_lldt, privileged_ltr, privileged_lgdt };

#define AT(label) ({ extern u8 label[]; trap.eip == (word)label; })
static int ends(u32 cpl, void (*code)(void), int vector, u32 error) { return in_ring(cpl, code) == vector && trap.error == error; }
static int both(void (*code)(void), int vector) { return ends(0, code, vector, 0) && ends(3, code, vector, 0); }

static void exceptions(void)
{
    report_part("exception");
    check("#DE", both(divide, VECTOR_DE) && AT(fault_de));
    check("#DE of AAM", both(aam_0, VECTOR_DE));
    write_dr6(0xffff0ff0);
    check("a single step", both(step, VECTOR_DB) && AT(behind_step) && (trap.dr6 & DR6_BS));
    check("INT3", both(breaks, VECTOR_BP) && trap.eip == (word)breaks + 1);
    check("INT 3, in two bytes", both(breaks_long, VECTOR_BP) && AT(behind_long));
    check("INTO", both(into, VECTOR_OF) && AT(behind_into));
    check("does nothing without OF", both(into_not, VECTOR_BP));
    check("BOUND lets in what is within", both(bound_in, VECTOR_BP));
    check("#BR below", both(bound_below, VECTOR_BR) && AT(fault_below));
    check("#BR above", both(bound_above, VECTOR_BR) && AT(fault_above));
    check("BOUND of 16 bits", both(bound_16, VECTOR_BR));
    check("#UD", both(undefined, VECTOR_UD) && AT(fault_ud));
    check("#UD of LOCK", both(lock_register, VECTOR_UD));
    word cr0 = read_cr0();
    check("#NM", ends(0, no_fpu, VECTOR_NM, 0));
    write_cr0(cr0 | CR0_AM);
    place = (word)&place + 1;
    check("#AC in ring 3", ends(3, misaligned, VECTOR_AC, 0));
    check("and not in ring 0", ends(0, misaligned, VECTOR_BP, 0));
    write_cr0(cr0);
    check("nor without CR0.AM", ends(3, misaligned, VECTOR_BP, 0));
    check("an instruction of 15 bytes", both(long_instruction, VECTOR_BP));
    check("and none of 16", both(longer_instruction, VECTOR_GP));
    check("DAA and AAM", both(bcd, VECTOR_BP) && seen == 0x15 && seen_too == 0x0507);
    int right = 1;
    for (u32 n = 0; n < sizeof privileged / sizeof *privileged; n++)
        right &= ends(3, privileged[n], VECTOR_GP, 0);
    check("what ring 3 may not", right);
}

/* -- gates and stacks ------------------------------------------------------------------------------------------------------- */
u32 seen_frame[8], seen_esp, seen_flags, seen_ss;
#define KEEP "mov %esp, %ss:seen_esp; pushf; popl %ss:seen_flags; mov %ss, %eax; mov %eax, %ss:seen_ss; "
CODE_OF(keep, KEEP "int3")
CODE_OF(int40, "int $0x40; behind_int40: nop") CODE_OF(int40_sti, "sti; int $0x40") CODE_OF(int40_behind, "int $0x41")
CODE_OF(call_second, "push $0x1111; push $0x2222; lcall $0x40, $0; int3; behind_call: nop")
CODE_OF(return_8, "mov %esp, %ss:seen_esp; mov 8(%esp), %eax; mov %eax, %ss:seen; mov 12(%esp), %eax; mov %eax, %ss:seen_too; lret $8")
CODE_OF(back_and_look, "push $0x1111; push $0x2222; mov %esp, %esi; lcall $0x43, $0; sub %esp, %esi; mov %esi, seen_flags; mov %cs, seen_frame; int3")
CODE_OF(iret_from_40, "int $0x40; mov %esp, %eax; int3")
CODE_OF(returns, "iret")
CODE_OF(iret_16, "pushw $2; pushw $0x38; pushw $0; .byte 0x66; iret")
CODE_OF(nested, "pushf; orl $0x4000, (%esp); popf; int3")

static void gates(void)
{
    report_part("gate");
    idt32[64] = gate(CODE, (word)keep, PRESENT | INTERRUPT_GATE | DPL3);
    check("an interrupt gate takes IF away", in_ring(0, int40_sti) == VECTOR_BP && !(seen_flags & FLAG_IF));
    idt32[64] = gate(CODE, (word)keep, PRESENT | TRAP_GATE | DPL3);
    check("a trap gate keeps it", in_ring(0, int40_sti) == VECTOR_BP && (seen_flags & FLAG_IF));
    asm volatile("cli");
    check("from ring 3, on SS0:ESP0", in_ring(3, int40) == VECTOR_BP && seen_esp == RING0_TOP - 20 && seen_ss == DATA);
    u32 *frame = (u32 *)seen_esp;
    check("with ring 3's frame", ({ extern u8 behind_int40[]; frame[0] == (word)behind_int40; }) && (u16)frame[1] == USER_CODE && (frame[2] & ~0x8d5u) == 2
          && frame[3] == RING3_TOP && (u16)frame[4] == USER_DATA);
    idt32[64] = gate(CODE, (word)returns, PRESENT | INTERRUPT_GATE | DPL3);
    check("IRET leads back", in_ring(3, iret_from_40) == VECTOR_BP && trap.cs == USER_CODE && trap.ss == USER_DATA && trap.esp == RING3_TOP);
    idt32[64] = gate(CODE, (word)keep, PRESENT | INTERRUPT_GATE);
    check("DPL 0 is not for INT in ring 3", ends(3, int40, VECTOR_GP, 0x40 * 8 + 2) && in_ring(0, int40) == VECTOR_BP);
    idt32[64] = gate(CODE, (word)keep, INTERRUPT_GATE | DPL3);
    check("one that is not present", ends(0, int40, VECTOR_NP, 0x40 * 8 + 2) && ends(3, int40, VECTOR_NP, 0x40 * 8 + 2));
    int right = 1;
    for (u32 type = 0; type < 32; type++) {
        idt32[64] = gate(CODE, (word)keep, PRESENT | DPL3 | type);
        if (type != 5 && type != 6 && type != 7 && type != 14 && type != 15)
            right &= ends(0, int40, VECTOR_GP, 0x40 * 8 + 2);
    }
    check("one of no known type", right);
    check("a vector behind the IDT", ends(0, int40_behind, VECTOR_GP, 0x41 * 8 + 2));

    u16 *small = (u16 *)(RING0_TOP - 10);
    *test = descriptor((word)keep, 0xffff, PRESENT | S | IS_CODE | READABLE, B);
    idt32[64] = gate(TEST, 0, PRESENT | INTERRUPT_GATE_16 | DPL3);
    check("one of 16 bits pushes words", in_ring(3, int40) == VECTOR_BP && seen_esp == RING0_TOP - 10 && small[1] == USER_CODE && small[3] == (u16)RING3_TOP && small[4] == USER_DATA);
    *test = descriptor((word)breaks, 0xffff, PRESENT | S | IS_CODE | READABLE, B);
    check("IRET of 16 bits pops them", in_ring(0, iret_16) == VECTOR_BP && trap.cs == TEST && trap.eip == 1);
}

/* SS0 is needed for the exception about itself too, so that exception comes in ring 0: the fault is raised by a call to ring 1. */
static void inner_stacks(void)
{
    static const struct { const char *what; u32 ss1, access; int vector; u32 error; } rows[] = {
        { "of ring 1", TEST | 1, PRESENT | 0x20 | S | WRITABLE, VECTOR_BP, 0 },
        { "null is #TS", 0, 0, VECTOR_TS, 0 },
        { "outside the GDT is #TS", OUTSIDE | 1, 0, VECTOR_TS, OUTSIDE },
        { "of another RPL is #TS", TEST, PRESENT | 0x20 | S | WRITABLE, VECTOR_TS, TEST },
        { "of another DPL is #TS", TEST | 1, PRESENT | 0x40 | S | WRITABLE, VECTOR_TS, TEST },
        { "read-only is #TS", TEST | 1, PRESENT | 0x20 | S, VECTOR_TS, TEST },
        { "code is #TS", TEST | 1, PRESENT | 0x20 | S | IS_CODE | READABLE, VECTOR_TS, TEST },
        { "a system segment is #TS", TEST | 1, PRESENT | 0x20 | LDT, VECTOR_TS, TEST },
        { "not present is #SS", TEST | 1, 0x20 | S | WRITABLE, VECTOR_SS, TEST } };
    static u8 stack1[256] __attribute__((aligned(16)));
    report_part("inner-stack");
    *second = descriptor(0, FLAT, PRESENT | 0x20 | S | IS_CODE | READABLE, G | B);
    idt32[64] = gate(SECOND, (word)breaks, PRESENT | INTERRUPT_GATE | DPL3);
    tss32.esp1 = (word)stack1 + sizeof stack1;
    for (u32 n = 0; n < sizeof rows / sizeof *rows; n++) {
        *test = descriptor(0, FLAT, rows[n].access, G | B);
        tss32.ss1 = rows[n].ss1;
        check(rows[n].what, ends(3, int40, rows[n].vector, rows[n].error) && (rows[n].vector != VECTOR_BP ||
              (trap.cs == (SECOND | 1) && trap.ss == (TEST | 1) && trap.esp == (word)stack1 + sizeof stack1 - 20)));
    }
    tss32.ss1 = TEST | 1;
    *test = descriptor((word)stack1, 15, PRESENT | 0x20 | S | WRITABLE, B);
    tss32.esp1 = 16;
    check("without room is #SS", ends(3, int40, VECTOR_SS, TEST));
    load_task(0x10);
    check("outside the TSS is #TS", ends(3, int40, VECTOR_TS, TASK));
    load_task(sizeof tss32 - 1);
}

static void call_gates(void)
{
    report_part("call-gate");
    *second = gate(CODE, (word)return_8, PRESENT | CALL_GATE | DPL3) | 2ull << 32;
    check("to ring 0", in_ring(3, call_second) == VECTOR_BP && trap.cs == USER_CODE && AT(behind_call));
    check("copies parameters", seen == 0x2222 && seen_too == 0x1111 && seen_esp == RING0_TOP - 24);
    check("RET n frees those of both stacks", in_ring(3, back_and_look) == VECTOR_BP && (int)seen_flags == -8 && (u16)seen_frame[0] == USER_CODE && trap.esp == RING3_TOP);
    check("from ring 0, on the same stack", in_ring(0, back_and_look) == VECTOR_BP && (int)seen_flags == -8 && (u16)seen_frame[0] == CODE);
    *second = gate(CODE, (word)keep, PRESENT | CALL_GATE);
    check("not through one of DPL 0", ends(3, call_second, VECTOR_GP, SECOND));
    *second = gate(CODE, (word)keep, CALL_GATE | DPL3);
    check("nor one that is not present", ends(3, call_second, VECTOR_NP, SECOND));
    *test = descriptor((word)keep, 0xffff, PRESENT | S | IS_CODE | READABLE, B);
    *second = gate(TEST, 0, PRESENT | CALL_GATE_16 | DPL3);
    check("one of 16 bits", in_ring(3, call_second) == VECTOR_BP && seen_esp == RING0_TOP - 8);
}

/* -- IRET and far RET ---------------------------------------------------------------------------------------------------------- */
u32 return_frame[5];                           /* EIP, CS, EFLAGS, ESP, SS */
#define PUSH(n) "pushl return_frame + 4 *" #n "; "
CODE_OF(iret_5, PUSH(4) PUSH(3) PUSH(2) PUSH(1) PUSH(0) "iret")
CODE_OF(lret_4, PUSH(4) PUSH(3) PUSH(1) PUSH(0) "lret")
CODE_OF(iret_with_segments, "mov $0x10, %eax; mov %eax, %ds; mov %eax, %gs; mov $0x23, %eax; mov %eax, %es; jmp iret_5")
CODE_OF(keep_segments, "mov %ds, %eax; mov %gs, %ebx; mov %es, %ecx; mov %ecx, %ds; mov %eax, seen; mov %ebx, seen_too; int3")
static void returning(u32 eip, u32 cs, u32 eflags, u32 ss)
{
    u32 frame[5] = { eip, cs, eflags, RING3_TOP - 512, ss };
    memcpy(return_frame, frame, sizeof frame);
}

static void sweep_return(const char *what, void (*code)(void), u32 cpl)
{
    begin();
    for (u32 access = 0; access < 256; access++)
        for (u32 rpl = 0; rpl < 4; rpl++) {
            u32 dpl = dpl_of(access), error = TEST;
            int wanted = VECTOR_BP;
            *test = descriptor(0, FLAT, access, G | B);
            returning((word)breaks, TEST | rpl, 2, rpl == 3 ? USER_DATA : DATA);
            if ((access & (S | IS_CODE)) != (S | IS_CODE) || rpl < cpl || (access & CONFORMING ? dpl > rpl : dpl != rpl))
                wanted = VECTOR_GP;
            else if (!(access & PRESENT))
                wanted = VECTOR_NP;
            else if (rpl == 1 || rpl == 2) {       /* there is no stack segment of that ring */
                wanted = VECTOR_GP;
                error = DATA;
            }
            int vector = in_ring(cpl, code);
            expect(vector == wanted && (vector == VECTOR_BP ? trap.cs == (TEST | rpl) : trap.error == error), access, TEST | rpl);
        }
    swept(what);
}

static void returns_part(void)
{
    report_part("return");
    sweep_return("IRET", iret_5, 0);
    sweep_return("IRET, from ring 3", iret_5, 3);
    sweep_return("RET", lret_4, 0);
    sweep_return("RET, from ring 3", lret_4, 3);
    returning((word)keep_segments, USER_CODE, 2, USER_DATA);
    check("to ring 3 empties what ring 3 may not have", in_ring(0, iret_with_segments) == VECTOR_BP && (u16)seen == 0 && (u16)seen_too == 0);
    returning((word)breaks, CODE, FLAG_IOPL | FLAG_AC | 2, 0);
    check("IRET loads EFLAGS", in_ring(0, iret_5) == VECTOR_BP && (trap.eflags & (FLAG_IOPL | FLAG_AC)) == (FLAG_IOPL | FLAG_AC));
    returning((word)breaks, USER_CODE, FLAG_IOPL | FLAG_IF | 2, USER_DATA);
    check("but neither IOPL nor IF in ring 3", in_ring(3, iret_5) == VECTOR_BP && (trap.eflags & (FLAG_IOPL | FLAG_IF)) == 0);
    returning((word)breaks, USER_CODE, 2, 0);
    check("a null SS", ends(0, iret_5, VECTOR_GP, 0));
    returning((word)breaks, 0, 2, 0);
    check("a null CS", ends(0, iret_5, VECTOR_GP, 0));
    *test = descriptor(0, 0xf, PRESENT | S | IS_CODE | READABLE, B);
    returning((word)breaks, TEST, 2, 0);
    check("EIP behind the limit", ends(0, iret_5, VECTOR_GP, 0));
    check("NT is kept", in_ring(0, nested) == VECTOR_BP && (trap.eflags & FLAG_NT));
}

/* -- segments -------------------------------------------------------------------------------------------------------------------- */
u32 lar_value, lsl_value;
u8 lar_ok, lsl_ok, verr_ok, verw_ok;
CODE_OF(query, "mov place, %eax; mov $-1, %ecx; mov $-1, %edx; lar %eax, %ecx; setz lar_ok; mov %ecx, lar_value;"
               "lsl %eax, %edx; setz lsl_ok; mov %edx, lsl_value; verr %ax; setz verr_ok; verw %ax; setz verw_ok; int3")
CODE_OF(load_ds, "mov place, %ax; mov %ax, %ds; cpuid; int3") CODE_OF(load_es, "mov place, %ax; mov %ax, %es; cpuid; int3")
CODE_OF(load_fs, "pushl place; pop %fs; cpuid; int3") CODE_OF(load_gs, "mov place, %ax; mov %ax, %gs; cpuid; int3")
CODE_OF(load_ss, "mov place, %ax; mov %ax, %ss; int3")
enum { HAVE_LIMIT = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11, HAVE_RIGHTS = HAVE_LIMIT | 1 << 4 | 1 << 5 | 1 << 12 };

static int visible(u32 access, u32 cpl, u32 rpl)
{
    return (access & (S | IS_CODE | CONFORMING)) == (S | IS_CODE | CONFORMING) || dpl_of(access) >= max(cpl, rpl);
}

static void sweep_query(const char *what, u32 cpl)
{
    begin();
    for (u32 access = 0; access < 256; access++)
        for (u32 rpl = 0; rpl < 4; rpl++) {
            u32 type = access & 15, s = access & S;
            *test = descriptor(0x12345678, 0xabcde, access, G | B | 1);
            place = TEST | rpl;
            int ended = in_ring(cpl, query) == VECTOR_BP, sees = visible(access, cpl, rpl);
            int rights = sees && (s || HAVE_RIGHTS >> type & 1), limit = sees && (s || HAVE_LIMIT >> type & 1);
            int readable = sees && s && (!(access & IS_CODE) || access & READABLE), writable = sees && s && !(access & IS_CODE) && access & WRITABLE;
            expect(ended && lar_ok == rights && (rights ? (lar_value & 0xf0ff00) == (0xd00000 | access << 8) : lar_value == ~0u)
                   && lsl_ok == limit && lsl_value == (limit ? 0xabcdefff : ~0u)
                   && (!(access & PRESENT) || (verr_ok == readable && verw_ok == writable)), access, TEST | rpl);
        }
    swept(what);
}

static void sweep_load(const char *what, void (*code)(void), int ss, u32 cpl)
{
    begin();
    for (u32 access = 0; access < 256; access++)
        for (u32 rpl = 0; rpl < 4; rpl++) {
            int wanted = VECTOR_BP, code_segment = access & IS_CODE;
            *test = descriptor(0, ss && access & DOWN ? 0 : FLAT, access, ss && access & DOWN ? B : G | B);     /* room for a frame */
            place = TEST | rpl;
            if (!(access & S) || (ss ? code_segment || !(access & WRITABLE) || rpl != cpl || dpl_of(access) != cpl
                                  : (code_segment && !(access & READABLE)) || !visible(access, cpl, rpl)))
                wanted = VECTOR_GP;
            else if (!(access & PRESENT))
                wanted = ss ? VECTOR_SS : VECTOR_NP;
            int vector = in_ring(cpl, code);
            u32 after = *test >> 40 & 0xff;
            expect(vector == wanted && (vector == VECTOR_BP ? after == (access | A) : after == access && trap.error == TEST), access, TEST | rpl);
        }
    swept(what);
}

static int null_load(u32 cpl, void (*code)(void), u32 selector)
{
    place = selector;
    return in_ring(cpl, code);
}

static void segments(void)
{
    report_part("segment");
    sweep_query("LAR, LSL, VERR and VERW", 0);
    sweep_query("LAR, LSL, VERR and VERW, from ring 3", 3);
    sweep_load("DS", load_ds, 0, 0);
    sweep_load("SS", load_ss, 1, 0);
    sweep_load("ES, from ring 3", load_es, 0, 3);
    sweep_load("FS by POP, from ring 3", load_fs, 0, 3);
    sweep_load("SS, from ring 3", load_ss, 1, 3);
    check("a null DS", null_load(0, load_ds, 2) == VECTOR_BP && null_load(3, load_gs, 0) == VECTOR_BP);
    check("no null SS", null_load(0, load_ss, 0) == VECTOR_GP && trap.error == 0 && null_load(3, load_ss, 3) == VECTOR_GP);
    check("outside the GDT", null_load(0, load_ds, OUTSIDE) == VECTOR_GP && trap.error == OUTSIDE);
    check("an LDT's where none is", null_load(0, load_ds, 12) == VECTOR_GP && trap.error == 12);
}

/* -- what ports ring 3 may touch -------------------------------------------------------------------------------------------------- */
CODE_OF(in_byte, "in $0xe0, %al; int3") CODE_OF(in_dword, "in $0xe0, %eax; int3") CODE_OF(out_string, "mov $0xe0, %edx; mov $place, %esi; outsb; int3")
CODE_OF(in_far, "mov $0x1e0, %edx; in %dx, %al; int3") CODE_OF(in_behind, "mov $0x300, %edx; in %dx, %al; int3")
CODE_OF(with_iopl, "mov $0x23, %eax; mov %eax, %ds; mov %eax, %es; jmp iret_5")
CODE_OF(cli_breaks, "cli; sti; cli; int3")
static void ports(void)
{
    report_part("port");
    check("none that the bitmap forbids", ends(3, in_byte, VECTOR_GP, 0) && ends(3, out_string, VECTOR_GP, 0) && ends(0, in_byte, VECTOR_BP, 0));
    tss32.ports[FREE_PORT / 8] = 0xfe;
    check("those that it allows", ends(3, in_byte, VECTOR_BP, 0) && ends(3, out_string, VECTOR_BP, 0));
    check("all four of a dword", ends(3, in_dword, VECTOR_GP, 0));
    tss32.ports[FREE_PORT / 8] = 0xf0;
    check("if it allows all four", ends(3, in_dword, VECTOR_BP, 0));
    check("none behind the TSS", ends(3, in_behind, VECTOR_GP, 0));
    tss32.ports[0x1e0 / 8] = 0;
    load_task(__builtin_offsetof(struct tss32, ports) + 0x1e0 / 8 + 1);
    check("the bitmap ends with the TSS", ends(3, in_far, VECTOR_BP, 0));
    load_task(__builtin_offsetof(struct tss32, ports) + 0x1e0 / 8 - 1);
    check("and the limit is looked at", ends(3, in_far, VECTOR_GP, 0));
    load_task(sizeof tss32 - 1);
    tss32.ports[FREE_PORT / 8] = tss32.ports[0x1e0 / 8] = 0xff;
    returning((word)in_byte, USER_CODE, FLAG_IOPL | 2, USER_DATA);
    check("all with IOPL 3", ends(0, with_iopl, VECTOR_BP, 0) && trap.cs == USER_CODE);
    returning((word)cli_breaks, USER_CODE, FLAG_IOPL | 2, USER_DATA);
    check("CLI and STI too", ends(0, with_iopl, VECTOR_BP, 0) && trap.cs == USER_CODE);
}

/* -- SYSENTER ------------------------------------------------------------------------------------------------------------------------ */
CODE_OF(sysenter, "sysenter")
CODE_OF(sysexit, "mov $0x23, %eax; mov %eax, %ds; mov $breaks, %edx; mov return_frame + 12, %ecx; sysexit")
static void fast_calls(void)
{
    report_part("sysenter");
    wrmsr(MSR_SYSENTER_CS, 0);
    check("with no CS", ends(3, sysenter, VECTOR_GP, 0));
    wrmsr(MSR_SYSENTER_CS, CODE);
    wrmsr(MSR_SYSENTER_EIP, (word)keep);
    wrmsr(MSR_SYSENTER_ESP, RING0_TOP - 128);
    check("to ring 0", in_ring(3, sysenter) == VECTOR_BP && trap.cs == CODE && seen_esp == RING0_TOP - 128 && seen_ss == DATA);
    returning(0, 0, 0, 0);
    wrmsr(MSR_SYSENTER_CS, CODE);
    check("SYSEXIT to ring 3", in_ring(0, sysexit) == VECTOR_BP && trap.cs == USER_CODE && trap.ss == USER_DATA && trap.esp == RING3_TOP - 512);
    check("not from there", ends(3, sysexit, VECTOR_GP, 0));
}

/* -- virtual-8086 mode ------------------------------------------------------------------------------------------------------------------ */
#define V86_BASE 0x20000
#define V86(name, text) asm(".code16; v86_" #name ": " text "; int3; v86_" #name "_end: .code32"); extern u8 v86_##name[], v86_##name##_end[];
V86(int3, "nop")
V86(int4, "int $4") V86(cli, "cli; sti; cli") V86(flags, "pushf; pop %ax; push %ax; popf") V86(iret, "pushf; push %cs; push $6; iret; hlt")
V86(hlt, "hlt") V86(cr0, "mov %cr0, %eax") V86(lgdt, "lgdt 0") V86(sldt, "sldt %ax") V86(lar, "lar %ax, %ax") V86(ud, "ud2")
V86(in, "in $0xe0, %al") V86(insb, "cld; mov $0xe0, %dx; mov $0x100, %di; mov $4, %cx; rep insb") V86(outsb, "cld; mov $0xe0, %dx; mov $0x100, %si; outsb")
V86(segments, "mov $0x2100, %ax; mov %ax, %ds; mov 0x10, %ax; mov %ax, %gs:0x20")
V86(cpuid, "xor %eax, %eax; cpuid; mov %ebx, %gs:0x20") V86(jump, "ljmp $0x2001, $0; hlt; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop")
V86(far_offset, "mov $0x10000, %eax; mov (%eax), %cl") V86(into, "mov $0x7fff, %ax; inc %ax; into")
static struct { u32 eip, cs, eflags, esp, ss, es, ds, fs, gs; } v86_frame __attribute__((used));
CODE_OF(to_v86, "mov $v86_frame + 36, %esi; mov $9, %ecx; 1: sub $4, %esi; pushl (%esi); loop 1b; iret")

static int v86_run(const u8 *from, const u8 *end, u32 iopl)
{
    memset((void *)V86_BASE, 0x90, 64);
    memcpy((void *)V86_BASE, from, end - from);
    v86_frame.eip = 0;
    v86_frame.cs = V86_BASE >> 4;
    v86_frame.eflags = FLAG_VM | iopl << 12 | 2;
    v86_frame.esp = 0x800;
    v86_frame.ss = 0x2200;
    v86_frame.es = 0x2301;
    v86_frame.ds = 0x2302;
    v86_frame.fs = 0x2303;
    v86_frame.gs = 0x2304;
    return in_ring(0, to_v86);
}
#define RUN(name, iopl, vector) (v86_run(v86_##name, v86_##name##_end, iopl) == (vector) && trap.error == 0 && (trap.eflags & FLAG_VM))

static void virtual_8086(void)
{
    u8 *memory = (u8 *)0;
    asm volatile("" : "+r"(memory));
    report_part("v86");
    check("INT3 comes to ring 0", RUN(int3, 0, VECTOR_BP) && trap.cs == 0x2000 && trap.eip == 2 && trap.entry_cs == CODE);
    check("on SS0:ESP0, all segments kept", trap.entry_esp == RING0_TOP - 36 && trap.esp == 0x800 && (u16)trap.ss == 0x2200 && (u16)trap.es == 0x2301
          && (u16)trap.ds == 0x2302 && (u16)trap.fs == 0x2303 && (u16)trap.gs == 0x2304);
    check("and null in the handler", (u16)trap.entry_ds == 0);
    check("exceptions too", RUN(ud, 0, VECTOR_UD) && trap.eip == 0);
    check("INTO", RUN(into, 0, VECTOR_OF));
    check("INT n needs IOPL 3", RUN(int4, 0, VECTOR_GP) && RUN(int4, 3, VECTOR_OF));
    check("so do CLI and STI", RUN(cli, 0, VECTOR_GP) && RUN(cli, 3, VECTOR_BP));
    check("PUSHF and POPF", RUN(flags, 2, VECTOR_GP) && RUN(flags, 3, VECTOR_BP));
    check("and IRET", RUN(iret, 2, VECTOR_GP) && RUN(iret, 3, VECTOR_BP));
    check("HLT is privileged", RUN(hlt, 3, VECTOR_GP) && trap.eip == 0);
    check("so are MOV of CR0 and LGDT", RUN(cr0, 3, VECTOR_GP) && RUN(lgdt, 3, VECTOR_GP));
    check("SLDT and LAR are not there", RUN(sldt, 3, VECTOR_UD) && RUN(lar, 3, VECTOR_UD));
    *(u16 *)(memory + 0x21010) = 0x1234;
    *(u32 *)(memory + 0x23060) = 0;
    check("segments are of real mode", RUN(segments, 0, VECTOR_BP) && *(u16 *)(memory + 0x23060) == 0x1234);
    check("a far JMP too", RUN(jump, 0, VECTOR_BP) && trap.cs == 0x2001);
    check("an offset above 64 KiB", RUN(far_offset, 0, VECTOR_GP));
    check("CPUID", RUN(cpuid, 0, VECTOR_BP) && *(u32 *)(memory + 0x23060) == cpuid(0, 0).ebx);
    check("ports are the bitmap's, whatever IOPL", RUN(in, 3, VECTOR_GP));
    tss32.ports[FREE_PORT / 8] = 0xfe;
    memset(memory + 0x23110, 0, 8);
    check("IN", RUN(in, 0, VECTOR_BP));
    check("INS and OUTS", RUN(insb, 0, VECTOR_BP) && *(u32 *)(memory + 0x23110) == ~0u && memory[0x23114] == 0 && RUN(outsb, 0, VECTOR_BP));
    tss32.ports[FREE_PORT / 8] = 0xff;
}

int main(void)
{
    trap_init();
    exceptions();
    gates();
    inner_stacks();
    call_gates();
    returns_part();
    segments();
    ports();
    fast_calls();
    virtual_8086();
    return report_end("protected") ? 1 : 0;
}
