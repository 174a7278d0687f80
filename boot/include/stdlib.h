#ifndef STDLIB_H
#define STDLIB_H
#include <stddef.h>
void *malloc(size_t bytes);
void *calloc(size_t count, size_t bytes);
void free(void *block);
void abort(void) __attribute__((noreturn, cold));
#endif
