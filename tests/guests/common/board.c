#include "runtime.h"
#include "board.h"
#include "irq.h"

enum { OCW3_IRR = 0x0a, OCW3_ISR = 0x0b, EOI = 0x20, READ_BACK = 0xc0, READ_BACK_NO_STATUS = 0x10, READ_BACK_NO_COUNT = 0x20,
       GATE = 1, OUT = 0x20, PATIENCE_MS = 3000 };

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

void wait_us(u32 us)
{
    u32 count = us * 1193ull / 1000 + 1;
    out8(PORT_B, (in8(PORT_B) & ~2) | GATE);
    out8(PIT_CONTROL, 0xb0);                   /* channel 2, both bytes, mode 0 */
    out8(PIT + 2, count);
    out8(PIT + 2, count >> 8);
    while (!(in8(PORT_B) & OUT))
        ;
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
