"""What the emulator needs to know about the vCPU: its mode, its registers by width, and the fault to inject, if any.

load() fetches the state of one exit; the registers are then read and written in the vCPU page. An exit of kind MEMORY has brought most of
it, and 64-bit code needs the segments for FS and GS only.
"""
from rpython.rlib.objectmodel import always_inline, dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec import cpu, exit, status, vcpu as spec
from hypervisor.vmm import vcpu as v

GROUPS = spec.GROUP_GPR | spec.GROUP_FLOW | spec.GROUP_CONTROL | spec.GROUP_SEGMENT
ZERO = r_uint(0)
U16 = r_uint(0xffff)
OK, FAULT = 0, 1                # of everything that may fault
NO_REGISTER, SEVERAL = -1, 16   # `written`, where it is no register's number

# Segment attributes (spec/vcpu.py).
PRIVILEGE, LONG, BIG = r_uint(3 << 5), r_uint(1 << 9), r_uint(1 << 10)


def mask(size):
    """All ones in `size` bytes, 1 to 8."""
    return r_uint(-1) >> (64 - 8 * size)


class Context(object):
    def __init__(self, vcpu):
        self.vcpu = vcpu
        self.mode = 64                  # of the code segment: 16, 32, 64
        self.protected = False          # not real mode, not virtual-8086
        self.user = False               # CPL 3
        self.cr0 = ZERO
        self.cr3 = ZERO
        self.cr4 = ZERO
        self.efer = ZERO
        self.flags = ZERO               # RFLAGS as the instruction leaves them
        self.rip = ZERO
        self.written = NO_REGISTER      # the general register that the instruction has changed, or SEVERAL
        # The exception to inject when something has returned FAULT.
        self.vector = 0
        self.error = ZERO

    def load(self):
        """Fetch the state. Returns success."""
        vcpu = self.vcpu
        brought = vcpu.kind() == exit.MEMORY
        if not brought and vcpu.read(GROUPS) != status.OK:
            return False
        self.written = NO_REGISTER
        self.cr0, self.cr3 = vcpu.get(v.STATE['CR0']), vcpu.get(v.STATE['CR3'])
        self.cr4, self.efer = vcpu.get(v.STATE['CR4']), vcpu.get(v.STATE['EFER'])
        self.flags, self.rip = vcpu.get(v.STATE['RFLAGS']), vcpu.get(v.STATE['RIP'])
        if brought:
            attributes = vcpu.value()
            code, stack = attributes & U16, attributes >> 16            # what is above them is not looked at
        else:
            code, stack = vcpu.segment(v.CS, v.SEGMENT_ATTRIBUTES), vcpu.segment(v.SS, v.SEGMENT_ATTRIBUTES)
        if self.is_long() and code & LONG != ZERO:
            self.mode = 64
            self.protected = True
            self.user = stack & PRIVILEGE == PRIVILEGE
            return True
        self._load_other(code, stack)
        return not brought or self.fetch_segments()

    @dont_inline
    def _load_other(self, code, stack):
        """Not 64-bit code."""
        self.protected = self.has_cr0(cpu.CR0_PE) and not self.has_flag(cpu.RFLAGS_VM)
        self.mode = self._mode(code)
        self.user = self._privilege(stack) == 3

    def fetch_segments(self):
        """Before anything looks at one of them. Returns success."""
        return self.vcpu.read(spec.GROUP_SEGMENT) == status.OK

    def _mode(self, code):
        """code: CS's attributes, without LONG in long mode."""
        return 32 if self.protected and code & BIG != ZERO else self._mode_16(code)

    def _mode_16(self, code):
        """Real mode keeps a D bit that protected mode has left in CS ("unreal")."""
        return 32 if not self.protected and not self.has_flag(cpu.RFLAGS_VM) and code & BIG != ZERO else 16

    def _privilege(self, stack):
        """stack: SS's attributes."""
        if self.has_flag(cpu.RFLAGS_VM) and self.has_cr0(cpu.CR0_PE):
            return 3
        if not self.protected:
            return 0
        return intmask(stack >> 5 & r_uint(3))

    def has_cr0(self, bit):
        return self.cr0 & r_uint(bit) != ZERO

    def has_cr4(self, bit):
        return self.cr4 & r_uint(bit) != ZERO

    def has_flag(self, bit):
        return self.flags & r_uint(bit) != ZERO

    def is_long(self):
        """Long mode, 64-bit or compatibility."""
        return self.efer & r_uint(cpu.EFER_LMA) != ZERO

    def has_nx(self):
        return self.efer & r_uint(cpu.EFER_NXE) != ZERO

    @always_inline
    def is_canonical(self, gva):
        """In 64-bit mode: sign-extended from 48 bits, or from 57 under 5-level paging."""
        return r_uint(intmask(gva << 16) >> 16) == gva or self.has_cr4(cpu.CR4_LA57) and r_uint(intmask(gva << 7) >> 7) == gva

    def pkru(self):
        """Fetched only when a user page's key counts: the kernel's own memory, where devices are mapped, has none."""
        if self.vcpu.read(spec.GROUP_KEYS) != status.OK:
            return ZERO
        return self.vcpu.get(v.STATE['PKRU'])

    # Registers of 1, 2, 4 or 8 bytes.
    def register(self, number, size):
        """number: 0 to 15."""
        return self.vcpu.register(number) & mask(size)

    def set_register(self, number, size, value):
        """A 4-byte write clears the upper half, as 64-bit mode has it."""
        if size < 4:
            value = self.vcpu.register(number) & ~mask(size) | value & mask(size)
        self.vcpu.set_register(number, value & mask(4) if size == 4 else value)
        self.written = number if self.written == NO_REGISTER or self.written == number else SEVERAL

    def dirty(self):
        """The answer's DIRTY for what an instruction that is done changes: RIP, flags, and what set_register has set."""
        if self.written == NO_REGISTER:
            return spec.GROUP_FLOW
        if self.written == SEVERAL:
            return spec.GROUP_FLOW | spec.GROUP_GPR
        return spec.GROUP_FLOW | spec.REGISTER | self.written << spec.REGISTER_SHIFT

    def finish(self, rip):
        """The instruction is done (or, with its own rip, to be executed again)."""
        if self.mode != 64:
            rip &= mask(2 if self.mode == 16 else 4)
        self.vcpu.set(v.STATE['RIP'], rip)
        self.vcpu.set(v.STATE['RFLAGS'], self.flags & ~r_uint(cpu.RFLAGS_RF))

    # Faults. Each returns FAULT.
    def fault(self, vector, error):
        self.vector = vector
        self.error = error
        return FAULT

    def protection_fault(self, in_stack):
        """#SS(0) or #GP(0)."""
        return self.fault(cpu.VECTOR_SS if in_stack else cpu.VECTOR_GP, ZERO)

    def page_fault(self, gva, error):
        self.vcpu.set(v.STATE['CR2'], gva)
        return self.fault(cpu.VECTOR_PF, error)
