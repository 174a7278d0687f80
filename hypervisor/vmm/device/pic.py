"""The pair of 8259A interrupt controllers of a PC, with the ELCR of its EISA successors.

They start as a PC's firmware leaves them: initialised for the vectors 0x08 and 0x70, all lines masked, line 9 (ACPI's SCI)
level-triggered. An edge that was latched stays pending when its line falls again (the slave's request too, which then is a spurious 15); LTIM
of ICW1 means nothing, the ELCR does.
Source: Intel 8259A data sheet, "Interrupt Sequence", "Programming the 8259A"; Intel 82371SB (PIIX3), "ELCR1, ELCR2".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.vmm.bus import DONE, Device
from hypervisor.vmm.device.pins import BY_PIC

MASTER_PORT, SLAVE_PORT, ELCR_PORT = 0x20, 0xa0, 0x4d0
MASTER_BASE, SLAVE_BASE = 0x08, 0x70
CASCADE = 2                             # the slave's line of the master
MASTER_CAN_BE_LEVEL, SLAVE_CAN_BE_LEVEL = 0xf8, 0xde
FIRMWARE_ELCR = 1 << 1                  # of the slave: line 9
SPURIOUS = 7

ICW1, ICW1_SINGLE, ICW1_NEEDS_ICW4 = 0x10, 2, 1
ICW4_SPECIAL_NESTED, ICW4_AUTO_EOI = 0x10, 2
OCW3, OCW3_POLL, OCW3_READ, OCW3_READ_ISR, OCW3_SET_SPECIAL_MASK, OCW3_SPECIAL_MASK = 8, 4, 2, 1, 0x40, 0x20
# OCW2: bits 7 to 5.
CLEAR_ROTATE_AUTO, EOI, SET_ROTATE_AUTO, ROTATE_EOI = 0, 1, 4, 5
SPECIFIC_EOI, SET_PRIORITY, ROTATE_SPECIFIC = 3, 6, 7
OPERATING, WANTS_ICW2, WANTS_ICW3, WANTS_ICW4 = range(4)
NONE, LAST_RANK = -1, 8


class Chip(object):
    def __init__(self, master, base, can_be_level):
        self.master = master
        self.firmware_base = base
        self.can_be_level = can_be_level
        self.clear()

    def clear(self):
        """As the firmware leaves it."""
        self.lines = 0                  # bit n: line n is active
        self.edges = 0                  # edges that wait
        self.elcr = 0
        self.base = self.firmware_base
        self._initialise()
        self.imr = 0xff
        self.state = OPERATING

    def _initialise(self):
        """What ICW1 does."""
        self.edges = 0
        self.imr = 0
        self.isr = 0
        self.lowest = 7                 # the line of lowest priority
        self.special_mask = False
        self.special_nested = False
        self.auto_eoi = False
        self.rotate_auto = False
        self.reads_isr = False
        self.polled = False
        self.needs_icw4 = False
        self.single = False

    # Lines.
    def set_line(self, n, active):
        bit = 1 << (n & 7)
        if active and not self.lines & bit:
            self.edges |= bit
        self.lines = self.lines | bit if active else self.lines & ~bit

    def irr(self):
        return self.edges & ~self.elcr | self.lines & self.elcr

    # Priorities. Rank 0 is the highest.
    def _rank(self, mask):
        for rank in range(LAST_RANK):
            if mask >> self._line(rank) & 1:
                return rank
        return LAST_RANK

    def _line(self, rank):
        return (self.lowest + 1 + rank) & 7

    def _in_service(self):
        """What keeps others from interrupting."""
        mask = self.isr
        if self.special_mask:
            mask &= ~self.imr
        if self.special_nested and self.master:
            mask &= ~(1 << CASCADE)     # a higher line of the slave may interrupt its lower one
        return mask

    def pending(self):
        """The line that wants to interrupt, or NONE."""
        if self.state != OPERATING:
            return NONE
        rank = self._rank(self.irr() & ~self.imr)
        if rank == LAST_RANK or rank >= self._rank(self._in_service()):
            return NONE
        return self._line(rank)

    def take(self, n):
        """The INTA cycle for line n."""
        bit = 1 << (n & 7)
        self.edges &= ~bit
        if not self.auto_eoi:
            self.isr |= bit
        elif self.rotate_auto:
            self.lowest = n & 7

    # Ports. first: the even one.
    def write(self, first, byte):
        if not first:
            self._write_odd(byte)
        elif byte & ICW1:
            self._initialise()
            self.single = byte & ICW1_SINGLE != 0
            self.needs_icw4 = byte & ICW1_NEEDS_ICW4 != 0
            self.state = WANTS_ICW2
        elif byte & OCW3:
            self._write_ocw3(byte)
        else:
            self._write_ocw2(byte >> 5 & 7, byte & 7)

    def _write_odd(self, byte):
        after_icw3 = WANTS_ICW4 if self.needs_icw4 else OPERATING
        if self.state == OPERATING:
            self.imr = byte
        elif self.state == WANTS_ICW2:
            self.base = byte & 0xf8
            self.state = after_icw3 if self.single else WANTS_ICW3
        elif self.state == WANTS_ICW3:
            self.state = after_icw3     # who is wired to whom is known
        else:
            self.special_nested = byte & ICW4_SPECIAL_NESTED != 0
            self.auto_eoi = byte & ICW4_AUTO_EOI != 0
            self.state = OPERATING

    def _write_ocw2(self, command, n):
        if command == CLEAR_ROTATE_AUTO:
            self.rotate_auto = False
        elif command == SET_ROTATE_AUTO:
            self.rotate_auto = True
        elif command == EOI or command == ROTATE_EOI:
            rank = self._rank(self.isr)
            if rank < LAST_RANK:
                self._end(self._line(rank), command == ROTATE_EOI)
        elif command == SPECIFIC_EOI or command == ROTATE_SPECIFIC:
            self._end(n, command == ROTATE_SPECIFIC)
        elif command == SET_PRIORITY:
            self.lowest = n

    def _end(self, n, rotate):
        self.isr &= ~(1 << n)
        if rotate:
            self.lowest = n

    def _write_ocw3(self, byte):
        self.polled = byte & OCW3_POLL != 0
        if byte & OCW3_READ:
            self.reads_isr = byte & OCW3_READ_ISR != 0
        if byte & OCW3_SET_SPECIAL_MASK:
            self.special_mask = byte & OCW3_SPECIAL_MASK != 0

    def read(self, first):
        if self.polled:
            return self._poll()
        if not first:
            return self.imr
        return self.isr if self.reads_isr else self.irr()

    def _poll(self):
        """The read after a poll command is an INTA cycle."""
        self.polled = False
        n = self.pending()
        if n == NONE:
            return 0
        self.take(n)
        return 0x80 | n


class Pic(object):
    def __init__(self, pins):
        self.pins = pins
        self.master = Chip(True, MASTER_BASE, MASTER_CAN_BE_LEVEL)
        self.slave = Chip(False, SLAVE_BASE, SLAVE_CAN_BE_LEVEL)
        self.slave.elcr = FIRMWARE_ELCR

    def clear(self):
        self.master.clear()
        self.slave.clear()
        self.slave.elcr = FIRMWARE_ELCR
        self.update()

    def set_line(self, n, active):
        """n: 0 to 15."""
        if n < 8:
            self.master.set_line(n, active)
        else:
            self.slave.set_line(n - 8, active)
        self.update()

    def intr(self):
        """The master's INT output."""
        return self.master.pending() != NONE

    def update(self):
        """Something has changed: work the cascade and the vCPU's pin."""
        self.master.set_line(CASCADE, self.slave.pending() != NONE)
        self.pins.set_extint(BY_PIC, self.intr())

    def acknowledge(self):
        """The processor's INTA cycles. Returns the vector; a request that has gone meanwhile is a spurious line 7."""
        n = self.master.pending()
        if n == CASCADE:
            self.master.take(n)
            vector = self._acknowledge(self.slave)
            self.master.set_line(CASCADE, False)        # the slave's output falls with INTA: what is left is a new edge
        else:
            vector = self._acknowledge(self.master)
        self.update()
        return vector

    def _acknowledge(self, chip):
        n = chip.pending()
        if n == NONE:
            return chip.base + SPURIOUS
        chip.take(n)
        return chip.base + n


class PicPorts(Device):
    """0x20 and 0x21, or 0xa0 and 0xa1."""

    def __init__(self, pic, chip, port):
        Device.__init__(self, port, 2, True)
        self.pic = pic
        self.chip = chip

    def read(self, offset, size):
        value = self.chip.read(offset == 0)
        self.pic.update()               # after a poll
        return r_uint(value & 0xff)

    def write(self, offset, size, value):
        self.chip.write(offset == 0, intmask(value) & 0xff)
        self.pic.update()
        return DONE


class ElcrPorts(Device):
    """0x4d0 and 0x4d1: bit n makes line n level-triggered."""

    def __init__(self, pic):
        Device.__init__(self, ELCR_PORT, 2, True)
        self.pic = pic

    def _chip(self, offset):
        return self.pic.master if offset == 0 else self.pic.slave

    def read(self, offset, size):
        return r_uint(self._chip(offset).elcr)

    def write(self, offset, size, value):
        chip = self._chip(offset)
        chip.elcr = intmask(value) & chip.can_be_level
        self.pic.update()
        return DONE
