/* physsweeper: reach for everything that can be addressed. Beyond our RAM all reads are ones and all
 * writes vanish; neither disturbs our RAM.
 *
 * Probed: every GiB boundary up to the processor's physical width (thinned out to about `gibs`, powers
 * of two always among them), every 2 MiB below 4 GiB, every page of A0000-10FFFF, and FE000000-FF000000
 * in 64 KiB steps.
 * gibs=512     at most about so many GiB boundaries; 0 for all of them
 * unclaimed=0xff  the byte that unclaimed memory reads (QEMU's PC reads 0 there)
 * board=1      leave out what Bulkhead's PC claims: the firmware's area below 1 MiB, IOAPIC and local APIC
 * pc=1         leave out what a PC claims: everything below 1 MiB and the last GiB below 4 GiB
 */
#include "multiboot.h"
#include "runtime.h"
#include "trap.h"

#define GIB (1ull << 30)
#define WITNESS 0x01234567

extern u64 pml4[512];
static u64 window_pdpt[512] __attribute__((aligned(4096)));
static u64 window_directory[512] __attribute__((aligned(4096)));
static volatile u32 witness = WITNESS;
static word board;
static u32 unclaimed, probes, answers, kept, ram_pages;

/* Virtual 512 GiB onwards is a window of 2 MiB, moved to where we want to look. */
static volatile u32 *look_at(u64 gpa)
{
    const u64 window = 512 * GIB;
    pml4[1] = (word)window_pdpt | PAGE_P | PAGE_W;
    window_pdpt[0] = (word)window_directory | PAGE_P | PAGE_W;
    window_directory[0] = (gpa & ~0x1fffffull) | PAGE_P | PAGE_W | PAGE_PS;
    asm volatile("invlpg (%0)" :: "r"(window) : "memory");
    return (volatile u32 *)(window + (gpa & 0x1fffff));
}

/* 1 when the loader's map claims the address for anything (RAM, but also a PC's firmware). */
static int claimed(u64 gpa)
{
    for (struct multiboot_mmap *m = mmap_first(); mmap_more(m); m = mmap_next(m))
        if (gpa < m->base + m->length && gpa + 4 > m->base)
            return 1;
    return board && ((gpa >= 0xc0000 && gpa < 0x100000) || gpa >> 12 == 0xfec00 || gpa >> 12 == 0xfee00);
}

static void probe(u64 gpa)
{
    u32 before, after;
    volatile u32 *at;
    if (claimed(gpa)) {
        ram_pages++;
        return;
    }
    at = look_at(gpa);
    probes++;
    before = *at;
    *at = ~unclaimed ^ (u32)gpa ^ 0x5a;
    after = *at;
    if (before != unclaimed && answers++ < 8)
        print("%012llx reads %x\n", gpa, before);
    if (after != before && kept++ < 8)
        print("%012llx keeps what is written: %x\n", gpa, after);
}

static u32 physical_width(void)
{
    return cpuid(0x80000000, 0).eax >= 0x80000008 ? cpuid(0x80000008, 0).eax & 0xff : 36;
}

static void sweep_gibs(u32 width)
{
    u64 count = 1ull << (width - 30), most = option("gibs", 512), step = 1;
    while (most && count / step > most)
        step *= 2;
    for (u64 gib = 4; gib < count; gib = gib < step ? gib * 2 : gib + step)
        probe(gib * GIB);
    probe(count * GIB - 4);                        /* the last bytes there can be */
}

int main(void)
{
    word pc = option("pc", 0);
    board = option("board", 0);
    u32 width = physical_width();
    unclaimed = option("unclaimed", 0xff) * 0x01010101u;
    if (!(info()->flags & INFO_MMAP)) {
        print("physsweeper: no memory map\n");
        return 1;
    }
    print("physsweeper: %u physical address bits\n", width);
    sweep_gibs(width);
    for (u64 gpa = 0; gpa < (pc ? 3 * GIB : 4 * GIB); gpa += 2 << 20)
        probe(gpa);
    for (u64 gpa = 0xa0000; !pc && gpa < 0x110000; gpa += 4096)
        probe(gpa);
    for (u64 gpa = 0xfe000000; !pc && gpa < 0xff000000; gpa += 65536)
        probe(gpa);
    if (witness != WITNESS)
        print("physsweeper: our own memory changed\n");
    print("physsweeper: %u probes, %u not unclaimed, %u kept a write, %u in RAM\n",
          probes, answers, kept, ram_pages);
    return answers || kept || witness != WITNESS;
}
