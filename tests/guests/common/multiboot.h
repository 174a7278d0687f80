/* The information structure of Multiboot Specification 0.6.96, "Boot information format". */
#ifndef MULTIBOOT_H
#define MULTIBOOT_H
#include "machine.h"

enum {
    MULTIBOOT_MAGIC = 0x2badb002,                  /* EAX at entry */
    INFO_MEMORY = 1, INFO_CMDLINE = 1 << 2, INFO_MODULES = 1 << 3, INFO_MMAP = 1 << 6, INFO_LOADER = 1 << 9,
    MMAP_AVAILABLE = 1,
};

struct multiboot_info {
    u32 flags;
    u32 mem_lower, mem_upper;                      /* KiB below 1 MiB, KiB above 1 MiB */
    u32 boot_device;
    u32 cmdline;
    u32 mods_count, mods_addr;
    u32 syms[4];
    u32 mmap_length, mmap_addr;
    u32 drives_length, drives_addr;
    u32 config_table;
    u32 boot_loader_name;
};

struct multiboot_module { u32 start, end, string, reserved; };

/* `size` does not count itself: the next entry is at &base_low + size. */
struct multiboot_mmap { u32 size; u64 base, length; u32 type; } __attribute__((packed));

static inline struct multiboot_info *info(void)
{
    extern u32 boot_info;
    return (struct multiboot_info *)(word)boot_info;
}

static inline struct multiboot_mmap *mmap_first(void)
{
    return (struct multiboot_mmap *)(word)info()->mmap_addr;
}
static inline struct multiboot_mmap *mmap_next(struct multiboot_mmap *entry)
{
    return (struct multiboot_mmap *)((char *)entry + sizeof entry->size + entry->size);
}
static inline int mmap_more(struct multiboot_mmap *entry)
{
    return (word)entry < (word)info()->mmap_addr + info()->mmap_length;
}
#endif
