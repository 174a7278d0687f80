/* Access to memory by address. Volatile: others (hardware, the kernel, another program) read and write it too. */
#ifndef BULKHEAD_HW_MEMORY_H
#define BULKHEAD_HW_MEMORY_H

#define BULKHEAD_ACCESS(bits, type)                                                       \
    static inline unsigned long bh_load##bits(unsigned long address)                      \
    {                                                                                     \
        return *(volatile type *)address;                                                 \
    }                                                                                     \
    static inline void bh_store##bits(unsigned long address, unsigned long value)         \
    {                                                                                     \
        *(volatile type *)address = (type)value;                                          \
    }
BULKHEAD_ACCESS(8, unsigned char)
BULKHEAD_ACCESS(16, unsigned short)
BULKHEAD_ACCESS(32, unsigned int)
BULKHEAD_ACCESS(64, unsigned long)
#undef BULKHEAD_ACCESS

static inline void bh_copy(unsigned long to, unsigned long from, unsigned long bytes)
{
    unsigned long words = bytes >> 3;
    bytes &= 7;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

/* What was written before is seen by other cores before anything is read or written after. */
static inline void bh_fence(void)
{
    __asm__ volatile("mfence; lfence" : : : "memory");      /* LFENCE: a WRMSR (to x2APIC's ICR) is no access that MFENCE keeps behind it */
}

static inline void bh_clear(unsigned long to, unsigned long bytes)
{
    unsigned long words = bytes >> 3;
    bytes &= 7;
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(0UL) : "memory");
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(0UL) : "memory");
}

#endif
