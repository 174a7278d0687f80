"""Shares of a core: what a VM may be promised, and in which units.

A configuration says them in processors (0.25); the blob, the kernel call SHARE and the kernel in hundredths of one (25).
"""

WHOLE = 100                 # hundredths: a whole core
MANAGER = 5                 # what a manager's own work is promised, of its core
LEAST = 1                   # promised to every VM: whoever wants the processor has that much
NO_CAP = 0
WEIGHT = 100                # if nothing is said
WEIGHT_MOST = 10000
PERIOD_MICROSECONDS = 10000     # in which each has what it is promised, and no more than its cap
