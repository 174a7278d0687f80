"""A switch to another task by a TSS, for the processors that do none in a guest.

The processor has looked at the gate and at the new TSS descriptor (privilege, type, presence, limit) before it exits; all that comes
behind those checks is here. What is not as on a processor: the TSS's T bit raises no #DB; a task whose CS or SS cannot be loaded gets its
fault on a flat stack; under PAE paging a task with another CR3 is UNKNOWN, because the top entries are the processor's to load.
Source: Intel SDM Vol. 3A, "Task Switching"; Vol. 3C, "Treatment of Task Switches".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec import cpu, exit, status, vcpu as spec
from hypervisor.spec.exit import ACCESS_READ, ACCESS_WRITE
from hypervisor.vmm import vcpu as v
from hypervisor.vmm.context import BIG, FAULT, OK, mask
from hypervisor.vmm.emulate import DONE, UNKNOWN

DIRTY = spec.GROUP_GPR | spec.GROUP_FLOW | spec.GROUP_CONTROL | spec.GROUP_SEGMENT
ZERO = r_uint(0)
ONE = r_uint(1)
U32 = r_uint(0xffffffff)
UNUSABLE = r_uint(spec.UNUSABLE)
FLAT_CODE, FLAT_DATA = 0xc9b, 0xc93

# A TSS: the link; words of `width` bytes from EIP on (EIP, EFLAGS, the registers, the segments); LDTR last. CR3 is in the larger one only.
LINK, CR3 = 0, 28
FIRST = [0, 0, 14, 0, 32]               # by width
REGISTERS = 8
SEGMENTS = [0, 0, 4, 0, 6]              # FS and GS are not in the smaller one
IS_32 = 8                               # of a TSS descriptor's type
BUSY = r_uint(2)                        # likewise
FLAGS = r_uint(sum(1 << bit for _, bit in cpu.RFLAGS) | 3 << 12 | cpu.RFLAGS_FIXED)

# Attributes of a segment, as in spec/vcpu.py
ACCESSED, READABLE, WRITABLE, CONFORMING, CODE, CODE_OR_DATA, PRESENT = [r_uint(bit) for bit in (1, 2, 2, 4, 8, 0x10, 0x80)]
LDT_TYPE = r_uint(2)
V86_DATA = 0xf3
LOAD_ORDER = [v.CS, v.SS, v.DS, v.ES, v.FS, v.GS]


class TaskSwitch(object):
    def __init__(self, emulator, ram):
        self.context = emulator.context
        self.walker = emulator.walker
        self.operand = emulator.operand
        self.ram = ram
        self.faulted = False            # one of the accesses below has
        self.values = [ZERO] * (2 + REGISTERS + 6 + 1)      # of the new TSS, from EIP on
        self.low = ZERO                 # a descriptor's two halves
        self.high = ZERO
        self.at = ZERO                  # and its linear address

    def perform(self):
        """DONE: go on with the groups DIRTY. FAULT: inject context.vector and .error with them. UNKNOWN: nothing has changed."""
        context, vcpu = self.context, self.context.vcpu
        if not context.load() or vcpu.read(spec.GROUP_TABLE) != status.OK:
            return UNKNOWN
        context.user = False            # the processor itself reads tables and TSSs
        self.faulted = False
        selector, source = intmask(vcpu.selector()) & 0xffff, vcpu.flags() & exit.TASK_SOURCE
        leaves = source == exit.TASK_IRET or source == exit.TASK_JMP       # the old task is no longer busy
        old_selector = intmask(vcpu.segment(v.TR, v.SEGMENT_SELECTOR))
        old = vcpu.segment(v.TR, v.SEGMENT_BASE)
        old_width = width_of(intmask(vcpu.segment(v.TR, v.SEGMENT_ATTRIBUTES)))
        leaves = leaves and self._descriptor(old_selector)
        old_at, old_high = self.at, self.high
        if leaves:
            self._touch(old_at, 8)
        if not self._descriptor(selector):
            return FAULT if self.faulted else UNKNOWN
        new, new_at, low, high = base_of(self.low, self.high), self.at, self.low, self.high
        width = width_of(intmask(high >> 8))
        self._touch(old, size_of(old_width))
        self._touch(new, size_of(width))
        self._touch(new_at, 8)
        self._read(new, width)
        cr3 = self._load(new + r_uint(CR3), 4) if width == 4 else context.cr3
        if self.faulted:
            return FAULT
        if context.has_cr0(cpu.CR0_PG) and context.has_cr4(cpu.CR4_PAE) and cr3 != context.cr3:
            return UNKNOWN
        self._keep(old, old_width, source)
        if leaves:
            self._store(old_at + r_uint(4), 4, old_high & ~(BUSY << 8))
        if source == exit.TASK_CALL or source == exit.TASK_GATE:
            self._store(new + r_uint(LINK), 2, r_uint(old_selector))
        if source != exit.TASK_IRET:
            self._store(new_at + r_uint(4), 4, high | BUSY << 8)
        vcpu.set_segment(v.TR, selector, attributes_of(high | BUSY << 8), limit_of(low, high), new)
        return self._begin(width, source, cr3)

    # The guest's memory by linear address. After a fault the others do nothing.
    def _find(self, gva, access):
        if not self.faulted and self.walker.walk(gva & U32, access) == FAULT:
            self.faulted = True
        return not self.faulted and self.ram.holds(self.walker.gpa, ONE)

    def _touch(self, gva, size):
        """Both ends may be written."""
        self._find(gva, ACCESS_WRITE)
        self._find(gva + r_uint(size - 1), ACCESS_WRITE)

    def _load(self, gva, size):
        value = ZERO
        for n in range(size):
            byte = self.ram.load8(self.walker.gpa) if self._find(gva + r_uint(n), ACCESS_READ) else r_uint(0xff)
            value |= byte << (8 * n)
        return value

    def _store(self, gva, size, value):
        for n in range(size):
            if self._find(gva + r_uint(n), ACCESS_WRITE):
                self.ram.store8(self.walker.gpa, value >> (8 * n) & r_uint(0xff))

    def _descriptor(self, selector):
        """Read the descriptor that a selector means. False: there is none."""
        vcpu = self.context.vcpu
        base, limit = vcpu.get(v.STATE['GDTR_BASE']), vcpu.get(v.STATE['GDTR_LIMIT'])
        if selector & 4:
            base, limit = vcpu.segment(v.LDTR, v.SEGMENT_BASE), vcpu.segment(v.LDTR, v.SEGMENT_LIMIT)
            if vcpu.segment(v.LDTR, v.SEGMENT_ATTRIBUTES) & UNUSABLE != ZERO:
                return False
        if r_uint(selector | 7) > limit:
            return False
        self.at = base + r_uint(selector & 0xfff8)
        self.low, self.high = self._load(self.at, 4), self._load(self.at + r_uint(4), 4)
        return not self.faulted

    # The two TSSs.
    def _read(self, tss, width):
        count = 2 + REGISTERS + SEGMENTS[width]
        for n in range(len(self.values)):
            self.values[n] = ZERO
        for n in range(count):
            self.values[n] = self._load(tss + r_uint(FIRST[width] + n * width), width)
        self.values[len(self.values) - 1] = self._load(tss + r_uint(FIRST[width] + count * width), 2)

    def _keep(self, tss, width, source):
        """The old task, as it will go on behind its instruction."""
        context, vcpu = self.context, self.context.vcpu
        flags = context.flags
        if source == exit.TASK_IRET:
            flags &= ~r_uint(cpu.RFLAGS_NT)
        at = tss + r_uint(FIRST[width])
        self._store(at, width, context.rip + vcpu.length())
        self._store(at + r_uint(width), width, flags)
        for n in range(REGISTERS):
            self._store(at + r_uint((2 + n) * width), width, vcpu.register(n))
        for n in range(SEGMENTS[width]):
            self._store(at + r_uint((2 + REGISTERS + n) * width), 2, vcpu.segment(n, v.SEGMENT_SELECTOR))

    # The new task. Faults are its own from here on; the first one counts.
    def _begin(self, width, source, cr3):
        context, vcpu = self.context, self.context.vcpu
        context.vector = NOTHING
        context.cr0 |= r_uint(cpu.CR0_TS)
        vcpu.set(v.STATE['CR0'], context.cr0)
        if context.has_cr0(cpu.CR0_PG):
            context.cr3 = cr3
            vcpu.set(v.STATE['CR3'], cr3)
        flags = self.values[1] & FLAGS | r_uint(cpu.RFLAGS_FIXED)
        if source == exit.TASK_CALL or source == exit.TASK_GATE:
            flags |= r_uint(cpu.RFLAGS_NT)
        context.flags = flags
        context.rip = self.values[0]
        for n in range(REGISTERS):
            vcpu.set_register(n, self.values[2 + n])
        self._load_ldt(intmask(self.values[len(self.values) - 1]) & 0xffff)
        if context.has_flag(cpu.RFLAGS_VM):
            self._load_v86()
        else:
            self._load_segments()
        self._push_error(width)
        if context.vector == NOTHING and context.rip > vcpu.segment(v.CS, v.SEGMENT_LIMIT):
            self._blame(cpu.VECTOR_GP, 0)
        vcpu.set(v.STATE['RIP'], context.rip)
        vcpu.set(v.STATE['RFLAGS'], context.flags)
        return DONE if context.vector == NOTHING else FAULT

    def _blame(self, vector, selector):
        if self.context.vector == NOTHING:
            self.context.fault(vector, r_uint(selector & 0xfffc))

    def _load_ldt(self, selector):
        vcpu = self.context.vcpu
        vcpu.set_segment(v.LDTR, selector, spec.UNUSABLE, ZERO, ZERO)
        if selector & 0xfffc == 0:
            return
        if selector & 4 or not self._descriptor(selector) or self.high >> 8 & r_uint(0x9f) != PRESENT | LDT_TYPE:
            self._blame(cpu.VECTOR_TS, selector)
        else:
            vcpu.set_segment(v.LDTR, selector, attributes_of(self.high), limit_of(self.low, self.high), base_of(self.low, self.high))

    def _load_v86(self):
        self.context.user = True
        self.context.mode = 16
        self.context.protected = False
        for n in range(6):
            selector = intmask(self.values[2 + REGISTERS + n]) & 0xffff
            self.context.vcpu.set_segment(n, selector, V86_DATA, r_uint(0xffff), r_uint(selector) << 4)

    def _load_segments(self):
        context, vcpu = self.context, self.context.vcpu
        code = intmask(self.values[2 + REGISTERS + v.CS]) & 0xffff
        cpl = code & 3
        for n in range(6):
            selector = intmask(self.values[2 + REGISTERS + n]) & 0xffff
            vcpu.set_segment(n, selector, spec.UNUSABLE, ZERO, ZERO)
        for number in LOAD_ORDER:
            selector = intmask(self.values[2 + REGISTERS + number]) & 0xffff
            if not self._load_segment(number, selector, cpl):
                if number == v.CS:
                    vcpu.set_segment(v.CS, selector, FLAT_CODE | cpl << 5, U32, ZERO)
                elif number == v.SS:
                    vcpu.set_segment(v.SS, selector, FLAT_DATA | cpl << 5, U32, ZERO)
        context.user = cpl == 3
        context.mode = 32 if vcpu.segment(v.CS, v.SEGMENT_ATTRIBUTES) & BIG != ZERO else 16

    def _load_segment(self, number, selector, cpl):
        """False: it cannot be loaded. A null selector of a data segment can."""
        if selector & 0xfffc == 0:
            if number == v.CS or number == v.SS:
                self._blame(cpu.VECTOR_TS, selector)
                return False
            return True
        if not self._descriptor(selector) or not fits(number, self.high >> 8, selector & 3, cpl):
            self._blame(cpu.VECTOR_TS, selector)
            return False
        if self.high >> 8 & PRESENT == ZERO:
            self._blame(cpu.VECTOR_SS if number == v.SS else cpu.VECTOR_NP, selector)
            return False
        high = self.high | ACCESSED << 8
        if high != self.high:
            self._store(self.at + r_uint(4), 4, high)
        self.context.vcpu.set_segment(number, selector, attributes_of(high), limit_of(self.low, high), base_of(self.low, high))
        return True

    def _push_error(self, width):
        """The error code of the exception whose gate this was."""
        context, vcpu = self.context, self.context.vcpu
        if vcpu.flags() & exit.TASK_ERROR == 0 or context.vector != NOTHING:
            return
        stack = 4 if vcpu.segment(v.SS, v.SEGMENT_ATTRIBUTES) & BIG != ZERO else 2
        top = (context.register(v.SP, 4) - r_uint(width)) & mask(stack)
        if self.operand.locate(v.SS, top, width, ACCESS_WRITE) == FAULT:
            return
        self.operand.store(vcpu.value())
        context.set_register(v.SP, stack, top)


NOTHING = -1


def width_of(attributes):
    """Bytes of a word in the TSS of this type."""
    return 4 if attributes & IS_32 else 2


def size_of(width):
    return 104 if width == 4 else 44


def base_of(low, high):
    return low >> 16 | (high & r_uint(0xff)) << 16 | high & r_uint(0xff000000)


def limit_of(low, high):
    limit = low & r_uint(0xffff) | high & r_uint(0xf0000)
    return limit << 12 | r_uint(0xfff) if high & r_uint(1 << 23) != ZERO else limit


def attributes_of(high):
    return intmask(high >> 8 & r_uint(0xff) | (high >> 20 & r_uint(0xf)) << 8)


def fits(number, attributes, rpl, cpl):
    """May this segment register hold a descriptor of these attributes? Presence is the caller's."""
    dpl = intmask(attributes >> 5) & 3
    code = attributes & CODE != ZERO
    if attributes & CODE_OR_DATA == ZERO:
        return False
    if number == v.CS:
        return code and (dpl <= cpl if attributes & CONFORMING != ZERO else dpl == cpl)
    if number == v.SS:
        return not code and attributes & WRITABLE != ZERO and dpl == cpl and rpl == cpl
    if code and attributes & READABLE == ZERO:
        return False
    return (code and attributes & CONFORMING != ZERO) or (dpl >= cpl and dpl >= rpl)
