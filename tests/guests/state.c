/* state: registers that only system software touches: CR0, CR4, CR8, EFER, XCR0, the state that XSAVE keeps, MSRs, the TSC.
 *
 * Each line of the report is one promise of a manual; it is the same on a bare PC and under a hypervisor. What a processor may have or
 * not is "not offered" in the report. Forbidden bits and modes (PG without PE, ...) are badmode's: QEMU's TCG would take them.
 * QEMU's TCG deviates: it checks hardly anything that WRMSR or MOV to CR8 write, knows no MSR 0x10, and its XSAVE ignores CR0.TS.
 * Sources: Intel SDM Vol. 1, "Managing State Using the XSAVE Feature Set"; Vol. 3A, "Control Registers"; Vol. 4; AMD64 APM Vol. 2.
 */
#include "runtime.h"
#include "report.h"
#include "trap.h"

enum { MSR_PAT = 0x277, MSR_FS_BASE = 0xc0000100, MSR_GS_BASE = 0xc0000101, MSR_KERNEL_GS_BASE = 0xc0000102, MSR_STAR = 0xc0000081,
       MSR_LSTAR = 0xc0000082, MSR_CSTAR = 0xc0000083, MSR_SFMASK = 0xc0000084, MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP = 0x175,
       MSR_SYSENTER_EIP = 0x176, MSR_APIC_BASE = 0x1b, MSR_TSC = 0x10, CR4_FSGSBASE = 1 << 16, CR4_TSD = 4,
       CR4_UMIP = 1 << 11, X87 = 1, SSE = 2, AVX = 4 };
#define NON_CANONICAL 0x0123456789abcdefull

#define MAKE(name) static void name(void *unused __attribute__((unused)))
static int gp(void (*what)(void *), u64 value) { return trap_call(what, (void *)value) == VECTOR_GP && trap.error == 0; }
static u32 works(void (*what)(void *), u64 value) { return trap_call(what, (void *)value) == NO_TRAP; }

static void to_cr0(void *value) { write_cr0((word)value); }
static void to_cr4(void *value) { write_cr4((word)value); }
static void to_cr8(void *value) { write_cr8((word)value); }

static void control(void)
{
    word cr0 = read_cr0(), cr4 = read_cr4();
    report_part("cr0");
    check("ET is always one", cr0 & CR0_ET);
    check("an upper half", gp(to_cr0, cr0 | 1ull << 32));
    check("CD reads back", works(to_cr0, cr0 | CR0_CD) && (read_cr0() & CR0_CD));
    write_cr0(cr0);
    check("NE, MP, AM and WP read back", works(to_cr0, cr0 ^ (CR0_NE | CR0_MP | CR0_AM | CR0_WP)) &&
          read_cr0() == (cr0 ^ (CR0_NE | CR0_MP | CR0_AM | CR0_WP)));
    write_cr0(cr0);
    u64 word0;
    asm volatile("smsw %0" : "=r"(word0));
    check("SMSW reads its lower half", (u16)word0 == (u16)cr0);
    asm volatile("lmsw %w0" :: "r"((u32)(cr0 | CR0_TS) & ~1));
    check("LMSW sets TS, and does not clear PE", (read_cr0() & (CR0_TS | CR0_PE)) == (CR0_TS | CR0_PE));
    asm volatile("clts");
    check("CLTS clears it", !(read_cr0() & CR0_TS));

    report_part("cr4");
    check("LA57 cannot change in long mode", gp(to_cr4, cr4 ^ 1 << 12));
    check("TSD, DE, PGE and MCE read back", works(to_cr4, cr4 ^ (CR4_TSD | 8 | CR4_PGE | CR4_MCE)) && read_cr4() == (cr4 ^ (CR4_TSD | 8 | CR4_PGE | CR4_MCE)));
    write_cr4(cr4);
    u32 has = cpuid(7, 0).ebx;
    check("a bit for each feature, and none without", works(to_cr4, cr4 | CR4_FSGSBASE) == (has & 1)
          && works(to_cr4, cr4 | 1 << 20) == (has >> 7 & 1) && works(to_cr4, cr4 | CR4_UMIP) == (cpuid(7, 0).ecx >> 2 & 1)
          && works(to_cr4, cr4 | CR4_OSXSAVE) == (cpuid(1, 0).ecx >> 26 & 1));
    write_cr4(cr4);
    check("CPUID's OSXSAVE follows", !(cpuid(1, 0).ecx >> 27 & 1));

    report_part("cr8");
    check("four bits", works(to_cr8, 15) && read_cr8() == 15 && works(to_cr8, 0) && gp(to_cr8, 16));
}

static void umip_sgdt(void) { asm volatile("sub $16, %rsp; sgdt (%rsp); add $16, %rsp; int $4"); }
static void umip_smsw(void) { asm volatile("smsw %%rax; int $4" ::: "rax"); }
static u8 user_stack[4096] __attribute__((aligned(16))), kernel_stack[4096] __attribute__((aligned(16)));
static void in_ring3(void *code)
{
    asm volatile("pushq %0; pushq %1; pushq $2; pushq %2; pushq %3; iretq"
                 :: "i"(USER_DATA), "r"((word)user_stack + 4096 - 64), "i"(USER_CODE64), "r"(code) : "memory");
}
static void user_rdtsc(void) { asm volatile("rdtsc; int $4" ::: "rax", "rdx"); }

static void umip(void)
{
    extern u64 pml4[512], pdpt[512], directories[2048];
    pml4[0] |= PAGE_U;
    pdpt[0] |= PAGE_U;
    directories[0] |= PAGE_U;
    write_cr3(read_cr3());
    trap_tss(kernel_stack + sizeof kernel_stack, 103);
    report_part("ring3");
    check("SGDT and SMSW", trap_call(in_ring3, umip_sgdt) == VECTOR_OF && trap_call(in_ring3, umip_smsw) == VECTOR_OF);
    check("RDTSC", trap_call(in_ring3, user_rdtsc) == VECTOR_OF);
    write_cr4(read_cr4() | CR4_TSD);
    check("not with CR4.TSD", trap_call(in_ring3, user_rdtsc) == VECTOR_GP);
    write_cr4(read_cr4() & ~(word)CR4_TSD);
    if (!(cpuid(7, 0).ecx >> 2 & 1)) {
        report_missing("SGDT and SMSW with CR4.UMIP");
        return;
    }
    write_cr4(read_cr4() | CR4_UMIP);
    check("SGDT and SMSW with CR4.UMIP", trap_call(in_ring3, umip_sgdt) == VECTOR_GP && trap_call(in_ring3, umip_smsw) == VECTOR_GP);
    write_cr4(read_cr4() & ~(word)CR4_UMIP);
}

/* -- FPU and XSAVE ------------------------------------------------------------------------------------------------------ */
static u8 area[4096] __attribute__((aligned(64))), other[4096] __attribute__((aligned(64)));
MAKE(fnop) { asm volatile("fnop"); }
MAKE(wait) { asm volatile("fwait"); }
MAKE(sse) { asm volatile("xorps %xmm0, %xmm0"); }
MAKE(xgetbv_0) { asm volatile("xgetbv" :: "c"(0) : "rax", "rdx"); }
MAKE(xgetbv_9) { asm volatile("xgetbv" :: "c"(9) : "rax", "rdx"); }
static void xsetbv(void *value) { asm volatile("xsetbv" :: "a"((u32)(word)value), "d"((u32)((word)value >> 32)), "c"(0)); }
MAKE(xsetbv_9) { asm volatile("xsetbv" :: "a"(1), "d"(0), "c"(9)); }
static void xrstor(void *from) { asm volatile("xrstor64 (%0)" :: "r"(from), "a"(-1), "d"(-1) : "memory"); }
static void xsave(void *to) { asm volatile("xsave64 (%0)" :: "r"(to), "a"(-1), "d"(-1) : "memory"); }
static void fxsave(void *to) { asm volatile("fxsave64 (%0)" :: "r"(to) : "memory"); }
static void fxrstor(void *from) { asm volatile("fxrstor64 (%0)" :: "r"(from) : "memory"); }
static u64 xcr0(void)
{
    u32 low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (u64)high << 32 | low;
}

static void fpu(void)
{
    word cr0 = read_cr0(), cr4 = read_cr4();
    report_part("fpu");
    write_cr0(cr0 | CR0_TS);
    check("TS: #NM", trap_call(fnop, 0) == VECTOR_NM);
    check("FWAIT needs MP for it", trap_call(wait, 0) == NO_TRAP);
    write_cr0(cr0 | CR0_TS | CR0_MP);
    check("and has it", trap_call(wait, 0) == VECTOR_NM);
    write_cr0(cr0 | CR0_EM);
    check("EM: #NM for the x87", trap_call(fnop, 0) == VECTOR_NM);
    write_cr4(cr4 | CR4_OSFXSR);
    check("EM: #UD for SSE", trap_call(sse, 0) == VECTOR_UD);
    write_cr0(cr0);
    write_cr4(cr4 & ~(word)CR4_OSFXSR);
    check("SSE without CR4.OSFXSR", trap_call(sse, 0) == VECTOR_UD);
    write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    u64 seen;
    asm volatile("fninit; mov $0x1234567, %%rax; movq %%rax, %%xmm9" ::: "rax");
    fxsave(area);
    asm volatile("pxor %xmm9, %xmm9");
    fxrstor(area);
    asm volatile("movq %%xmm9, %0" : "=r"(seen));
    check("FXSAVE and FXRSTOR keep XMM9", seen == 0x1234567 && *(u16 *)area == 0x37f);
    *(u32 *)(area + 24) = 0xffff0000;
    check("a reserved bit of MXCSR", gp(fxrstor, (word)area));
    *(u32 *)(area + 24) = 0x1f80;
    check("a misaligned area", gp(fxsave, (word)area + 8));
}

/* PKRU as a component. Source: Intel SDM Vol. 1, "Protection-Key State". */
static void key_component(u64 most)
{
    static const char *const lines[] = { "PKRU is a component", "and lies behind the others", "the size follows XCR0", "XSAVE has it", "XRSTOR brings it",
                                         "it is initial where XSTATE_BV does not name it", "XCR0 may have it or not" };
    enum { PKRU = 1 << 9 };
    struct cpuid r = cpuid(0xd, 9);
    int offered = cpuid(7, 0).ecx >> 3 & 1;
    report_part("xsave-keys");
    if (!offered || r.eax != 8) {
        for (u32 n = 0; n < sizeof lines / sizeof lines[0]; n++)
            report_missing(lines[n]);
        return;
    }
    const char *const *line = lines;
    u32 small = cpuid(0xd, 0).ebx, seen;
    check(*line++, cpuid(0xd, 0).eax >> 9 & 1 && !(r.ecx & 1));
    check(*line++, r.ebx >= small && r.ebx + 8 <= cpuid(0xd, 0).ecx && r.ebx + 8 <= sizeof area);
    xsetbv((void *)(most | PKRU));
    check(*line++, cpuid(0xd, 0).ebx == r.ebx + 8 && xcr0() == (most | PKRU));
    write_cr4(read_cr4() | 1 << 22);
    asm volatile("wrpkru" :: "a"(0x5ec7e0), "c"(0), "d"(0));
    memset(area, 0, sizeof area);
    xsave(area);
    check(*line++, *(u64 *)(area + 512) & PKRU && *(u64 *)(area + r.ebx) == 0x5ec7e0);
    *(u32 *)(area + r.ebx) = 0x1230;
    xrstor(area);
    asm volatile("rdpkru" : "=a"(seen) : "c"(0) : "rdx");
    check(*line++, seen == 0x1230);
    *(u64 *)(area + 512) &= ~(u64)PKRU;
    xrstor(area);
    asm volatile("rdpkru" : "=a"(seen) : "c"(0) : "rdx");
    check(*line++, seen == 0);
    write_cr4(read_cr4() & ~(word)(1 << 22));
    xsetbv((void *)(word)(X87 | PKRU));
    int alone = xcr0() == (X87 | PKRU);
    xsetbv((void *)most);
    check(*line++, alone && xcr0() == most && cpuid(0xd, 0).ebx == small && gp(xsetbv, PKRU));
}

static void xsaves(void)
{
    report_part("xsave");
    if (!(cpuid(1, 0).ecx >> 26 & 1)) {
        report_missing("it");
        return;
    }
    check("XGETBV without CR4.OSXSAVE", trap_call(xgetbv_0, 0) == VECTOR_UD);
    write_cr4(read_cr4() | CR4_OSXSAVE);
    check("CPUID says OSXSAVE", cpuid(1, 0).ecx >> 27 & 1);
    check("XCR0 is 1 at first", xcr0() == X87);
    u64 offered = cpuid(0xd, 0).eax;
    check("x87 and SSE are there", (offered & 3) == 3);
    check("x87 cannot go", gp(xsetbv, 0) && gp(xsetbv, SSE));
    check("AVX needs SSE", gp(xsetbv, X87 | AVX));
    check("what is not offered", gp(xsetbv, 1ull << 62) && gp(xsetbv, X87 | 1 << 20));
    check("no other register", gp(xsetbv_9, 0) && gp(xgetbv_9, 0));
    check("all this changed nothing", xcr0() == X87);
    u64 most = offered & (X87 | SSE | AVX);
    xsetbv((void *)most);
    check("it takes what is offered", xcr0() == most);
    check("the size of leaf 0xd", cpuid(0xd, 0).ebx <= sizeof area && cpuid(0xd, 0).ebx >= 576);
    memset(area, 0, sizeof area);
    u64 low, high = 0;
    asm volatile("mov $0x77, %%eax; movq %%rax, %%xmm5; pxor %%xmm6, %%xmm6" ::: "rax");
    if (most & AVX)
        asm volatile("vinsertf128 $1, %xmm5, %ymm5, %ymm5");
    xsave(area);
    check("XSTATE_BV says what is in use", (*(u64 *)(area + 512) & ~(u64)X87) == (most & ~(u64)X87));
    asm volatile("pxor %xmm5, %xmm5");
    if (most & AVX)
        asm volatile("vzeroall");
    xrstor(area);
    asm volatile("movq %%xmm5, %0" : "=r"(low));
    if (most & AVX)
        asm volatile("vextractf128 $1, %%ymm5, %%xmm5; movq %%xmm5, %0" : "=r"(high));
    check("XRSTOR brings all of it back", low == 0x77 && high == (most & AVX ? 0x77 : 0));
    memcpy(other, area, sizeof other);
    *(u64 *)(other + 512) = X87;
    xrstor(other);
    asm volatile("movq %%xmm5, %0" : "=r"(low));
    check("what XSTATE_BV does not name is initial", low == 0);
    *(u64 *)(other + 512) = 1ull << 62;
    check("a component that XCR0 does not have", gp(xrstor, (word)other));
    *(u64 *)(other + 512) = X87;
    *(u64 *)(other + 528) = 1;
    check("a header byte that must be zero", gp(xrstor, (word)other));
    check("a misaligned area", gp(xsave, (word)area + 16) && gp(xrstor, (word)area + 16));
    write_cr0(read_cr0() | CR0_TS);
    check("TS: #NM", trap_call(xsave, area) == VECTOR_NM);
    write_cr0(read_cr0() & ~(word)CR0_TS);
    if (cpuid(0xd, 1).eax & 1) {
        memset(area, 0, sizeof area);
        asm volatile("xsaveopt64 (%0)" :: "r"(area), "a"(-1), "d"(-1) : "memory");
        check("XSAVEOPT", (*(u64 *)(area + 512) & ~most) == 0);
    } else {
        report_missing("XSAVEOPT");
    }
    key_component(most);
    xsetbv((void *)X87);
    write_cr4(read_cr4() & ~(word)CR4_OSXSAVE);
}

/* -- MSRs --------------------------------------------------------------------------------------------------------------- */
static int keeps(u32 msr, u64 value)
{
    u64 old, seen;
    int right = try_rdmsr(msr, &old) && try_wrmsr(msr, value) && try_rdmsr(msr, &seen) && seen == value;
    try_wrmsr(msr, old);
    return right;
}

static u64 rdtsc(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static void msrs(void)
{
    u64 value, efer = rdmsr(MSR_EFER), base = rdmsr(MSR_APIC_BASE);
    report_part("msr");
    check("EFER says long mode", (efer & (EFER_LME | EFER_LMA)) == (EFER_LME | EFER_LMA));
    check("EFER's reserved bits", !try_wrmsr(MSR_EFER, efer | 1ull << 40) && !try_wrmsr(MSR_EFER, efer | 2));
    check("LME cannot go while paging is on", !try_wrmsr(MSR_EFER, efer & ~(u64)EFER_LME));
    check("LMA is read only", try_wrmsr(MSR_EFER, efer & ~(u64)EFER_LMA) && rdmsr(MSR_EFER) == efer);
    check("SCE and NXE read back", keeps(MSR_EFER, efer ^ (EFER_SCE | EFER_NXE)));
    check("PAT is as after a reset", rdmsr(MSR_PAT) == 0x0007040600070406ull);
    check("PAT takes types", keeps(MSR_PAT, 0x0001040500070406ull));
    check("and no others", !try_wrmsr(MSR_PAT, 2) && !try_wrmsr(MSR_PAT, 3ull << 56) && !try_wrmsr(MSR_PAT, 8 << 8));
    check("FS, GS and KERNEL_GS bases", keeps(MSR_FS_BASE, 0x123456789ab) && keeps(MSR_GS_BASE, ~0xfffull) && keeps(MSR_KERNEL_GS_BASE, 0x7fffffffffffull));
    check("are canonical", !try_wrmsr(MSR_FS_BASE, NON_CANONICAL) && !try_wrmsr(MSR_GS_BASE, NON_CANONICAL) && !try_wrmsr(MSR_KERNEL_GS_BASE, NON_CANONICAL));
    wrmsr(MSR_GS_BASE, 0x1000);
    wrmsr(MSR_KERNEL_GS_BASE, 0x2000);
    asm volatile("swapgs");
    check("SWAPGS exchanges two of them", rdmsr(MSR_GS_BASE) == 0x2000 && rdmsr(MSR_KERNEL_GS_BASE) == 0x1000);
    check("STAR, LSTAR, CSTAR, SFMASK", keeps(MSR_STAR, 0x1b000800000000ull) && keeps(MSR_LSTAR, 0xffffffff80001234ull)
          && keeps(MSR_CSTAR, 0x1234) && keeps(MSR_SFMASK, 0x47700));
    check("LSTAR and CSTAR are canonical", !try_wrmsr(MSR_LSTAR, NON_CANONICAL) && !try_wrmsr(MSR_CSTAR, NON_CANONICAL));
    check("SYSENTER's three", keeps(MSR_SYSENTER_CS, 0x10) && keeps(MSR_SYSENTER_ESP, 0x12345678) && keeps(MSR_SYSENTER_EIP, 0x87654321));
    check("an MSR that is none", !try_rdmsr(0x12345, &value) && !try_wrmsr(0x12345, 0) && !try_rdmsr(0xc0009999, &value));
    check("APIC_BASE's reserved bits", !try_wrmsr(MSR_APIC_BASE, base | 1) && !try_wrmsr(MSR_APIC_BASE, base | 1ull << 60));
    u64 first = rdtsc(), middle = rdmsr(MSR_TSC), last = rdtsc();
    check("the TSC goes on", last > first);
    check("MSR 0x10 is the TSC", first <= middle && middle <= last);
    u32 low, high, aux;
    if (cpuid(0x80000001, 0).edx >> 27 & 1) {
        wrmsr(0xc0000103, 7);
        asm volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
        check("RDTSCP", aux == 7);
    } else {
        report_missing("RDTSCP");
    }

    report_part("x2apic");
    if (!(cpuid(1, 0).ecx >> 21 & 1)) {
        report_missing("not without the mode");
        report_missing("registers");
        report_missing("no way back but off");
        return;
    }
    check("not without the mode", !try_rdmsr(0x802, &value));
    check("registers", try_wrmsr(MSR_APIC_BASE, base | 1 << 10) && try_rdmsr(0x803, &value) && (value & 0xff) >= 0x10 && !try_wrmsr(0x803, 0));
    check("no way back but off", !try_wrmsr(MSR_APIC_BASE, base) && try_wrmsr(MSR_APIC_BASE, base & ~(u64)(1 << 11))
          && !try_wrmsr(MSR_APIC_BASE, base | 1 << 10) && try_wrmsr(MSR_APIC_BASE, base));
}

int main(void)
{
    control();
    umip();
    fpu();
    xsaves();
    msrs();
    return report_end("state") ? 1 : 0;
}
