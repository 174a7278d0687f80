"""Memory by address, for all three programs.

Every access is volatile and of the width named; addresses and values are unsigned. The double is `fake`, a sparse
memory that knows only the ranges that a test has mapped: any other access raises, as the hardware would fault.
"""
from rpython.rlib.rarithmetic import r_uint
from rpython.rtyper.lltypesystem import lltype, rffi
from rpython.translator.tool.cbuild import ExternalCompilationInfo

_ECI = ExternalCompilationInfo(includes=['hw/memory.h'])
_PAGE = 4096


class FakeFault(Exception):
    """An access outside what the test has mapped. args: the address."""


class FakeMemory(object):
    """Sparse memory in pages of 4 KiB."""

    def __init__(self):
        self.pages = {}

    def map(self, address, size):
        """Make [address, address + size) accessible, as zeros where it was not yet."""
        address, size = int(address), int(size)
        for page in range(address // _PAGE, (address + size - 1) // _PAGE + 1):
            self.pages.setdefault(page, bytearray(_PAGE))

    def alias(self, address, other, size):
        """Let the pages at `address` be the very pages at `other`, as two mappings of the same frames are."""
        for n in range(int(size) // _PAGE):
            self.pages[int(address) // _PAGE + n] = self.pages[int(other) // _PAGE + n]

    def unmap(self, address, size):
        for page in range(int(address) // _PAGE, (int(address) + int(size) - 1) // _PAGE + 1):
            self.pages.pop(page, None)

    def read(self, address, size):
        address = int(address)
        out = bytearray()
        while size > 0:
            page, offset = divmod(address, _PAGE)
            if page not in self.pages:
                raise FakeFault(address)
            n = min(size, _PAGE - offset)
            out += self.pages[page][offset:offset + n]
            address += n
            size -= n
        return bytes(out)

    def write(self, address, data):
        address = int(address)
        data = bytearray(data)
        while data:
            page, offset = divmod(address, _PAGE)
            if page not in self.pages:
                raise FakeFault(address)
            n = min(len(data), _PAGE - offset)
            self.pages[page][offset:offset + n] = data[:n]
            address += n
            data = data[n:]


fake = FakeMemory()


def reset_fake():
    """Forget everything: called before each test."""
    fake.pages.clear()


def _accessors(bits):
    size = bits // 8

    def fake_load(address):
        value = 0
        for byte in reversed(bytearray(fake.read(address, size))):
            value = value << 8 | byte
        return r_uint(value)

    def fake_store(address, value):
        value = int(value)
        fake.write(address, bytearray((value >> (8 * n)) & 0xff for n in range(size)))

    load = rffi.llexternal('bh_load%d' % bits, [lltype.Unsigned], lltype.Unsigned, compilation_info=_ECI,
                           _nowrapper=True, _callable=fake_load)
    store = rffi.llexternal('bh_store%d' % bits, [lltype.Unsigned, lltype.Unsigned], lltype.Void, compilation_info=_ECI,
                            _nowrapper=True, _callable=fake_store)
    return load, store


load8, store8 = _accessors(8)
load16, store16 = _accessors(16)
load32, store32 = _accessors(32)
load64, store64 = _accessors(64)


def _fake_copy(to, source, size):
    fake.write(to, fake.read(source, int(size)))


def _fake_clear(to, size):
    fake.write(to, bytearray(int(size)))


# copy(to, source, size): bytes; the ranges do not overlap.  clear(to, size): zeros.  fence(): what was written before is seen by other
# cores before anything is read or written after.
copy = rffi.llexternal('bh_copy', [lltype.Unsigned] * 3, lltype.Void, compilation_info=_ECI, _nowrapper=True,
                       _callable=_fake_copy)
fence = rffi.llexternal('bh_fence', [], lltype.Void, compilation_info=_ECI, _nowrapper=True, _callable=lambda: None)
clear = rffi.llexternal('bh_clear', [lltype.Unsigned] * 2, lltype.Void, compilation_info=_ECI, _nowrapper=True,
                        _callable=_fake_clear)
