#include "runtime.h"
#include "trap.h"

struct gate { u16 low; u16 selector; u8 ist; u8 type; u16 middle; u32 high; u32 zero; };
enum { STRAY_EXCEPTION = 110 };                      /* exit status */
enum { GATE_INTERRUPT = 0x8e, GATE_RING3 = 0x60, GATE_PRESENT = 0x80 };

static struct gate idt[32] __attribute__((aligned(16)));
static struct { u32 zero; u64 rsp[3]; u64 zero2; u64 ist[7]; u64 zero3; u16 zero4, iomap; }
    __attribute__((packed)) tss;
_Static_assert(sizeof tss == 104, "64-bit TSS");
_Static_assert(sizeof(struct gate) == 16, "64-bit gate");

void trap_init(void)
{
    extern char trap_entries[];
    struct { u16 limit; u64 base; } __attribute__((packed)) pointer = { sizeof idt - 1, (word)idt };
    for (int i = 0; i < 32; i++) {
        word entry = (word)trap_entries + 16 * i;
        idt[i] = (struct gate){ .low = entry, .middle = entry >> 16, .high = entry >> 32, .selector = CODE64,
                                .type = GATE_INTERRUPT | GATE_RING3 };
    }
    asm volatile("lidt %0" :: "m"(pointer));
}

void trap_gate(int vector, int present, int ist)
{
    idt[vector].type = (idt[vector].type & ~GATE_PRESENT) | (present ? GATE_PRESENT : 0);
    idt[vector].ist = ist;
}

void trap_tss(void *rsp0, u32 limit)
{
    extern u64 gdt[];
    u64 base = (word)&tss;
    tss.rsp[0] = (word)rsp0;
    tss.iomap = sizeof tss;
    gdt[TASK / 8] = limit | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[TASK / 8 + 1] = base >> 32;
    asm volatile("ltr %w0" :: "r"(TASK));
}

/* Called from trap_entry.S: an exception outside trap_call. */
void trap_stray(int vector);
void trap_stray(int vector)
{
    print("unexpected exception %u error %llx at %llx cr2 %llx\n", vector, trap.error, trap.rip, trap.cr2);
    leave(STRAY_EXCEPTION);
}

struct access { u32 msr; u64 value; };

static void do_rdmsr(void *argument)
{
    struct access *access = argument;
    access->value = rdmsr(access->msr);
}

static void do_wrmsr(void *argument)
{
    struct access *access = argument;
    wrmsr(access->msr, access->value);
}

int try_rdmsr(u32 msr, u64 *value)
{
    struct access access = { msr, 0 };
    int worked = trap_call(do_rdmsr, &access) == NO_TRAP;
    *value = access.value;
    return worked;
}

int try_wrmsr(u32 msr, u64 value)
{
    struct access access = { msr, value };
    return trap_call(do_wrmsr, &access) == NO_TRAP;
}
