/* Where a ring-3 program begins. The kernel enters here: RSP = STACK_TOP - 8 (as after a call), RDI = the argument of START.

   1. keep the argument, which also aligns the stack
   2. RPython_StartupCode(): fills the generated data
   3. task_main(argument), which is not meant to return
   4. it did: an exception left it, or the program ended without saying how. Both are a panic.

   Nothing is saved: nobody is there to return to. */

#include "spec.h"

        .section .text.start, "ax"
        .globl  _start
        .type   _start, @function
_start:
        pushq   %rdi
        call    RPython_StartupCode
        movq    (%rsp), %rdi
        call    task_main
        call    bulkhead_exception_pending
        movl    $PANIC_ABORT, %edi
        movl    $PANIC_UNCAUGHT_EXCEPTION, %ecx
        testl   %eax, %eax
        cmovnzl %ecx, %edi
        call    bulkhead_panic
        .size   _start, . - _start

        .section .note.GNU-stack, "", @progbits
