/* halter: HLT with interrupts off and nothing that could wake it. */
#include "runtime.h"

int main(void)
{
    print("halter: halting\n");
    asm volatile("cli; hlt");
    print("halter: woken by nobody\n");
    return 1;
}
