"""SVM: where a vCPU's state lies in its VMCB, and from there to the vCPU page."""
from rpython.rlib.rarithmetic import r_uint
from rpython.rlib.unroll import unrolling_iterable

from hypervisor.hw import memory
from hypervisor.kernel.svm_exit import attributes
from hypervisor.spec import cpu as bits
from hypervisor.spec import state as fields
from hypervisor.spec import svm

R0 = r_uint(0)
SVME = r_uint(bits.EFER_SVME)
VMCB = svm.VMCB

# What each state field is in the VMCB: (offset, bytes)
WIDTHS = dict((name, (offset, width)) for name, offset, width in svm.SAVE + svm.CONTROL)
for _segment, _offset in svm.SEGMENTS:
    for _part, (_at, _width) in svm.SEGMENT_PARTS.items():
        WIDTHS[_segment + '_' + _part] = (_offset + _at, _width)
OFFSETS = [WIDTHS[name][0] for name in fields.FIELDS]
SIZES = [WIDTHS[name][1] for name in fields.FIELDS]
EIGHT, FOUR, TWO, RIGHTS, EXTENDED = range(5)       # how a field is read: so many bytes; attributes; EFER


def _how(name):
    if name == 'EFER':
        return EXTENDED
    return RIGHTS if name.endswith('_ATTRIBUTES') else {8: EIGHT, 4: FOUR, 2: TWO}[WIDTHS[name][1]]


WRITERS = unrolling_iterable([
    (r_uint(_group), unrolling_iterable([(_offset, WIDTHS[fields.FIELDS[_field]][0], _how(fields.FIELDS[_field])) for _field, _offset in _places]))
    for _group, _places in fields.GROUPED])


def write_state(vcpu, groups):
    """As Vendor.write_state. The groups are constants where it matters."""
    vmcb = vcpu.control
    page = vcpu.page
    for group, field_places in WRITERS:
        if groups & group != R0:
            for offset, at, how in field_places:
                if how == EIGHT:
                    memory.store64(page + offset, memory.load64(vmcb + at))
                elif how == FOUR:
                    memory.store64(page + offset, memory.load32(vmcb + at))
                elif how == TWO:
                    memory.store64(page + offset, memory.load16(vmcb + at))
                elif how == RIGHTS:
                    memory.store64(page + offset, attributes(memory.load16(vmcb + at)))
                else:
                    memory.store64(page + offset, memory.load64(vmcb + at) & ~SVME)


write_state._always_inline_ = True


def set_flow(vcpu, rip, rflags):
    """As Vendor.set_flow."""
    vmcb = vcpu.control
    memory.store64(vmcb + VMCB['RIP'], rip)
    memory.store64(vmcb + VMCB['RFLAGS'], rflags)
    memory.store64(vmcb + VMCB['INTERRUPT_SHADOW'], R0)
