"""VCPU_INTERRUPT's RESET: a VM that starts anew finds its local APIC as after power-on."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.kernel.compartment import compartments
from hypervisor.spec import call, lapic, status
from tests.unit.kernel.vm import make_vm

VM, VCPU = 1, call.SLOT_VCPU


def test_reset_of_a_vm_forgets_modes_requests_and_timer(box):
    make_vm(box, VM)
    apic = compartments[VM].vcpus[0].apic
    before = dict((offset, int(apic.read(offset, r_uint(0)))) for offset in range(0, 0x400, 16))
    base = int(apic.base)

    def ask(which, *arguments):
        assert box.kernel_call(VM, which, VCPU, *arguments)[0] == status.OK
    for offset, value in ((lapic.SPURIOUS, 0x1ff), (lapic.TIMER, 1 << 17 | 0x40), (lapic.INITIAL_COUNT, 1000), (lapic.TPR, 0x20)):
        ask(call.VCPU_APIC, offset, 1, value)
    ask(call.VCPU_INTERRUPT, call.INTERRUPT_FIXED, 0x55, 0)
    ask(call.VCPU_INTERRUPT, call.INTERRUPT_NMI, 0, 0)
    ask(call.VCPU_INTERRUPT, call.INTERRUPT_EXTINT_ON, 0, 0)
    assert apic.write_base(r_uint(base | lapic.APIC_BASE_X2APIC))
    assert apic.pending() == 0x55 and apic.deadline and apic.nmi and apic.extint
    ask(call.VCPU_INTERRUPT, call.INTERRUPT_RESET, 0, 0)
    assert int(apic.base) == base and not apic.deadline and not apic.nmi and not apic.extint and apic.pending() < 0
    assert dict((offset, int(apic.read(offset, r_uint(0)))) for offset in range(0, 0x400, 16)) == before
