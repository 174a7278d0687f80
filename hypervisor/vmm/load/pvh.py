"""PVH: an ELF file whose Xen note names a 32-bit entry point, and the start information that it gets.

Source: Xen, docs/misc/pvh.pandoc, "x86/HVM direct boot ABI", and xen/include/public/arch-x86/hvm/start_info.h; Xen's
public/elfnote.h; System V Application Binary Interface, "Note Section".
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import boot as spec, call
from hypervisor.spec.record import offsets
from hypervisor.vmm import boot, state, vcpu as v
from hypervisor.vmm.load import elf, extent, memorymap, parcel, refusal

# Notes.
NOTE_BYTES = r_uint(12)                         # sizes of name and content, type
PHYS32_ENTRY = r_uint(18)
NAME_BYTES, NAME = r_uint(4), r_uint(0x006e6558)    # "Xen" with its NUL
MOST_NOTES = 256                                # that are looked at in one segment
ALIGN_MASK = r_uint(3)
ZERO = r_uint(0)

# The start information.
MAGIC, VERSION = 0x336ec578, 1
INFO = offsets([('MAGIC', 4), ('VERSION', 4), ('FLAGS', 4), ('MODULES', 4), 'MODLIST', 'CMDLINE', 'RSDP', 'MEMMAP', ('MEMMAP_ENTRIES', 4),
                ('RESERVED', 4)])
MODULE = offsets(['ADDRESS', 'SIZE', 'CMDLINE', 'RESERVED'])
MAP_ENTRY = offsets(['ADDRESS', 'SIZE', ('TYPE', 4), ('RESERVED', 4)])

# Offsets of the parts in one block of BYTES, taken from PLACE on.
MAP = 0x80
MODULES = 0x100
STRINGS = 0x200
BYTES = r_uint(STRINGS + parcel.STRINGS_BYTES)
PLACE = r_uint(0x8000)
TSS_LIMIT = r_uint(0x67)
assert INFO['END'] == 56 and INFO['END'] <= MAP and MAP + memorymap.COUNT * MAP_ENTRY['END'] <= MODULES
assert MODULES + call.GUEST_MODULES * MODULE['END'] <= STRINGS


class Notes(object):
    """Looks for the entry point in an ELF's notes."""

    def __init__(self):
        self.image = None
        self.found = False
        self.entry = ZERO

    def search(self, image):
        """After elf.load(). Returns whether there is one: `entry` is its gpa."""
        self.image = image
        self.found = False
        elf.find_note(image, self)
        return self.found

    def visit(self, at, count):
        """All of [at, at + count) is part of the image."""
        end = at + count
        for _ in range(MOST_NOTES):
            if end - at < NOTE_BYTES:
                return False
            name, size, kind = self.image.word32(at), self.image.word32(at + r_uint(4)), self.image.word32(at + r_uint(8))
            content = at + NOTE_BYTES + _aligned(name)
            following = content + _aligned(size)        # sizes have 32 bits: no sum can wrap
            if following > end and content + size != end:
                return False
            if name == NAME_BYTES and kind == PHYS32_ENTRY and self.image.word32(at + NOTE_BYTES) == NAME:
                return self._take(content, size)
            at = following
            if at >= end:
                return False
        return False

    def _take(self, content, size):
        if size == r_uint(4):
            self.entry = self.image.word32(content)
        elif size == r_uint(8):
            self.entry = self.image.word64(content)
        else:
            return False
        self.found = True
        return True


def _aligned(count):
    return (count + ALIGN_MASK) & ~ALIGN_MASK


class Pvh(object):
    def __init__(self, ram, vcpu):
        self.ram = ram
        self.vcpu = vcpu
        self.notes = Notes()
        self.strings = parcel.Strings(ram)
        self.address = ZERO             # gpa of the block

    def load(self, image, result, rsdp):
        """rsdp: gpa of ACPI's root pointer, 0: none. Returns a code of refusal.py; `result` gets extents and the number of what is wrong."""
        code = elf.load(image, self.ram, result)
        if code != refusal.OK:
            return code
        if not self.notes.search(image):
            return refusal.NO_PVH_NOTE
        if not self.ram.holds(self.notes.entry, r_uint(1)):
            return refusal.ENTRY_OUTSIDE
        code = self._build(result, rsdp)
        if code == refusal.OK:
            state.protected_mode(self.vcpu, self.notes.entry)
            self.vcpu.set_segment(v.TR, 0, state.PRESENT | state.BUSY_TSS, TSS_LIMIT, ZERO)
            self.vcpu.set_register(v.BX, self.address)
        return code

    def _build(self, result, rsdp):
        self.address = result.extents.find(self.ram, PLACE, BYTES)
        if self.address == extent.NOWHERE or not result.extents.add(self.address, self.address + BYTES):
            return refusal.NO_ROOM_START_INFO
        self.strings.begin(self.address + r_uint(STRINGS))
        self._put32(INFO['MAGIC'], r_uint(MAGIC))
        self._put32(INFO['VERSION'], r_uint(VERSION))
        self._put64(INFO['CMDLINE'], self.strings.from_boot_page(boot.number(spec.VMM['COMMAND_LINE_STRING'])))
        self._put64(INFO['RSDP'], rsdp)
        self._write_map()
        return self._modules(result)

    def _write_map(self):
        self._put64(INFO['MEMMAP'], self.address + r_uint(MAP))
        self._put32(INFO['MEMMAP_ENTRIES'], r_uint(memorymap.COUNT))
        for n in range(memorymap.COUNT):
            entry = MAP + n * MAP_ENTRY['END']
            self._put64(entry + MAP_ENTRY['ADDRESS'], memorymap.base(n))
            self._put64(entry + MAP_ENTRY['SIZE'], memorymap.size(n, self.ram))
            self._put32(entry + MAP_ENTRY['TYPE'], r_uint(memorymap.kind(n)))

    def _modules(self, result):
        count = boot.module_count()
        self._put32(INFO['MODULES'], r_uint(count))
        self._put64(INFO['MODLIST'], self.address + r_uint(MODULES) if count > 0 else ZERO)
        for n in range(count):
            result.number = n + 1
            at = parcel.place_module(self.ram, n, result.extents)
            if at == extent.NOWHERE:
                return refusal.NO_ROOM_MODULE
            entry = MODULES + n * MODULE['END']
            self._put64(entry + MODULE['ADDRESS'], at)
            self._put64(entry + MODULE['SIZE'], boot.module_bytes(n))
            self._put64(entry + MODULE['CMDLINE'], self.strings.from_boot_page(boot.module_string(n)))
        return refusal.OK

    def _put32(self, offset, value):
        self.ram.store32(self.address + r_uint(offset), value)

    def _put64(self, offset, value):
        self.ram.store64(self.address + r_uint(offset), value)
