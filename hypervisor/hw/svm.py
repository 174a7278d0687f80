"""The crossing into an AMD guest.

The double calls `fake_run[0](area, vmcb)`, which plays the guest on the VMCB in fake memory, and asks `fake_quick[0]` at each exit, as the
assembly asks `first` and `more` of hypervisor/kernel/svm_quick.py, and `fake_straight[0]`, its `hand` and `answered`; tests that are about the loop leave these out.
"""
from rpython.rlib.rarithmetic import r_uint
from rpython.rtyper.lltypesystem import lltype, rffi
from rpython.translator.tool.cbuild import ExternalCompilationInfo

from hypervisor.hw import cpu, memory
from hypervisor.spec.context import AREA, ENTRY, QUICK_AGAIN, QUICK_HAND, QUICK_LEAVE, QUICK_MORE, QUICK_TASK, VMM
from hypervisor.spec.svm import VMCB

_ECI = ExternalCompilationInfo(includes=['hw/svm.h'])
fake_run = [None]
fake_quick = [None]
fake_straight = [None]


def _fake_run(area, vmcb, vmcb_hpa, host_hpa):
    if fake_quick[0] is None:
        fake_run[0](area, vmcb)
        return r_uint(QUICK_LEAVE)
    in_area, in_vmcb = area + AREA['RAX'], vmcb + VMCB['RAX']
    while True:
        fake_run[0](area, vmcb)
        memory.store64(in_vmcb, memory.load64(in_area))         # tests have all registers in the area; here the quick path finds RAX
        answer = ask_quick(area, fake_quick[0], in_vmcb)
        memory.store64(in_area, memory.load64(in_vmcb))
        answer = go_straight(area, answer, fake_straight[0])
        if answer != QUICK_AGAIN:
            return r_uint(answer)


IN_PROCESSOR = ['RBX', 'RBP'] + ['R%d' % n for n in range(8, 16)]
NOT_THERE = r_uint(0xbad0bad0bad0bad0)


def ask_quick(area, quick, rax):
    """Ask the quick path at an exit. The registers that the assembly leaves in the processor meanwhile cannot be had from the area, and what
    is written there is lost. Where the answer is an address the guest's registers are what is there. quick: (first, more); rax: where RAX is."""
    kept = [memory.load64(area + AREA[name]) for name in IN_PROCESSOR]
    for name in IN_PROCESSOR:
        memory.store64(area + AREA[name], NOT_THERE)
    first, more = quick
    answer = first()
    if answer == QUICK_MORE:
        answer = more()
    for name, value in zip(IN_PROCESSOR, kept):
        memory.store64(area + AREA[name], value)
    if 0 <= answer <= QUICK_AGAIN:
        return answer
    for name, place in (('EAX', rax), ('EBX', area + AREA['RBX']), ('ECX', area + AREA['RCX']), ('EDX', area + AREA['RDX'])):
        memory.store64(place, memory.load32(r_uint(answer) + ENTRY[name]))
    return QUICK_AGAIN


def go_straight(area, answer, straight):
    """What the assembly does about QUICK_HAND. straight: (hand, answered), or None."""
    if answer != QUICK_HAND:
        return answer
    if straight is None:
        return QUICK_LEAVE
    hand, answered = straight
    answer = hand()
    if answer == QUICK_TASK:
        vmm = memory.load64(area + VMM['AREA'])
        memory.store64(vmm + AREA['RAX'], r_uint(0))
        memory.store64(vmm + AREA['RDX'], memory.load64(area + VMM['REASONS']))
        answer = answered(cpu.task_run(vmm, memory.load64(area + VMM['ROOT'])))
    return answer


# run(area hva, vmcb hva, vmcb hpa, host vmcb hpa): enters the guest; returns QUICK_LEAVE, QUICK_DONE or QUICK_TASK when it has exited.
run = rffi.llexternal('bh_svm_run', [lltype.Unsigned] * 4, lltype.Unsigned, compilation_info=_ECI, _nowrapper=True,
                      _callable=_fake_run)
# save_host(host vmcb hpa): VMSAVE.
save_host = rffi.llexternal('bh_svm_save_host', [lltype.Unsigned], lltype.Void, compilation_info=_ECI, _nowrapper=True,
                            _callable=lambda hpa: None)
