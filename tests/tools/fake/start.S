/* Multiboot 1 and 2 headers, a stack, and the call of start(magic, information). */
        .section .multiboot, "a"
        .align 8
        .long 0x1badb002, 3, -(0x1badb002 + 3)
        .align 8
first:  .long 0xe85250d6, 0, last - first, -(0xe85250d6 + (last - first))
        .word 6, 0
        .long 8                         /* modules at page boundaries */
        .word 0, 0
        .long 8
last:
        .text
        .globl _start
_start: mov $stack, %esp
        push %ebx
        push %eax
        call start
        .bss
        .align 16
        .skip 16384
stack:
        .section .note.GNU-stack, "", @progbits
