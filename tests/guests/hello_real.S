/* hello_real: a boot sector. Starts in real mode at 0000:7c00 and stays there.
 *
 *  1. segments and stack: nothing but CS:IP is promised
 *  2. print through COM1, polled
 *  3. end with status 0
 */
        .code16
        .text
        .global start
start:  cli
        cld
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $0x7c00, %sp
        mov $0x3fb, %dx                      /* LCR: 8N1 */
        mov $3, %al
        out %al, %dx
        mov $text, %si
        call print

        /* A segment other than zero: the same byte has 4096 names in real mode. */
        mov $0x07c0, %ax
        mov %ax, %ds
        mov $text2 - 0x7c00, %si
        call print

        mov $0xf4, %dx
        xor %al, %al
        out %al, %dx
1:      hlt
        jmp 1b

print:  lodsb                                /* DS:SI up to a zero byte */
        test %al, %al
        jz 2f
        mov %al, %ah
        mov $0x3fd, %dx                      /* LSR */
1:      in %dx, %al
        test $0x20, %al
        jz 1b
        mov %ah, %al
        mov $0x3f8, %dx
        out %al, %dx
        jmp print
2:      ret

text:   .asciz "hello_real: a flat guest in real mode\n"
text2:  .asciz "hello_real: done\n"
        .section .note.GNU-stack, "", @progbits
