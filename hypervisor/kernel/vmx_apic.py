"""VMX: the local APIC of a vCPU in x2APIC mode is the processor's while it runs, where it can do all that this needs.

The guest then reads and writes TPR, ends interrupts and interrupts itself without an exit, and what is pending is delivered as soon as
the guest can take it. TPR, IRR and ISR are in the virtual-APIC page meanwhile (Lapic.give); the kernel adds requests there, and takes all
of it back (Lapic.fetch) for whatever else it has to do with them. In xAPIC mode, and while software has the APIC off, everything exits.
One thing differs: a vector that a device has raised as a level stays one in TMR when the guest sends it to itself.
Source: Intel SDM Vol. 3C, "APIC Virtualization and Virtual Interrupts".
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel.arena import arena
from hypervisor.kernel.lapic import LOW32, NONE, WORDS
from hypervisor.kernel.vmx_setup import setup
from hypervisor.spec import lapic, status, vmx

R0 = r_uint(0)
RVI = r_uint(vmx.STATUS_RVI)


def create(vcpu):
    """The page of a new vCPU, whose VMCS is current. Returns a status."""
    apic = vcpu.apic
    apic.page = R0
    vcpu.virtualized = False
    if not setup.virtual_apic:
        return status.OK
    page = vcpu.compartment.take_page()
    if page == R0:
        return status.NO_MEMORY
    apic.page = arena.hva(page)
    hw.vmwrite(r_uint(vmx.VIRTUAL_APIC), page)
    hw.vmwrite(r_uint(vmx.TPR_THRESHOLD), R0)
    hw.vmwrite(r_uint(vmx.GUEST_INTERRUPT_STATUS), R0)
    n = 0
    while n < WORDS:
        apic.shown[n] = R0
        hw.vmwrite(r_uint(vmx.EOI_EXIT_BITMAP0 + 2 * n), R0)
        n += 1
    return status.OK


def enter(vcpu):
    """Before an entry, with the VMCS current: give the processor what is its business."""
    apic = vcpu.apic
    if apic.away:
        if apic.posted == NONE:
            return
        raise_requested(apic.posted)
    else:
        virtualized = apic.is_virtualized()
        if virtualized != vcpu.virtualized:
            switch(vcpu, virtualized)
        if not virtualized:
            return
        apic.give()
        hw.vmwrite(r_uint(vmx.GUEST_INTERRUPT_STATUS), vector_or_0(apic.highest(apic.irr)) | vector_or_0(apic.highest(apic.isr)) << vmx.STATUS_SVI_SHIFT)
    apic.posted = NONE
    show_levels(apic)


def vector_or_0(vector):
    if vector < 0:
        return R0
    return r_uint(vector)


def raise_requested(vector):
    """A request has been added to IRR: RVI is the highest there is."""
    interrupt_status = hw.vmread(r_uint(vmx.GUEST_INTERRUPT_STATUS))
    if r_uint(vector) > interrupt_status & RVI:
        hw.vmwrite(r_uint(vmx.GUEST_INTERRUPT_STATUS), (interrupt_status & ~RVI) | r_uint(vector))


def show_levels(apic):
    """TMR, for the guest to read; the end of these is the VMM's business, so it exits."""
    n = 0
    while n < WORDS:
        levels = apic.tmr[n]
        if levels != apic.shown[n]:
            apic.shown[n] = levels
            memory.store32(apic.page + lapic.TMR + 32 * n, levels & LOW32)
            memory.store32(apic.page + lapic.TMR + 32 * n + 16, levels >> 32)
            hw.vmwrite(r_uint(vmx.EOI_EXIT_BITMAP0 + 2 * n), levels)
        n += 1


def switch(vcpu, virtualized):
    """Into x2APIC mode, and out of it."""
    vcpu.virtualized = virtualized
    primary = hw.vmread(r_uint(vmx.PRIMARY_CONTROLS))
    secondary = setup.secondary
    bitmap = setup.bitmap
    if virtualized:
        primary = (primary | r_uint(vmx.APIC_PRIMARY)) & ~r_uint(vmx.NOT_APIC_PRIMARY)
        secondary |= r_uint(vmx.APIC_SECONDARY)
        bitmap = setup.apic_bitmap
    else:
        primary = (primary & ~r_uint(vmx.APIC_PRIMARY)) | r_uint(vmx.NOT_APIC_PRIMARY)
    hw.vmwrite(r_uint(vmx.PRIMARY_CONTROLS), primary)
    hw.vmwrite(r_uint(vmx.SECONDARY_CONTROLS), secondary)
    hw.vmwrite(r_uint(vmx.MSR_BITMAP), bitmap)


def illegal_self_ipi(vcpu):
    """The guest has sent itself a vector below 16, which the processor leaves to the kernel, behind the instruction.
    Source: SDM, "APIC-Write VM Exits"."""
    vcpu.apic.error(lapic.ESR_ILLEGAL_RECEIVED)
    vcpu.wake_for_interrupt()
