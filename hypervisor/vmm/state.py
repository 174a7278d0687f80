"""vCPU states that something starts in.

Source: Intel SDM Vol. 3A, "Processor State After Reset"; Multiboot Specification 0.6.96, "Machine state"; Linux,
Documentation/arch/x86/boot.rst, "32-bit Boot Protocol" and "64-bit Boot Protocol".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec import cpu, vcpu as spec
from hypervisor.vmm import vcpu as v

ZERO = r_uint(0)
CR0_PE = 1 << 0
CR0_ET = 1 << 4
FLAGS_FIXED = r_uint(2)         # bit 1 of RFLAGS is always one
FAMILY_AT_RESET = 0x600         # what EDX holds after a reset: the processor's signature; its family is enough

# Attributes as in spec/vcpu.py: type, S, P, D/B, G.
PRESENT, CODE_OR_DATA, LONG, BIG, PAGES = 1 << 7, 1 << 4, 1 << 9, 1 << 10, 1 << 11
CODE, DATA = 0xb, 0x3           # execute/read and read/write, accessed
LDT, BUSY_TSS = 0x2, 0xb

REAL_CODE = PRESENT | CODE_OR_DATA | CODE
REAL_DATA = PRESENT | CODE_OR_DATA | DATA
FLAT_CODE = REAL_CODE | BIG | PAGES
FLAT_DATA = REAL_DATA | BIG | PAGES
LONG_CODE = REAL_CODE | LONG | PAGES
LIMIT_64K = r_uint(0xffff)
LIMIT_4G = r_uint(0xffffffff)
DATA_SEGMENTS = [v.ES, v.SS, v.DS, v.FS, v.GS]

ALL = spec.GROUP_GPR | spec.GROUP_FLOW | spec.GROUP_CONTROL | spec.GROUP_SEGMENT | spec.GROUP_TABLE


def _common(vcpu, rip, cr0):
    """Everything that the two states below share. The caller sets the segments CS to GS."""
    for number in range(16):
        vcpu.set_register(number, ZERO)
    vcpu.set(v.STATE['RIP'], rip)
    vcpu.set(v.STATE['RFLAGS'], FLAGS_FIXED)
    vcpu.set(v.STATE['CR0'], r_uint(cr0))
    vcpu.set(v.STATE['CR2'], ZERO)
    vcpu.set(v.STATE['CR3'], ZERO)
    vcpu.set(v.STATE['CR4'], ZERO)
    vcpu.set(v.STATE['EFER'], ZERO)
    vcpu.set_segment(v.LDTR, 0, PRESENT | LDT, LIMIT_64K, ZERO)
    vcpu.set_segment(v.TR, 0, PRESENT | BUSY_TSS, LIMIT_64K, ZERO)
    vcpu.set(v.STATE['GDTR_BASE'], ZERO)
    vcpu.set(v.STATE['GDTR_LIMIT'], LIMIT_64K)
    vcpu.set(v.STATE['IDTR_BASE'], ZERO)
    vcpu.set(v.STATE['IDTR_LIMIT'], LIMIT_64K)


def real_mode(vcpu, selector, base, rip):
    """As after a reset, but with CS = selector, its base, and IP = rip."""
    _common(vcpu, rip, CR0_ET)
    vcpu.set_register(v.DX, r_uint(FAMILY_AT_RESET))
    vcpu.set_segment(v.CS, selector, REAL_CODE, LIMIT_64K, base)
    for number in DATA_SEGMENTS:
        vcpu.set_segment(number, 0, REAL_DATA, LIMIT_64K, ZERO)


def reset(vcpu):
    """The reset vector. No memory is there: a vCPU in this state exits at once (MEMORY, ACCESS_EXECUTE)."""
    real_mode(vcpu, 0xf000, r_uint(0xffff0000), r_uint(0xfff0))


def protected_mode(vcpu, eip):
    """Flat 32-bit segments, paging off, interrupts off. The selectors are ours: a guest loads its own GDT first."""
    _common(vcpu, eip, CR0_ET | CR0_PE)
    vcpu.set_segment(v.CS, 0x08, FLAT_CODE, LIMIT_4G, ZERO)
    for number in DATA_SEGMENTS:
        vcpu.set_segment(number, 0x10, FLAT_DATA, LIMIT_4G, ZERO)


def use_gdt(vcpu, base, limit, code, data):
    """A descriptor table in the guest's memory, and the selectors of the flat segments that the caller has put there."""
    vcpu.set(v.STATE['GDTR_BASE'], base)
    vcpu.set(v.STATE['GDTR_LIMIT'], limit)
    vcpu.set_segment(v.CS, code, FLAT_CODE, LIMIT_4G, ZERO)
    for number in DATA_SEGMENTS:
        vcpu.set_segment(number, data, FLAT_DATA, LIMIT_4G, ZERO)


def use_long_mode(vcpu, tables):
    """From protected_mode() to 64-bit mode on the page tables at gpa `tables`. CS keeps its selector."""
    vcpu.set(v.STATE['CR0'], r_uint(cpu.CR0_PG | cpu.CR0_ET | cpu.CR0_PE))
    vcpu.set(v.STATE['CR3'], tables)
    vcpu.set(v.STATE['CR4'], r_uint(cpu.CR4_PAE))
    vcpu.set(v.STATE['EFER'], r_uint(cpu.EFER_LME | cpu.EFER_LMA))
    vcpu.set_segment(v.CS, intmask(vcpu.segment(v.CS, v.SEGMENT_SELECTOR)), LONG_CODE, LIMIT_4G, ZERO)
