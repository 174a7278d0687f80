#include "runtime.h"
#include "trap.h"
#include "irq.h"

struct gate { u16 low, selector; u8 ist, type; u16 middle; u32 high, zero; };
static struct gate idt[256] __attribute__((aligned(16)));
volatile u32 irq_count[256];
volatile u8 irq_order[64];
volatile u32 irq_orders;
void (*volatile irq_handler)(struct irq_frame *frame);

void irq_arrived(struct irq_frame *frame);
void irq_arrived(struct irq_frame *frame)
{
    irq_count[frame->vector]++;
    irq_order[irq_orders++ % sizeof irq_order] = frame->vector;
    if (irq_handler)
        irq_handler(frame);
}

void irq_forget(void)
{
    memset((void *)irq_count, 0, sizeof irq_count);
    irq_orders = 0;
}

void irq_take(int vector)
{
    extern char irq_entries[];
    irq_entry(vector, irq_entries + 16 * vector);
}

void irq_entry(int vector, void *entry)
{
    u64 at = (word)entry;
    idt[vector] = (struct gate){ .low = at, .middle = at >> 16, .high = at >> 32, .selector = CODE64, .type = 0x8e };
}

void irq_init(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) old, new = { sizeof idt - 1, (word)idt };
    asm volatile("sidt %0" : "=m"(old));
    memcpy(idt, (void *)old.base, 32 * sizeof idt[0]);
    irq_take(2);
    for (int n = 32; n < 256; n++)
        irq_take(n);
    asm volatile("lidt %0" :: "m"(new));
}
