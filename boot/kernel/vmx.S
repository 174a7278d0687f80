/* The crossing into an Intel guest and back. */
#include "spec.h"
#include "guest.h"

/* The last of the guest's registers out of the processor, and the GDTR's limit back into it. RCX: the area. */
    .macro out_of_guest
    keep_kept %rcx
    movq %cr2, %rdx
    movq %rdx, AREA_CR2(%rcx)
    lgdt host_gdt
    .endm

/* What an exit begins with: RSP is the area. */
    .macro to_kernel
    movq %rax, AREA_RAX(%rsp)
    keep_few %rsp
    movq VMX_HOST_STACK(%rsp), %rsp
    .endm

/* again, again_entry: where the guest goes on. */
    .macro ask_first again, again_entry
    call k_vmx_first
    cmpq $QUICK_AGAIN, %rax
    je   \again
    ja   \again_entry
    cmpl $QUICK_HAND, %eax
    je   hand
    cmpl $QUICK_MORE, %eax
    je   more
    jmp  leave_all
    .endm

/* The registers that a C function has used, and the guest. Comes back only where VMRESUME fails. */
    .macro resume
    movq (%rsp), %rcx
    movq AREA_RAX(%rcx), %rax
    load_few %rcx
    vmresume
    .endm

    .text
/* unsigned long bh_vmx_run(area): called from hypervisor/kernel/vmx.py with interrupts off and the guest's VMCS current.
 * 1. keep the callee-saved registers and the area on the stack, and RSP behind the area;
 * 2. load CR2 if it differs, and the fifteen general registers;
 * 3. VMLAUNCH the first time, VMRESUME later;
 * 4. an exit comes to bh_vmx_exit, with the area in RSP, which is HOST_RSP. RAX and four registers go to the area, and k_vmx_first
 *    (hypervisor/kernel/quick.py) is asked. Where it says QUICK_AGAIN the guest goes on, with what else belongs to it still in the
 *    processor; with an address, likewise, but for EAX to EDX, which are there. With QUICK_MORE four more go to the area, and k_vmx_more is
 *    asked. Otherwise the rest of the registers and CR2 go to the area, and that answer is returned, unless it is QUICK_HAND. HOST_RIP is one
 *    of three: bh_vmx_exit, bh_vmx_exit_lent while the local APIC may be lent, where each entry looks at nmi_noted, or bh_vmx_exit_once,
 *    where nothing is asked and QUICK_LEAVE returned;
 * 5. with QUICK_HAND k_vmx_hand (hypervisor/kernel/straight.py) is asked. Where that says QUICK_TASK the VMM runs, and k_vmx_answered hears
 *    with which vector it has come back. QUICK_AGAIN: the guest goes on; nothing has changed CR2 since its exit;
 * 6. when the instruction itself fails, return 1 (VMfailInvalid) or 2 (VMfailValid); the area is unchanged.
 * 7. from vmx_entry_start to vmx_entry_end an NMI that is a doorbell leads to vmx_given_up (boot/kernel/entry.S), as does one that was noted
 *    before: the guest is not entered, and QUICK_DONE is returned. The area is at the top of the stack, for that; and what is loaded before
 *    vmx_entry_start is kept again.
 * Nothing pushes on the area: interrupts are off, and NMI, #MC and #DF have stacks of their own.
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
    pushq %rdi                          /* the area; and the stack is aligned where C functions are called */
    movq %rsp, VMX_HOST_STACK(%rdi)
    movq AREA_CR2(%rdi), %rax
    movq %cr2, %rcx
    cmpq %rax, %rcx
    je   1f
    movq %rax, %cr2
1:  load_kept %rdi
    load_more %rdi
    cmpq $0, VMX_LAUNCHED(%rdi)
    jne  again_rbx
    movq $1, VMX_LAUNCHED(%rdi)
    movq %rdi, %rcx
    movq AREA_RBX(%rcx), %rbx
    movq AREA_RAX(%rcx), %rax
    load_few %rcx
    vmlaunch
    jmp  failed
    .global vmx_entry_start, vmx_entry_end, vmx_given_up
again_rbx:
    movq (%rsp), %rcx
    movq AREA_RBX(%rcx), %rbx
again:
vmx_entry_start:
    cmpb $0, nmi_noted
    jne  vmx_given_up
    resume
vmx_entry_end:
failed:
    movl $1, %eax
    jc   leave
    movl $2, %eax
    jmp  leave

    .balign 16
    .global bh_vmx_exit, bh_vmx_exit_lent, bh_vmx_exit_once
bh_vmx_exit:
    to_kernel
    ask_first next, next_entry
next:
    resume
    jmp  failed
next_entry:
    movq (%rsp), %rcx
    movq AREA_RSI(%rcx), %rsi
    movq AREA_RDI(%rcx), %rdi
    movl ENTRY_EBX(%rax), %ebx
    movl ENTRY_ECX(%rax), %ecx
    movl ENTRY_EDX(%rax), %edx
    movl ENTRY_EAX(%rax), %eax
    vmresume
    jmp  failed
bh_vmx_exit_lent:
    to_kernel
    ask_first again, again_entry
again_entry:                            /* to the area: what is loaded before vmx_entry_start is kept again */
    movq (%rsp), %rcx
    movl ENTRY_EBX(%rax), %ebx
    movl ENTRY_ECX(%rax), %edx
    movq %rdx, AREA_RCX(%rcx)
    movl ENTRY_EDX(%rax), %edx
    movq %rdx, AREA_RDX(%rcx)
    movl ENTRY_EAX(%rax), %edx
    movq %rdx, AREA_RAX(%rcx)
    jmp  again
bh_vmx_exit_once:
    to_kernel
    movl $QUICK_LEAVE, %eax
leave_all:
    movq (%rsp), %rcx
    keep_more %rcx
leave_guest:
    out_of_guest
leave:
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
more:
    movq (%rsp), %rcx
    keep_more %rcx
    call k_vmx_more
    movq (%rsp), %rcx
    cmpl $QUICK_AGAIN, %eax
    jne  leave_guest
    load_more %rcx
    jmp  again
hand:
    movq (%rsp), %rcx
    keep_more %rcx
    out_of_guest
    call k_vmx_hand
    cmpl $QUICK_TASK, %eax
    jne  leave
    movq (%rsp), %rbx
    call enter_vmm
    movq %rax, %rdi
    call k_vmx_answered
    cmpl $QUICK_AGAIN, %eax
    jne  leave
    movq (%rsp), %rcx
    load_kept %rcx
    load_more %rcx
    jmp  again_rbx

/* What an entry has loaded so far is what the area has, but for RBX, RBP and R8 to R15. */
vmx_given_up:
    movl $QUICK_DONE, %eax
    jmp  leave_all

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
