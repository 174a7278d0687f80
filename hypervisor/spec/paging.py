"""Bits of page-table entries.

Sources: AMD64 APM Vol. 2, "Page Translation and Protection"; Intel SDM Vol. 3C, "EPT Translation Mechanism".
"""

PRESENT, WRITABLE, USER, WRITE_THROUGH, CACHE_DISABLE, ACCESSED, DIRTY, LARGE, GLOBAL = [1 << n for n in range(9)]
NO_EXECUTE = 1 << 63
ADDRESS = 0x000ffffffffff000
ENTRIES = 512

EPT_READ, EPT_WRITE, EPT_EXECUTE = 1, 2, 4
EPT_WRITE_BACK = 6 << 3
EPT_LARGE = 1 << 7
