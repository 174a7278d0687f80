"""Memory operands of the guest: segment and offset to linear to physical address, then load or store.

locate() finds out everything that can fault; after it, load() and store() cannot fail. An operand may lie in two pages. Those of more
than 8 bytes are moved in parts of 8: to a device that is one access after the other.
Source: Intel SDM Vol. 3A, "Protection" (limits and types of segments); Vol. 1, "Memory Organization" (canonical addresses).
"""
from rpython.rlib.objectmodel import always_inline, dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec import vcpu as spec
from hypervisor.spec.exit import ACCESS_BROUGHT, ACCESS_EXECUTE, ACCESS_OPERAND, ACCESS_WRITE, MEMORY
from hypervisor.vmm import vcpu as v
from hypervisor.vmm.context import BIG, FAULT, OK, mask

ZERO, ONE = r_uint(0), r_uint(1)
PAGE = r_uint(0x1000)
OFFSET = r_uint(0xfff)
WRITABLE, EXPAND_DOWN, CODE = r_uint(2), r_uint(4), r_uint(8)       # type bits; WRITABLE of code: readable
UNUSABLE = r_uint(spec.UNUSABLE)
U32 = r_uint(0xffffffff)


class Operand(object):
    def __init__(self, context, walker, ram, bus):
        self.context = context
        self.walker = walker
        self.ram = ram
        self.bus = bus
        self.gva = ZERO                 # linear address of the first byte
        self.size = 0
        self.first = ZERO               # gpa of the first byte
        self.first_count = 0            # bytes in the first page
        self.second = ZERO              # gpa of the first byte in the next page
        self.brought = False            # the exit has brought what the next load finds there

    def locate(self, segment, offset, size, access):
        """Find segment:offset for `size` bytes (1 to 32). offset is cut to the address size already.

        Returns OK or FAULT.
        """
        self.brought = False
        if self._linear(segment, offset, size, access) == FAULT:
            return FAULT
        gva = self.gva
        self.size = size
        here = intmask(PAGE - (gva & OFFSET))
        self.first_count = size if size <= here else here
        if self.walker.walk(gva, access) == FAULT:
            return FAULT
        self.first = self.walker.gpa
        if self.first_count < size:
            if self.walker.walk(self._cut(gva + r_uint(self.first_count)), access) == FAULT:
                return FAULT
            self.second = self.walker.gpa
        return OK

    def _cut(self, gva):
        return gva if self.context.mode == 64 else gva & U32

    # Segmentation.
    @always_inline
    def _linear(self, segment, offset, size, access):
        """Set gva, or fail when the segment does not allow this."""
        gva = self._base(segment) + offset
        if self.context.mode == 64:
            context = self.context
            allowed = context.is_canonical(gva) and context.is_canonical(gva + r_uint(size - 1))
        else:
            allowed = self._allows(segment, offset, size, access)
        if not allowed:
            return self.context.protection_fault(segment == v.SS)
        self.gva = self._cut(gva)
        return OK

    def _base(self, segment):
        if self.context.mode == 64 and segment != v.FS and segment != v.GS:
            return ZERO
        return self.context.vcpu.segment(segment, v.SEGMENT_BASE)

    def _allows(self, segment, offset, size, access):
        attributes = self.context.vcpu.segment(segment, v.SEGMENT_ATTRIBUTES)
        limit = self.context.vcpu.segment(segment, v.SEGMENT_LIMIT)
        last = offset + r_uint(size - 1)
        if self.context.protected and not self._type_allows(attributes, access):
            return False
        if self.context.protected and attributes & (CODE | EXPAND_DOWN) == EXPAND_DOWN:
            return offset > limit and last <= (U32 if attributes & BIG != ZERO else mask(2))
        return last <= limit

    def _type_allows(self, attributes, access):
        if attributes & UNUSABLE != ZERO:
            return False
        if access & ACCESS_EXECUTE:
            return True                 # it is running there
        if attributes & CODE != ZERO:
            return not access & ACCESS_WRITE and attributes & WRITABLE != ZERO
        return not access & ACCESS_WRITE or attributes & WRITABLE != ZERO

    @always_inline
    def locate_told(self, segment, offset, size, access):
        """As `locate`, for the only operand of the instruction that has exited: the exit itself has told where it is, if it lies in one page.

        What another vCPU makes of the instruction meanwhile gains nothing: the page tables have allowed this vCPU this access there.
        """
        context = self.context
        if context.mode == 64 and segment < v.FS and context.is_canonical(offset) and self._is_told(offset, size, access):
            return OK
        return self._locate_other(segment, offset, size, access)

    @dont_inline
    def _locate_other(self, segment, offset, size, access):
        """The same, for segments that have bases or limits."""
        if self._linear(segment, offset, size, access) == FAULT:
            return FAULT
        if self._is_told(self.gva, size, access):
            return OK
        return self.locate(segment, offset, size, access)

    @always_inline
    def _is_told(self, gva, size, access):
        """Is the exit about this access? Then the place is set."""
        vcpu = self.context.vcpu
        flags, gpa = vcpu.flags(), vcpu.selector()
        if vcpu.kind() != MEMORY or flags & ACCESS_OPERAND == 0 or access == ACCESS_WRITE and flags & ACCESS_WRITE == 0:
            return False
        here = gpa & OFFSET
        if gva & OFFSET != here or here + r_uint(size) > PAGE:
            return False
        self.size = size
        self.first_count = size
        self.first = gpa
        self.brought = flags & ACCESS_BROUGHT != 0
        return True

    # The access itself.
    def _gpa(self, n):
        if n < self.first_count:
            return self.first + r_uint(n)
        return self.second + r_uint(n - self.first_count)

    def _is_beyond(self, n):
        """Is byte n, with all others, beyond the RAM? Of a page all or nothing is RAM; what lies in two pages goes byte by byte."""
        return self.first_count == self.size and not self.ram.holds(self.first + r_uint(n), ONE)

    @always_inline
    def load(self):
        """The value, 1 to 8 bytes. Beyond the RAM: what a device says, or all ones."""
        return self.load_part(0, self.size)

    def load_part(self, at, size):
        """`size` bytes, 1 to 8, from byte `at` on."""
        if self.brought:
            self.brought = False        # another load would find what is there then
            return self.context.vcpu.brought() & mask(size)
        return self._load_there(at, size)

    @dont_inline
    def _load_there(self, at, size):
        if self._is_beyond(at):
            return self._read_device(self.first + r_uint(at), size)
        value = ZERO
        for n in range(size):
            value |= self.load_byte(at + n) << (8 * n)
        return value

    def _read_device(self, gpa, size):
        device = self.bus.memory_device(gpa)
        return mask(size) if device is None else device.read(gpa - device.base, size) & mask(size)

    def _write_device(self, gpa, size, value):
        device = self.bus.memory_device(gpa)
        if device is not None:
            device.write(gpa - device.base, size, value & mask(size))

    def load_byte(self, n):
        gpa = self._gpa(n)
        return self.ram.load8(gpa) if self.ram.holds(gpa, ONE) else r_uint(0xff)

    def store(self, value):
        """Beyond the RAM this goes to a device, or vanishes."""
        self.store_part(0, self.size, value)

    def store_part(self, at, size, value):
        if self._is_beyond(at):
            self._write_device(self.first + r_uint(at), size, value)
            return
        for n in range(size):
            gpa = self._gpa(at + n)
            if self.ram.holds(gpa, ONE):
                self.ram.store8(gpa, value >> (8 * n) & r_uint(0xff))
