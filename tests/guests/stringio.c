/* stringio: INS and OUTS, whose data passes through the guest's memory, not through a register.
 * Long mode, on page tables in which neighbours are not neighbours: a hypervisor that takes the
 * virtual address for a physical one, or goes on past the end of a page in physical memory, is caught.
 *
 * chunk=64  bytes that the UART takes in one go. A real one without its FIFO takes 1.
 */
#include "runtime.h"
#include "trap.h"

#define WINDOW (512ull << 30)                  /* virtual: two pages in a row */

extern u64 pml4[512];
static u64 window_pdpt[512] __attribute__((aligned(4096)));
static u64 window_directory[512] __attribute__((aligned(4096)));
static u64 window_table[512] __attribute__((aligned(4096)));
/* Their frames: the second page's lies before the first's, and a page between shows overruns. */
static u8 frames[3][4096] __attribute__((aligned(4096)));
static u32 errors;

static void map_window(void)
{
    pml4[1] = (word)window_pdpt | PAGE_P | PAGE_W;
    window_pdpt[0] = (word)window_directory | PAGE_P | PAGE_W;
    window_directory[0] = (word)window_table | PAGE_P | PAGE_W;
    window_table[0] = (word)frames[2] | PAGE_P | PAGE_W;
    window_table[1] = (word)frames[0] | PAGE_P | PAGE_W;
}

#define REP_IN(name, suffix)                                                                      \
    static void name(word to, u16 port, word count)                                               \
    { asm volatile("rep ins" suffix : "+D"(to), "+c"(count) : "d"(port) : "memory"); }
REP_IN(rep_in8, "b") REP_IN(rep_in16, "w") REP_IN(rep_in32, "l")

static void rep_out8(u16 port, word from, word count)
{
    asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}

static void check(int right, const char *what)
{
    if (right)
        return;
    errors++;
    print("stringio: wrong: %s\n", what);
}

static int all(const u8 *from, u32 count, u8 byte)
{
    while (count--)
        if (*from++ != byte)
            return 0;
    return 1;
}

/* Text across the page boundary, out of COM1. */
static void say_across_pages(void)
{
    static const char text[] = "stringio: this text lies on two pages\n";
    enum { LENGTH = sizeof text - 1, BEFORE = 20 };
    const word at = WINDOW + 4096 - BEFORE, chunk = option("chunk", 64);
    memset(frames[1], '#', 4096);
    memcpy((void *)at, text, LENGTH);
    for (word sent = 0; sent < LENGTH; sent += chunk) {
        uart_drain();
        rep_out8(PORT_COM1, at + sent, LENGTH - sent < chunk ? LENGTH - sent : chunk);
    }
}

static void read_across_pages(void)
{
    u8 *end = frames[2] + 4096;
    memset(frames, 0, sizeof frames);
    rep_in8(WINDOW + 4096 - 5, PORT_UNCLAIMED, 8);
    check(all(end - 5, 5, 0xff) && all(frames[0], 3, 0xff), "8 bytes across two pages");
    check(end[-6] == 0 && frames[0][3] == 0 && all(frames[1], 4096, 0), "bytes beside those 8");

    memset(frames, 0, sizeof frames);
    rep_in16(WINDOW + 4096 - 3, PORT_UNCLAIMED, 4);          /* one word is split */
    check(all(end - 3, 3, 0xff) && all(frames[0], 5, 0xff) && frames[0][5] == 0, "4 words across two pages");

    memset(frames, 0, sizeof frames);
    rep_in32(WINDOW + 4096 - 6, PORT_UNCLAIMED, 3);
    check(all(end - 6, 6, 0xff) && all(frames[0], 6, 0xff) && frames[0][6] == 0, "3 dwords across two pages");
}

/* INSB moves RDI by itself, down with DF set; REP with RCX = 0 does nothing at all. */
static void check_registers(void)
{
    word to = WINDOW + 100, count = 4;
    memset(frames, 0, sizeof frames);
    asm volatile("std; rep insb; cld" : "+D"(to), "+c"(count) : "d"(PORT_UNCLAIMED) : "memory");
    check(to == WINDOW + 96 && count == 0, "RDI and RCX after REP INSB with DF set");
    check(all(frames[2] + 97, 4, 0xff) && frames[2][96] == 0 && frames[2][101] == 0, "bytes with DF set");

    to = WINDOW + 200;
    count = 0;
    asm volatile("rep insb" : "+D"(to), "+c"(count) : "d"(PORT_UNCLAIMED) : "memory");
    check(to == WINDOW + 200 && frames[2][200] == 0, "REP INSB with RCX = 0");

    asm volatile("insb" : "+D"(to) : "d"(PORT_UNCLAIMED) : "memory");
    check(to == WINDOW + 201 && frames[2][200] == 0xff, "INSB without REP");
}

static void insert_outside(void *argument)
{
    (void)argument;
    rep_in8(WINDOW + 2 * 4096 - 2, PORT_UNCLAIMED, 8);        /* the third page is not there */
}

/* A string that leaves the mapped pages is the guest's own #PF: two bytes are in, six are not. */
static void check_page_fault(void)
{
    memset(frames, 0, sizeof frames);
    check(trap_call(insert_outside, 0) == VECTOR_PF, "#PF behind the last page");
    check(trap.cr2 == WINDOW + 2 * 4096 && (trap.error & 3) == 2, "CR2 and error code of that #PF");
    check(all(frames[0] + 4094, 2, 0xff), "bytes before the #PF");
}

int main(void)
{
    map_window();
    say_across_pages();
    read_across_pages();
    check_registers();
    check_page_fault();
    print("stringio: %u errors\n", errors);
    return errors ? 1 : 0;
}
