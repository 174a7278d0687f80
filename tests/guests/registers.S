/* exit_with_registers(wanted, found, operation), called from fpukeeper.c:
 *
 *  1. load every general register and the flags from wanted[] (order of the encoding, then RFLAGS)
 *  2. IN, OUT or CPUID, as `operation` says
 *  3. store every register into found[]
 * RSP is the only one that keeps its own value; nothing can interrupt us meanwhile.
 */
        .text
        .global exit_with_registers
exit_with_registers:
        push %rbx
        push %rbp
        push %r12
        push %r13
        push %r14
        push %r15
        push %rsi                            /* found */
        mov %edx, %edx
        mov operations(, %rdx, 8), %rax
        push %rax                            /* where to go */
        pushq 128(%rdi)
        popfq
        mov 0(%rdi), %rax
        mov 8(%rdi), %rcx
        mov 16(%rdi), %rdx
        mov 24(%rdi), %rbx
        mov 40(%rdi), %rbp
        mov 48(%rdi), %rsi
        mov 64(%rdi), %r8
        mov 72(%rdi), %r9
        mov 80(%rdi), %r10
        mov 88(%rdi), %r11
        mov 96(%rdi), %r12
        mov 104(%rdi), %r13
        mov 112(%rdi), %r14
        mov 120(%rdi), %r15
        mov 56(%rdi), %rdi
        jmp *(%rsp)

do_in:  in %dx, %al
        jmp 1f
do_out: out %al, %dx
        jmp 1f
do_cpuid:
        cpuid
1:      pushfq
        popq flags
        mov %rsp, stack
        mov 8(%rsp), %rsp                    /* found[] at RSP: no register is free to point there */
        mov %rax, 0(%rsp)
        mov %rcx, 8(%rsp)
        mov %rdx, 16(%rsp)
        mov %rbx, 24(%rsp)
        mov %rbp, 40(%rsp)
        mov %rsi, 48(%rsp)
        mov %rdi, 56(%rsp)
        mov %r8, 64(%rsp)
        mov %r9, 72(%rsp)
        mov %r10, 80(%rsp)
        mov %r11, 88(%rsp)
        mov %r12, 96(%rsp)
        mov %r13, 104(%rsp)
        mov %r14, 112(%rsp)
        mov %r15, 120(%rsp)
        mov flags, %rax
        mov %rax, 128(%rsp)
        mov stack, %rsp
        pushq $2
        popfq
        add $16, %rsp
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbp
        pop %rbx
        ret

        .section .rodata
        .align 8
operations: .quad do_in, do_out, do_cpuid
        .bss
        .align 8
flags:  .skip 8
stack:  .skip 8
        .section .note.GNU-stack, "", @progbits
