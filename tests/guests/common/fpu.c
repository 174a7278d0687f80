#include "fpu.h"
#include "trap.h"

enum { CPUID_XSAVE = 1 << 26 };            /* leaf 1, ECX */

static u64 supported(void)
{
    struct cpuid r = cpuid(0xd, 0);
    return ((u64)r.edx << 32 | r.eax) & (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX | XSTATE_AVX512 | XSTATE_PKRU);
}

u64 fpu_enable(void)
{
    write_cr0((read_cr0() & ~(word)(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
    write_cr4(read_cr4() | CR4_OSFXSR);
    if (!(cpuid(1, 0).ecx & CPUID_XSAVE))
        return 0;
    write_cr4(read_cr4() | CR4_OSXSAVE);
    xsetbv(0, supported());
    return supported();
}

static void set_pke(void *unused __attribute__((unused))) { write_cr4(read_cr4() | 1 << 22); }
int pkru_enable(void) { return trap_call(set_pke, 0) == NO_TRAP; }

void fpu_save(u8 *area, u64 components)
{
    if (components)
        asm volatile("xsave64 (%0)" :: "r"(area), "a"((u32)components), "d"((u32)(components >> 32)) : "memory");
    else
        asm volatile("fxsave64 (%0)" :: "r"(area) : "memory");
}

void fpu_load(const u8 *area, u64 components)
{
    if (components)
        asm volatile("xrstor64 (%0)" :: "r"(area), "a"((u32)components), "d"((u32)(components >> 32)) : "memory");
    else
        asm volatile("fxrstor64 (%0)" :: "r"(area) : "memory");
}

struct fpu_component fpu_component(u32 number)
{
    struct cpuid r = cpuid(0xd, number);
    return (struct fpu_component){ r.ebx, r.eax };
}
