"""SVM: which consistency check of VMRUN a refused entry breaks."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel.entry_check import Reader, amd_rule


class VmcbReader(Reader):
    """Reads a vCPU's VMCB."""

    def __init__(self):
        self.vendor = None
        self.vcpu = None

    def state(self, field):
        return self.vendor.get(self.vcpu, field)

    def control(self, number):
        return memory.load64(self.vcpu.control + r_uint(number))


vmcb_reader = VmcbReader()


def broken_rule(vendor, vcpu):
    """After a VMRUN that ended with VMEXIT_INVALID. Returns a rule of hypervisor/spec/entry.py, or 0."""
    vmcb_reader.vendor = vendor
    vmcb_reader.vcpu = vcpu
    return amd_rule(vmcb_reader)
