/* The chips that every PC has, as far as several guests use them. */
#ifndef BOARD_H
#define BOARD_H
#include "machine.h"

enum {
    PIC = 0x20, PIC_SLAVE = 0xa0, ELCR = 0x4d0, PIT = 0x40, PIT_CONTROL = 0x43, PORT_B = 0x61,
    ICW4_8086 = 1, ICW4_AUTO_EOI = 2,
    IRQ_TIMER = 0, IRQ_COM1 = 4, IRQ_RTC = 8,
    PIT_HZ = 1193182, PIT_ONE_SHOT = 0, PIT_RATE = 2, PIT_SQUARE = 3,
};

void pic_init(u8 master, u8 slave, u8 icw4);   /* first vectors; all lines are open afterwards */
void pic_mask(u16 mask);                       /* bit n closes line n */
u16 pic_irr(void);
u16 pic_isr(void);
void pic_eoi(int line);                        /* not specific; line 8 to 15: to both */

void pit_start(u8 mode, u16 count);            /* channel 0 */
void pit_stop(void);
int pit_status(int channel);                   /* by the read-back command */
u16 pit_count(int channel);

void wait_us(u32 us);                          /* by the TSC, which is measured by channel 2 at the first one */
int arrives(u8 vector, u32 count);             /* let interrupts in for some time; 1 as soon as the vector has come so often */
#endif
