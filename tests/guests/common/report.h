/* A report: one line for each thing that the manual says, in the same words wherever the guest runs.
 * Lines wait in memory until report_flush(), so that a check may be made while the UART is being tested. */
#ifndef REPORT_H
#define REPORT_H
#include "machine.h"

/* "part: what: ok" or "part: what: WRONG". */
void report_part(const char *part);
void check(const char *what, int right);

/* "part: what: VALUE", for what the manuals leave open or a machine may have or not. */
void report_value(const char *what, u64 value);
void report_missing(const char *what);                  /* "part: what: not offered" */

void report_flush(void);
u32 report_end(const char *guest);                      /* the last line; returns how many are wrong */
#endif
