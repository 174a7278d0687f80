"""Which rule of the manual does a refused VM entry break? Executable rules over a reader, and so usable on a dict as well.

The processor says of a failed entry at most which group of checks failed. These functions repeat the checks, in the manual's
order, and return the number of the first rule (hypervisor/spec/entry.py) that does not hold, or 0. Not on the exit path's
common way: a VM whose entry fails is stopped.

Here are the checks on guest state, and AMD's; Intel's control fields and host state are in vmx_check.py.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu
from hypervisor.spec import cpu as bits
from hypervisor.spec import entry as rules
from hypervisor.spec import state as fields
from hypervisor.spec import svm
from hypervisor.spec import vcpu as layout

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
CR0_PE, CR0_PG = r_uint(bits.CR0_PE), r_uint(bits.CR0_PG)
CR0_NW, CR0_CD = r_uint(bits.CR0_NW), r_uint(bits.CR0_CD)
CR4_PAE, CR4_PCIDE = r_uint(bits.CR4_PAE), r_uint(bits.CR4_PCIDE)
CR4_DEFINED = r_uint(sum(1 << bit for _, bit in bits.CR4))
EFER_DEFINED = r_uint(bits.EFER_SCE | bits.EFER_LME | bits.EFER_LMA | bits.EFER_NXE)
EFER_AMD = r_uint(bits.EFER_SVME | bits.EFER_LMSLE | bits.EFER_FFXSR)
EFER_LME, EFER_LMA = r_uint(bits.EFER_LME), r_uint(bits.EFER_LMA)
RFLAGS_DEFINED = r_uint(sum(1 << bit for _, bit in bits.RFLAGS) | 3 << 12 | bits.RFLAGS_FIXED)
RFLAGS_VM = r_uint(bits.RFLAGS_VM)

# Segments by their place in spec.vcpu.SEGMENTS, and the parts of one
ES, CS, SS, DS, FS, GS, LDTR, TR = range(8)
SELECTOR, ATTRIBUTES, LIMIT, BASE = range(4)
FIRST = fields.ES_SELECTOR

# ATTRIBUTES
TYPE = r_uint(0xf)
S, PRESENT, LONG, BIG, GRANULAR = r_uint(1 << 4), r_uint(1 << 7), r_uint(1 << 9), r_uint(1 << 10), r_uint(1 << 11)
UNUSABLE = r_uint(layout.UNUSABLE)
V86_RIGHTS = r_uint(0xf3)
DATA_UP = r_uint(3)                 # read/write, accessed, grows up
CODE, READABLE, ACCESSED = r_uint(8), r_uint(2), r_uint(1)
CONFORMING_ACCESSED = r_uint(13)
TSS_16_BUSY, TSS_BUSY, LDT = r_uint(3), r_uint(11), r_uint(2)


class Reader(object):
    """What the rules read. state: a field of spec/state.py as in the vCPU page; control: a VMCS field by its encoding, or a
    64-bit word of the VMCB by its offset. Two subclasses read the real ones, a test's reads dicts."""

    def state(self, field):
        return R0

    def control(self, number):
        return R0


def segment(reader, number, part):
    return reader.state(FIRST + 4 * number + part)


def usable(reader, number):
    return segment(reader, number, ATTRIBUTES) & UNUSABLE == R0


def segment_type(reader, number):
    return segment(reader, number, ATTRIBUTES) & TYPE


def privilege(reader, number):
    return (segment(reader, number, ATTRIBUTES) >> 5) & 3


def physical_mask():
    """The bits of a physical address. Source: CPUID leaf 0x80000008, EAX bits 7:0."""
    width = intmask(cpu.cpuid(r_uint(0x80000008), R0, R0) & r_uint(0xff))
    if width < 32 or width > 52:
        width = 52
    return (r_uint(1) << width) - 1


def canonical(address):
    """Is the address sign-extended from the processor's linear width, whatever CR4.LA57 says? Source: CPUID leaf 0x80000008, EAX bits 15:8."""
    unused = 64 - linear_bits()
    return r_uint(intmask(address << unused) >> unused) == address


def linear_bits():
    width = intmask(cpu.cpuid(r_uint(0x80000008), R0, R0) >> 8 & r_uint(0xff))
    return bits.LINEAR_BITS_LA57 if width == bits.LINEAR_BITS_LA57 else bits.LINEAR_BITS


def long_mode(reader):
    return reader.state(fields.EFER) & EFER_LME != R0 and reader.state(fields.CR0) & CR0_PG != R0


def memory_types(pat):
    """Is each of the eight bytes a memory type that exists?"""
    n = 0
    while n < 8:
        kind = (pat >> (8 * n)) & r_uint(0xff)
        if kind > r_uint(7) or kind == r_uint(2) or kind == r_uint(3):
            return False
        n += 1
    return True


# -- both vendors -----------------------------------------------------------------------------------------------------------------

def register_rule(reader, efer_defined):
    """What both refuse in control registers and EFER."""
    cr0 = reader.state(fields.CR0)
    if cr0 > LOW32:
        return rules.RULE_CR0_HIGH
    if reader.state(fields.CR3) & ~physical_mask() & ~(r_uint(1) << 63) != R0:
        return rules.RULE_CR3_WIDTH
    if reader.state(fields.CR4) & ~CR4_DEFINED != R0:
        return rules.RULE_CR4_RESERVED
    if reader.state(fields.EFER) & ~efer_defined != R0:
        return rules.RULE_EFER_RESERVED
    if long_mode(reader):
        if reader.state(fields.CR4) & CR4_PAE == R0:
            return rules.RULE_LONG_PAE
        if cr0 & CR0_PE == R0:
            return rules.RULE_LONG_PE
        attributes = segment(reader, CS, ATTRIBUTES)
        if attributes & LONG != R0 and attributes & BIG != R0:
            return rules.RULE_LONG_CS
    return 0


# -- Intel: guest state --------------------------------------------------------------------------------------------------------------

def intel_state_rule(reader):
    """The neutral part of the guest-state area: control registers, segments, tables, RIP and RFLAGS."""
    rule = register_rule(reader, EFER_DEFINED)
    if rule == 0:
        rule = intel_register_rule(reader)
    if rule == 0:
        rule = segment_rule(reader)
    if rule == 0:
        rule = system_segment_rule(reader)
    if rule == 0:
        rule = table_rule(reader)
    if rule == 0:
        rule = flow_rule(reader)
    return rule


def intel_register_rule(reader):
    cr0 = reader.state(fields.CR0)
    if cr0 & CR0_PG != R0 and cr0 & CR0_PE == R0:
        return rules.RULE_CR0_PG_PE
    if reader.state(fields.CR4) & CR4_PCIDE != R0 and not long_mode(reader):
        return rules.RULE_PCIDE_LONG
    return 0


def segment_rule(reader):
    """ES, CS, SS, DS, FS, GS, for a processor with unrestricted guest turned on."""
    virtual_8086 = reader.state(fields.RFLAGS) & RFLAGS_VM != R0
    n = 0
    while n <= GS:
        if virtual_8086:
            rule = v86_rule(reader, n)
        else:
            rule = code_data_rule(reader, n)
        if rule != 0:
            return rule
        n += 1
    if virtual_8086:
        return 0
    return privilege_rule(reader)


def v86_rule(reader, n):
    if segment(reader, n, BASE) != segment(reader, n, SELECTOR) << 4:
        return rules.RULE_V86_BASE
    if segment(reader, n, LIMIT) != r_uint(0xffff):
        return rules.RULE_V86_LIMIT
    if segment(reader, n, ATTRIBUTES) != V86_RIGHTS:
        return rules.RULE_V86_RIGHTS
    return 0


def code_data_rule(reader, n):
    base = segment(reader, n, BASE)
    if n == FS or n == GS:
        if not canonical(base):             # checked even when it is not usable
            return rules.RULE_BASE_CANONICAL
    if n != CS and not usable(reader, n):       # of CS, the bit is not looked at
        return 0
    if n < FS and base > LOW32:
        return rules.RULE_BASE_HIGH
    rule = type_rule(reader, n)
    if rule != 0:
        return rule
    attributes = segment(reader, n, ATTRIBUTES)
    if attributes & S == R0:
        return rules.RULE_SEGMENT_S
    if attributes & PRESENT == R0:
        return rules.RULE_SEGMENT_P
    if not granularity_fits(reader, n):
        return rules.RULE_SEGMENT_G
    return 0


def type_rule(reader, n):
    kind = segment_type(reader, n)
    if n == CS:
        if kind != DATA_UP and kind & (CODE | ACCESSED) != CODE | ACCESSED:
            return rules.RULE_CS_TYPE
    elif n == SS:
        if kind != DATA_UP and kind != r_uint(7):
            return rules.RULE_SS_TYPE
    elif kind & ACCESSED == R0 or (kind & CODE != R0 and kind & READABLE == R0):
        return rules.RULE_DATA_TYPE
    return 0


def granularity_fits(reader, n):
    limit = segment(reader, n, LIMIT)
    granular = segment(reader, n, ATTRIBUTES) & GRANULAR != R0
    if limit & r_uint(0xfff) != r_uint(0xfff) and granular:
        return False
    return granular or limit & r_uint(0xfff00000) == R0


def privilege_rule(reader):
    """DPLs of CS and SS. Nobody compares DPL with RPL under unrestricted guest."""
    kind = segment_type(reader, CS)
    code = privilege(reader, CS)
    stack = privilege(reader, SS)
    if kind == DATA_UP:
        if code != R0:
            return rules.RULE_CS_DPL
    elif kind >= CONFORMING_ACCESSED:
        if code > stack:
            return rules.RULE_CS_DPL
    elif code != stack:
        return rules.RULE_CS_DPL
    if (kind == DATA_UP or reader.state(fields.CR0) & CR0_PE == R0) and stack != R0:
        return rules.RULE_SS_DPL
    return 0


def system_segment_rule(reader):
    rule = task_register_rule(reader)
    if rule == 0 and usable(reader, LDTR):
        rule = ldtr_rule(reader)
    return rule


def task_register_rule(reader):
    attributes = segment(reader, TR, ATTRIBUTES)
    if segment(reader, TR, SELECTOR) & 4 != R0:
        return rules.RULE_TR_TI
    if not canonical(segment(reader, TR, BASE)):
        return rules.RULE_BASE_CANONICAL
    if attributes & (UNUSABLE | S) != R0 or attributes & PRESENT == R0:
        return rules.RULE_TR_USABLE
    kind = attributes & TYPE
    if kind != TSS_BUSY and (kind != TSS_16_BUSY or long_mode(reader)):
        return rules.RULE_TR_TYPE
    if not granularity_fits(reader, TR):
        return rules.RULE_SEGMENT_G
    return 0


def ldtr_rule(reader):
    attributes = segment(reader, LDTR, ATTRIBUTES)
    if segment(reader, LDTR, SELECTOR) & 4 != R0:
        return rules.RULE_LDTR_TI
    if not canonical(segment(reader, LDTR, BASE)):
        return rules.RULE_BASE_CANONICAL
    if attributes & TYPE != LDT or attributes & S != R0 or attributes & PRESENT == R0:
        return rules.RULE_LDTR_TYPE
    if not granularity_fits(reader, LDTR):
        return rules.RULE_SEGMENT_G
    return 0


def table_rule(reader):
    if not canonical(reader.state(fields.GDTR_BASE)) or not canonical(reader.state(fields.IDTR_BASE)):
        return rules.RULE_TABLE_CANONICAL
    if reader.state(fields.GDTR_LIMIT) > r_uint(0xffff) or reader.state(fields.IDTR_LIMIT) > r_uint(0xffff):
        return rules.RULE_TABLE_LIMIT
    return 0


def flow_rule(reader):
    rip = reader.state(fields.RIP)
    rflags = reader.state(fields.RFLAGS)
    if long_mode(reader) and segment(reader, CS, ATTRIBUTES) & LONG != R0:
        if not canonical(rip):
            return rules.RULE_RIP_CANONICAL
    elif rip > LOW32:
        return rules.RULE_RIP_HIGH
    if rflags & ~RFLAGS_DEFINED != R0 or rflags & r_uint(bits.RFLAGS_FIXED) == R0:
        return rules.RULE_RFLAGS_RESERVED
    if rflags & RFLAGS_VM != R0 and (long_mode(reader) or reader.state(fields.CR0) & CR0_PE == R0):
        return rules.RULE_RFLAGS_VM
    return 0


# -- AMD: VMRUN ----------------------------------------------------------------------------------------------------------------------

def amd_rule(reader):
    """The consistency checks of VMRUN. (Bases of segments are not checked but canonicalised: sign-extended silently.)"""
    rule = amd_control_rule(reader)
    if rule == 0:
        rule = register_rule(reader, EFER_DEFINED | EFER_AMD)
    if rule != 0:
        return rule
    cr0 = reader.state(fields.CR0)
    if cr0 & CR0_NW != R0 and cr0 & CR0_CD == R0:
        return rules.RULE_CR0_NW_CD
    if reader.control(svm.VMCB['DR6']) > LOW32:
        return rules.RULE_DR6_HIGH
    if reader.control(svm.VMCB['DR7']) > LOW32:
        return rules.RULE_DR7_HIGH
    return 0


def amd_control_rule(reader):
    if reader.control(svm.VMCB['EFER']) & r_uint(bits.EFER_SVME) == R0:
        return rules.RULE_EFER_SVME
    if reader.control(svm.VMCB['INTERCEPT_2']) & r_uint(1) == R0:
        return rules.RULE_INTERCEPT_VMRUN
    if reader.control(svm.VMCB['ASID']) & LOW32 == R0:
        return rules.RULE_ASID_ZERO
    mask = physical_mask()
    if reader.control(svm.VMCB['IOPM_BASE_PA']) & ~mask != R0 or reader.control(svm.VMCB['MSRPM_BASE_PA']) & ~mask != R0:
        return rules.RULE_PERMISSION_MAPS
    if reader.control(svm.VMCB['N_CR3']) & ~mask != R0:
        return rules.RULE_NESTED_CR3
    return amd_event_rule(reader.control(svm.VMCB['EVENTINJ']))


def amd_event_rule(event):
    if event & r_uint(svm.EVENT_VALID) == R0:
        return 0
    kind = (event >> svm.EVENT_TYPE_SHIFT) & 7
    vector = event & r_uint(0xff)
    if kind == r_uint(1) or kind > r_uint(svm.EVENT_SOFTWARE):
        return rules.RULE_EVENT_TYPE_AMD
    if kind == r_uint(svm.EVENT_EXCEPTION) and (vector > r_uint(31) or vector == r_uint(bits.VECTOR_NMI)):
        return rules.RULE_EVENT_TYPE_AMD
    return 0
