"""VMX's words for the quick path (quick.py) and the straight path (straight.py). The guest's VMCS is current, since it has just run."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel import vmx_eoi, vmx_exit
from hypervisor.kernel.quick import quick_path
from hypervisor.kernel.straight import straight_path
from hypervisor.kernel.vcpu import RAX
from hypervisor.kernel.vmx_setup import believed, setup
from hypervisor.kernel.vmx_state import set_flow, write_state
from hypervisor.spec import cpu as bits
from hypervisor.spec import exit as kinds
from hypervisor.spec import vmx

R0 = r_uint(0)
MSR_READ, MSR_WRITE = r_uint(vmx.REASON_RDMSR), r_uint(vmx.REASON_WRMSR)


class Words(object):
    CPUID = r_uint(vmx.REASON_CPUID)
    HYPERCALL = r_uint(vmx.REASON_VMCALL)
    IO, MEMORY = r_uint(vmx.REASON_IO), r_uint(vmx.REASON_EPT_VIOLATION)
    CPUID_APART = True
    CPUID_BYTES = MSR_BYTES = HYPERCALL_BYTES = 0       # the processor tells

    @staticmethod
    def once(vcpu):
        return False                    # the assembly does not ask then

    @staticmethod
    def reason(vcpu):
        return hw.vmread(r_uint(vmx.EXIT_REASON))

    @staticmethod
    def is_msr_write(vcpu, reason):
        return reason == MSR_WRITE

    @staticmethod
    def is_msr_read(vcpu, reason):
        return reason == MSR_READ

    @staticmethod
    def rax(vcpu):
        return vcpu.gpr(RAX)

    @staticmethod
    def eax(vcpu):
        return memory.load32(vcpu.area + RAX)

    @staticmethod
    def set_rax(vcpu, value):
        vcpu.set_gpr(RAX, value)

    @staticmethod
    def efer(vcpu):
        return hw.vmread(r_uint(vmx.GUEST_EFER))

    @staticmethod
    def set_efer(vcpu, value):
        hw.vmwrite(r_uint(vmx.GUEST_EFER), value)

    @staticmethod
    def cr4(vcpu):
        return believed(hw.vmread(r_uint(vmx.GUEST_CR4)), hw.vmread(r_uint(vmx.CR4_SHADOW)), setup.cr4_mask)

    @staticmethod
    def keys_on(vcpu):
        """The bit is the guest's own, or off."""
        return hw.vmread(r_uint(vmx.GUEST_CR4)) & r_uint(bits.CR4_PKE)

    @staticmethod
    def set_pat(vcpu, value):
        vcpu.pat = value
        hw.vmwrite(r_uint(vmx.GUEST_PAT), value)

    @staticmethod
    def tpr_moved(vcpu):
        return False                    # each MOV to CR8 exits

    @staticmethod
    def takes_interrupts(vcpu):
        return hw.vmread(r_uint(vmx.GUEST_RFLAGS)) & r_uint(bits.RFLAGS_IF) != R0

    @staticmethod
    def interruption(vector):
        return r_uint(vmx.INTERRUPTION_VALID | vmx.TYPE_EXTERNAL << vmx.INTERRUPTION_TYPE_SHIFT) | r_uint(vector)

    @staticmethod
    def inject(vcpu, event):
        hw.vmwrite(r_uint(vmx.ENTRY_INTERRUPTION_INFO), event)

    @staticmethod
    def settle(vcpu):
        if vcpu.spared >= 0:
            vmx_eoi.settle(vcpu)

    @staticmethod
    def taken_alone(vcpu, vector):
        if setup.spares:
            vmx_eoi.spare(vcpu, vector)

    @staticmethod
    def taken(vcpu, vector):
        vmx_eoi.taken(vcpu, vector)

    @staticmethod
    def step_over(vcpu, length):
        if hw.vmread(r_uint(vmx.GUEST_RFLAGS)) & r_uint(bits.RFLAGS_TF | bits.RFLAGS_RF) != R0:
            return False
        hw.vmwrite(r_uint(vmx.GUEST_RIP), hw.vmread(r_uint(vmx.GUEST_RIP)) + hw.vmread(r_uint(vmx.EXIT_INSTRUCTION_LENGTH)))
        vmx_exit.end_shadow()
        return True

    @staticmethod
    def length(vcpu, plain):
        return hw.vmread(r_uint(vmx.EXIT_INSTRUCTION_LENGTH))

    @staticmethod
    def decode_io(vcpu):
        if vmx_exit.watches():
            return False
        vcpu.exit_kind = kinds.IO
        vcpu.exit_length = Words.length(vcpu, 0)
        vmx_exit.decode_io(vcpu)
        return True

    @staticmethod
    def decode_memory(vcpu):
        vcpu.exit_kind = kinds.MEMORY
        vmx_exit.decode_memory(vcpu)

    @staticmethod
    def write_state(vcpu, groups):
        write_state(vcpu, groups)

    @staticmethod
    def set_flow(vcpu, rip, rflags):
        set_flow(rip, rflags)

    @staticmethod
    def move_on(vcpu):
        if hw.vmread(r_uint(vmx.GUEST_RFLAGS)) & r_uint(bits.RFLAGS_TF | bits.RFLAGS_RF) != R0:
            return False
        hw.vmwrite(r_uint(vmx.GUEST_RIP), hw.vmread(r_uint(vmx.GUEST_RIP)) + vcpu.exit_length)
        vmx_exit.end_shadow()
        return True


first, more = quick_path(Words)
hand, answered = straight_path(Words)
