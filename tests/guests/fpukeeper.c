/* fpukeeper: fill every register that outlives an exit with a pattern of our own, and see whether
 * anything ever changes. Two of these with different seeds on one core prove that no register leaks.
 *
 * seed=1      the pattern
 * rounds=30   how often to verify;  loops=20000  turns of waiting in each round
 * disturb=N   change register number N in round 2, to see the alarm ring
 */
#include "fpu.h"
#include "runtime.h"
#include "trap.h"

static u8 wanted_fpu[FPU_AREA] __attribute__((aligned(64)));
static u8 found_fpu[FPU_AREA] __attribute__((aligned(64)));
static u64 components, random_state;
static u32 errors;

static u64 random64(void)                  /* xorshift64, Marsaglia 2003 */
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static void wrong(const char *name, u64 found, u64 wanted)
{
    errors++;
    print("fpukeeper: %s is %llx, was %llx\n", name, found, wanted);
}

/* Registers that are one number. */
enum kind { MSR, CR2, CR8, DR0, DR1, DR2, DR3, DR6, DR7, XCR0, PKRU };
#define CANONICAL 0x00007fffffffffffull

static struct plain {
    const char *name;
    enum kind kind;
    u32 msr;
    u64 mask, fixed;                       /* value = random & mask | fixed */
    u64 wanted;
    int absent;
} plain[] = {
    { "FS_BASE", MSR, 0xc0000100, CANONICAL, 0, 0, 0 },
    { "GS_BASE", MSR, 0xc0000101, CANONICAL, 0, 0, 0 },
    { "KERNEL_GS_BASE", MSR, 0xc0000102, CANONICAL, 0, 0, 0 },
    { "STAR", MSR, 0xc0000081, ~0ull, 0, 0, 0 },
    { "LSTAR", MSR, 0xc0000082, CANONICAL, 0, 0, 0 },
    { "CSTAR", MSR, 0xc0000083, CANONICAL, 0, 0, 0 },
    { "SFMASK", MSR, 0xc0000084, 0xffffffff, 0, 0, 0 },
    { "TSC_AUX", MSR, 0xc0000103, 0xffffffff, 0, 0, 0 },
    { "SYSENTER_CS", MSR, 0x174, 0xffff, 0, 0, 0 },
    { "SYSENTER_ESP", MSR, 0x175, CANONICAL, 0, 0, 0 },
    { "SYSENTER_EIP", MSR, 0x176, CANONICAL, 0, 0, 0 },
    /* Types 4 to 7 but for entry 0, which maps our own pages: write-back. */
    { "PAT", MSR, 0x277, 0x0101010101010100, 0x0606060606060606, 0, 0 },
    { "CR2", CR2, 0, ~0ull, 0, 0, 0 },
    { "CR8", CR8, 0, 15, 0, 0, 0 },
    { "DR0", DR0, 0, CANONICAL, 0, 0, 0 },
    { "DR1", DR1, 0, CANONICAL, 0, 0, 0 },
    { "DR2", DR2, 0, CANONICAL, 0, 0, 0 },
    { "DR3", DR3, 0, CANONICAL, 0, 0, 0 },
    { "DR6", DR6, 0, 15, 0xffff0ff0, 0, 0 },
    { "DR7", DR7, 0, 0x11110000, 0x400, 0, 0 },        /* nothing enabled; R/W 00 or 01, LEN 00 */
    { "XCR0", XCR0, 0, 0, 0, 0, 0 },
    { "PKRU", PKRU, 0, 0xfffffffc, 0, 0, 0 },          /* key 0 is our own pages' */
};
enum { PLAIN = sizeof plain / sizeof plain[0], CPUID_RDTSCP = 1 << 27, MSR_TSC_AUX = 0xc0000103 };

static u64 read_plain(const struct plain *p)
{
    switch (p->kind) {
    case MSR: return rdmsr(p->msr);
    case CR2: return read_cr2();
    case CR8: return read_cr8();
    case DR0: return read_dr0();
    case DR1: return read_dr1();
    case DR2: return read_dr2();
    case DR3: return read_dr3();
    case DR6: return read_dr6();
    case DR7: return read_dr7();
    case XCR0: return xgetbv(0);
    case PKRU: return rdpkru();
    }
    return 0;
}

static void write_plain(const struct plain *p, u64 value)
{
    switch (p->kind) {
    case MSR: wrmsr(p->msr, value); break;
    case CR2: write_cr2(value); break;
    case CR8: write_cr8(value); break;
    case DR0: write_dr0(value); break;
    case DR1: write_dr1(value); break;
    case DR2: write_dr2(value); break;
    case DR3: write_dr3(value); break;
    case DR6: write_dr6(value); break;
    case DR7: write_dr7(value); break;
    case XCR0: xsetbv(0, value); break;
    case PKRU: wrpkru(value); break;
    }
}

static int is_absent(const struct plain *p)
{
    u64 value;
    if (p->kind == XCR0)
        return !components;
    if (p->kind == PKRU)
        return !pkru_enable();
    if (p->kind != MSR)
        return 0;
    if (p->msr == MSR_TSC_AUX && !(cpuid(0x80000001, 0).edx & CPUID_RDTSCP))
        return 1;
    if (try_rdmsr(p->msr, &value) && try_wrmsr(p->msr, value))
        return 0;
    print("fpukeeper: no %s here\n", p->name);
    return 1;
}

static void fill_plain(void)
{
    for (struct plain *p = plain; p < plain + PLAIN; p++) {
        p->wanted = (random64() & p->mask) | p->fixed;
        p->absent = is_absent(p);
        if (p->kind == XCR0)
            p->wanted = components;
        if (!p->absent)
            write_plain(p, p->wanted);
    }
}

static void verify_plain(void)
{
    for (struct plain *p = plain; p < plain + PLAIN; p++)
        if (!p->absent && read_plain(p) != p->wanted)
            wrong(p->name, read_plain(p), p->wanted);
}

/* The FPU: x87 stack, control words, XMM, and whatever XSAVE knows besides. */
static void fill_bytes(u8 *to, u32 count)
{
    while (count--)
        *to++ = random64();
}

static u64 wanted_pkru(void)
{
    for (struct plain *p = plain; p < plain + PLAIN; p++)
        if (p->kind == PKRU && !p->absent)
            return p->wanted;
    return 0;
}

static void fill_fpu(void)
{
    memset(wanted_fpu, 0, FPU_AREA);
    *(u16 *)(wanted_fpu + FX_FCW) = 0x37f ^ (random64() & 0xc00);      /* rounding control */
    *(u16 *)(wanted_fpu + FX_FSW) = random64() & 0x3800;               /* top of stack */
    wanted_fpu[FX_FTW] = 0xff;                                         /* all eight in use */
    *(u32 *)(wanted_fpu + FX_MXCSR) = 0x1f80 ^ (random64() & 0x6000);  /* rounding control */
    for (int i = 0; i < 8; i++)
        fill_bytes(wanted_fpu + FX_ST + 16 * i, 10);
    fill_bytes(wanted_fpu + FX_XMM, 16 * 16);
    *(u64 *)(wanted_fpu + XSAVE_HEADER) = components;
    for (u32 number = 2; number < 64; number++)
        if (components >> number & 1)
            fill_bytes(wanted_fpu + fpu_component(number).offset, fpu_component(number).size);
    if (components & XSTATE_PKRU)
        *(u64 *)(wanted_fpu + fpu_component(9).offset) = wanted_pkru();
    fpu_load(wanted_fpu, components);
}

static void verify_bytes(const char *name, u32 number, u32 offset, u32 size)
{
    for (u32 i = offset; i < offset + size; i++)
        if (found_fpu[i] != wanted_fpu[i]) {
            print("fpukeeper: %s%u byte %u is %02x, was %02x\n", name, number, i - offset, found_fpu[i], wanted_fpu[i]);
            errors++;
            return;
        }
}

static void verify_fpu(void)
{
    memset(found_fpu, 0, FPU_AREA);
    fpu_save(found_fpu, components);
    verify_bytes("FCW", 0, FX_FCW, 2);
    verify_bytes("FSW", 0, FX_FSW, 2);
    verify_bytes("FTW", 0, FX_FTW, 1);
    verify_bytes("MXCSR", 0, FX_MXCSR, 4);
    for (u32 i = 0; i < 8; i++)
        verify_bytes("ST", i, FX_ST + 16 * i, 10);
    for (u32 i = 0; i < 16; i++)
        verify_bytes("XMM", i, FX_XMM + 16 * i, 16);
    for (u32 number = 2; number < 64; number++)
        if (components >> number & 1)
            verify_bytes("XSAVE component ", number, fpu_component(number).offset, fpu_component(number).size);
}

/* The general registers: full of patterns at the very instruction that exits. */
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, FLAGS = 16, GENERAL };
enum operation { OPERATION_IN, OPERATION_OUT, OPERATION_CPUID };
void exit_with_registers(const u64 *wanted, u64 *found, enum operation operation);      /* registers.S */
#define STATUS_FLAGS 0x8d5                 /* OF SF ZF AF PF CF */

static const char *const names[GENERAL] = { "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9",
                                            "R10", "R11", "R12", "R13", "R14", "R15", "RFLAGS" };

static void verify_general(enum operation operation)
{
    u64 wanted[GENERAL], found[GENERAL];
    for (int i = 0; i < GENERAL; i++)
        wanted[i] = random64();
    wanted[RDX] = PORT_UNCLAIMED;
    wanted[FLAGS] = (wanted[FLAGS] & STATUS_FLAGS) | 2;
    if (operation == OPERATION_CPUID) {
        wanted[RAX] &= 0xffffffff00000000;                             /* leaf 0 */
        wanted[RCX] = 0;
    }
    exit_with_registers(wanted, found, operation);
    if (operation == OPERATION_IN)
        wanted[RAX] |= 0xff;
    if (operation == OPERATION_CPUID) {
        struct cpuid r = cpuid(0, 0);                                  /* zero-extended, all four */
        wanted[RAX] = r.eax;
        wanted[RBX] = r.ebx;
        wanted[RCX] = r.ecx;
        wanted[RDX] = r.edx;
    }
    for (int i = 0; i < GENERAL; i++)
        if (i != RSP && found[i] != wanted[i])
            wrong(names[i], found[i], wanted[i]);
}

static void disturb(word number)
{
    if (number < PLAIN)
        write_plain(&plain[number], plain[number].wanted ^ (plain[number].kind == DR7 ? 1 << 16 : 1));
    else
        asm volatile("pcmpeqd %xmm7, %xmm7");
}

int main(void)
{
    word seed = option("seed", 1), rounds = option("rounds", 30), loops = option("loops", 20000);
    word victim = option("disturb", ~0ul);
    random_state = 0x9e3779b97f4a7c15ull * (seed + 1);
    components = fpu_enable();
    fill_plain();
    fill_fpu();
    print("fpukeeper: seed %lu, XSAVE components %llx\n", seed, components);
    for (word round = 1; round <= rounds && !errors; round++) {
        spin(loops);
        if (round == 2 && victim != ~0ul)
            disturb(victim);
        verify_general(OPERATION_IN);
        verify_general(OPERATION_OUT);
        verify_general(OPERATION_CPUID);
        verify_plain();
        verify_fpu();
    }
    print("fpukeeper: seed %lu, %u registers changed\n", seed, errors);
    return errors ? 1 : 0;
}
