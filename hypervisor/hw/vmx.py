"""VMX instructions and the crossing into an Intel guest.

The double is `fake`: VMCSs as dicts by their hpa, and the guest as a function. An access that the processor would refuse
(a field that the spec does not know, no current VMCS, a value wider than the field, a write to a read-only field) raises.
"""
from rpython.rlib.rarithmetic import r_uint
from rpython.rtyper.lltypesystem import lltype, rffi
from rpython.translator.tool.cbuild import ExternalCompilationInfo

from hypervisor.hw.svm import ask_quick, go_straight
from hypervisor.spec import vmx as spec
from hypervisor.spec.context import AREA, EXIT_LEAVES, QUICK_AGAIN, QUICK_LEAVE

_ECI = ExternalCompilationInfo(includes=['hw/vmx.h'])
NO_VMCS = 0xffffffffffffffff

SUCCEED, FAIL_INVALID, FAIL_VALID = 0, 1, 2


class FakeVmx(object):
    """One core's VMX operation. Tests set `run`: run(area, vmcs) -> SUCCEED, FAIL_INVALID or FAIL_VALID, with vmcs the current
    VMCS as a dict from encoding to value, which it changes as the processor would."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.on = 0                 # hpa of the VMXON region, 0: not in VMX operation
        self.vmcs = {}              # hpa -> {encoding: value}
        self.launched = {}          # hpa -> bool
        self.current = NO_VMCS
        self.log = []               # ('invept', type, eptp), ('invvpid', type, vpid), ('vmptrld', hpa), ('vmclear', hpa)
        self.vmxon_result = SUCCEED
        self.run = None
        self.quick = None           # asked at each exit: `first` and `more` of hypervisor/kernel/vmx_quick.py; None: nothing is
        self.straight = None        # its `hand` and `answered`; None: they are not asked

    def fields(self):
        assert self.on and self.current != NO_VMCS, 'no current VMCS'
        return self.vmcs[self.current]


fake = FakeVmx()


def _fake_vmxon(hpa):
    if fake.vmxon_result == SUCCEED:
        fake.on = int(hpa)
    return r_uint(fake.vmxon_result)


def _fake_vmclear(hpa):
    hpa = int(hpa)
    assert fake.on and hpa != fake.on
    fake.log.append(('vmclear', hpa))
    fake.vmcs.setdefault(hpa, {})
    fake.launched[hpa] = False
    if fake.current == hpa:
        fake.current = NO_VMCS
    return r_uint(SUCCEED)


def _fake_vmptrld(hpa):
    assert fake.on and int(hpa) in fake.vmcs, 'VMPTRLD of what was never cleared'
    fake.log.append(('vmptrld', int(hpa)))
    fake.current = int(hpa)
    return r_uint(SUCCEED)


def _fake_vmread(encoding):
    assert int(encoding) in spec.NAME_OF, hex(int(encoding))
    return r_uint(fake.fields().get(int(encoding), 0))


def _fake_vmwrite(encoding, value):
    encoding, value = int(encoding), int(value)
    assert encoding in spec.NAME_OF and spec.kind_of(encoding) != spec.READ_ONLY, hex(encoding)
    assert value >> spec.WIDTH_OF[encoding] == 0, (spec.NAME_OF[encoding], hex(value))
    fake.fields()[encoding] = value


def _fake_run(area):
    while True:
        answer = fake.run(int(area), fake.fields())
        if answer == SUCCEED:
            asks = fake.quick and fake.fields()[spec.HOST_RIP] != _fake_exit_address(EXIT_LEAVES)
            answer = go_straight(area, ask_quick(area, fake.quick, area + AREA['RAX']) if asks else QUICK_LEAVE, fake.straight)
        if answer != QUICK_AGAIN:
            return r_uint(answer)


def _fake_exit_address(way):
    return r_uint(0xffffffff80102000 + 0x100 * int(way))


def _external(name, arguments, result, double):
    return rffi.llexternal('bh_' + name, [lltype.Unsigned] * arguments, result, compilation_info=_ECI, _nowrapper=True,
                           _callable=double)


_U = lltype.Unsigned
_V = lltype.Void

# These three return SUCCEED, FAIL_INVALID or FAIL_VALID. Addresses are hpas.
vmxon = _external('vmxon', 1, _U, _fake_vmxon)
vmclear = _external('vmclear', 1, _U, _fake_vmclear)
vmptrld = _external('vmptrld', 1, _U, _fake_vmptrld)
# Of the current VMCS, by encoding (hypervisor/spec/vmx.py).
vmread = _external('vmread', 1, _U, _fake_vmread)
vmwrite = _external('vmwrite', 2, _V, _fake_vmwrite)
# invept(type, eptp).  invvpid(type, vpid).
invept = _external('invept', 2, _V, lambda kind, eptp: fake.log.append(('invept', int(kind), int(eptp))))
invvpid = _external('invvpid', 2, _V, lambda kind, vpid: fake.log.append(('invvpid', int(kind), int(vpid))))
# run(area): enters the guest of the current VMCS; returns QUICK_LEAVE, QUICK_DONE or QUICK_TASK when it has exited, or FAIL_* if the instruction
# itself failed.
run = _external('vmx_run', 1, _U, _fake_run)
# exit_address(EXIT_*, hypervisor/spec/context.py): for HOST_RIP.  keep_gdt(): once per core, before the first run.
exit_address = _external('vmx_exit_address', 1, _U, _fake_exit_address)
keep_gdt = _external('vmx_keep_gdt', 0, _V, lambda: None)
# Bases of the tables as SGDT and SIDT tell them; the task register's selector.
gdt_base = _external('gdt_base', 0, _U, lambda: r_uint(0xffffffff80101000))
idt_base = _external('idt_base', 0, _U, lambda: r_uint(0xffffffff80100000))
task_register = _external('task_register', 0, _U, lambda: r_uint(0x28))
