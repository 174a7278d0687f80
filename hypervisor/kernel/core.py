"""Which core this instance of the kernel runs on, and where its private part of the image lies.

Every core runs the same text and constants; what can be written (.data, .bss, stacks) is a copy of its own at the same addresses.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import image, memory
from hypervisor.spec import core as spec
from hypervisor.spec.layout import KERNEL_BASE, PAGE

R0 = r_uint(0)
RECORD = spec.HANDOVER
BOOT_TABLES = r_uint(spec.BOOT_TABLE_PAGES * PAGE)


class Core(object):
    """number: 0 for the core that the machine has started. count: cores of the box. apic: their local APIC IDs. pages: hpa of the first
    core's outbox. private: hpa of this core's own memory, 0 on the first core, whose copy is the image itself."""

    def __init__(self):
        self.number = spec.FIRST
        self.count = 1
        self.apic = [R0] * spec.MOST
        self.pages = R0
        self.private = R0
        self.private_bytes = R0
        self.record = R0            # hpa of what the first core has left for this one

    def is_first(self):
        return self.number == spec.FIRST

    def join(self, record):
        """Called first of all on a core that another one has started, with what that has left for it."""
        self.record = record
        self.number = intmask(memory.load64(record + RECORD['NUMBER']))
        self.count = intmask(memory.load64(record + RECORD['CORES']))
        self.pages = memory.load64(record + RECORD['PAGES'])
        self.private = memory.load64(record + RECORD['PRIVATE'])
        self.private_bytes = memory.load64(record + RECORD['PRIVATE_BYTES'])
        n = 0
        while n < spec.MOST:
            self.apic[n] = memory.load64(record + RECORD['APIC_0'] + 8 * n)
            n += 1

    def physical(self, address):
        """The hpa of an address in the image."""
        if self.private != R0:
            start = image.symbol(r_uint(image.DATA_START))
            if address >= start and address < image.symbol(r_uint(image.DATA_END)):
                return self.private + BOOT_TABLES + (address - start)
        return address - r_uint(KERNEL_BASE)


this = Core()
