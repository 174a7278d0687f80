"""The image of a task program (build/NAME.bin): a header page, then text, rodata and data; bss follows in memory only.

The linker script (linker/task.ld) makes the header; whoever loads the program needs nothing else. The parts lie at BASE in the
order of the header's byte counts, without gaps; each count is a multiple of the page size.
"""
from hypervisor.spec.layout import PAGE, TASK_BASE

MAGIC = 0x474f52504b4c5542          # "BULKPROG"
VERSION = 1
HEADER_BYTES = PAGE
BASE = TASK_BASE

# The header: eight-byte little-endian words in this order.
FIELDS = ['MAGIC', 'VERSION', 'BASE', 'ENTRY', 'HEADER_BYTES', 'TEXT_BYTES', 'RODATA_BYTES', 'DATA_BYTES', 'BSS_BYTES']
OFFSETS = dict((name, 8 * index) for index, name in enumerate(FIELDS))
END = 8 * len(FIELDS)
assert END <= HEADER_BYTES

# What a program may allocate while it starts, before its heap is sealed (boot/runtime.c). Bytes of .bss.
HEAP_BYTES = 64 << 10

C_CONSTANTS = {
    'PROGRAM_MAGIC': MAGIC,
    'PROGRAM_VERSION': VERSION,
    'PROGRAM_BASE': BASE,
    'PROGRAM_HEADER_BYTES': HEADER_BYTES,
    'HEAP_BYTES': HEAP_BYTES,
}
