/* A guest's registers between the processor and its area (RBX points to it), as far as a C function may change them, and RBX.
 * RAX is where the vendor has it. */
    .macro load_guest
    movq AREA_RCX(%rbx), %rcx
    movq AREA_RDX(%rbx), %rdx
    movq AREA_RSI(%rbx), %rsi
    movq AREA_RDI(%rbx), %rdi
    movq AREA_R8(%rbx), %r8
    movq AREA_R9(%rbx), %r9
    movq AREA_R10(%rbx), %r10
    movq AREA_R11(%rbx), %r11
    movq AREA_RBX(%rbx), %rbx
    .endm

/* The guest's RBX is in the area already. */
    .macro keep_guest
    movq %rcx, AREA_RCX(%rbx)
    movq %rdx, AREA_RDX(%rbx)
    movq %rsi, AREA_RSI(%rbx)
    movq %rdi, AREA_RDI(%rbx)
    movq %r8, AREA_R8(%rbx)
    movq %r9, AREA_R9(%rbx)
    movq %r10, AREA_R10(%rbx)
    movq %r11, AREA_R11(%rbx)
    .endm

/* The others, which C functions keep: AREA is the register that points to it. */
    .macro load_kept AREA
    movq AREA_RBP(\AREA), %rbp
    movq AREA_R12(\AREA), %r12
    movq AREA_R13(\AREA), %r13
    movq AREA_R14(\AREA), %r14
    movq AREA_R15(\AREA), %r15
    .endm

    .macro keep_kept
    movq %rbp, AREA_RBP(%rbx)
    movq %r12, AREA_R12(%rbx)
    movq %r13, AREA_R13(%rbx)
    movq %r14, AREA_R14(%rbx)
    movq %r15, AREA_R15(%rbx)
    .endm
