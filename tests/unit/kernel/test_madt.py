"""The firmware's list of processors, as it should be and as it should not."""
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.kernel import madt
from hypervisor.kernel.apic import apic
from hypervisor.kernel.core import this
from hypervisor.kernel.multiboot import loader
from hypervisor.spec import core as spec
from hypervisor.spec import lapic as registers
from rpython.rlib.rarithmetic import r_uint
from tests.unit.kernel import acpi
from tests.unit.kernel.acpi import IOAPIC, NMI, lapic, x2apic
from tests.unit.kernel.machine import INFORMATION, LAPIC, PAGE, multiboot2

REACH = 1 << 32
EBDA = 0x9fc00
TABLE = 0x200000                # anywhere in memory


@pytest.fixture
def firmware(make_machine):
    """firmware(identity, x2): a machine whose first core has this APIC ID."""
    def make(identity=0, x2=False):
        machine = make_machine()
        machine.memory.ranges = [(0, REACH)]        # what is no memory answers as well, and nothing lies beyond
        apic.window, apic.x2apic = r_uint(LAPIC), x2
        machine.memory.put(LAPIC + registers.ID, struct.pack('<I', identity << 24 & 0xffffffff))
        machine.cpu.msr[0x802] = identity
        return machine
    return make


def found():
    madt.find_cores()
    return [int(n) for n in this.apic[:this.count]]


@pytest.mark.parametrize('wide', [False, True])
@pytest.mark.parametrize('place', [0xe0000, 0xf0000, 0xfffe0, EBDA, EBDA + 0x3e0])
def test_cores_are_found_wherever_a_bios_leaves_its_root_pointer(firmware, wide, place):
    machine = firmware()
    machine.memory.put(0x40e, struct.pack('<H', EBDA >> 4))
    acpi.write(machine.memory, [lapic(0), lapic(1), lapic(2)], root=place, at=TABLE, wide=wide)
    assert found() == [0, 1, 2]


@pytest.mark.parametrize('place', [0xdfff0, 0xe0008, EBDA + 0x400])
def test_no_root_pointer_is_looked_for_elsewhere(firmware, place):
    machine = firmware()
    machine.memory.put(0x40e, struct.pack('<H', EBDA >> 4))
    acpi.write(machine.memory, [lapic(0), lapic(1)], root=place, at=TABLE)
    assert found() == [0]


@pytest.mark.parametrize('kinds', [[14], [15], [14, 15], [15, 14]])
def test_boot_loaders_copy_comes_first_and_the_newer_of_two(firmware, kinds):
    machine = firmware()
    acpi.write(machine.memory, [lapic(0), lapic(9)], at=0xf1000)             # what is not to be looked at
    pointers = {14: acpi.write(machine.memory, [lapic(0), lapic(1)], root=None, at=TABLE),
                15: acpi.write(machine.memory, [lapic(0), lapic(2)], root=None, at=TABLE + PAGE, wide=True)}
    tags = b''.join(struct.pack('<II', kind, 8 + len(pointers[kind])) + pointers[kind].ljust(len(pointers[kind]) + 7 & ~7, b'\0')
                    for kind in kinds)
    plain = multiboot2(machine.ram, machine.places)
    machine.memory.put(INFORMATION, struct.pack('<II', len(plain) + len(tags), 0) + tags + plain[8:])
    loader.read(r_uint(0x36d76289), r_uint(INFORMATION))
    assert found() == [0, 2 if 15 in kinds else 1]


def test_boot_loaders_damaged_copy_is_passed_over(firmware):
    machine = firmware()
    acpi.write(machine.memory, [lapic(0), lapic(9)])
    pointer = bytearray(acpi.write(machine.memory, [lapic(0), lapic(1)], root=None, at=TABLE))
    pointer[17] ^= 1
    machine.memory.put(0x9008, bytes(pointer))
    loader.rsdp = r_uint(0x9008)
    assert found() == [0, 9]


@pytest.mark.parametrize('entries, right', [
    ([lapic(0), lapic(1), lapic(2), lapic(3)], [0, 1, 2, 3]),
    ([lapic(0), lapic(2), lapic(4), lapic(17)], [0, 2, 4, 17]),
    ([lapic(1), lapic(2), lapic(0), lapic(3)], [0, 1, 2, 3]),
    ([lapic(1)], [0, 1]),                                       # a table that forgets who reads it
    ([lapic(0), lapic(1, 0), lapic(2, 2), lapic(3, 3)], [0, 3]),
    ([lapic(0), lapic(1), lapic(1), lapic(0), x2apic(1), lapic(2)], [0, 1, 2]),
    ([IOAPIC, NMI, lapic(0), NMI, lapic(1), NMI, NMI, lapic(2), IOAPIC], [0, 1, 2]),
    ([lapic(n) for n in range(12)], list(range(8))),
    ([lapic(20 + n) for n in range(12)] + [lapic(0)], [0] + [20 + n for n in range(7)]),
    ([lapic(0), lapic(254), lapic(255)], [0, 254]),
    ([lapic(0), x2apic(1), x2apic(2, 0), x2apic(300)], [0, 1]),
    ([lapic(0), struct.pack('<BBBBI', 0, 10, 1, 1, 1) + b'zz', lapic(2)], [0, 1, 2]),      # of a later revision, longer
    ([lapic(0), b'\0\6\1\1\1\0', lapic(2)], [0, 2]),
    ([lapic(0), b'\0\0', lapic(2)], [0]), ([lapic(0), b'\0\1', lapic(2)], [0]),
    ([lapic(0), lapic(1), b'\0\x20\0\5\1\0\0\0'], [0, 1]),
    ([], [0])],
    ids=str)
def test_processors_that_are_there_are_counted_once_this_core_first(firmware, entries, right):
    machine = firmware()
    acpi.write(machine.memory, entries, at=TABLE)
    assert found() == right


def test_this_core_is_first_whatever_it_is_called(firmware):
    machine = firmware(identity=6)
    acpi.write(machine.memory, [lapic(n) for n in range(8)], at=TABLE)
    assert found() == [6, 0, 1, 2, 3, 4, 5, 7]


def test_x2apic_mode_reaches_every_identity_but_that_of_all(firmware):
    """A message to 0xffffffff would reset everybody."""
    machine = firmware(identity=0x1000, x2=True)
    acpi.write(machine.memory, [x2apic(0x1000), lapic(3), x2apic(300), x2apic(0xffffffff), x2apic(0xfffffffe), x2apic(255)], at=TABLE)
    assert found() == [0x1000, 3, 300, 0xfffffffe, 255]


@pytest.mark.parametrize('at', [PAGE - n for n in range(1, 64)])
def test_tables_lie_at_any_address(firmware, at):
    """An NMI entry has six bytes, so that what follows is not even aligned to four."""
    machine = firmware()
    acpi.write(machine.memory, [lapic(0), NMI, lapic(1), NMI, x2apic(2), NMI, lapic(3)], at=TABLE + at, wide=at % 2 == 0,
               others=[acpi.table(b'FACP', b'x' * 13)])
    assert found() == [0, 1, 2, 3]


def test_only_the_table_of_that_name_is_summed_up(firmware):
    """A root table may name thousands of tables."""
    machine = firmware()
    wrong = acpi.table(b'SSDT', b'x' * 1000)
    acpi.write(machine.memory, [lapic(0), lapic(1)], at=TABLE, others=[wrong])
    loads, plain = [], madt.memory.load8

    def load8(address):
        loads.append(int(address))
        return plain(address)
    madt.memory.load8 = load8
    assert found() == [0, 1]
    assert len([at for at in loads if TABLE + 4 <= at < TABLE + len(wrong)]) == 0


def test_xsdt_that_is_damaged_leaves_the_rsdt(firmware):
    machine = firmware()
    acpi.write(machine.memory, [lapic(0), lapic(1)], root=None, at=TABLE)
    rsdt = TABLE + len(acpi.madt(lapic(0), lapic(1)))
    for xsdt in (0, TABLE + 1, REACH - 1, REACH, (1 << 64) - 1):
        machine.memory.put(acpi.ROM_RSDP, acpi.rsdp(rsdt, xsdt))
        assert found() == [0, 1]


# -- damage

ENTRIES = [lapic(0), lapic(1), NMI, x2apic(2), IOAPIC, lapic(4)]
SIZE = 0x180                    # of all the tables
MOST = PAGE                     # of one table, here


@settings(max_examples=120)
@given(wide=st.booleans(), at=st.sampled_from([TABLE, TABLE + PAGE - 60, REACH - MOST - 0x200, REACH - MOST]),
       writes=st.lists(st.tuples(st.integers(0, SIZE), st.binary(min_size=1, max_size=8)), max_size=4),
       length=st.one_of(st.none(), st.integers(0, 200), st.sampled_from([0xffffffff, MOST, MOST + 1, 1 << 31])),
       pointer=st.one_of(st.none(), st.integers(0, (1 << 64) - 1), st.sampled_from([REACH, REACH - 1, REACH - 36, REACH - MOST - 1])),
       mend=st.booleans())
def check_damage(firmware, wide, at, writes, length, pointer, mend):
    """Whatever the tables hold: this core comes first, nobody comes twice, and nothing is read that is not there."""
    machine = firmware()
    memory = machine.memory
    root = acpi.write(memory, ENTRIES, at=at, wide=wide)
    for offset, data in writes:
        memory.put(at + offset, data)
    if length is not None:
        memory.put(at + 4, struct.pack('<I', length))
    if pointer is not None:                             # of a root pointer whose sums are right
        memory.put(acpi.ROM_RSDP, acpi.rsdp(pointer & 0xffffffff, pointer if wide else None))
    if mend and (length or 200) <= 400:                 # and a table whose sum is
        size = length or 36 + 8 + sum(map(len, ENTRIES))
        if size > 36:
            memory.put(at, acpi.sealed(memory.take(at, size), 9))
    cores = found()
    assert cores[0] == 0 and len(set(cores)) == len(cores) <= spec.MOST
    assert all(identity < 0xff for identity in cores)
    if not writes and length is None and pointer is None and at == TABLE:
        assert cores == [0, 1, 2, 4], root


def test_damaged_tables_end_in_fewer_cores_and_never_in_a_fault(firmware, monkeypatch):
    monkeypatch.setattr(madt, 'TABLE_MOST', r_uint(MOST))
    monkeypatch.setattr(madt, 'ROM', r_uint(acpi.ROM_RSDP))
    monkeypatch.setattr(madt, 'ROM_BYTES', 0x100)
    check_damage(firmware)


@pytest.mark.parametrize('wide', [False, True])
def test_any_byte_that_is_wrong_is_noticed(firmware, monkeypatch, wide):
    """Each table has its sum: one wrong byte of the root pointer or of the MADT, and the box has one core."""
    monkeypatch.setattr(madt, 'ROM', r_uint(acpi.ROM_RSDP))
    monkeypatch.setattr(madt, 'ROM_BYTES', 0x100)
    machine = firmware()
    root = acpi.write(machine.memory, ENTRIES, at=TABLE, wide=wide)
    sized = acpi.madt(*ENTRIES)
    for place, content in ((acpi.ROM_RSDP, root), (TABLE, sized)):
        for n in range(len(content)):
            machine.memory.put(place + n, bytes(bytearray([ord(content[n]) ^ 0x10])))
            assert found() == [0], n
            machine.memory.put(place + n, content[n])
    assert found() == [0, 1, 2, 4]


def test_machine_without_tables_has_one_core(firmware):
    firmware(identity=3)
    assert found() == [3]
