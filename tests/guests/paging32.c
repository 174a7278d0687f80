/* paging32: what 32-bit paging and PAE paging promise: 4-KiB, 4-MiB and 2-MiB pages, accessed and dirty bits, rights of all levels, error
 * codes, CR2, CR0.WP, NX, SMEP, SMAP, reserved bits, global pages, CR4.PSE, PAE's four top entries; from one mode to the other, and
 * 5-level paging where it is offered. (paging has 4-level paging.)
 *
 * Each line of the report is one promise of a manual; it is the same on a bare PC and under a hypervisor.
 * QEMU's TCG deviates: the error code of a reserved bit has no P, and PAE's top entries are read at each walk, as SVM's nested paging does.
 * Source: Intel SDM Vol. 3A, "Paging", "Page-Level Protection".
 */
#include "runtime.h"
#include "report.h"
#include "trap32.h"

enum { A = 1 << 5, D = 1 << 6, GLOBAL = 1 << 8, RW = PAGE_P | PAGE_W, URW = RW | PAGE_U,
       P = 1, W = 2, U = 4, RSVD = 8, I = 16,                      /* error code */
       CR4_LA57 = 1 << 12, CR4_SMEP = 1 << 20, CR4_SMAP = 1 << 21, LONG_CODE = OTHER_TASK };
#define NX (1ull << 63)
#define WINDOW 0x80000000u                     /* virtual */
#define LARGE (WINDOW + (8u << 20))            /* a large page */
#define SECOND_LARGE (WINDOW + (12u << 20))
#define AT(page) (WINDOW + (page) * 4096u)

#define TABLE __attribute__((aligned(4096)))
static u32 directory[1024] TABLE, identity[1024] TABLE, alias[1024] TABLE;
static volatile u32 table[1024] TABLE;
static u64 pdpt[512] TABLE, pae_low[512] TABLE, pae_window[512] TABLE, pae_identity[2][512] TABLE;
static volatile u64 pae_table[512] TABLE;
static u64 pml5[512] TABLE, pml4[512] TABLE, long_pdpt[512] TABLE, long_window[512] TABLE, long_device[512] TABLE;
static u8 frame[2][4096] TABLE;
static int pae;                                /* the mode that is on */
static volatile u8 sink;

static void flush(void) { write_cr3(read_cr3()); }
static u64 entry(int page) { return pae ? pae_table[page] : table[page]; }
static void put(int page, u64 value)
{
    if (pae)
        pae_table[page] = value;
    else
        table[page] = value;
}
static void set(int page, u64 value)
{
    put(page, value);
    flush();
}
static u64 at_frame(int n, u64 rights) { return (word)frame[n] | rights; }

/* The entries of the level above: of the window's table, of our own memory, of two large pages. */
enum { WINDOW_TABLE, OURS, BIG, SECOND_BIG };
static void above(int which, u64 clear, u64 bits)
{
    static const int at[] = { WINDOW >> 22, 0, LARGE >> 22, SECOND_LARGE >> 22 };
    static const int pae_at[] = { 0, 0, (LARGE - WINDOW) >> 21, (SECOND_LARGE - WINDOW) >> 21 };
    if (pae) {
        u64 *entry = which == OURS ? pae_low : &pae_window[pae_at[which]];
        entry[0] = (entry[0] & ~clear) | bits;
        if (which == OURS)
            entry[1] = (entry[1] & ~clear) | bits;
    } else
        directory[at[which]] = (directory[at[which]] & ~clear) | bits;
    flush();
}
static u64 big(void) { return pae ? pae_window[(LARGE - WINDOW) >> 21] : directory[LARGE >> 22]; }

/* -- accesses --------------------------------------------------------------------------------------------------------------- */
static void load(void *at) { sink = *(volatile u8 *)at; }
static void store(void *at) { *(volatile u8 *)at = 0xc3; }
static void call(void *at) { ((void (*)(void))at)(); }
static void load_with_ac(void *at) { asm volatile(".byte 0x0f, 0x01, 0xcb; movb (%0), %%al; .byte 0x0f, 0x01, 0xca" :: "r"(at) : "eax"); }
u32 place;
__attribute__((naked)) static void user_load(void) { asm volatile("mov place, %eax; movb (%eax), %cl; int3"); }
__attribute__((naked)) static void user_store(void) { asm volatile("mov place, %eax; movb $0xc3, (%eax); int3"); }
__attribute__((naked)) static void user_call(void) { asm volatile("mov place, %eax; call *%eax; int3"); }

/* Did `how` at `at` work, or fault as it should? error < 0: it works. */
static int faults(void (*how)(void *), u32 at, int error)
{
    int vector = trap_call(how, (void *)at);
    return error < 0 ? vector == NO_TRAP : vector == VECTOR_PF && trap.error == (u32)error && trap.cr2 == at;
}
static int user(void (*how)(void), u32 at, int error)
{
    place = at;
    int vector = in_ring(3, how);
    return error < 0 ? vector == VECTOR_BP : vector == VECTOR_PF && trap.error == (u32)error && trap.cr2 == at;
}
static void to_cr3(void *value) { write_cr3((word)value); }
static void to_cr4(void *value) { write_cr4((word)value); }
static void to_cr0(void *value) { write_cr0((word)value); }
static int gp(void (*what)(void *), u32 value) { return trap_call(what, (void *)value) == VECTOR_GP && trap.error == 0; }

/* -- what both modes promise --------------------------------------------------------------------------------------------------- */
static void bits(const char *part)
{
    report_part(part);
    set(0, at_frame(0, RW));
    check("a new entry is clean", faults(load, AT(0), -1) && (entry(0) & (A | D)) == A);
    check("the level above is accessed", (pae ? pae_window[0] : directory[WINDOW >> 22]) & A);
    check("a write makes it dirty", faults(store, AT(0), -1) && (entry(0) & D));
    set(0, at_frame(0, RW | A));
    check("a write alone does both", faults(store, AT(0), -1) && (entry(0) & (A | D)) == (A | D));
    above(BIG, ~0ull, PAGE_PS | RW);
    check("a large page", faults(load, LARGE + 0x100000, -1) && *(u32 *)(LARGE + 0x100000) == *(u32 *)0x100000);
    check("has its own bits", (big() & (A | D)) == A && faults(store, LARGE + (u32)frame[1], -1) && (big() & D) && frame[1][0] == 0xc3);
    set(1, 0);
    check("a fault leaves no bit", faults(load, AT(1), 0) && entry(1) == 0);
}

static void rights(const char *part)
{
    word cr0 = read_cr0();
    report_part(part);
    set(1, 0);
    check("absent, read", faults(load, AT(1) + 0x123, 0));
    check("absent, write", faults(store, AT(1) + 0x123, W));
    check("absent, from ring 3", user(user_load, AT(1), U) && user(user_store, AT(1), U | W));
    set(1, at_frame(1, PAGE_P));
    check("ring 0 writes read-only pages without CR0.WP", faults(store, AT(1), -1) && (entry(1) & D));
    write_cr0(cr0 | CR0_WP);
    check("and does not with it", faults(store, AT(1), P | W) && faults(load, AT(1), -1));
    write_cr0(cr0);
    set(1, at_frame(1, RW));
    check("a supervisor page from ring 3", user(user_load, AT(1), P | U) && user(user_store, AT(1), P | U | W));
    set(1, at_frame(1, PAGE_P | PAGE_U));
    check("a read-only user page", user(user_load, AT(1), -1) && user(user_store, AT(1), P | U | W));
    set(1, at_frame(1, URW));
    check("a user page", user(user_load, AT(1), -1) && user(user_store, AT(1), -1));
    above(WINDOW_TABLE, PAGE_U, 0);
    check("both levels must say user", user(user_load, AT(1), P | U));
    above(WINDOW_TABLE, PAGE_W, PAGE_U);
    check("both levels must say writable", user(user_store, AT(1), P | U | W));
    above(WINDOW_TABLE, 0, PAGE_W);
    above(BIG, ~0ull, PAGE_PS | PAGE_P | PAGE_U);
    check("a large page has rights too", user(user_load, LARGE, -1) && user(user_store, LARGE, P | U | W));
    set(1, 0);
    check("an absent page is called", faults(call, AT(1), pae ? I : 0));
}

static void caching(const char *part)
{
    report_part(part);
    frame[0][0] = 1;
    frame[1][0] = 2;
    set(3, at_frame(0, RW));
    check("an entry", *(volatile u8 *)AT(3) == 1);
    put(3, at_frame(1, RW));
    asm volatile("invlpg (%0)" :: "r"(AT(3)) : "memory");
    check("INVLPG brings the new one", *(volatile u8 *)AT(3) == 2);
    set(3, at_frame(0, RW));
    check("so does CR3", *(volatile u8 *)AT(3) == 1);
    write_cr4(read_cr4() | CR4_PGE);
    set(3, at_frame(0, RW | GLOBAL));
    check("a global page", *(volatile u8 *)AT(3) == 1);
    put(3, at_frame(1, RW | GLOBAL));
    write_cr4(read_cr4() & ~(word)CR4_PGE);
    check("goes with CR4.PGE", *(volatile u8 *)AT(3) == 2);
    put(3, at_frame(0, RW));
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr0(read_cr0() | CR0_PG);
    check("and with CR0.PG", *(volatile u8 *)AT(3) == 1);
}

static void smep_smap(const char *part)
{
    report_part(part);
    word cr4 = read_cr4();
    frame[1][0] = 0xc3;
    set(1, at_frame(1, URW));
    above(OURS, PAGE_U, 0);                    /* SMEP would stop this function too */
    if (cpuid(7, 0).ebx >> 7 & 1) {
        write_cr4(cr4 | CR4_SMEP);
        check("SMEP: user code in ring 0", faults(call, AT(1), P | I));
        put(2, 0);
        check("SMEP: an absent page tells a fetch", faults(call, AT(2), I));
        write_cr4(cr4);
        check("nothing without CR4.SMEP", faults(call, AT(1), -1));
    } else {
        report_missing("SMEP: user code in ring 0");
        report_missing("SMEP: an absent page tells a fetch");
        report_missing("nothing without CR4.SMEP");
    }
    if (cpuid(7, 0).ebx >> 20 & 1) {
        write_cr4(cr4 | CR4_SMAP);
        check("SMAP: user data in ring 0", faults(load, AT(1), P) && faults(store, AT(1), P | W));
        check("SMAP: with AC set it may", faults(load_with_ac, AT(1), -1));
        write_cr4(cr4);
        check("nothing without CR4.SMAP", faults(load, AT(1), -1));
    } else {
        report_missing("SMAP: user data in ring 0");
        report_missing("SMAP: with AC set it may");
        report_missing("nothing without CR4.SMAP");
    }
    above(OURS, 0, PAGE_U);
}

/* -- 32-bit paging alone --------------------------------------------------------------------------------------------------------- */
static void pse(void)
{
    report_part("pse");
    above(BIG, ~0ull, PAGE_PS | RW | 1 << 21);
    check("bit 21 of a 4-MiB page is reserved", faults(load, LARGE, P | RSVD));
    for (int n = 0; n < 1024; n++)
        alias[n] = at_frame(1, RW);
    frame[1][0x10] = 0x77;
    above(BIG, ~0ull, (word)alias | PAGE_PS | RW);
    write_cr4(read_cr4() & ~(word)CR4_PSE);
    check("without CR4.PSE there is none", *(volatile u8 *)(LARGE + 0x10) == 0x77 && (alias[0] & A));
    write_cr4(read_cr4() | CR4_PSE);
    alias[0] = 0;
    above(BIG, ~0ull, PAGE_PS | RW | 4u << 20);
    check("one above 4 MiB", *(volatile u32 *)(LARGE + 0x100) == *(volatile u32 *)((4u << 20) + 0x100) && faults(store, LARGE + 0x100, -1)
          && *(volatile u8 *)((4u << 20) + 0x100) == 0xc3);
}

/* -- PAE alone -------------------------------------------------------------------------------------------------------------------- */
static void nx(void)
{
    report_part("pae-nx");
    frame[1][0] = 0xc3;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    set(1, at_frame(1, URW));
    check("without the bit", faults(call, AT(1), -1) && user(user_call, AT(1), -1));
    set(1, at_frame(1, URW) | NX);
    check("with it", faults(call, AT(1), P | I) && user(user_call, AT(1), P | U | I));
    check("data is data", faults(load, AT(1), -1));
    set(1, at_frame(1, URW));
    above(WINDOW_TABLE, 0, NX);
    check("of the level above", faults(call, AT(1), P | I));
    above(WINDOW_TABLE, NX, 0);
    set(1, at_frame(1, URW) | NX);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_NXE);
    flush();
    check("a reserved bit without EFER.NXE", faults(load, AT(1), P | RSVD));
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);

    report_part("pae-reserved");
    set(1, at_frame(1, URW) | 1ull << 62);
    check("bit 62 of an entry", faults(load, AT(1), P | RSVD) && faults(store, AT(1), P | RSVD | W));
    above(BIG, ~0ull, PAGE_PS | RW | 1 << 13);
    check("a low address bit of a 2-MiB page", faults(load, LARGE, P | RSVD));
    above(BIG, ~0ull, PAGE_PS | RW | 4ull << 20);
    check("a 2-MiB page above 4 MiB", *(volatile u32 *)(LARGE + 0x100) == *(volatile u32 *)((4u << 20) + 0x100));
}

static void top_entries(void)
{
    static const u64 reserved[] = { 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1ull << 62, NX };
    u64 entry = pdpt[2];
    report_part("pae-top");
    pdpt[2] = 0;
    flush();
    check("one that is not present", faults(load, AT(1), 0));
    pdpt[2] = 0xfffffffffffffffeull;
    check("may have any bits", trap_call(to_cr3, pdpt) == NO_TRAP);
    pdpt[2] = entry;
    flush();
    set(1, at_frame(1, URW));
    int right = 1;
    for (u32 n = 0; n < sizeof reserved / sizeof *reserved; n++) {
        pdpt[2] = entry | reserved[n];
        right &= gp(to_cr3, (word)pdpt);
    }
    check("reserved bits: #GP of MOV to CR3", right);
    check("and the old ones stay", faults(load, AT(1), -1));
    check("of MOV to CR4 that changes PGE", gp(to_cr4, read_cr4() ^ CR4_PGE) && gp(to_cr4, read_cr4() ^ CR4_PSE));
    check("of MOV to CR0 that changes CD", gp(to_cr0, read_cr0() ^ CR0_CD));
    pdpt[2] = 0;
    cpuid(0, 0);
    asm volatile("invlpg (%0)" :: "r"(AT(1)) : "memory");
    check("they are not read at a walk", faults(load, AT(1), -1));
    write_cr4(read_cr4() ^ CR4_PGE);
    check("MOV to CR4 reads them", faults(load, AT(1), 0));
    write_cr4(read_cr4() ^ CR4_PGE);
    pdpt[2] = entry;
    flush();
    check("MOV to CR3 does", faults(load, AT(1), -1));
    for (int n = 0; n < 4; n++)                /* another table, 32 bytes further */
        pdpt[4 + n] = n == 2 ? 0 : pdpt[n];
    write_cr3((word)&pdpt[4]);
    check("CR3 counts in 32 bytes", faults(load, AT(1), 0));
    write_cr3((word)pdpt);
    write_cr0(read_cr0() & ~CR0_PG);
    pdpt[3] = (word)pae_low | RW;
    write_cr3((word)pdpt);
    check("with paging off: #GP of the MOV to CR0 that turns it on", gp(to_cr0, read_cr0() | CR0_PG));
    pdpt[3] = 0;
    write_cr0(read_cr0() | CR0_PG);
}

/* -- from mode to mode ------------------------------------------------------------------------------------------------------------ */
static void to_mode(int to_pae)
{
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr4((read_cr4() & ~(word)CR4_PAE) | (to_pae ? CR4_PAE : CR4_PSE));
    write_cr3(to_pae ? (word)pdpt : (word)directory);
    pae = to_pae;
    write_cr0(read_cr0() | CR0_PG);
}

/* Long mode and back, with paging off before and after. long_does runs there with RDI = long_low | long_high << 32 and RSI = long_source |
 * long_source_high << 32; the first exception ends it, and is told. */
u32 long_low __attribute__((used)), long_high __attribute__((used)), long_source __attribute__((used)), long_source_high __attribute__((used));
u32 long_cr3 __attribute__((used)), long_cr4 __attribute__((used)), long_does __attribute__((used)), long_stack __attribute__((used));
u32 long_vector __attribute__((used)), long_error __attribute__((used)), long_value;
u64 long_cr2 __attribute__((used));
static u64 long_idt[2 * 32] __attribute__((aligned(16)));
struct { u16 limit; u64 base; } __attribute__((packed)) long_idtr __attribute__((used));
__attribute__((naked)) static void visit(void)
{
    asm volatile("push %ebx; push %esi; push %edi; push %ebp; mov %cr4, %eax; push %eax; or long_cr4, %eax; mov %eax, %cr4; mov long_cr3, %eax; mov %eax, %cr3;"
                 "mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr; mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0; mov %esp, long_stack;"
                 "ljmp $0x50, $1f;"
                 ".code64; 1: lidt long_idtr(%rip); mov long_low(%rip), %edi; mov long_high(%rip), %eax; shl $32, %rax; or %rax, %rdi;"
                 "mov long_source(%rip), %esi; mov long_source_high(%rip), %eax; shl $32, %rax; or %rax, %rsi; mov long_does(%rip), %eax; xor %edx, %edx; call *%rax;"
                 "4: mov long_stack(%rip), %esp; mov %edx, long_value(%rip); mov $2f, %ebx; ljmp *(%rbx);"
                 "fault_gp: movl $13, long_vector(%rip); jmp 5f; fault_ss: movl $12, long_vector(%rip); jmp 5f; fault_pf: movl $14, long_vector(%rip);"
                 "5: pop %rax; mov %eax, long_error(%rip); mov %cr2, %rax; mov %rax, long_cr2(%rip); jmp 4b; .code32; 2: .long 3f; .word 8;"
                 "3: mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0; mov $0xc0000080, %ecx; rdmsr; and $~0x100, %eax; wrmsr;"
                 "pop %eax; mov %eax, %cr4; pop %ebp; pop %edi; pop %esi; pop %ebx; ret");
}
asm(".code64; count: mov (%rdi), %edx; incl (%rdi); ret; read: mov (%rdi), %edx; ret; write: movl $7, (%rdi); ret; read_source: mov %edx, %eax; cpuid; mov (%rsi), %edx; ret; move: movsl; mov $1, %edx; ret;"
    "go: jmp *%rdi; clear_la57: mov %cr4, %rax; btr $12, %rax; mov %rax, %cr4; ret; .code32");
void count(void), read(void), read_source(void), write(void), move(void), go(void), clear_la57(void), fault_gp(void), fault_ss(void), fault_pf(void);

enum { FINE, SS = 12, GP = 13, PF = 14 };
/* What it comes to: FINE or a vector. */
static u32 visit_long_mode(void (*what)(void), u64 at)
{
    struct { u16 limit; u32 base; } __attribute__((packed)) idtr;
    asm volatile("sidt %0" : "=m"(idtr));
    long_does = (word)what;
    long_low = at;
    long_high = at >> 32;
    long_vector = FINE;
    visit();
    asm volatile("lidt %0" :: "m"(idtr));
    return long_vector;
}

static void long_gate(int vector, void (*handler)(void))
{
    word at = (word)handler;
    long_idt[2 * vector] = (at & 0xffff) | LONG_CODE << 16 | 0x8e00ull << 32 | (u64)(at >> 16) << 48;
}

#define UP(index) ((u64)(index) << 48)         /* entry `index` of the highest of five levels */
#define IOAPIC 0xfec00000u

static void five_levels(void)
{
    static const char *const lines[] = {
        "five", "five: the highest bit is the sign", "five: 57 bits and no more", "five: all of them in CR2", "five: the top level has rights", "five: PS of a PML5 entry",
        "five: a register of a device", "five: a string from a device", "five: to where it may not write", "five: a jump", "five: a register, from code up there", "five: a jump beyond them",
        "five: LA57 cannot go in long mode" };
    const char *const *line = lines;
    if (!(cpuid(7, 0).ecx >> 16 & 1)) {
        for (u32 n = 0; n < sizeof lines / sizeof lines[0]; n++)
            report_missing(lines[n]);
        return;
    }
    u64 buffer = UP(3) | 1ull << 39 | (word)frame[0], device = UP(3) | 1ull << 39 | 1 << 30 | (IOAPIC & 0x1fffff);
    word cr0 = read_cr0();
    long_cr3 = (word)pml5;
    long_cr4 = CR4_PAE | CR4_LA57;
    pml5[0] = pml5[3] = pml5[0x1ff] = pml5[0x100] = (word)pml4 | URW;
    *(u32 *)frame[0] = 42;
    check(*line++, visit_long_mode(count, buffer) == FINE && long_value == 42 && *(u32 *)frame[0] == 43 && (pml5[3] & A) && !(pml5[0x100] & A));
    check(*line++, visit_long_mode(count, 0xff00ull << 48 | (buffer & (UP(1) - 1))) == FINE && *(u32 *)frame[0] == 44 && (pml5[0x100] & A));
    check(*line++, visit_long_mode(read, UP(0x100) | (word)frame[0]) == GP && long_error == 0 && visit_long_mode(read, 0xfeffull << 48 | (word)frame[0]) == GP
          && visit_long_mode(read, 1ull << 63 | (word)frame[0]) == GP);
    check(*line++, visit_long_mode(read, UP(0x85) | 0x123) == PF && long_error == 0 && long_cr2 == (UP(0x85) | 0x123)
          && visit_long_mode(write, 0xff12ull << 48) == PF && long_error == W && long_cr2 == 0xff12ull << 48);
    write_cr0(cr0 | CR0_WP);
    pml5[3] = (word)pml4 | PAGE_P;
    check(*line++, visit_long_mode(write, buffer) == PF && long_error == (P | W) && visit_long_mode(read, buffer) == FINE);
    pml5[3] = (word)pml4 | URW;
    pml5[4] = (word)pml4 | URW | PAGE_PS;
    check(*line++, visit_long_mode(read, UP(4)) == PF && long_error == (P | RSVD));
    pml5[4] = 0;
    visit_long_mode(write, device);            /* of a register number */
    *(u32 *)frame[1] = 0;
    long_source = device;
    long_source_high = device >> 32;
    check(*line++, visit_long_mode(read, device) == FINE && long_value == 7);
    check(*line++, visit_long_mode(move, UP(3) | 1ull << 39 | (word)frame[1]) == FINE && *(u32 *)frame[1] == 7);
    pml5[4] = (word)pml4 | PAGE_P;
    int denied = visit_long_mode(move, UP(4) | 1ull << 39 | (word)frame[1]) == PF && long_error == (P | W) && long_cr2 == (UP(4) | 1ull << 39 | (word)frame[1]);
    check(*line++, denied && visit_long_mode(move, UP(0x100) | (word)frame[1]) == GP && visit_long_mode(move, UP(0x90)) == PF && long_error == W);
    pml5[4] = 0;
    write_cr0(cr0);
    check(*line++, visit_long_mode(go, UP(3) | (word)read) == FINE && long_value == *(u32 *)(word)read);
    check(*line++, visit_long_mode(go, UP(3) | (word)read_source) == FINE && long_value == 7);
    check(*line++, visit_long_mode(go, UP(0x100) | (word)frame[0]) == GP && long_error == 0);
    check(*line++, visit_long_mode(clear_la57, 0) == GP && long_error == 0);
}

static void long_modes(void)
{
    int offered = cpuid(7, 0).ecx >> 16 & 1;
    report_part("levels");
    write_cr0(read_cr0() & ~CR0_PG);
    word cr4 = read_cr4();
    check("CR4.LA57 is there if it is offered", (trap_call(to_cr4, (void *)(cr4 | CR4_LA57)) == NO_TRAP) == offered);
    write_cr4(cr4);
    check("and so are 57 linear bits", (cpuid(0x80000008, 0).eax >> 8 & 0xff) == (offered ? 57 : 48));
    gdt32[LONG_CODE / 8] = descriptor(0, 0xfffff, 0x9b, 0xa);
    long_gate(SS, fault_ss);
    long_gate(GP, fault_gp);
    long_gate(PF, fault_pf);
    long_idtr.limit = sizeof long_idt - 1;
    long_idtr.base = (word)long_idt;
    pml4[0] = pml4[1] = (word)long_pdpt | URW;
    long_pdpt[0] = (word)long_window | URW;
    long_pdpt[1] = (word)long_device | URW;
    long_window[0] = PAGE_PS | URW;
    long_device[0] = (IOAPIC & ~0x1fffffu) | PAGE_PS | RW | 1 << 4;
    *(u32 *)frame[0] = 41;
    long_cr3 = (word)pml4;
    long_cr4 = CR4_PAE;
    u64 at = 1ull << 39 | (word)frame[0];      /* entry 1 of PML4 */
    check("four, from 32-bit code and back", visit_long_mode(count, at) == FINE && long_value == 41 && *(u32 *)frame[0] == 42 && (pml4[1] & A));
    check("four: 48 bits and no more", visit_long_mode(read, UP(3) | at) == GP && long_error == 0 && visit_long_mode(read, 1ull << 47) == GP
          && visit_long_mode(read, 0xffffull << 48 | 0x80ull << 40) == PF);
    five_levels();
    write_cr3((word)(pae ? (void *)pdpt : (void *)directory));
    write_cr0(read_cr0() | CR0_PG);
}

int main(void)
{
    trap_init();
    for (u32 n = 0; n < 1024; n++) {
        identity[n] = n << 12 | URW;
        pae_identity[n / 512][n % 512] = n << 12 | URW;
    }
    directory[0] = (word)identity | URW;
    directory[1] = 4u << 20 | PAGE_PS | URW;
    directory[WINDOW >> 22] = (word)table | URW;
    pdpt[0] = (word)pae_low | PAGE_P;
    pdpt[2] = (word)pae_window | PAGE_P;
    pae_low[0] = (word)pae_identity[0] | URW;
    pae_low[1] = (word)pae_identity[1] | URW;
    pae_low[2] = 4u << 20 | PAGE_PS | URW;
    pae_window[0] = (word)pae_table | URW;
    if (cpuid(0x80000001, 0).edx >> 20 & 1)
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);

    to_mode(0);
    bits("bits");
    rights("rights");
    caching("tlb");
    smep_smap("smep-smap");
    pse();
    to_mode(1);
    bits("pae-bits");
    rights("pae-rights");
    nx();
    caching("pae-tlb");
    smep_smap("pae-smep-smap");
    top_entries();
    long_modes();
    to_mode(0);
    bits("32-bit-again");
    return report_end("paging32") ? 1 : 0;
}
