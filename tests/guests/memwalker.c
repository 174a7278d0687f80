/* memwalker: every piece of RAM that the map promises is there, holds what was written, and is ours
 * alone: a neighbour's write, or two addresses that reach one frame, would break the pattern.
 *
 * zero=1    first check that all memory is zero, but for what the loader put there
 * stride=256  bytes from one tested word to the next (8: every word)
 * seed=1    another pattern
 * from=0 to=0xffffffff  leave memory outside of these addresses alone (a PC's firmware uses some)
 * rounds=1  write and verify so many times, with the pattern changed each time
 */
#include "multiboot.h"
#include "runtime.h"

struct range { u32 start, end; };              /* bytes, end not included */

enum { MAX_RANGES = 16, MAX_KEPT = 24 };
static struct range ram[MAX_RANGES], kept[MAX_KEPT];
static u32 ram_count, kept_count, stride, errors;

static void keep(word start, word size)
{
    if (size && kept_count < MAX_KEPT)
        kept[kept_count++] = (struct range){ start & ~7u, (start + size + 7) & ~7u };
}

static u32 length(u32 string)
{
    u32 n = 0;
    while (((char *)string)[n++])
        ;
    return n;
}

/* What the loader wrote: everything that the information structure leads to. */
static void keep_information(void)
{
    struct multiboot_module *m = (void *)(word)info()->mods_addr;
    keep(boot_info, 128);
    if (info()->flags & INFO_CMDLINE)
        keep(info()->cmdline, length(info()->cmdline));
    if (info()->flags & INFO_LOADER)
        keep(info()->boot_loader_name, length(info()->boot_loader_name));
    keep(info()->mmap_addr, info()->mmap_length);
    if (!(info()->flags & INFO_MODULES))
        return;
    keep(info()->mods_addr, info()->mods_count * sizeof *m);
    for (u32 i = 0; i < info()->mods_count; i++, m++) {
        keep(m->start, m->end - m->start);
        if (m->string)
            keep(m->string, length(m->string));
    }
}

/* The map goes into our own image first: it lies in the memory that is about to be overwritten. */
static void find_ram(u64 from, u64 to)
{
    for (struct multiboot_mmap *m = mmap_first(); mmap_more(m) && ram_count < MAX_RANGES; m = mmap_next(m)) {
        u64 start = m->base < from ? from : m->base, end = m->base + m->length;
        if (end > to)
            end = to;
        if (m->type == MMAP_AVAILABLE && start < end)
            ram[ram_count++] = (struct range){ (start + 7) & ~7u, end & ~7u };
    }
}

/* The address after `at`'s kept range, or `at` itself where nobody keeps it. */
static u32 past_kept(u32 at)
{
    for (u32 i = 0; i < kept_count; i++)
        if (at >= kept[i].start && at < kept[i].end)
            return past_kept(kept[i].end);
    return at;
}

/* The next address from `at` on where a kept range begins, or `end`. */
static u32 next_kept(u32 at, u32 end)
{
    for (u32 i = 0; i < kept_count; i++)
        if (kept[i].start >= at && kept[i].start < end)
            end = kept[i].start;
    return end;
}

static void complain(const char *what, u32 at, u32 found)
{
    if (errors++ < 5)
        print("memwalker: %s at %08x: %08x\n", what, at, found);
}

static u32 pattern(u32 at, u32 seed)
{
    return (at ^ seed) * 2654435761u;          /* 2^32 / golden ratio: an odd factor, so one to one */
}

static void check_zero(u32 start, u32 end, u32 seed)
{
    (void)seed;
    for (u32 at = start; at < end; at += stride)
        if (*(volatile u32 *)at)
            complain("not zero", at, *(volatile u32 *)at);
}

static void write_pattern(u32 start, u32 end, u32 seed)
{
    for (u32 at = start; at < end; at += stride)
        *(volatile u32 *)at = pattern(at, seed);
}

static void check_pattern(u32 start, u32 end, u32 seed)
{
    for (u32 at = start; at < end; at += stride)
        if (*(volatile u32 *)at != pattern(at, seed))
            complain("pattern broken", at, *(volatile u32 *)at);
}

static u32 sum;
static void add_up(u32 start, u32 end, u32 seed)
{
    (void)seed;
    for (u32 at = start; at < end; at += stride)
        sum = sum * 31 + *(volatile u32 *)at;
}

/* Call visit for each free stretch of RAM. Returns the bytes visited. */
static u32 walk(void (*visit)(u32 start, u32 end, u32 seed), u32 seed)
{
    u32 bytes = 0;
    for (u32 i = 0; i < ram_count; i++)
        for (u32 at = past_kept(ram[i].start); at < ram[i].end; ) {
            u32 end = next_kept(at, ram[i].end);
            visit(at, end, seed);
            bytes += end - at;
            at = past_kept(end);
        }
    return bytes;
}

int main(void)
{
    word zero = option("zero", 0), seed = option("seed", 1), rounds = option("rounds", 1);
    u32 bytes = 0;
    stride = option("stride", 256) & ~3u;
    if (!stride || !(info()->flags & INFO_MMAP)) {
        print("memwalker: no memory map, or stride below 4\n");
        return 1;
    }
    keep((word)image_start, image_end - image_start);
    find_ram(option("from", 0), option("to", 0xffffffff));
    if (zero) {
        keep_information();
        bytes = walk(check_zero, 0);
        print("memwalker: %u KiB fresh memory, %u words not zero\n", bytes >> 10, errors);
        kept_count = 1;                        /* from here on only our image is left alone */
    }
    for (word round = 0; round < rounds; round++) {
        bytes = walk(write_pattern, seed + round);
        walk(check_pattern, seed + round);
    }
    walk(add_up, 0);
    print("memwalker: %u KiB walked, checksum %08x, %u errors\n", bytes >> 10, sum, errors);
    return errors ? 1 : 0;
}
