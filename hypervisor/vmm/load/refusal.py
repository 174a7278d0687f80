"""Why an image cannot be booted: codes (the detail of BAD_IMAGE) and the sentence for the console.

A sentence with a %d is about the numbered thing that the code's user has counted: a segment or a module, from 1.
"""

TABLE = [
    # code, name, sentence
    (0, 'OK', ''),
    (1, 'EMPTY', 'the image is empty'),
    (2, 'FLAT_TOO_LARGE', "the flat image does not fit into the VM's memory at its load address"),
    (3, 'FLAT_TOO_HIGH', 'a flat image starts in real mode, so its load address must be below 64 KiB'),
    (4, 'NO_HEADER', 'no multiboot header in the first 8192 bytes of the image'),
    (5, 'WANTS_UNKNOWN', 'the multiboot header requires a feature that is not offered'),
    (6, 'HEADER_BEFORE_LOAD', "the multiboot header's own address is below its load address"),
    (7, 'LOAD_BEFORE_FILE', "the multiboot header's addresses begin before the image does"),
    (8, 'LOAD_END_BEFORE_START', "the multiboot header's load end is below its load address"),
    (9, 'LOAD_BEYOND_FILE', 'the multiboot header asks for more than the image holds'),
    (10, 'BSS_BEFORE_END', "the multiboot header's bss ends before the loaded part does"),
    (11, 'LOAD_LEAVES_RAM', "the multiboot header's addresses leave the VM's memory"),
    (12, 'NOT_ELF', 'the image has no addresses in its multiboot header and is no ELF file'),
    (13, 'ELF_WRONG_MACHINE', 'the ELF is not a little-endian program for i386 or x86-64'),
    (14, 'ELF_HEADERS_OUTSIDE', "the ELF's program headers lie outside the image"),
    (15, 'ELF_TOO_MANY', 'the ELF has more program headers than the 64 that are looked at'),
    (16, 'ELF_NOTHING', 'the ELF has nothing to load'),
    (17, 'SEGMENT_OUTSIDE_FILE', "the ELF's segment %d lies outside the image"),
    (18, 'SEGMENT_FILE_LARGER', "the ELF's segment %d has more bytes in the file than in memory"),
    (19, 'SEGMENT_LEAVES_RAM', "the ELF's segment %d leaves the VM's memory"),
    (20, 'SEGMENT_OVERLAPS', "the ELF's segment %d overlaps another one"),
    (21, 'ENTRY_OUTSIDE', "the entry point is not in the VM's memory"),
    (22, 'NO_ROOM_INFORMATION', "the VM's memory has no room left for the multiboot information"),
    (23, 'NO_ROOM_MODULE', "the VM's memory has no room left for module %d"),
    (24, 'UNKNOWN_KIND', 'the image is of a kind that this VMM does not know'),
    (25, 'NOT_LINUX', 'the image is no Linux kernel: it has no boot signature and "HdrS" in its first sector'),
    (26, 'LINUX_TOO_OLD', 'the Linux kernel speaks a boot protocol older than 2.06 (Linux 2.6.22)'),
    (27, 'LINUX_LOW', 'the Linux kernel is a zImage, which belongs below 640 KiB: only a bzImage can be booted'),
    (28, 'LINUX_HEADER_SHORT', "the Linux kernel's setup header is shorter than its version says"),
    (29, 'LINUX_TRUNCATED', 'the Linux kernel is cut off: its setup header asks for more than the image holds'),
    (30, 'LINUX_BAD_ALIGNMENT', "the Linux kernel's alignment is not a power of two from 4096 to 2^30"),
    (31, 'LINUX_NO_ROOM', "the VM's memory is too small for the Linux kernel at its preferred address"),
    (32, 'LINUX_COMMAND_LINE', 'the command line is longer than the Linux kernel takes'),
    (33, 'LINUX_MODULES', 'a Linux kernel takes one module, its initrd'),
    (34, 'LINUX_INITRD', "the VM's memory has no room left for the initrd below the highest address that the Linux kernel takes"),
    (35, 'NO_PVH_NOTE', 'the ELF has no PVH entry point (Xen note 18, PHYS32_ENTRY)'),
    (36, 'NO_ROOM_START_INFO', "the VM's memory has no room left for the PVH start information"),
    (37, 'LINUX_REAL_MODE', 'the image has no 32-bit entry point (code32_start is 0): it starts in real mode and needs a BIOS'),
]
SENTENCES = [sentence for _, _, sentence in TABLE]
for _code, _name, _ in TABLE:
    globals()[_name] = _code
assert [code for code, _, _ in TABLE] == range(len(TABLE))
