/* spinner: never gives the processor back by itself. Only a timer of the hypervisor's gets it away.
 * spin=N   end with status 0 after N turns instead
 * exits=1  each turn is an exit that the kernel answers at once */
#include "runtime.h"

int main(void)
{
    word turns = option("spin", 0);
    if (turns) {
        print("spinner: %lu turns with interrupts off\n", turns);
        spin(turns);
        print("spinner: done\n");
        return 0;
    }
    print("spinner: spinning with interrupts off\n");
    if (option("exits", 0))
        asm volatile("cli; 1: xor %%eax, %%eax; cpuid; jmp 1b" ::: "rax", "rbx", "rcx", "rdx");
    asm volatile("cli; 1: jmp 1b");
    return 1;
}
