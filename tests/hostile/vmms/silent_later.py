"""A VMM that is honest for a while and then spins, with an exit outstanding."""
from tests.hostile.vmms import common

EXITS = 100


def run(which):
    common.serve(common.boot_guest(), EXITS)
    common.spin()
