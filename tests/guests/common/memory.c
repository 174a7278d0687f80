#include "runtime.h"

void *memset(void *to, int byte, word count)
{
    void *start = to;
    asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(byte) : "memory");
    return start;
}

void *memcpy(void *to, const void *from, word count)
{
    void *start = to;
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) :: "memory");
    return start;
}

int memcmp(const void *a, const void *b, word count)
{
    const u8 *p = a, *q = b;
    for (; count--; p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}
