"""The processor as a ring-3 program sees it: kernel calls, the TSC, CPUID, PAUSE.

All values are unsigned. The double is the object in `fake.kernel`, which a test sets:

    call(number, a1, a2, a3, a4, a5, a6) -> (status, value)     plain ints
    rdtsc() -> ticks          cpuid(leaf, subleaf) -> (eax, ebx, ecx, edx)          pause()

The double may raise to end the program: STOP of the own compartment never returns.
Programs use the typed wrappers in hypervisor/lib/call.py.
"""
from rpython.rlib.rarithmetic import r_uint
from rpython.rtyper.lltypesystem import lltype, rffi
from rpython.translator.tool.cbuild import ExternalCompilationInfo

from hypervisor.spec import call

_ECI = ExternalCompilationInfo(includes=['hw/task.h'])

EAX, EBX, ECX, EDX = r_uint(0), r_uint(1), r_uint(2), r_uint(3)     # `register` of cpuid()


class Fake(object):
    """What stands in for the kernel and the processor untranslated."""

    def __init__(self):
        self.kernel = None      # set by a test
        self.value = 0          # RDX of the last call


fake = Fake()


def reset_fake(kernel=None):
    """Forget the last test's kernel and use this one."""
    fake.kernel = kernel
    fake.value = 0


def _fake_kernel_call(number, a1, a2, a3, a4, a5, a6):
    status, value = fake.kernel.call(int(number), int(a1), int(a2), int(a3), int(a4), int(a5), int(a6))
    fake.value = value
    return r_uint(status)


def _fake_vcpu_run(vcpu, deadline):
    return _fake_kernel_call(call.VCPU_RUN, vcpu, deadline, 0, 0, 0, 0)


def _fake_kernel_value():
    return r_uint(fake.value)


def _fake_rdtsc():
    return r_uint(fake.kernel.rdtsc())


def _fake_cpuid(leaf, subleaf, register):
    return r_uint(fake.kernel.cpuid(int(leaf), int(subleaf))[int(register)])


def _fake_pause():
    fake.kernel.pause()


def _fake_seal_heap():
    pass


def _external(name, arguments, result, double):
    return rffi.llexternal(name, [lltype.Unsigned] * arguments, result, compilation_info=_ECI, _nowrapper=True,
                           _callable=double)


# kernel_call(number, a1 .. a6): the status.  kernel_value(): the value (RDX) of the last kernel_call.
kernel_call = _external('bh_kernel_call', 7, lltype.Unsigned, _fake_kernel_call)
kernel_value = _external('bh_kernel_value', 0, lltype.Unsigned, _fake_kernel_value)
# vcpu_run(vcpu, deadline): that call, which keeps no registers.
vcpu_run = _external('bh_vcpu_run', 2, lltype.Unsigned, _fake_vcpu_run)
# rdtsc(): ticks.  cpuid(leaf, subleaf, register): one of the four results, 32 bits.
rdtsc = _external('bh_rdtsc', 0, lltype.Unsigned, _fake_rdtsc)
cpuid = _external('bh_cpuid', 3, lltype.Unsigned, _fake_cpuid)
pause = _external('bh_pause', 0, lltype.Void, _fake_pause)
# seal_heap(): from here on every allocation is a panic. A program calls it when its start-up is over.
seal_heap = _external('bulkhead_seal_heap', 0, lltype.Void, _fake_seal_heap)
