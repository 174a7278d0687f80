/* Included by the generated C before RPython's own declarations of these two, which lack the attributes. */
#ifndef ASSERT_H
#define ASSERT_H
void RPyAssertFailed(const char *file, long line, const char *function, const char *sentence)
    __attribute__((noreturn, cold, visibility("hidden")));
void RPyAbort(void) __attribute__((noreturn, cold, visibility("hidden")));
#define assert(condition) ((condition) ? (void)0 : RPyAbort())
#endif
