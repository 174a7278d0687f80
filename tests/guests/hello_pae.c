/* hello_pae: 32-bit code with PAE paging: 8-byte entries, a four-entry top table.
 * Page directory entry 256 (512 MiB) shows the frame that holds this program a second time. */
#include "runtime.h"

enum { ALIAS = 512 << 20, LARGE = 2 << 20 };

static u64 top[4] __attribute__((aligned(32)));
static u64 directories[4][512] __attribute__((aligned(4096)));
static volatile u32 witness = 0x5eed;

static void build_tables(void)
{
    for (u32 i = 0; i < 4; i++)
        top[i] = (word)directories[i] | PAGE_P;      /* PDPTEs: writable and user are reserved here */
    for (u32 i = 0; i < 2048; i++)
        directories[i / 512][i % 512] = (u64)i * LARGE | PAGE_P | PAGE_W | PAGE_PS;
    directories[0][ALIAS / LARGE] = PAGE_P | PAGE_W | PAGE_PS;
}

int main(void)
{
    volatile u32 *alias = (volatile u32 *)((word)&witness + ALIAS);
    build_tables();
    write_cr4(read_cr4() | CR4_PAE);
    write_cr3((word)top);
    write_cr0(read_cr0() | CR0_PG);
    print("hello_pae: 32-bit code on PAE page tables\n");
    *alias = 0xa11a5;
    print("witness %x through its alias %x\n", witness, *alias);
    if (witness != 0xa11a5)
        return 1;
    write_cr0(read_cr0() & ~CR0_PG);
    print("hello_pae: done\n");
    return 0;
}
