"""VMX: the end of an interrupt without an exit, where the processor can do that by itself.

Of its virtual-interrupt delivery nothing is used but EOI, and that only while an EOI takes one bit from ISR and does nothing else: the
vector is the only one in service, edge-triggered, and nothing is requested. Then the vector is SVI, and the MSR bitmap lets the guest
write the x2APIC's EOI: the vector is *spared* an exit. The processor's VISR is always empty, so that an EOI makes SVI 0. That is
where the kernel, after the run, finds whether there has been one. RVI is always 0: nothing is ever delivered by the processor's own will.

As long as nothing is in service, an EOI does nothing in either place, and may pass or exit.

Between two runs the local APIC (lapic.py) knows all, and nobody has to ask; during one, its ISR is stale while `vcpu.spared` is set.
Invariants between two runs: a spared vector is SVI, and EOI passes; where EOI passes, nothing but the spared vector is in service. ISR gets a vector
only when the guest takes it (`taken`); what else may have changed is seen to before each run (`deliver`, `review`).
Source: Intel SDM Vol. 3C, "EOI Virtualization", "Virtualizing MSR-Based APIC Accesses", "Guest Non-Register State".
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import vmx as hw
from hypervisor.kernel.lapic import NONE
from hypervisor.kernel.vmx_setup import setup
from hypervisor.spec import vmx

R0 = r_uint(0)

# In all of these the vCPU's VMCS is current.


@dont_inline                            # what calls it seldom has one
def settle(vcpu):
    """The guest has run with a spared vector: has it ended it?"""
    if hw.vmread(r_uint(vmx.GUEST_INTERRUPT_STATUS)) == R0:
        vcpu.apic.leave_service(vcpu.spared)
        vcpu.spared = NONE


def review(vcpu):
    """EOI passes, and the APIC may have changed since the last run."""
    apic = vcpu.apic
    if vcpu.spared >= 0 and apic.has_request() or not apic.is_x2apic():
        withdraw(vcpu)


@dont_inline
def deliver(vcpu):
    """The next entry delivers an event: most often an interrupt of its APIC, or the PIC's."""
    if vcpu.event & r_uint(7 << vmx.INTERRUPTION_TYPE_SHIFT) == r_uint(vmx.TYPE_EXTERNAL << vmx.INTERRUPTION_TYPE_SHIFT):
        taken(vcpu, intmask(vcpu.event & r_uint(0xff)))
    elif vcpu.passes_eoi:
        review(vcpu)


def taken(vcpu, vector):
    if setup.spares and vcpu.apic.ends_alone(vector):
        spare(vcpu, vector)
    elif vcpu.passes_eoi:
        withdraw(vcpu)


def spare(vcpu, vector):
    """The caller knows that it ends alone."""
    vcpu.spared = vector
    hw.vmwrite(r_uint(vmx.GUEST_INTERRUPT_STATUS), r_uint(vector << vmx.STATUS_SVI_SHIFT))
    if not vcpu.passes_eoi:
        vcpu.passes_eoi = True
        hw.vmwrite(r_uint(vmx.MSR_BITMAP), setup.eoi_bitmap)


def withdraw(vcpu):
    vcpu.spared = NONE
    vcpu.passes_eoi = False
    hw.vmwrite(r_uint(vmx.MSR_BITMAP), setup.bitmap)
