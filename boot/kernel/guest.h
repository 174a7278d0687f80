/* A guest's registers between the processor and its area. AREA is the register that points to it. */

/* What k_svm_first and k_vmx_first may change, but for RAX, which is where the vendor has it: these functions know of no other registers
 * than C functions keep (FEW_REGISTERS in tools/build/build.py). */
    .macro load_few AREA
    movq AREA_RDX(\AREA), %rdx
    movq AREA_RSI(\AREA), %rsi
    movq AREA_RDI(\AREA), %rdi
    movq AREA_RCX(\AREA), %rcx          /* AREA is RCX or RSP */
    .endm

    .macro keep_few AREA
    movq %rcx, AREA_RCX(\AREA)
    movq %rdx, AREA_RDX(\AREA)
    movq %rsi, AREA_RSI(\AREA)
    movq %rdi, AREA_RDI(\AREA)
    .endm

/* What other C functions may change besides. */
    .macro load_more AREA
    movq AREA_R8(\AREA), %r8
    movq AREA_R9(\AREA), %r9
    movq AREA_R10(\AREA), %r10
    movq AREA_R11(\AREA), %r11
    .endm

    .macro keep_more AREA
    movq %r8, AREA_R8(\AREA)
    movq %r9, AREA_R9(\AREA)
    movq %r10, AREA_R10(\AREA)
    movq %r11, AREA_R11(\AREA)
    .endm

/* What C functions keep; RBX is loaded apart. */
    .macro load_kept AREA
    movq AREA_RBP(\AREA), %rbp
    movq AREA_R12(\AREA), %r12
    movq AREA_R13(\AREA), %r13
    movq AREA_R14(\AREA), %r14
    movq AREA_R15(\AREA), %r15
    .endm

    .macro keep_kept AREA
    movq %rbx, AREA_RBX(\AREA)
    movq %rbp, AREA_RBP(\AREA)
    movq %r12, AREA_R12(\AREA)
    movq %r13, AREA_R13(\AREA)
    movq %r14, AREA_R14(\AREA)
    movq %r15, AREA_R15(\AREA)
    .endm
