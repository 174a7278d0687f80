"""Starting the other cores: what the first core's manager gives them, and the messages that set them going.

A core that starts finds a record in the page through which this core will talk to it: memory, modules, rates. It makes its own kernel
instance of that, as the first core did of what the boot loader said.
Source: Intel SDM Vol. 3A, "MP Initialization Protocol Algorithm for MP Systems".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import image, memory
from hypervisor.hw.audit import publish_root
from hypervisor.kernel import limit
from hypervisor.kernel.apic import apic
from hypervisor.kernel.core import BOOT_TABLES, this
from hypervisor.kernel.frames import KERNEL, frames
from hypervisor.kernel.inventory import REACH, inventory
from hypervisor.kernel.link import links
from hypervisor.kernel.madt import find_cores
from hypervisor.kernel.multiboot import loader
from hypervisor.kernel.timer import timer
from hypervisor.spec import audit, lapic, refusal, status
from hypervisor.spec import core as spec
from hypervisor.spec.call import MEMORY_REGIONS
from hypervisor.spec.layout import PAGE

R0 = r_uint(0)
RECORD = spec.HANDOVER
RANGE_STEP = RECORD['RANGE_1_START'] - RECORD['RANGE_0_START']
MODULE_STEP = RECORD['MODULE_1_START'] - RECORD['MODULE_0_START']
TRAMPOLINE = r_uint(spec.TRAMPOLINE)
INIT = r_uint(lapic.INIT << lapic.MODE_SHIFT | lapic.ICR_ASSERT)
STARTUP = r_uint(lapic.STARTUP << lapic.MODE_SHIFT | lapic.ICR_ASSERT | spec.TRAMPOLINE >> 12)
assert spec.TRAMPOLINE % PAGE == 0 and spec.TRAMPOLINE >> 12 < 256
assert 2 * limit.COMPARTMENTS + spec.MOST < audit.RECORDS


class Cores(object):
    """Of the first core. started: INIT was sent. last: the core that was started last, whose the one record is. end: behind the last frame
    given of a core's last module."""

    def __init__(self):
        self.started = [False] * spec.MOST
        self.last = spec.FIRST
        self.last_module = [spec.MEMORY] * spec.MOST
        self.end = [R0] * spec.MOST

    def open(self):
        """While memory is mapped one to one. Returns a refusal or NONE."""
        find_cores()
        if this.count == 1:
            return refusal.NONE
        if not loader.has(TRAMPOLINE, TRAMPOLINE + PAGE):
            return refusal.NO_TRAMPOLINE
        count = r_uint(spec.CHANNELS * this.count * (this.count + 1))
        first = inventory.take_frames(count)
        if first == R0:
            return refusal.NO_MEMORY
        frames.set_owners(first, first + count, KERNEL)
        this.pages = first << 12
        memory.copy(TRAMPOLINE, image.symbol(r_uint(image.TRAMPOLINE_START)),
                    image.symbol(r_uint(image.TRAMPOLINE_END)) - image.symbol(r_uint(image.TRAMPOLINE_START)))
        return refusal.NONE

    def record(self, core):
        return links.bytes_page(this.number, core)

    def is_startable(self, core):
        """core: r_uint, anything."""
        return this.is_first() and links.is_peer(core) and not self.started[intmask(core)]

    # -- what a core gets

    def give(self, core, frame, count, module, size):
        """`count` frames from `frame` on, which are nobody's here any more if the answer is OK: memory, or the next part of a module,
        `size` bytes of them used. Returns a status."""
        if module == spec.MEMORY:
            return self.give_memory(core, frame << 12, (frame + count) << 12)
        record = self.record(core) + r_uint(MODULE_STEP * module)
        used = memory.load64(record + RECORD['MODULE_0_BYTES'])
        if size == R0 or size > count << 12:
            return status.BAD_SIZE
        if used == R0:
            memory.store64(record + RECORD['MODULE_0_START'], frame << 12)
        elif self.last_module[core] != module or self.end[core] != frame or used & r_uint(PAGE - 1) != R0:
            return status.SLOT_IN_USE
        self.last_module[core] = module
        self.end[core] = frame + count
        memory.store64(record + RECORD['MODULE_0_BYTES'], used + size)
        return status.OK

    def give_memory(self, core, start, end):
        record = self.record(core)
        n = intmask(memory.load64(record + RECORD['RANGES']))
        if n > 0 and memory.load64(record + RECORD['RANGE_0_END'] + r_uint(RANGE_STEP * (n - 1))) == start:
            memory.store64(record + RECORD['RANGE_0_END'] + r_uint(RANGE_STEP * (n - 1)), end)
            return status.OK
        if n >= MEMORY_REGIONS:
            return status.NO_ROOM
        memory.store64(record + RECORD['RANGE_0_START'] + r_uint(RANGE_STEP * n), start)
        memory.store64(record + RECORD['RANGE_0_END'] + r_uint(RANGE_STEP * n), end)
        memory.store64(record + RECORD['RANGES'], r_uint(n + 1))
        return status.OK

    # -- setting it going

    def init(self, core):
        """Finish the record and reset the core. Returns a status."""
        record = self.record(core)
        size = BOOT_TABLES + image.symbol(r_uint(image.DATA_END)) - image.symbol(r_uint(image.DATA_START))
        private = memory.load64(record + RECORD['RANGE_0_START'])
        end = memory.load64(record + RECORD['RANGE_0_END'])
        if end - private < size or end > REACH:
            return status.NO_MEMORY
        self.hold_back()
        memory.store64(record + RECORD['NUMBER'], r_uint(core))
        memory.store64(record + RECORD['CORES'], r_uint(this.count))
        memory.store64(record + RECORD['TSC_KHZ'], timer.tsc_khz)
        memory.store64(record + RECORD['RATIO'], timer.ratio)
        memory.store64(record + RECORD['PRIVATE'], private)
        memory.store64(record + RECORD['PRIVATE_BYTES'], size)
        memory.store64(record + RECORD['PAGES'], this.pages)
        n = 0
        while n < spec.MOST:
            memory.store64(record + RECORD['APIC_0'] + 8 * n, this.apic[n])
            n += 1
        memory.store64(image.symbol(r_uint(image.CORE_RECORD)), this.pages + links.place(this.number, core))
        memory.store64(image.symbol(r_uint(image.CORE_PRIVATE)), private)
        publish_root(r_uint(2 * limit.COMPARTMENTS + core), r_uint(audit.KIND_CORE), r_uint(core), private)
        memory.fence()
        self.started[core] = True
        self.last = core
        apic.send(this.apic[core], INIT)
        return status.OK

    def hold_back(self):
        """A core that was started and has said nothing could still come, find the next one's record and begin in the next one's memory:
        INIT has it wait for a STARTUP, which it does not get any more."""
        n = 1
        while n < this.count:
            if self.started[n] and links.state(n) == r_uint(spec.ABSENT):
                apic.send(this.apic[n], INIT)
            n += 1

    def startup(self, core):
        """Let the core begin. To be sent twice: some processors miss the first. One that runs already ignores it. Returns a status."""
        if core != self.last:
            return status.BAD_STATE
        apic.send(this.apic[core], STARTUP)
        return status.OK


cores = Cores()
