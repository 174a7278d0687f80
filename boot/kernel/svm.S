/* The crossing into an AMD guest and back. */
#include "spec.h"
#include "guest.h"

/* The last of the guest's state out of the processor, the kernel's TR back into it, and GIF on. RCX: the area. RDX is kept. */
    .macro out_of_guest
    movq 16(%rsp), %rax
    vmsave %rax
    cli
    keep_kept %rcx
    movq 8(%rsp), %rax
    movq VMCB_RAX(%rax), %rax
    movq %rax, AREA_RAX(%rcx)
    movq 24(%rsp), %rax
    vmload %rax
    stgi
    .endm

    .text
/* unsigned long bh_svm_run(area, vmcb hva, vmcb hpa, host vmcb hpa): called from hypervisor/kernel/svm.py.
 * 1. keep the callee-saved registers and the arguments on the stack;
 * 2. RAX goes through the VMCB, the other fourteen registers through the area;
 * 3. GIF off, IF on: a physical interrupt ends the run (V_INTR_MASKING) and stays pending;
 * 4. VMLOAD, VMRUN: with FS, GS, TR, LDTR, KERNEL_GS_BASE, STAR and friends of the guest;
 * 5. at an exit four registers go to the area, and k_svm_first (hypervisor/kernel/quick.py) is asked. Where it says QUICK_AGAIN the guest
 *    goes on, with what belongs to it still in the processor; with an address, likewise, but for EAX to EDX, which are there. With QUICK_MORE
 *    four more go to the area, and k_svm_more is asked. GIF is off, so no NMI comes to the guest's TR; a fault of the kernel's own needs no
 *    TR, unless it is a double fault;
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
    load_more %rdi
    clgi
    sti
    movq %rdx, %rax
    vmload %rax
    movq (%rsp), %rcx
    movq AREA_RBX(%rcx), %rbx
again:
    movq (%rsp), %rcx
    load_few %rcx
again_loaded:
    movq 16(%rsp), %rax
    vmrun %rax
    movq (%rsp), %rax
    keep_few %rax
    call k_svm_first
    cmpq $QUICK_AGAIN, %rax
    je   again
    ja   again_entry
    cmpl $QUICK_HAND, %eax
    je   hand
    cmpl $QUICK_MORE, %eax
    je   more
    movq (%rsp), %rcx
    keep_more %rcx
leave_guest:
    movq %rax, %rdx
    out_of_guest
    movq %rdx, %rax
leave:
    addq $40, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
again_entry:
    movq (%rsp), %rcx
    movq AREA_RSI(%rcx), %rsi
    movq AREA_RDI(%rcx), %rdi
    movq 8(%rsp), %rdx
    movl ENTRY_EAX(%rax), %ecx
    movq %rcx, VMCB_RAX(%rdx)
    movl ENTRY_EBX(%rax), %ebx
    movl ENTRY_ECX(%rax), %ecx
    movl ENTRY_EDX(%rax), %edx
    jmp  again_loaded
more:
    movq (%rsp), %rcx
    keep_more %rcx
    call k_svm_more
    movq (%rsp), %rcx
    cmpl $QUICK_AGAIN, %eax
    jne  leave_guest
    load_more %rcx
    jmp  again
hand:
    movq (%rsp), %rcx
    keep_more %rcx
    out_of_guest
    call k_svm_hand
    cmpl $QUICK_TASK, %eax
    jne  leave
    movq (%rsp), %rbx
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
