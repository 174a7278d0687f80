/* The extended processor state as one block of memory: FXSAVE's 512 bytes, or XSAVE's standard form. */
#ifndef FPU_H
#define FPU_H
#include "machine.h"

enum { FPU_AREA = 4096 };
enum {                                     /* XCR0 and XSTATE_BV */
    XSTATE_X87 = 1, XSTATE_SSE = 2, XSTATE_AVX = 4, XSTATE_AVX512 = 0xe0, XSTATE_PKRU = 1 << 9,
};
enum { FX_FCW = 0, FX_FSW = 2, FX_FTW = 4, FX_MXCSR = 24, FX_ST = 32, FX_XMM = 160, XSAVE_HEADER = 512 };

/* Let the FPU work (CR0, CR4, XCR0 with all of x87, SSE, AVX, AVX-512, PKRU that there is).
 * Returns the components, or 0 where there is no XSAVE: then FXSAVE serves. */
u64 fpu_enable(void);
void fpu_save(u8 *area, u64 components);   /* area: FPU_AREA bytes, 64-byte aligned */
void fpu_load(const u8 *area, u64 components);
/* Offset and size of component 2..63 in the standard form. */
struct fpu_component { u32 offset, size; } fpu_component(u32 number);

static inline u64 xgetbv(u32 xcr)
{
    u32 low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(xcr));
    return (u64)high << 32 | low;
}

/* Needs CR4.PKE: 1 when it could be set. A processor may have it though CPUID hides it. */
int pkru_enable(void);

static inline u32 rdpkru(void)
{
    u32 value;
    asm volatile("rdpkru" : "=a"(value) : "c"(0) : "rdx");
    return value;
}

static inline void wrpkru(u32 value) { asm volatile("wrpkru" :: "a"(value), "c"(0), "d"(0) : "memory"); }

static inline void xsetbv(u32 xcr, u64 value)
{
    asm volatile("xsetbv" :: "c"(xcr), "a"((u32)value), "d"((u32)(value >> 32)));
}

#endif
