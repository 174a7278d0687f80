/* echo: give each line back in capitals. "quit" ends it. Its lines end as Linux's do, in CR LF. */
#include "runtime.h"

enum { LINE = 80 };

static char line[LINE + 1];

/* Read up to CR or LF, both keyboards' habits; an empty line is the second half of a CR LF. */
static void read_line(void)
{
    u32 length = 0;
    for (;;) {
        char c = uart_get();
        if (c == '\r' || c == '\n') {
            if (length)
                break;
        } else if (length < LINE) {
            line[length++] = c;
        }
    }
    line[length] = 0;
}

static int is_quit(void)
{
    return !memcmp(line, "quit", 5);
}

int main(void)
{
    print("echo: ready\r\n");
    for (;;) {
        read_line();
        if (is_quit())
            break;
        for (char *c = line; *c; c++)
            if (*c >= 'a' && *c <= 'z')
                *c -= 'a' - 'A';
        print("echo: %s\r\n", line);
    }
    print("echo: done\r\n");
    return 0;
}
