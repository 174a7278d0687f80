#include "runtime.h"
#include "trap32.h"

enum { STRAY_EXCEPTION = 110, PRESENT_INTERRUPT_GATE_RING3 = 0xee };
_Static_assert(__builtin_offsetof(struct tss32, iomap) == 102, "32-bit TSS");

u64 gdt32[GDT32] __attribute__((aligned(16))) = {
    0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff,
};
u64 idt32[IDT32] __attribute__((aligned(16)));
struct tss32 tss32;
u8 ring_stack[2][4096] __attribute__((aligned(16)));

u64 descriptor(u32 base, u32 limit, u32 access, u32 flags)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48
        | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

u64 gate(u32 selector, u32 offset, u32 access)
{
    return (offset & 0xffff) | selector << 16 | (u64)access << 40 | (u64)(offset >> 16) << 48;
}

void load_task(u32 limit)
{
    gdt32[TASK / 8] = descriptor((word)&tss32, limit, 0x89, 0);
    asm volatile("ltr %w0" :: "r"(TASK) : "memory");
}

void trap_init(void)
{
    extern char trap_entries[];
    struct { u16 limit; u32 base; } __attribute__((packed)) pointer = { sizeof gdt32 - 1, (word)gdt32 };
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    asm volatile("lgdt %0; lldt %w1" :: "m"(pointer), "r"(0));
    for (int i = 0; i < 32; i++)
        idt32[i] = gate(CODE, (word)trap_entries + 16 * i, PRESENT_INTERRUPT_GATE_RING3);
    pointer.limit = sizeof idt32 - 1;
    pointer.base = (word)idt32;
    asm volatile("lidt %0" :: "m"(pointer));
    tss32.esp0 = (word)ring_stack[0] + 4096;
    tss32.ss0 = DATA;
    tss32.iomap = __builtin_offsetof(struct tss32, ports);
    memset(tss32.ports, 0xff, sizeof tss32.ports);
    load_task(sizeof tss32 - 1);
}

static void enter_ring3(void *code)
{
    asm volatile("mov %0, %%ds; mov %0, %%es; pushl %0; pushl %1; pushl $2; pushl %2; pushl %3; iret"
                 :: "r"(USER_DATA), "r"((word)ring_stack[1] + 4096 - 64), "i"(USER_CODE), "r"(code) : "memory");
}

static void enter_ring0(void *code) { ((void (*)(void))code)(); }

int in_ring(u32 cpl, void (*code)(void)) { return trap_call(cpl ? enter_ring3 : enter_ring0, (void *)code); }

/* Called from trap_entry32.S: an exception outside trap_call. */
void trap_stray(int vector);
void trap_stray(int vector)
{
    print("unexpected exception %u error %x at %x cr2 %x\n", vector, trap.error, trap.eip, trap.cr2);
    leave(STRAY_EXCEPTION);
}
