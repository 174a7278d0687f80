"""SVM's words for the quick path (quick.py). RAX is in the VMCB meanwhile."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel.quick import quick_path
from hypervisor.spec import cpu as bits
from hypervisor.spec import svm
from hypervisor.spec.svm import VMCB

R0 = r_uint(0)
MSR = r_uint(svm.EXIT_MSR)
SVME = r_uint(bits.EFER_SVME)
LENGTHS = dict(svm.LENGTHS)


class Processor(object):
    """nrips: it tells the next RIP."""

    def __init__(self):
        self.nrips = False


processor = Processor()


class Words(object):
    CPUID = r_uint(svm.EXIT_CPUID)
    HYPERCALL = r_uint(svm.EXIT_VMMCALL)
    CPUID_BYTES, MSR_BYTES, HYPERCALL_BYTES = LENGTHS['CPUID'], LENGTHS['MSR'], LENGTHS['VMMCALL']

    @staticmethod
    def reason(vcpu):
        return memory.load64(vcpu.control + VMCB['EXITCODE'])

    @staticmethod
    def is_msr_write(vcpu, reason):
        return reason == MSR and memory.load64(vcpu.control + VMCB['EXITINFO1']) != R0

    @staticmethod
    def is_msr_read(vcpu, reason):
        return reason == MSR

    @staticmethod
    def rax(vcpu):
        return memory.load64(vcpu.control + VMCB['RAX'])

    @staticmethod
    def set_rax(vcpu, value):
        memory.store64(vcpu.control + VMCB['RAX'], value)

    @staticmethod
    def efer(vcpu):
        return memory.load64(vcpu.control + VMCB['EFER']) & ~SVME

    @staticmethod
    def set_efer(vcpu, value):
        memory.store64(vcpu.control + VMCB['EFER'], value | SVME)

    @staticmethod
    def cr4(vcpu):
        return memory.load64(vcpu.control + VMCB['CR4'])

    @staticmethod
    def set_pat(vcpu, value):
        vcpu.pat = value
        memory.store64(vcpu.control + VMCB['G_PAT'], value)

    @staticmethod
    def tpr_moved(vcpu):
        return memory.load64(vcpu.control + VMCB['V_INTR']) & r_uint(svm.V_TPR) != vcpu.apic.tpr >> 4

    @staticmethod
    def takes_interrupts(vcpu):
        return memory.load64(vcpu.control + VMCB['RFLAGS']) & r_uint(bits.RFLAGS_IF) != R0

    @staticmethod
    def interruption(vector):
        return r_uint(svm.EVENT_VALID | svm.EVENT_INTERRUPT << svm.EVENT_TYPE_SHIFT) | r_uint(vector)

    @staticmethod
    def inject(vcpu, event):
        memory.store64(vcpu.control + VMCB['EVENTINJ'], event)

    @staticmethod
    def step_over(vcpu, length):
        vmcb = vcpu.control
        if memory.load64(vmcb + VMCB['RFLAGS']) & r_uint(bits.RFLAGS_TF | bits.RFLAGS_RF) != R0:
            return False
        memory.store64(vmcb + VMCB['INTERRUPT_SHADOW'], R0)
        memory.store64(vmcb + VMCB['EVENTINJ'], R0)             # the last entry's is delivered
        if processor.nrips:
            memory.store64(vmcb + VMCB['RIP'], memory.load64(vmcb + VMCB['NRIP']))
        else:
            memory.store64(vmcb + VMCB['RIP'], memory.load64(vmcb + VMCB['RIP']) + length)
        return True


answer = quick_path(Words)
