"""Multiboot 1 images: what the header asks for, and the addresses in it (the "a.out kludge"); ELF files are elf.py's.

Source: Multiboot Specification 0.6.96, "OS image format" and "Boot information format".
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.vmm.load import elf, refusal

SEARCH_BYTES = 8192
HEADER_MAGIC = r_uint(0x1badb002)
HEADER_BYTES = 12                           # without the addresses
ADDRESSES_BYTES = 32

FLAG_PAGE_ALIGN = 1 << 0                    # modules at page boundaries: they always are
FLAG_MEMORY = 1 << 1                        # memory sizes and map: always given
FLAG_ADDRESSES = 1 << 16
REQUIRED = r_uint(0xffff)                   # the loader must know what these ask for
KNOWN = r_uint(FLAG_PAGE_ALIGN | FLAG_MEMORY)
NOT_FOUND = r_uint(-1)
U32 = r_uint(0xffffffff)
ZERO = r_uint(0)


def find_header(image):
    """Offset of the first header that is whole and sums to zero, or NOT_FOUND."""
    for at in range(0, SEARCH_BYTES - HEADER_BYTES + 1, 4):
        offset = r_uint(at)
        if image.word32(offset) == HEADER_MAGIC and image.holds(offset, r_uint(HEADER_BYTES)):
            flags, checksum = image.word32(offset + r_uint(4)), image.word32(offset + r_uint(8))
            if (HEADER_MAGIC + flags + checksum) & U32 == ZERO:
                return offset
    return NOT_FOUND


def load(image, ram, result):
    """Copy the image to where it wants to be. Returns a code of refusal.py; `result` gets entry and extents.

    The guest's memory is clear, so nothing has to be done for bss.
    """
    header = find_header(image)
    if header == NOT_FOUND:
        return refusal.NO_HEADER
    flags = image.word32(header + r_uint(4))
    if flags & REQUIRED & ~KNOWN != ZERO:
        return refusal.WANTS_UNKNOWN
    if flags & r_uint(FLAG_ADDRESSES) != ZERO:
        code = _load_by_addresses(image, ram, header, result)
    else:
        code = elf.load(image, ram, result)
    if code == refusal.OK and not ram.holds(result.entry, r_uint(1)):
        code = refusal.ENTRY_OUTSIDE
    return code


def _load_by_addresses(image, ram, header, result):
    if not image.holds(header, r_uint(ADDRESSES_BYTES)) or header > r_uint(SEARCH_BYTES - ADDRESSES_BYTES):
        return refusal.NO_HEADER
    header_address = image.word32(header + r_uint(12))
    load_address = image.word32(header + r_uint(16))
    load_end = image.word32(header + r_uint(20))
    bss_end = image.word32(header + r_uint(24))
    if header_address < load_address:
        return refusal.HEADER_BEFORE_LOAD
    if header_address - load_address > header:
        return refusal.LOAD_BEFORE_FILE
    offset = header - (header_address - load_address)
    if load_end == ZERO:                    # the whole file
        load_end = load_address + (image.size - offset)
    if load_end < load_address:
        return refusal.LOAD_END_BEFORE_START
    if not image.holds(offset, load_end - load_address):
        return refusal.LOAD_BEYOND_FILE
    if bss_end == ZERO:
        bss_end = load_end
    if bss_end < load_end:
        return refusal.BSS_BEFORE_END
    if not ram.holds(load_address, bss_end - load_address):
        return refusal.LOAD_LEAVES_RAM
    ram.copy_in(load_address, image.address + offset, load_end - load_address)
    result.extents.add(load_address, bss_end)
    result.entry = image.word32(header + r_uint(28))
    return refusal.OK
