"""SVM's words for the quick path (quick.py) and the straight path (straight.py). RAX is in the VMCB while the quick path runs."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel import svm_exit
from hypervisor.kernel.quick import quick_path
from hypervisor.kernel.straight import straight_path
from hypervisor.kernel.svm_exit import processor
from hypervisor.kernel.svm_state import set_flow, write_state
from hypervisor.spec import cpu as bits
from hypervisor.spec import svm
from hypervisor.spec.svm import VMCB

R0 = r_uint(0)
MSR = r_uint(svm.EXIT_MSR)
SVME = r_uint(bits.EFER_SVME)
LENGTHS = dict(svm.LENGTHS)


class Words(object):
    CPUID = r_uint(svm.EXIT_CPUID)
    HYPERCALL = r_uint(svm.EXIT_VMMCALL)
    IO, MEMORY = r_uint(svm.EXIT_IOIO), r_uint(svm.EXIT_NPF)
    CPUID_APART = False
    CPUID_BYTES, MSR_BYTES, HYPERCALL_BYTES = LENGTHS['CPUID'], LENGTHS['MSR'], LENGTHS['VMMCALL']

    @staticmethod
    def once(vcpu):
        return vcpu.once

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
    def eax(vcpu):
        return memory.load32(vcpu.control + VMCB['RAX'])

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
    def keys_on(vcpu):
        return memory.load64(vcpu.control + VMCB['CR4']) & r_uint(bits.CR4_PKE)

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
        return svm_exit.INTERRUPTION | r_uint(vector)

    @staticmethod
    def inject(vcpu, event):
        vmcb = vcpu.control
        if not (processor.delivers_twice and svm_exit.has_window(vmcb)):         # behind a STI one may still be open
            event = svm_exit.place(vmcb, event)
        memory.store64(vmcb + VMCB['EVENTINJ'], event)

    @staticmethod
    def settle(vcpu):
        pass                            # each EOI exits

    @staticmethod
    def taken_alone(vcpu, vector):
        pass

    @staticmethod
    def taken(vcpu, vector):
        pass

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

    @staticmethod
    def length(vcpu, plain):
        return svm_exit.length(vcpu.control, plain)

    @staticmethod
    def decode_io(vcpu):
        if svm_exit.watches(vcpu.control):
            return False
        svm_exit.decode_io(vcpu, vcpu.control)
        return True

    @staticmethod
    def decode_memory(vcpu):
        svm_exit.keep_event(vcpu, vcpu.control)
        svm_exit.decode_memory(vcpu, vcpu.control)

    @staticmethod
    def write_state(vcpu, groups):
        write_state(vcpu, groups)

    @staticmethod
    def set_flow(vcpu, rip, rflags):
        set_flow(vcpu, rip, rflags)

    @staticmethod
    def move_on(vcpu):
        vmcb = vcpu.control
        if memory.load64(vmcb + VMCB['RFLAGS']) & r_uint(bits.RFLAGS_TF | bits.RFLAGS_RF) != R0:
            return False
        memory.store64(vmcb + VMCB['INTERRUPT_SHADOW'], R0)
        memory.store64(vmcb + VMCB['EVENTINJ'], R0)             # the last entry's is delivered
        memory.store64(vmcb + VMCB['RIP'], memory.load64(vmcb + VMCB['RIP']) + vcpu.exit_length)
        return True


first, more = quick_path(Words)
hand, answered = straight_path(Words)
