/* Exceptions of the 32-bit guests: try something, see what the processor says. */
#ifndef TRAP32_H
#define TRAP32_H
#include "machine.h"
#include "vector.h"

/* gdt32: what guests put into TEST and behind it is theirs. */
enum { CODE = 0x08, DATA = 0x10, USER_CODE = 0x1b, USER_DATA = 0x23, TASK = 0x28, TEST = 0x38, SECOND = 0x40, LOCAL = 0x48,
       OTHER_TASK = 0x50, THIRD_TASK = 0x58, GDT32 = 16 };
extern u64 gdt32[GDT32];
u64 descriptor(u32 base, u32 limit, u32 access, u32 flags);           /* limit: 20 bits */

enum { IDT32 = 65 };
extern u64 idt32[IDT32];
u64 gate(u32 selector, u32 offset, u32 access);

struct tss32 {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
    u16 trap, iomap;
    u8 ports[65];                          /* 512 ports; the last byte is all ones */
};
extern struct tss32 tss32;
void load_task(u32 limit);                 /* TR from tss32, which is free again */

/* What the last exception left. esp and ss: from another ring or virtual-8086 mode only; es to gs: from the latter only.
 * entry_ds, entry_cs, entry_esp: as the handler found them, cr2 and dr6 too; entry_esp is behind the error code. */
struct trap { u32 error, eip, cs, eflags, esp, ss, es, ds, fs, gs, cr2, dr6, entry_ds, entry_cs, entry_esp; };
extern struct trap trap;

/* Call fn(argument). Returns NO_TRAP when it came back, else the vector that ended it: see trap.h. */
int trap_call(void (*fn)(void *), void *argument);

/* GDT, IDT, TSS; no line of the PICs interrupts. */
void trap_init(void);

/* Run code in ring 3, or 0, until it ends by an exception. */
int in_ring(u32 cpl, void (*code)(void));
extern u8 ring_stack[2][4096];             /* ring 0's, from another ring; ring 3's, which begins 64 bytes below the end */
#endif
