"""The boot page: what the manager tells this VMM about its VM (hypervisor/spec/boot.py)."""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.spec import boot as spec, config, layout
from hypervisor.spec.call import GUEST_MODULES, VCPUS_PER_VM

PAGE = r_uint(layout.BOOT_PAGE)
PAGE_BYTES = layout.PAGE


def word(offset):
    return memory.load64(PAGE + r_uint(offset))


def number(offset):
    return intmask(word(offset))


def module_bytes(n):
    """Size of guest module n, which must be below module_count()."""
    return word(spec.VMM['MODULE_0_BYTES'] + n * _MODULE_STEP)


def module_string(n):
    """Where in the page the command line of guest module n begins."""
    return number(spec.VMM['MODULE_0_STRING'] + n * _MODULE_STEP)


def module_count():
    return number(spec.VMM['MODULE_COUNT'])


def vcpus():
    return number(spec.VMM['VCPUS'])


def string_byte(at):
    """The byte at `at` of the page, 0 (an end) outside of its strings."""
    if spec.STRINGS <= at and at < PAGE_BYTES:
        return intmask(memory.load8(PAGE + r_uint(at)))
    return 0


def is_sane():
    """Does the page say what this VMM understands? The manager is trusted; a mismatch of versions is what this finds."""
    return (word(spec.VMM['MAGIC']) == r_uint(spec.MAGIC) and number(spec.VMM['VERSION']) == spec.VERSION and
            _ram_is_sane(word(spec.VMM['RAM_BYTES'])) and
            word(spec.VMM['TSC_KHZ']) != r_uint(0) and
            word(spec.VMM['MODULE_COUNT']) <= r_uint(GUEST_MODULES) and
            _vcpus_are_sane(word(spec.VMM['VCPUS'])))


def _vcpus_are_sane(count):
    return r_uint(0) < count and count <= r_uint(VCPUS_PER_VM)


def _ram_is_sane(size):
    return (r_uint(0) < size and size <= r_uint(config.RAM_MOST) and
            size & r_uint(config.RAM_STEP - 1) == r_uint(0))


_MODULE_STEP = spec.VMM['MODULE_1_BYTES'] - spec.VMM['MODULE_0_BYTES'] if GUEST_MODULES > 1 else 16
