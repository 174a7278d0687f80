"""The ACPI tables: made while this module is imported for each number of vCPUs, copied to 0xe0000 of the guest's memory when it is loaded.

RSDP, RSDT, XSDT, FADT, FACS, MADT and DSDT. What they say must be true of the devices beside this file.
Source: ACPI Specification 6, "ACPI Software Programming Model"; of version 4, which the FADT is.
"""
import struct

from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec.call import VCPUS_PER_VM
from hypervisor.vmm.device import aml, apic, ioapic, lines, pci, pic, pit, powermanagement as pm, pvpanic, rtc

PLACE = 0xe0000                         # gpa: where software looks for the RSDP
PLACE_END = 0x100000
RESET_PORT, RESET_VALUE = 0xcf9, 6
COM1_PORT = 0x3f8
PCI_MEMORY_FIRST, PCI_MEMORY_LAST = 0xc0000000, 0xfebfffff      # above the largest RAM, below the IOAPIC
OEM_ID, OEM_TABLE_ID, CREATOR_ID, REVISION = 'BLKHD ', 'BULKHEAD', 'BLKH', 1
HEADER_BYTES = 36


def checksum(data):
    """The byte that makes the sum of all zero."""
    return chr(-sum(ord(c) for c in data) & 0xff)


def table(signature, revision, body):
    header = struct.pack('<4sIBB6s8sI4sI', signature, HEADER_BYTES + len(body), revision, 0, OEM_ID, OEM_TABLE_ID, REVISION,
                         CREATOR_ID, REVISION)
    whole = header + body
    return whole[:9] + checksum(whole) + whole[10:]


# -- RSDP, RSDT, XSDT ----------------------------------------------------------------------------------------------------------
def rsdp(rsdt, xsdt):
    first = struct.pack('<8sB6sBI', 'RSD PTR ', 0, OEM_ID, 2, rsdt)
    first = first[:8] + checksum(first) + first[9:]
    second = struct.pack('<IQB3s', 36, xsdt, 0, '')
    whole = first + second
    return whole[:32] + checksum(whole) + whole[33:]


# -- FADT ----------------------------------------------------------------------------------------------------------------------
WBINVD, PROC_C1, PWR_BUTTON, SLP_BUTTON, FIX_RTC, TMR_VAL_EXT, RESET_REG_SUP = (1 << n for n in (0, 2, 4, 5, 6, 8, 10))
FORCE_CLUSTER_MODEL, FLAT_MOST = 1 << 18, 8             # the flat model's logical destinations name eight local APICs and no more
FADT_FLAGS = WBINVD | PROC_C1 | PWR_BUTTON | SLP_BUTTON | FIX_RTC | TMR_VAL_EXT | RESET_REG_SUP
#            C1 by HLT; no fixed buttons; no wake by the RTC; a timer of 32 bits
LEGACY_DEVICES, VGA_NOT_PRESENT = 1 << 0, 1 << 2        # COM1; bit 1: no 8042 that would be worth a probe
NO_C2, NO_C3 = 0xfff, 0xfff                             # latencies that say so
BYTE_ACCESS, WORD_ACCESS, DWORD_ACCESS = 1, 2, 3


def generic_address(port, bits, access):
    """A register in I/O space; port 0: none."""
    return struct.pack('<BBBBQ', 1 if port else 0, bits, 0, access, port)


NO_REGISTER = struct.pack('<BBBBQ', 0, 0, 0, 0, 0)


def fadt(facs, dsdt, vcpus):
    flags = FADT_FLAGS | (FORCE_CLUSTER_MODEL if vcpus > FLAT_MOST else 0)
    event, control, timer = pm.PORT + pm.STATUS, pm.PORT + pm.CONTROL, pm.PORT + pm.TIMER
    body = struct.pack('<IIBBHIBBBB', facs, dsdt, 0, 0, lines.SCI, 0, 0, 0, 0, 0)       # no SMI command: ACPI mode is always on
    body += struct.pack('<8I', event, 0, control, 0, 0, timer, 0, 0)
    body += struct.pack('<8B', 4, 2, 0, 4, 0, 0, 0, 0)                                  # lengths of these blocks; GPE1 base; CST
    body += struct.pack('<HHHHBBBBB', NO_C2, NO_C3, 0, 0, 0, 0, 0, 0, rtc.CENTURY)
    body += struct.pack('<HBI', LEGACY_DEVICES | VGA_NOT_PRESENT, 0, flags)
    body += generic_address(RESET_PORT, 8, BYTE_ACCESS) + struct.pack('<BHB', RESET_VALUE, 0, 0)
    body += struct.pack('<QQ', facs, dsdt)
    body += generic_address(event, 32, WORD_ACCESS) + NO_REGISTER
    body += generic_address(control, 16, WORD_ACCESS) + NO_REGISTER + NO_REGISTER
    body += generic_address(timer, 32, DWORD_ACCESS) + NO_REGISTER + NO_REGISTER
    assert HEADER_BYTES + len(body) == 244
    return table('FACP', 4, body)


def facs():
    """The firmware's own page of state: nothing is in it. It has no checksum."""
    return struct.pack('<4sIIIIIQB31s', 'FACS', 64, 0, 0, 0, 0, 0, 1, '')


# -- MADT ----------------------------------------------------------------------------------------------------------------------
PCAT_COMPAT = 1                         # there is a PIC pair as well
ENABLED = 1
CONFORMS, LEVEL_HIGH = 0, 0xd           # flags of an override


def madt(vcpus):
    body = struct.pack('<II', int(apic.BASE), PCAT_COMPAT)
    for n in range(vcpus):
        body += struct.pack('<BBBBI', 0, 8, n, n, ENABLED)                              # a local APIC: processor, APIC id
    body += struct.pack('<BBBBII', 1, 12, ioapic.ID, 0, int(ioapic.BASE), 0)
    body += struct.pack('<BBBBIH', 2, 10, 0, lines.TIMER, lines.TIMER_INPUT, CONFORMS)
    body += struct.pack('<BBBBIH', 2, 10, 0, lines.SCI, lines.SCI, LEVEL_HIGH)
    return table('APIC', 3, body)


# -- DSDT ----------------------------------------------------------------------------------------------------------------------
def processor(n):
    return aml.device('C%03X' % n, aml.name('_HID', aml.string('ACPI0007')), aml.name('_UID', aml.integer(n)))


def panic_device():
    """_STA: present, decodes its port, works; nothing to show to a user."""
    return aml.device('PEVT', aml.name('_HID', aml.string('QEMU0001')), aml.name('_CRS', aml.resources(aml.io(pvpanic.PORT, 1))),
                      aml.name('_STA', aml.integer(0xb)))


def board_device(text, identity, *resources):
    return aml.device(text, aml.name('_HID', aml.eisa_id(identity)), aml.name('_CRS', aml.resources(*resources)))


def dsdt(vcpus):
    host_bridge = board_device(
        'PCI0', 'PNP0A03', aml.bus_numbers(0, 255), aml.io(pci.PORT, pci.PORTS), aml.io_window(0, pci.PORT - 1),
        aml.io_window(pci.PORT + pci.PORTS, 0xffff), aml.memory_window(PCI_MEMORY_FIRST, PCI_MEMORY_LAST))
    devices = [
        board_device('COM1', 'PNP0501', aml.io(COM1_PORT, 8), aml.irq(lines.COM1)),
        board_device('RTC0', 'PNP0B00', aml.io(rtc.PORT, 2), aml.irq(lines.RTC)),
        board_device('TIMR', 'PNP0100', aml.io(pit.PORT, 4), aml.irq(lines.TIMER)),
        board_device('SYSR', 'PNP0C02', aml.io(pm.PORT, pm.PORTS), aml.io(pic.ELCR_PORT, 2)),
        panic_device(),
    ]
    off = aml.name('\\_S5', aml.package(aml.integer(0), aml.integer(0), aml.integer(0), aml.integer(0)))
    return table('DSDT', 2, off + aml.scope('\\_SB', host_bridge, *(devices + [processor(n) for n in range(vcpus)])))


# -- all of them -----------------------------------------------------------------------------------------------------------------
def build(vcpus):
    """Everything as it lies from PLACE on."""
    at = {}
    data = ['']

    def put(name, content, alignment):
        data[0] += '\0' * (-len(data[0]) % alignment)
        at[name] = PLACE + len(data[0])
        data[0] += content
    put('RSDP', '\0' * 36, 16)
    put('FACS', facs(), 64)
    put('DSDT', dsdt(vcpus), 16)
    put('FACP', fadt(at['FACS'], at['DSDT'], vcpus), 16)
    put('APIC', madt(vcpus), 16)
    put('RSDT', table('RSDT', 1, struct.pack('<II', at['FACP'], at['APIC'])), 16)
    put('XSDT', table('XSDT', 1, struct.pack('<QQ', at['FACP'], at['APIC'])), 16)
    pointer = rsdp(at['RSDT'], at['XSDT'])
    assert at['RSDP'] == PLACE and len(pointer) == 36 and len(data[0]) <= PLACE_END - PLACE
    return pointer + data[0][36:]


TABLES = [build(n + 1) for n in range(VCPUS_PER_VM)]
RSDP = r_uint(PLACE)                    # gpa


def write(ram, count=1):
    """Copy the tables of a VM with `count` vCPUs into the guest's memory, where the VM's firmware area is mapped."""
    tables = TABLES[count - 1]
    for n in range(len(tables)):
        ram.store8(r_uint(PLACE + n), r_uint(ord(tables[n])))
