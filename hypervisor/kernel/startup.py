"""INIT and STARTUP: how one vCPU of a VM stops and starts another.

A vCPU that waits for STARTUP is not ready. vCPU 0 gets its first state from the VMM; the others wait from the start.
Source: Intel SDM Vol. 3A, "Multiple-Processor (MP) Initialization", "Processor State After Reset".
"""
from rpython.rlib.rarithmetic import r_uint
from rpython.rlib.unroll import unrolling_iterable

from hypervisor.kernel.news import news
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.vcpu import RDX
from hypervisor.lib.cold import cold
from hypervisor.spec import cpu as bits
from hypervisor.spec import state as fields
from hypervisor.spec.context import AREA
from hypervisor.spec.vcpu import GPR, SEGMENTS

R0 = r_uint(0)
CR0_KEPT = r_uint(bits.CR0_CD | bits.CR0_NW)        # by INIT
CR0_INITIAL = r_uint(1 << 4)                        # ET
SIGNATURE = r_uint(0x600)                           # what EDX tells is a family; software asks CPUID
CODE, DATA, LDT, TSS = 0x9b, 0x93, 0x82, 0x8b
LIMIT = 0xffff
ATTRIBUTES = dict([(name, DATA) for name in SEGMENTS], CS=CODE, LDTR=LDT, TR=TSS)

INITIAL = [('EFER', 0), ('CR4', 0), ('CR3', 0), ('CR2', 0), ('RSP', 0), ('RFLAGS', bits.RFLAGS_FIXED),
           ('GDTR_BASE', 0), ('GDTR_LIMIT', LIMIT), ('IDTR_BASE', 0), ('IDTR_LIMIT', LIMIT)]
for _name in SEGMENTS:
    INITIAL += [(_name + '_SELECTOR', 0), (_name + '_ATTRIBUTES', ATTRIBUTES[_name]), (_name + '_LIMIT', LIMIT), (_name + '_BASE', 0)]
FIELDS = [getattr(fields, _name) for _name, _ in INITIAL]
VALUES = [r_uint(_value) for _, _value in INITIAL]
REGISTERS = unrolling_iterable([AREA[_name] for _name in GPR if _name != 'RSP'])


@cold
def init(vcpu):
    """INIT: everything but FPU, CR0's cache bits and most MSRs is as after a reset. vCPU 0 goes on at the reset vector, others wait."""
    vendor = switcher.vendor
    vendor.forget_events(vcpu)
    cr0 = vendor.get(vcpu, fields.CR0)
    vendor.set(vcpu, fields.CR0, (cr0 & CR0_KEPT) | CR0_INITIAL)
    n = 0
    while n < len(FIELDS):
        vendor.set(vcpu, FIELDS[n], VALUES[n])
        n += 1
    for register in REGISTERS:
        vcpu.set_gpr(register, R0)
    vcpu.set_gpr(RDX, SIGNATURE)
    switcher.forget_debug(vcpu)
    place(vcpu, r_uint(0xf000), r_uint(0xffff0000), r_uint(0xfff0))
    vcpu.apic.init()
    news.of_address(vcpu)
    vcpu.halted = False
    vcpu.attention = True
    vcpu.waiting = vcpu.index > 0
    vcpu.ready = False
    if vcpu.started and not vcpu.waiting:
        vcpu.want()


@cold
def startup(vcpu, vector):
    """STARTUP: go on in real mode at the start of page `vector`. Nothing happens to a vCPU that does not wait for it."""
    if not vcpu.waiting or not vcpu.started:
        return
    place(vcpu, vector << 8, vector << 12, R0)
    vcpu.waiting = False
    vcpu.want()


def place(vcpu, selector, base, rip):
    vendor = switcher.vendor
    vendor.set(vcpu, fields.CS_SELECTOR, selector)
    vendor.set(vcpu, fields.CS_BASE, base)
    vendor.set(vcpu, fields.RIP, rip)
