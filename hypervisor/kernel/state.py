"""A vCPU's state between the vCPU page and the processor's control block, group by group.

What the kernel checks here is what would be dangerous or what the processor would take silently; a state that is merely
inconsistent fails at VM entry, and that ends the VM with the rule's name (kernel/entry_check.py).
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint
from rpython.rlib.unroll import unrolling_iterable

from hypervisor.hw import cpu, memory
from hypervisor.kernel import vector
from hypervisor.kernel.switch import switcher
from hypervisor.lib.cold import cold
from hypervisor.spec import answer as rules
from hypervisor.spec import cpu as bits
from hypervisor.spec import state as fields
from hypervisor.spec import vcpu as page_layout
from hypervisor.spec.context import AREA
from hypervisor.spec.vcpu import (CPUID_ASK, CPUID_CLASSES, CPUID_TABLE, GPR, GROUP_CONTROL, GROUP_CPUID, GROUP_FLOW,
                                  GROUP_GPR, GROUP_KEYS, GROUP_SEGMENT, GROUP_TABLE, GROUP_TIME, GROUP_VECTOR, REGISTER, REGISTER_SHIFT, STATE,
                                  TELL_STOLEN)

R0 = r_uint(0)
RIP = fields.RIP
CPUID_BYTES = CPUID_ASK + 4 * len(CPUID_CLASSES) - CPUID_TABLE

CR0_ALLOWED = r_uint(sum(1 << bit for _, bit in bits.CR0))
CR4_EVER = r_uint(bits.CR4_VME | bits.CR4_PVI | bits.CR4_TSD | bits.CR4_DE | bits.CR4_PSE | bits.CR4_PAE | bits.CR4_MCE | bits.CR4_PGE |
                  bits.CR4_PCE | bits.CR4_OSFXSR | bits.CR4_OSXMMEXCPT)
EFER_ALLOWED = r_uint(bits.EFER_SCE | bits.EFER_LME | bits.EFER_LMA | bits.EFER_NXE)
RFLAGS_ALLOWED = r_uint(sum(1 << bit for _, bit in bits.RFLAGS) | 3 << 12 | bits.RFLAGS_FIXED)
RFLAGS_LOOKED_AT = ~RFLAGS_ALLOWED | r_uint(bits.RFLAGS_FIXED | bits.RFLAGS_TF | bits.RFLAGS_RF)     # FIXED alone is plain
ATTRIBUTES_ALLOWED = r_uint(0xfff | page_layout.UNUSABLE)
LIMIT32 = r_uint(0xffffffff)
LIMIT16 = r_uint(0xffff)
TOP_48, TOP_57 = ~R0 >> (bits.LINEAR_BITS - 1), ~R0 >> (bits.LINEAR_BITS_LA57 - 1)
SELECTOR, ATTRIBUTES, LIMIT, BASE = range(4)
FIRST_SEGMENT = fields.ES_SELECTOR
SEGMENT_COUNT = 8
SMALL_SEGMENTS = 4              # ES, CS, SS, DS: bases of 32 bits

GPRS = unrolling_iterable([(AREA[name], STATE[name]) for name in GPR if name != 'RSP'])
OF_INSTRUCTIONS = GROUP_GPR | GROUP_FLOW | REGISTER | 15 << REGISTER_SHIFT
GPR_AREAS = [AREA.get(name, 0) for name in GPR]
RSP = GPR.index('RSP')          # which is the processor's
SEGMENT_AT = STATE['ES_SELECTOR']


class Features(object):
    """CR4 bits that guests may set: those that this processor has and that stay inside a guest."""

    def __init__(self):
        self.cr4 = CR4_EVER

    def open(self):
        """Read CPUID once. Source: Intel SDM Vol. 3A, "Control Registers"; CPUID leaves 1 and 7."""
        allowed = CR4_EVER
        ecx1 = cpu.cpuid(r_uint(1), R0, r_uint(2))
        ebx7 = cpu.cpuid(r_uint(7), R0, r_uint(1))
        ecx7 = cpu.cpuid(r_uint(7), R0, r_uint(2))
        if ecx1 & r_uint(1 << 26) != R0:
            allowed |= r_uint(bits.CR4_OSXSAVE)
        if ecx1 & r_uint(1 << 17) != R0:
            allowed |= r_uint(bits.CR4_PCIDE)
        if ebx7 & r_uint(1) != R0:
            allowed |= r_uint(bits.CR4_FSGSBASE)
        if ebx7 & r_uint(1 << 7) != R0:
            allowed |= r_uint(bits.CR4_SMEP)
        if ebx7 & r_uint(1 << 20) != R0:
            allowed |= r_uint(bits.CR4_SMAP)
        if ecx7 & r_uint(1 << 2) != R0:
            allowed |= r_uint(bits.CR4_UMIP)
        if ecx7 & r_uint(bits.LEAF_7_ECX_PKU) != R0:
            allowed |= r_uint(bits.CR4_PKE)
        if ecx7 & r_uint(bits.LEAF_7_ECX_LA57) != R0:
            allowed |= r_uint(bits.CR4_LA57)
        self.cr4 = allowed


features = Features()


def canonical(address):
    """Is the address one of 48 bits, sign-extended, or of 57 where the processor has those? Whether the guest's paging has them is not
    asked: MSRs and system tables take them in any mode, and code that begins elsewhere faults in the guest."""
    top = address >> (bits.LINEAR_BITS - 1)
    if top == R0 or top == TOP_48:
        return True
    if features.cr4 & r_uint(bits.CR4_LA57) == R0:
        return False
    top = address >> (bits.LINEAR_BITS_LA57 - 1)
    return top == R0 or top == TOP_57


def control_rule(cr0, cr3, cr4, efer):
    """0, or the rule that these control registers break. Used for VMMs' answers and for what guests write themselves."""
    if cr0 & ~CR0_ALLOWED != R0 or (cr0 & r_uint(bits.CR0_PG) != R0 and cr0 & r_uint(bits.CR0_PE) == R0):
        return rules.RULE_CR0
    if cr0 & r_uint(bits.CR0_NW) != R0 and cr0 & r_uint(bits.CR0_CD) == R0:
        return rules.RULE_CR0
    if cr4 & ~features.cr4 != R0:
        return rules.RULE_CR4
    if cr3 >> 52 != R0:
        return rules.RULE_CR3
    if efer & ~EFER_ALLOWED != R0:
        return rules.RULE_EFER
    active = efer & r_uint(bits.EFER_LMA) != R0
    if active != (efer & r_uint(bits.EFER_LME) != R0 and cr0 & r_uint(bits.CR0_PG) != R0):
        return rules.RULE_EFER
    if active and cr4 & r_uint(bits.CR4_PAE) == R0:
        return rules.RULE_EFER
    return 0


def apply(vcpu, dirty):
    """Check and take all dirty groups. Returns 0 or the broken rule's number; the VM ends by that."""
    page = vcpu.page
    if dirty & ~r_uint(OF_INSTRUCTIONS) != R0:
        rule = apply_rare(vcpu, page, dirty)
        if rule != 0:
            return rule
    if dirty & r_uint(GROUP_GPR) != R0:
        apply_gprs(vcpu, page)
    elif dirty & r_uint(REGISTER) != R0:
        apply_register(vcpu, page, intmask(dirty >> REGISTER_SHIFT) & 15)
    if dirty & r_uint(GROUP_FLOW) != R0:
        rule = apply_flow(vcpu, page)
        if rule != 0:
            return rule
    if dirty & r_uint(GROUP_FLOW | GROUP_CONTROL | GROUP_SEGMENT) != R0:
        return rip_rule(vcpu)
    return 0


@dont_inline
@cold
def apply_rare(vcpu, page, dirty):
    """What an emulated instruction leaves alone."""
    if dirty & r_uint(GROUP_CPUID) != R0:
        memory.copy(vcpu.cpuid, page + CPUID_TABLE, r_uint(CPUID_BYTES))
        vcpu.note_apart()
    if dirty & r_uint(GROUP_CONTROL) != R0:
        rule = apply_control(vcpu, page)
        if rule != 0:
            return rule
    if dirty & r_uint(GROUP_SEGMENT) != R0:
        rule = apply_segments(vcpu, page)
        if rule != 0:
            return rule
    if dirty & r_uint(GROUP_TABLE) != R0:
        rule = apply_tables(vcpu, page)
        if rule != 0:
            return rule
    if dirty & r_uint(GROUP_TIME) != R0:
        apply_time(vcpu, page)
    if dirty & r_uint(GROUP_VECTOR) != R0:
        vector.apply(vcpu)
    if dirty & r_uint(TELL_STOLEN) != R0 and not vcpu.compartment.is_branch():
        vcpu.compartment.tells_stolen = True
    return 0


def apply_gprs(vcpu, page):
    for register, offset in GPRS:
        vcpu.set_gpr(register, memory.load64(page + offset))
    switcher.vendor.set(vcpu, fields.RSP, memory.load64(page + STATE['RSP']))


def apply_register(vcpu, page, number):
    value = memory.load64(page + STATE['RAX'] + 8 * r_uint(number))
    if number == RSP:
        switcher.vendor.set(vcpu, fields.RSP, value)
    else:
        vcpu.set_gpr(GPR_AREAS[number], value)


def apply_control(vcpu, page):
    cr0 = memory.load64(page + STATE['CR0'])
    cr2 = memory.load64(page + STATE['CR2'])
    cr3 = memory.load64(page + STATE['CR3'])
    cr4 = memory.load64(page + STATE['CR4'])
    efer = memory.load64(page + STATE['EFER'])
    rule = control_rule(cr0, cr3, cr4, efer)
    if rule != 0:
        return rule
    vendor = switcher.vendor
    vendor.set(vcpu, fields.EFER, efer)
    vendor.set(vcpu, fields.CR4, cr4)
    vendor.set(vcpu, fields.CR0, cr0)
    vendor.set(vcpu, fields.CR3, cr3)
    vendor.set(vcpu, fields.CR2, cr2)
    return 0


def apply_segments(vcpu, page):
    n = 0
    while n < SEGMENT_COUNT:
        at = page + SEGMENT_AT + 32 * n
        selector = memory.load64(at)
        attributes = memory.load64(at + 8)
        limit = memory.load64(at + 16)
        base = memory.load64(at + 24)
        if selector > LIMIT16 or limit > LIMIT32 or attributes & ~ATTRIBUTES_ALLOWED != R0:
            return rules.RULE_ATTRIBUTES
        if not canonical(base) or (n < SMALL_SEGMENTS and base > LIMIT32):
            return rules.RULE_BASE
        vendor = switcher.vendor
        field = FIRST_SEGMENT + 4 * n
        vendor.set(vcpu, field + SELECTOR, selector)
        vendor.set(vcpu, field + ATTRIBUTES, attributes)
        vendor.set(vcpu, field + LIMIT, limit)
        vendor.set(vcpu, field + BASE, base)
        n += 1
    return 0


def apply_tables(vcpu, page):
    gdt_limit = memory.load64(page + STATE['GDTR_LIMIT'])
    gdt_base = memory.load64(page + STATE['GDTR_BASE'])
    idt_limit = memory.load64(page + STATE['IDTR_LIMIT'])
    idt_base = memory.load64(page + STATE['IDTR_BASE'])
    if gdt_limit > LIMIT16 or idt_limit > LIMIT16:
        return rules.RULE_ATTRIBUTES
    if not canonical(gdt_base) or not canonical(idt_base):
        return rules.RULE_BASE
    vendor = switcher.vendor
    vendor.set(vcpu, fields.GDTR_LIMIT, gdt_limit)
    vendor.set(vcpu, fields.GDTR_BASE, gdt_base)
    vendor.set(vcpu, fields.IDTR_LIMIT, idt_limit)
    vendor.set(vcpu, fields.IDTR_BASE, idt_base)
    return 0


def apply_time(vcpu, page):
    """Any offset will do. The guest's TSC deadlines count as its TSC does."""
    offset = memory.load64(page + STATE['TSC_OFFSET'])
    switcher.vendor.set(vcpu, fields.TSC_OFFSET, offset)
    vcpu.apic.tsc_offset = offset


def apply_flow(vcpu, page):
    rip = memory.load64(page + STATE['RIP'])
    rflags = memory.load64(page + STATE['RFLAGS'])
    if rflags & ~RFLAGS_ALLOWED != R0 or rflags & r_uint(bits.RFLAGS_FIXED) == R0:
        return rules.RULE_RFLAGS
    switcher.vendor.set_flow(vcpu, rip, rflags)
    return 0


def rip_rule(vcpu):
    """Last, because what RIP may be depends on CS and EFER as they are by now. Returns 0 or the broken rule."""
    rip = switcher.vendor.rip(vcpu)
    if not canonical(rip) or (rip > LIMIT32 and not in_64_bit_code(vcpu)):
        return rules.RULE_RIP
    return 0


def in_64_bit_code(vcpu):
    vendor = switcher.vendor
    return (vendor.get(vcpu, fields.EFER) & r_uint(bits.EFER_LMA) != R0 and
            vendor.get(vcpu, fields.CS_ATTRIBUTES) & r_uint(bits.SEGMENT_LONG) != R0)


def cpl(vcpu):
    """The current privilege level: SS.DPL, on both vendors."""
    return (switcher.vendor.get(vcpu, fields.SS_ATTRIBUTES) >> 5) & 3


def write_gprs(vcpu):
    """But for RSP, which is the vendor's."""
    page = vcpu.page
    area = vcpu.area
    for register, offset in GPRS:
        memory.store64(page + offset, memory.load64(area + register))


write_gprs._always_inline_ = True


def write(vcpu, groups):
    """Fill the groups' fields in the vCPU page."""
    if groups & r_uint(GROUP_GPR) != R0:
        write_gprs(vcpu)
    if groups & r_uint(GROUP_VECTOR) != R0:
        vector.write(vcpu)
    if groups & r_uint(GROUP_KEYS) != R0:
        memory.store64(vcpu.page + STATE['PKRU'], switcher.pkru(vcpu))
    switcher.vendor.write_state(vcpu, groups)


write._always_inline_ = True            # the groups are constants where it matters
