/* Interrupts of the 64-bit guests: handlers that return. Exceptions stay those of trap.h. */
#ifndef IRQ_H
#define IRQ_H
#include "machine.h"

struct irq_frame { u64 vector, rip, cs, rflags, rsp, ss; };

extern volatile u32 irq_count[256];
extern volatile u8 irq_order[64];              /* the vectors as they came */
extern volatile u32 irq_orders;
extern void (*volatile irq_handler)(struct irq_frame *frame);      /* called with interrupts off; 0: nothing to do */

/* An IDT of 256 gates: NMI and 32 to 255 lead here. Call it after trap_init(). */
void irq_init(void);
void irq_take(int vector);                     /* lead an exception's vector here as well */
void irq_entry(int vector, void *entry);       /* lead a vector to code of the guest's own */
void irq_forget(void);                         /* counts and order from zero */

/* Let in what is pending. */
static inline void let_in(void) { asm volatile("sti; nop; nop; cli" ::: "memory"); }
/* Wait for the next interrupt. */
static inline void halt(void) { asm volatile("sti; hlt; cli" ::: "memory"); }
#endif
