/* The crossing into an Intel guest and back. */
#include "spec.h"

    .text
/* unsigned long bh_vmx_run(area): called from hypervisor/kernel/vmx.py with interrupts off and the guest's VMCS current.
 * 1. keep the callee-saved registers on the stack and RSP behind the area;
 * 2. load CR2 if it differs, and the fifteen general registers, popped off the area in their order there;
 * 3. VMLAUNCH the first time, VMRESUME later. RSP then is the end of the registers in the area, which is HOST_RSP too;
 * 4. an exit comes to bh_vmx_exit: push the registers back where they came from, keep CR2, return 0;
 * 5. when the instruction itself fails, return 1 (VMfailInvalid) or 2 (VMfailValid); the area is unchanged.
 * Nothing pushes on the area meanwhile: interrupts are off, and NMI, #MC and #DF have stacks of their own.
 * An exit leaves GDTR with a limit of 64 KiB: LGDT again, or ring 3 could load descriptors out of whatever lies behind the GDT.
 * (IDTR's limit of 64 KiB does no harm: there are no vectors beyond 255.)
 * Deliberately does not save: FPU state, DR0-DR3, DR6, XCR0 (hypervisor/kernel/switch.py), STAR and friends (Vmx.switch). */
    .balign 16
    .global bh_vmx_run
bh_vmx_run:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, VMX_HOST_STACK(%rdi)
    movq AREA_CR2(%rdi), %rax
    movq %cr2, %rcx
    cmpq %rax, %rcx
    je   1f
    movq %rax, %cr2
1:  cmpq $0, VMX_LAUNCHED(%rdi)         /* no instruction up to `je` changes the flags */
    movq %rdi, %rsp
    popq %rax
    popq %rcx
    popq %rdx
    popq %rbx
    popq %rbp                           /* RSP's place: it is in the VMCS */
    popq %rbp
    popq %rsi
    popq %rdi
    popq %r8
    popq %r9
    popq %r10
    popq %r11
    popq %r12
    popq %r13
    popq %r14
    popq %r15
    je   2f
    vmresume
    jmp  3f
2:  movq $1, VMX_LAUNCHED - VMX_GPRS_END(%rsp)
    vmlaunch
3:  movl $1, %eax
    jc   4f
    movl $2, %eax
4:  movq VMX_HOST_STACK - VMX_GPRS_END(%rsp), %rsp
    jmp  5f

    .balign 16
    .global bh_vmx_exit
bh_vmx_exit:
    pushq %r15
    pushq %r14
    pushq %r13
    pushq %r12
    pushq %r11
    pushq %r10
    pushq %r9
    pushq %r8
    pushq %rdi
    pushq %rsi
    pushq %rbp
    pushq %rbp                          /* RSP's place */
    pushq %rbx
    pushq %rdx
    pushq %rcx
    pushq %rax
    movq %cr2, %rax
    movq %rax, AREA_CR2(%rsp)
    lgdt host_gdt
    movq VMX_HOST_STACK(%rsp), %rsp
    xorl %eax, %eax
5:  popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* void bh_vmx_keep_gdt(void): once per core: the GDTR that exits bring back. */
    .global bh_vmx_keep_gdt
bh_vmx_keep_gdt:
    sgdt host_gdt
    ret

    .bss
    .balign 8
host_gdt:
    .skip 16

    .section .note.GNU-stack, "", @progbits
