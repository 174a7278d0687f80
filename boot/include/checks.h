/* Included by the generated C behind RPython's own headers (tools/build/translate.py): a failed assertion or list index tells the place in our
 * source, and no more. There are hundreds of these calls. */
#ifndef CHECKS_H
#define CHECKS_H
void bulkhead_assertion_failed(const char *place) __attribute__((noreturn, cold, visibility("hidden")));
#define CHECKS_TEXT(x) #x
#define CHECKS_LINE(x) CHECKS_TEXT(x)
#undef RPyAssert
#define RPyAssert(condition, sentence) if (!(condition)) bulkhead_assertion_failed(__FILE__ ":" CHECKS_LINE(__LINE__))
#endif
