#include "runtime.h"
#include "board.h"
#include "irq.h"

enum { OCW3_IRR = 0x0a, OCW3_ISR = 0x0b, EOI = 0x20, READ_BACK = 0xc0, READ_BACK_NO_STATUS = 0x10, READ_BACK_NO_COUNT = 0x20,
       GATE = 1, OUT = 0x20, PATIENCE_MS = 3000, MEASURED = 10000 };

void pic_init(u8 master, u8 slave, u8 icw4)
{
    out8(PIC, 0x11);                           /* ICW1: edges, a pair, ICW4 comes */
    out8(PIC_SLAVE, 0x11);
    out8(PIC + 1, master);
    out8(PIC_SLAVE + 1, slave);
    out8(PIC + 1, 4);                          /* the slave is at line 2 */
    out8(PIC_SLAVE + 1, 2);
    out8(PIC + 1, icw4);
    out8(PIC_SLAVE + 1, ICW4_8086);
}

void pic_mask(u16 mask)
{
    out8(PIC + 1, mask);
    out8(PIC_SLAVE + 1, mask >> 8);
}

static u16 pic_register(u8 which)
{
    out8(PIC, which);
    out8(PIC_SLAVE, which);
    return in8(PIC) | in8(PIC_SLAVE) << 8;
}

u16 pic_irr(void) { return pic_register(OCW3_IRR); }
u16 pic_isr(void) { return pic_register(OCW3_ISR); }

void pic_eoi(int line)
{
    if (line >= 8)
        out8(PIC_SLAVE, EOI);
    out8(PIC, EOI);
}

void pit_start(u8 mode, u16 count)
{
    out8(PIT_CONTROL, 0x30 | mode << 1);
    out8(PIT, count);
    out8(PIT, count >> 8);
}

/* A mode without a count: it does not count. */
void pit_stop(void) { out8(PIT_CONTROL, 0x30); }

int pit_status(int channel)
{
    out8(PIT_CONTROL, READ_BACK | READ_BACK_NO_COUNT | 2 << channel);
    return in8(PIT + channel);
}

u16 pit_count(int channel)
{
    out8(PIT_CONTROL, channel << 6);           /* latch */
    u8 low = in8(PIT + channel);
    return low | in8(PIT + channel) << 8;
}

static u64 tsc(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

/* TSC ticks in a microsecond, by the PIT's channel 2: never too few, and too many for whoever loses the processor meanwhile. */
static u32 measure(void)
{
    out8(PORT_B, (in8(PORT_B) & ~2) | GATE);
    out8(PIT_CONTROL, 0xb0);                   /* channel 2, both bytes, mode 0: it goes on counting after zero */
    out8(PIT + 2, MEASURED & 0xff);
    u64 start = tsc();
    out8(PIT + 2, MEASURED >> 8);
    while (!(in8(PORT_B) & OUT))
        ;
    u16 counted = MEASURED - pit_count(2);
    return (tsc() - start) * 1193 / (counted * 1000ull) + 1;
}

static u32 least_of_three(void)
{
    u32 least = measure();
    for (int n = 0; n < 2; n++) {
        u32 next = measure();
        least = next < least ? next : least;
    }
    return least;
}

void wait_us(u32 us)
{
    static u32 ticks;
    if (!ticks)
        ticks = least_of_three();
    u64 end = tsc() + (u64)us * ticks;         /* a look at the TSC is no exit: one at a port is, and most of what an emulator does then */
    while (tsc() < end)
        ;
    in8(PORT_B);                               /* Bochs 2.7 keeps interrupts from a hypervisor while its guest has them off, but not at an exit */
}

int arrives(u8 vector, u32 count)
{
    for (u32 n = 0; n < PATIENCE_MS && irq_count[vector] < count; n++) {
        let_in();
        if (irq_count[vector] < count)
            wait_us(1000);
    }
    return irq_count[vector] >= count;
}
