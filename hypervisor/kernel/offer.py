"""VMs of other cores of which vCPUs are to live here: what their kernels have said until this core's manager asks for them (JOIN)."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec.config import MAX_VMS
from hypervisor.spec.core import MOST

R0 = r_uint(0)


class Offer(object):
    """root, count, cores: as in spec/wire.py OFFER_FIELDS; root 0: there is no offer. failed: JOIN's status, which the home has to be told.
    stopped: so has it that nothing of the VM runs here."""

    def __init__(self):
        self.root = R0
        self.count = 0
        self.cores = R0
        self.failed = 0
        self.stopped = False


class Offers(object):
    """owed: somebody has to be told something."""

    def __init__(self):
        self.all = [Offer() for _ in range(MOST * MAX_VMS)]
        self.owed = False

    def of(self, core, name):
        """core below MOST, name below MAX_VMS."""
        return self.all[core * MAX_VMS + name]


offers = Offers()


def core_of(cores, index):
    """The core of vCPU `index` in a word that names them all."""
    return (cores >> (4 * index)) & r_uint(15)
