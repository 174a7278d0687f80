/* stale: look into every register before anybody has written it. What is not as the manual's reset
 * state says is somebody else's.
 *
 * gpr=1    the general registers must be zero too, but for EAX and EBX, which multiboot fills, and ESP.
 *          (A PC's firmware has used them.)
 * dirty=1  dirty a few first, to see the alarm ring
 */
#include "fpu.h"
#include "runtime.h"
#include "trap.h"

static u8 area[FPU_AREA] __attribute__((aligned(64)));
static u32 found;

static void expect(const char *name, u32 number, u64 value, u64 initial)
{
    if (value == initial)
        return;
    found++;
    print("stale: %s%u is %llx instead of %llx\n", name, number, value, initial);
}

static void look_at_general_registers(void)
{
    const struct entry_registers *e = &entry_registers;
    for (u32 i = 0; i < 8; i++)
        expect("r", i + 8, entry_high[i], 0);
    print("ecx %08x edx %08x esi %08x edi %08x ebp %08x esp %08x\n", e->ecx, e->edx, e->esi, e->edi, e->ebp, e->esp);
    if (!option("gpr", 0))
        return;
    expect("ecx", 0, e->ecx, 0);
    expect("edx", 0, e->edx, 0);
    expect("esi", 0, e->esi, 0);
    expect("edi", 0, e->edi, 0);
    expect("ebp", 0, e->ebp, 0);
}

static void look_at_control_registers(void)
{
    expect("cr", 2, read_cr2(), 0);
    expect("cr", 8, read_cr8(), 0);
    expect("dr", 0, read_dr0(), 0);
    expect("dr", 1, read_dr1(), 0);
    expect("dr", 2, read_dr2(), 0);
    expect("dr", 3, read_dr3(), 0);
    expect("dr", 6, read_dr6(), 0xffff0ff0);
    expect("dr", 7, read_dr7(), 0x400);
}

static void look_at_protection_keys(void)
{
    if (pkru_enable())
        expect("pkru", 0, rdpkru(), 0);
}

static const struct { u32 msr; const char *name; u64 initial; } msrs[] = {
    { 0x174, "SYSENTER_CS", 0 }, { 0x175, "SYSENTER_ESP", 0 }, { 0x176, "SYSENTER_EIP", 0 },
    { 0x1d9, "DEBUGCTL", 0 }, { 0x277, "PAT", 0x0007040600070406 },
    { 0xc0000081, "STAR", 0 }, { 0xc0000082, "LSTAR", 0 }, { 0xc0000083, "CSTAR", 0 }, { 0xc0000084, "SFMASK", 0 },
    { 0xc0000100, "FS_BASE", 0 }, { 0xc0000101, "GS_BASE", 0 }, { 0xc0000102, "KERNEL_GS_BASE", 0 },
    { 0xc0000103, "TSC_AUX", 0 },
};

static void look_at_msrs(void)
{
    u64 value;
    for (u32 i = 0; i < sizeof msrs / sizeof msrs[0]; i++)
        if (try_rdmsr(msrs[i].msr, &value))
            expect(msrs[i].name, 0, value, msrs[i].initial);
}

/* Two words of 64 bits at each register. */
static void look_at_vectors(const char *name, u32 offset, u32 count, u64 mask)
{
    const u64 *words = (const u64 *)(area + offset);
    for (u32 i = 0; i < count; i++)
        expect(name, i, words[2 * i] | (words[2 * i + 1] & mask), 0);
}

static void look_at_fpu(void)
{
    u64 components = fpu_enable();
    fpu_save(area, components);
    look_at_vectors("st", FX_ST, 8, 0xffff);
    look_at_vectors("xmm", FX_XMM, 16, ~0ull);
    expect("mxcsr", 0, *(u32 *)(area + FX_MXCSR), 0x1f80);
    for (u32 number = 2; number < 64; number++)
        if (components >> number & 1) {
            struct fpu_component c = fpu_component(number);
            for (u32 i = 0; i < c.size / 8; i++)
                expect("XSAVE component ", number, ((u64 *)(area + c.offset))[i], 0);
        }
}

static void make_dirty(void)
{
    u64 components = fpu_enable();
    asm volatile("pcmpeqd %xmm5, %xmm5; fninit; fldpi");
    if (components & XSTATE_AVX)
        asm volatile("vpcmpeqd %xmm1, %xmm1, %xmm1; vinsertf128 $1, %xmm1, %ymm3, %ymm3");
    write_dr2(0x5ec7e7);
    write_cr2(0x5ec7e7);
    wrmsr(0xc0000102, 0x5ec7e7);
    entry_high[3] = 0x5ec7e7;
    if (pkru_enable())
        wrpkru(0x5ec7e0);
}

int main(void)
{
    if (option("dirty", 0))
        make_dirty();
    look_at_general_registers();
    look_at_control_registers();
    look_at_msrs();
    look_at_fpu();
    look_at_protection_keys();
    print("stale: %u registers hold something\n", found);
    return found ? 1 : 0;
}
