"""What a guest's image asks of its VM, read before anything boots: flat files, Multiboot 1 headers and ELF files with PVH notes.

These are the rules by which the VMM loads images (hypervisor/vmm/load); here they only give an early and longer answer.
Source: Multiboot Specification 0.6.96, "OS image format"; Xen, "x86/HVM direct boot ABI".
"""
import struct

from bulkhead.facts import size_text

SEARCH_BYTES = 8192
MULTIBOOT1, MULTIBOOT2 = 0x1badb002, 0xe85250d6
KNOWN_FLAGS = 0x3                   # of the sixteen that a loader must understand: page-aligned modules, memory map
FLAG_ADDRESSES = 1 << 16
HOLE, HOLE_END = 0xa0000, 0x100000  # no memory there, as in a PC
REAL_MODE_END = 0x10000
ELF_MACHINES = {3: 'i386', 62: 'x86-64'}
LOAD, NOTE = 1, 4
PHYS32_ENTRY = 18                   # the Xen note with the PVH entry point


class Unbootable(Exception):
    """A sentence about the image, and what to do."""

    def __init__(self, what, write=''):
        super().__init__(what)
        self.what, self.write = what, write


def multiboot_ranges(data):
    """Where a Multiboot 1 image wants to lie: a list of (name, first, end). Raises Unbootable."""
    at = _find_header(data)
    flags, = struct.unpack_from('<I', data, at + 4)
    if flags & 0xffff & ~KNOWN_FLAGS:
        raise Unbootable('its multiboot header requires a feature that is not offered (flags 0x%x)' % (flags & 0xffff & ~KNOWN_FLAGS),
                         'an image whose multiboot flags are at most 3 in the lower 16 bits: no video mode')
    ranges = _by_addresses(data, at) if flags & FLAG_ADDRESSES else _by_segments(data)
    return ranges


def check_ranges(ranges, memory):
    """Do these ranges lie in the memory of a VM with `memory` bytes, each in its own place? Raises Unbootable."""
    for n, (name, first, end) in enumerate(ranges):
        if end > memory:
            raise Unbootable('its %s (0x%x to 0x%x) leaves the VM\'s memory of %s' % (name, first, end, size_text(memory)),
                             'a larger memory, or an image that is linked lower')
        if first < HOLE_END and end > HOLE:
            raise Unbootable('its %s (0x%x to 0x%x) overlaps 0xa0000 to 0xfffff, where a PC has no memory' % (name, first, end),
                             'an image that is linked at 0x100000 or above')
        for other, other_first, other_end in ranges[:n]:
            if first < other_end and other_first < end:
                raise Unbootable('its %s (0x%x to 0x%x) overlaps its %s (0x%x to 0x%x)'
                                 % (name, first, end, other, other_first, other_end), 'an image whose segments do not overlap')


def flat_range(size, load):
    """As multiboot_ranges(), for a flat image of `size` bytes at `load`. Raises Unbootable."""
    return [('flat image', load, load + size)]


def pvh_ranges(data):
    """As multiboot_ranges(), for an ELF file with a PVH entry point."""
    if data[:4] != b'\x7fELF':
        raise Unbootable(*(('it is a Linux kernel', 'kind = "linux"') if data[0x202:0x206] == b'HdrS' else ('it is no ELF file',)))
    _, segments = _segments(data)
    ranges = _loaded(segments)
    entries = [entry for entry in (_pvh_entry(content) for _, kind, content, _, _, _ in segments if kind == NOTE) if entry is not None]
    if not entries:
        raise Unbootable('it has no PVH entry point (Xen note %d, PHYS32_ENTRY)' % PHYS32_ENTRY,
                         'an ELF file that is built for PVH, or another kind')
    _check_entry(entries[0], ranges)
    return ranges


def _pvh_entry(notes):
    """The entry point that these notes name, or None."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from('<III', notes, at)
        name = notes[at + 12:at + 12 + name_size]
        content = at + 12 + -(-name_size // 4) * 4
        if name == b'Xen\0' and kind == PHYS32_ENTRY and size in (4, 8) and content + size <= len(notes):
            return int.from_bytes(notes[content:content + size], 'little')
        at = content + -(-size // 4) * 4
    return None


def _find_header(data):
    for at in range(0, min(SEARCH_BYTES, len(data)) - 11, 4):
        magic, flags, checksum = struct.unpack_from('<III', data, at)
        if magic == MULTIBOOT1 and (magic + flags + checksum) & 0xffffffff == 0:
            return at
    _say_what_it_is_instead(data)


def _say_what_it_is_instead(data):
    others = [at for at in range(0, min(4 * SEARCH_BYTES, len(data)) - 3, 8)
              if struct.unpack_from('<I', data, at)[0] == MULTIBOOT2]
    if others:
        what = 'it has a multiboot2 header but no Multiboot 1 header, and Bulkhead boots guests by Multiboot 1'
    elif data[:4] == b'\x7fELF':
        what = 'it is an ELF file, but no Multiboot 1 header stands in its first 8192 bytes'
    elif len(data) == 512 and data[510:] == b'\x55\xaa':
        raise Unbootable('it is a boot sector, not a multiboot image', 'kind = "flat"')
    elif data[0x202:0x206] == b'HdrS':
        raise Unbootable('it is a Linux kernel', 'kind = "linux"')
    else:
        what = 'it is no multiboot image: no header (0x1badb002) stands in its first 8192 bytes'
    raise Unbootable(what, 'an image with a Multiboot 1 header, or kind = "flat" for a file of plain machine code')


def _by_addresses(data, at):
    if at + 32 > min(len(data), SEARCH_BYTES):
        raise Unbootable('its multiboot header is cut off')
    header, load, load_end, bss_end, entry = struct.unpack_from('<IIIII', data, at + 12)
    if header < load or header - load > at:
        raise Unbootable('its multiboot header has addresses that do not fit the file (header 0x%x, load 0x%x)' % (header, load))
    offset = at - (header - load)
    load_end = load_end or load + len(data) - offset
    bss_end = bss_end or load_end
    if not load <= load_end <= bss_end or offset + load_end - load > len(data):
        raise Unbootable('its multiboot header asks for more than the file holds (load 0x%x to 0x%x, bss to 0x%x)'
                         % (load, load_end, bss_end), 'the whole file: it may be cut off')
    _check_entry(entry, [('', load, bss_end)])
    return [('program', load, bss_end)]


def _by_segments(data):
    if data[:4] != b'\x7fELF':
        raise Unbootable('its multiboot header has no addresses, and it is no ELF file')
    entry, segments = _segments(data)
    virtual = [('', v, v + size) for _, kind, _, _, v, size in segments if kind == LOAD and size]
    ranges = _loaded(segments)
    _check_entry(entry, ranges + virtual)
    return ranges


def _loaded(segments):
    ranges = [('segment %d' % number, address, address + size) for number, kind, _, address, _, size in segments if kind == LOAD and size]
    if not ranges:
        raise Unbootable('it is an ELF file with nothing to load')
    return ranges


def _segments(data):
    """The entry point and the segments (number, kind, the file's bytes, address, virtual address, size in memory) of an ELF file."""
    machine = struct.unpack_from('<H', data, 18)[0] if len(data) >= 64 else 0
    if machine not in ELF_MACHINES or data[4] not in (1, 2) or data[5] != 1:
        raise Unbootable('it is an ELF file, but no little-endian one for i386 or x86-64')
    wide = data[4] == 2
    entry, = struct.unpack_from('<Q' if wide else '<I', data, 24)
    table, = struct.unpack_from('<Q' if wide else '<I', data, 32 if wide else 28)
    step, count = struct.unpack_from('<HH', data, 54 if wide else 42)
    if count == 0 or count > 64 or step < (56 if wide else 32) or table + step * count > len(data):
        raise Unbootable('its program headers are missing or lie outside the file', 'the whole file: it may be cut off')
    return entry, [_segment(data, table + n * step, wide, n + 1) for n in range(count)]


def _segment(data, at, wide, number):
    kind, = struct.unpack_from('<I', data, at)
    if wide:
        offset, virtual, address, in_file, size = struct.unpack_from('<QQQQQ', data, at + 8)
    else:
        offset, virtual, address, in_file, size = struct.unpack_from('<IIIII', data, at + 4)
    if kind == LOAD and size and (in_file > size or offset + in_file > len(data)):
        raise Unbootable('its segment %d lies outside the file' % number, 'the whole file: it may be cut off')
    return number, kind, data[offset:offset + in_file] if kind == NOTE else b'', address, virtual, size


def _check_entry(entry, ranges):
    if not any(first <= entry < end for _, first, end in ranges):
        raise Unbootable('its entry point 0x%x is in no part of it that is loaded' % entry)
