"""A VMM that never says anything: it spins."""
from tests.hostile.vmms import common


def run(which):
    common.spin()
