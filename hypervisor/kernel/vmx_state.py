"""VMX: where a vCPU's state lies in its VMCS, which is current here, and from there to the vCPU page."""
from rpython.rlib.rarithmetic import r_uint
from rpython.rlib.unroll import unrolling_iterable

from hypervisor.hw import memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel.vmx_exit import attributes, end_shadow
from hypervisor.kernel.vmx_setup import believed, setup
from hypervisor.spec import state as fields
from hypervisor.spec import vmx
from hypervisor.spec.context import AREA

R0 = r_uint(0)
CR2 = AREA['CR2']

# The VMCS field of each state field; CR2 has none.
ENCODINGS = [getattr(vmx, 'GUEST_' + name, getattr(vmx, name, 0)) for name in fields.FIELDS]
assert [name for name, encoding in zip(fields.FIELDS, ENCODINGS) if not encoding] == ['CR2']
PLAIN, RIGHTS, SPECIAL = 0, 1, 2
HOW = [SPECIAL if name in ('CR0', 'CR2', 'CR4', 'EFER') else RIGHTS if name.endswith('_ATTRIBUTES') else PLAIN for name in fields.FIELDS]

WRITERS = unrolling_iterable([
    (r_uint(_group), unrolling_iterable([(_offset, _field, ENCODINGS[_field], HOW[_field]) for _field, _offset in _places]))
    for _group, _places in fields.GROUPED])


def special(vcpu, field):
    """What CR0, CR2, CR4 or EFER is to the guest."""
    if field == fields.CR0:
        return believed(hw.vmread(r_uint(vmx.GUEST_CR0)), hw.vmread(r_uint(vmx.CR0_SHADOW)), setup.cr0_mask)
    if field == fields.CR4:
        return believed(hw.vmread(r_uint(vmx.GUEST_CR4)), hw.vmread(r_uint(vmx.CR4_SHADOW)), setup.cr4_mask)
    if field == fields.EFER:
        return hw.vmread(r_uint(vmx.GUEST_EFER))
    return memory.load64(vcpu.area + CR2)


special._always_inline_ = True          # the field is a constant wherever a group is written


def write_state(vcpu, groups):
    """As Vendor.write_state. The groups are constants where it matters."""
    page = vcpu.page
    for group, field_places in WRITERS:
        if groups & group != R0:
            for offset, field, encoding, how in field_places:
                if how == PLAIN:
                    memory.store64(page + offset, hw.vmread(r_uint(encoding)))
                elif how == RIGHTS:
                    memory.store64(page + offset, attributes(hw.vmread(r_uint(encoding))))
                else:
                    memory.store64(page + offset, special(vcpu, field))


write_state._always_inline_ = True


def set_flow(rip, rflags):
    """As Vendor.set_flow."""
    hw.vmwrite(r_uint(vmx.GUEST_RIP), rip)
    hw.vmwrite(r_uint(vmx.GUEST_RFLAGS), rflags)
    end_shadow()
