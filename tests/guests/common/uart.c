/* COM1, a 16550, polled: no interrupt is ever enabled. */
#include "runtime.h"

enum { DATA = PORT_COM1, LCR = PORT_COM1 + 3, LSR = PORT_COM1 + 5 };
enum { LCR_8N1 = 3, LSR_DATA_READY = 1, LSR_THR_EMPTY = 0x20 };

/* 8N1 also clears DLAB; Bochs sends 5-bit characters until somebody says so. */
void uart_init(void)
{
    out8(LCR, LCR_8N1);
}

void uart_drain(void)
{
    while (!(in8(LSR) & LSR_THR_EMPTY))
        ;
}

/* pvh.c has another, for guests that link it. */
__attribute__((weak)) int other_console(char c)
{
    (void)c;
    return 0;
}

void uart_put(char c)
{
    if (other_console(c))
        return;
    uart_drain();
    out8(DATA, c);
}

char uart_get(void)
{
    while (!(in8(LSR) & LSR_DATA_READY))
        ;
    return in8(DATA);
}
