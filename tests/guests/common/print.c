/* A printf that fits on a page. */
#include <stdarg.h>
#include "runtime.h"

static void put_digits(u64 value, u32 base, int width)
{
    char digits[20];
    int count = 0;
    do {
        /* No 64-bit division: a 32-bit guest has no libgcc. Decimals fit in a word. */
        u32 digit = base == 16 ? value & 15 : (word)value % 10;
        digits[count++] = "0123456789abcdef"[digit];
        value = base == 16 ? value >> 4 : (word)value / 10;
    } while (value);
    while (width-- > count)
        uart_put('0');
    while (count)
        uart_put(digits[--count]);
}

static void put_string(const char *s)
{
    while (*s)
        uart_put(*s++);
}

void print(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    for (; *format; format++) {
        int longs = 0, width = 0;
        if (*format != '%') {
            uart_put(*format);
            continue;
        }
        for (format++; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + *format - '0';
        for (; *format == 'l'; format++)
            longs++;
        if (*format == 's')
            put_string(va_arg(args, const char *));
        else if (*format == 'c')
            uart_put(va_arg(args, int));
        else
            put_digits(longs == 2 ? va_arg(args, u64) : longs ? va_arg(args, word) : va_arg(args, u32),
                       *format == 'x' ? 16 : 10, width);
    }
    va_end(args);
}
