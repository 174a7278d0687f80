/* hello_long: 64-bit code behind a multiboot1 loader, on page tables of its own. */
#include "multiboot.h"
#include "runtime.h"

int main(void)
{
    u64 efer = rdmsr(MSR_EFER);
    print("hello_long: a multiboot guest in long mode\n");
    print("command line: \"%s\"\n", command_line());
    print("cr0 %08lx cr3 %08lx cr4 %08lx efer %08llx\n", read_cr0(), read_cr3(), read_cr4(), efer);
    if (boot_magic != MULTIBOOT_MAGIC || !(efer & EFER_LMA) || !(read_cr0() & CR0_PG))
        return 1;
    /* 64-bit registers: this sum does not fit into 32 bits. */
    u64 sum = 0;
    for (u64 i = 1; i <= 20; i++)
        sum += i << 32;
    print("sum %llx\n", sum);
    print("hello_long: done\n");
    return sum == 210ull << 32 ? 0 : 1;
}
