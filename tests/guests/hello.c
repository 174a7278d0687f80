/* hello: say who we are, what the boot loader told us, and which processor we see. */
#include "multiboot.h"
#include "runtime.h"

enum { CPUID_HYPERVISOR = 1u << 31 };      /* leaf 1, ECX */

static u32 checksum(const u8 *from, u32 count)
{
    u32 sum = 0;
    while (count--)
        sum = sum * 31 + *from++;
    return sum;
}

static void show_memory(void)
{
    print("memory: %u KiB lower, %u KiB upper\n", info()->mem_lower, info()->mem_upper);
    if (!(info()->flags & INFO_MMAP))
        return;
    for (struct multiboot_mmap *m = mmap_first(); mmap_more(m); m = mmap_next(m))
        print("map: %08llx + %08llx type %u\n", m->base, m->length, m->type);
}

static void show_modules(void)
{
    struct multiboot_module *m = (void *)(word)info()->mods_addr;
    if (!(info()->flags & INFO_MODULES))
        return;
    for (u32 i = 0; i < info()->mods_count; i++, m++) {
        u32 size = m->end - m->start;
        print("module %u: %u bytes, first bytes sum %08x, \"%s\"\n", i, size,
              checksum((u8 *)(word)m->start, size < 64 ? size : 64),
              m->string ? (char *)(word)m->string : "");
    }
}

static void show_signature(u32 leaf, const char *what)
{
    struct cpuid r = cpuid(leaf, 0);
    /* Leaf 0 reads EBX, EDX, ECX; the hypervisor's leaf reads EBX, ECX, EDX. */
    u32 words[4] = { r.ebx, leaf ? r.ecx : r.edx, leaf ? r.edx : r.ecx, 0 };
    print("%s: \"%s\" max leaf %08x\n", what, (char *)words, r.eax);
}

int main(void)
{
    print("hello: a multiboot guest in protected mode\n");
    if (boot_magic != MULTIBOOT_MAGIC) {
        print("hello: EAX was %08x instead of the multiboot magic\n", boot_magic);
        return 1;
    }
    print("info: %08x flags %08x\n", boot_info, info()->flags);
    print("command line: \"%s\"\n", command_line());
    if (info()->flags & INFO_LOADER)
        print("loader: \"%s\"\n", (char *)(word)info()->boot_loader_name);
    show_memory();
    show_modules();
    show_signature(0, "processor");
    print("signature: %08x\n", cpuid(1, 0).eax);
    if (cpuid(1, 0).ecx & CPUID_HYPERVISOR) {
        show_signature(0x40000000, "hypervisor");
        show_signature(0x40000100, "hypervisor's own");
    }
    print("hello: done\n");
    return 0;
}
