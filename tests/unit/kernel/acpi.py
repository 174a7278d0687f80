"""ACPI's tables by hand, as a firmware leaves them. Written from the specification and not from the kernel.

Source: ACPI Specification 6.5, "Root System Description Pointer (RSDP)", "System Description Table Header", "Multiple APIC Description
Table (MADT)".
"""
import struct

ROM_RSDP = 0xf0000


def sealed(data, at):
    """The data with its checksum at `at`."""
    data = bytearray(data)
    data[at] = 0
    data[at] = -sum(data) & 0xff
    return bytes(data)


def table(signature, body):
    return sealed(struct.pack('<4sIBB6s8sI4sI', signature, 36 + len(body), 1, 0, b'BULKHD', b'BULKHEAD', 1, b'TEST', 1) + body, 9)


def rsdp(rsdt, xsdt=None):
    """Of revision 0, or 2 if there is an XSDT."""
    first = sealed(struct.pack('<8sB6sBI', b'RSD PTR ', 0, b'BULKHD', 0 if xsdt is None else 2, rsdt), 8)
    if xsdt is None:
        return first
    return sealed(first + struct.pack('<IQB3s', 36, xsdt, 0, b''), 32)


def lapic(identity, enabled=1):
    return struct.pack('<BBBBI', 0, 8, identity & 0xff, identity, enabled)


def x2apic(identity, enabled=1):
    return struct.pack('<BBHIII', 9, 16, 0, identity, enabled, identity & 0xff)


NMI = struct.pack('<BBBHB', 4, 6, 0xff, 0, 1)
IOAPIC = struct.pack('<BBBBII', 1, 12, 0, 0, 0xfec00000, 0)


def madt(*entries):
    return table(b'APIC', struct.pack('<II', 0xfee00000, 1) + b''.join(entries))


def write(memory, entries, root=ROM_RSDP, at=0xf1000, wide=False, others=()):
    """A whole set: the root pointer at `root` (None: not written), the tables from `at` on, the MADT last. Returns the root pointer's bytes."""
    place, places = at, []
    for one in list(others) + [madt(*entries)]:
        memory.put(place, one)
        places.append(place)
        place += len(one)
    memory.put(place, table(b'RSDT', b''.join(struct.pack('<I', one) for one in places)))
    rsdt, xsdt = place, None
    if wide:
        xsdt = place + 36 + 4 * len(places)
        memory.put(xsdt, table(b'XSDT', b''.join(struct.pack('<Q', one) for one in places)))
    pointer = rsdp(0 if wide else rsdt, xsdt)
    if root is not None:
        memory.put(root, pointer)
    return pointer
