"""ELF files, 32 and 64 bits: the segments to load go to their physical addresses.

Source: System V Application Binary Interface, "Program Loading and Dynamic Linking".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.vmm.load import refusal

MAGIC = r_uint(0x464c457f)              # 0x7f "ELF"
CLASS_32, CLASS_64 = r_uint(1), r_uint(2)
LITTLE_ENDIAN = r_uint(1)
MACHINE_386, MACHINE_X86_64 = r_uint(3), r_uint(62)
LOAD, NOTE = r_uint(1), r_uint(4)       # p_type
SEGMENTS = 64                           # most program headers that are looked at
ZERO = r_uint(0)


class Segment(object):
    """One program header."""

    def __init__(self):
        self.type = ZERO
        self.offset = ZERO
        self.virtual = ZERO
        self.address = ZERO             # physical
        self.file_bytes = ZERO
        self.bytes = ZERO

    def read(self, image, at, wide):
        self.type = image.word32(at)
        if wide:
            self.offset, self.virtual = image.word64(at + r_uint(8)), image.word64(at + r_uint(16))
            self.address, self.file_bytes = image.word64(at + r_uint(24)), image.word64(at + r_uint(32))
            self.bytes = image.word64(at + r_uint(40))
        else:
            self.offset, self.virtual = image.word32(at + r_uint(4)), image.word32(at + r_uint(8))
            self.address, self.file_bytes = image.word32(at + r_uint(12)), image.word32(at + r_uint(16))
            self.bytes = image.word32(at + r_uint(20))


class Header(object):
    """What the ELF header says about the program headers."""

    def __init__(self):
        self.wide = False               # ELF64
        self.entry = ZERO
        self.at = ZERO                  # of the first program header
        self.step = ZERO
        self.count = 0

    def read(self, image):
        """Returns a code of refusal.py."""
        if image.word32(ZERO) != MAGIC:
            return refusal.NOT_ELF
        self.wide = image.word8(r_uint(4)) == CLASS_64
        machine = image.word16(r_uint(18))
        if (not self.wide and image.word8(r_uint(4)) != CLASS_32 or image.word8(r_uint(5)) != LITTLE_ENDIAN or
                machine != MACHINE_386 and machine != MACHINE_X86_64):
            return refusal.ELF_WRONG_MACHINE
        if self.wide:
            self.entry, self.at = image.word64(r_uint(24)), image.word64(r_uint(32))
            self.step, self.count = image.word16(r_uint(54)), intmask(image.word16(r_uint(56)))
        else:
            self.entry, self.at = image.word32(r_uint(24)), image.word32(r_uint(28))
            self.step, self.count = image.word16(r_uint(42)), intmask(image.word16(r_uint(44)))
        return self._check(image)

    def _check(self, image):
        if self.count == 0:
            return refusal.ELF_NOTHING
        if self.count > SEGMENTS:
            return refusal.ELF_TOO_MANY
        smallest = r_uint(56 if self.wide else 32)
        if self.step < smallest or not image.holds(self.at, r_uint(self.count) * self.step):
            return refusal.ELF_HEADERS_OUTSIDE
        return refusal.OK


header = Header()
segment = Segment()


def load(image, ram, result):
    """Copy the segments. Returns a code of refusal.py; `result` gets entry, extents and, for a bad segment, its number."""
    code = header.read(image)
    if code != refusal.OK:
        return code
    result.entry = header.entry
    loaded = 0
    for n in range(header.count):
        result.number = n + 1
        segment.read(image, header.at + r_uint(n) * header.step, header.wide)
        if segment.type == LOAD and segment.bytes != ZERO:
            code = _check_segment(image, ram, result.extents)
            if code != refusal.OK:
                return code
            _place_segment(image, ram, result)
            loaded += 1
    return refusal.OK if loaded > 0 else refusal.ELF_NOTHING


def find_note(image, visitor):
    """After load(): let `visitor` look into each segment of notes, until visit(offset, bytes) says that it is content."""
    for n in range(header.count):
        segment.read(image, header.at + r_uint(n) * header.step, header.wide)
        if segment.type == NOTE and image.holds(segment.offset, segment.file_bytes):
            if visitor.visit(segment.offset, segment.file_bytes):
                return


def _check_segment(image, ram, extents):
    if segment.file_bytes > segment.bytes:
        return refusal.SEGMENT_FILE_LARGER
    if not image.holds(segment.offset, segment.file_bytes):
        return refusal.SEGMENT_OUTSIDE_FILE
    if not ram.holds(segment.address, segment.bytes):
        return refusal.SEGMENT_LEAVES_RAM
    if extents.overlap(segment.address, segment.address + segment.bytes) >= 0:
        return refusal.SEGMENT_OVERLAPS
    return refusal.OK


def _place_segment(image, ram, result):
    ram.copy_in(segment.address, image.address + segment.offset, segment.file_bytes)
    result.extents.add(segment.address, segment.address + segment.bytes)
    # An entry point that is a virtual address of this segment is meant where the segment lies now.
    if segment.virtual <= header.entry and header.entry - segment.virtual < segment.bytes:
        result.entry = segment.address + (header.entry - segment.virtual)
