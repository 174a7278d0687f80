"""The memory map that guests with a PC's firmware tables are told: E820 for Linux, the like list of PVH.

Source: Advanced Configuration and Power Interface Specification, "System Address Map Interfaces".
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.vmm import ram as pc

USABLE, RESERVED = 1, 2
EBDA = r_uint(0x9fc00)          # the last KiB below the hole: software takes it for the firmware's

TYPES = [USABLE, RESERVED, RESERVED, USABLE]
BASES = [r_uint(0), EBDA, pc.FIRMWARE, pc.HOLE_END]
ENDS = [EBDA, pc.HOLE, pc.HOLE_END, r_uint(0)]          # 0: the end of the VM's memory
COUNT = len(TYPES)


def base(n):
    return BASES[n]


def size(n, ram):
    end = ENDS[n] if ENDS[n] != r_uint(0) else ram.size
    return end - BASES[n]


def kind(n):
    return TYPES[n]
