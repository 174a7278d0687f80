"""I/O breakpoints. Every port exits, so the processor never completes such an instruction, and the trap behind it is the kernel's.

A vendor's file calls this at the exit, while the guest's DR0 to DR3 are live, and only if DR7 enables something. A VMM executes string
instructions in pieces; each piece has one trap.
Source: Intel SDM Vol. 3B, "Debug Registers", "Data Memory and I/O Breakpoint Exception Conditions".
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu
from hypervisor.spec import cpu as bits

R0 = r_uint(0)
DR7_ENABLED = r_uint(0xff)              # L0, G0 to L3, G3
CONTROL_SHIFT = 16                      # four bits each from here on: R/W, LEN
IO = r_uint(2)                          # of R/W, with CR4.DE
SIZES = [r_uint(1), r_uint(2), r_uint(8), r_uint(4)]        # by LEN
CR4_DE = r_uint(bits.CR4_DE)


@dont_inline                            # nearly no exit comes here
def port_hits(vcpu, dr7, cr4):
    """Which of the four breakpoints the port of this exit belongs to: B0 to B3, as in DR6."""
    hits = R0
    if cr4 & CR4_DE == R0:
        return hits
    n = 0
    while n < 4:
        control = dr7 >> (CONTROL_SHIFT + 4 * n)
        if (dr7 >> (2 * n)) & 3 != R0 and control & 3 == IO:
            size = SIZES[intmask((control >> 2) & 3)]
            first = address(n) & ~(size - 1)
            if first < vcpu.exit_selector + vcpu.exit_size and vcpu.exit_selector < first + size:
                hits |= r_uint(1) << n
        n += 1
    return hits


def address(n):
    if n == 0:
        return cpu.read_dr0()
    if n == 1:
        return cpu.read_dr1()
    if n == 2:
        return cpu.read_dr2()
    return cpu.read_dr3()
