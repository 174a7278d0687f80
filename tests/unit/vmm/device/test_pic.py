"""The pair of 8259As: single rules, and random programs against a model in sets.

Source: Intel 8259A data sheet; the ELCR of Intel's 82371SB.
"""
import random

import pytest

from tests.unit.vmm.device.pc import Pc

MASTER, SLAVE = 0x20, 0xa0
EOI, POLL, READ_IRR, READ_ISR, SMM_ON, SMM_OFF = 0x20, 0x0c, 0x0a, 0x0b, 0x68, 0x48


def initialise(pc, icw4=1, masks=0):
    for port, base, wiring in ((MASTER, 0x30, 4), (SLAVE, 0x38, 2)):
        for n, value in enumerate((0x11, base, wiring, icw4)):
            pc.put(port + (n > 0), value)
        pc.put(port + 1, masks)


def ready(icw4=1):
    pc = Pc()
    pc.put(0x4d1, 0)
    initialise(pc, icw4)
    return pc


def acknowledge(pc):
    assert pc.box.extint, 'nobody asked'
    return pc.board.pic.acknowledge()


def test_as_the_firmware_leaves_it():
    pc = Pc()
    assert (pc.get(0x21), pc.get(0xa1), pc.get(0x4d0), pc.get(0x4d1)) == (0xff, 0xff, 0, 2)
    pc.put(0x21, 0xfa)
    pc.put(0xa1, 0xfe)
    pc.line(0)
    assert acknowledge(pc) == 0x08
    pc.put(MASTER, EOI)
    pc.line(8)
    assert acknowledge(pc) == 0x70 and not pc.box.extint


def test_lower_line_waits_for_eoi_and_higher_interrupts():
    pc = ready()
    pc.line(4)
    assert acknowledge(pc) == 0x34 and not pc.box.extint
    pc.line(5)
    assert not pc.box.extint
    pc.line(3)
    assert acknowledge(pc) == 0x33
    pc.put(MASTER, EOI)
    assert not pc.box.extint, '4 is still being served'
    pc.put(MASTER, EOI)
    assert acknowledge(pc) == 0x35


def test_slave_goes_through_line_2_and_needs_two_eois():
    pc = ready()
    pc.line(12)
    assert acknowledge(pc) == 0x3c
    pc.put(MASTER, READ_ISR)
    pc.put(SLAVE, READ_ISR)
    assert (pc.get(MASTER), pc.get(SLAVE)) == (4, 0x10)
    pc.line(3)
    assert not pc.box.extint, 'line 2 is being served'
    pc.line(1)
    assert acknowledge(pc) == 0x31
    pc.put(MASTER, EOI)
    pc.put(SLAVE, EOI)
    pc.put(MASTER, EOI)
    assert acknowledge(pc) == 0x33


def test_higher_line_of_the_slave_interrupts_it_only_in_special_nested_mode():
    for icw4, nests in ((1, False), (0x11, True)):
        pc = ready(icw4)
        pc.line(12)
        acknowledge(pc)
        pc.line(9)
        assert pc.box.extint == nests
        if nests:
            assert acknowledge(pc) == 0x39


def test_edge_is_one_interrupt_and_level_comes_again():
    pc = ready()
    pc.line(5)
    acknowledge(pc)
    pc.put(MASTER, EOI)
    assert not pc.box.extint, 'an edge is one'
    pc.line(5, False)
    pc.put(0x4d0, 0xff)
    assert pc.get(0x4d0) == 0xf8, 'lines 0, 1 and 2 are always edges'
    pc.line(5)
    for _ in range(3):
        assert acknowledge(pc) == 0x35 and not pc.box.extint
        pc.put(MASTER, EOI)
    pc.line(5, False)
    assert not pc.box.extint


def test_request_that_has_gone_is_a_spurious_7():
    pc = ready()
    pc.put(0x4d0, 0x20)
    pc.line(5)
    assert pc.box.extint
    pc.line(5, False)
    assert pc.board.pic.acknowledge() == 0x37
    pc.put(MASTER, READ_ISR)
    assert pc.get(MASTER) == 0, 'a spurious one is not served'


def test_slave_that_takes_its_request_back_is_a_spurious_15():
    """The master has latched the slave's edge: as on a PC (tests/guests/pc.c, "spurious")."""
    pc = ready()
    pc.line(12)
    pc.put(0xa1, 0x10)
    assert acknowledge(pc) == 0x3f
    pc.put(SLAVE, READ_ISR)
    assert pc.get(SLAVE) == 0, 'a spurious one is not served'
    pc.put(MASTER, EOI)
    pc.put(0xa1, 0)
    assert acknowledge(pc) == 0x3c


def test_masked_edge_is_kept_until_it_is_unmasked():
    pc = ready()
    pc.put(0x21, 0x10)
    pc.line(4)
    pc.put(MASTER, READ_IRR)
    assert not pc.box.extint and pc.get(MASTER) == 0x10
    pc.put(0x21, 0)
    assert acknowledge(pc) == 0x34 and pc.get(MASTER) == 0


def test_initialisation_forgets_edges_masks_and_service():
    pc = ready()
    pc.line(4)
    acknowledge(pc)
    pc.line(3)
    pc.put(0x21, 0xff)
    initialise(pc)
    pc.put(MASTER, READ_ISR)
    assert not pc.box.extint and pc.get(MASTER) == 0 and pc.get(0x21) == 0
    pc.line(3, False)
    pc.line(3)
    assert acknowledge(pc) == 0x33


def test_single_chip_without_icw4_takes_two_words():
    pc = Pc()
    pc.put(MASTER, 0x12)
    pc.put(0x21, 0x47)                  # low three bits of the vector do not count
    pc.put(0x21, 0x0f)
    assert pc.get(0x21) == 0x0f
    pc.line(4)
    assert acknowledge(pc) == 0x44


def test_poll_is_an_acknowledge_cycle():
    pc = ready()
    pc.line(6)
    pc.put(MASTER, POLL)
    assert pc.get(MASTER) == 0x86 and not pc.box.extint
    pc.put(MASTER, POLL)
    assert pc.get(MASTER) & 0x80 == 0
    pc.put(MASTER, READ_ISR)
    assert pc.get(MASTER) == 0x40


def test_rotation_makes_the_served_line_the_lowest():
    pc = ready()
    pc.line(0)
    pc.line(1)
    assert acknowledge(pc) == 0x30
    pc.put(MASTER, 0xa0)                # rotate on EOI
    pc.line(0, False)
    pc.line(0)
    assert acknowledge(pc) == 0x31
    pc.put(MASTER, EOI)
    assert acknowledge(pc) == 0x30


class Chip(object):
    """An 8259A in sets; order: its lines from the highest priority to the lowest."""

    def __init__(self, levels):
        self.levels_allowed = levels
        self.lines, self.elcr = set(), set()
        self.initialise(0)

    def initialise(self, base):
        self.base, self.latched, self.masked, self.served = base, set(), set(), set()
        self.order, self.special_mask, self.auto, self.rotating, self.isr_next = list(range(8)), False, False, False, False

    def set(self, n, active):
        if active and n not in self.lines:
            self.latched.add(n)
        (self.lines.add if active else self.lines.discard)(n)

    def requests(self):
        return set(n for n in range(8) if n in (self.lines if n in self.elcr else self.latched))

    def wants(self):
        for n in self.order:
            if n in self.served and not (self.special_mask and n in self.masked):
                return None
            if n in self.requests() and n not in self.masked:
                return n
        return None

    def take(self, n):
        self.latched.discard(n)
        if not self.auto:
            self.served.add(n)
        elif self.rotating:
            self.make_lowest(n)

    def make_lowest(self, n):
        at = self.order.index(n) + 1
        self.order = self.order[at:] + self.order[:at]

    def ocw2(self, command, n):
        served = [line for line in self.order if line in self.served]
        if command in (1, 5):
            if served:
                self.served.discard(served[0])
                if command == 5:
                    self.make_lowest(served[0])
        elif command in (3, 7):
            self.served.discard(n)
            if command == 7:
                self.make_lowest(n)
        elif command == 6:
            self.make_lowest(n)
        elif command in (0, 4):
            self.rotating = command == 4


class Pair(object):
    def __init__(self):
        self.chips = [Chip(0xf8), Chip(0xde)]

    def update(self):
        self.chips[0].set(2, self.chips[1].wants() is not None)

    def acknowledge(self):
        master, slave = self.chips
        n = master.wants()
        if n is not None:
            master.take(n)
        chip = slave if n == 2 else master
        if n == 2:
            n = slave.wants()
            if n is not None:
                slave.take(n)
            master.set(2, False)
        self.update()
        return chip.base + (7 if n is None else n)


def numbers(lines):
    return sum(1 << n for n in lines)


@pytest.mark.parametrize('seed', range(25))
def test_random_programs_see_what_the_data_sheet_says(seed):
    rng = random.Random(seed)
    pc, pair = ready(), Pair()
    pair.chips[0].base, pair.chips[1].base = 0x30, 0x38
    for step in range(150):
        which = rng.randint(0, 1)
        port, chip, what = (MASTER, SLAVE)[which], pair.chips[which], rng.randint(0, 15)
        if what < 6:
            n, active = rng.choice([n for n in range(16) if n != 2]), rng.random() < 0.6
            pc.line(n, active)
            pair.chips[n // 8].set(n % 8, active)
        elif what < 9:
            if pc.box.extint or rng.random() < 0.1:
                assert pc.board.pic.acknowledge() == pair.acknowledge(), step
        elif what < 12:
            command, n = rng.choice([1, 1, 1, 3, 5, 6, 7, 0, 4, 2]), rng.randint(0, 7)
            pc.put(port, command << 5 | n)
            chip.ocw2(command, n)
        elif what == 12:
            mask = rng.choice([0, 0, 0xff, rng.getrandbits(8)])
            pc.put(port + 1, mask)
            chip.masked = set(n for n in range(8) if mask >> n & 1)
        elif what == 13:
            value = rng.getrandbits(8)
            pc.put(0x4d0 + which, value)
            chip.elcr = set(n for n in range(8) if value & chip.levels_allowed and value & chip.levels_allowed & 1 << n)
        elif what == 14:
            chip.special_mask = rng.random() < 0.5
            pc.put(port, SMM_ON if chip.special_mask else SMM_OFF)
        elif rng.random() < 0.3:
            chip.initialise(0x30 + 8 * which)
            if which:
                pair.chips[0].set(2, False)         # a chip that is being initialised asks for nothing
            chip.auto = rng.random() < 0.5
            for offset, value in ((0, 0x11), (1, chip.base), (1, 4 >> which), (1, 3 if chip.auto else 1)):
                pc.put(port + offset, value)
        pair.update()
        assert bool(pc.box.extint) == (pair.chips[0].wants() is not None), step
        for port, chip in zip((MASTER, SLAVE), pair.chips):
            pc.put(port, READ_IRR)
            assert pc.get(port) == numbers(chip.requests()), step
            pc.put(port, READ_ISR)
            assert pc.get(port) == numbers(chip.served) and pc.get(port + 1) == numbers(chip.masked), step
