#include "runtime.h"
#include "report.h"

enum { LINES = 128, OK, WRONG, VALUE, MISSING };
static struct { const char *what; u64 value; int kind; } lines[LINES];
static u32 used, checks, wrong;
static const char *name;

void report_part(const char *part)
{
    report_flush();
    name = part;
}

static void add(const char *what, int kind, u64 value)
{
    if (used == LINES)
        report_flush();
    lines[used].what = what;
    lines[used].kind = kind;
    lines[used++].value = value;
}

void check(const char *what, int right)
{
    checks++;
    wrong += !right;
    add(what, right ? OK : WRONG, 0);
}

void report_value(const char *what, u64 value) { add(what, VALUE, value); }
void report_missing(const char *what) { add(what, MISSING, 0); }

void report_flush(void)
{
    u32 n, end = used;
    used = 0;
    for (n = 0; n < end; n++) {
        print("%s: %s: ", name, lines[n].what);
        if (lines[n].kind == VALUE)
            print("%llx\n", lines[n].value);
        else
            print("%s\n", lines[n].kind == OK ? "ok" : lines[n].kind == WRONG ? "WRONG" : "not offered");
    }
}

u32 report_end(const char *guest)
{
    report_flush();
    print("%s: %u checks, %u wrong\n", guest, checks, wrong);
    return wrong;
}
