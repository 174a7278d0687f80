"""One VM's vCPUs on two cores: two kernels on one memory, each with its own objects, that talk through their pages and doorbells."""
import random
import struct

import pytest

from hypervisor.hw import cpu as hw_cpu
from hypervisor.hw import image
from hypervisor.kernel import away, interrupts, panic
from hypervisor.kernel.compartment import NO_NAME, compartments, manager
from hypervisor.kernel.hold import holds
from hypervisor.kernel.link import wires
from hypervisor.kernel.loop import step
from hypervisor.kernel.news import news
from hypervisor.kernel.offer import offers
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.task import IN_ASK
from hypervisor.kernel.wire import wire
from hypervisor.spec import answer as rules
from hypervisor.spec import call, ending, lapic, status, svm
from hypervisor.spec import exit as kinds
from hypervisor.spec import state as fields
from hypervisor.spec import wire as spec
from hypervisor.spec.cpu import VECTOR_DOORBELL
from hypervisor.spec.layout import TASK_BASE
from hypervisor.spec.vcpu import (ANSWER, BROUGHT_SHIFT, COMPLETE, CPUID_TABLE, EXIT, GROUP_CONTROL, GROUP_CPUID, GROUP_FLOW, GROUP_GPR, GROUP_KEYS, GROUP_SEGMENT, GROUP_TABLE,
                                  GROUP_TIME, GROUP_VECTOR, RESUME, STATE)
from rpython.rlib.rarithmetic import r_uint
from tests.unit.kernel import audit, singletons
from tests.unit.kernel import machine as machines
from tests.unit.kernel.machine import LAPIC, PAGE, Block
from tests.unit.kernel.test_cores import APIC, CORE_MEGA, M, Two, booted, make_box
from tests.unit.kernel.vm import put_answer, run, vcpu_page

VM = 1                          # the compartment's number, on both cores
SLOT = call.SLOT_MANAGER_FREE   # of the VM in the first manager's table
BRANCH = SLOT + 5               # of its branch in the second one's
NAME = 3
FIRST, SECOND = call.SLOT_VCPU, call.SLOT_VCPU + 1      # vCPU 0 lives on core 0, vCPU 1 on core 1
RUN, SEND, READ_STATE, APIC_CALL = call.VCPU_RUN, call.VCPU_INTERRUPT, call.VCPU_READ, call.VCPU_APIC
INIT, STARTUP, NMI = lapic.INIT << 8, lapic.STARTUP << 8, lapic.NMI << 8
ASSERT, LEVEL, LOGICAL = lapic.ICR_ASSERT, lapic.ICR_LEVEL, lapic.ICR_LOGICAL
VECTOR = 0x45
IO_IN = 0x3f80011               # IOIO's EXITINFO1: IN AL, port 0x3f8
FRAMES = 8


class Pair(object):
    """Both kernels; the one whose core runs holds the prebuilt objects."""

    def __init__(self, two):
        self.box = two.box
        self.kept = {}
        self.core = 1
        self.private = {0: 0, 1: two.private}
        self.keep()
        two.back_to_first()
        self.core = 0
        self.keep()
        self.first_frame = CORE_MEGA * 256 + 16

    def keep(self):
        self.kept[self.core] = singletons.Snapshot(), self.box.memory.view, image.fake_root[0]

    def on(self, core):
        """Go on on that core."""
        if core != self.core:
            self.keep()
            objects, view, root = self.kept[core]
            objects.restore()
            self.box.memory.view = view
            list.__setitem__(image.fake_root, 0, root)
            self.box.private = self.private[core]
            self.box.memory.put(LAPIC + lapic.ID, struct.pack('<I', APIC[core] << 24))
            self.box.__dict__.pop('kept', None)
            self.core = core
        return self

    def flush(self):
        if news.any:
            wire.flush()

    def settle(self, most=200):
        """Let both cores hear and say everything."""
        back = self.core
        for _ in range(most):
            quiet = True
            for core in (0, 1):
                self.on(core).flush()
                rung = [m for m in self.box.messages if m == (APIC[core], VECTOR_DOORBELL)]
                self.box.messages[:] = [m for m in self.box.messages if m[0] != APIC[core]]
                if rung:
                    quiet = False
                    scheduler.bell.answer()
            if quiet and not self.box.messages:
                self.on(back)
                return
        raise AssertionError('they never stop')

    def call(self, core, number, which, *arguments):
        return self.on(core).box.kernel_call(number, which, *arguments)


def vcpus():
    return [vcpu for vcpu in compartments[VM].vcpus if vcpu is not None]


def join(pair, slot, core, name):
    """JOIN on core 1."""
    return pair.on(1).box.kernel_call(0, call.JOIN, slot, core, name, *run(VM))


def make(pair, start=True, places=(0, 1)):
    """The VM on core 0, with its second vCPU on core 1; not yet joined."""
    def ok(which, *arguments):
        answer = pair.call(0, 0, which, *arguments)
        assert answer[0] == status.OK, (which, answer)
    pair.on(0)
    ok(call.CREATE, SLOT, *run(VM))
    ok(call.GIVE, SLOT, M, pair.first_frame, FRAMES, call.SLOT_RAM)
    for n, core in enumerate(places):
        ok(call.VCPU_CREATE, SLOT, FIRST + n, core, NAME)
    if start:
        ok(call.START, SLOT, TASK_BASE, 0, 0)


def joined(pair, places=(0, 1)):
    """... and joined, with all vCPUs started."""
    make(pair, True, places)
    pair.settle()
    assert join(pair, BRANCH, 0, NAME) == (status.OK, 0)
    pair.settle()
    pair.on(0)
    for n in reversed(range(len(places))):
        slot = FIRST + n
        pair.box.memory.put_word(vcpu_page(VM, n) + ANSWER['DIRTY'], GROUP_CPUID)
        pair.box.memory.put_word(vcpu_page(VM, n) + ANSWER['ACTION'], RESUME)
        pair.box.memory.put(vcpu_page(VM, n) + CPUID_TABLE, struct.pack('<I', 0x1234))
        assert pair.call(0, VM, RUN, slot, 1 if n else 0) is None
        if n:
            compartments[VM].task.deadline_passed()
    pair.settle()
    for core in (0, 1):
        pair.on(core)
        for vcpu in vcpus():
            vcpu.apic.svr = r_uint(0x1ff)
    pair.on(0)


class Prepared(machines.Booted):
    """A pair that has come to a state once, and begins each use there."""

    def __init__(self, prepare):
        self.pair = Pair(booted('two', lambda: Two(make_box(2, 40))))
        prepare(self.pair)
        self.pair.on(0)
        self.machine = self.pair.box
        self.remember()
        self.kept = dict(self.pair.kept)

    def fresh(self):
        machines.Booted.fresh(self)
        self.machine.messages, self.machine.private = [], self.pair.private[0]
        self.machine.__dict__.pop('kept', None)
        self.pair.kept, self.pair.core = dict(self.kept), 0
        return self.pair


PREPARED = {}


def prepared(prepare):
    if prepare not in PREPARED:
        PREPARED[prepare] = Prepared(prepare)
    return PREPARED[prepare].fresh()


@pytest.fixture
def fresh_pair():
    """A VM whose vCPUs have their places, and whose VMM has not made a call."""
    yield Pair(booted('two', lambda: Two(make_box(2, 40))))
    machines.disconnect()


@pytest.fixture
def pair():
    yield prepared(joined)
    machines.disconnect()


def start_second(pair):
    """vCPU 0 sends INIT and STARTUP."""
    pair.on(0)
    interrupts.send(vcpus()[0], r_uint(INIT | ASSERT | LEVEL), r_uint(1))
    interrupts.send(vcpus()[0], r_uint(STARTUP | ASSERT | 0x9a), r_uint(1))
    pair.settle()


def enable(pair):
    """vCPU 1 switches its local APIC on. Leaves core 1 at work."""
    pair.on(1)
    interrupts.write_register(vcpus()[1], lapic.SPURIOUS, r_uint(0x1ff))
    pair.settle()


def exit_second(pair, *exit):
    """vCPU 1 runs on core 1, to that exit."""
    pair.on(1)
    assert vcpus()[1].ready
    pair.box.guests[VM] = type('Once', (object,), {'run': staticmethod(lambda machine, registers, its: its.exit(*exit))})
    scheduler.compartment, scheduler.vcpu = compartments[VM], vcpus()[1]
    step()


def field(n, name):
    return int(switcher.vendor.get(vcpus()[n], getattr(fields, name)))


def told(pair, number=VM):
    """What the VMM's last call answered, on core 0."""
    pair.on(0)
    return pair.box.result(number)


# -- joining

def test_a_branch_is_made_when_it_is_offered_and_the_vmm_begins_when_it_is_made(fresh_pair):
    pair = fresh_pair
    assert join(pair, BRANCH, 0, NAME) == (status.NOT_OFFERED, 0)
    make(pair)
    assert pair.on(0) and not compartments[VM].task.ready, 'its vCPUs have no place yet'
    pair.settle()
    pair.on(1)
    assert int(manager.signals) >> call.SLOT_LINK & 1, 'the manager is told'
    assert join(pair, BRANCH, 0, NAME + 1) == (status.NOT_OFFERED, 0)
    assert join(pair, BRANCH, 0, NAME) == (status.OK, 0)
    branch = compartments[VM]
    assert branch.is_branch() and [(int(v.core), v.away) for v in vcpus()] == [(0, True), (1, False)] and branch.here == 1
    home_root = int(branch.nested.root)
    pair.on(0)
    assert not compartments[VM].task.ready
    pair.settle()
    assert compartments[VM].task.ready and int(compartments[VM].nested.root) == home_root
    assert [(int(v.core), v.away) for v in vcpus()] == [(0, False), (1, True)]
    assert join(pair, BRANCH + 1, 0, NAME) == (status.NOT_OFFERED, 0), 'once'


@pytest.mark.parametrize('arguments, code', [((BRANCH, 1, NAME), status.BAD_SLOT), ((BRANCH, 2, NAME), status.BAD_SLOT), ((BRANCH, (1 << 64) - 1, NAME), status.BAD_SLOT),
                                             ((BRANCH, 0, 8), status.BAD_RANGE), ((BRANCH, 0, (1 << 64) - 1), status.BAD_RANGE),
                                             ((call.SLOT_LINK, 0, NAME), status.SLOT_IN_USE), ((64, 0, NAME), status.SLOT_IN_USE)])
def test_join_checks_what_it_is_asked(fresh_pair, arguments, code):
    pair = fresh_pair
    make(pair)
    pair.settle()
    assert join(pair, *arguments) == (code, 0)
    assert join(pair, BRANCH, 0, NAME) == (status.OK, 0)


@pytest.mark.parametrize('core, name, code', [(2, 0, status.BAD_RANGE), (8, 0, status.BAD_RANGE), (1 << 63, 0, status.BAD_RANGE), (1, 8, status.BAD_RANGE),
                                              (0, 8, status.BAD_RANGE), (1, 0, status.OK), (0, 0, status.OK)])
def test_a_vcpu_lives_on_a_core_of_the_box(fresh_pair, core, name, code):
    pair = fresh_pair
    assert pair.on(0).box.kernel_call(0, call.CREATE, SLOT, *run(VM)) == (status.OK, 0)
    assert pair.call(0, 0, call.VCPU_CREATE, SLOT, FIRST, 1, 0) == (status.BAD_RANGE, 0), 'the first is at home'
    assert pair.call(0, 0, call.VCPU_CREATE, SLOT, FIRST, 0, 0) == (status.OK, 0)
    assert pair.call(0, 0, call.VCPU_CREATE, SLOT, SECOND, core, name) == (code, 0)


def test_two_vms_of_one_name_are_refused(fresh_pair):
    pair = fresh_pair
    make(pair, start=False)
    assert pair.on(0).box.kernel_call(0, call.CREATE, SLOT + 1, *run(VM + 1)) == (status.OK, 0)
    assert pair.call(0, 0, call.VCPU_CREATE, SLOT + 1, FIRST, 0, NAME) == (status.OK, 0)
    assert pair.call(0, 0, call.VCPU_CREATE, SLOT + 1, SECOND, 1, NAME) == (status.BAD_STATE, 0)
    assert pair.call(0, 0, call.VCPU_CREATE, SLOT + 1, SECOND, 1, NAME + 1) == (status.OK, 0)


def test_a_branch_gets_no_frames_and_no_mappings(pair):
    """Its nested tables lie in its home's memory, which this kernel does not map."""
    for rights in (call.READ, call.READ | call.GUEST, call.GUEST, 0):
        assert pair.call(1, 0, call.MAP, BRANCH, M, 0, 0x10000000, 1, rights) == (status.BAD_STATE, 0)
    assert pair.call(1, 0, call.GIVE, BRANCH, M, 0, 1, call.SLOT_RAM) == (status.BAD_STATE, 0)
    audit.check(pair.box)


@pytest.mark.parametrize('places', [0x20, 0x80, 0xf0])
def test_an_offer_with_a_core_that_the_box_has_not_is_none(fresh_pair, places):
    pair = fresh_pair
    make(pair)
    pair.on(0)
    compartments[VM].cores = r_uint(places)
    pair.settle()
    assert join(pair, BRANCH, 0, NAME) == (status.NOT_OFFERED, 0)


def test_a_branch_that_cannot_be_made_ends_the_vm(fresh_pair):
    pair = fresh_pair
    make(pair)
    pair.settle()
    pair.on(1)
    for compartment in compartments[1:]:
        compartment.used = True
    assert join(pair, BRANCH, 0, NAME) == (status.NO_ROOM, 0)
    pair.settle()
    pair.on(0)
    assert (compartments[VM].state, compartments[VM].how, int(compartments[VM].detail)) == (call.STATE_ENDED, ending.NOT_STARTED, status.NO_ROOM)
    assert int(manager.signals) >> SLOT & 1


def test_a_branch_without_memory_leaves_nothing_behind(fresh_pair):
    pair = fresh_pair
    make(pair)
    pair.settle()
    pair.on(1)
    region, first, _ = run(VM)
    for count in range(1, 30):
        if pair.call(1, 0, call.JOIN, BRANCH, 0, NAME, region, first, count)[0] == status.OK:
            assert count > 5
            return
        assert not compartments[VM].used and manager.kinds[BRANCH] == 0
        assert all(vcpu is None for vcpu in compartments[VM].vcpus)
        audit.check(pair.box)
        offer = offers.of(0, NAME)
        assert offer.failed == status.NO_MEMORY and int(offer.root) == 0
        offer.failed, offer.root, offer.count, offer.cores = 0, r_uint(PAGE), 2, r_uint(0x10)      # as if it were offered again
    raise AssertionError('never enough')


# -- answers and exits

def test_the_vmms_first_answer_reaches_the_core_that_the_vcpu_lives_on(pair):
    pair.on(1)
    assert vcpus()[1].started and not vcpus()[1].ready and vcpus()[1].waiting
    assert pair.box.memory.word(pair.box.memory.translated(int(vcpus()[1].cpuid), False) * PAGE + (int(vcpus()[1].cpuid) & 0xfff)) & 0xffffffff == 0x1234


def test_startup_begins_it_there(pair):
    start_second(pair)
    pair.on(1)
    assert vcpus()[1].ready and field(1, 'CS_SELECTOR') == 0x9a00 and field(1, 'RIP') == 0
    pair.on(0)
    assert not vcpus()[1].ready, 'here it is only spoken of'


def test_an_exit_is_answered_by_the_vmm_of_the_other_core(pair):
    start_second(pair)
    exit_second(pair, svm.EXIT_IOIO, IO_IN, 2)
    assert vcpus()[1].outstanding and not vcpus()[1].ready
    pair.settle()
    pair.on(0)
    assert told(pair) == (status.OK, call.REASON_EXIT | 1 << call.REASON_VCPU_SHIFT)
    page = vcpu_page(VM, 1)
    assert [pair.box.memory.word(page + EXIT[name]) for name in ('KIND', 'SELECTOR', 'SIZE', 'FLAGS')] == [kinds.IO, 0x3f8, 1, kinds.IO_IN]
    put = [pair.box.memory.put_word(page + STATE[name], 0xdead) for name in STATE if name != 'END']
    assert put and pair.call(0, VM, READ_STATE, SECOND, GROUP_SEGMENT | GROUP_FLOW) == (status.OK, 0)
    assert pair.box.memory.word(page + STATE['CS_BASE']) == 0x9a000 and pair.box.memory.word(page + STATE['RIP']) == 0
    assert pair.box.memory.word(page + STATE['RAX']) == 0xdead, 'what was not asked for stays'
    for name, value in (('ACTION', COMPLETE), ('RESULT', 0x61), ('DIRTY', 0)):
        pair.box.memory.put_word(page + ANSWER[name], value)
    assert pair.call(0, VM, RUN, SECOND, 0) is None
    pair.settle()
    pair.on(1)
    assert vcpus()[1].ready and vcpus()[1].gpr(machines.AREA['RAX']) & 0xff == 0x61 and field(1, 'RIP') == 2
    audit.check(pair.box)


@pytest.mark.parametrize('groups', [GROUP_GPR, GROUP_FLOW, GROUP_CONTROL, GROUP_SEGMENT, GROUP_TABLE, GROUP_TIME, GROUP_VECTOR])
def test_what_the_vmm_changes_of_its_state_is_changed_there(pair, groups):
    """Each group goes over and comes back."""
    start_second(pair)
    exit_second(pair, svm.EXIT_NPF, 4, 0xd0000000)
    pair.settle()
    pair.on(0)
    page = vcpu_page(VM, 1)
    assert pair.call(0, VM, READ_STATE, SECOND, groups) == (status.OK, 0)
    name, value = {GROUP_GPR: ('R9', 0x1122334455667788), GROUP_FLOW: ('RIP', 0x77), GROUP_CONTROL: ('CR2', 0x5000), GROUP_SEGMENT: ('FS_BASE', 0x123000),
                   GROUP_TABLE: ('IDTR_BASE', 0x4000), GROUP_TIME: ('TSC_OFFSET', 0x99), GROUP_VECTOR: ('YMM3_1', 0xabcdef)}[groups]
    pair.box.memory.put_word(page + STATE[name], value)
    for place, word in (('ACTION', RESUME), ('DIRTY', groups)):
        pair.box.memory.put_word(page + ANSWER[place], word)
    assert pair.call(0, VM, RUN, SECOND, 0) is None
    pair.settle()
    exit_second(pair, svm.EXIT_NPF, 4, 0xd0000000)
    pair.settle()
    pair.on(0)
    pair.box.memory.put_word(page + STATE[name], 0)
    assert pair.call(0, VM, READ_STATE, SECOND, groups) == (status.OK, 0)
    assert pair.box.memory.word(page + STATE[name]) == value


def test_its_keys_come_with_its_exit(pair):
    start_second(pair)
    pair.on(1)
    vcpus()[1].pkru = r_uint(0x55555554)
    exit_second(pair, svm.EXIT_NPF, 4, 0xd0000000)
    pair.settle()
    pair.on(0)
    assert pair.call(0, VM, READ_STATE, SECOND, GROUP_KEYS) == (status.OK, 0)
    assert pair.box.memory.word(vcpu_page(VM, 1) + STATE['PKRU']) == 0x55555554


def test_an_answer_that_breaks_a_rule_ends_the_vm_on_both_cores(pair):
    start_second(pair)
    exit_second(pair, svm.EXIT_IOIO, IO_IN, 2)
    pair.settle()
    pair.on(0)
    pair.box.memory.put_word(vcpu_page(VM, 1) + ANSWER['ACTION'], 7)
    assert pair.call(0, VM, RUN, SECOND, 0) is None
    pair.settle()
    for core in (0, 1):
        pair.on(core)
        vm = compartments[VM]
        assert (vm.state, vm.how, int(vm.detail)) == (call.STATE_ENDED, ending.VMM_BAD_ANSWER, rules.RULE_ACTION_UNKNOWN)
        audit.check(pair.box)


# -- interrupts

def requests(n):
    return set(vector for vector in range(256) if int(vcpus()[n].apic.irr[vector >> 6]) >> (vector & 63) & 1)


@pytest.mark.parametrize('sender', [0, 1])
def test_interrupts_pass_both_ways(pair, sender):
    start_second(pair)
    other = 1 - sender
    enable(pair)
    pair.on(sender)
    for vector in (VECTOR, VECTOR + 1, VECTOR, 0xfe):
        interrupts.send(vcpus()[sender], r_uint(ASSERT | vector), r_uint(other))
    interrupts.send(vcpus()[sender], r_uint(ASSERT | NMI), r_uint(other))
    pair.settle()
    pair.on(other)
    assert requests(other) == set([VECTOR, VECTOR + 1, 0xfe]) and vcpus()[other].apic.nmi and vcpus()[other].attention
    pair.on(sender)
    assert not requests(other) and not vcpus()[other].apic.nmi, 'nothing of it stays with the sender'
    assert not requests(sender)


def test_a_halted_vcpu_of_another_core_is_woken(pair):
    start_second(pair)
    enable(pair)
    switcher.vendor.set(vcpus()[1], fields.RFLAGS, r_uint(0x202))
    exit_second(pair, svm.EXIT_HLT)
    assert vcpus()[1].halted and not vcpus()[1].ready
    pair.on(0)
    assert pair.call(0, 0, call.INSPECT, SLOT)[0] == status.OK
    interrupts.send(vcpus()[0], r_uint(ASSERT | VECTOR), r_uint(1))
    pair.settle()
    pair.on(1)
    assert not vcpus()[1].halted and vcpus()[1].ready


def test_what_an_apic_answers_to_is_known_on_the_other_core(pair):
    """Logical destinations, and an APIC that is switched off."""
    start_second(pair)
    pair.on(1)
    interrupts.write_register(vcpus()[1], lapic.SPURIOUS, r_uint(0x1ff))
    interrupts.write_register(vcpus()[1], lapic.LDR, r_uint(0x40 << 24))
    pair.settle()
    pair.on(0)
    interrupts.send(vcpus()[0], r_uint(ASSERT | LOGICAL | VECTOR), r_uint(0x40))
    interrupts.send(vcpus()[0], r_uint(ASSERT | LOGICAL | VECTOR + 1), r_uint(0x20))
    pair.settle()
    pair.on(1)
    assert requests(1) == set([VECTOR])
    interrupts.write_register(vcpus()[1], lapic.SPURIOUS, r_uint(0xff))
    pair.settle()
    pair.on(0)
    interrupts.send(vcpus()[0], r_uint(ASSERT | VECTOR + 2), r_uint(1))
    pair.settle()
    pair.on(1)
    assert requests(1) == set([VECTOR])


def test_an_apic_that_was_switched_on_a_moment_ago_takes_what_is_sent_to_it(pair):
    """A guest may see that a processor is ready before the other core's kernel has heard of its APIC."""
    start_second(pair)
    pair.on(1)
    interrupts.write_register(vcpus()[1], lapic.SPURIOUS, r_uint(0x1ff))
    pair.on(0)
    interrupts.send(vcpus()[0], r_uint(ASSERT | VECTOR), r_uint(1))
    pair.settle()
    pair.on(1)
    assert requests(1) == set([VECTOR])


def test_a_vector_below_16_is_the_receivers_error(pair):
    start_second(pair)
    enable(pair)
    pair.on(0)
    interrupts.send(vcpus()[0], r_uint(ASSERT | 9), r_uint(1))
    pair.settle()
    assert int(vcpus()[1].apic.esr_pending) == 0
    pair.on(1)
    assert int(vcpus()[1].apic.esr_pending) == lapic.ESR_ILLEGAL_RECEIVED and not requests(1)


def test_messages_of_the_vmm_reach_whom_they_name(pair):
    start_second(pair)
    enable(pair)
    pair.on(0)
    compartments[VM].task.deadline_passed()
    assert pair.call(0, VM, SEND, FIRST, call.INTERRUPT_LEVEL, VECTOR, 1) == (status.OK, 1)
    assert pair.call(0, VM, SEND, FIRST, call.INTERRUPT_FIXED, VECTOR + 1, 0xff) == (status.OK, 2)
    pair.settle()
    assert requests(0) == set([VECTOR + 1])
    pair.on(1)
    assert requests(1) == set([VECTOR, VECTOR + 1])
    assert vcpus()[1].apic.is_level(VECTOR) and not vcpus()[1].apic.is_level(VECTOR + 1)


def test_extint_goes_on_and_off_there(pair):
    pair.on(0)
    compartments[VM].task.deadline_passed()
    for kind, expected in ((call.INTERRUPT_EXTINT_ON, True), (call.INTERRUPT_EXTINT_OFF, False), (call.INTERRUPT_EXTINT_ON, True)):
        assert pair.call(0, VM, SEND, SECOND, kind, 0, 0) == (status.OK, 1)
        pair.settle()
        pair.on(1)
        assert vcpus()[1].apic.extint == expected


def test_init_while_its_exit_is_the_vmms_waits_for_the_answer(pair):
    start_second(pair)
    exit_second(pair, svm.EXIT_IOIO, IO_IN, 2)
    pair.settle()
    pair.on(0)
    interrupts.send(vcpus()[0], r_uint(INIT | ASSERT | LEVEL), r_uint(1))
    pair.settle()
    pair.on(1)
    assert vcpus()[1].init and vcpus()[1].outstanding
    pair.on(0)
    for name, value in (('ACTION', COMPLETE), ('RESULT', 0x61), ('DIRTY', 0)):
        pair.box.memory.put_word(vcpu_page(VM, 1) + ANSWER[name], value)
    assert pair.call(0, VM, RUN, SECOND, 0) is None
    pair.settle()
    pair.on(1)
    assert vcpus()[1].waiting and not vcpus()[1].ready and not vcpus()[1].init


def test_init_takes_back_what_has_not_been_sent(pair):
    start_second(pair)
    enable(pair)
    pair.on(0)
    interrupts.send(vcpus()[0], r_uint(ASSERT | VECTOR), r_uint(1))
    interrupts.send(vcpus()[0], r_uint(STARTUP | ASSERT | 0x20), r_uint(1))
    interrupts.send(vcpus()[0], r_uint(INIT | ASSERT | LEVEL), r_uint(1))
    pair.settle()
    pair.on(1)
    assert vcpus()[1].waiting and not requests(1)


# -- what a VMM asks and waits for

def test_a_register_of_its_apic_is_read_and_written_there(pair):
    pair.on(0)
    compartments[VM].task.deadline_passed()
    assert pair.call(0, VM, APIC_CALL, SECOND, lapic.TPR, 1, 0x50) is None
    assert compartments[VM].task.blocked == IN_ASK
    pair.settle()
    assert told(pair) == (status.OK, 0) and compartments[VM].task.ready
    assert pair.call(0, VM, APIC_CALL, SECOND, lapic.TPR, 0, 0) is None
    pair.settle()
    assert told(pair) == (status.OK, 0x50)
    assert pair.call(0, VM, APIC_CALL, SECOND, 0x400, 0, 0) == (status.BAD_RANGE, 0)
    pair.on(1)
    assert int(vcpus()[1].apic.tpr) == 0x50
    pair.on(0)
    assert int(vcpus()[1].apic.tpr) == 0


def test_a_read_of_a_register_of_its_apic_brings_what_that_core_has(pair):
    start_second(pair)
    pair.on(1)
    vcpus()[1].apic.write(lapic.LDR, r_uint(0x7000000), r_uint(0))
    exit_second(pair, svm.EXIT_NPF, 1 << 32 | 4, lapic.APIC_BASE_RESET + lapic.LDR)
    pair.settle()
    pair.on(0)
    page = vcpu_page(VM, 1)
    assert pair.box.memory.word(page + EXIT['FLAGS']) == kinds.ACCESS_READ | kinds.ACCESS_OPERAND | kinds.ACCESS_BROUGHT
    assert pair.box.memory.word(page + EXIT['VALUE']) >> BROUGHT_SHIFT == 0x7000000


def test_what_was_raised_before_a_reset_does_not_come_behind_it(pair):
    start_second(pair)
    enable(pair)
    pair.on(0)
    compartments[VM].task.deadline_passed()
    interrupts.send(vcpus()[0], r_uint(ASSERT | NMI), r_uint(1))        # not sent yet
    interrupts.send(vcpus()[0], r_uint(STARTUP | ASSERT | 0x20), r_uint(1))
    news.any = False
    assert pair.call(0, VM, SEND, SECOND, call.INTERRUPT_RESET, 0, 0) is None
    pair.settle()
    pair.on(1)
    assert vcpus()[1].waiting and not vcpus()[1].apic.nmi


def test_a_reset_is_over_when_the_vmm_hears_of_it(pair):
    """What had come of the vCPU before is forgotten; it waits for STARTUP again."""
    start_second(pair)
    exit_second(pair, svm.EXIT_IOIO, IO_IN, 2)
    pair.on(0)
    compartments[VM].task.deadline_passed()
    assert pair.call(0, VM, SEND, SECOND, call.INTERRUPT_RESET, 0, 0) is None
    pair.settle()
    assert told(pair) == (status.OK, 1)
    assert not vcpus()[1].outstanding and not compartments[VM].task.owes
    pair.on(1)
    assert vcpus()[1].waiting and not vcpus()[1].outstanding and not vcpus()[1].ready and vcpus()[1].started
    start_second(pair)
    pair.on(1)
    assert vcpus()[1].ready


# -- the end

def test_the_vm_has_ended_when_nothing_of_it_runs_on_any_core(pair):
    start_second(pair)
    exit_second(pair, svm.EXIT_CPUID)
    pair.on(1)
    vcpus()[1].ticks = r_uint(777)
    exits = int(compartments[VM].exits(kinds.CPUID))
    assert exits == 1
    assert pair.call(0, 0, call.STOP, SLOT, ending.DESTROYED, 5) == (status.OK, 0)
    vm = compartments[VM]
    assert vm.state == call.STATE_RUNNING and vm.leaving == 2 and not vm.task.ready and not any(v.ready for v in vcpus())
    assert pair.call(0, 0, call.TAKE, SLOT, call.SLOT_RAM, M)[0] == status.BAD_STATE, 'core 1 might still write there'
    before = int(vm.run_ticks())
    pair.settle()
    assert (vm.state, vm.how, int(vm.detail)) == (call.STATE_ENDED, ending.DESTROYED, 5)
    assert int(manager.signals) >> SLOT & 1
    assert int(vm.exits(kinds.CPUID)) == 1 and int(vm.run_ticks()) == before + 777
    assert pair.call(0, 0, call.TAKE, SLOT, call.SLOT_RAM, M) == (status.OK, 0)
    pair.on(1)
    assert compartments[VM].state == call.STATE_ENDED and int(manager.signals) >> BRANCH & 1
    assert pair.call(1, 0, call.STOP, BRANCH, ending.DESTROYED, 0) == (status.OK, 0), 'released'
    assert not compartments[VM].used
    for core in (0, 1):
        pair.on(core)
        audit.check(pair.box)


def test_what_has_to_be_the_end_on_the_other_core_is_the_vms_end(pair):
    start_second(pair)
    exit_second(pair, svm.EXIT_FERR_FREEZE)
    pair.on(1)
    assert compartments[VM].how == ending.KERNEL_LIMIT
    assert pair.call(1, 0, call.STOP, BRANCH, ending.DESTROYED, 0) == (status.IN_USE, 0), 'its home has not heard of it'
    pair.settle()
    pair.on(0)
    assert (compartments[VM].state, compartments[VM].how) == (call.STATE_ENDED, ending.KERNEL_LIMIT)
    assert pair.call(1, 0, call.STOP, BRANCH, ending.DESTROYED, 0) == (status.OK, 0)


def test_the_branchs_manager_may_end_the_vm(pair):
    assert pair.call(1, 0, call.STOP, BRANCH, ending.TIME_LIMIT, 50) == (status.OK, 0)
    pair.settle()
    pair.on(0)
    assert (compartments[VM].how, int(compartments[VM].detail)) == (ending.TIME_LIMIT, 50)


def test_both_may_end_it_at_once(pair):
    assert pair.call(1, 0, call.STOP, BRANCH, ending.TIME_LIMIT, 50) == (status.OK, 0)
    assert pair.call(0, 0, call.STOP, SLOT, ending.DESTROYED, 5) == (status.OK, 0)
    pair.settle()
    pair.on(0)
    assert (compartments[VM].state, compartments[VM].how) == (call.STATE_ENDED, ending.DESTROYED)
    pair.on(1)
    assert compartments[VM].name == NO_NAME and compartments[VM].news == 0


def test_a_vm_that_ends_before_it_was_joined_is_offered_no_more(fresh_pair):
    pair = fresh_pair
    make(pair)
    pair.settle()
    assert pair.call(0, 0, call.STOP, SLOT, ending.DESTROYED, 0) == (status.OK, 0)
    pair.on(0)
    assert compartments[VM].state != call.STATE_ENDED
    pair.settle()
    assert compartments[VM].state == call.STATE_ENDED
    assert join(pair, BRANCH, 0, NAME) == (status.NOT_OFFERED, 0)


def test_a_vm_that_ends_before_it_was_offered_needs_nobody(fresh_pair):
    pair = fresh_pair
    make(pair, start=False)
    assert pair.call(0, 0, call.STOP, SLOT, ending.DESTROYED, 0) == (status.OK, 0)
    assert compartments[VM].state == call.STATE_ENDED


def test_a_core_that_dies_takes_the_vms_with_vcpus_on_it(pair):
    pair.on(1)
    with pytest.raises(hw_cpu.Halted):
        panic.k_panic_code(1, r_uint(0))
    pair.on(0)
    pair.box.messages[:] = []
    scheduler.bell.answer()
    assert (compartments[VM].state, compartments[VM].how, int(compartments[VM].detail)) == (call.STATE_ENDED, ending.CORE_STOPPED, 1)
    assert int(manager.signals) >> SLOT & 1
    audit.check(pair.box)


def test_a_vm_that_begins_when_a_core_of_its_has_stopped_ends_at_once(fresh_pair):
    pair = fresh_pair
    make(pair, start=False)
    pair.on(1)
    with pytest.raises(hw_cpu.Halted):
        panic.k_panic_code(1, r_uint(0))
    pair.on(0)
    scheduler.bell.answer()
    assert compartments[VM].state == call.STATE_ENDED or pair.call(0, 0, call.START, SLOT, TASK_BASE, 0, 0) == (status.OK, 0)
    pair.flush()
    assert (compartments[VM].state, compartments[VM].how, int(compartments[VM].detail)) == (call.STATE_ENDED, ending.CORE_STOPPED, 1)
    assert int(manager.signals) >> SLOT & 1


def test_a_vm_that_is_made_when_a_core_of_its_has_stopped_ends_at_once(fresh_pair):
    pair = fresh_pair
    pair.on(1)
    with pytest.raises(hw_cpu.Halted):
        panic.k_panic_code(1, r_uint(0))
    pair.on(0)
    scheduler.bell.answer()
    make(pair)
    pair.flush()
    assert (compartments[VM].state, compartments[VM].how, int(compartments[VM].detail)) == (call.STATE_ENDED, ending.CORE_STOPPED, 1)


def test_a_core_that_dies_while_it_is_waited_for_is_not(pair):
    assert pair.call(0, 0, call.STOP, SLOT, ending.DESTROYED, 5) == (status.OK, 0)
    pair.on(1)
    with pytest.raises(hw_cpu.Halted):
        panic.k_panic_code(1, r_uint(0))
    pair.on(0)
    scheduler.bell.answer()
    assert (compartments[VM].state, compartments[VM].how) == (call.STATE_ENDED, ending.DESTROYED)


# -- no room, and lies

def test_what_finds_no_room_is_sent_later(pair):
    start_second(pair)
    enable(pair)
    pair.on(0)
    full = 0
    while wires.room(1) >= r_uint(spec.HEADER['END'] + spec.RAISE_FIELDS['END']):
        interrupts.send(vcpus()[0], r_uint(ASSERT | VECTOR), r_uint(1))
        pair.flush()
        full += 1
    assert full > 10
    for vector in (0x31, 0x32, 0xe3):
        interrupts.send(vcpus()[0], r_uint(ASSERT | vector), r_uint(1))
        pair.flush()
    assert requests(1) == set([0x31, 0x32, 0xe3]), 'they wait here'
    assert pair.call(0, 0, call.STOP, SLOT, ending.DESTROYED, 5) == (status.OK, 0)
    pair.on(1)
    assert compartments[VM].state == call.STATE_RUNNING
    pair.settle()
    pair.on(0)
    assert compartments[VM].state == call.STATE_ENDED


def test_what_found_no_room_comes_though_something_shorter_was_sent_after_it(fresh_pair):
    """An exit that is too long for what is left of the page, and a short message behind it."""
    pair = fresh_pair
    joined(pair, (0, 1, 0))
    start_second(pair)
    enable(pair)
    pair.on(1)
    short = spec.HEADER['END'] + spec.RAISE_FIELDS['END']
    while wires.room(0) >= r_uint(spec.HEADER['END'] + spec.STATE_END):
        interrupts.send(vcpus()[1], r_uint(ASSERT | VECTOR), r_uint(0))
        pair.flush()
    exit_second(pair, svm.EXIT_IOIO, IO_IN, 2)
    interrupts.send(vcpus()[1], r_uint(ASSERT | VECTOR), r_uint(2))
    pair.flush()
    assert wires.room(0) >= r_uint(short) and vcpus()[1].news and not vcpus()[2].news, 'the exit waits, the interrupt went'
    pair.settle()
    assert told(pair) == (status.OK, call.REASON_EXIT | 1 << call.REASON_VCPU_SHIFT)


def test_requests_wait_and_come_together(pair):
    start_second(pair)
    enable(pair)
    pair.on(0)
    while wires.room(1) >= r_uint(spec.HEADER['END'] + spec.RAISE_FIELDS['END']):
        interrupts.send(vcpus()[0], r_uint(ASSERT | VECTOR), r_uint(1))
        pair.flush()
    for vector in (0x31, 0x32, 0xe3):
        interrupts.send(vcpus()[0], r_uint(ASSERT | vector), r_uint(1))
        pair.flush()
    pair.settle()
    pair.on(1)
    assert requests(1) == set([VECTOR, 0x31, 0x32, 0xe3])


COST = 50000                    # ticks of a message in these tests
ENOUGH = 40


class Slow(object):
    """In the place of hw.cpu: a message takes COST ticks."""

    def __init__(self, pair):
        self.pair = pair

    def rdtsc(self):
        self.pair.box.cpu.tsc += COST
        return hw_cpu.rdtsc()


def slowly(pair, monkeypatch, entitlement):
    """The branch has a promise on core 1, where the manager is at work. Returns the branch's share."""
    start_second(pair)
    enable(pair)
    pair.on(1)
    monkeypatch.setattr(away, 'cpu', Slow(pair))
    scheduler.promise(compartments[VM], entitlement, 0, 100)
    manager.task.wake()
    scheduler.charge(hw_cpu.rdtsc())
    scheduler.compartment, scheduler.vcpu, scheduler.since = manager, None, hw_cpu.rdtsc()
    scheduler.start_slice(scheduler.since)
    return compartments[VM].share


def say(pair, vector=VECTOR):
    pair.on(0)
    interrupts.send(vcpus()[0], r_uint(ASSERT | vector), r_uint(1))
    pair.settle()
    pair.on(1)


@pytest.mark.parametrize('entitlement', [1, 20])
def test_messages_are_paid_by_whom_they_are_about_and_cost_no_more_than_it_is_promised(pair, monkeypatch, entitlement):
    own = slowly(pair, monkeypatch, entitlement)
    period = int(scheduler.period_ticks)
    budget, began = own.budget, int(scheduler.charged)
    count = 0
    while not int(holds.bits):
        say(pair)
        count += 1
        assert count < ENOUGH
    assert own.heard >= 2 * COST * count and int(scheduler.charged) >= began + COST * count     # what it has interrupted does not pay
    assert budget - own.budget + own.virtual >= own.heard > own.promised == entitlement * (period // 100)
    assert own.heard - own.promised <= 4 * COST
    say(pair, VECTOR + 1)
    say(pair, VECTOR + 2)
    assert requests(1) == set([VECTOR])
    assert int(scheduler.armed) <= max(int(scheduler.period_end), hw_cpu.rdtsc() + int(scheduler.shortest))
    pair.box.cpu.tsc = max(pair.box.cpu.tsc, int(scheduler.period_end))
    scheduler.tick()
    assert not int(holds.bits) and own.heard == 0
    pair.settle()
    pair.on(1)
    assert requests(1) == set([VECTOR, VECTOR + 1, VECTOR + 2])


def test_messages_wait_for_nobody_who_sleeps_and_not_when_their_own_vm_runs(pair, monkeypatch):
    own = slowly(pair, monkeypatch, 1)
    manager.task.ready = False
    for n in range(ENOUGH):
        say(pair)
    assert not int(holds.bits) and own.heard > own.promised
    manager.task.wake()
    say(pair)
    assert int(holds.bits)
    manager.task.ready = False
    scheduler.elect()
    assert scheduler.compartment is compartments[VM] and not int(holds.bits)
    heard = own.heard
    say(pair)
    assert own.heard == heard and not int(holds.bits)


def test_who_is_held_back_hears_of_it_when_nobody_wants_the_processor(pair, monkeypatch):
    slowly(pair, monkeypatch, 1)
    while not int(holds.bits):
        say(pair)
    say(pair, VECTOR + 1)
    vcpus()[1].ready = manager.task.ready = False
    scheduler.sleep()
    assert not int(holds.bits)
    pair.settle()
    pair.on(1)
    assert requests(1) == set([VECTOR, VECTOR + 1])


@pytest.mark.parametrize('seed', range(10))
def test_a_core_that_has_gone_mad_ends_its_own_vms_at_most(pair, seed):
    """Any bytes in the kernels' channel: nothing raises, no list is left, and what this kernel maps stays its own."""
    rng = random.Random(seed)
    pair.on(1)
    start_second(pair)
    for _ in range(40):
        pair.on(1)
        header = [rng.choice([rng.randrange(spec.KINDS + 2), rng.getrandbits(64)]), rng.choice([0, 0, 1, 2, rng.getrandbits(64)]),
                  rng.choice([NAME, NAME, 0, 8, rng.getrandbits(64)]), rng.choice([0, 1, 1, 4, rng.getrandbits(64)])]
        size = rng.choice([0, 8, 16, 24, 32, 80, spec.STATE_END, 3280, rng.randrange(0, 3500)])
        body = bytearray(rng.getrandbits(8) for _ in range(size)) if rng.randrange(2) else bytearray(size)
        told_size = size if rng.randrange(4) else rng.choice([0, 1, 5000, rng.getrandbits(64)])
        data = struct.pack('<5Q', *(header + [told_size])) + bytes(body)
        at = pair.box.memory.translated(int(wire.out), True) * PAGE
        pair.box.memory.put(at, data[:PAGE])
        wires.put(0, wire.out, r_uint(min(len(data), PAGE)))
        pair.on(0)
        if header[0] == spec.OFFER:
            continue
        scheduler.bell.answer()
    pair.on(0)
    pair.flush()
    audit.check(pair.box)
