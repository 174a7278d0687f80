/* portprober: read every I/O port, count what answers. Where nobody listens a read is all ones.
 *
 * By default a dword read at every multiple of 4 covers all ports, and every 64th port is read as a
 * byte and as a word too.
 * full=1   each port at each width
 * out=1    write to each port as well (byte, word, dword by turns), but for those that end the VM
 * board=1  leave out the PC's chips that Bulkhead gives a guest
 * allow=0  fail when more than so many reads are not all ones
 */
#include "runtime.h"

/* Ports whose reading or writing does something: an access of `width` bytes must not touch them. */
static const struct { u16 first, last; } left_alone[] = {
    { PORT_KEYBOARD, PORT_KEYBOARD },
    { PORT_EXIT, PORT_EXIT + 3 },
    { PORT_COM1, PORT_COM1 + 7 },
    { PORT_RESET, PORT_RESET },
};
/* A PC's own traps: fast A20/reset, the port that tells of a panic, and the ACPI sleep control. */
static const struct { u16 first, last; } no_writes[] = { { 0x92, 0x92 }, { 0xb2, 0xb3 }, { 0x505, 0x505 }, { 0x600, 0x63f },
                                                         { 0xcf8, 0xcff } };
/* docs/platform.md, "Devices". */
static const struct { u16 first, last; } board[] = { { 0x20, 0x21 }, { 0x40, 0x43 }, { 0x60, 0x61 }, { 0x70, 0x71 }, { 0xa0, 0xa1 },
                                                     { 0x4d0, 0x4d1 }, { 0x505, 0x505 }, { 0x600, 0x60b }, { 0xcf8, 0xcff } };
static word without_board;

static u32 reads, answers, writes;

static int touches(u32 port, u32 width, u32 first, u32 last)
{
    return port <= last && port + width > first;
}

static int forbidden(u32 port, u32 width, int writing)
{
    for (u32 i = 0; i < sizeof left_alone / sizeof left_alone[0]; i++)
        if (touches(port, width, left_alone[i].first, left_alone[i].last))
            return 1;
    for (u32 i = 0; without_board && i < sizeof board / sizeof board[0]; i++)
        if (touches(port, width, board[i].first, board[i].last))
            return 1;
    for (u32 i = 0; writing && i < sizeof no_writes / sizeof no_writes[0]; i++)
        if (touches(port, width, no_writes[i].first, no_writes[i].last))
            return 1;
    return 0;
}

static void probe(u32 port, u32 width)
{
    u32 value;
    if (forbidden(port, width, 0))
        return;
    reads++;
    value = width == 1 ? in8(port) : width == 2 ? in16(port) : in32(port);
    if (value == ALL_ONES(8 * width))
        return;
    if (answers++ < 8)
        print("port %04x width %u reads %08x\n", port, width, value);
}

static void poke(u32 port, u32 width)
{
    if (forbidden(port, width, 1))
        return;
    writes++;
    if (width == 1)
        out8(port, 0xa5);
    else if (width == 2)
        out16(port, 0xa55a);
    else
        out32(port, 0xdeadbeef);
}

int main(void)
{
    without_board = option("board", 0);
    word full = option("full", 0), out = option("out", 0), allow = option("allow", 0);
    for (u32 port = 0; port < 0x10000; port++) {
        int last = port > 0xfffc;                  /* wide accesses run over the end of the port space */
        if (full || last || port % 4 == 0)
            probe(port, 4);
        if (full || last || port % 64 == 1)
            probe(port, 1);
        if (full || last || port % 64 == 2)
            probe(port, 2);
        if (out)
            poke(port, 1 << (port % 3));
    }
    print("portprober: %u reads, %u not all ones, %u writes\n", reads, answers, writes);
    return answers > allow ? 1 : 0;
}
