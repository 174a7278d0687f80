"""Frames and their owners: one owner per page frame, and how many mappings of it exist.

Two bytes per frame, in the arena: owner, uses. A frame that is mapped cannot change its owner; a frame beyond the table
belongs to nobody, so nobody can map it.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.spec import status

NOBODY = 0              # not RAM, or reserved by the firmware
KERNEL = 1
FIRST_COMPARTMENT = 2   # owner = FIRST_COMPARTMENT + the compartment's number
R0 = r_uint(0)
OWNER, ONE_USE, MOST_USES = r_uint(0xff), r_uint(0x100), r_uint(0xff00)     # of a frame's two bytes, as one number
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

    def transferable(self, frame, count, owner):
        """Are `count` frames, at most BATCH, the owner's and unmapped? Returns a status."""
        end = frame + count
        while frame < end:
            if self.owner(frame) != owner:
                return status.NOT_OWNER
            if self.uses(frame) != 0:
                return status.IN_USE
            frame += 1
        return status.OK

    def set_owners(self, frame, end, owner):
        """Hand frames from `frame` up to `end` over, with no mapping left. Those beyond the table stay nobody's."""
        if end > self.count:
            end = self.count
        at, last = self.table + frame * 2, self.table + end * 2
        while at < last and at & 7 != 0:
            memory.store16(at, r_uint(owner))
            at += 2
        four = r_uint(owner * 0x0001000100010001)
        while at + 8 <= last:
            memory.store64(at, four)
            at += 8
        while at < last:
            memory.store16(at, r_uint(owner))
            at += 2

    def use_all(self, frame, count, owner):
        """One mapping more of each of `count` frames, all of which must be the owner's. Returns how many it is done for: less than all
        where the next is another's, or has as many mappings as can be counted."""
        done = R0
        while done < count and frame + done < self.count:
            at = self.table + (frame + done) * 2
            entry = memory.load16(at)
            if entry & OWNER != r_uint(owner) or entry >= MOST_USES:
                break
            memory.store16(at, entry + ONE_USE)
            done += 1
        return done

    def unuse_all(self, frame, count):
        """One mapping less of each."""
        n = R0
        while n < count and frame + n < self.count:
            at = self.table + (frame + n) * 2
            entry = memory.load16(at)
            if entry >= ONE_USE:
                memory.store16(at, entry - ONE_USE)
            n += 1


frames = Frames()
