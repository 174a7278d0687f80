"""The crossing into an AMD guest. The double calls `fake_run[0](area, vmcb)`, which plays the guest on the VMCB in fake memory."""
from rpython.rtyper.lltypesystem import lltype, rffi
from rpython.translator.tool.cbuild import ExternalCompilationInfo

_ECI = ExternalCompilationInfo(includes=['hw/svm.h'])
fake_run = [None]


def _fake_run(area, vmcb, vmcb_hpa, host_hpa):
    fake_run[0](area, vmcb)


# run(area hva, vmcb hva, vmcb hpa, host vmcb hpa): enters the guest; returns when it has exited.
run = rffi.llexternal('bh_svm_run', [lltype.Unsigned] * 4, lltype.Void, compilation_info=_ECI, _nowrapper=True,
                      _callable=_fake_run)
# save_host(host vmcb hpa): VMSAVE.
save_host = rffi.llexternal('bh_svm_save_host', [lltype.Unsigned], lltype.Void, compilation_info=_ECI, _nowrapper=True,
                            _callable=lambda hpa: None)
