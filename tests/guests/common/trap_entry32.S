/* Exception entries of the 32-bit guests. trap_entry.S has the 64-bit ones, and says more.
 * A frame from a 16-bit gate is not understood: what such a gate leads to is the guest's own.
 */
        .text
        .global trap_call
trap_call:
        push %ebx
        push %ebp
        push %esi
        push %edi
        mov %esp, trap_stack
        push 24(%esp)                        /* argument */
        call *24(%esp)                       /* fn, one further away now */
        mov trap_stack, %esp
        mov $-1, %eax                        /* NO_TRAP */
back:   movl $0, trap_stack
        pop %edi
        pop %esi
        pop %ebp
        pop %ebx
        ret

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

caught: pop %eax                             /* from whatever stack this is */
        pop %ebx                             /* error, EIP, CS, EFLAGS */
        mov %esp, %ebp
        pop %ecx
        pop %edx
        pop %esi
        mov %ds, %edi
        push $0x10                           /* ring 3 leaves any DS, virtual-8086 mode leaves none */
        pop %ds
        mov %ebx, trap + 0
        mov %ecx, trap + 4
        mov %edx, trap + 8
        mov %esi, trap + 12
        mov %edi, trap + 48
        mov %cs, trap + 52
        mov %ebp, trap + 56
        test $0x20000, %esi                  /* VM */
        jnz 1f
        test $3, %edx
        jz 2f
        popl trap + 16
        popl trap + 20
        jmp 2f
1:      popl trap + 16                       /* ESP, SS, ES, DS, FS, GS */
        popl trap + 20
        popl trap + 24
        popl trap + 28
        popl trap + 32
        popl trap + 36
2:      mov %cr2, %ecx
        mov %ecx, trap + 40
        mov %dr6, %ecx
        mov %ecx, trap + 44
        mov $0x10, %ecx
        mov %ecx, %es
        mov %ecx, %ss
        mov trap_stack, %esp
        test %esp, %esp
        jz 3f
        push $2                              /* AC, NT and TF of the interrupted code end here */
        popf
        jmp back
3:      mov $stray_stack_top, %esp           /* nobody waits for this one */
        push %eax
        call trap_stray

        .bss
        .global trap
        .align 4
trap:   .skip 60
trap_stack:
        .skip 4
        .skip 4096
stray_stack_top:
        .section .note.GNU-stack, "", @progbits
