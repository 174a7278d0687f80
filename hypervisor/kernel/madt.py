"""The processors of the machine, from ACPI's MADT, read while memory is mapped one to one.

The firmware's tables are read with care: each length is bounded, each checksum is looked at, and what is wrong ends the search; then
the box has one core. Tables and their entries lie at any address: what is wider than a byte is put together from bytes.
Source: ACPI Specification 6.5, "Root System Description Pointer (RSDP)", "Multiple APIC Description Table (MADT)".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.kernel.apic import apic
from hypervisor.kernel.core import this
from hypervisor.kernel.multiboot import loader
from hypervisor.spec import core as spec

R0 = r_uint(0)
REACH = r_uint(1) << 32             # what is mapped one to one
EBDA_SEGMENT = r_uint(0x40e)
EBDA_BYTES = 1024
ROM, ROM_BYTES = r_uint(0xe0000), 0x20000
SIGNATURE = r_uint(0x2052545020445352)      # "RSD PTR "
RSDP1_BYTES, RSDP2_BYTES = 20, 36
APIC_TABLE = r_uint(0x43495041)     # "APIC"
HEADER_BYTES, ENTRIES_AT = 36, 44
TABLE_MOST = r_uint(1 << 20)
LOCAL_APIC, LOCAL_X2APIC = r_uint(0), r_uint(9)
ENABLED = r_uint(1)


def find_cores():
    """Fill `this` with the cores that the firmware names as enabled, this one first."""
    this.apic[0] = apic.identity()
    this.count = 1
    rsdp = find_rsdp()
    if rsdp == R0:
        return
    table = R0
    if memory.load8(rsdp + 15) >= r_uint(2):
        table = find_madt(load(rsdp + 24, 8), 8)
    if table == R0:
        table = find_madt(load(rsdp + 16, 4), 4)
    if table != R0:
        read_madt(table)


def find_rsdp():
    """From the boot loader, or where a PC's BIOS leaves it. Returns its hpa, or 0."""
    if loader.rsdp != R0 and is_rsdp(loader.rsdp):
        return loader.rsdp
    at = search(memory.load16(EBDA_SEGMENT) << 4, EBDA_BYTES)
    if at == R0:
        at = search(ROM, ROM_BYTES)
    return at


def search(start, size):
    n = 0
    while n < size and start != R0:
        if is_rsdp(start + n):
            return start + n
        n += 16
    return R0


def is_rsdp(at):
    return memory.load64(at) == SIGNATURE and checks(at, RSDP1_BYTES) and (
        memory.load8(at + 15) < r_uint(2) or checks(at, RSDP2_BYTES))


def checks(at, size):
    """Do the bytes sum up to 0, as ACPI's do?"""
    total = R0
    n = 0
    while n < size:
        total += memory.load8(at + n)
        n += 1
    return total & r_uint(0xff) == R0


def load(at, size):
    """`size` bytes at hpa `at`, as a little-endian number."""
    value = R0
    n = 0
    while n < size:
        value |= memory.load8(at + n) << (8 * n)
        n += 1
    return value


def is_in_reach(at):
    """Can a table lie there?"""
    return at != R0 and at < REACH - TABLE_MOST


def table_bytes(at):
    """The length of a sound table, 0 for what is none."""
    if not is_in_reach(at):
        return R0
    size = load(at + 4, 4)
    if size < r_uint(HEADER_BYTES) or size > TABLE_MOST or not checks(at, intmask(size)):
        return R0
    return size


def find_madt(root, width):
    """root: hpa of the RSDT or XSDT, whose entries have `width` bytes. Returns the MADT's hpa, or 0."""
    size = table_bytes(root)
    at = r_uint(HEADER_BYTES)
    while at + width <= size:
        table = load(root + at, width)
        if is_in_reach(table) and load(table, 4) == APIC_TABLE and table_bytes(table) != R0:
            return table
        at += width
    return R0


def read_madt(table):
    end = table + load(table + 4, 4)
    at = table + ENTRIES_AT
    while at + 8 <= end:
        kind = memory.load8(at)
        size = memory.load8(at + 1)
        if size < r_uint(2) or at + size > end:
            return
        if kind == LOCAL_APIC and size >= r_uint(8):
            add(memory.load8(at + 3), load(at + 4, 4))
        elif kind == LOCAL_X2APIC and size >= r_uint(16):
            add(load(at + 4, 4), load(at + 8, 4))
        at += size


def add(identity, flags):
    """One processor. The table may name it twice, or before this one."""
    if flags & ENABLED == R0 or this.count >= spec.MOST or not apic.reaches(identity):
        return
    n = 0
    while n < this.count:
        if this.apic[n] == identity:
            return
        n += 1
    this.apic[this.count] = identity
    this.count += 1
