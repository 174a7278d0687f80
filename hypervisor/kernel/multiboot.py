"""What the boot loader says: memory and modules, from multiboot 1 or 2 information, read while memory is mapped one to one. To a core
that was started by the first one, that one is the boot loader.

Sources: Multiboot Specification 0.6.96, "Boot information format"; Multiboot2 Specification 2.0, "Boot information format".
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.spec import refusal
from hypervisor.spec.call import MODULES
from hypervisor.spec import core

R0 = r_uint(0)
MAGIC1 = r_uint(0x2badb002)
MAGIC2 = r_uint(0x36d76289)
RANGES = 256            # UEFI machines name their memory in many pieces
TOP = ~r_uint(0xfff)    # what lies in the last page of all addresses is not looked at: no sum wraps
AVAILABLE = 1
FLAG_MODULES, FLAG_MEMORY_MAP = r_uint(1 << 3), r_uint(1 << 6)
TAG_END, TAG_MODULE, TAG_MEMORY_MAP, TAG_RSDP1, TAG_RSDP2 = 0, 3, 6, 14, 15
HANDOVER_MAGIC = r_uint(core.HANDOVER_MAGIC)
RECORD = core.HANDOVER


class Loader(object):
    """ranges: available memory, bytes, disjoint after `read`. others: what the map names otherwise. modules: where the boot modules
    lie, bytes; empty where a core was not given one. rsdp: hpa of ACPI's root pointer, 0 if the boot loader does not tell."""

    def __init__(self):
        self.range_start = [R0] * RANGES
        self.range_end = [R0] * RANGES
        self.range_count = 0
        self.other_start = [R0] * RANGES
        self.other_end = [R0] * RANGES
        self.other_count = 0
        self.module_start = [R0] * MODULES
        self.module_end = [R0] * MODULES
        self.module_count = 0
        self.rsdp = R0
        self.refusal = refusal.NONE

    def read(self, magic, information):
        """Returns a refusal or NONE."""
        if magic == MAGIC1:
            self._read1(information)
        elif magic == MAGIC2:
            self._read2(information)
        elif magic == HANDOVER_MAGIC:
            self._read_record(information)
        else:
            return refusal.BAD_LOADER
        self._tidy()
        if self.refusal != refusal.NONE:
            return self.refusal
        if self.range_count == 0:
            return refusal.NO_MEMORY_MAP
        if self.module_count == 0:
            return refusal.NO_MANAGER
        return refusal.NONE

    def _read1(self, information):
        flags = memory.load32(information)
        if flags & FLAG_MEMORY_MAP != R0:
            at = memory.load32(information + 48)
            end = at + memory.load32(information + 44)
            while at < end:
                self._memory(memory.load64(at + 4), memory.load64(at + 12), memory.load32(at + 20))
                at += memory.load32(at) + 4
        if flags & FLAG_MODULES != R0:
            at = memory.load32(information + 24)
            end = at + memory.load32(information + 20) * 16
            while at < end:
                self._module(memory.load32(at), memory.load32(at + 4))
                at += 16

    def _read2(self, information):
        end = information + memory.load32(information)
        at = information + 8
        while at < end:
            kind = memory.load32(at)
            size = memory.load32(at + 4)
            if kind == r_uint(TAG_END) or size < r_uint(8):
                return
            if kind == r_uint(TAG_MODULE):
                self._module(memory.load32(at + 8), memory.load32(at + 12))
            elif kind == r_uint(TAG_MEMORY_MAP):
                self._memory_tag(at, at + size)
            elif kind == r_uint(TAG_RSDP2) or kind == r_uint(TAG_RSDP1) and self.rsdp == R0:
                self.rsdp = at + 8
            at += (size + 7) & ~r_uint(7)

    def _read_record(self, record):
        n = 0
        while r_uint(n) < memory.load64(record + RECORD['RANGES']):
            self._range(memory.load64(record + RECORD['RANGE_0_START'] + 16 * n), memory.load64(record + RECORD['RANGE_0_END'] + 16 * n))
            n += 1
        n = 0
        while n < MODULES:
            start = memory.load64(record + RECORD['MODULE_0_START'] + 16 * n)
            self._module(start, start + memory.load64(record + RECORD['MODULE_0_BYTES'] + 16 * n))
            n += 1

    def has(self, start, end):
        """Is [start, end) available memory? After `read`."""
        n = 0
        while n < self.range_count:
            if self.range_start[n] <= start and end <= self.range_end[n]:
                return True
            n += 1
        return False

    def _memory_tag(self, at, end):
        step = memory.load32(at + 8)
        if step < r_uint(24):
            return
        at += 16
        while at < end:
            self._memory(memory.load64(at), memory.load64(at + 8), memory.load32(at + 16))
            at += step

    def _memory(self, start, size, kind):
        end = start + size
        if end < start or end > TOP:
            end = TOP
        if kind != r_uint(AVAILABLE):
            if size != R0:
                self._other(start & ~r_uint(0xfff), (end + 0xfff) & ~r_uint(0xfff))
            return
        if start > TOP:
            return
        last = self.range_count - 1
        if last >= 0 and self.range_end[last] == start and end & r_uint(0xfff) == R0:
            self.range_end[last] = end
        else:
            self._range((start + 0xfff) & ~r_uint(0xfff), end & ~r_uint(0xfff))

    def _range(self, start, end):
        if self.range_count < RANGES:
            self.range_start[self.range_count] = start
            self.range_end[self.range_count] = end
            self.range_count += 1

    def _other(self, start, end):
        last = self.other_count - 1
        if last >= 0 and self.other_end[last] == start:
            self.other_end[last] = end
        elif self.other_count < RANGES:
            self.other_start[self.other_count] = start
            self.other_end[self.other_count] = end
            self.other_count += 1
        else:                               # to forget it could make memory of it
            self.refusal = refusal.TOO_MANY_RANGES

    def _tidy(self):
        """Maps of odd firmware overlap: what is named twice counts once, and what is also named otherwise is no memory."""
        n = 0
        while n < self.range_count:         # grows where a range is cut in two
            m = 0
            while m < self.other_count:
                self._cut(n, self.other_start[m], self.other_end[m])
                m += 1
            m = 0
            while m < n:
                self._cut(n, self.range_start[m], self.range_end[m])
                m += 1
            n += 1

    def _cut(self, n, start, end):
        """Take [start, end) out of range n; what lies behind it becomes a range of its own."""
        first = self.range_start[n]
        last = self.range_end[n]
        if start >= end or start >= last or end <= first:
            return
        if start > first:
            self.range_end[n] = start
            if end < last:
                self._range(end, last)
        elif end < last:
            self.range_start[n] = end
        else:
            self.range_end[n] = first

    def _module(self, start, end):
        if self.module_count >= MODULES:
            self.refusal = refusal.TOO_MANY_MODULES
        elif start & r_uint(0xfff) != R0:
            self.refusal = refusal.MODULE_UNALIGNED
        else:
            self.module_start[self.module_count] = start
            self.module_end[self.module_count] = end
            self.module_count += 1


loader = Loader()
