/* What boot/runtime.c and boot/kernel/multiboot.S expect of the kernel. */
#include "bulkhead.h"

unsigned long k_panic_code(long code, unsigned long place);
void kernel_start(unsigned long magic, unsigned long information);

void bulkhead_panic(int code)
{
    static int again;
    if (!again) {
        again = 1;
        k_panic_code(code, (unsigned long)bulkhead_failed_place);
    }
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* Called by start64 on the kernel's stack. Does not return. */
void kernel_begin(unsigned long magic, unsigned long information)
{
    RPython_StartupCode();
    kernel_start(magic, information);
    bulkhead_panic(bulkhead_exception_pending() ? PANIC_UNCAUGHT_EXCEPTION : PANIC_ABORT);
}
