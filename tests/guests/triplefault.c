/* triplefault: an exception that cannot be delivered is a double fault, a double fault that cannot
 * be delivered is a shutdown. */
#include "runtime.h"

int main(void)
{
    struct { u16 limit; u32 base; } __attribute__((packed)) no_idt = { 0, 0 };
    print("triplefault: shutting down\n");
    asm volatile("lidt %0; int3" :: "m"(no_idt));
    print("triplefault: still alive\n");
    return 1;
}
