"""The tables as an operating system finds them in the guest's memory, decoded here by the specification's offsets, against the devices.

Source: ACPI Specification 6, "ACPI Software Programming Model", "ACPI Machine Language (AML) Specification", "Resource Data Types for ACPI".
"""
import struct

import pytest

from hypervisor.spec import ending
from hypervisor.vmm import main
from hypervisor.vmm.device import acpi
from tests.unit.vmm.box import Box, out, run, then
from tests.unit.vmm.device.pc import Pc


@pytest.fixture(scope='module')
def memory():
    """0xe0000 to 0xfffff of a VM that has just been started."""
    box, seen = Box(), []
    box.script = [then(lambda box: seen.append(bytes(box.guest(0xe0000, 0x20000))), out(0xf4, 0))]
    run(box)
    return bytearray(seen[0])


def word(form, data, offset):
    return struct.unpack_from('<' + form, bytes(data), offset)[0]


def at(memory, gpa, size):
    assert 0xe0000 <= gpa and gpa + size <= 0x100000
    return memory[gpa - 0xe0000:gpa - 0xe0000 + size]


def whole(memory, gpa):
    """The table at an address; its checksum is right."""
    data = at(memory, gpa, word('I', at(memory, gpa, 36), 4))
    assert sum(data) & 0xff == 0, bytes(data[:4])
    return data


def root(memory):
    found = [n for n in range(0, 0x20000, 16) if bytes(memory[n:n + 8]) == b'RSD PTR ']
    assert len(found) == 1
    return memory[found[0]:found[0] + 36]


def tables(memory):
    """{signature: table}, by way of the XSDT."""
    xsdt = whole(memory, word('Q', root(memory), 24))
    addresses = [word('Q', xsdt, n) for n in range(36, len(xsdt), 8)]
    result = dict((bytes(table[:4]), table) for table in (whole(memory, address) for address in addresses))
    result[b'DSDT'] = whole(memory, word('I', result[b'FACP'], 40))
    return result


def test_root_pointer_and_both_root_tables(memory):
    rsdp = root(memory)
    assert sum(rsdp[:20]) & 0xff == 0 and sum(rsdp) & 0xff == 0 and rsdp[15] == 2 and word('I', rsdp, 20) == 36
    rsdt, xsdt = whole(memory, word('I', rsdp, 16)), whole(memory, word('Q', rsdp, 24))
    assert bytes(rsdt[:4]) == b'RSDT' and bytes(xsdt[:4]) == b'XSDT'
    narrow = [word('I', rsdt, n) for n in range(36, len(rsdt), 4)]
    assert narrow == [word('Q', xsdt, n) for n in range(36, len(xsdt), 8)] and len(narrow) >= 2
    assert set(tables(memory)) == set([b'FACP', b'APIC', b'DSDT'])


def test_fixed_description_names_registers_that_answer(memory):
    fadt = tables(memory)[b'FACP']
    assert fadt[8] == 4 and len(fadt) == 244
    facs = at(memory, word('I', fadt, 36), 64)
    assert bytes(facs[:4]) == b'FACS' and word('I', facs, 4) == 64 and word('I', fadt, 36) % 64 == 0
    assert word('Q', fadt, 132) == word('I', fadt, 36) and word('Q', fadt, 140) == word('I', fadt, 40)
    assert word('H', fadt, 46) == 9 and word('I', fadt, 48) == 0, 'SCI; no SMI command'
    event, control, timer = word('I', fadt, 56), word('I', fadt, 64), word('I', fadt, 76)
    assert (fadt[88], fadt[89], fadt[91]) == (4, 2, 4)
    assert fadt[108] == 0x32, 'century'
    flags = word('I', fadt, 112)
    assert flags >> 8 & 1 and flags >> 4 & 3 == 3 and flags >> 10 & 1 and not flags >> 20 & 1        # TMR_VAL_EXT, no buttons, RESET_REG, not reduced
    for offset, bits, port in ((148, 32, event), (172, 16, control), (208, 32, timer)):
        assert (fadt[offset], fadt[offset + 1], word('Q', fadt, offset + 4)) == (1, bits, port)
    assert (fadt[116], word('Q', fadt, 120), fadt[128]) == (1, 0xcf9, 6)
    pc = Pc()
    pc.put(event + 2, 1, 2)
    assert pc.get(event + 2, 2) == 1 and pc.get(control, 2) & 1 == 1
    first = pc.get(timer, 4)
    pc.let_pass(10 ** 7)
    assert pc.get(timer, 4) - first in (35795, 35796)


def test_reset_register_resets(memory):
    fadt = tables(memory)[b'FACP']
    box = Box()
    box.script = [out(word('Q', fadt, 120), fadt[128])]
    assert run(box) == (ending.RESET, 0)


def test_multiple_apic_description(memory):
    madt = tables(memory)[b'APIC']
    assert word('I', madt, 36) == 0xfee00000 and word('I', madt, 40) == 1
    entries, n = [], 44
    while n < len(madt):
        assert madt[n + 1] >= 2
        entries.append(madt[n:n + madt[n + 1]])
        n += madt[n + 1]
    assert n == len(madt)
    assert [(e[2], e[3], word('I', e, 4)) for e in entries if e[0] == 0] == [(0, 0, 1)]
    ioapics = [(e[2], word('I', e, 4), word('I', e, 8)) for e in entries if e[0] == 1]
    overrides = [(e[2], e[3], word('I', e, 4), word('H', e, 8)) for e in entries if e[0] == 2]
    assert overrides == [(0, 0, 2, 0), (0, 9, 9, 0xd)] and len(entries) == 4
    (identity, base, first), = ioapics
    assert first == 0
    pc = Pc()
    pc.store(base, 0)
    assert pc.load(base + 0x10) >> 24 == identity
    for _, line, gsi, _ in overrides:
        pc.store(base, 0x10 + 2 * gsi)
        pc.store(base + 0x10, 0x40 + gsi)
        pc.line(line)
        assert pc.take_messages() == [(0, 0x40 + gsi)]


class Memory(object):
    """0xe0000 to 0xfffff, with what was there before."""

    def __init__(self):
        self.bytes = bytearray(b'\xff') * 0x20000

    def store8(self, gpa, value):
        self.bytes[int(gpa) - 0xe0000] = int(value)


@pytest.mark.parametrize('count', [1, 2, 3, 4, 8, 9, 16])
def test_each_processor_is_in_both_tables_by_its_apic_id(count):
    fake = Memory()
    acpi.write(fake, count)
    rsdp = root(fake.bytes)
    assert sum(rsdp[:20]) & 0xff == 0 and sum(rsdp) & 0xff == 0
    whole(fake.bytes, word('I', rsdp, 16))
    madt, names = tables(fake.bytes)[b'APIC'], dsdt(fake.bytes)
    entries, n = [], 44
    while n < len(madt):
        entries.append(madt[n:n + madt[n + 1]])
        n += madt[n + 1]
    assert n == len(madt)
    assert [(len(e), e[2], e[3], word('I', e, 4)) for e in entries if e[0] == 0] == [(8, index, index, 1) for index in range(count)]
    assert [e[0] for e in entries] == [0] * count + [1, 2, 2]
    objects = [path[:-1] for path, value in names.items() if path[-1] == b'_HID' and value == b'ACPI0007']
    assert sorted(names[path + (b'_UID',)] for path in objects) == list(range(count)) and len(set(objects)) == count


@pytest.mark.parametrize('count', range(1, 17))
def test_more_processors_than_flat_destinations_name_are_told_to_use_clusters(count):
    """FORCE_APIC_CLUSTER_MODEL, bit 18: a logical destination of the flat model is a set of eight."""
    fake = Memory()
    acpi.write(fake, count)
    flags = word('I', tables(fake.bytes)[b'FACP'], 112)
    assert flags >> 18 & 1 == (count > 8) and flags & ~(1 << 18) == acpi.FADT_FLAGS


def test_tables_without_a_number_are_those_of_one_processor(memory):
    fake = Memory()
    acpi.write(fake)
    madt = tables(fake.bytes)[b'APIC']
    assert madt == tables(memory)[b'APIC'] and len(madt) == 44 + 8 + 12 + 2 * 10


# AML: only what this DSDT uses; anything else is a mistake.

def package_length(data, n):
    count = data[n] >> 6
    if count == 0:
        return data[n] & 0x3f, 1
    return data[n] & 15 | sum(data[n + 1 + k] << (4 + 8 * k) for k in range(count)), 1 + count


def name_string(data, n):
    start, parts = n, 1
    if data[n:n + 1] == b'\\':
        n += 1
    if data[n] == 0x2e:
        n, parts = n + 1, 2
    text = bytes(data[start:n]).replace(b'\x2e', b'') + b'.'.join(bytes(data[n + 4 * k:n + 4 * k + 4]) for k in range(parts))
    assert all(c in b'ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.\\' for c in text), text
    return text, n + 4 * parts


def data_object(data, n):
    kind = data[n]
    if kind in (0, 1):
        return kind, n + 1
    if kind in (0x0a, 0x0b, 0x0c, 0x0e):
        form = {0x0a: 'B', 0x0b: 'H', 0x0c: 'I', 0x0e: 'Q'}[kind]
        return word(form, data, n + 1), n + 1 + struct.calcsize('<' + form)
    if kind == 0x0d:
        end = data.index(b'\0', n)
        return bytes(data[n + 1:end]), end + 1
    length, size = package_length(data, n + 1)
    end, inside = n + 1 + length, n + 1 + size
    if kind == 0x11:                    # Buffer
        count, inside = data_object(data, inside)
        assert end - inside == count
        return data[inside:end], end
    assert kind == 0x12, hex(kind)
    count, inside, elements = data[inside], inside + 1, []
    while inside < end:
        element, inside = data_object(data, inside)
        elements.append(element)
    assert inside == end and len(elements) == count
    return elements, end


def term_list(data, n, end, scope, names):
    while n < end:
        if data[n] == 0x08:
            name, n = name_string(data, n + 1)
            names[scope + (name,)], n = data_object(data, n)
            continue
        n += 1 if data[n] == 0x10 else 2
        assert bytes(data[n - 1:n]) == b'\x10' or bytes(data[n - 2:n]) == b'\x5b\x82', 'neither Scope nor Device'
        length, size = package_length(data, n)
        name, inside = name_string(data, n + size)
        term_list(data, inside, n + length, scope + (name,), names)
        n += length
    assert n == end


def descriptors(template):
    """[(kind, fields...)] of a resource template."""
    result, n = [], 0
    while True:
        tag = template[n]
        if tag & 0x80:
            size = 3 + word('H', template, n + 1)
            kind, form = template[n + 3], {0x88: 'H', 0x87: 'I'}[tag]
            values = struct.unpack_from('<5' + form, bytes(template), n + 6)
            assert size == 6 + 5 * struct.calcsize('<' + form)
            result.append(('bus memory io'.split()[{2: 0, 0: 1, 1: 2}[kind]], values[1], values[2]))
            assert values[0] == 0 and values[3] == 0 and values[4] == values[2] - values[1] + 1
        else:
            size = 1 + (tag & 7)
            if tag >> 3 == 8:
                assert word('H', template, n + 2) == word('H', template, n + 4) and size == 8
                result.append(('ports', word('H', template, n + 2), template[n + 7]))
            elif tag >> 3 == 4:
                mask = word('H', template, n + 1)
                result.append(('irq', [line for line in range(16) if mask >> line & 1]))
            else:
                assert tag >> 3 == 15 and n + size == len(template), hex(tag)
                return result
        n += size


def dsdt(memory):
    data, names = tables(memory)[b'DSDT'], {}
    term_list(data, 36, len(data), (), names)
    return names


def eisa(number):
    a, b = struct.unpack('>HH', struct.pack('<I', number))
    return ''.join(chr(0x40 + (a >> shift & 31)) for shift in (10, 5, 0)) + '%04X' % b


def test_description_of_the_devices_can_be_read_to_its_end(memory):
    names = dsdt(memory)
    assert names[b'\\_S5_',] == [0, 0, 0, 0], 'the sleep type that switches off'
    devices = {}
    for path, value in names.items():
        if path[-1] == b'_HID':
            devices[value if isinstance(value, bytes) else eisa(value)] = path[:-1]
            assert path[0] == b'\\_SB_' and len(path) == 3
    assert set(devices) == set(['PNP0A03', 'PNP0501', 'PNP0B00', 'PNP0100', 'PNP0C02', b'QEMU0001', b'ACPI0007'])
    resources = dict((hid, descriptors(names[path + (b'_CRS',)])) for hid, path in devices.items() if path + (b'_CRS',) in names)
    assert resources['PNP0501'] == [('ports', 0x3f8, 8), ('irq', [4])]
    assert resources['PNP0B00'] == [('ports', 0x70, 2), ('irq', [8])]
    assert resources['PNP0100'] == [('ports', 0x40, 4), ('irq', [0])]
    assert resources[b'QEMU0001'] == [('ports', 0x505, 1)]
    assert names[devices[b'ACPI0007'] + (b'_UID',)] == 0
    assert resources['PNP0A03'] == [('bus', 0, 255), ('ports', 0xcf8, 8), ('io', 0, 0xcf7), ('io', 0xd00, 0xffff), ('memory', 0xc0000000, 0xfebfffff)]


def test_named_ports_have_a_device_behind_them(memory):
    """What the DSDT claims is on the bus, whole."""
    bus = main.machine.bus              # of the VM whose memory this is, or of a later one: they are all alike
    for path, value in dsdt(memory).items():
        if path[-1] == b'_CRS':
            for descriptor in descriptors(value):
                if descriptor[0] == 'ports':
                    for port in range(descriptor[1], descriptor[1] + descriptor[2]):
                        assert any(device.port <= port < device.port + device.ports for device in [bus.first] + bus.others), hex(port)
