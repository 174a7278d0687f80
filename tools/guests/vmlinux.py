"""The ELF file inside a Linux kernel image (bzImage), as far as it is compressed with xz: what a PVH loader boots.

Source: Linux, Documentation/arch/x86/boot.rst, "payload_offset"; arch/x86/boot/compressed/Makefile: four bytes with the size
follow the compressed data.
"""
import lzma
import struct

from trouble import Trouble

SETUP_SECTS, PAYLOAD_OFFSET, PAYLOAD_LENGTH = 0x1f1, 0x248, 0x24c
XZ, ELF = b'\xfd7zXZ\0', b'\x7fELF'


def extract(data):
    """The ELF file's bytes. Raises Trouble."""
    kernel = ((data[SETUP_SECTS] or 4) + 1) * 512
    offset, length = struct.unpack_from('<II', data, PAYLOAD_OFFSET)
    payload = data[kernel + offset:kernel + offset + length]
    if not payload.startswith(XZ):
        raise Trouble('the kernel is not compressed with xz, and no other format is unpacked here')
    elf = lzma.LZMADecompressor().decompress(payload)
    if not elf.startswith(ELF):
        raise Trouble('no ELF file is inside the kernel')
    return elf
