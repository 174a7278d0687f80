/* Start of a 64-bit multiboot guest. The header carries the address fields (the "a.out kludge"),
 * because a multiboot1 loader reads ELF32 only, and this is an ELF64.
 * The loader hands over in flat protected mode, as to start32.S.
 *
 *  1. keep every register as it was (the guest `stale` looks at them)
 *  2. identity-map the first 4 GiB with 2 MiB pages: PML4[0] -> PDPT[0..3] -> 4 page directories
 *  3. CR4.PAE, CR3, EFER.LME, CR0.PG; a far jump to 64-bit code
 *  4. an IDT whose 32 entries lead to trap_entry.S
 *  5. main(); what it returns is the VM's exit status
 *
 * It touches no FPU, SSE or debug register.
 */
#define MULTIBOOT_HEADER 0x1badb002
#define FLAGS 0x10002                        /* address fields valid; memory information wanted */
#define EFER 0xc0000080

        .section .multiboot, "a"
        .align 4
header: .long MULTIBOOT_HEADER, FLAGS, -(MULTIBOOT_HEADER + FLAGS)
        .long header, image_start, load_end, image_end, start

        .text
        .code32
        .global start
start:  mov %eax, entry_registers + 0
        mov %ebx, entry_registers + 4
        mov %ecx, entry_registers + 8
        mov %edx, entry_registers + 12
        mov %esi, entry_registers + 16
        mov %edi, entry_registers + 20
        mov %ebp, entry_registers + 24
        mov %esp, entry_registers + 28
        mov %eax, boot_magic
        mov %ebx, boot_info
        mov $stack_top, %esp
        push $0
        popf

        movl $pdpt + 3, pml4                 /* present, writable */
        xor %ecx, %ecx
1:      mov %ecx, %eax                       /* PDPT[i] -> directory i */
        shl $12, %eax
        add $directories + 3, %eax
        mov %eax, pdpt(, %ecx, 8)
        inc %ecx
        cmp $4, %ecx
        jb 1b
        xor %ecx, %ecx
1:      mov %ecx, %eax                       /* entry i -> i * 2 MiB; present, writable, large */
        shl $21, %eax
        or $0x83, %eax
        mov %eax, directories(, %ecx, 8)
        inc %ecx
        cmp $2048, %ecx
        jb 1b

        mov %cr4, %eax
        or $0x20, %eax                       /* PAE */
        mov %eax, %cr4
        mov $pml4, %eax
        mov %eax, %cr3
        mov $EFER, %ecx
        rdmsr
        or $0x100, %eax                      /* LME */
        wrmsr
        mov %cr0, %eax
        or $0x80000000, %eax                 /* PG */
        mov %eax, %cr0
        lgdt gdt_pointer
        ljmp $8, $long_start

        .code64
long_start:
        mov %r8, entry_high + 0              /* out of reach until now */
        mov %r9, entry_high + 8
        mov %r10, entry_high + 16
        mov %r11, entry_high + 24
        mov %r12, entry_high + 32
        mov %r13, entry_high + 40
        mov %r14, entry_high + 48
        mov %r15, entry_high + 56
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %fs
        mov %eax, %gs
        mov %eax, %ss
        mov $stack_top, %rsp
        call uart_init
        call trap_init
        call main
        mov %eax, %edi
        call leave

        .data
        .align 16
        .global gdt
gdt:    .quad 0
        .quad 0x00af9b000000ffff             /* 0x08 64-bit code */
        .quad 0x00cf93000000ffff             /* 0x10 data */
        .quad 0x00cf9b000000ffff             /* 0x18 32-bit code: compatibility mode */
        .quad 0x00cff3000000ffff             /* 0x20 data, ring 3 */
        .quad 0x00affb000000ffff             /* 0x28 64-bit code, ring 3 */
        .quad 0x00cf13000000ffff             /* 0x30 data, not present */
        .quad 0, 0                           /* 0x38 task state segment: trap_tss() fills it in */
gdt_pointer:
        .word . - gdt - 1
        .quad gdt

        .bss
        .align 4096
        .global pml4, pdpt, directories
pml4:   .skip 4096
pdpt:   .skip 4096
directories:
        .skip 4 * 4096
        .skip 16384
stack_top:
        .global boot_magic, boot_info, entry_registers, entry_high
boot_magic: .skip 4
boot_info:  .skip 4
entry_registers: .skip 32
        .align 8
entry_high: .skip 64                         /* R8 to R15 */
        .section .note.GNU-stack, "", @progbits
