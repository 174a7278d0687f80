/* Privileged instructions of ring 0, one function each. */
#ifndef BULKHEAD_HW_CPU_H
#define BULKHEAD_HW_CPU_H

typedef unsigned long bh_word;

static inline bh_word bh_rdmsr(bh_word number)
{
    unsigned int low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"((unsigned int)number));
    return (bh_word)high << 32 | low;
}

static inline void bh_wrmsr(bh_word number, bh_word value)
{
    __asm__ volatile("wrmsr" : : "c"((unsigned int)number), "a"((unsigned int)value),
                     "d"((unsigned int)(value >> 32)) : "memory");
}

/* BSR: the number of the highest set bit of a word that is not 0. */
static inline bh_word bh_bsr(bh_word word)
{
    return 63 - __builtin_clzl(word);
}

static inline bh_word bh_rdtsc(void)
{
    unsigned int low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (bh_word)high << 32 | low;
}

/* One register of a CPUID leaf; which: 0 EAX, 1 EBX, 2 ECX, 3 EDX. */
static inline bh_word bh_cpuid(bh_word leaf, bh_word subleaf, bh_word which)
{
    unsigned int r[4];
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                     : "0"((unsigned int)leaf), "2"((unsigned int)subleaf));
    return r[which & 3];
}

#define BULKHEAD_REGISTER(name)                                                           \
    static inline bh_word bh_read_##name(void)                                            \
    {                                                                                     \
        bh_word value;                                                                    \
        __asm__ volatile("mov %%" #name ", %0" : "=r"(value));                            \
        return value;                                                                     \
    }                                                                                     \
    static inline void bh_write_##name(bh_word value)                                     \
    {                                                                                     \
        __asm__ volatile("mov %0, %%" #name : : "r"(value) : "memory");                   \
    }
BULKHEAD_REGISTER(cr0)
BULKHEAD_REGISTER(cr2)
BULKHEAD_REGISTER(cr3)
BULKHEAD_REGISTER(cr4)
BULKHEAD_REGISTER(dr0)
BULKHEAD_REGISTER(dr1)
BULKHEAD_REGISTER(dr2)
BULKHEAD_REGISTER(dr3)
BULKHEAD_REGISTER(dr6)
#undef BULKHEAD_REGISTER

static inline bh_word bh_in(bh_word port, bh_word size)
{
    unsigned char b;
    unsigned short w;
    unsigned int d;
    if (size == 1) {
        __asm__ volatile("inb %w1, %0" : "=a"(b) : "Nd"((unsigned short)port));
        return b;
    }
    if (size == 2) {
        __asm__ volatile("inw %w1, %0" : "=a"(w) : "Nd"((unsigned short)port));
        return w;
    }
    __asm__ volatile("inl %w1, %0" : "=a"(d) : "Nd"((unsigned short)port));
    return d;
}

static inline void bh_out(bh_word port, bh_word size, bh_word value)
{
    if (size == 1)
        __asm__ volatile("outb %b0, %w1" : : "a"(value), "Nd"((unsigned short)port));
    else if (size == 2)
        __asm__ volatile("outw %w0, %w1" : : "a"(value), "Nd"((unsigned short)port));
    else
        __asm__ volatile("outl %k0, %w1" : : "a"(value), "Nd"((unsigned short)port));
}

/* The FPU, SSE and AVX state of a vCPU. area: 64-byte aligned; mask: XCR0 bits. */
static inline void bh_xsave(bh_word area, bh_word mask)
{
    __asm__ volatile("xsave64 (%0)" : : "r"(area), "a"((unsigned int)mask), "d"((unsigned int)(mask >> 32)) : "memory");
}

static inline void bh_xrstor(bh_word area, bh_word mask)
{
    __asm__ volatile("xrstor64 (%0)" : : "r"(area), "a"((unsigned int)mask), "d"((unsigned int)(mask >> 32)) : "memory");
}

static inline void bh_fxsave(bh_word area)
{
    __asm__ volatile("fxsave64 (%0)" : : "r"(area) : "memory");
}

static inline void bh_fxrstor(bh_word area)
{
    __asm__ volatile("fxrstor64 (%0)" : : "r"(area) : "memory");
}

static inline void bh_xsetbv(bh_word value)
{
    __asm__ volatile("xsetbv" : : "c"(0), "a"((unsigned int)value), "d"((unsigned int)(value >> 32)));
}

static inline bh_word bh_xgetbv(void)
{
    unsigned int low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (bh_word)high << 32 | low;
}

static inline bh_word bh_rdpkru(void)
{
    unsigned int value;
    __asm__ volatile("rdpkru" : "=a"(value) : "c"(0) : "rdx");
    return value;
}

static inline void bh_wrpkru(bh_word value)
{
    __asm__ volatile("wrpkru" : : "a"((unsigned int)value), "c"(0), "d"(0) : "memory");
}

static inline void bh_clts(void) { __asm__ volatile("clts"); }
static inline void bh_pause(void) { __asm__ volatile("pause"); }
static inline void bh_halt(void) { for (;;) __asm__ volatile("cli; hlt"); }

bh_word bh_task_run(bh_word area, bh_word root);        /* boot/kernel/entry.S */
bh_word bh_take_interrupt(void);
bh_word bh_wait_interrupt(void);

bh_word bh_symbol(bh_word which);                       /* boot/kernel/symbol.c */
void bh_set_kernel_root(bh_word root);

#endif
