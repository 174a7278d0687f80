/* Included by the generated C before RPython's own declaration of this, which lacks the attributes. */
#ifndef ASSERT_H
#define ASSERT_H
void RPyAbort(void) __attribute__((noreturn, cold, visibility("hidden")));
#define assert(condition) ((condition) ? (void)0 : RPyAbort())
#endif
