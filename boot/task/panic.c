/* How a ring-3 program stops itself when it finds that it is broken: the kernel ends its compartment and the manager shows the code. */

#include "bulkhead.h"

void bulkhead_panic(int code)
{
    /* STOP(SLOT_SELF, VMM_GAVE_UP, code). It does not return; should it refuse, ask again rather than run on. */
    for (;;) {
        unsigned long number = CALL_STOP, detail = (unsigned long)code;
        __asm__ volatile("int %[gate]"
                         : "+a"(number), "+d"(detail)
                         : [gate] "i"(CALL_GATE), "D"((unsigned long)CALL_SLOT_SELF), "S"((unsigned long)ENDING_VMM_GAVE_UP)
                         : "memory", "cc");
    }
}
