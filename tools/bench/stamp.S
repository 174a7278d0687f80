/* Says the TSC of its first instruction and ends the machine. The bench writes this over the first instruction of the kernel,
 * or of a guest, in a copy of the image: so the moment at which that would have begun is known, and nothing before it differs.
 * 32-bit protected mode, position-independent, no stack.
 *
 * 1. RDTSC; 2. sixteen hexadecimal digits and a new line to COM1; 3. ports that end a VM, QEMU or Bochs.
 */
    .code32
    .text
    rdtsc
    movl %edx, %esi
    movl %eax, %edi
    movw $0x3fb, %dx                    /* 8N1: Bochs sends five bits until somebody says so */
    movb $3, %al
    outb %al, %dx
    movl $16, %ecx
1:  movl %esi, %ebx
    shrl $28, %ebx
    shldl $4, %edi, %esi
    shll $4, %edi
    addb $'0', %bl
    cmpb $'9', %bl
    jbe  2f
    addb $'a' - '9' - 1, %bl
2:  movw $0x3fd, %dx                    /* the transmitter's register is empty */
    inb  %dx, %al
    testb $0x20, %al
    jz   2b
    movw $0x3f8, %dx
    movb %bl, %al
    outb %al, %dx
    decl %ecx
    js   3f
    jnz  1b
    movb $'\n', %bl
    jmp  2b
3:  movw $0x3fd, %dx                    /* all is sent */
    inb  %dx, %al
    testb $0x40, %al
    jz   3b
    xorl %eax, %eax
    outb %al, $0xf4                     /* a VM ends here */
    movw $0x501, %dx
    outw %ax, %dx                       /* QEMU */
    movw $0x8900, %dx                   /* Bochs */
    .irp letter, 0x53, 0x68, 0x75, 0x74, 0x64, 0x6f, 0x77, 0x6e    /* "Shutdown" */
    movb $\letter, %al
    outb %al, %dx
    .endr
4:  hlt
    jmp  4b
    .section .note.GNU-stack, "", @progbits
