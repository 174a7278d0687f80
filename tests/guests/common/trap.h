/* Exceptions of the 64-bit guests: try something, see what the processor says. */
#ifndef TRAP_H
#define TRAP_H
#include "machine.h"
#include "vector.h"

enum { CODE64 = 0x08, DATA = 0x10, CODE32 = 0x18, USER_DATA = 0x23, USER_CODE64 = 0x2b, NOT_PRESENT = 0x30,
       TASK = 0x38 };

/* What the last exception left: the vector's frame, and CR2 and DR6 as they were in the handler. */
struct trap { u64 error, rip, cs, rflags, rsp, ss, cr2, dr6; };
extern struct trap trap;
extern int trap_last;                  /* its vector: what the last trap_call returned */

/* Call fn(argument). Returns NO_TRAP when it came back, else the vector that ended it.
 * An exception abandons fn where it stands: the stack and the registers of the caller come back,
 * whatever mode or ring fn had reached. Do not nest. */
int trap_call(void (*fn)(void *), void *argument);

/* Called from start64.S: fill and load the IDT. */
void trap_init(void);

/* Load a task register: rsp0 for exceptions in ring 3; limit in bytes (103 is a whole TSS). */
void trap_tss(void *rsp0, u32 limit);

/* An IDT entry's parts that a guest bends on purpose. ist: 0..7. */
void trap_gate(int vector, int present, int ist);

/* rdmsr/wrmsr that tell: 1 when it worked, 0 when any exception came. */
int try_rdmsr(u32 msr, u64 *value);
int try_wrmsr(u32 msr, u64 value);

#endif
