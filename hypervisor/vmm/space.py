"""What the VMM maps at its start, for itself and for the guest.

Its own address space: the guest's memory at ram.BASE (read, write); the guest's image at IMAGE, its module n at
MODULES + n * MODULE_STEP (read). The guest's: memory at gpa = offset in the region, all rights, but nothing in the hole.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.lib import call
from hypervisor.spec import call as spec, layout, status
from hypervisor.vmm import ram

IMAGE = r_uint(0x1000000000)
MODULES = r_uint(0x1100000000)
MODULE_SHIFT = 32               # no boot module reaches 4 GiB
PAGE_SHIFT = 12
OWN = spec.READ | spec.WRITE
GUEST = spec.READ | spec.WRITE | spec.EXECUTE | spec.GUEST


def frames(count):
    """Frames that hold `count` bytes."""
    return intmask((count + r_uint(layout.PAGE - 1)) >> PAGE_SHIFT)


def module_address(n):
    return MODULES + (r_uint(n) << MODULE_SHIFT)


def map_ram(size):
    """Map the guest's memory, `size` bytes, here and in the guest. Returns the first status that is not OK."""
    answer = call.map_all(spec.SLOT_SELF, spec.SLOT_RAM, 0, ram.BASE, frames(size), OWN)
    if answer == status.OK:
        answer = _map_guest(r_uint(0), ram.HOLE)
    if answer == status.OK:
        answer = _map_guest(ram.FIRMWARE, size)
    return answer


def _map_guest(gpa, end):
    return call.map_all(spec.SLOT_SELF, spec.SLOT_RAM, frames(gpa), gpa, frames(end - gpa), GUEST)


def map_read_only(region, address, count):
    """Map `count` bytes of a region from its first frame on. An empty module needs no mapping."""
    return call.map_all(spec.SLOT_SELF, region, 0, address, frames(count), spec.READ)
