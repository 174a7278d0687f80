/* Everything that crosses between ring 3 and ring 0, and what the processor needs for it.
 *
 * .entry.text and .entry.data are the only kernel pages that a task's root maps (supervisor, at the same addresses). Here
 * lie the GDT, the TSS, the IDT, the entry stack and the number of the kernel root; nothing else of the kernel can be
 * reached, not even speculatively, while a task's root is loaded.
 */
#include "spec.h"

    .section .entry.text, "ax"
    .code64

/* One stub per vector: makes the frame uniform (error code, vector) and goes on to `entered`. */
    .balign 16
entry_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector == CALL_GATE
    jmp  called
    .else
    .if vector < 32
    .if ((VECTOR_ERROR_MASK >> vector) & 1) == 0
    pushq $0
    .endif
    .else
    pushq $0
    .endif
    pushq $vector
    jmp  entered
    .endif
    .set vector, vector + 1
    .endr

/* Called by the processor through a stub. On the stack: vector, error, RIP, CS, RFLAGS, RSP, SS.
 * From ring 3: save the task's registers in its area and return to where it was entered, with the vector.
 * From ring 0: a vector from 32 on is noted in `pending_vector`, and interrupts are off again: one more before that is looked at would be lost,
 * and so is a fault of the kernel, as everything below is. */
entered:
    cld
    testb $3, 24(%rsp)
    jz   entered_from_kernel
    pushq %rax
    movq kernel_root(%rip), %rax
    movq %rax, %cr3
    movq current_area, %rax
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
    popq AREA_RAX(%rax)
    popq %rdx                           /* vector */
    popq AREA_ERROR(%rax)
    popq AREA_RIP(%rax)
    addq $8, %rsp
    popq AREA_RFLAGS(%rax)
    popq AREA_RSP(%rax)
    movq run_stack, %rsp
    movq %rdx, %rax
    ret

/* The call gate's stub. On the stack: RIP, CS, RFLAGS, RSP, SS. VCPU_RUN keeps no register but RSP (docs/abi.md): save its arguments, RIP, RSP
 * and RFLAGS, and return as `entered` does, which has all other calls. (And what does not come from ring 3: an interrupt of that vector.) */
called:
    cmpq $CALL_VCPU_RUN, %rax
    jne  1f
    testb $3, 8(%rsp)
    jz   1f
    cld
    movq kernel_root(%rip), %rax
    movq %rax, %cr3
    movq current_area, %rax
    movq $CALL_VCPU_RUN, AREA_RAX(%rax)
    movq %rdi, AREA_RDI(%rax)
    movq %rsi, AREA_RSI(%rax)
    popq AREA_RIP(%rax)
    addq $8, %rsp
    popq AREA_RFLAGS(%rax)
    popq AREA_RSP(%rax)
    movq run_stack, %rsp
    movl $CALL_GATE, %eax
    ret
1:  pushq $0
    pushq $CALL_GATE
    jmp  entered

entered_from_kernel:
    cmpq $32, (%rsp)
    jb   kernel_fault
    cmpq $0, pending_vector
    jne  kernel_fault
    pushq %rax
    movq 8(%rsp), %rax
    movq %rax, pending_vector
    popq %rax
    addq $16, %rsp
    andl $~RFLAGS_IF, 16(%rsp)
    iretq

/* Called by the processor for an NMI, on a stack of its own; NMIs are blocked until its IRET.
 * Where NMIs are other cores' doorbells (boot/hw/nmi.h) it makes an interrupt of it, which waits until somebody lets interrupts in. While
 * the local APIC is lent to a guest that one would be the guest's: then the NMI is noted, and an entry that has looked at the note already
 * is given up (boot/kernel/vmx.S). Anywhere else an NMI is an exception like others.
 * A task's root may be loaded; only RAX, RCX and RDX are touched, and kept. */
nmi_entered:
    cmpb $0, nmi_rings(%rip)
    je   3f
    incq nmi_count(%rip)
    pushq %rax
    cmpb $0, apic_lent(%rip)
    jne  1f
    pushq %rcx
    pushq %rdx
    movl $MSR_SELF_IPI, %ecx
    movl $VECTOR_DOORBELL, %eax
    xorl %edx, %edx
    wrmsr
    popq %rdx
    popq %rcx
    popq %rax
    iretq
1:  movb $1, nmi_noted(%rip)
    movq 8(%rsp), %rax                  /* RIP */
    cmpq $vmx_entry_start, %rax
    jb   2f
    cmpq $vmx_entry_end, %rax
    jae  2f
    movq $vmx_given_up, 8(%rsp)
2:  popq %rax
    iretq
3:  pushq $0
    pushq $2
    jmp  entered

/* The last step of task_run, on the entry stack: RAX = the task's root, its own RAX and its frame are on the stack. */
    .global entry_leave
entry_leave:
    movq %rax, %cr3
    popq %rax
    iretq

/* unsigned long enter_vmm(void), called by svm.S and vmx.S: RBX = the area of a vCPU, whose VMM waits in VCPU_RUN. Answers that call (OK,
 * and that this vCPU has exited), runs the VMM as bh_task_run does, and returns the vector; no register is kept.
 * The call has kept none of the VMM's (docs/abi.md): RBP and R12 to R15 are the guest's, which its VMM may know; the others are cleared. */
    .global enter_vmm
enter_vmm:
    movq %rsp, run_stack
    movq VMM_AREA(%rbx), %rdi
    movq %rdi, current_area
    movq $entry_stack_top, %rsp
    pushq $TASK_DS
    pushq AREA_RSP(%rdi)
    pushq AREA_RFLAGS(%rdi)
    pushq $TASK_CS
    pushq AREA_RIP(%rdi)
    movq VMM_ROOT(%rbx), %rax
    movq VMM_REASONS(%rbx), %rdx
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %esi, %esi
    xorl %edi, %edi
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    xorl %r10d, %r10d
    xorl %r11d, %r11d
    movq %rax, %cr3
    xorl %eax, %eax
    iretq

/* A fault in ring 0 (or an NMI or machine check that nobody expected). Registers go to panic_area, then k_panic(panic_area). */
kernel_fault:
    pushq %rax
    movq kernel_root(%rip), %rax
    testq %rax, %rax                    /* zero until the kernel has a root of its own */
    jz   1f
    pushq %rcx
    movq %cr3, %rcx
    movq %rax, %cr3
    movq %rcx, panic_area + PANIC_CR3
    popq %rcx
    jmp  2f
1:  movq %cr3, %rax
    movq %rax, panic_area + PANIC_CR3
2:  movq $panic_area, %rax
    movq %rcx, PANIC_RCX(%rax)
    movq %rdx, PANIC_RDX(%rax)
    movq %rbx, PANIC_RBX(%rax)
    movq %rbp, PANIC_RBP(%rax)
    movq %rsi, PANIC_RSI(%rax)
    movq %rdi, PANIC_RDI(%rax)
    movq %r8, PANIC_R8(%rax)
    movq %r9, PANIC_R9(%rax)
    movq %r10, PANIC_R10(%rax)
    movq %r11, PANIC_R11(%rax)
    movq %r12, PANIC_R12(%rax)
    movq %r13, PANIC_R13(%rax)
    movq %r14, PANIC_R14(%rax)
    movq %r15, PANIC_R15(%rax)
    popq PANIC_RAX(%rax)
    popq PANIC_VECTOR(%rax)
    popq PANIC_ERROR(%rax)
    popq PANIC_RIP(%rax)
    popq PANIC_CS(%rax)
    popq PANIC_RFLAGS(%rax)
    popq PANIC_RSP(%rax)
    popq PANIC_SS(%rax)
    movq %cr0, %rcx
    movq %rcx, PANIC_CR0(%rax)
    movq %cr2, %rcx
    movq %rcx, PANIC_CR2(%rax)
    movq %cr4, %rcx
    movq %rcx, PANIC_CR4(%rax)
    movq $panic_stack_top, %rsp
    movq %rax, %rdi
    xorl %ebp, %ebp
    call k_panic
1:  cli
    hlt
    jmp  1b

    .text
/* unsigned long bh_task_run(area, root): runs the task until the next interrupt, fault or kernel call and returns the vector.
 * Deliberately does not save: FPU state (CR0.TS is set: a task has none), FS, GS (null in every task), debug registers. */
    .global bh_task_run
bh_task_run:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    call enter_task
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

enter_task:
    movq %rsp, run_stack
    movq %rdi, current_area
    movq $entry_stack_top, %rsp
    pushq $TASK_DS
    pushq AREA_RSP(%rdi)
    pushq AREA_RFLAGS(%rdi)
    pushq $TASK_CS
    pushq AREA_RIP(%rdi)
    pushq AREA_RAX(%rdi)
    movq %rsi, %rax
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
    jmp  entry_leave

/* unsigned long bh_take_interrupt(void): lets one pending interrupt in and returns its vector, or 0 if there was none. */
    .global bh_take_interrupt
bh_take_interrupt:
    movq $0, pending_vector
    sti
    nop
    cli
    movq pending_vector, %rax
    ret

/* unsigned long bh_wait_interrupt(void): sleeps until an interrupt has come and returns its vector. */
    .global bh_wait_interrupt
bh_wait_interrupt:
    movq $0, pending_vector
    sti
    hlt
    cli
    movq pending_vector, %rax
    ret

/* void bh_nmi_unblock(void): after an exit for an NMI, which blocks further ones: IRET to where we are. */
    .global bh_nmi_unblock
bh_nmi_unblock:
    movq %rsp, %rax
    pushq $KERNEL_DS
    pushq %rax
    pushfq
    pushq $KERNEL_CS
    pushq $1f
    iretq
1:  ret

/* void load_tables(void): called once per core from start64, before anything can fault.
 * 1. fill the IDT; 2. put the TSS's address into its descriptor; 3. load GDT, IDT, TR. */
    .global load_tables
load_tables:
    movq $entry_stubs, %rsi
    movq $idt, %rdi
    xorl %ecx, %ecx
1:  movw %si, (%rdi)
    movw $KERNEL_CS, 2(%rdi)
    movb $0, 4(%rdi)
    movb $0x8e, 5(%rdi)                 /* interrupt gate, DPL 0 */
    movq %rsi, %rax
    shrq $16, %rax
    movw %ax, 6(%rdi)
    shrq $16, %rax
    movl %eax, 8(%rdi)
    movl $0, 12(%rdi)
    addq $16, %rsi
    addq $16, %rdi
    incl %ecx
    cmpl $256, %ecx
    jb   1b
    movb $1, idt + 8 * 16 + 4           /* #DF on its own stack */
    movb $2, idt + 2 * 16 + 4           /* NMI */
    movq $nmi_entered, %rax
    movw %ax, idt + 2 * 16
    shrq $16, %rax
    movw %ax, idt + 2 * 16 + 6          /* the rest is as of the stubs */
    movb $2, idt + 18 * 16 + 4          /* #MC */
    movb $0xee, idt + CALL_GATE * 16 + 5        /* the only gate of ring 3 */

    movq $tss, %rax
    movw %ax, tss_descriptor + 2
    shrq $16, %rax
    movb %al, tss_descriptor + 4
    movb $0x89, tss_descriptor + 5      /* available: a copied image holds a busy one */
    movb %ah, tss_descriptor + 7
    shrq $16, %rax
    movl %eax, tss_descriptor + 8
    lgdt gdt_pointer
    lidt idt_pointer
    pushq $KERNEL_CS
    leaq 1f(%rip), %rax
    pushq %rax
    lretq
1:  movl $KERNEL_DS, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $TSS_SELECTOR, %eax
    ltr  %ax
    xorl %eax, %eax
    lldt %ax
    ret

    .section .entry.data, "aw"
    .balign PAGE_BYTES
idt:
    .skip 4096
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* KERNEL_CS */
    .quad 0x00cf93000000ffff            /* KERNEL_DS */
    .quad 0x00affb000000ffff            /* TASK_CS */
    .quad 0x00cff3000000ffff            /* TASK_DS */
tss_descriptor:
    .word tss_end - tss - 1, 0
    .byte 0, 0x89, 0, 0
    .quad 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 4095
    .quad idt
    .balign 16
tss:
    .long 0
    .quad entry_stack_top               /* RSP0 */
    .quad 0, 0, 0
    .quad double_fault_stack_top        /* IST1 */
    .quad nmi_stack_top                 /* IST2 */
    .quad 0, 0, 0, 0, 0
    .quad 0
    .word 0, tss_end - tss              /* no I/O bitmap: no port is a task's own */
tss_end:
    .balign 8
    .global kernel_root
kernel_root:
    .quad 0
    .global nmi_rings, nmi_noted, apic_lent, nmi_count
nmi_count:
    .quad 0
nmi_rings:
    .byte 0
nmi_noted:
    .byte 0
apic_lent:
    .byte 0
    .balign 16
    .skip 512
nmi_stack_top:
    .skip 512
double_fault_stack_top:
    .skip 512
entry_stack_top:
    .balign PAGE_BYTES

    .bss
    .balign 8
current_area:   .skip 8
run_stack:      .skip 8
pending_vector: .skip 8
panic_area:     .skip PANIC_END

    .section .stacks, "aw", @nobits
    .balign PAGE_BYTES
    .global kernel_stack_guard, panic_stack_guard
kernel_stack_guard:
    .skip PAGE_BYTES
    .skip 4 * PAGE_BYTES
    .global kernel_stack_top
kernel_stack_top:
panic_stack_guard:
    .skip PAGE_BYTES
    .skip 2 * PAGE_BYTES
panic_stack_top:

    .section .note.GNU-stack, "", @progbits
