"""Frames and their owners: one owner per page frame, and how many mappings of it exist.

Two bytes per frame, in the arena: owner, uses. A frame that is mapped cannot change its owner; a frame beyond the table
belongs to nobody, so nobody can map it.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory

NOBODY = 0              # not RAM, or reserved by the firmware
KERNEL = 1
FIRST_COMPARTMENT = 2   # owner = FIRST_COMPARTMENT + the compartment's number
OTHER_CORE = 255        # another core's: its own table knows whose


class Frames(object):
    """The owner table. Frame numbers are hpa >> 12."""

    def __init__(self):
        self.table = r_uint(0)      # hva
        self.count = r_uint(0)

    def open(self, hva, count):
        """Use cleared memory at hva (two bytes a frame) for frames 0 to count - 1. All belong to nobody."""
        self.table = hva
        self.count = count

    def relocate(self, hva):
        self.table = hva

    def owner(self, frame):
        if frame >= self.count:
            return NOBODY
        return intmask(memory.load8(self.table + frame * 2))

    def uses(self, frame):
        if frame >= self.count:
            return 0
        return intmask(memory.load8(self.table + frame * 2 + 1))

    def set_owner(self, frame, owner):
        """Hand the frame over, with no mapping left. Frames beyond the table stay nobody's."""
        if frame < self.count:
            memory.store16(self.table + frame * 2, r_uint(owner))

    def use(self, frame):
        """One mapping more. Returns False when it has as many as can be counted."""
        uses = self.uses(frame)
        if uses == 255:
            return False
        memory.store8(self.table + frame * 2 + 1, r_uint(uses + 1))
        return True

    def unuse(self, frame):
        uses = self.uses(frame)
        if uses > 0:
            memory.store8(self.table + frame * 2 + 1, r_uint(uses - 1))


frames = Frames()
