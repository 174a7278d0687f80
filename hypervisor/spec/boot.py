"""The boot page: what a task finds at BOOT_PAGE when it starts.

The manager's is written by the kernel, a VMM's by the manager. Both start with MAGIC and VERSION. Strings are bytes in
the page itself: fields ending in _STRING are offsets from its start, NUL-terminated.
"""
from hypervisor.spec.call import GUEST_MODULES, MEMORY_REGIONS, MODULES
from hypervisor.spec.record import offsets

MAGIC = 0x544f4f42444b4c42      # "BLKDBOOT"
VERSION = 1

VENDOR_AMD, VENDOR_INTEL = 1, 2

MANAGER = offsets(
    ['MAGIC', 'VERSION', 'TSC_KHZ', 'VENDOR', 'REGIONS'] +
    ['REGION_%d_FRAMES' % n for n in range(MEMORY_REGIONS)] +       # slot SLOT_MEMORY + n
    ['MODULE_COUNT'] +
    ['MODULE_%d_BYTES' % n for n in range(MODULES)] +               # slot SLOT_MODULE + n; 0 bytes: not this core's
    ['CORE', 'CORES', 'CORE_FRAMES',                                # this core's number; how many there are; frames that each needs itself
     'OWNING'])                                                     # hypervisor/spec/owning.py, of the others

VMM = offsets(
    ['MAGIC', 'VERSION', 'TSC_KHZ', 'VENDOR', 'FLAGS',
     'WALL_SECONDS', 'WALL_TSC',                # Unix time when the TSC was WALL_TSC; 0: nobody knows
     'RAM_BYTES', 'IMAGE_KIND', 'IMAGE_BYTES', 'LOAD_ADDRESS', 'RESTARTS', 'NAME_STRING', 'COMMAND_LINE_STRING', 'MODULE_COUNT'] +
    [field for n in range(GUEST_MODULES) for field in ('MODULE_%d_BYTES' % n, 'MODULE_%d_STRING' % n)] +
    ['VCPUS'])                                  # in slots SLOT_VCPU + n
STRINGS = 1024                  # a VMM's strings lie from here to the page's end
assert VMM['END'] <= STRINGS

# FLAGS of a VMM's boot page and of a VM record in the configuration blob.
FLAG_EXIT_PORT = 1              # port 0xf4 ends the VM with the status written there
FLAG_HOST_TSC = 2               # the guest's TSC is the machine's; otherwise it counts from the VM's start

# IMAGE_KIND
IMAGE_FLAT, IMAGE_MULTIBOOT = 1, 2
IMAGE_LINUX = 3                 # a bzImage; guest module 0, if there is one, is the initrd
IMAGE_PVH = 4                   # an ELF with Xen's PHYS32_ENTRY note
IMAGE_KINDS = [IMAGE_FLAT, IMAGE_MULTIBOOT, IMAGE_LINUX, IMAGE_PVH]
