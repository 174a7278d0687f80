"""A virtual processor: its areas in memory, the exit record, and what the scheduler keeps about it."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel import limit
from hypervisor.kernel.context import Context
from hypervisor.kernel.lapic import NONE, Lapic
from hypervisor.kernel.switch import switcher
from hypervisor.spec import call
from hypervisor.spec import context as layout
from hypervisor.spec import exit as kinds
from hypervisor.spec.vcpu import CPUID_ASK, CPUID_TABLE

R0 = r_uint(0)
LEAF_1 = r_uint(1 << 1)


class Vcpu(Context):
    """All vCPUs exist from the start; `compartment` says whose one is, None whose nobody's.

    Invariant: `outstanding` is set exactly while an exit waits for the VMM's answer; then, and while it is `halted`, the vCPU is not ready.
    """

    def __init__(self, number):
        Context.__init__(self)
        self.number = number        # in the kernel, for all VMs
        self.index = 0              # in its VM
        self.task = None            # its VMM, where its VM is at home
        self.slot = R0              # of its VM's capability table: the one that VCPU_CREATE has filled
        self.started = False        # the VMM has run it once
        self.outstanding = False
        self.told = False           # the VMM knows of the outstanding exit
        self.halted = False         # sleeps in HLT until its APIC has something for it
        self.deaf = False           # ... with RFLAGS.IF clear: until an NMI or INIT
        self.waiting = False        # for STARTUP
        self.init = False           # INIT has come while an exit was the VMM's: it waits for the answer
        self.attention = False      # its APIC may have something for it: look before the next entry
        self.apic = Lapic(number)
        self.nmi_blocked = False    # SVM only: an NMI was delivered and no IRET has ended since
        self.stepping = 0           # SVM only: the kernel has set TF, to exit after one instruction
        self.traced = False         # the guest had it set itself
        self.step_dr6 = R0          # the guest's DR6 until then
        self.shadow_rip = ~R0       # SVM only: where it was last interrupted in a shadow; kept where entries do not begin one
        self.once = False           # SVM only: the next exit is not for the quick path: something is to be done before the entry after it
        self.ticked = False         # a timer has fired: its core's local APIC may be lent to it now
        self.owns = False           # it is
        self.spared = NONE          # VMX only: the vector in service whose end does not exit (vmx_eoi.py)
        self.exit_way = 0           # VMX only: where its exits go (hypervisor/spec/context.py)
        self.passes_eoi = False     # VMX only: its VMCS has the bitmap for that
        self.stolen = R0            # ticks that others have had while it could have run, if its VMM keeps account of them
        self.flush = False          # nested translations must be dropped before the next entry
        # Of a VM on several cores
        self.away = False           # it lives on another core; here are its capability, its page, and what its APIC answers to
        self.core = 0               # which one
        self.news = 0               # what has to be told (news.py)
        self.untold = 0             # bit n: core n does not know yet what its APIC answers to
        self.ask = 0                # away: what its VMM waits for (spec/wire.py ASK_FIELDS)
        self.ask_offset = R0
        self.ask_value = R0
        self.result = R0            # the other end of that
        self.to_raise = 0           # away: what is to be sent besides what is in `apic` (spec/wire.py FLAGS)
        self.startup_vector = R0
        self.mirror = R0            # away: hva of its state, as it came with its exit
        # Memory
        self.area = R0              # hva of the register area (spec/context.py AREA)
        self.cpuid = R0             # hva of the CPUID table
        self.apart = R0             # basic and extended leaves (bits 0 to 31, 32 to 63) that are not answered from it as they are
        self.fpu = R0               # hva of the FPU state
        self.page = R0              # hva of the vCPU page
        self.page_hpa = R0
        self.control = R0           # hva of the VMCB or VMCS
        self.control_hpa = R0
        # The exit record: vendor-neutral, valid until the next run.
        self.exit_kind = kinds.UNKNOWN
        self.exit_length = R0       # bytes of the instruction; 0 where there is none or the processor does not tell
        self.exit_selector = R0     # as SELECTOR in the vCPU page
        self.exit_size = R0
        self.exit_flags = R0
        self.exit_value = R0
        self.port_hits = R0         # IO: I/O breakpoints that it has hit, as in DR6
        self.exit_code = R0         # the vendor's own code, for sentences about exits that nobody knows
        # What a vendor's file keeps per vCPU
        self.tag = R0               # ASID or VPID
        self.event = R0             # an interrupted delivery to be repeated at the next entry, in the vendor's format
        self.event_error = R0
        self.pat = R0
        # Live registers that `switch` keeps while another vCPU runs on this core
        self.dr0 = R0
        self.dr1 = R0
        self.dr2 = R0
        self.dr3 = R0
        self.dr6 = R0
        self.xcr0 = r_uint(1)
        self.pkru = R0
        self.kernel_gs_base = R0
        self.star = R0
        self.lstar = R0
        self.cstar = R0
        self.sfmask = R0
        # Counters, one per kind of exit; the quick path's own are cheaper, and `settle` adds them
        self.counts = [R0] * kinds.COUNT
        self.quick_cpuid = R0
        self.quick_hypercall = R0
        self.quick_msr_read = R0
        self.quick_msr_write = R0
        self.quick_io = R0          # the straight path's, likewise
        self.quick_memory = R0

    def settle(self):
        """Bring `counts` up to date."""
        self.counts[kinds.CPUID] += self.quick_cpuid
        self.counts[kinds.HYPERCALL] += self.quick_hypercall
        self.counts[kinds.MSR_READ] += self.quick_msr_read
        self.counts[kinds.MSR_WRITE] += self.quick_msr_write
        self.counts[kinds.IO] += self.quick_io
        self.counts[kinds.MEMORY] += self.quick_memory
        self.forget_quick()

    def forget_quick(self):
        self.quick_cpuid = R0
        self.quick_hypercall = R0
        self.quick_msr_read = R0
        self.quick_msr_write = R0
        self.quick_io = R0
        self.quick_memory = R0

    def note_apart(self):
        """The CPUID table is new: which leaves are not ready in it? Those that the VMM wants to be asked for, and leaf 1, which follows CR4 and
        the APIC."""
        self.apart = memory.load64(self.cpuid + r_uint(CPUID_ASK - CPUID_TABLE)) | LEAF_1

    def has_interrupt(self):
        """Is anything waiting that the guest would take if its flags let it?"""
        apic = self.apic
        return apic.nmi or apic.pending() >= 0 or apic.accepts_extint()

    def request_edge(self, vector):
        """Its APIC, which is of this core, gets an edge-triggered message."""
        if not (self.halted and self.wakes_with(vector)):
            self.apic.request(vector, False)
            self.wake_for_interrupt()

    def wakes_with(self, vector):
        """In a HLT, most take what comes at once, and nothing else: then it is the next event, without a request that is looked for twice.
        Returns whether it is so; if not, nothing has been done. An APIC that may be lent has to have a request."""
        apic = self.apic
        if self.deaf or self.event != R0 or apic.nmi or apic.extint or switcher.lends or not apic.take_at_once(vector):
            return False
        switcher.vendor.interrupt(self, vector)
        self.halted = False
        self.want()
        return True

    def wake_for_interrupt(self):
        """Something about its interrupts has changed: look before the next entry, and end a HLT."""
        self.attention = True
        if self.halted:
            apic = self.apic
            if apic.nmi or not self.deaf and (apic.pending() >= 0 or apic.accepts_extint()):     # has_interrupt(), without a call
                self.halted = False
                self.want()

    def is_stopped(self):
        """Does it wait for what only another vCPU, or an NMI, can send? Of one that lives elsewhere that is not known here."""
        return self.waiting or self.halted and self.deaf

    def forget_requests(self):
        """Away: what has been raised here is on its way, or is to be forgotten."""
        self.apic.forget_requests()
        self.to_raise = 0

    def gpr(self, offset):
        """A general register; offset: spec/context.py AREA, all but RSP (a state field)."""
        return memory.load64(self.area + offset)

    def set_gpr(self, offset, value):
        memory.store64(self.area + offset, value)


def exit_reasons(vcpu):
    """What VCPU_RUN answers when this vCPU has exited."""
    return r_uint(call.REASON_EXIT) | r_uint(vcpu.index) << call.REASON_VCPU_SHIFT


def port_value(vcpu):
    """What an OUT writes: as much of RAX as the exit record's size says. 0 for an IN."""
    if vcpu.exit_flags & r_uint(kinds.IO_IN) != R0:
        return R0
    value = vcpu.gpr(RAX)
    if vcpu.exit_size == r_uint(1):
        return value & r_uint(0xff)
    if vcpu.exit_size == r_uint(2):
        return value & r_uint(0xffff)
    return value & r_uint(0xffffffff)


port_value._always_inline_ = True
RAX = layout.AREA['RAX']
RBX = layout.AREA['RBX']
RCX = layout.AREA['RCX']
RDX = layout.AREA['RDX']
RSI = layout.AREA['RSI']
vcpus = [Vcpu(n) for n in range(limit.VCPUS)]
