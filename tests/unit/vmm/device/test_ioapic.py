"""The IOAPIC, the board's lines, the pin that it shares with the PIC, and the local APIC's page.

Source: Intel 82093AA data sheet, "Register Description", "Interrupt Delivery".
"""
import random

import pytest

from tests.unit.vmm.device.pc import FIXED, LEVEL, NMI, Pc

BASE, WINDOW, EOI, APIC = 0xfec00000, 0xfec00010, 0xfec00040, 0xfee00000
MASKED, LEVEL_BIT, REMOTE_IRR, LOGICAL = 1 << 16, 1 << 15, 1 << 14, 1 << 11
EXTINT, NMI_MODE, SMI, INIT = 7 << 8, 4 << 8, 2 << 8, 5 << 8


def register(pc, n, value=None):
    pc.store(BASE, n)
    if value is None:
        return pc.load(WINDOW)
    pc.store(WINDOW, value)


def entry(pc, n, low=None, destination=0):
    if low is None:
        return register(pc, 0x10 + 2 * n)
    register(pc, 0x11 + 2 * n, destination << 24)
    register(pc, 0x10 + 2 * n, low)


def test_registers_say_what_a_driver_looks_for():
    pc = Pc()
    assert register(pc, 1) == 23 << 16 | 0x20 and register(pc, 0) == 1 << 24
    assert [entry(pc, n) for n in range(24)] == [MASKED] * 24
    register(pc, 0, 0x5a000000)
    assert register(pc, 0) == 0xa000000
    register(pc, 1, 0)
    assert register(pc, 1) == 23 << 16 | 0x20
    entry(pc, 3, 0xffffffff, 0xab)
    assert entry(pc, 3) == 0x1afff and register(pc, 0x17) == 0xab000000
    assert pc.load(BASE) == 0x17 and register(pc, 0x40) == 0 and register(pc, 0xff) == 0 and pc.load(BASE + 0x20) == 0


def test_lines_reach_their_inputs_and_the_timer_input_2():
    pc = Pc()
    for n in range(24):
        entry(pc, n, 0x40 + n)
    for line in range(24):
        pc.line(line)
        assert pc.take_messages() == ([] if line == 2 else [(FIXED, 0x42 if line == 0 else 0x40 + line)]), line


def test_edge_is_sent_once_and_lost_while_masked():
    pc = Pc()
    entry(pc, 4, 0x44 | MASKED)
    pc.line(4)
    entry(pc, 4, 0x44)
    assert pc.take_messages() == []
    pc.line(4)
    assert pc.take_messages() == [], 'it is active already'
    pc.line(4, False)
    pc.line(4)
    assert pc.take_messages() == [(FIXED, 0x44)]


def test_level_is_sent_again_after_each_end_as_long_as_it_is_active():
    pc = Pc()
    entry(pc, 9, 0x49 | LEVEL_BIT | MASKED)
    pc.line(9)
    assert pc.take_messages() == []
    entry(pc, 9, 0x49 | LEVEL_BIT)
    assert pc.take_messages() == [(LEVEL, 0x49)] and entry(pc, 9) == 0x49 | LEVEL_BIT | REMOTE_IRR
    pc.line(9, False)
    pc.line(9)
    assert pc.take_messages() == [], 'remote IRR is set'
    pc.board.ioapic.end_of_interrupt(0x49)
    assert pc.take_messages() == [(LEVEL, 0x49)]
    pc.line(9, False)
    pc.store(EOI, 0x49)
    assert pc.take_messages() == [] and entry(pc, 9) == 0x49 | LEVEL_BIT
    pc.store(EOI, 0x49)
    assert pc.take_messages() == []


def test_end_of_another_vector_changes_nothing():
    pc = Pc()
    entry(pc, 9, 0x49 | LEVEL_BIT)
    pc.line(9)
    pc.take_messages()
    pc.board.ioapic.end_of_interrupt(0x4a)
    assert pc.take_messages() == [] and entry(pc, 9) & REMOTE_IRR


def test_one_vector_for_two_inputs_ends_for_both():
    pc = Pc()
    for n in (9, 17):
        entry(pc, n, 0x49 | LEVEL_BIT)
        pc.line(n)
    pc.take_messages()
    pc.line(9, False)
    pc.board.ioapic.end_of_interrupt(0x49)
    assert pc.take_messages() == [(LEVEL, 0x49)] and not entry(pc, 9) & REMOTE_IRR and entry(pc, 17) & REMOTE_IRR


def test_remote_irr_can_be_cleared_by_making_the_entry_edge_triggered():
    """What Linux does where it cannot use the EOI register."""
    pc = Pc()
    entry(pc, 9, 0x49 | LEVEL_BIT)
    pc.line(9)
    entry(pc, 9, 0x49 | MASKED)
    assert entry(pc, 9) == 0x49 | MASKED
    pc.take_messages()
    entry(pc, 9, 0x49 | LEVEL_BIT)
    assert pc.take_messages() == [(LEVEL, 0x49)]


@pytest.mark.parametrize('low, destination, right', [
    (0, 0, True), (0, 0xff, True), (0, 1, False), (LOGICAL, 1, True), (LOGICAL, 0xff, True), (LOGICAL, 0, False), (1 << 8, 0, True)])
@pytest.mark.parametrize('level', [0, LEVEL_BIT])
def test_only_the_vcpu_that_is_there_gets_messages(low, destination, right, level):
    pc = Pc()
    entry(pc, 5, 0x45 | low | level, destination)
    pc.line(5)
    assert bool(pc.take_messages()) == right
    assert bool(entry(pc, 5) & REMOTE_IRR) == (right and bool(level))


def test_other_delivery_modes():
    pc = Pc()
    entry(pc, 5, NMI_MODE)
    pc.line(5)
    assert pc.take_messages() == [(NMI, 0)]
    for n, mode in ((6, SMI), (7, INIT), (10, 3 << 8)):
        entry(pc, n, mode | 0x45)
        pc.line(n)
        entry(pc, n, mode | 0x45 | LEVEL_BIT)
    assert pc.take_messages() == []


def test_extint_entry_and_pic_share_the_pin():
    """The double refuses to be told what it knows already, so each holder must be counted."""
    pc = Pc()
    entry(pc, 0, EXTINT)
    assert not pc.box.extint
    pc.board.ioapic.set_input(0, True)
    assert pc.box.extint and pc.take_messages() == []
    pc.put(0x21, 0)
    pc.line(4)
    pc.board.ioapic.set_input(0, False)
    assert pc.box.extint, 'the PIC still asks'
    pc.put(0x21, 0xff)
    assert not pc.box.extint
    pc.board.ioapic.set_input(0, True)
    assert pc.box.extint
    entry(pc, 0, EXTINT | MASKED)
    assert not pc.box.extint


def test_local_apics_page_is_the_kernels():
    pc = Pc()
    pc.box.apic[0x30] = 0x50014
    assert pc.load(APIC + 0x30) == 0x50014 and pc.load(APIC + 0x34) == 0 and pc.load(APIC + 0x400) == 0 and pc.load(APIC + 0xff0) == 0
    pc.store(APIC + 0x80, 0x20)
    pc.store(APIC + 0x84, 0x30)
    pc.store(APIC + 0x80, 0x40, 1)
    pc.store(APIC + 0x80, 0x40, 2)
    pc.store(APIC + 0x410, 0x40)
    assert pc.box.apic == {0x30: 0x50014, 0x80: 0x20}


def test_eoi_of_a_level_comes_back_to_the_ioapic():
    pc = Pc()
    entry(pc, 9, 0x49 | LEVEL_BIT)
    pc.line(9)
    pc.take_messages()
    pc.box.ends = [0, 1 + 0x49]
    pc.store(APIC + 0xb0, 0)
    assert pc.take_messages() == [], 'it was another interrupt, an edge'
    pc.store(APIC + 0xb0, 0)
    assert pc.take_messages() == [(LEVEL, 0x49)]


def test_reset_drops_all_lines_and_the_pin():
    pc = Pc()
    entry(pc, 9, 0x49 | LEVEL_BIT)
    pc.put(0x21, 0)
    pc.line(9)
    pc.line(4)
    assert pc.box.extint
    pc.board.clear()
    assert not pc.box.extint and entry(pc, 9) == MASKED and pc.get(0x21) == 0xff and pc.get(0x4d1) == 2
    pc.take_messages()
    entry(pc, 4, 0x44)
    pc.line(4)
    assert pc.take_messages() == [(FIXED, 0x44)], 'the line was low'


class Model(object):
    """Inputs as sets; `waiting`: inputs whose interrupt has not ended."""

    def __init__(self):
        self.low, self.high = [MASKED] * 24, [0] * 24
        self.active, self.waiting, self.sent = set(), set(), []

    def field(self, n, bit):
        return bool(self.low[n] & bit)

    def mine(self, n):
        destination = self.high[n]
        return destination != 0 if self.field(n, LOGICAL) else destination in (0, 0xff)

    def level(self):
        """Whatever is level-triggered, open, active and not waiting goes out."""
        for n in range(24):
            if (n in self.active and self.field(n, LEVEL_BIT) and not self.field(n, MASKED) and n not in self.waiting and
                    self.low[n] >> 8 & 7 <= 1 and self.mine(n)):
                self.waiting.add(n)
                self.sent.append((LEVEL, self.low[n] & 0xff))

    def line(self, n, active):
        rises = active and n not in self.active
        (self.active.add if active else self.active.discard)(n)
        if rises and not self.field(n, LEVEL_BIT) and not self.field(n, MASKED) and self.mine(n):
            mode = self.low[n] >> 8 & 7
            if mode <= 1:
                self.sent.append((FIXED, self.low[n] & 0xff))
            elif mode == 4:
                self.sent.append((NMI, 0))
        self.level()

    def write_low(self, n, value):
        self.low[n] = value & 0x1afff
        if not value & LEVEL_BIT:
            self.waiting.discard(n)
        self.level()

    def end(self, vector):
        for n in list(self.waiting):
            if self.low[n] & 0xff == vector:
                self.waiting.discard(n)
        self.level()

    def extint(self):
        return any(n in self.active and self.low[n] >> 8 & 7 == 7 and not self.field(n, MASKED) for n in range(24))


@pytest.mark.parametrize('seed', range(15))
def test_random_programs_see_what_the_data_sheet_says(seed):
    """A destination is not changed while its entry is open and active: when that takes effect is nobody's business."""
    rng = random.Random(seed)
    pc, model = Pc(), Model()
    few = rng.sample([n for n in range(24) if n != 2], 5)
    for step in range(200):
        n, what = rng.choice(few), rng.randint(0, 9)
        if what < 4:
            active = rng.random() < 0.6
            pc.board.ioapic.set_input(n, active)
            model.line(n, active)
        elif what < 7:
            value = rng.choice([0x40, 0x41, 0x42]) | rng.choice([0, 0, LEVEL_BIT, LEVEL_BIT, MASKED, LEVEL_BIT | MASKED]) | rng.choice([0, 0, 1, 4, 7, 5]) << 8
            value |= rng.choice([0, 0, 0, LOGICAL, REMOTE_IRR, 1 << 12, 1 << 13, 1 << 17])
            register(pc, 0x10 + 2 * n, value)
            model.write_low(n, value)
        elif what == 7:
            if model.field(n, MASKED) or n not in model.active:
                model.high[n] = rng.choice([0, 0, 0xff, 1, 2])
                register(pc, 0x11 + 2 * n, model.high[n] << 24)
        else:
            vector = rng.choice([0x40, 0x41, 0x42])
            pc.store(EOI, vector)
            model.end(vector)
        assert sorted(pc.take_messages()) == sorted(model.sent), step
        del model.sent[:]
        assert bool(pc.box.extint) == model.extint(), step
        for each in few:
            assert entry(pc, each) == model.low[each] | (REMOTE_IRR if each in model.waiting else 0), step
