"""SVM: from an exit to the vendor-neutral record.

Source: AMD64 APM Vol. 2, "#VMEXIT"; appendix "SVM Intercept Exit Codes".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu, memory
from hypervisor.kernel import breakpoint
from hypervisor.kernel.vcpu import RAX, RCX, RDX, port_value
from hypervisor.lib.cold import cold
from hypervisor.spec import cpu as bits
from hypervisor.spec import exit as kinds
from hypervisor.spec import svm
from hypervisor.spec.vcpu import UNUSABLE

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
VMCB = svm.VMCB
CS_ATTRIBUTES, SS_ATTRIBUTES = [dict(svm.SEGMENTS)[name] + svm.SEGMENT_PARTS['ATTRIBUTES'][0] for name in ('CS', 'SS')]
INTERRUPTION = r_uint(svm.EVENT_VALID | svm.EVENT_INTERRUPT << svm.EVENT_TYPE_SHIFT)       # a vector less
EVENT_KIND = r_uint(svm.EVENT_VALID | 7 << svm.EVENT_TYPE_SHIFT)
INTERCEPT_VINTR = r_uint(sum(1 << bit for bit, name, _ in svm.INTERCEPTS if name == 'VINTR'))
SOFTWARE_EXCEPTIONS = r_uint(1 << bits.VECTOR_BP | 1 << bits.VECTOR_OF)
PRIVILEGED = ['INVLPGA', 'VMRUN', 'VMLOAD', 'VMSAVE', 'STGI', 'CLGI', 'SKINIT', 'RDTSCP', 'MONITOR', 'MWAIT', 'MWAIT_CONDITIONAL', 'RSM', 'RDPRU',
              'RDPMC']
assert (svm.IOIO_IN, svm.IOIO_STRING >> 1, svm.IOIO_REPEAT >> 1) == (kinds.IO_IN, kinds.IO_STRING, kinds.IO_REPEAT)

# Exit code -> kind, and -> length of the plain instruction, for codes below 0x90
KIND = [kinds.UNKNOWN] * 0x90
LENGTH = [0] * 0x90
for _name, _kind in [('INTR', kinds.INTERRUPT), ('NMI', kinds.NMI), ('SMI', kinds.NMI), ('CPUID', kinds.CPUID), ('HLT', kinds.HLT),
                     ('INVD', kinds.IGNORED), ('WBINVD', kinds.IGNORED), ('IOIO', kinds.IO), ('MSR', kinds.MSR_READ),
                     ('TASK_SWITCH', kinds.EXCEPTION), ('FERR_FREEZE', kinds.EXCEPTION), ('SHUTDOWN', kinds.SHUTDOWN), ('VMMCALL', kinds.HYPERCALL),
                     ('XSETBV', kinds.XSETBV), ('VINTR', kinds.WINDOW), ('IRET', kinds.WINDOW)] + [(name, kinds.PRIVILEGED) for name in PRIVILEGED]:
    KIND[getattr(svm, 'EXIT_' + _name)] = _kind
for _name, _length in svm.LENGTHS:
    LENGTH[getattr(svm, 'EXIT_' + _name)] = _length
KIND[svm.EXIT_WRITE_CR8] = kinds.WINDOW                     # only while TPR holds something back
KIND[svm.EXIT_EXCEPTION + bits.VECTOR_DB] = kinds.WINDOW    # only while one instruction is stepped over
KIND[svm.EXIT_EXCEPTION + bits.VECTOR_MC] = kinds.NMI       # the host's own handler has seen it


class Processor(object):
    """nrips: it tells the next RIP at an instruction's intercept. no_shadow: its VMRUN begins no interrupt shadow, whatever the VMCB says.
    delivers_twice: it may deliver once more what VMRUN injects."""

    def __init__(self):
        self.nrips = False
        self.no_shadow = False
        self.delivers_twice = False


processor = Processor()


def decode(vcpu, vmcb):
    """Fill the exit record."""
    code = memory.load64(vmcb + VMCB['EXITCODE'])
    vcpu.exit_code = code
    if code == r_uint(svm.EXIT_IOIO):
        decode_io(vcpu, vmcb)
        if watches(vmcb):
            vcpu.port_hits = breakpoint.port_hits(vcpu, memory.load64(vmcb + VMCB['DR7']), memory.load64(vmcb + VMCB['CR4']))
    elif code == r_uint(svm.EXIT_NPF):
        decode_memory(vcpu, vmcb)
    elif code >= r_uint(0x90):
        vcpu.exit_kind = kinds.UNKNOWN
        if code & LOW32 == r_uint(svm.EXIT_INVALID_LOW):
            vcpu.exit_kind = kinds.ENTRY_FAILED
    else:
        index = intmask(code)
        kind = KIND[index]
        vcpu.exit_kind = kind
        vcpu.exit_length = length(vmcb, LENGTH[index])
        if kind == kinds.INTERRUPT:
            vcpu.exit_value = cpu.take_interrupt()
            if processor.no_shadow:
                keep_shadow(vcpu, vmcb)
        elif kind == kinds.MSR_READ:
            decode_msr(vcpu, vmcb)
        elif kind == kinds.HLT:
            vcpu.exit_value = memory.load64(vmcb + VMCB['RFLAGS'])


@cold
def keep_shadow(vcpu, vmcb):
    """What an interrupt has interrupted in a shadow still is in that shadow when the next one comes before it has executed an instruction.
    A guest that comes there by another way waits for one instruction: that is allowed."""
    rip = memory.load64(vmcb + VMCB['RIP'])
    if memory.load64(vmcb + VMCB['INTERRUPT_SHADOW']) & 1 != R0:
        vcpu.shadow_rip = rip
        vcpu.attention = True               # a window may be open
    elif rip == vcpu.shadow_rip:
        memory.store64(vmcb + VMCB['INTERRUPT_SHADOW'], r_uint(1))
        vcpu.attention = True


def length(vmcb, plain):
    """Of the instruction; what the plain one has, 0 where there is none, is for processors that do not tell."""
    if processor.nrips and plain != 0:
        return memory.load64(vmcb + VMCB['NRIP']) - memory.load64(vmcb + VMCB['RIP'])
    return r_uint(plain)


def decode_memory(vcpu, vmcb):
    """CS's and SS's attributes are the emulator's business: the code's width and its privilege."""
    error = memory.load64(vmcb + VMCB['EXITINFO1'])
    vcpu.exit_kind = kinds.MEMORY
    vcpu.exit_value = attributes(memory.load16(vmcb + CS_ATTRIBUTES)) | attributes(memory.load16(vmcb + SS_ATTRIBUTES)) << 16
    vcpu.exit_length = R0
    vcpu.exit_selector = memory.load64(vmcb + VMCB['EXITINFO2'])
    if error & r_uint(svm.NPF_FETCH) != R0:
        vcpu.exit_flags = r_uint(kinds.ACCESS_EXECUTE)
    elif error & r_uint(svm.NPF_WRITE) != R0:
        vcpu.exit_flags = r_uint(kinds.ACCESS_WRITE)
    else:
        vcpu.exit_flags = r_uint(kinds.ACCESS_READ)
    if error & r_uint(svm.NPF_FINAL) != R0:
        vcpu.exit_flags |= r_uint(kinds.ACCESS_OPERAND)


decode_memory._always_inline_ = True


def decode_io(vcpu, vmcb):
    """EXITINFO2 is the next RIP. Source: APM Vol. 2, "IOIO Intercepts"."""
    info = memory.load64(vmcb + VMCB['EXITINFO1'])
    vcpu.exit_kind = kinds.IO
    vcpu.exit_length = memory.load64(vmcb + VMCB['EXITINFO2']) - memory.load64(vmcb + VMCB['RIP'])
    vcpu.exit_selector = (info >> 16) & r_uint(0xffff)
    size = (info >> 4) & 7                  # one of SZ8, SZ16, SZ32
    vcpu.exit_size = size
    vcpu.exit_flags = info & r_uint(kinds.IO_IN) | (info >> 1) & r_uint(kinds.IO_STRING | kinds.IO_REPEAT)
    vcpu.exit_value = port_value(vcpu)
    vcpu.port_hits = R0


decode_io._always_inline_ = True


def watches(vmcb):
    """Has the guest breakpoints, maybe of ports?"""
    return memory.load64(vmcb + VMCB['DR7']) & breakpoint.DR7_ENABLED != R0


def decode_msr(vcpu, vmcb):
    vcpu.exit_selector = vcpu.gpr(RCX) & LOW32
    if memory.load64(vmcb + VMCB['EXITINFO1']) != R0:
        vcpu.exit_kind = kinds.MSR_WRITE
        vcpu.exit_value = (vcpu.gpr(RDX) & LOW32) << 32 | (vcpu.gpr(RAX) & LOW32)


def keep_event(vcpu, vmcb):
    """If the exit interrupted the delivery of an event, repeat that at the next entry."""
    if processor.delivers_twice and memory.load32(vmcb + VMCB['V_INTR']) & r_uint(svm.V_IRQ) != R0 and take_back(vcpu, vmcb):
        return
    event = memory.load64(vmcb + VMCB['EXITINTINFO'])
    if event & r_uint(svm.EVENT_VALID) != R0:
        keep(vcpu, event)


@cold
def keep(vcpu, event):
    """What an INT instruction began is begun again by the instruction itself. Source: APM Vol. 2, "EXITINTINFO"."""
    kind = (event >> svm.EVENT_TYPE_SHIFT) & 7
    if kind == r_uint(svm.EVENT_SOFTWARE):
        return
    if kind == r_uint(svm.EVENT_EXCEPTION) and (SOFTWARE_EXCEPTIONS >> intmask(event & 31)) & 1 != R0:
        return
    vcpu.event = event


def place(vmcb, event):
    """No window is open. Returns what EVENTINJ has to be for the next entry to deliver an event, or none (0).
    Where an injected interrupt may come twice, it is a virtual interrupt instead, which the guest, who takes interrupts now, takes as its
    first deed."""
    if processor.delivers_twice and event & EVENT_KIND == INTERRUPTION:
        at = vmcb + VMCB['V_INTR']
        memory.store32(at, memory.load32(at) | r_uint(svm.V_IRQ | svm.V_IGNORE_TPR))
        memory.store32(at + 4, event & 0xff)
        return R0
    return event


def has_window(vmcb):
    """Does a virtual interrupt exit before it is taken? Then the one that is there is a window, and no interrupt of the guest's."""
    return memory.load32(vmcb + VMCB['INTERCEPT_1']) & INTERCEPT_VINTR != R0


@cold
def take_back(vcpu, vmcb):
    """A virtual interrupt is still there: a window, or place()'s, because of the machine's or in the middle of its delivery.
    Then the next entry has to deliver it."""
    if has_window(vmcb):
        return False
    word = memory.load64(vmcb + VMCB['V_INTR'])
    memory.store64(vmcb + VMCB['V_INTR'], word & r_uint(svm.V_TPR | svm.V_INTR_MASKING))
    memory.store64(vmcb + VMCB['EXITINTINFO'], R0)         # where that calls the delivery an exception's, and is asked once more by the loop
    vcpu.event = INTERRUPTION | (word >> 32) & 0xff
    return True


def attributes(value):
    """Of the VMCB as the vCPU page's ATTRIBUTES: a segment that is not present cannot be used."""
    if value & r_uint(0x80) == R0:
        value |= r_uint(UNUSABLE)
    return value
