/* exitcode: end with the status that the command line names. */
#include "runtime.h"

int main(void)
{
    word status = option("status", 0);
    print("exitcode: %lu\n", status);
    return status;
}
