"""The vector registers between the vCPU page and the FPU state that the kernel keeps: for VMMs that emulate a vector move.

Any value of them is a good one, so there is nothing to check. What else is in the FPU state (x87, MXCSR) no VMM sees or sets.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel.switch import switcher
from hypervisor.spec import xsave
from hypervisor.spec.vcpu import STATE, VECTOR_BYTES

R0 = r_uint(0)
FIRST = STATE['YMM0_0']
HALF = 16
AVX = r_uint(xsave.AVX)
COMPONENTS = r_uint(xsave.SSE | xsave.AVX)
assert VECTOR_BYTES == 2 * HALF and STATE['YMM1_0'] == FIRST + VECTOR_BYTES


def write(vcpu):
    """Fill the group's fields in the vCPU page. A processor without AVX has zeros above XMM."""
    switcher.keep_fpu(vcpu)
    has_avx = switcher.xcr0 & AVX != R0
    n = 0
    while n < xsave.REGISTERS:
        at = vcpu.page + FIRST + VECTOR_BYTES * n
        memory.copy(at, vcpu.fpu + xsave.XMM + HALF * n, r_uint(HALF))
        if has_avx:
            memory.copy(at + HALF, vcpu.fpu + xsave.YMM_HIGH + HALF * n, r_uint(HALF))
        else:
            memory.clear(at + HALF, r_uint(HALF))
        n += 1


def apply(vcpu):
    """Take all of them from the vCPU page."""
    switcher.keep_fpu(vcpu)
    has_avx = switcher.xcr0 & AVX != R0
    n = 0
    while n < xsave.REGISTERS:
        at = vcpu.page + FIRST + VECTOR_BYTES * n
        memory.copy(vcpu.fpu + xsave.XMM + HALF * n, at, r_uint(HALF))
        if has_avx:
            memory.copy(vcpu.fpu + xsave.YMM_HIGH + HALF * n, at + HALF, r_uint(HALF))
        n += 1
    header = vcpu.fpu + xsave.XSTATE_BV
    memory.store64(header, memory.load64(header) | switcher.xcr0 & COMPONENTS)
    switcher.load_fpu(vcpu)
