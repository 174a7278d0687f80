/* Included by the generated C before RPython's own declarations of these two, which lack the attributes. */
#ifndef ASSERT_H
#define ASSERT_H
void bulkhead_assertion_failed(long line) __attribute__((noreturn, cold, visibility("hidden")));
/* There are hundreds of these calls. The line says all: there is one generated file, and the sentence stands in it. */
#define RPyAssertFailed(file, line, function, sentence) bulkhead_assertion_failed(line)
void RPyAbort(void) __attribute__((noreturn, cold, visibility("hidden")));
#define assert(condition) ((condition) ? (void)0 : RPyAbort())
#endif
