/* The crossing into an AMD guest and back. */
#include "spec.h"
#include "guest.h"

    .text
/* unsigned long bh_svm_run(area, vmcb hva, vmcb hpa, host vmcb hpa): called from hypervisor/kernel/svm.py.
 * 1. keep the callee-saved registers and the arguments on the stack;
 * 2. RAX goes through the VMCB, the other fourteen registers through the area;
 * 3. GIF off, IF on: a physical interrupt ends the run (V_INTR_MASKING) and stays pending;
 * 4. VMLOAD, VMRUN: with FS, GS, TR, LDTR, KERNEL_GS_BASE, STAR and friends of the guest;
 * 5. at an exit the registers that a C function may change, and RBX, go to the area, and k_svm_quick (hypervisor/kernel/quick.py) is
 *    asked. Where it says QUICK_AGAIN the guest goes on, with what belongs to it still in the processor. GIF is off, so no NMI comes to
 *    the guest's TR; a fault of the kernel's own needs no TR, unless it is a double fault;
 * 6. otherwise VMSAVE and the rest of the registers; VMLOAD brings the kernel's TR back, which its fault stacks need; GIF on;
 * 7. where it has said QUICK_HAND, k_svm_hand (hypervisor/kernel/straight.py) is asked. Where that says QUICK_TASK the VMM runs, and
 *    k_svm_answered hears with which vector it has come back. QUICK_AGAIN: the guest goes on, from 2.
 * Returns what was answered last. On the stack meanwhile: area, vmcb hva, vmcb hpa, host vmcb hpa, and a word that aligns it.
 * Deliberately does not save: FPU state, DR0-DR3, XCR0 (hypervisor/kernel/switch.py does when another vCPU runs). */
    .balign 16
    .global bh_svm_run
bh_svm_run:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rcx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
enter:
    movq AREA_RAX(%rdi), %rax
    movq %rax, VMCB_RAX(%rsi)
    load_kept %rdi
    movq %rdi, %rbx
    clgi
    sti
    movq %rdx, %rax
    vmload %rax
again:
    movq 16(%rsp), %rax
    load_guest
    vmrun %rax
    movq (%rsp), %rax
    movq %rbx, AREA_RBX(%rax)
    movq %rax, %rbx
    keep_guest
    call k_svm_quick
    cmpl $QUICK_AGAIN, %eax
    je   again
    movq %rax, %rdx
    movq 16(%rsp), %rax
    vmsave %rax
    cli
    keep_kept
    movq 8(%rsp), %rcx
    movq VMCB_RAX(%rcx), %rcx
    movq %rcx, AREA_RAX(%rbx)
    movq 24(%rsp), %rax
    vmload %rax
    stgi
    movq %rdx, %rax
    cmpl $QUICK_HAND, %eax
    je   hand
leave:
    addq $40, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
hand:
    call k_svm_hand
    cmpl $QUICK_TASK, %eax
    jne  leave
    call enter_vmm
    movq %rax, %rdi
    call k_svm_answered
    cmpl $QUICK_AGAIN, %eax
    jne  leave
    movq (%rsp), %rdi
    movq 8(%rsp), %rsi
    movq 16(%rsp), %rdx
    jmp  enter

/* void bh_svm_save_host(host vmcb hpa): once per core, when TR and the rest are as the kernel wants them after each exit. */
    .global bh_svm_save_host
bh_svm_save_host:
    movq %rdi, %rax
    vmsave %rax
    ret

    .section .note.GNU-stack, "", @progbits
