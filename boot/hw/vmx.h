/* VMX instructions, one function each. Addresses are physical unless said otherwise. */
#ifndef BULKHEAD_HW_VMX_H
#define BULKHEAD_HW_VMX_H

#include "spec.h"

/* How an instruction ended: 0 succeeded, 1 VMfailInvalid, 2 VMfailValid. */
#define BULKHEAD_VMX_WITH_ADDRESS(name)                                                   \
    static inline unsigned long bh_##name(unsigned long hpa)                              \
    {                                                                                     \
        unsigned char invalid, valid;                                                     \
        __asm__ volatile(#name " %2; setc %0; setz %1"                                    \
                         : "=qm"(invalid), "=qm"(valid) : "m"(hpa) : "cc", "memory");     \
        return invalid ? 1 : valid ? 2 : 0;                                               \
    }
BULKHEAD_VMX_WITH_ADDRESS(vmxon)
BULKHEAD_VMX_WITH_ADDRESS(vmclear)
BULKHEAD_VMX_WITH_ADDRESS(vmptrld)
#undef BULKHEAD_VMX_WITH_ADDRESS

static inline unsigned long bh_vmread(unsigned long field)
{
    unsigned long value;
    __asm__ volatile("vmread %1, %0" : "=r"(value) : "r"(field) : "cc");
    return value;
}

static inline void bh_vmwrite(unsigned long field, unsigned long value)
{
    __asm__ volatile("vmwrite %1, %0" : : "r"(field), "r"(value) : "cc");
}

static inline void bh_invept(unsigned long kind, unsigned long eptp)
{
    unsigned long descriptor[2] = {eptp, 0};
    __asm__ volatile("invept %0, %1" : : "m"(descriptor), "r"(kind) : "cc", "memory");
}

static inline void bh_invvpid(unsigned long kind, unsigned long vpid)
{
    unsigned long descriptor[2] = {vpid, 0};
    __asm__ volatile("invvpid %0, %1" : : "m"(descriptor), "r"(kind) : "cc", "memory");
}

struct bh_table_register {
    unsigned short limit;
    unsigned long base;
} __attribute__((packed));

static inline unsigned long bh_gdt_base(void)
{
    struct bh_table_register value;
    __asm__ volatile("sgdt %0" : "=m"(value));
    return value.base;
}

static inline unsigned long bh_idt_base(void)
{
    struct bh_table_register value;
    __asm__ volatile("sidt %0" : "=m"(value));
    return value.base;
}

static inline unsigned long bh_task_register(void)
{
    unsigned long selector;
    __asm__ volatile("str %0" : "=r"(selector));
    return selector & 0xffff;
}

unsigned long bh_vmx_run(unsigned long area);           /* boot/kernel/vmx.S; area: hva */
void bh_vmx_keep_gdt(void);
extern char bh_vmx_exit[], bh_vmx_exit_lent[], bh_vmx_exit_once[];

/* way: EXIT_* (hypervisor/spec/context.py). */
static inline unsigned long bh_vmx_exit_address(unsigned long way)
{
    return (unsigned long)(way == EXIT_ASKS ? bh_vmx_exit : way == EXIT_LENT ? bh_vmx_exit_lent : bh_vmx_exit_once);
}

#endif
