"""The IOAPIC: 24 inputs, a redirection entry for each, in memory at 0xfec00000.

It starts as a PC's firmware leaves it: all entries masked, the id that the MADT names. Polarity is kept and means nothing: a line
is active or it is not (lines.py). Whom a destination names is the local APICs' business, which the kernel has (pins.py).
Source: Intel 82093AA data sheet, "Register Description"; Intel I/O Controller Hub 10 data sheet, "APIC Memory-Mapped Registers"
(EOI register, version 0x20).
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec.call import DESTINATION_LOGICAL, DESTINATION_LOWEST
from hypervisor.vmm.bus import MemoryDevice
from hypervisor.vmm.device.pins import BY_IOAPIC

BASE, BYTES = r_uint(0xfec00000), r_uint(0x1000)
SELECT, WINDOW, EOI = r_uint(0x00), r_uint(0x10), r_uint(0x40)          # IOREGSEL, IOWIN
REGISTER_ID, REGISTER_VERSION, REGISTER_ARBITRATION, REGISTER_FIRST_ENTRY = 0, 1, 2, 0x10
INPUTS = 24
ID = 1                          # of IOAPICs alone: a local APIC has the same number where there are several
VERSION = 0x20 | (INPUTS - 1) << 16

# The low half of an entry.
VECTOR, MODE_SHIFT, LOGICAL, REMOTE_IRR, LEVEL, MASKED = 0xff, 8, 1 << 11, 1 << 14, 1 << 15, 1 << 16
WRITABLE = 0x1afff              # without delivery status (always idle) and remote IRR
FIXED, LOWEST, NMI, EXTINT = 0, 1, 4, 7
# The high half.
DESTINATION_SHIFT, DESTINATION = 24, 0xff000000


class Ioapic(MemoryDevice):
    def __init__(self, pins):
        MemoryDevice.__init__(self, BASE, BYTES)
        self.pins = pins
        self.low = [MASKED] * INPUTS
        self.high = [0] * INPUTS
        self.active = [False] * INPUTS
        self.select = 0
        self.id = ID

    def clear(self):
        self.select = 0
        self.id = ID
        for n in range(INPUTS):
            self.low[n] = MASKED
            self.high[n] = 0
            self.active[n] = False
        self._update_extint()

    # What the bus calls. Registers are 32 bits wide; narrower writes fill up with zeros.
    def read(self, offset, size):
        if offset == SELECT:
            return r_uint(self.select)
        if offset == WINDOW:
            return r_uint(self._read_register(self.select))
        return r_uint(0)

    def write(self, offset, size, value):
        word = intmask(value & r_uint(0xffffffff))
        if offset == SELECT:
            self.select = word & 0xff
        elif offset == WINDOW:
            self._write_register(self.select, word)
        elif offset == EOI:
            self.end_of_interrupt(word & VECTOR)

    def _read_register(self, register):
        if register == REGISTER_ID or register == REGISTER_ARBITRATION:
            return self.id << 24
        if register == REGISTER_VERSION:
            return VERSION
        n = (register - REGISTER_FIRST_ENTRY) >> 1
        if n < 0 or n >= INPUTS:
            return 0
        return self.high[n] if register & 1 else self.low[n]

    def _write_register(self, register, word):
        if register == REGISTER_ID:
            self.id = word >> 24 & 0xf
        n = (register - REGISTER_FIRST_ENTRY) >> 1
        if n < 0 or n >= INPUTS:
            return
        if register & 1:
            self.high[n] = word & DESTINATION
            return
        self.low[n] = word & WRITABLE | self.low[n] & REMOTE_IRR
        if not word & LEVEL:
            self.low[n] &= ~REMOTE_IRR          # an edge-triggered entry has none
        self._service(n)
        self._update_extint()

    # Inputs.
    def set_input(self, n, active):
        """n: 0 to 23. An edge at a masked input is lost, as the data sheet has it."""
        was = self.active[n]
        self.active[n] = active
        if self._mode(n) == EXTINT:
            self._update_extint()
        elif self.low[n] & LEVEL:
            self._service(n)
        elif active and not was and not self.low[n] & MASKED:
            self._send(n)

    def _mode(self, n):
        return self.low[n] >> MODE_SHIFT & 7

    def _service(self, n):
        """Send a level-triggered interrupt if its input is active and the one before has ended."""
        entry = self.low[n]
        if not self.active[n] or not entry & LEVEL or entry & (MASKED | REMOTE_IRR):
            return
        if self._mode(n) <= LOWEST and self.pins.level(entry & VECTOR, self._destination(n)):
            self.low[n] = entry | REMOTE_IRR

    def _send(self, n):
        """An edge-triggered one. SMI, INIT and reserved modes vanish."""
        mode = self._mode(n)
        if mode == FIXED or mode == LOWEST:
            self.pins.fixed(self.low[n] & VECTOR, self._destination(n))
        elif mode == NMI:
            self.pins.nmi(self._destination(n))

    def _destination(self, n):
        """As VCPU_INTERRUPT has it."""
        destination = self.high[n] >> DESTINATION_SHIFT & 0xff
        if self.low[n] & LOGICAL:
            destination |= DESTINATION_LOGICAL
        if self._mode(n) == LOWEST:
            destination |= DESTINATION_LOWEST
        return destination

    def _update_extint(self):
        """The pin is held as long as an unmasked ExtINT entry's input is active; the vector comes from the PIC."""
        wanted = False
        for n in range(INPUTS):
            if self._mode(n) == EXTINT and self.active[n] and not self.low[n] & MASKED:
                wanted = True
        self.pins.set_extint(BY_IOAPIC, wanted)

    def end_of_interrupt(self, vector):
        """A level-triggered interrupt has ended: what is still active is sent again."""
        for n in range(INPUTS):
            if self.low[n] & REMOTE_IRR and self.low[n] & VECTOR == vector:
                self.low[n] &= ~REMOTE_IRR
                self._service(n)
