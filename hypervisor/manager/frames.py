"""What the box has: free frames and boot modules, as the kernel's boot page lists them.

Free frames are handed out from both ends of a region: RAM from its start, in steps of 2 MiB (every region starts at a multiple of
2 MiB, docs/abi.md), programs from its end. Nothing is ever put back: a VM that has ended is not made again.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.lib.view import View
from hypervisor.manager.clock import Clock
from hypervisor.spec import call, config, core, layout, owning
from hypervisor.spec.boot import MAGIC, MANAGER, VERSION

LARGE_FRAMES = layout.LARGE_PAGE // layout.PAGE
MOST_BYTES = r_uint(1) << 46        # of one module or region: more than the processors here can address


def frames_of(size):
    """Frames that `size` bytes need."""
    return (size + layout.PAGE - 1) // layout.PAGE


class Found(object):
    """Where frames were found: `first` of region slot `region`."""

    def __init__(self):
        self.region = 0
        self.first = 0


class Modules(object):
    """The boot modules: module n lies in the manager's slot SLOT_MODULE + n and holds bytes[n] bytes."""

    def __init__(self):
        self.count = 0
        self.bytes = [0] * call.MODULES

    def config_bytes(self):
        return self.bytes[config.MODULE_CONFIG] if self.count > config.MODULE_CONFIG else 0


class Frames(object):
    """Free frames: region n is the manager's slot SLOT_MEMORY + n; frames low[n] .. high[n]-1 of it are free."""

    def __init__(self):
        self.count = 0
        self.low = [0] * call.MEMORY_REGIONS
        self.high = [0] * call.MEMORY_REGIONS
        self.found = Found()

    def total(self):
        result = 0
        for n in range(self.count):
            result += self.high[n] - self.low[n]
        return result

    def find_ram(self, count):
        """Take `count` frames that start at a multiple of 2 MiB. Returns whether there are any; `found` says where."""
        for n in range(self.count):
            start = (self.low[n] + LARGE_FRAMES - 1) // LARGE_FRAMES * LARGE_FRAMES
            if count <= self.high[n] - start:
                self.low[n] = start + count
                self.set_found(n, start)
                return True
        return False

    def find(self, count):
        """Take `count` contiguous frames anywhere."""
        for n in range(self.count):
            if count <= self.high[n] - self.low[n]:
                self.high[n] -= count
                self.set_found(n, self.high[n])
                return True
        return False

    def set_found(self, n, first):
        self.found.region = call.SLOT_MEMORY + n
        self.found.first = first


class Box(object):
    """The boot page, read once."""

    def __init__(self):
        self.modules = Modules()
        self.frames = Frames()
        self.tsc_khz = r_uint(1)
        self.vendor = r_uint(0)
        self.known = False          # the boot page is one
        self.core = 0
        self.cores = 1
        self.core_frames = 0        # that a core needs for itself
        self.owning = 0             # hypervisor/spec/owning.py
        self.clock = Clock()
        self.view = View()

    def read(self):
        """Read the boot page, if it is one."""
        view = self.view
        view.look_at(r_uint(layout.BOOT_PAGE), layout.PAGE)
        if view.u64(MANAGER['MAGIC']) != r_uint(MAGIC) or view.u64(MANAGER['VERSION']) != r_uint(VERSION):
            return
        self.known = True
        khz = view.u64(MANAGER['TSC_KHZ'])
        self.tsc_khz = khz if khz != r_uint(0) else r_uint(1)
        self.vendor = view.u64(MANAGER['VENDOR'])
        frames = self.frames
        frames.count = self.bounded(MANAGER['REGIONS'], call.MEMORY_REGIONS)
        for n in range(frames.count):
            frames.low[n] = 0
            frames.high[n] = self.bounded(MANAGER['REGION_0_FRAMES'] + 8 * n, intmask(MOST_BYTES))
        modules = self.modules
        modules.count = self.bounded(MANAGER['MODULE_COUNT'], call.MODULES)
        for n in range(modules.count):
            modules.bytes[n] = self.bounded(MANAGER['MODULE_0_BYTES'] + 8 * n, intmask(MOST_BYTES))
        self.core = self.bounded(MANAGER['CORE'], core.MOST - 1)
        self.cores = self.bounded(MANAGER['CORES'], core.MOST)
        self.core_frames = self.bounded(MANAGER['CORE_FRAMES'], intmask(MOST_BYTES))
        self.owning = self.bounded(MANAGER['OWNING'], len(owning.SENTENCES) - 1)

    def bounded(self, offset, most):
        """A word of the boot page as an int, at most `most`."""
        value = self.view.u64(offset)
        return most if value > r_uint(most) else intmask(value)
