/* Boot code of the sample programs: enough to link, and to run as a Linux process (tests/tools/test_build_run.py does that).

   The exit status is t_run's result; 128 + code after a panic. */

#include "spec.h"

        .section .text.start, "ax"
        .globl  _start
_start:
        and     $-16, %rsp
        call    RPython_StartupCode
        mov     $7, %edi
        call    t_boot
        call    bulkhead_seal_heap
        call    t_run
        mov     %eax, %edi
        jmp     leave

        .globl  bulkhead_panic
bulkhead_panic:
        add     $128, %edi
leave:  mov     $231, %eax              /* exit_group */
        syscall
        ud2

        .section .note.GNU-stack, "", @progbits
