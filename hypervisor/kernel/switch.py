"""What stays live in the processor after an exit belongs to one vCPU at a time: FPU, SSE, AVX, DR0-DR3, DR6, PKRU, XCR0, and
what the vendor leaves live.

It is exchanged only when another vCPU is about to run on this core. Tasks have none of it: CR0.TS is set while they and
the kernel run, and the kernel is compiled without FPU instructions.
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu
from hypervisor.spec import xsave
from hypervisor.spec.cpu import CR0_TS, CR4_OSFXSR, CR4_OSXSAVE, CR4_OSXMMEXCPT, CR4_PKE, DR6_RESET, LEAF_7, LEAF_7_ECX_PKU, LEAF_XSAVE

R0 = r_uint(0)
XCR0_SAVED, XCR0_PKRU = r_uint(xsave.X87 | xsave.SSE | xsave.AVX), r_uint(xsave.PKRU)
XCR0_X87 = r_uint(xsave.X87)
LEAF1_ECX_XSAVE = r_uint(1 << 26)
LEAF7_ECX_PKU = r_uint(LEAF_7_ECX_PKU)
DR6_INITIAL = r_uint(DR6_RESET)


class Switcher(object):
    """owner: the vCPU whose state is live on this core, None if nobody's."""

    def __init__(self):
        self.owner = None
        self.vendor = None
        self.lends = False              # may this core's local APIC be lent to a guest (owned.py)?
        self.xcr0 = R0                  # components that the kernel saves; 0: the processor has no XSAVE
        self.offered = R0               # those that a guest may have in XCR0
        self.pku = False                # the processor has PKRU, which is exchanged by itself, whatever XCR0 says
        self.cr4 = R0                   # what the exchange needs, and nothing else may have

    def open(self, vendor):
        """Once per core: make the state instructions usable, and close them to ring 3."""
        self.vendor = vendor
        self.owner = None
        cpu.write_cr4(cpu.read_cr4() | r_uint(CR4_OSFXSR | CR4_OSXMMEXCPT))
        if cpu.cpuid(r_uint(1), R0, r_uint(2)) & LEAF1_ECX_XSAVE != R0:
            self.offered = cpu.cpuid(r_uint(LEAF_XSAVE), R0, R0) & XCR0_SAVED
            self.xcr0 = self.offered
            self.cr4 = r_uint(CR4_OSXSAVE)
        if cpu.cpuid(r_uint(LEAF_7), R0, r_uint(2)) & LEAF7_ECX_PKU != R0:
            self.pku = True
            self.cr4 |= r_uint(CR4_PKE)
            if self.xcr0 != R0:
                self.offered |= cpu.cpuid(r_uint(LEAF_XSAVE), R0, R0) & XCR0_PKRU
        cpu.write_cr0(cpu.read_cr0() | r_uint(CR0_TS))

    def claim(self, vcpu):
        """Make vcpu's state the live one."""
        cpu.clts()
        self._open_xsave()
        old = self.owner
        if old is not None:
            self._keep(old)
        else:
            self._open_fpu()
        self.vendor.switch(old, vcpu)
        self._load(vcpu)
        self.owner = vcpu
        self._close_xsave()
        cpu.write_cr0(cpu.read_cr0() | r_uint(CR0_TS))

    def _open_xsave(self):
        """CR4.OSXSAVE and PKE are set only here: in ring 3 XGETBV and RDPKRU would tell what a guest has in XCR0 and PKRU."""
        if self.cr4 != R0:
            cpu.write_cr4(cpu.read_cr4() | self.cr4)

    def _close_xsave(self):
        if self.cr4 != R0:
            cpu.write_cr4(cpu.read_cr4() & ~self.cr4)

    def keep_fpu(self, vcpu):
        """Write what is live of the vCPU's FPU state to its memory. It stays live."""
        if self.owner is vcpu:
            cpu.clts()
            self._open_xsave()
            self._keep_fpu(vcpu)
            if self.xcr0 != R0:
                cpu.xsetbv(vcpu.xcr0)
            self._close_xsave()
            cpu.write_cr0(cpu.read_cr0() | r_uint(CR0_TS))

    def load_fpu(self, vcpu):
        """The other way, after its memory has been changed."""
        if self.owner is vcpu:
            cpu.clts()
            self._open_xsave()
            self._open_fpu()
            self._load_fpu(vcpu)
            self._close_xsave()
            cpu.write_cr0(cpu.read_cr0() | r_uint(CR0_TS))

    @dont_inline                            # rare, and called where every instruction counts
    def live_xcr0(self, vcpu):
        """XCR0 of the vCPU that has just run. Not what set_xcr0 was told, for the reason in _keep_fpu."""
        if self.xcr0 != R0:
            self._open_xsave()
            vcpu.xcr0 = (cpu.xgetbv() & self.offered) | XCR0_X87
            self._close_xsave()
        return vcpu.xcr0

    def pkru(self, vcpu):
        """What the vCPU has in PKRU; 0 where the processor has none."""
        if self.pku and self.owner is vcpu:
            self._open_xsave()
            vcpu.pkru = cpu.rdpkru()
            self._close_xsave()
        return vcpu.pkru

    def forget_keys(self, vcpu):
        """PKRU as after power-on. INIT leaves it alone."""
        vcpu.pkru = R0
        if self.pku and self.owner is vcpu:
            self._open_xsave()
            cpu.wrpkru(R0)
            self._close_xsave()

    def set_xcr0(self, vcpu, value):
        """The guest whose state is live has executed XSETBV; the value is one that it may have."""
        vcpu.xcr0 = value
        self._open_xsave()
        cpu.xsetbv(value)
        self._close_xsave()

    def forget_debug(self, vcpu):
        """DR0 to DR3 and DR6 are as after a reset. DR7 is the vendor's."""
        vcpu.dr0 = R0
        vcpu.dr1 = R0
        vcpu.dr2 = R0
        vcpu.dr3 = R0
        vcpu.dr6 = DR6_INITIAL
        if self.owner is vcpu:
            cpu.write_dr0(R0)
            cpu.write_dr1(R0)
            cpu.write_dr2(R0)
            cpu.write_dr3(R0)
            cpu.write_dr6(DR6_INITIAL)

    def release(self, vcpu):
        """The vCPU is gone: its state is dropped, not kept. What is still live is overwritten before any vCPU runs."""
        if self.owner is vcpu:
            self.owner = None
        self.vendor.release(vcpu)

    def _keep_fpu(self, vcpu):
        """XCR0 has all components afterwards."""
        if self.xcr0 != R0:
            # Not only from the XSETBV exits: QEMU's SVM lets the guest's XSETBV through although it is intercepted.
            vcpu.xcr0 = (cpu.xgetbv() & self.offered) | XCR0_X87
            cpu.xsetbv(self.xcr0)
            cpu.xsave(vcpu.fpu, self.xcr0)
        else:
            cpu.fxsave(vcpu.fpu)

    def _keep(self, vcpu):
        self._keep_fpu(vcpu)
        if self.pku:
            vcpu.pkru = cpu.rdpkru()
        vcpu.dr0 = cpu.read_dr0()
        vcpu.dr1 = cpu.read_dr1()
        vcpu.dr2 = cpu.read_dr2()
        vcpu.dr3 = cpu.read_dr3()
        vcpu.dr6 = cpu.read_dr6()

    def _open_fpu(self):
        """XCR0 has all components, as after _keep_fpu."""
        if self.xcr0 != R0:
            cpu.xsetbv(self.xcr0)

    def _load_fpu(self, vcpu):
        """XCR0 has all components before, and what the vCPU has there afterwards."""
        if self.xcr0 != R0:
            cpu.xrstor(vcpu.fpu, self.xcr0)
            cpu.xsetbv(vcpu.xcr0)
        else:
            cpu.fxrstor(vcpu.fpu)

    def _load(self, vcpu):
        self._load_fpu(vcpu)
        if self.pku:
            cpu.wrpkru(vcpu.pkru)
        cpu.write_dr0(vcpu.dr0)
        cpu.write_dr1(vcpu.dr1)
        cpu.write_dr2(vcpu.dr2)
        cpu.write_dr3(vcpu.dr3)
        cpu.write_dr6(vcpu.dr6)


switcher = Switcher()
