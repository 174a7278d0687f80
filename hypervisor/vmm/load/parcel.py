"""What a boot protocol hands over besides its own records: strings and modules."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import boot as spec, call, layout
from hypervisor.vmm import boot, ram as pc, space
from hypervisor.vmm.load import extent

STRING_MOST = layout.PAGE - spec.STRINGS        # of one string, with its NUL
STRINGS = 2 + call.GUEST_MODULES                # command line, one of the loader's, and one per module
STRINGS_BYTES = STRINGS * STRING_MOST           # room that is enough for all of them


class Strings(object):
    """Strings in the guest's memory, one behind the other. Each method returns the gpa of its copy."""

    def __init__(self, ram):
        self.ram = ram
        self.next = r_uint(0)

    def begin(self, gpa):
        self.next = gpa

    def constant(self, text):
        at = self.next
        for n in range(len(text)):
            self.ram.store8(at + r_uint(n), r_uint(ord(text[n])))
        return self._end(len(text))

    def from_boot_page(self, offset):
        count = 0
        while count < STRING_MOST - 1:
            byte = boot.string_byte(offset + count)
            if byte == 0:
                break
            self.ram.store8(self.next + r_uint(count), r_uint(byte))
            count += 1
        return self._end(count)

    def _end(self, count):
        at = self.next
        self.ram.store8(at + r_uint(count), r_uint(0))
        self.next = at + r_uint(count + 1)
        return at


def place_module(ram, n, extents):
    """Copy module n to a page boundary: above the program if there is room, else from 1 MiB on. Returns its gpa or NOWHERE."""
    size = boot.module_bytes(n)
    at = extents.find(ram, extents.highest(), size)
    if at == extent.NOWHERE:
        at = extents.find(ram, pc.HOLE_END, size)
    if at == extent.NOWHERE or not extents.add(at, at + size):
        return extent.NOWHERE
    ram.copy_in(at, space.module_address(n), size)
    return at
