/* paging: what 4-level page tables promise: accessed and dirty bits, rights of all levels, error codes and CR2, NX, reserved bits,
 * large and global pages, INVLPG, SMEP, SMAP, protection keys.
 *
 * Each line of the report is one promise of a manual; it is the same on a bare PC and under a hypervisor.
 * QEMU's TCG deviates: the error code of a reserved bit has no P.
 * Source: Intel SDM Vol. 3A, "Paging", "Page-Level Protection".
 */
#include "runtime.h"
#include "report.h"
#include "trap.h"

enum { A = 1 << 5, D = 1 << 6, G = 1 << 8, RW = PAGE_P | PAGE_W, URW = RW | PAGE_U,
       P = 1, W = 2, U = 4, RSVD = 8, I = 16, PK = 32,             /* error code */
       CR4_SMEP = 1 << 20, CR4_SMAP = 1 << 21, CR4_PKE = 1 << 22 };
#define NX (1ull << 63)
#define WINDOW (1ull << 39)                    /* virtual: PML4 entry 1 */
#define LARGE (WINDOW + (2ull << 20))          /* the second 2 MiB of it */
#define GIGA (WINDOW + (1ull << 30))
#define AT(page) (WINDOW + (page) * 4096ull)
#define IOAPIC 0xfec00000ull

extern u64 pml4[512], pdpt[512], directories[2048];
static u64 window_pdpt[512] __attribute__((aligned(4096))), window_directory[512] __attribute__((aligned(4096)));
static volatile u64 window_table[512] __attribute__((aligned(4096)));
static u8 frame[2][4096] __attribute__((aligned(4096)));
static u8 user_stack[4096] __attribute__((aligned(16))), kernel_stack[4096] __attribute__((aligned(16)));
static volatile u8 sink;

static void flush(void) { write_cr3(read_cr3()); }
static void set(int page, u64 entry)
{
    window_table[page] = entry;
    flush();
}
static u64 at_frame(int n, u64 rights) { return (word)frame[n] | rights; }

static void load(void *at) { sink = *(volatile u8 *)at; }
static void store(void *at) { *(volatile u8 *)at = 0xc3; }
static void call(void *at) { ((void (*)(void))at)(); }
/* One instruction with two operands, of which a device is one. */
static void from_device(void *at)
{
    word source = AT(5);
    asm volatile("movsl" : "+D"(at), "+S"(source) :: "memory");
}
static void load_with_ac(void *at)
{
    asm volatile("stac");
    load(at);
    asm volatile("clac");
}

/* Ring 3 does one thing at `place`, and comes back by INT 4. */
u64 place;
static void user_load(void) { asm volatile("mov place, %%rax; movb (%%rax), %%cl; int $4" ::: "rax", "rcx"); }
static void user_store(void) { asm volatile("mov place, %%rax; movb $0xc3, (%%rax); int $4" ::: "rax"); }
static void user_call(void) { asm volatile("mov place, %%rax; call *%%rax; int $4" ::: "rax"); }
static void user_keys(void) { asm volatile("xor %%ecx, %%ecx; xor %%edx, %%edx; mov $0x10, %%eax; wrpkru; int $4" ::: "rax", "rcx", "rdx"); }
static void in_ring3(void *code)
{
    asm volatile("pushq %0; pushq %1; pushq %2; pushq %3; pushq %4; iretq"
                 :: "i"(USER_DATA), "r"((word)user_stack + 4096 - 64), "r"(2ull), "i"(USER_CODE64), "r"(code) : "memory");
}

/* Did `how` at `at` work, or fault as it should? error < 0: it works. */
static int faults(void (*how)(void *), u64 at, int error)
{
    int vector = trap_call(how, (void *)at);
    return error < 0 ? vector == NO_TRAP : vector == VECTOR_PF && trap.error == (u64)error && trap.cr2 == at;
}
static int user(void (*how)(void), u64 at, int error)
{
    place = at;
    int vector = trap_call(in_ring3, (void *)how);
    return error < 0 ? vector == VECTOR_OF : vector == VECTOR_PF && trap.error == (u64)error && trap.cr2 == at;
}

static void bits(void)
{
    report_part("bits");
    set(0, at_frame(0, RW));
    check("a new entry is clean", faults(load, AT(0), -1) && (window_table[0] & (A | D)) == A);
    check("the levels above are accessed", (pml4[1] & A) && (window_pdpt[0] & A) && (window_directory[0] & A));
    check("a write makes it dirty", faults(store, AT(0), -1) && (window_table[0] & D));
    set(0, at_frame(0, RW | A));
    check("a write alone does both", faults(store, AT(0), -1) && (window_table[0] & (A | D)) == (A | D));
    window_directory[1] = PAGE_PS | RW;
    flush();
    check("a 2-MiB page", faults(load, LARGE + 0x100000, -1) && *(u32 *)(LARGE + 0x100000) == *(u32 *)0x100000);
    check("has its own bits", (window_directory[1] & (A | D)) == A);
    set(1, 0);
    check("a fault leaves no bit", faults(load, AT(1), 0) && window_table[1] == 0);
}

static void rights(void)
{
    word cr0 = read_cr0();
    report_part("rights");
    set(1, 0);
    check("absent, read", faults(load, AT(1) + 0x123, 0));
    check("absent, write", faults(store, AT(1) + 0x123, W));
    check("absent, from ring 3", user(user_load, AT(1), U) && user(user_store, AT(1), U | W));
    set(1, at_frame(1, PAGE_P));
    write_cr0(cr0 & ~(word)CR0_WP);
    check("ring 0 writes read-only pages without CR0.WP", faults(store, AT(1), -1) && (window_table[1] & D));
    write_cr0(cr0 | CR0_WP);
    check("and does not with it", faults(store, AT(1), P | W) && faults(load, AT(1), -1));
    write_cr0(cr0);
    set(1, at_frame(1, RW));
    check("a supervisor page from ring 3", user(user_load, AT(1), P | U) && user(user_store, AT(1), P | U | W));
    set(1, at_frame(1, PAGE_P | PAGE_U));
    check("a read-only user page", user(user_load, AT(1), -1) && user(user_store, AT(1), P | U | W));
    set(1, at_frame(1, URW));
    check("a user page", user(user_load, AT(1), -1) && user(user_store, AT(1), -1));
    window_directory[0] &= ~(u64)PAGE_U;
    flush();
    check("all levels must say user", user(user_load, AT(1), P | U));
    window_directory[0] |= PAGE_U;
    window_directory[0] &= ~(u64)PAGE_W;
    flush();
    check("all levels must say writable", user(user_store, AT(1), P | U | W));
    window_directory[0] |= PAGE_W;

    report_part("nx");
    frame[1][0] = 0xc3;
    set(1, at_frame(1, URW));
    check("without the bit", faults(call, AT(1), -1) && user(user_call, AT(1), -1));
    set(1, at_frame(1, URW) | NX);
    check("with it", faults(call, AT(1), P | I) && user(user_call, AT(1), P | U | I));
    check("data is data", faults(load, AT(1), -1));
    set(1, at_frame(1, URW));
    window_directory[0] |= NX;
    flush();
    check("of a level above", faults(call, AT(1), P | I));
    window_directory[0] &= ~NX;
    set(1, 0);
    check("an absent page is a fetch as well", faults(call, AT(1), I));
    set(1, at_frame(1, URW) | NX);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_NXE);
    flush();
    check("a reserved bit without EFER.NXE", faults(load, AT(1), P | RSVD));
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);

    report_part("reserved");
    set(1, at_frame(1, URW) | 1ull << 51);
    if ((cpuid(0x80000008, 0).eax & 0xff) < 52)
        check("an address bit beyond the processor's", faults(load, AT(1), P | RSVD) && faults(store, AT(1), P | RSVD | W));
    else
        report_missing("an address bit beyond the processor's");
    set(1, at_frame(1, URW));
    window_directory[2] = PAGE_PS | RW | 1 << 13;
    flush();
    check("a low address bit of a 2-MiB page", faults(load, WINDOW + (4ull << 20), P | RSVD));
    pml4[2] = (word)window_pdpt | URW | PAGE_PS;
    flush();
    check("PS of a PML4 entry", faults(load, 2 * WINDOW, P | RSVD));
    pml4[2] = 0;
}

static void giga(void)
{
    report_part("1-gib");
    if (!(cpuid(0x80000001, 0).edx >> 26 & 1)) {
        report_missing("pages");
        report_missing("reserved bits");
        return;
    }
    window_pdpt[1] = PAGE_PS | RW;
    flush();
    check("pages", faults(load, GIGA + 0x100000, -1) && *(u32 *)(GIGA + 0x100000) == *(u32 *)0x100000);
    check("reserved bits", (window_pdpt[1] = PAGE_PS | RW | 1 << 21, flush(), faults(load, GIGA, P | RSVD)));
    window_pdpt[1] = 0;
    flush();
}

static void caching(void)
{
    report_part("tlb");
    frame[0][0] = 1;
    frame[1][0] = 2;
    set(3, at_frame(0, RW));
    check("an entry", *(volatile u8 *)AT(3) == 1);
    window_table[3] = at_frame(1, RW);
    asm volatile("invlpg (%0)" :: "r"(AT(3)) : "memory");
    check("INVLPG brings the new one", *(volatile u8 *)AT(3) == 2);
    set(3, at_frame(0, RW));
    check("so does CR3", *(volatile u8 *)AT(3) == 1);
    write_cr4(read_cr4() | CR4_PGE);
    set(3, at_frame(0, RW | G));
    check("a global page", *(volatile u8 *)AT(3) == 1);
    window_table[3] = at_frame(1, RW | G);
    write_cr4(read_cr4() & ~(word)CR4_PGE);
    check("goes with CR4.PGE", *(volatile u8 *)AT(3) == 2);
    window_table[3] = 0;
    asm volatile("invlpg (%0)" :: "r"(AT(3)) : "memory");
    check("and with INVLPG", faults(load, AT(3), 0));
    asm volatile("invlpg (%0)" :: "r"(0x0123456789abcdefull) : "memory");
    check("INVLPG of a non-canonical address does nothing", 1);
}

static void smep(void)
{
    report_part("smep");
    if (!(cpuid(7, 0).ebx >> 7 & 1)) {
        report_missing("user code in ring 0");
        report_missing("user data is still data");
        report_missing("nothing without CR4.SMEP");
        return;
    }
    frame[1][0] = 0xc3;
    set(1, at_frame(1, URW));
    word cr4 = read_cr4();
    /* Our own image is a user page: this function would fault too, so the bit is set with supervisor rights. */
    directories[0] &= ~(u64)PAGE_U;
    flush();
    write_cr4(cr4 | CR4_SMEP);
    check("user code in ring 0", faults(call, AT(1), P | I));
    check("user data is still data", faults(load, AT(1), -1));
    write_cr4(cr4);
    check("nothing without CR4.SMEP", faults(call, AT(1), -1));
    directories[0] |= PAGE_U;
    flush();
}

static void smap(void)
{
    report_part("smap");
    if (!(cpuid(7, 0).ebx >> 20 & 1)) {
        report_missing("user data in ring 0");
        report_missing("with AC set it may");
        report_missing("nothing without CR4.SMAP");
        return;
    }
    set(1, at_frame(1, URW));
    word cr4 = read_cr4();
    directories[0] &= ~(u64)PAGE_U;
    flush();
    write_cr4(cr4 | CR4_SMAP);
    check("user data in ring 0", faults(load, AT(1), P) && faults(store, AT(1), P | W));
    check("with AC set it may", faults(load_with_ac, AT(1), -1));
    write_cr4(cr4);
    check("nothing without CR4.SMAP", faults(load, AT(1), -1));
    directories[0] |= PAGE_U;
    flush();
}

static u32 rdpkru_is;
static void rdpkru(void *unused __attribute__((unused))) { asm volatile("rdpkru" : "=a"(rdpkru_is) : "c"(0) : "rdx"); }
static void wrpkru(void *value) { asm volatile("wrpkru" :: "a"((u32)(word)value), "c"(0), "d"(0) : "memory"); }
static void wrpkru_1(void *unused __attribute__((unused))) { asm volatile("wrpkru" :: "a"(0), "c"(1), "d"(0) : "memory"); }
static void wrpkru_high(void *unused __attribute__((unused))) { asm volatile("wrpkru" :: "a"(0), "c"(0), "d"(1) : "memory"); }
static void keys_deny(u32 what, u32 key) { wrpkru((void *)(word)(what << 2 * key)); }
enum { NO_ACCESS = 1, NO_WRITE = 2 };
#define KEY(n) ((u64)(n) << 59)

/* CR4.PKE and PKRU of long mode's user pages. Source: Intel SDM Vol. 3A, "Protection Keys". */
static void pku(void)
{
    static const char *const lines[] = {
        "CPUID says OSPKE", "RDPKRU and WRPKRU without CR4.PKE", "none of their other registers", "PKRU", "no access", "no writes",
        "from ring 3", "another page's key", "key 0", "ring 0 writes without CR0.WP", "code may be fetched", "a supervisor page has none",
        "and an absent one", "a read-only page", "a 2-MiB page", "WRPKRU in ring 3", "a string from a device",
        "nothing without CR4.PKE" };
    report_part("pku");
    if (!(cpuid(7, 0).ecx >> 3 & 1)) {
        for (u32 n = 0; n < sizeof lines / sizeof lines[0]; n++)
            report_missing(lines[n]);
        return;
    }
    word cr0 = read_cr0();
    const char *const *line = lines;
    int off = !(cpuid(7, 0).ecx >> 4 & 1);
    int undefined = trap_call(rdpkru, 0) == VECTOR_UD && trap_call(wrpkru, 0) == VECTOR_UD;
    write_cr4(read_cr4() | CR4_PKE);
    check(*line++, off && cpuid(7, 0).ecx >> 4 & 1);
    check(*line++, undefined);
    check(*line++, trap_call(wrpkru_1, 0) == VECTOR_GP && trap_call(wrpkru_high, 0) == VECTOR_GP);
    wrpkru((void *)0xfffffffcul);              /* key 0 is our own pages' */
    check(*line++, trap_call(rdpkru, 0) == NO_TRAP && rdpkru_is == 0xfffffffc);
    frame[1][0] = 0xc3;
    set(1, at_frame(1, URW) | KEY(5));
    set(4, at_frame(0, URW) | KEY(15));
    keys_deny(NO_ACCESS, 5);
    check(*line++, faults(load, AT(1), P | PK) && faults(store, AT(1), P | W | PK));
    keys_deny(NO_WRITE, 5);
    write_cr0(cr0 | CR0_WP);
    check(*line++, faults(load, AT(1), -1) && faults(store, AT(1), P | W | PK));
    int writes = user(user_store, AT(1), P | U | W | PK) && user(user_load, AT(1), -1);
    keys_deny(NO_ACCESS, 5);
    check(*line++, writes && user(user_load, AT(1), P | U | PK));
    check(*line++, faults(load, AT(4), -1) && faults(store, AT(4), -1) && (keys_deny(NO_ACCESS, 15), faults(load, AT(4), P | PK)) && faults(load, AT(1), -1));
    directories[0] &= ~(u64)PAGE_U;            /* our own image is a user page with key 0 */
    set(1, at_frame(1, URW));
    keys_deny(NO_ACCESS, 0);
    int zero = faults(load, AT(1), P | PK);
    wrpkru(0);
    directories[0] |= PAGE_U;
    flush();
    check(*line++, zero && faults(load, AT(1), -1));
    set(1, at_frame(1, URW) | KEY(5));
    keys_deny(NO_WRITE, 5);
    write_cr0(cr0 & ~(word)CR0_WP);
    check(*line++, faults(store, AT(1), -1) && user(user_store, AT(1), P | U | W | PK));
    write_cr0(cr0);
    keys_deny(NO_ACCESS | NO_WRITE, 5);
    frame[1][0] = 0xc3;
    check(*line++, faults(call, AT(1), -1) && user(user_call, AT(1), -1));
    set(1, at_frame(1, RW) | KEY(5));
    check(*line++, faults(load, AT(1), -1) && faults(store, AT(1), -1) && user(user_load, AT(1), P | U));
    set(1, KEY(5));
    check(*line++, faults(load, AT(1), 0));
    set(1, at_frame(1, PAGE_P | PAGE_U) | KEY(5));
    write_cr0(cr0 | CR0_WP);
    keys_deny(NO_WRITE, 6);
    check(*line++, faults(store, AT(1), P | W) && faults(load, AT(1), -1));
    write_cr0(cr0);
    window_directory[1] = PAGE_PS | URW | KEY(9);
    flush();
    keys_deny(NO_ACCESS, 9);
    int large = faults(load, LARGE + 0x100000, P | PK);
    keys_deny(NO_WRITE, 9);
    check(*line++, large && faults(load, LARGE + 0x100000, -1));
    wrpkru(0);
    int ring3 = trap_call(in_ring3, (void *)user_keys) == VECTOR_OF;
    rdpkru(0);
    check(*line++, ring3 && rdpkru_is == 0x10);
    set(5, IOAPIC | RW | 1 << 4);
    set(1, at_frame(1, URW) | KEY(5));
    write_cr0(cr0 | CR0_WP);
    keys_deny(NO_WRITE, 5);
    int string = faults(from_device, AT(1), P | W | PK);
    keys_deny(NO_ACCESS, 6);
    *(volatile u32 *)AT(5) = 1;                /* its version */
    *(u32 *)frame[1] = 0;
    check(*line++, string && faults(from_device, AT(1), -1) && *(u32 *)frame[1] == 1);
    write_cr0(cr0);
    set(1, at_frame(1, URW) | KEY(5));
    keys_deny(NO_ACCESS | NO_WRITE, 5);
    write_cr4(read_cr4() & ~(word)CR4_PKE);
    flush();
    check(*line++, faults(load, AT(1), -1) && faults(store, AT(1), -1) && !(cpuid(7, 0).ecx >> 4 & 1));
    write_cr4(read_cr4() | CR4_PKE);
    wrpkru(0);
    write_cr4(read_cr4() & ~(word)CR4_PKE);
}

int main(void)
{
    pml4[1] = (word)window_pdpt | URW;
    window_pdpt[0] = (word)window_directory | URW;
    window_directory[0] = (word)window_table | URW;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    pml4[0] |= PAGE_U;
    pdpt[0] |= PAGE_U;
    directories[0] |= PAGE_U;
    flush();
    trap_tss(kernel_stack + sizeof kernel_stack, 103);
    bits();
    rights();
    giga();
    caching();
    smep();
    smap();
    pku();
    return report_end("paging") ? 1 : 0;
}
