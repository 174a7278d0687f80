/* From the boot loader to long mode.
 *
 * Called by a multiboot 1 or 2 loader: 32-bit protected mode, paging off, interrupts off, EAX = magic, EBX = information.
 * 1. keep EAX and EBX;
 * 2. refuse a processor without long mode or NX, in a sentence on the serial port;
 * 3. copy the pristine .data to .snapshot, for cores that start later;
 * 4. map the first 4 GiB one to one and the image at KERNEL_BASE (both until the kernel has built its own root);
 * 5. enter long mode, load GDT, TSS and IDT, and call k_boot(magic, information).
 * BIOS and UEFI (through GRUB) come here in the same state, so this is the only entry of the first core.
 * Other cores come in below, at trampoline_start.
 */
#include "spec.h"

#define MB1_MAGIC 0x1badb002
#define MB1_FLAGS 0x00010003            /* modules page-aligned, memory map, addresses below are valid */
#define MB2_MAGIC 0xe85250d6
#define BOOT_TABLES (boot_tables - KERNEL_BASE)

/* ECX page-table entries at EDI, from EAX on, each `step` bytes of memory behind the one before. */
.macro fill_entries step
1:  movl %eax, (%edi)
    addl $\step, %eax
    addl $8, %edi
    loop 1b
.endm

    .section .boot, "ax"
    .code32
    .balign 8
multiboot1:
    .long MB1_MAGIC, MB1_FLAGS, -(MB1_MAGIC + MB1_FLAGS)
    .long multiboot1, image_load_start, image_load_end, image_bss_end, start32

    .balign 8
multiboot2:
    .long MB2_MAGIC, 0, multiboot2_end - multiboot2, -(MB2_MAGIC + multiboot2_end - multiboot2)
    .balign 8
    .word 1, 0                          /* information request: memory map, modules (6, 3) */
    .long 16, 6, 3
    .balign 8
    .word 6, 0                          /* modules page-aligned */
    .long 8
    .balign 8
    .word 3, 0                          /* 32-bit entry */
    .long 12, start32
    .balign 8
    .word 0, 0
    .long 8
multiboot2_end:

    .global start32
start32:
    cli
    cld
    movl $(boot_stack_top - KERNEL_BASE), %esp
    movl %eax, %ebp                     /* magic */
    movl %ebx, %edi                     /* information */

    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb   no_long_mode
    movl $0x80000001, %eax
    cpuid
    andl $(1 << 29 | 1 << 20), %edx     /* long mode, NX */
    cmpl $(1 << 29 | 1 << 20), %edx
    jne  no_long_mode

    movl %edi, %ebx
    movl $data_load_start, %esi
    movl $snapshot_start, %edi
    movl $data_bytes, %ecx
    rep movsb

    /* boot_tables: PML4, low PDPT, high PDPT, 4 page directories of the first 4 GiB */
    movl $BOOT_TABLES, %edi
    xorl %eax, %eax
    movl $(7 * PAGE_BYTES / 4), %ecx
    rep stosl
    movl $(BOOT_TABLES + 1 * PAGE_BYTES + 3), BOOT_TABLES
    movl $(BOOT_TABLES + 2 * PAGE_BYTES + 3), BOOT_TABLES + 511 * 8
    movl $(BOOT_TABLES + 3 * PAGE_BYTES + 3), BOOT_TABLES + 2 * PAGE_BYTES + 510 * 8
    movl $(BOOT_TABLES + 1 * PAGE_BYTES), %edi
    movl $(BOOT_TABLES + 3 * PAGE_BYTES + 3), %eax
    movl $4, %ecx
    fill_entries PAGE_BYTES
    movl $(BOOT_TABLES + 3 * PAGE_BYTES), %edi
    movl $0x83, %eax                    /* present, writable, 2 MiB */
    movl $2048, %ecx
    fill_entries 0x200000

    movl $BOOT_TABLES, %eax
enter_long_mode:                        /* EAX: the root; EBP, EBX: what kernel_begin gets */
    movl %eax, %cr3
    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $MSR_EFER, %ecx
    movl $(EFER_LME | EFER_NXE), %eax
    xorl %edx, %edx
    wrmsr
    movl $(CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG), %eax
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $KERNEL_CS, $start64_low

no_long_mode:
    movb $3, %al                        /* eight bits to a character, or Bochs cuts them to five */
    movw $0x3fb, %dx
    outb %al, %dx
    movl $no_long_mode_text, %esi
1:  movw $0x3fd, %dx
2:  inb  %dx, %al
    testb $0x20, %al
    jz   2b
    movb (%esi), %al
    testb %al, %al
    jz   3f
    movw $0x3f8, %dx
    outb %al, %dx
    incl %esi
    jmp  1b
3:  hlt
    jmp  3b
no_long_mode_text:
    .asciz "bulkhead: cannot start: this processor has no 64-bit mode with NX, which everything here needs\r\n"

    .balign 8
boot_gdt_pointer:
    .word 6 * 8 - 1
    .long boot_gdt
    .balign 8
boot_gdt:                               /* the first descriptors of the kernel's own GDT, at a low address */
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0, 0

/* A core that the first one has started: real mode, at TRAMPOLINE, where cores.py has put this code.
 * 1. 32-bit protected mode;
 * 2. this core's own copy of the pristine .data, and zeros behind it, in the memory that CORE_PRIVATE names;
 * 3. tables in front of it: the first 4 GiB one to one, and the image at KERNEL_BASE with that copy in the place of the first core's;
 * 4. on as the first core, with HANDOVER_MAGIC and CORE_RECORD instead of what a boot loader says.
 * The two words are read where the first core has them; from step 4 on nothing of its private memory is reachable by name. */
    .code16
    .global trampoline_start, trampoline_end
trampoline_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt_pointer - trampoline_start
    movl $CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $KERNEL_CS, $core32
    .balign 8
trampoline_gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
trampoline_gdt_pointer:
    .word 3 * 8 - 1
    .long TRAMPOLINE + trampoline_gdt - trampoline_start
trampoline_end:

#define PRIVATE_TABLES (BOOT_TABLE_PAGES * PAGE_BYTES)
#define IMAGE_PAGES (3 * 512)           /* what the three page tables of the image cover: it ends below 6 MiB */
    .code32
core32:
    movw $KERNEL_DS, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl core_private - KERNEL_BASE, %ebx
    leal PRIVATE_TABLES(%ebx), %edi
    movl $snapshot_start, %esi
    movl $data_bytes, %ecx
    rep movsb
    movl $private_zero_bytes, %ecx
    xorl %eax, %eax
    rep stosb

    /* PML4, low PDPT, high PDPT, 4 page directories of the first 4 GiB, the image's page directory, its 3 page tables */
    movl %ebx, %edi
    movl $(PRIVATE_TABLES / 4), %ecx
    rep stosl
    leal 1 * PAGE_BYTES + 3(%ebx), %eax
    movl %eax, (%ebx)
    leal 2 * PAGE_BYTES + 3(%ebx), %eax
    movl %eax, 511 * 8(%ebx)
    leal 7 * PAGE_BYTES + 3(%ebx), %eax
    movl %eax, 2 * PAGE_BYTES + 510 * 8(%ebx)
    leal 1 * PAGE_BYTES(%ebx), %edi
    leal 3 * PAGE_BYTES + 3(%ebx), %eax
    movl $4, %ecx
    fill_entries PAGE_BYTES
    leal 3 * PAGE_BYTES(%ebx), %edi
    movl $0x83, %eax                    /* present, writable, 2 MiB */
    movl $2048, %ecx
    fill_entries 0x200000
    leal 7 * PAGE_BYTES(%ebx), %edi
    leal 8 * PAGE_BYTES + 3(%ebx), %eax
    movl $3, %ecx
    fill_entries PAGE_BYTES
    leal 8 * PAGE_BYTES(%ebx), %edi
    movl $3, %eax
    movl $IMAGE_PAGES, %ecx
    fill_entries PAGE_BYTES
    leal 8 * PAGE_BYTES + private_first_entry(%ebx), %edi
    leal PRIVATE_TABLES + 3(%ebx), %eax
    movl $private_pages, %ecx
    fill_entries PAGE_BYTES

    movl $HANDOVER_MAGIC, %ebp
    movl %ebx, %eax
    movl core_record - KERNEL_BASE, %ebx
    jmp  enter_long_mode

    .code64
start64_low:
    movabsq $start64, %rax
    jmp  *%rax

    .text
start64:
    movl $KERNEL_DS, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq $kernel_stack_top, %rsp
    movl %ebp, %r12d
    movl %ebx, %r13d
    call load_tables
    movl %r12d, %edi
    movl %r13d, %esi
    xorl %ebp, %ebp
    call kernel_begin
1:  cli
    hlt
    jmp  1b

    .data
    .balign 8
    .global core_record, core_private
core_record:    .quad 0                 /* hpa of the record for the core that starts next */
core_private:   .quad 0                 /* hpa of its memory */

    .section .boot.bss, "aw", @nobits
    .balign PAGE_BYTES
boot_tables:
    .skip 7 * PAGE_BYTES
    .section .bss
    .balign 16
    .skip 256
boot_stack_top:

    .section .note.GNU-stack, "", @progbits
