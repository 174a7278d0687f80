/* Start of a 32-bit multiboot guest. The loader hands over in flat protected mode, paging and
 * interrupts off, EAX = 0x2badb002, EBX = information structure; its GDT may not be relied on.
 *
 *  1. keep every register as it was (the guest `stale` looks at them)
 *  2. own stack, own GDT, own segments
 *  3. main(); what it returns is the VM's exit status
 */
#define MULTIBOOT_HEADER 0x1badb002
#define FLAGS 2                              /* memory information wanted */

        .section .multiboot, "a"
        .align 4
        .long MULTIBOOT_HEADER, FLAGS, -(MULTIBOOT_HEADER + FLAGS)

        .text
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
        lgdt gdt_pointer
        ljmp $8, $1f
1:      mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %fs
        mov %eax, %gs
        mov %eax, %ss
        call uart_init
        call main
        push %eax
        call leave

        .data
        .align 8
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word . - gdt - 1
        .long gdt

        .bss
        .align 16
        .skip 16384
stack_top:
        .global boot_magic, boot_info, entry_registers
boot_magic: .skip 4
boot_info:  .skip 4
entry_registers: .skip 32
        .section .note.GNU-stack, "", @progbits
