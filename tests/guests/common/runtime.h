/* The runtime below every C guest: a console, an exit, the boot loader's information. */
#ifndef RUNTIME_H
#define RUNTIME_H
#include "machine.h"

/* uart.c: COM1, polled. */
void uart_init(void);
void uart_put(char c);
int other_console(char c);                         /* 0: there is none, print on COM1 */
void uart_drain(void);                             /* wait until one more byte may be sent */
char uart_get(void);

/* print.c: %s %c %u %lu %x %lx %llx, with an optional zero-padded width as in %08x. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* End the VM with this status; main's return value comes here too. */
void leave(u32 status) __attribute__((noreturn));

/* option.c: the number after "name=" on the command line (decimal or 0x...), or the default. */
word option(const char *name, word fallback);
const char *command_line(void);
const char *other_command_line(void);              /* 0: there is none, it is multiboot's */

/* memory.c: what GCC may call by itself. */
void *memset(void *to, int byte, word count);
void *memcpy(void *to, const void *from, word count);
int memcmp(const void *a, const void *b, word count);

/* Left by the start stub. */
extern u32 boot_magic, boot_info;
struct entry_registers { u32 eax, ebx, ecx, edx, esi, edi, ebp, esp; };
extern struct entry_registers entry_registers;
extern u64 entry_high[8];                          /* R8 to R15; 64-bit guests only */
extern char image_start[], image_end[];            /* linker script; the end includes .bss */

int main(void);
#endif
