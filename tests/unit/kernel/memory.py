"""Physical memory and the processor's view of it.

Until the kernel loads its root, addresses are physical, as boot/kernel maps them one to one; from then on only what the root maps is
there, and with the rights that it gives: a kernel that touched a frame of a compartment would be refused as by the hardware.
"""
import struct

from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw.memory import FakeFault
from tests.unit.kernel import walker

PAGE = 4096
REACH = 1 << 32
FORMATS = {1: struct.Struct('<B'), 2: struct.Struct('<H'), 4: struct.Struct('<I'), 8: struct.Struct('<Q')}


class View(dict):
    def __init__(self, root):
        dict.__init__(self)
        self.root = root


class Memory(object):
    """physical: page number -> bytearray. view: virtual page number -> (physical page number, writable); None: one to one.

    watch(address, size, value) is called after each store of at most eight bytes; clear(address, size) counts as its own kind, with
    value None. Addresses are physical.
    """

    def __init__(self, ranges):
        self.ranges = ranges                # [(start, end)] that answer; devices among them
        self.physical = {}
        self.view = None
        self.watch = None
        self.parsed = {}                    # content of a page -> its words that are not zero
        self.leaves = {}                    # the walker's: pages of a last table

    def frame(self, number):
        """The bytes of a physical page."""
        content = self.physical.get(number)
        if content is None:
            if not any(start <= number * PAGE < end for start, end in self.ranges):
                raise FakeFault(number * PAGE)
            content = self.physical[number] = bytearray(PAGE)
        return content

    def load_root(self, root):
        """From now on addresses mean what this kernel root says."""
        self.view = View(root)
        self.walk()

    def walk(self):
        """As the processor does where it knows no translation. What it knows stays, as in a TLB."""
        for page in walker.pages(self, self.view.root, walker.AMD):
            for n in range(page.frames):
                self.view.setdefault((page.address >> 12) + n, (page.frame + n, page.writable))

    def translated(self, address, writing):
        """The physical page number."""
        if self.view is None:
            if address >= REACH:
                raise FakeFault(address)
            return address >> 12
        if address >> 12 not in self.view:
            self.walk()
        found = self.view.get(address >> 12)
        if found is None or (writing and not found[1]):
            raise FakeFault(address)
        return found[0]

    def load(self, address, size):
        offset = address & 0xfff
        assert offset + size <= PAGE, 'the kernel never loads across a page boundary'
        return FORMATS[size].unpack_from(self.frame(self.translated(address, False)), offset)[0]

    def store(self, address, size, value):
        offset = address & 0xfff
        assert offset + size <= PAGE, 'the kernel never stores across a page boundary'
        number = self.translated(address, True)
        FORMATS[size].pack_into(self.frame(number), offset, value & (1 << 8 * size) - 1)
        if self.watch is not None:
            self.watch(number * PAGE + offset, size, value)

    def pieces(self, address, size):
        while size > 0:
            offset = address & 0xfff
            count = min(size, PAGE - offset)
            yield address, offset, count
            address += count
            size -= count

    def read(self, address, size):
        out = bytearray()
        for at, offset, count in self.pieces(int(address), int(size)):
            out += self.frame(self.translated(at, False))[offset:offset + count]
        return bytes(out)

    def write(self, address, data):
        data = bytearray(data)
        for at, offset, count in self.pieces(int(address), len(data)):
            number = self.translated(at, True)
            self.frame(number)[offset:offset + count] = data[:count]
            data = data[count:]
            if self.watch is not None:
                self.watch(number * PAGE + offset, count, None)

    def entries(self, hpa):
        """The words of a page that are not zero, as (index, word)."""
        content = bytes(self.frame(hpa >> 12))
        found = self.parsed.get(content)
        if found is None:
            found = self.parsed[content] = [(index, word) for index, word in enumerate(struct.unpack('<512Q', content)) if word]
        return found

    def put(self, hpa, data):
        """Write physical memory as a boot loader, a task or a guest would."""
        for at, offset, count in self.pieces(hpa, len(data)):
            self.frame(at >> 12)[offset:offset + count] = data[:count]
            data = data[count:]

    def take(self, hpa, size):
        return bytes(b''.join(bytes(self.frame(at >> 12)[offset:offset + count]) for at, offset, count in self.pieces(hpa, size)))

    def word(self, hpa):
        return FORMATS[8].unpack_from(self.frame(hpa >> 12), hpa & 0xfff)[0]

    def put_word(self, hpa, value):
        FORMATS[8].pack_into(self.frame(hpa >> 12), hpa & 0xfff, value)

    # For the restore between tests

    def copy(self):
        return dict((number, bytes(content)) for number, content in self.physical.items()), self.view

    def restore(self, saved):
        pages, self.view = saved
        self.physical = dict((number, bytearray(content)) for number, content in pages.items())
        self.watch = None
        self.parsed.clear()
        self.leaves.clear()


def install(module, memory):
    """Let the accessors of hypervisor.hw.memory use `memory`: without the low-level type checks of an llexternal call, but as strict
    about what an address is."""
    def checked(value):
        assert value.__class__ is r_uint, 'an address or a value that is no r_uint: %r' % (value,)
        return long(value)

    def accessors(size):
        def load(address):
            return long.__new__(r_uint, memory.load(checked(address), size))

        def store(address, value):
            memory.store(checked(address), size, checked(value))
        return load, store

    for size in FORMATS:
        load, store = accessors(size)
        setattr(module, 'load%d' % (8 * size), load)
        setattr(module, 'store%d' % (8 * size), store)
    module.copy = lambda to, source, size: memory.write(checked(to), memory.read(checked(source), checked(size)))
    module.clear = lambda to, size: memory.write(checked(to), bytearray(int(checked(size))))
