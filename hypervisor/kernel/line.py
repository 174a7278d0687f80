"""The PC's interrupt lines, for whoever holds its ports: a line that was asked for comes once, as a signal, and is masked again.

The PIC pair reaches this core through LINT0 (timer.py), with all lines masked until LINE asks for one. A machine without a PIC
never signals; its drivers look at their devices now and then anyway.
Source: Intel 8259A data sheet, "Operation Command Words"; Intel SDM Vol. 3A, "Local Vector Table" (ExtINT).
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu
from hypervisor.kernel.compartment import compartments
from hypervisor.spec import lapic as spec

LINES = 16
CASCADE = 2
BYTE = r_uint(1)
NOBODY = -1
FIRST_VECTOR = r_uint(spec.PIC_VECTOR)


class Lines(object):
    """mask: as in the two PICs, line 0 in bit 0. owner, slot: of each line, the compartment that asked and its ports' slot. unserved: the
    compartment whose line came last and that has not asked for one again, or NOBODY."""

    def __init__(self):
        self.mask = 0xffff
        self.owner = [NOBODY] * LINES
        self.slot = [0] * LINES
        self.unserved = NOBODY

    def exists(self, number):
        """number: r_uint, anything."""
        return number < r_uint(LINES) and number != r_uint(CASCADE)

    def arm(self, caller, slot, number):
        """Let a line come once. It is told as the signal of `slot`. number: 0 to 15, not the cascade."""
        line = number & (LINES - 1)
        if self.unserved == caller.number:
            self.unserved = NOBODY
        self.owner[line] = caller.number
        self.slot[line] = slot
        self.mask &= ~(1 << line)
        if line >= 8:
            self.mask &= ~(1 << CASCADE)
        self.write_mask()

    def is_line(self, vector):
        return vector - FIRST_VECTOR < r_uint(LINES)

    def arrive(self, vector):
        """An interrupt of the PICs: mask its line, end it, tell who asked. Returns whose compartment that is, NOBODY for a spurious
        one (lines 7 and 15; of the latter the master knows only its cascade, which has to be ended)."""
        line = intmask(vector - FIRST_VECTOR) & (LINES - 1)
        if (self.mask >> line) & 1:
            if line >= 8:
                cpu.port_out(r_uint(spec.PIC1_COMMAND), BYTE, r_uint(spec.PIC_END | CASCADE))
            return NOBODY
        self.mask |= 1 << line
        self.write_mask()
        if line >= 8:
            cpu.port_out(r_uint(spec.PIC2_COMMAND), BYTE, r_uint(spec.PIC_END | line & 7))
            line_of_master = CASCADE
        else:
            line_of_master = line
        cpu.port_out(r_uint(spec.PIC1_COMMAND), BYTE, r_uint(spec.PIC_END | line_of_master))
        owner = self.owner[line]
        self.unserved = owner
        if owner >= 0:
            compartments[owner].signal(self.slot[line])
        return owner

    def write_mask(self):
        cpu.port_out(r_uint(spec.PIC1_DATA), BYTE, r_uint(self.mask & 0xff))
        cpu.port_out(r_uint(spec.PIC2_DATA), BYTE, r_uint(self.mask >> 8 & 0xff))


lines = Lines()
