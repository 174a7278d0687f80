/* What boot code, boot/runtime.c and the generated C know of one another. */
#ifndef BULKHEAD_H
#define BULKHEAD_H

#include <stddef.h>
#include <stdint.h>
#include "spec.h"           /* build/gen: the constants of hypervisor/spec */

#ifndef BULKHEAD_HEAP_BYTES
#define BULKHEAD_HEAP_BYTES HEAP_BYTES
#endif

/* Supplied by each program's boot code. code: hypervisor/spec/panic.py. */
void bulkhead_panic(int code) __attribute__((noreturn, cold));

/* Supplied by boot/runtime.c. */
void bulkhead_seal_heap(void);          /* from here on every allocation is a panic */
size_t bulkhead_heap_used(void);        /* bytes */

/* Where an assertion has failed, as "hypervisor/kernel/loop.py:28"; null: none has. */
extern const char *bulkhead_failed_place;

/* Supplied by the generated C (tools/build/translate.py adds the last two to it). */
void RPython_StartupCode(void);         /* call once, before any entry point */
int bulkhead_exception_pending(void);   /* an exception has left an entry point: its result is worthless */
const char *bulkhead_exception_name(long *length);      /* its class, not NUL-terminated; null when none is pending */

#endif
