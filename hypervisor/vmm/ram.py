"""The guest's memory, as the VMM has it in its own address space: gpa 0 is at BASE.

A PC's layout: memory from 0 to HOLE, nothing up to FIRMWARE (a PC's video memory), then what firmware leaves (the ACPI tables) up to
HOLE_END, memory from there to `size`. While an image is loaded, what belongs to the firmware is no memory.
All addresses and sizes are bytes, r_uint; a gpa comes from the guest and may be anything.
"""
from rpython.rlib.objectmodel import dont_inline
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory

BASE = r_uint(0x100000000)
HOLE = r_uint(0xa0000)
HOLE_END = r_uint(0x100000)
PAGE, OFFSET = r_uint(0x1000), r_uint(0xfff)
FIRMWARE = r_uint(0xc0000)      # up to HOLE_END: software searches all of it, and must not exit for each word


class Ram(object):
    def __init__(self):
        self.size = r_uint(0)           # set once, from the boot page
        self.hole_end = HOLE_END
        self.above = r_uint(0)          # bytes of whole pages from HOLE_END on: where nearly everything lies

    def set_size(self, size):
        self.size = size
        self.above = (size & ~OFFSET) - HOLE_END if size > HOLE_END else r_uint(0)

    def use_firmware(self, use):
        """Does the memory from FIRMWARE on count?"""
        self.hole_end = FIRMWARE if use else HOLE_END

    def holds(self, gpa, count):
        """Is all of [gpa, gpa + count) memory? True for count 0 inside memory."""
        if gpa < HOLE:
            return count <= HOLE - gpa
        size = self.size
        return self.hole_end <= gpa and gpa <= size and count <= size - gpa

    def has_page(self, gpa):
        """Is the whole page in which gpa lies memory?"""
        return gpa - HOLE_END < self.above or self._has_other_page(gpa & ~OFFSET)      # r_uint: what is below HOLE_END is far above `above`

    @dont_inline
    def _has_other_page(self, gpa):
        return self.holds(gpa, PAGE)

    # The caller has asked holds() for every byte that these touch.
    def load8(self, gpa):
        return memory.load8(BASE + gpa)

    def load16(self, gpa):
        return memory.load16(BASE + gpa)

    def load32(self, gpa):
        return memory.load32(BASE + gpa)

    def load64(self, gpa):
        return memory.load64(BASE + gpa)

    def store8(self, gpa, value):
        memory.store8(BASE + gpa, value)

    def store16(self, gpa, value):
        memory.store16(BASE + gpa, value)

    def store32(self, gpa, value):
        memory.store32(BASE + gpa, value)

    def store64(self, gpa, value):
        memory.store64(BASE + gpa, value)

    def copy_in(self, gpa, source, count):
        """Copy `count` bytes from the VMM's own address `source` to the guest."""
        memory.copy(BASE + gpa, source, count)

    def clear(self, gpa, count):
        memory.clear(BASE + gpa, count)
