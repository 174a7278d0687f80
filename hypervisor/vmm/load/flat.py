"""Flat images: bytes copied to their load address and started there in real mode, CS:IP = 0:LOAD_ADDRESS."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.vmm.load import refusal

REAL_MODE_END = r_uint(0x10000)


def load(image, ram, address):
    """Returns a code of refusal.py. The guest's memory is clear."""
    if image.size == r_uint(0):
        return refusal.EMPTY
    if address >= REAL_MODE_END:
        return refusal.FLAT_TOO_HIGH
    if not ram.holds(address, image.size):
        return refusal.FLAT_TOO_LARGE
    ram.copy_in(address, image.address, image.size)
    return refusal.OK
