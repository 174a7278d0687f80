/* What a guest needs from its processor: types, ports, CPUID, MSRs, control registers.
 * Everything here is one instruction; the names are the manuals'. */
#ifndef MACHINE_H
#define MACHINE_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long word;            /* one general register: 32 or 64 bits */

#define ALL_ONES(bits) ((u32)(0xffffffffu >> (32 - (bits))))

/* The platform's ports. */
enum {
    PORT_KEYBOARD = 0x64,              /* 0xfe pulses the reset line */
    PORT_EXIT = 0xf4,                  /* a byte or dword ends the VM with that status */
    PORT_COM1 = 0x3f8,
    PORT_RESET = 0xcf9,                /* 6: hard reset */
    PORT_UNCLAIMED = 0xe0,             /* nobody's on Bulkhead and on a PC */
};

#define PORT_IN(name, type, suffix)                                      \
    static inline type name(u16 port)                                    \
    {                                                                    \
        type value;                                                      \
        asm volatile("in" suffix " %1, %0" : "=a"(value) : "Nd"(port));  \
        return value;                                                    \
    }
#define PORT_OUT(name, type, suffix)                                     \
    static inline void name(u16 port, type value)                        \
    {                                                                    \
        asm volatile("out" suffix " %0, %1" :: "a"(value), "Nd"(port) : "memory"); \
    }
PORT_IN(in8, u8, "b")
PORT_IN(in16, u16, "w")
PORT_IN(in32, u32, "l")
PORT_OUT(out8, u8, "b")
PORT_OUT(out16, u16, "w")
PORT_OUT(out32, u32, "l")

struct cpuid { u32 eax, ebx, ecx, edx; };

static inline struct cpuid cpuid(u32 leaf, u32 subleaf)
{
    struct cpuid r;
    asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
    return r;
}

static inline u64 rdmsr(u32 msr)
{
    u32 low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (u64)high << 32 | low;
}

static inline void wrmsr(u32 msr, u64 value)
{
    asm volatile("wrmsr" :: "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

/* read_cr0(), write_cr0(v), read_dr7(), ...: one pair per register. */
#define REGISTER(name)                                                                     \
    static inline word read_##name(void)                                                   \
    { word v; asm volatile("mov %%" #name ", %0" : "=r"(v)); return v; }                   \
    static inline void write_##name(word v)                                                \
    { asm volatile("mov %0, %%" #name :: "r"(v) : "memory"); }
REGISTER(cr0) REGISTER(cr2) REGISTER(cr3) REGISTER(cr4)
#ifdef __x86_64__
REGISTER(cr8)
#endif
REGISTER(dr0) REGISTER(dr1) REGISTER(dr2) REGISTER(dr3) REGISTER(dr6) REGISTER(dr7)

enum {
    CR0_PE = 1, CR0_MP = 1 << 1, CR0_EM = 1 << 2, CR0_TS = 1 << 3, CR0_ET = 1 << 4, CR0_NE = 1 << 5,
    CR0_WP = 1 << 16, CR0_AM = 1 << 18, CR0_NW = 1 << 29, CR0_CD = 1 << 30,
    CR4_PSE = 1 << 4, CR4_PAE = 1 << 5, CR4_MCE = 1 << 6, CR4_PGE = 1 << 7, CR4_OSFXSR = 1 << 9,
    CR4_OSXMMEXCPT = 1 << 10, CR4_VMXE = 1 << 13, CR4_PCIDE = 1 << 17, CR4_OSXSAVE = 1 << 18,
    MSR_EFER = 0xc0000080,
    EFER_SCE = 1, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11, EFER_SVME = 1 << 12,
    PAGE_P = 1, PAGE_W = 2, PAGE_U = 4, PAGE_PS = 0x80,
};
#define CR0_PG 0x80000000u

/* Wait without an exit: two instructions a turn, interrupts or not. */
static inline void spin(word turns)
{
    if (turns)
        asm volatile("1: dec %0; jnz 1b" : "+r"(turns));
}

#endif
