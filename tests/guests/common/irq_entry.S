/* Interrupt entries that return: 256 of them, 16 bytes apart, called by the processor.
 *  1. push the vector and every register that C may change
 *  2. irq_arrived(frame)
 *  3. all back, IRETQ
 */
        .text
        .align 16
        .global irq_entries
irq_entries:
        vector = 0
        .rept 256
        .align 16
        push $vector
        jmp common
        vector = vector + 1
        .endr

common: push %rax
        push %rcx
        push %rdx
        push %rsi
        push %rdi
        push %r8
        push %r9
        push %r10
        push %r11
        lea 72(%rsp), %rdi
        cld
        call irq_arrived
        pop %r11
        pop %r10
        pop %r9
        pop %r8
        pop %rdi
        pop %rsi
        pop %rdx
        pop %rcx
        pop %rax
        add $8, %rsp
        iretq
        .section .note.GNU-stack, "", @progbits
