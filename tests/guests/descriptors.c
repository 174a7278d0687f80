/* descriptors: what the descriptor tables promise, by sweeps: every type, DPL, presence and RPL against a model of the manual's rules,
 * from ring 0 and from ring 3. Loads of segment registers, LAR, LSL, VERR, VERW, far transfers, gates, IRET, LTR, LLDT; compatibility
 * mode with its limits; FS and GS base; what ring 3 may see of the tables. (segments has protected mode without long mode.)
 *
 * Each line of the report is one promise of a manual; it is the same on a bare PC and under a hypervisor.
 * A sweep that is wrong says first which access byte and selector it has met.
 * QEMU's TCG deviates: no segment has a limit or is read-only, and long mode's shorter list of system types is not known to LAR, LSL and LTR.
 * Sources: Intel SDM Vol. 3A, "Protected-Mode Memory Management", "Protection"; Vol. 2; AMD64 APM Vol. 2, "Segmented Virtual Memory".
 */
#include "runtime.h"
#include "report.h"
#include "trap.h"

enum { TEST = 0x48, LOCAL = 0x58, SECOND = 0x68, OUTSIDE = 0x100, STACK = 1024,
       S = 0x10, CODE = 8, CONFORMING = 4, READABLE = 2, WRITABLE = 2, DOWN = 4, PRESENT = 0x80, A = 1,
       TSS_FREE_16 = 1, LDT = 2, TSS_FREE = 9, TSS_BUSY = 11, CALL_GATE = 12,
       G = 8, B = 4, L = 2,                     /* a descriptor's flags, as one number */
       MSR_FS_BASE = 0xc0000100, MSR_GS_BASE = 0xc0000101, MSR_KERNEL_GS_BASE = 0xc0000102,
       CR4_UMIP = 1 << 11, CR4_FSGSBASE = 1 << 16, CALL_BY_INT = 0x40 };
#define NON_CANONICAL 0x0123456789abcdefull
#define FLAT 0xfffff
#define MAKE(name) static void name(void *unused __attribute__((unused)))

extern u64 gdt[9], pml4[512], pdpt[512], directories[2048];
static u64 table[32] __attribute__((aligned(16))), local[4] __attribute__((aligned(16)));
static volatile u64 *const test = &table[TEST / 8];
static struct { u32 zero; u64 rsp[3]; u64 zero2; u64 ist[7]; u64 zero3; u16 zero4, iomap; } __attribute__((packed)) tss;
static u8 stacks[5][STACK] __attribute__((aligned(16)));
static u64 top(int n) { return (word)stacks[n] + STACK - 64; }      /* 0 to 2: of the TSS; 3: ring 3's; 4: another */

static u64 descriptor(u64 base, u32 limit, u32 access, u32 flags)
{
    return (limit & 0xffff) | (base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48
        | (u64)flags << 52 | (base >> 24 & 0xff) << 56;
}
static u32 dpl_of(u32 access) { return access >> 5 & 3; }
static u32 max(u32 a, u32 b) { return a > b ? a : b; }

/* -- rings -------------------------------------------------------------------------------------------------------------- */
u64 place;                                     /* what the code of either ring works on */
static void in_ring3(void *code)
{
    asm volatile("pushq %0; pushq %1; pushq $2; pushq %2; pushq %3; iretq"
                 :: "i"(USER_DATA), "r"(top(3)), "i"(USER_CODE64), "r"(code) : "memory");
}
static void in_ring0(void *code) { ((void (*)(void))code)(); }
/* Run code in ring `cpl`; it ends by INT 4 if nothing else ends it. */
static int at(u32 cpl, void (*code)(void)) { return trap_call(cpl ? in_ring3 : in_ring0, (void *)code); }

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

/* -- LAR, LSL, VERR, VERW -------------------------------------------------------------------------------------------------- */
u32 lar_value, lsl_value;
u8 lar_ok, lsl_ok, verr_ok, verw_ok;
__attribute__((naked)) static void query(void)
{
    asm volatile("mov place, %eax; mov $-1, %ecx; mov $-1, %edx; lar %eax, %ecx; setz lar_ok; mov %ecx, lar_value;"
                 "lsl %eax, %edx; setz lsl_ok; mov %edx, lsl_value; verr %ax; setz verr_ok; verw %ax; setz verw_ok; int $4");
}

static int visible(u32 access, u32 cpl, u32 rpl)
{
    return (access & (S | CODE | CONFORMING)) == (S | CODE | CONFORMING) || dpl_of(access) >= max(cpl, rpl);
}
static int is_one_of(u32 type, u32 types) { return types >> type & 1; }
/* By type: those that long mode knows; the others that protected mode knows too. */
enum { LEGACY = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5, HAVE_LIMIT = 1 << LDT | 1 << TSS_FREE | 1 << TSS_BUSY, HAVE_RIGHTS = HAVE_LIMIT | 1 << CALL_GATE };

static void queries(void)
{
    enum { SEGMENTS_LAR, SEGMENTS_LSL, SYSTEM_LAR, SYSTEM_LSL, LEGACY_TYPES, VERR, VERW, ALL };
    static const char *const names[2][ALL] = {
        { "LAR of code and data", "LSL of code and data", "LAR of system types", "LSL of system types",
          "system types that long mode does not have", "VERR", "VERW" },
        { "LAR of code and data, from ring 3", "LSL of code and data, from ring 3", "LAR of system types, from ring 3",
          "LSL of system types, from ring 3", "system types that long mode does not have, from ring 3", "VERR, from ring 3", "VERW, from ring 3" } };
    report_part("query");
    for (u32 cpl = 0; cpl <= 3; cpl += 3)
        for (u32 which = 0; which < ALL; which++) {
            begin();
            for (u32 access = 0; access < 256; access++)
                for (u32 rpl = 0; rpl < 4; rpl++) {
                    u32 type = access & 15, s = access & S, selector = TEST | rpl;
                    u32 kind = s ? SEGMENTS_LAR : is_one_of(type, LEGACY) ? LEGACY_TYPES : SYSTEM_LAR;
                    if (which < VERR && (which == LEGACY_TYPES ? kind != which : (which & ~1u) != kind))
                        continue;
                    test[0] = descriptor(0x12345678, 0xabcde, access, G | B | 1);
                    test[1] = 0;
                    place = selector;
                    int ended = at(cpl, query) == VECTOR_OF, sees = visible(access, cpl, rpl);
                    int rights = sees && (s || is_one_of(type, HAVE_RIGHTS)), limit = sees && (s || is_one_of(type, HAVE_LIMIT));
                    int readable = sees && s && (!(access & CODE) || access & READABLE);
                    int writable = sees && s && !(access & CODE) && access & WRITABLE;
                    if (which == SEGMENTS_LAR || which == SYSTEM_LAR || which == LEGACY_TYPES)
                        expect(ended && lar_ok == rights && (rights ? (lar_value & 0xf0ff00) == (0xd00000 | access << 8) : lar_value == ~0u), access, selector);
                    else if (which == SEGMENTS_LSL || which == SYSTEM_LSL)
                        expect(ended && lsl_ok == limit && lsl_value == (limit ? 0xabcdefff : ~0u), access, selector);
                    else if (access & PRESENT)
                        expect(ended && (which == VERR ? verr_ok == readable : verw_ok == !!writable), access, selector);
                }
            swept(names[!!cpl][which]);
        }
    test[0] = descriptor(0, 0xabcde, PRESENT | S | WRITABLE, B);
    place = TEST;
    check("a limit in bytes", at(0, query) == VECTOR_OF && lsl_ok && lsl_value == 0xabcde);
    place = 3;
    check("a null selector is none", at(0, query) == VECTOR_OF && !lar_ok && !lsl_ok && !verr_ok && !verw_ok);
    place = OUTSIDE;
    check("nor one outside the table", at(0, query) == VECTOR_OF && !lar_ok && !lsl_ok && !verr_ok && !verw_ok);
}

/* -- loading segment registers ---------------------------------------------------------------------------------------------- */
/* CPUID is an exit: what was loaded must be taken by the next entry, and still be there. */
#define LOADER(name) __attribute__((naked)) static void load_##name(void) { asm volatile("mov place, %eax; mov %eax, %" #name "; cpuid; int $4"); }
LOADER(ds) LOADER(es) LOADER(fs) LOADER(gs) LOADER(ss)
__attribute__((naked)) static void load_lss(void) { asm volatile("lss place, %eax; cpuid; int $4"); }
__attribute__((naked)) static void load_lfs(void) { asm volatile("lfs place, %eax; cpuid; int $4"); }
__attribute__((naked)) static void pop_gs(void) { asm volatile("pushq place; pop %gs; cpuid; int $4"); }
__attribute__((naked)) static void load_cs(void) { asm volatile("mov place, %eax; .byte 0x8e, 0xc8; int $4"); }

static int load_vector(int ss, u32 cpl, u32 access, u32 rpl)
{
    int code = access & CODE;
    if (!(access & S))
        return VECTOR_GP;
    if (ss) {
        if (code || !(access & WRITABLE) || rpl != cpl || dpl_of(access) != cpl)
            return VECTOR_GP;
        return access & PRESENT ? VECTOR_OF : VECTOR_SS;
    }
    if ((code && !(access & READABLE)) || !visible(access, cpl, rpl))
        return VECTOR_GP;
    return access & PRESENT ? VECTOR_OF : VECTOR_NP;
}

static void sweep_load(const char *what, void (*code)(void), int ss, u32 cpl, u32 shift)
{
    begin();
    for (u32 access = 0; access < 256; access++)
        for (u32 rpl = 0; rpl < 4; rpl++) {
            test[0] = descriptor(0, FLAT, access, G | B);
            place = (u64)(TEST | rpl) << shift;
            int wanted = load_vector(ss, cpl, access, rpl), vector = at(cpl, code);
            u32 after = test[0] >> 40 & 0xff;
            expect(vector == wanted && (vector == VECTOR_OF ? after == (access | A) : after == access && trap.error == TEST), access, TEST | rpl);
        }
    swept(what);
}

static int null_load(u32 cpl, void (*code)(void), u32 rpl)
{
    place = rpl;
    return at(cpl, code);
}

static void loads(void)
{
    report_part("load");
    sweep_load("DS", load_ds, 0, 0, 0);
    sweep_load("ES", load_es, 0, 0, 0);
    sweep_load("FS by LFS", load_lfs, 0, 0, 32);
    sweep_load("GS by POP", pop_gs, 0, 0, 0);
    sweep_load("SS", load_ss, 1, 0, 0);
    sweep_load("DS, from ring 3", load_ds, 0, 3, 0);
    sweep_load("FS, from ring 3", load_fs, 0, 3, 0);
    sweep_load("GS, from ring 3", load_gs, 0, 3, 0);
    sweep_load("SS by LSS, from ring 3", load_lss, 1, 3, 32);
    check("a null DS", null_load(0, load_ds, 3) == VECTOR_OF && null_load(3, load_es, 0) == VECTOR_OF);
    check("a null SS in ring 0", null_load(0, load_ss, 0) == VECTOR_OF);
    check("with its own RPL only", null_load(0, load_ss, 3) == VECTOR_GP && trap.error == 0);
    check("not in ring 3", null_load(3, load_ss, 3) == VECTOR_GP && trap.error == 0);
    place = OUTSIDE | 2;
    check("outside the GDT", at(0, load_ds) == VECTOR_GP && trap.error == OUTSIDE && at(0, load_ss) == VECTOR_GP && trap.error == OUTSIDE);
    place = 4 | 8;
    check("an LDT's where none is", at(0, load_ds) == VECTOR_GP && trap.error == (4 | 8));
    check("CS cannot be moved to", at(0, load_cs) == VECTOR_UD);
}

/* -- far transfers ------------------------------------------------------------------------------------------------------- */
struct { u64 offset; u16 selector; } __attribute__((packed)) far;
u64 return_frame[5];                           /* RIP, CS, RFLAGS, RSP, SS; a far RET's has no RFLAGS */
__attribute__((naked)) static void here(void) { asm volatile("cpuid; int3"); }
__attribute__((naked)) static void breaks(void) { asm volatile("int3"); }
__attribute__((naked)) static void far_jump(void) { asm volatile("rex.W ljmp *far"); }
__attribute__((naked)) static void far_call(void) { asm volatile("rex.W lcall *far"); }
__attribute__((naked)) static void far_return(void)
{
    asm volatile("pushq return_frame + 32; pushq return_frame + 24; pushq return_frame + 8; pushq return_frame; lretq");
}
__attribute__((naked)) static void iret(void)
{
    asm volatile("pushq return_frame + 32; pushq return_frame + 24; pushq $2; pushq return_frame + 8; pushq return_frame; iretq");
}
__attribute__((naked)) static void by_int(void) { asm volatile("int $0x40"); }

/* What a transfer to the code segment `access` by selector TEST | rpl ends in; *ring: where it arrives. */
enum how { JUMP, RETURN, BY_GATE, BY_JUMP_GATE };
static int transfer_vector(enum how how, u32 cpl, u32 access, u32 rpl, u32 *ring)
{
    u32 dpl = dpl_of(access);
    int conforming = access & CONFORMING;
    *ring = how == RETURN ? rpl : cpl;
    if (!(access & S) || !(access & CODE))
        return VECTOR_GP;
    if (how == RETURN && (rpl < cpl || (conforming ? dpl > rpl : dpl != rpl)))
        return VECTOR_GP;
    if (how == JUMP && (conforming ? dpl > cpl : dpl != cpl || rpl > cpl))
        return VECTOR_GP;
    if (how == BY_GATE && dpl > cpl)
        return VECTOR_GP;
    if (how == BY_JUMP_GATE && (conforming ? dpl > cpl : dpl != cpl))
        return VECTOR_GP;
    if (how == BY_GATE && !conforming)
        *ring = dpl;
    return access & PRESENT ? VECTOR_BP : VECTOR_NP;
}

/* The access bytes that have `bits` of `mask`. */
static void sweep_some(const char *what, void (*code)(void), enum how how, u32 cpl, u32 mask, u32 bits)
{
    begin();
    for (u32 access = 0; access < 256; access++)
        for (u32 rpl = 0; rpl < 4; rpl++) {
            u32 ring, error = TEST, selector = TEST | rpl;
            int gate = how == BY_GATE || how == BY_JUMP_GATE;
            if ((access & mask) != bits || (!gate && (access & 0x1f) == CALL_GATE))
                continue;
            test[0] = descriptor(0, FLAT, access, G | L);
            test[1] = 0;
            if (gate) {
                extern void set_gates(u32 selector, u64 offset);
                set_gates(selector, (word)here);
                far.selector = SECOND | 3;
            } else
                far.selector = selector;
            far.offset = (word)here;
            return_frame[0] = (word)here;
            return_frame[1] = selector;
            return_frame[3] = top(4);
            return_frame[4] = rpl == 3 ? USER_DATA : DATA;
            int wanted = transfer_vector(how, cpl, access, rpl, &ring);
            if (how == RETURN && wanted == VECTOR_BP && (rpl == 1 || rpl == 2)) {   /* there is no stack segment of that ring */
                wanted = VECTOR_GP;
                error = DATA;
            }
            int vector = at(cpl, code);
            expect(vector == wanted && (vector == VECTOR_BP ? trap.cs == (TEST | ring) && trap.rip == (word)here + 3 : trap.error == error), access, selector);
        }
    swept(what);
}

static void sweep_transfer(const char *what, void (*code)(void), enum how how, u32 cpl) { sweep_some(what, code, how, cpl, 0, 0); }

/* An interrupt gate and a call gate that lead to the same place. */
struct gate { u16 low, selector; u8 ist, type; u16 middle; u32 high, zero; };
static struct gate idt[CALL_BY_INT + 1] __attribute__((aligned(16)));
void set_gates(u32 selector, u64 offset);
void set_gates(u32 selector, u64 offset)
{
    idt[CALL_BY_INT] = (struct gate){ .low = offset, .middle = offset >> 16, .high = offset >> 32, .selector = selector, .type = 0xee };
    table[SECOND / 8] = (offset & 0xffff) | selector << 16 | 0xecull << 40 | (offset >> 16 & 0xffff) << 48;
    table[SECOND / 8 + 1] = offset >> 32;
}
static void load_idt(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) pointer;
    trap_init();
    asm volatile("sidt %0" : "=m"(pointer));
    memcpy(idt, (void *)pointer.base, 32 * sizeof *idt);
    pointer.base = (word)idt;
    pointer.limit = sizeof idt - 1;
    asm volatile("lidt %0" :: "m"(pointer));
}

static volatile u64 seen_ss, seen_rsp;
__attribute__((naked, used)) static void keep_stack(void) { asm volatile("mov %ss, seen_ss; mov %rsp, seen_rsp; int3"); }
static volatile u16 seen_ds, seen_es, seen_fs, seen_gs;
__attribute__((naked)) static void keep_segments(void)
{
    asm volatile("mov %ds, seen_ds; mov %es, seen_es; mov %fs, seen_fs; mov %gs, seen_gs; int3");
}
__attribute__((naked)) static void return_with_segments(void)
{
    asm volatile("mov $0x10, %eax; mov %eax, %ds; mov %eax, %gs; mov $0x23, %eax; mov %eax, %es; mov $0x4b, %eax; mov %eax, %fs; jmp far_return");
}
__attribute__((naked)) static void crooked_stack(void) { asm volatile("mov %rsp, %rax; and $-16, %rsp; sub $8, %rsp; int $0x40"); }

static void transfers(void)
{
    report_part("far");
    sweep_transfer("JMP", far_jump, JUMP, 0);
    sweep_transfer("JMP, from ring 3", far_jump, JUMP, 3);
    sweep_transfer("CALL", far_call, JUMP, 0);
    sweep_transfer("CALL, from ring 3", far_call, JUMP, 3);
    sweep_transfer("RET", far_return, RETURN, 0);
    sweep_transfer("RET, from ring 3", far_return, RETURN, 3);
    sweep_transfer("IRET", iret, RETURN, 0);
    sweep_transfer("IRET, from ring 3", iret, RETURN, 3);
    sweep_transfer("CALL by a gate", far_call, BY_GATE, 0);
    sweep_some("CALL by a gate, from ring 3", far_call, BY_GATE, 3, CONFORMING, 0);
    sweep_some("CALL by a gate to conforming code, from ring 3", far_call, BY_GATE, 3, CONFORMING, CONFORMING);
    sweep_some("JMP by a gate", far_jump, BY_JUMP_GATE, 0, PRESENT, PRESENT);
    sweep_some("JMP by a gate to code that is not present", far_jump, BY_JUMP_GATE, 0, PRESENT, 0);
    sweep_some("JMP by a gate, from ring 3", far_jump, BY_JUMP_GATE, 3, PRESENT, PRESENT);
    sweep_transfer("INT by a gate", by_int, BY_GATE, 0);
    sweep_transfer("INT by a gate, from ring 3", by_int, BY_GATE, 3);

    test[0] = descriptor(0, FLAT, PRESENT | S | CODE, G | L | B);
    far.selector = TEST;
    far.offset = (word)breaks;                 /* no exit behind it: where the processor takes it, the next entry does not */
    check("code cannot be of 64 and of 32 bits", at(0, far_jump) == VECTOR_GP && trap.error == TEST);
    set_gates(CODE32, (word)here);
    check("a gate leads to 64-bit code only", at(0, by_int) == VECTOR_GP && trap.error == CODE32);
    far.selector = SECOND;
    check("a call gate too", at(0, far_call) == VECTOR_GP && trap.error == CODE32);
    set_gates(0, (word)here);
    check("and not to a null selector", at(0, by_int) == VECTOR_GP && trap.error == 0 && at(0, far_call) == VECTOR_GP && trap.error == 0);
    set_gates(OUTSIDE, (word)here);
    check("nor outside the GDT", at(0, by_int) == VECTOR_GP && trap.error == OUTSIDE && at(0, far_call) == VECTOR_GP && trap.error == OUTSIDE);
    far.selector = 0;
    check("a null selector is no code", at(0, far_jump) == VECTOR_GP && trap.error == 0);
    far.selector = CODE64;
    far.offset = NON_CANONICAL;
    check("RIP must be canonical", at(0, far_jump) == VECTOR_GP && trap.error == 0);
    set_gates(CODE64, (word)keep_stack);
    seen_ss = 1;
    check("from ring 3, ring 0 has a null SS", at(3, by_int) == VECTOR_BP && seen_ss == 0 && seen_rsp == top(0) - 40);
    check("the stack becomes a multiple of 16", at(0, crooked_stack) == VECTOR_BP && !((seen_rsp + 40) & 15));

    test[0] = descriptor(0, FLAT, PRESENT | S | CODE | CONFORMING | READABLE, G | L);
    return_frame[0] = (word)keep_segments;
    return_frame[1] = USER_CODE64;
    return_frame[3] = top(4);
    return_frame[4] = USER_DATA;
    check("RET to ring 3 empties what ring 3 may not have", at(0, return_with_segments) == VECTOR_BP && seen_ds == 0 && seen_gs == 0);
    check("and leaves the rest", seen_es == USER_DATA && seen_fs == (TEST | 3));
}

/* -- system segments ------------------------------------------------------------------------------------------------------ */
static void ltr(void *selector) { asm volatile("ltr %w0; cpuid" :: "r"(selector) : "rax", "rbx", "rcx", "rdx"); }
static void lldt(void *selector) { asm volatile("lldt %w0; cpuid" :: "r"(selector) : "rax", "rbx", "rcx", "rdx"); }
__attribute__((naked)) static void user_ltr(void) { asm volatile("mov $0x48, %eax; ltr %ax; int $4"); }
__attribute__((naked)) static void user_lldt(void) { asm volatile("mov $0x48, %eax; lldt %ax; int $4"); }
static int raises(void (*what)(void *), u64 argument, int vector, u64 error) { return trap_call(what, (void *)argument) == vector && trap.error == error; }

static void good_task(void)
{
    table[TASK / 8] = descriptor((word)&tss, sizeof tss - 1, PRESENT | TSS_FREE, 0);
    asm volatile("ltr %w0" :: "r"(TASK));
}

static void sweep_system(const char *what, void (*how)(void *), u32 good)
{
    begin();
    for (u32 access = 0; access < 256; access++) {
        if ((access & 0x1f) == TSS_FREE_16)
            continue;
        test[0] = descriptor((word)&tss, sizeof tss - 1, access, 0);
        test[1] = 0;
        int wanted = (access & 0x1f) != good ? VECTOR_GP : access & PRESENT ? NO_TRAP : VECTOR_NP, vector = trap_call(how, (void *)(word)TEST);
        u32 after = test[0] >> 40 & 0xff;
        if (vector == NO_TRAP && good == TSS_FREE)
            good_task();
        expect(vector == wanted && (vector == NO_TRAP ? after == (good == TSS_FREE ? access | 2 : access) : trap.error == TEST && after == access), access, TEST);
    }
    swept(what);
}

static void system_segments(void)
{
    u64 whole;
    report_part("system");
    sweep_system("LTR takes a TSS that is free, and makes it busy", ltr, TSS_FREE);
    check("LTR of a TSS of 16 bits", (test[0] = descriptor((word)&tss, sizeof tss - 1, PRESENT | TSS_FREE_16, 0), raises(ltr, TEST, VECTOR_GP, TEST)));
    good_task();
    test[0] = descriptor((word)&tss, sizeof tss - 1, PRESENT | TSS_FREE, 0);
    test[1] = 1ull << 40;
    check("the second half has no type", raises(ltr, TEST, VECTOR_GP, TEST));
    test[1] = 0;
    check("LTR of null", raises(ltr, 0, VECTOR_GP, 0));
    good_task();
    check("of an LDT's", raises(ltr, TEST | 4, VECTOR_GP, TEST | 4));
    check("outside the GDT", raises(ltr, OUTSIDE, VECTOR_GP, OUTSIDE));
    check("in ring 3", at(3, user_ltr) == VECTOR_GP && trap.error == 0);
    check("RPL does not matter", trap_call(ltr, (void *)(word)(TEST | 3)) == NO_TRAP);
    asm volatile("mov $-1, %0; str %0" : "=r"(whole));
    check("STR", whole == TEST || whole == (TEST | 3));
    good_task();

    sweep_system("LLDT takes an LDT", lldt, LDT);
    check("LLDT of an LDT's", raises(lldt, TEST | 4, VECTOR_GP, TEST | 4));
    check("LLDT outside the GDT", raises(lldt, OUTSIDE, VECTOR_GP, OUTSIDE));
    check("LLDT in ring 3", at(3, user_lldt) == VECTOR_GP && trap.error == 0);
    table[LOCAL / 8] = descriptor((word)local, 15, PRESENT | LDT, 0);
    lldt((void *)(word)LOCAL);
    asm volatile("mov $-1, %0; sldt %0" : "=r"(whole));
    check("SLDT", whole == LOCAL);
    local[0] = local[1] = local[2] = descriptor(0, FLAT, PRESENT | S | WRITABLE, G | B);
    place = 4;
    check("the LDT's first descriptor can be used", at(0, load_ds) == VECTOR_OF && (local[0] >> 40 & A));
    place = 4 | 8;
    check("and its last", at(0, load_ss) == VECTOR_OF && (local[1] >> 40 & A));
    place = 4 | 16;
    check("and none behind", at(0, load_ds) == VECTOR_GP && trap.error == (4 | 16));
    check("LLDT of null", trap_call(lldt, 0) == NO_TRAP);
    asm volatile("mov $-1, %0; sldt %0" : "=r"(whole));
    check("is no LDT", whole == 0 && (place = 4, at(0, load_ds)) == VECTOR_GP && trap.error == 4);
}

/* -- the tables' registers, UMIP ------------------------------------------------------------------------------------------- */
#define STORE(name) __attribute__((naked)) static void store_##name(void) { asm volatile("sub $16, %rsp; " #name " (%rsp); int $4"); }
STORE(sgdt) STORE(sidt) STORE(sldt) STORE(str) STORE(smsw)
static void (*const stores[])(void) = { store_sgdt, store_sidt, store_sldt, store_str, store_smsw };
static struct { u16 limit; u64 base; u16 guard; } __attribute__((packed)) good_gdt, good_idt;
/* Where the bad one is taken, the good one is back before anything needs it. */
static void lgdt(void *pointer) { asm volatile("lgdt (%0); lgdt %1" :: "r"(pointer), "m"(good_gdt)); }
static void lidt(void *pointer) { asm volatile("lidt (%0); lidt %1" :: "r"(pointer), "m"(good_idt)); }
__attribute__((naked)) static void user_lgdt(void) { asm volatile("lgdt place; int $4"); }
__attribute__((naked)) static void user_lidt(void) { asm volatile("lidt place; int $4"); }
static int all_stores(u32 cpl, int vector)
{
    for (u32 n = 0; n < sizeof stores / sizeof *stores; n++)
        if (at(cpl, stores[n]) != vector || (vector == VECTOR_GP && trap.error))
            return 0;
    return 1;
}

static void registers(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) bad = { 0xfff, NON_CANONICAL };
    report_part("tables");
    good_gdt.guard = good_idt.guard = 0x55aa;
    asm volatile("sgdt %0; sidt %1" : "+m"(good_gdt), "+m"(good_idt));
    check("SGDT", good_gdt.base == (word)table && good_gdt.limit == sizeof table - 1 && good_gdt.guard == 0x55aa);
    check("SIDT", good_idt.base == (word)idt && good_idt.limit == sizeof idt - 1 && good_idt.guard == 0x55aa);
    check("LGDT of a non-canonical base", raises(lgdt, (word)&bad, VECTOR_GP, 0));
    check("LIDT of one", raises(lidt, (word)&bad, VECTOR_GP, 0));
    check("ring 3 loads neither", at(3, user_lgdt) == VECTOR_GP && trap.error == 0 && at(3, user_lidt) == VECTOR_GP && trap.error == 0);
    check("ring 3 stores all", all_stores(3, VECTOR_OF));
    if (!(cpuid(7, 0).ecx >> 2 & 1)) {
        report_missing("none with CR4.UMIP");
        report_missing("but ring 0");
    } else {
        write_cr4(read_cr4() | CR4_UMIP);
        check("none with CR4.UMIP", all_stores(3, VECTOR_GP));
        check("but ring 0", all_stores(0, VECTOR_OF));
        write_cr4(read_cr4() & ~(word)CR4_UMIP);
    }
}

/* -- FS and GS --------------------------------------------------------------------------------------------------------------- */
__attribute__((naked)) static void user_swapgs(void) { asm volatile("swapgs; int $4"); }
static void wrfsbase(void *value) { asm volatile("wrfsbase %0" :: "r"(value)); }
static void rdgsbase(void *to) { asm volatile("rdgsbase %0" : "=r"(*(u64 *)to)); }
__attribute__((naked)) static void user_wrgsbase(void) { asm volatile("mov place, %rax; wrgsbase %rax; int $4"); }
static const u32 word_of_ours = 0x5eed5eed;

static void bases(void)
{
    u64 value = 0;
    u32 seen;
    report_part("base");
    wrmsr(MSR_FS_BASE, 0xffff800012345678ull);
    test[0] = descriptor((word)&word_of_ours, 0, PRESENT | S, 0);
    asm volatile("mov %1, %%fs; mov %%fs:0, %0" : "=r"(seen) : "r"(TEST));
    check("loading FS loads all of its base", rdmsr(MSR_FS_BASE) == (word)&word_of_ours && seen == word_of_ours);
    test[0] = descriptor((word)&word_of_ours - 8, 0, PRESENT | S, 0);
    asm volatile("mov %1, %%gs; mov %%gs:8, %0" : "=r"(seen) : "r"(TEST));
    check("64-bit code knows no limit", seen == word_of_ours);
    asm volatile("mov %1, %%ds; mov (%2), %0; mov %3, %%ds" : "=&r"(seen) : "r"(TEST), "r"(&word_of_ours), "r"(DATA));
    check("and no base of DS", seen == word_of_ours);
    wrmsr(MSR_GS_BASE, 0x1111);
    wrmsr(MSR_KERNEL_GS_BASE, 0xffff900000002222ull);
    asm volatile("swapgs");
    check("SWAPGS", rdmsr(MSR_GS_BASE) == 0xffff900000002222ull && rdmsr(MSR_KERNEL_GS_BASE) == 0x1111);
    check("not in ring 3", at(3, user_swapgs) == VECTOR_GP && trap.error == 0);
    if (!(cpuid(7, 0).ebx & 1)) {
        report_missing("WRFSBASE and RDGSBASE");
        report_missing("WRFSBASE of a non-canonical address");
        report_missing("in ring 3 too");
        report_missing("without CR4.FSGSBASE");
        return;
    }
    write_cr4(read_cr4() | CR4_FSGSBASE);
    wrfsbase((void *)0xffff812345678000ull);
    rdgsbase(&value);
    check("WRFSBASE and RDGSBASE", rdmsr(MSR_FS_BASE) == 0xffff812345678000ull && value == 0xffff900000002222ull);
    check("WRFSBASE of a non-canonical address", raises(wrfsbase, NON_CANONICAL, VECTOR_GP, 0));
    place = 0x7654321;
    check("in ring 3 too", at(3, user_wrgsbase) == VECTOR_OF && rdmsr(MSR_GS_BASE) == 0x7654321);
    write_cr4(read_cr4() & ~(word)CR4_FSGSBASE);
    check("without CR4.FSGSBASE", trap_call(wrfsbase, 0) == VECTOR_UD);
}

/* -- compatibility mode --------------------------------------------------------------------------------------------------------- */
static void in_compatibility(void *code)
{
    asm volatile("pushq %0; pushq %1; pushq $2; pushq %2; pushq %3; iretq"
                 :: "i"(DATA), "r"(top(4)), "i"(CODE32), "r"(code) : "memory");
}
static int compatible(void (*code)(void)) { return trap_call(in_compatibility, (void *)code); }
#define NARROW(name, code) __attribute__((naked)) static void name(void) { asm volatile(".code32; " code "; int $4; .code64"); }
u32 cell = 0x600dce11, seen_cell;
NARROW(read_fs, "movl $0x48, %edx; movl %edx, %fs; cpuid; movl place, %eax; movl %fs:(%eax), %ecx; movl %ecx, seen_cell")
NARROW(write_fs, "movl $0x48, %edx; movl %edx, %fs; cpuid; movl place, %eax; movl $0x600dce11, %fs:(%eax)")
NARROW(null_ds, "movl $0, %edx; movl %edx, %ds; cpuid; movl %ds:cell, %ecx")
NARROW(read_code, "movl place, %esi; movl $0x48, %edx; movl %edx, %ds; cpuid; movl (%esi), %ecx")
NARROW(swapgs_there, ".byte 0x0f, 0x01, 0xf8")
NARROW(no_rex, "movl place, %eax; leal 1(%eax), %eax; .byte 0x48; movl %eax, seen_cell")     /* DEC EAX, no REX there */
NARROW(jump_back, "ljmp $8, $1f; 1: .code64; mov $0x123456789a, %rax; shr $32, %rax; mov %eax, seen_cell")
NARROW(small_stack, "movl $0x48, %edx; movl %edx, %ss; movl $0xabcd0010, %esp; cpuid; pushl $0x1234; movl %esp, seen_cell; movl $0x10, %edx; movl %edx, %ss; movzwl %sp, %esp; addl $stacks, %esp")
NARROW(behind_stack, "movl $0x48, %edx; movl %edx, %ss; movl place, %esp; cpuid; popl %eax")
static void in_16_bits(void *code __attribute__((unused))) { asm volatile("rex.W ljmp *far"); }
asm("code16: .byte 0xb8, 0x34, 0x12, 0xcc, 0x90, 0xcc; code_cut: .byte 0xb8, 1, 2, 3, 4, 0xcc");    /* MOV AX, 0x1234; INT3: or MOV EAX; INT3 */
extern u8 code16[], code_cut[];        /* (Bochs does not look at a limit again where it has executed before) */

static int reads(u32 offset, int right)
{
    place = offset;
    int vector = compatible(read_fs);
    return right ? vector == VECTOR_OF : vector == VECTOR_GP && trap.error == 0;
}

static void compatibility(void)
{
    report_part("compatibility");
    test[0] = descriptor((word)&cell, 3, PRESENT | S | WRITABLE, B);
    seen_cell = 0;
    check("a segment's base", reads(0, 1) && seen_cell == cell);
    check("and limit", reads(0, 1) && reads(1, 0) && reads(0x1000, 0) && reads(0xffffffff, 0));
    test[0] = descriptor((word)&cell, 0, PRESENT | S | WRITABLE, B | G);
    check("a limit in pages", reads(0xffc, 1) && reads(0xffd, 0));
    test[0] = descriptor((word)&cell - 0x100, 0xff, PRESENT | S | WRITABLE | DOWN, B);
    check("an expand-down segment is above its limit", reads(0x100, 1) && reads(0xff, 0) && reads(0, 0));
    check("and ends at 4 GiB", reads(0xffffffff, 0));
    test[0] = descriptor((word)&cell - 0x100, 0xff, PRESENT | S | WRITABLE | DOWN, 0);
    check("or at 64 KiB", reads(0x100, 1) && reads(0xfffd, 0) && reads(0x10000, 0));
    test[0] = descriptor((word)&cell, 3, PRESENT | S, B);
    place = 0;
    check("a read-only segment", reads(0, 1) && compatible(write_fs) == VECTOR_GP && trap.error == 0);
    check("a null segment", compatible(null_ds) == VECTOR_GP && trap.error == 0);
    test[0] = descriptor((word)&cell, 3, PRESENT | S | CODE | READABLE, B);
    check("code that may be read", (place = 0, compatible(read_code)) == VECTOR_OF && (place = 4, compatible(read_code)) == VECTOR_GP);
    place = 77;
    check("no REX", compatible(no_rex) == VECTOR_OF && seen_cell == 77);
    check("no SWAPGS", compatible(swapgs_there) == VECTOR_UD);
    check("back to 64 bits by JMP", compatible(jump_back) == VECTOR_OF && seen_cell == 0x12 && trap.cs == CODE64);
    test[0] = descriptor((word)stacks[4], 0xffff, PRESENT | S | WRITABLE, 0);
    check("a stack of 16 bits", compatible(small_stack) == VECTOR_OF && seen_cell == 0xabcd000c && *(u32 *)(stacks[4] + 12) == 0x1234);
    test[0] = descriptor((word)stacks[4], 0xff, PRESENT | S | WRITABLE, B);
    check("a stack's end is #SS", (place = 0xfc, compatible(behind_stack)) == VECTOR_OF &&
          (place = 0xfd, compatible(behind_stack)) == VECTOR_SS && trap.error == 0);
    far.selector = TEST;
    far.offset = 0;
    test[0] = descriptor((word)code16, 0xffff, PRESENT | S | CODE, 0);
    check("code of 16 bits", trap_call(in_16_bits, 0) == VECTOR_BP && trap.cs == TEST && trap.rip == 4);
    test[0] = descriptor((word)code16, 0xffff, PRESENT | S | CODE, B);
    check("code of 32 bits", trap_call(in_16_bits, 0) == VECTOR_BP && trap.rip == 6);
    far.offset = 0x10;
    test[0] = descriptor((word)code16 - 0x10, 0xf, PRESENT | S | CODE, B);
    check("a jump behind the code's limit", trap_call(in_16_bits, 0) == VECTOR_GP && trap.error == 0);
    test[0] = descriptor((word)code_cut - 0x10, 0x12, PRESENT | S | CODE, B);
    check("code that runs into it", trap_call(in_16_bits, 0) == VECTOR_GP && trap.error == 0 && trap.cs == TEST && trap.rip == 0x10);
}

int main(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) pointer = { sizeof table - 1, (word)table };
    memcpy(table, gdt, 56);
    for (int ring = 0; ring < 3; ring++)
        tss.rsp[ring] = top(ring);
    tss.iomap = sizeof tss;
    asm volatile("lgdt %0" :: "m"(pointer));
    good_task();
    pml4[0] |= PAGE_U;
    pdpt[0] |= PAGE_U;
    directories[0] |= PAGE_U;
    write_cr3(read_cr3());
    asm volatile("lldt %w0" :: "r"(0));         /* after a reset there is one, at 0 */
    load_idt();
    queries();
    loads();
    transfers();
    system_segments();
    registers();
    bases();
    compatibility();
    return report_end("descriptors") ? 1 : 0;
}
