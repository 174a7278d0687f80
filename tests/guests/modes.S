/* modes: a tour of the processor's modes in one boot sector, one line from each:
 * real, protected, 32-bit paging, PAE paging, long, and back to real.
 *
 * The steps are those of the Intel SDM Vol. 3A, "Mode Switching" and "IA-32e Mode Operation".
 * Each page table maps the first 4 MiB (2 MiB with PAE) onto itself with large pages.
 */
#define PD        0x1000                     /* 32-bit paging: directory */
#define PDPT      0x2000                     /* PAE: four entries */
#define PML4      0x3000                     /* long mode */
#define LARGE     0x83                       /* present, writable, large */

        .text
        .code16
        .global start
start:  cli
        ljmp $0, $1f
1:      xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7c00, %sp
        cld
        mov $0x3fb, %dx                      /* LCR: 8N1 */
        mov $3, %al
        out %al, %dx
        mov $real, %esi
        call print16

        /* Tables: zero 0x1000..0x4fff, then one entry each. */
        mov $0x1000, %di
        mov %di, %cx
        xor %eax, %eax
        rep stosl
        movb $LARGE, PD
        movw $0x4001, PDPT                   /* a PAE top entry allows only P here */
        movb $LARGE, 0x4000
        movw $0x2003, PML4

        lgdtl gdt_pointer
        mov %cr0, %eax
        inc %ax                              /* PE, clear in real mode */
        mov %eax, %cr0
        ljmpl $0x08, $protected_mode

        .code32
protected_mode:
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $protected, %esi
        call print32

        mov $0x10, %al                       /* CR4.PSE: 4 MiB pages */
        mov %eax, %cr4
        mov $PD, %eax
        call paging_on
        mov $paging32, %esi
        call print32
        call toggle_paging

        mov $0x20, %eax                      /* CR4.PAE */
        mov %eax, %cr4
        mov $PDPT, %eax
        call paging_on
        mov $paging_pae, %esi
        call print32
        call toggle_paging

        orb $2, PDPT                         /* below a PML4 the same entry has a W bit */
        mov $0xc0000080, %ecx                /* EFER.LME, then CR0.PG makes LMA */
        rdmsr
        or $1, %ah
        wrmsr
        mov $PML4, %eax
        call paging_on
        ljmp $0x18, $long_mode

paging_on:                                   /* EAX: top table */
        mov %eax, %cr3
toggle_paging:
        mov %cr0, %eax
        btc $31, %eax                        /* PG */
        mov %eax, %cr0
        ret

        .code64
long_mode:
        mov $long, %esi
        call print64
        mov $out_of_long, %edi
        ljmp *(%rdi)                         /* a far jump through memory is all that long mode has */

        .code32
compatibility_mode:
        call toggle_paging                   /* leaves LMA */
        rdmsr                                /* ECX is still EFER */
        and $~1, %ah
        wrmsr
        xor %eax, %eax
        mov %eax, %cr4
        ljmp $0x20, $1f                      /* 16-bit protected mode first: CS keeps its attributes */
        .code16
1:      mov $0x28, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov %cr0, %eax
        dec %ax
        mov %eax, %cr0
        ljmp $0, $1f
1:      xor %ax, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $back, %esi
        call print16                         /* leaves AL = 0 */
        out %al, $0xf4
1:      hlt
        jmp 1b

/* Print the string at SI, ESI or RSI. The same bytes run in every mode but for the width of an immediate and of
 * the return address, so the text is written once and assembled three times. */
        .macro print_routine
1:      mov $0x3fd, %dx                      /* LSR */
2:      in %dx, %al
        test $0x20, %al
        jz 2b
        mov $0x3f8, %dx
        lodsb
        test %al, %al
        jz 3f
        out %al, %dx
        jmp 1b
3:      ret
        .endm

        .code16
print16: print_routine
        .code32
print32: print_routine
        .code64
print64: print_routine

out_of_long:
        .long compatibility_mode
        .word 0x08

gdt:    .word 0                              /* the null entry is never read: its bytes hold the pointer */
gdt_pointer:
        .word gdt_end - gdt - 1
        .long gdt
        .quad 0x00cf9b000000ffff             /* 0x08 32-bit code */
        .quad 0x00cf93000000ffff             /* 0x10 data */
        .quad 0x00af9b000000ffff             /* 0x18 64-bit code */
        .quad 0x00009b000000ffff             /* 0x20 16-bit code */
        .quad 0x000093000000ffff             /* 0x28 16-bit data */
gdt_end:

real:       .asciz "real mode\n"
protected:  .asciz "protected mode\n"
paging32:   .asciz "32-bit paging\n"
paging_pae: .asciz "PAE paging\n"
long:       .asciz "long mode\n"
back:       .asciz "real mode again\n"
        .section .note.GNU-stack, "", @progbits
