"""An independent walk over page tables in physical memory, written from the manuals and not from the kernel.

Sources: AMD64 APM Vol. 2, "Long-Mode Page Translation" (nested tables have the same format, and every nested access is a user access);
Intel SDM Vol. 3C, "The EPT Translation Mechanism".
"""
from collections import namedtuple

AMD, EPT = 'amd', 'ept'
Page = namedtuple('Page', 'address frame frames writable executable user')
FRAME_BITS = 0x000ffffffffff000


def pages(memory, root, kind):
    """Every page that a walk from `root` (hpa) reaches. A reserved bit that is set is an AssertionError."""
    assert root and root & 0xfff == 0, hex(root)
    found = []
    _table(memory, root, 4, 0, kind, (True, True, True), found)
    return found


def tables(memory, root):
    """The hpas of all tables under `root`, the root included, each once per use."""
    found = [root]
    _tables(memory, root, 4, found)
    return found


def _tables(memory, hpa, level, found):
    if level == 1:
        return
    for _, entry in memory.entries(hpa):
        if not (level == 2 and entry & 0x80):
            found.append(entry & FRAME_BITS)
            _tables(memory, entry & FRAME_BITS, level - 1, found)


def _table(memory, hpa, level, address, kind, rights, found):
    """rights: writable, executable, user. The pages of a last table are remembered: nearly all are as they were at the last look."""
    if level > 1:
        _entries(memory, hpa, level, address, kind, rights, found)
        return
    key = bytes(memory.frame(hpa >> 12)), address, kind, rights
    pages = memory.leaves.get(key)
    if pages is None:
        pages = memory.leaves[key] = []
        _entries(memory, hpa, level, address, kind, rights, pages)
    found += pages


def _entries(memory, hpa, level, address, kind, rights, found):
    writable, executable, user = rights
    shift = 12 + 9 * (level - 1)
    for index, entry in memory.entries(hpa):
        at = address | index << shift
        if level == 4 and index >= 256 and kind == AMD:
            at |= 0xffff000000000000
        if kind == AMD:
            assert entry & 1, 'an entry that is neither zero nor present: %#x at %#x' % (entry, at)
            w, x, u = writable and bool(entry & 2), executable and not entry >> 63, user and bool(entry & 4)
        else:
            assert entry & 7 in (1, 3, 5, 7), 'an EPT entry with impossible rights: %#x at %#x' % (entry, at)
            w, x, u = writable and bool(entry & 2), executable and bool(entry & 4), True
        large = bool(entry & 0x80) and level > 1
        assert not (large and level != 2), 'a page of 1 GiB or more: %#x at %#x' % (entry, at)
        frame = (entry & FRAME_BITS) >> 12
        if level == 1 or large:
            count = 512 if large else 1
            assert frame % count == 0, 'a large page that is not aligned: %#x at %#x' % (entry, at)
            found.append(Page(at, frame, count, w, x, u))
        else:
            _table(memory, entry & FRAME_BITS, level - 1, at, kind, (w, x, u), found)
