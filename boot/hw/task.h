/* What a ring-3 program can do besides computing: call the kernel, read the TSC, ask CPUID, pause.
   For one translation unit, the program's generated C: the value of the last call lives in a static of that unit. */
#ifndef BULKHEAD_HW_TASK_H
#define BULKHEAD_HW_TASK_H

#include "spec.h"

void bulkhead_seal_heap(void);      /* boot/runtime.c */

static unsigned long bh_last_value __attribute__((unused));

/* int CALL_GATE: number in RAX, arguments in RDI RSI RDX R10 R8 R9; status in RAX, value in RDX, nothing else changes. */
static inline unsigned long bh_kernel_call(unsigned long number, unsigned long a1, unsigned long a2, unsigned long a3,
                                           unsigned long a4, unsigned long a5, unsigned long a6)
{
    register unsigned long r10 __asm__("r10") = a4;
    register unsigned long r8 __asm__("r8") = a5;
    register unsigned long r9 __asm__("r9") = a6;
    __asm__ volatile("int $0x80"
                     : "+a"(number), "+d"(a3)
                     : "D"(a1), "S"(a2), "r"(r10), "r"(r8), "r"(r9)
                     : "memory", "cc");
    bh_last_value = a3;
    return number;
}

/* VCPU_RUN, after which no register but RSP is as it was. */
static inline unsigned long bh_vcpu_run(unsigned long vcpu, unsigned long deadline)
{
    unsigned long number = CALL_VCPU_RUN, value;
    __asm__ volatile("int $0x80"
                     : "+a"(number), "=d"(value), "+D"(vcpu), "+S"(deadline)
                     :
                     : "memory", "cc", "rbx", "rcx", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
    bh_last_value = value;
    return number;
}

static inline unsigned long bh_kernel_value(void)
{
    return bh_last_value;
}

static inline unsigned long bh_rdtsc(void)
{
    unsigned int low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (unsigned long)high << 32 | low;
}

/* which: 0 EAX, 1 EBX, 2 ECX, 3 EDX */
static inline unsigned long bh_cpuid(unsigned long leaf, unsigned long subleaf, unsigned long which)
{
    unsigned int a = (unsigned int)leaf, b, c = (unsigned int)subleaf, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return which == 0 ? a : which == 1 ? b : which == 2 ? c : d;
}

static inline void bh_pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

#endif
