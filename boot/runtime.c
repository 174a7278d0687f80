/* What the generated C expects from an operating system, in as little as it takes. Shared by all programs.

   Nothing here calls back into RPython. Every failure ends in bulkhead_panic(code), which each program's boot code supplies;
   the codes and their sentences are in hypervisor/spec/panic.py. */

#include "bulkhead.h"
#include "checks.h"
#include "src/precommondefs.h"
#include "src/debug_traceback.h"

/* -- the heap for start-up: a bump allocator that is sealed before the first exit ---------------------------------------------- */

enum { HEAP_ALIGN = 16 };

static char heap[BULKHEAD_HEAP_BYTES] __attribute__((aligned(HEAP_ALIGN)));     /* .bss: zero, and never handed out twice */
static size_t heap_used;
static int heap_sealed;

static void *allocate(size_t bytes)
{
    if (heap_sealed)
        bulkhead_panic(PANIC_HEAP_SEALED);
    if (bytes > sizeof heap - heap_used)
        bulkhead_panic(PANIC_HEAP_EXHAUSTED);
    void *result = heap + heap_used;
    heap_used += (bytes + HEAP_ALIGN - 1) & ~(size_t)(HEAP_ALIGN - 1);      /* sizeof heap is a multiple: no overrun */
    return result;
}

_Static_assert(sizeof heap % HEAP_ALIGN == 0, "the heap is whole units");

void *calloc(size_t count, size_t bytes)
{
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total))
        bulkhead_panic(PANIC_HEAP_EXHAUSTED);
    return allocate(total);
}

void *malloc(size_t bytes)
{
    return allocate(bytes);
}

void free(void *block)
{
    (void)block;        /* what start-up drops is not used again */
}

void bulkhead_seal_heap(void)
{
    heap_sealed = 1;
}

size_t bulkhead_heap_used(void)
{
    return heap_used;
}

/* -- memory: gcc calls these four by name, whatever the flags say -------------------------------------------------------------- */

void *memcpy(void *to, const void *from, size_t bytes)
{
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    if ((uintptr_t)to - (uintptr_t)from >= bytes)       /* unsigned: also true when `to` lies below `from` */
        return memcpy(to, from, bytes);
    void *last_to = (char *)to + bytes - 1;
    const void *last_from = (const char *)from + bytes - 1;
    __asm__ volatile("std; rep movsb; cld" : "+D"(last_to), "+S"(last_from), "+c"(bytes) : : "memory");
    return to;
}

void *memset(void *to, int byte, size_t bytes)
{
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(byte) : "memory");
    return result;
}

int memcmp(const void *left, const void *right, size_t bytes)
{
    if (bytes == 0)
        return 0;
    __asm__ volatile("repe cmpsb" : "+D"(right), "+S"(left), "+c"(bytes) : : "memory", "cc");
    return ((const unsigned char *)left)[-1] - ((const unsigned char *)right)[-1];
}

/* -- ends ---------------------------------------------------------------------------------------------------------------------- */

const char *bulkhead_failed_place;

void bulkhead_assertion_failed(const char *place)
{
    bulkhead_failed_place = place;
    bulkhead_panic(PANIC_ASSERTION);
}

void RPyAbort(void)
{
    bulkhead_panic(PANIC_CHECK);
}

void abort(void)
{
    bulkhead_panic(PANIC_ABORT);
}

void pypy_debug_catch_fatal_exception(void)
{
    bulkhead_panic(PANIC_FATAL_EXCEPTION);
}

/* Where the last exceptions were raised: the generated code writes here, a debugger reads it. */
int pypydtcount;
struct pypydtentry_s pypy_debug_tracebacks[PYPY_DEBUG_TRACEBACK_DEPTH];
