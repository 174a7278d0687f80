"""A VMM that sleeps instead of working: sleeper=0 at once, sleeper=1 with an exit outstanding."""
from tests.hostile.vmms import common

EXITS = 100


def run(which):
    if which == 1:
        common.serve(common.boot_guest(), EXITS)
    common.sleep()
