"""An Intel core for tests: capability MSRs as a Haswell has them, an arena, a compartment and vCPUs."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu, memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel.arena import arena
from hypervisor.kernel.state import features
from hypervisor.kernel.timer import timer
from hypervisor.kernel.vcpu import Vcpu
from hypervisor.kernel.vmx import Vmx
from hypervisor.spec import vmx
from hypervisor.spec import cpu as bits
from hypervisor.spec.layout import PAGE

ARENA = 0x1000000
GDT = int(hw.gdt_base())
TSS_BASE = 0xffffffff80103456
MUST_PIN, MUST_PRIMARY, MUST_EXIT, MUST_ENTRY = 0x16, 0x04006172, 0x36dfb, 0x11fb


def capabilities(spares=False):
    """MSR -> value. The low half says what must be set, the high half what may be. spares: with APICv, as a server's."""
    return {
        bits.MSR_FEATURE_CONTROL: 0,
        bits.MSR_EFER: bits.EFER_LME | bits.EFER_LMA | bits.EFER_NXE,
        bits.MSR_PAT: bits.PAT_RESET,
        vmx.MSR_VMX_BASIC: 0x12 | 0x1000 << 32 | 6 << 50 | vmx.BASIC_TRUE_CONTROLS,
        vmx.MSR_VMX_MISC: 5 | vmx.MISC_STORES_LMA,
        vmx.MSR_VMX_CR0_FIXED0: 0x80000021, vmx.MSR_VMX_CR0_FIXED1: 0xffffffff,
        vmx.MSR_VMX_CR4_FIXED0: bits.CR4_VMXE, vmx.MSR_VMX_CR4_FIXED1: 0x1767ff,
        vmx.MSR_VMX_TRUE_PIN: MUST_PIN | 0x7f << 32,
        vmx.MSR_VMX_TRUE_PRIMARY: MUST_PRIMARY | 0xfff9fffe << 32,
        vmx.MSR_VMX_SECONDARY: (0x7fff if spares else 0x7cff) << 32,
        vmx.MSR_VMX_TRUE_EXIT: MUST_EXIT | 0x7fffff << 32,
        vmx.MSR_VMX_TRUE_ENTRY: MUST_ENTRY | 0xffff << 32,
        vmx.MSR_VMX_EPT_VPID: (vmx.EPT_FOUR_LEVELS | vmx.EPT_WRITE_BACK | vmx.EPT_LARGE_PAGES | vmx.EPT_INVEPT | vmx.EPT_INVEPT_SINGLE |
                               vmx.EPT_INVEPT_ALL | vmx.VPID_INVVPID | vmx.VPID_INVVPID_SINGLE | vmx.VPID_INVVPID_ALL),
    }


class Nested(object):
    root = r_uint(0x1234000)


class Compartment(object):
    """As much of one as a vendor file sees."""

    def __init__(self, pages=100):
        self.nested = Nested()
        self.pages = pages

    def take_page(self):
        if not self.pages:
            return r_uint(0)
        self.pages -= 1
        return arena.take()


class Core(object):
    """vendor: a Vmx that is enabled."""

    def __init__(self, spares=False):
        memory.reset_fake()
        cpu.fake.reset()
        hw.fake.reset()
        cpu.fake.msr.update(capabilities(spares))
        cpu.fake.leaves[1] = (0, 0, vmx.CPUID_VMX, 0)
        cpu.fake.leaves[0x80000008] = (39, 0, 0, 0)
        cpu.fake.register.update(cr0=0x80010033 | bits.CR0_TS, cr3=0x5000, cr4=bits.CR4_PAE)
        memory.fake.map(ARENA, 64 * PAGE)
        arena.delta = r_uint(0)
        arena.set_pages(r_uint(ARENA), r_uint(64 * PAGE))
        memory.fake.map(GDT, PAGE)
        memory.store64(r_uint(GDT + 0x28), r_uint(0x67 | (TSS_BASE & 0xffffff) << 16 | 0x8b << 40 | (TSS_BASE >> 24 & 0xff) << 56))
        memory.store64(r_uint(GDT + 0x30), r_uint(TSS_BASE >> 32))
        timer.tsc_khz = r_uint(1000000)
        features.open()
        self.vendor = Vmx()
        self.enabled = None

    def enable(self):
        assert self.vendor.probe() == 0
        self.enabled = self.vendor.enable()
        assert self.enabled == 0
        return self

    def vcpu(self, number=0, compartment=None):
        """A created vCPU whose compartment has frames to spare."""
        vcpu = Vcpu(number)
        vcpu.compartment = compartment or Compartment()
        vcpu.area = arena.take()
        assert self.vendor.create(vcpu) == 0
        return vcpu

    def fields(self, vcpu):
        """The VMCS of a vCPU as a dict."""
        return hw.fake.vmcs[int(vcpu.control_hpa)]

    def exit(self, vcpu, reason, **fields):
        """Run vcpu; the guest exits at once with this reason and these VMCS fields (by name, as in spec/vmx.py)."""
        def play(area, vmcs):
            vmcs[vmx.EXIT_REASON] = reason
            vmcs[vmx.IDT_VECTORING_INFO] = 0
            vmcs[vmx.ENTRY_INTERRUPTION_INFO] = vmcs.get(vmx.ENTRY_INTERRUPTION_INFO, 0) & 0x7fffffff
            for name, value in fields.items():
                vmcs[getattr(vmx, name)] = value
            return hw.SUCCEED
        hw.fake.run = play
        self.vendor.run(vcpu)
        return vcpu


