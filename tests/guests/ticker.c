/* ticker: lines at a steady pace. Two of them show whether a box is shared fairly.
 * lines=20  how many;  loops=20000  turns of the wait between two of them. */
#include "runtime.h"

int main(void)
{
    word lines = option("lines", 20), loops = option("loops", 20000);
    for (word i = 1; i <= lines; i++) {
        print("tick %lu of %lu\n", i, lines);
        spin(loops);
    }
    return 0;
}
