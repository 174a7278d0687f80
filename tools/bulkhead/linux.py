"""What a Linux kernel image (bzImage) says about itself, read before anything boots.

These are the rules by which the VMM loads kernels (hypervisor/vmm/load/linux.py); here they only give an early and longer answer.
Source: Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
"""
import struct
from dataclasses import dataclass

from bulkhead.image import HOLE_END, Unbootable

SETUP_SECTS, BOOT_FLAG, MAGIC_AT = 0x1f1, 0x1fe, 0x202
MAGIC = b'HdrS'
SIGNATURE = 0xaa55
OLDEST = 0x206
LOADED_HIGH = 1
XLF_KERNEL_64 = 1
LAST_PARAGRAPH = 15         # the kernel's size is rounded up: so many bytes of it the file need not have


@dataclass(frozen=True)
class Kernel:
    """version: of the boot protocol, 0x20f is 2.15. start, room: bytes, where it begins and what it needs from there on."""
    version: int
    wide: bool                  # started by its 64-bit entry point
    start: int
    room: int
    command_line: int           # bytes that it takes
    initrd_end: int             # an initrd ends below this address
    text: str                   # the release that it says it is


def read(data):
    """The header of a kernel image. Raises Unbootable."""
    if len(data) < 0x206 or data[MAGIC_AT:MAGIC_AT + 4] != MAGIC or _get(data, BOOT_FLAG, 'H') != SIGNATURE:
        _say_what_it_is_instead(data)
    version = _get(data, 0x206, 'H')
    if version < OLDEST:
        raise Unbootable('its boot protocol %s is older than 2.06' % shown(version), 'a kernel from Linux 2.6.22 on')
    if not _get(data, 0x211, 'B') & LOADED_HIGH:
        raise Unbootable('it is a zImage, which belongs below 640 KiB', 'a bzImage')
    if not _get(data, 0x214, 'I'):
        raise Unbootable('it has no 32-bit entry point (code32_start is 0): it starts in real mode and needs a BIOS',
                         'an image that follows the 32-bit boot protocol, as all of Linux do')
    end = MAGIC_AT + _get(data, 0x201, 'B')
    if end < (0x264 if version >= 0x20a else 0x23c):
        raise Unbootable('its setup header (to 0x%x) is shorter than protocol %s says' % (end, shown(version)))
    offset = ((_get(data, SETUP_SECTS, 'B') or 4) + 1) * 512
    size = _get(data, 0x1f4, 'I') * 16
    if size <= 0x200 or offset + size - LAST_PARAGRAPH > len(data):
        raise Unbootable('it is cut off: its header speaks of %d bytes, and the file has %d' % (offset + size, len(data)), 'the whole file')
    start, room = _place(data, version, size)
    return Kernel(version, version >= 0x20c and bool(_get(data, 0x236, 'H') & XLF_KERNEL_64), start, room,
                  _get(data, 0x238, 'I'), _get(data, 0x22c, 'I') + 1, _text(data))


def check(data, command_line):
    """The ranges (name, first, end) that a kernel needs. Raises Unbootable when it cannot be booted with this command line."""
    kernel = read(data)
    if len(command_line.encode()) > kernel.command_line:
        raise Unbootable('it takes a command line of at most %d bytes' % kernel.command_line, 'a shorter command_line')
    if kernel.start < HOLE_END:
        raise Unbootable('it wants to lie at 0x%x' % kernel.start, 'a kernel that is linked at 0x100000 or above')
    return [('kernel', kernel.start, kernel.start + kernel.room)]


def shown(version):
    """0x20f: 2.15."""
    return '%d.%02d' % (version >> 8, version & 0xff)


def _place(data, version, size):
    start, room = HOLE_END, size
    if version >= 0x20a:
        start, room = _get(data, 0x258, 'Q'), max(size, _get(data, 0x260, 'I'))
    if _get(data, 0x234, 'B'):
        alignment = _get(data, 0x230, 'I')
        if not 0x1000 <= alignment <= 1 << 30 or alignment & alignment - 1:
            raise Unbootable('its alignment 0x%x is no power of two from 4096 to 2^30' % alignment)
        start = -(-max(start, HOLE_END) // alignment) * alignment
    return start, room


def _text(data):
    """The release, which stands in the setup code; '' when there is none."""
    at = _get(data, 0x20e, 'H') + 0x200
    return data[at:at + 256].split(b'\0')[0].decode('ascii', 'replace').split(' ')[0] if at > 0x200 else ''


def _get(data, at, kind):
    try:
        return struct.unpack_from('<' + kind, data, at)[0]
    except struct.error:
        raise Unbootable('it is cut off: its setup header is not whole', 'the whole file') from None


def _say_what_it_is_instead(data):
    if data[:4] == b'\x7fELF':
        raise Unbootable('it is an ELF file, not a bzImage', 'the bzImage of the same kernel (vmlinuz), or kind = "pvh"')
    if data[:2] == b'\x1f\x8b':
        raise Unbootable('it is compressed with gzip', 'the kernel as it is in /boot (vmlinuz)')
    raise Unbootable('it is no Linux kernel: no "HdrS" stands in its first sector', 'a bzImage, as vmlinuz is one')
