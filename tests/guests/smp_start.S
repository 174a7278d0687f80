/* Where STARTUP sends a processor: copied to two pages below 1 MiB, so nothing in it depends on where it lies.
 *  1. note in the mailbox at 0x7000 what the processor brought: CS, FLAGS, CR0, EFER, EDX; and count the start
 *  2. straight from real mode to 64-bit mode, on the first processor's GDT and page tables
 *  3. smp_main() on a stack of its own
 */
#define EFER 0xc0000080
        .text
        .global smp_start, smp_start_end
        .code16
smp_start:
        mov $0x700, %ax
        mov %ax, %es
        mov $0, %ax
        mov %ax, %ss
        mov $0x6f00, %sp
        pushf
        pop %ax
        mov %cs, %es:0
        mov %ax, %es:4
        mov %edx, %es:16
        mov %cr0, %eax
        mov %eax, %es:8
        mov $EFER, %ecx
        rdmsr
        mov %eax, %es:12
        incl %es:20
        lgdtl %es:32
        mov %cr4, %eax
        or $0x20, %eax                       /* PAE */
        mov %eax, %cr4
        mov %es:48, %eax
        mov %eax, %cr3
        mov $EFER, %ecx
        rdmsr
        or $0x100, %eax                      /* LME */
        wrmsr
        mov %cr0, %eax
        and $0x9fffffff, %eax                /* CD, NW */
        or $0x80000001, %eax                 /* PG, PE */
        mov %eax, %cr0
        ljmpl $8, $long_mode
smp_start_end:
        .code64
long_mode:
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $smp_stack_top, %rsp
        xor %ebp, %ebp
        call smp_main
1:      cli
        hlt
        jmp 1b
        .bss
        .align 16
        .skip 8192
smp_stack_top:
        .section .note.GNU-stack, "", @progbits
