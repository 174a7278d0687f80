/* resetter: ask for a reset. Each start prints a line, so a test counts the restarts.
 * by=0 port 0xcf9;  by=1 the keyboard controller. */
#include "runtime.h"

int main(void)
{
    print("resetter: resetting\n");
    if (option("by", 0))
        out8(PORT_KEYBOARD, 0xfe);
    else
        out8(PORT_RESET, 6);
    spin(10000000);                    /* a real reset line takes its time */
    print("resetter: not reset\n");
    return 1;
}
