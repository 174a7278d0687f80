/* Exception entries of the 64-bit guests.
 *
 * trap_call(fn, argument), called from C:
 *  1. keep the registers a C caller expects back, and the stack
 *  2. call fn; when it returns, return NO_TRAP
 * Each of the 32 entries, called by the processor:
 *  1. copy the frame, CR2 and DR6 to `trap`
 *  2. go back to where trap_call was called, with the vector as its result
 * There is no way back into what was interrupted, so nothing of it is saved.
 */
        .text
        .global trap_call
trap_call:
        push %rbx
        push %rbp
        push %r12
        push %r13
        push %r14
        push %r15
        mov %rsp, trap_stack
        mov %rdi, %rax
        mov %rsi, %rdi
        call *%rax
        mov $-1, %eax                        /* NO_TRAP */
back:   mov %eax, trap_last
        movq $0, trap_stack
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbp
        pop %rbx
        ret

/* One entry per vector, 16 bytes apart: push a zero where the processor pushes no error code. */
        .align 16
        .global trap_entries
trap_entries:
        vector = 0
        .rept 32
        .align 16
        .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
        .else
        push $0
        .endif
        push $vector
        jmp caught
        vector = vector + 1
        .endr

caught: push $2                              /* AC, NT and TF of the interrupted code end here */
        popf
        pop %rax
        popq trap + 0                        /* error, rip, cs, rflags, rsp, ss */
        popq trap + 8
        popq trap + 16
        popq trap + 24
        popq trap + 32
        popq trap + 40
        mov %cr2, %rcx
        mov %rcx, trap + 48
        mov %dr6, %rcx
        mov %rcx, trap + 56
        mov $0x10, %ecx                      /* ring 3 leaves a null SS, a bad load may leave any DS */
        mov %ecx, %ss
        mov %ecx, %ds
        mov %ecx, %es
        cld
        mov trap_stack, %rsp
        test %rsp, %rsp
        jnz back
        mov $stray_stack_top, %rsp           /* nobody waits for this one */
        mov %eax, %edi
        call trap_stray

        .bss
        .global trap, trap_last
        .align 8
trap:   .skip 64
trap_stack:
        .skip 8
trap_last:
        .skip 4
        .align 16
        .skip 4096
stray_stack_top:
        .section .note.GNU-stack, "", @progbits
