/* The crossing into an AMD guest and back. */
#include "spec.h"

    .text
/* void bh_svm_run(area, vmcb hva, vmcb hpa, host vmcb hpa): called from hypervisor/kernel/svm.py.
 * 1. keep the callee-saved registers and the arguments on the stack;
 * 2. RAX goes through the VMCB, the other fourteen registers through the area;
 * 3. GIF off, IF on: a physical interrupt ends the run (V_INTR_MASKING) and stays pending;
 * 4. VMLOAD, VMRUN, VMSAVE: with FS, GS, TR, LDTR, KERNEL_GS_BASE, STAR and friends of the guest;
 * 5. the guest's registers go to the area; VMLOAD brings the kernel's TR back, which its fault stacks need; GIF on.
 * Deliberately does not save: FPU state, DR0-DR3, XCR0 (hypervisor/kernel/switch.py does when another vCPU runs). */
    .global bh_svm_run
bh_svm_run:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rcx
    pushq %rsi
    pushq %rdi
    movq AREA_RAX(%rdi), %rax
    movq %rax, VMCB_RAX(%rsi)
    movq %rdx, %rax
    movq AREA_RCX(%rdi), %rcx
    movq AREA_RDX(%rdi), %rdx
    movq AREA_RBX(%rdi), %rbx
    movq AREA_RBP(%rdi), %rbp
    movq AREA_RSI(%rdi), %rsi
    movq AREA_R8(%rdi), %r8
    movq AREA_R9(%rdi), %r9
    movq AREA_R10(%rdi), %r10
    movq AREA_R11(%rdi), %r11
    movq AREA_R12(%rdi), %r12
    movq AREA_R13(%rdi), %r13
    movq AREA_R14(%rdi), %r14
    movq AREA_R15(%rdi), %r15
    movq AREA_RDI(%rdi), %rdi
    clgi
    sti
    vmload %rax
    vmrun %rax
    vmsave %rax
    cli
    movq (%rsp), %rax
    movq %rcx, AREA_RCX(%rax)
    movq %rdx, AREA_RDX(%rax)
    movq %rbx, AREA_RBX(%rax)
    movq %rbp, AREA_RBP(%rax)
    movq %rsi, AREA_RSI(%rax)
    movq %rdi, AREA_RDI(%rax)
    movq %r8, AREA_R8(%rax)
    movq %r9, AREA_R9(%rax)
    movq %r10, AREA_R10(%rax)
    movq %r11, AREA_R11(%rax)
    movq %r12, AREA_R12(%rax)
    movq %r13, AREA_R13(%rax)
    movq %r14, AREA_R14(%rax)
    movq %r15, AREA_R15(%rax)
    movq 8(%rsp), %rcx
    movq VMCB_RAX(%rcx), %rdx
    movq %rdx, AREA_RAX(%rax)
    movq 16(%rsp), %rax
    vmload %rax
    stgi
    addq $24, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* void bh_svm_save_host(host vmcb hpa): once per core, when TR and the rest are as the kernel wants them after each exit. */
    .global bh_svm_save_host
bh_svm_save_host:
    movq %rdi, %rax
    vmsave %rax
    ret

    .section .note.GNU-stack, "", @progbits
