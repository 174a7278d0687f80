#include "multiboot.h"
#include "runtime.h"

/* pvh.c has another. */
__attribute__((weak)) const char *other_command_line(void)
{
    return 0;
}

const char *command_line(void)
{
    if (other_command_line())
        return other_command_line();
    return info()->flags & INFO_CMDLINE ? (const char *)(word)info()->cmdline : "";
}

static word number(const char *s)
{
    word value = 0, base = 10;
    if (s[0] == '0' && s[1] == 'x') {
        base = 16;
        s += 2;
    }
    for (;; s++) {
        u32 digit = *s >= '0' && *s <= '9' ? *s - '0' : *s >= 'a' && *s <= 'f' ? *s - 'a' + 10 : 99;
        if (digit >= base)
            return value;
        value = value * base + digit;
    }
}

word option(const char *name, word fallback)
{
    for (const char *s = command_line(); *s; s++) {
        const char *n = name;
        if (s != command_line() && s[-1] != ' ')
            continue;
        while (*n && *s == *n)
            s++, n++;
        if (!*n && *s == '=')
            return number(s + 1);
        if (!*s)
            break;
    }
    return fallback;
}
