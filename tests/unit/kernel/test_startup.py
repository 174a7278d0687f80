"""Several vCPUs of a VM: INIT and STARTUP, messages by destination, exits of any of them, turns within a slice."""
import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.kernel import interrupts
from hypervisor.kernel.compartment import bounds, compartments
from hypervisor.kernel.loop import step
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import switcher
from hypervisor.spec import call, ending, lapic, status, svm
from hypervisor.spec import exit as kinds
from hypervisor.spec import state as fields
from hypervisor.spec.vcpu import ANSWER, EXIT, GROUP_CPUID, GROUP_TIME, RESUME, STATE
from tests.unit.kernel.machine import TSC_HZ, Block, Guest, Program, Registers
from tests.unit.kernel.vm import make_vm, vcpu_page

VM, FIRST, SECOND, THIRD = 1, call.SLOT_VCPU, call.SLOT_VCPU + 1, call.SLOT_VCPU + 2
RUN, SEND = call.VCPU_RUN, call.VCPU_INTERRUPT
AT_ONCE = 1
INIT, STARTUP = lapic.INIT << 8, lapic.STARTUP << 8
ASSERT, LEVEL = lapic.ICR_ASSERT, lapic.ICR_LEVEL
VECTOR = 0x45
HLT, IO = svm.EXIT_HLT, svm.EXIT_IOIO
MS = TSC_HZ // 1000


def three(box):
    """A VM with three vCPUs; the first runs, the others wait for STARTUP."""
    make_vm(box, VM, vcpus=3)
    for slot in (SECOND, THIRD):
        box.memory.put_word(vcpu_page(VM, slot - FIRST) + ANSWER['DIRTY'], GROUP_CPUID)
        box.memory.put_word(vcpu_page(VM, slot - FIRST) + ANSWER['ACTION'], RESUME)
        assert box.kernel_call(VM, RUN, slot, AT_ONCE) is None
        compartments[VM].task.deadline_passed()
        assert box.result(VM) == (status.OK, call.REASON_DEADLINE)
    assert box.kernel_call(VM, RUN, FIRST, 0) is None
    for vcpu in vcpus():
        vcpu.apic.svr = r_uint(0x1ff)


def vcpus():
    return [vcpu for vcpu in compartments[VM].vcpus if vcpu is not None]


def ready():
    return [bool(vcpu.ready) for vcpu in vcpus()]


def send(command, destination, sender=0):
    interrupts.send(vcpus()[sender], r_uint(command), r_uint(destination))


def field(n, name):
    """A state field, as the guest has it."""
    return int(switcher.vendor.get(vcpus()[n], getattr(fields, name)))


def block(box, n):
    return Block(box, int(vcpus()[n].control))


def exit_of(box, n, *exit):
    """Let vCPU n run once, to that exit. The VMM must be blocked."""
    box.guests[VM] = type('Once', (object,), {'run': staticmethod(lambda machine, registers, its: its.exit(*exit))})
    scheduler.compartment, scheduler.vcpu = compartments[VM], vcpus()[n]
    assert vcpus()[n].ready
    step()


def test_others_wait_for_startup(fresh):
    fresh(three)
    assert ready() == [True, False, False] and [vcpu.index for vcpu in vcpus()] == [0, 1, 2]
    send(ASSERT | VECTOR, 1)
    assert ready() == [True, False, False], 'no interrupt starts one'


def test_startup_begins_in_real_mode_in_the_page_of_the_vector(fresh):
    box = fresh(three)
    send(INIT | ASSERT | LEVEL, 1)
    send(STARTUP | ASSERT | 0x9a, 1)
    assert ready() == [True, True, False]
    its = block(box, 1)
    assert field(1, 'RIP') == 0 and field(1, 'CS_BASE') == 0x9a000 and field(1, 'CS_SELECTOR') == 0x9a00
    assert its.get('CR0') & 0x80000001 == 0 and its.get('RFLAGS') == 2 and its.get('EFER') == 1 << 12
    send(STARTUP | ASSERT | 0x55, 1)
    assert field(1, 'CS_BASE') == 0x9a000, 'who does not wait is not started again'


def test_init_forgets_what_the_vcpu_was(fresh):
    box = fresh(three)
    send(STARTUP | ASSERT | 1, 1)
    vcpu, its = vcpus()[1], block(box, 1)
    for name, value in (('CR4', 0x20), ('CR3', 0x5000), ('RFLAGS', 0x202), ('DR7', 0x4ff), ('INTERRUPT_SHADOW', 1), ('LSTAR', 77), ('CR0', 0xe0000011)):
        its.set(name, value)
    registers = Registers(box, int(vcpu.area))
    registers.set('RBX', 5)
    vcpu.event, vcpu.nmi_blocked, vcpu.halted, vcpu.apic.nmi = r_uint(0x80000030), True, True, True
    vcpu.apic.request(VECTOR, False)
    send(INIT | ASSERT | LEVEL, 1)
    assert ready() == [True, False, False] and vcpu.waiting and not vcpu.halted
    assert [its.get(name) for name in ('CR4', 'CR3', 'RFLAGS', 'DR7', 'INTERRUPT_SHADOW')] == [0, 0, 2, 0x400, 0]
    assert its.get('LSTAR') == 77 and its.get('CR0') == 0x60000010, 'MSRs and the cache bits stay'
    assert registers.get('RBX') == 0 and registers.get('RDX') >> 8 & 15
    assert not vcpu.event and not vcpu.nmi_blocked and not vcpu.apic.nmi and vcpu.apic.pending() < 0


def test_deassert_of_init_does_nothing(fresh):
    fresh(three)
    send(STARTUP | ASSERT | 1, 1)
    send(INIT | LEVEL, 1)
    assert ready() == [True, True, False]


def test_init_of_the_first_goes_to_the_reset_vector(fresh):
    fresh(three)
    send(STARTUP | ASSERT | 1, 1)
    send(INIT | ASSERT | LEVEL, 0, sender=1)
    assert ready() == [True, True, False]
    assert field(0, 'RIP') == 0xfff0 and field(0, 'CS_BASE') == 0xffff0000


def test_init_waits_for_the_answer_to_an_exit(fresh):
    box = fresh(three)
    send(STARTUP | ASSERT | 1, 1)
    exit_of(box, 1, IO, 0x3f80010, 7)
    assert box.result(VM) == (status.OK, call.REASON_EXIT | 1 << call.REASON_VCPU_SHIFT)
    send(INIT | ASSERT | LEVEL, 1)
    assert vcpus()[1].outstanding and not vcpus()[1].waiting
    assert box.kernel_call(VM, RUN, SECOND, 0) is None
    assert vcpus()[1].waiting and not vcpus()[1].outstanding and ready() == [True, False, False]
    send(STARTUP | ASSERT | 2, 1)
    assert field(1, 'CS_BASE') == 0x2000 and field(1, 'RIP') == 0


def test_exits_of_all_are_told_one_by_one(fresh):
    box = fresh(three)
    send(STARTUP | ASSERT | 1, 1)
    exit_of(box, 1, IO, 0x3f80010, 7)
    exit_of_first = vcpus()[0]
    box.guests[VM] = type('Once', (object,), {'run': staticmethod(lambda machine, registers, its: its.exit(IO, 0x3f80010, 7))})
    compartments[VM].task.ready = False         # it has not come to run yet
    scheduler.vcpu = exit_of_first
    step()
    compartments[VM].task.want()
    assert exit_of_first.outstanding and not exit_of_first.told
    assert box.kernel_call(VM, RUN, SECOND, 0) == (status.OK, call.REASON_EXIT)
    assert exit_of_first.told and compartments[VM].task.owes
    assert box.memory.word(vcpu_page(VM, 0) + EXIT['KIND']) == kinds.IO
    assert box.kernel_call(VM, RUN, SECOND, 0) == (status.BAD_STATE, 0), 'it would wait for ever'
    assert box.kernel_call(VM, RUN, FIRST, 0) is None
    assert not compartments[VM].task.owes and ready() == [True, True, False]


@pytest.mark.parametrize('destination, expected', [
    (0, [1, 0, 0]), (1, [0, 1, 0]), (7, [0, 0, 0]), (0xff, [1, 1, 1]), (call.DESTINATION_LOGICAL | 6, [0, 1, 1]), (call.DESTINATION_LOGICAL | 8, [0, 0, 0]),
    (call.DESTINATION_LOGICAL | call.DESTINATION_LOWEST | 6, [0, 1, 0]), (call.DESTINATION_LOWEST | 0xff, [1, 0, 0])])
@pytest.mark.parametrize('kind', [call.INTERRUPT_FIXED, call.INTERRUPT_LEVEL, call.INTERRUPT_NMI])
def test_messages_reach_whom_they_name(fresh, kind, destination, expected):
    box = fresh(three)
    for n, vcpu in enumerate(vcpus()):
        vcpu.apic.ldr = r_uint(1 << (24 + n))
    compartments[VM].task.wake()
    assert box.kernel_call(VM, SEND, THIRD, kind, VECTOR, destination) == (status.OK, sum(expected))
    if kind == call.INTERRUPT_NMI:
        assert [int(vcpu.apic.nmi) for vcpu in vcpus()] == expected
    else:
        assert [int(vcpu.apic.pending() == VECTOR) for vcpu in vcpus()] == expected
        assert [vcpu.apic.is_level(VECTOR) for vcpu in vcpus()] == [bool(each) and kind == call.INTERRUPT_LEVEL for each in expected]


def test_unknown_bits_of_a_destination_are_refused(fresh):
    box = fresh(three)
    compartments[VM].task.wake()
    assert box.kernel_call(VM, SEND, FIRST, call.INTERRUPT_FIXED, VECTOR, 1 << 10)[0] == status.BAD_RANGE


def test_lowest_priority_reaches_one(fresh):
    fresh(three)
    send(ASSERT | lapic.LOWEST << 8 | VECTOR, 0xff)
    assert [vcpu.apic.pending() for vcpu in vcpus()] == [VECTOR, -1, -1]


def test_hlt_without_interrupts_sleeps_until_nmi_while_another_lives(fresh):
    box = fresh(three)
    send(STARTUP | ASSERT | 1, 1)
    block(box, 1).set('RFLAGS', 2)
    exit_of(box, 1, HLT)
    vcpu = vcpus()[1]
    assert vcpu.halted and not vcpu.ready and not vcpu.outstanding
    send(ASSERT | VECTOR, 1)
    assert not vcpu.ready, 'RFLAGS.IF is clear'
    send(ASSERT | lapic.NMI << 8, 1)
    assert vcpu.ready


def test_hlt_without_interrupts_is_the_vmms_when_nobody_can_wake(fresh):
    box = fresh(three)
    send(STARTUP | ASSERT | 1, 1)
    for n in (1, 0):
        block(box, n).set('RFLAGS', 2)
        exit_of(box, n, HLT)
    assert vcpus()[1].halted and vcpus()[0].outstanding
    assert box.memory.word(vcpu_page(VM, 0) + EXIT['KIND']) == kinds.HLT


def test_reset_forgets_exits_and_wants_a_first_state_again(fresh):
    box = fresh(three)
    send(STARTUP | ASSERT | 1, 1)
    exit_of(box, 1, IO, 0x3f80010, 7)
    for slot in (FIRST, SECOND, THIRD):
        assert box.kernel_call(VM, SEND, slot, call.INTERRUPT_RESET, 0, 0)[0] == status.OK
    assert ready() == [False] * 3 and not any(vcpu.outstanding for vcpu in vcpus()) and not compartments[VM].task.owes
    assert [vcpu.waiting for vcpu in vcpus()] == [False, True, True]
    assert box.kernel_call(VM, RUN, FIRST, 0) is None
    assert ready() == [True, False, False]
    send(STARTUP | ASSERT | 3, 1)
    assert ready() == [True, True, False]


def spins():
    while True:
        yield ('spin', 1 << 60)


def exits_all_the_time():
    """Each exit is its VMM's."""
    while True:
        yield ('spin', 1000)
        yield ('exit', IO, 0x3f80010, 7)


def waits():
    while True:
        yield ('call', call.WAIT, 0)


def answers():
    """A VMM that needs ten times as long for an exit as its vCPU to the next."""
    slot = FIRST
    while True:
        _, reasons = yield ('call', RUN, slot, 0)
        if reasons & call.REASON_EXIT:
            slot = FIRST + (reasons >> call.REASON_VCPU_SHIFT)
            yield ('spin', 10000)


def run_two(box, first, second):
    """vCPUs 0 and 1 of VM as these generators. Returns their Guests."""
    send(STARTUP | ASSERT | 1, 1)
    guests = [Guest(first), Guest(second)]

    def run(machine, registers, its):
        n = [int(machine.memory.translated(int(vcpu.control), True)) * 4096 for vcpu in vcpus()[:2]].index(its.hpa)
        guests[n].run(machine, registers, its)
    box.guests[VM] = type('Two', (object,), {'run': staticmethod(run)})
    box.tasks[0], box.tasks[VM] = Program(waits), Program(answers)
    return guests


@pytest.mark.parametrize('neighbour', [False, True])
def test_vcpus_of_one_vm_take_turns(fresh, neighbour):
    """Each spins; neither is ever more than two turns ahead, and a neighbour has its half."""
    box = fresh(three)
    if neighbour:
        make_vm(box, 2)
        box.tasks[2], box.guests[2] = Program(answers), Guest(spins)
    guests = run_two(box, spins, spins)
    box.let_pass(10 * MS)                   # the slice in which the second one has come
    ahead = guests[0].ticks - guests[1].ticks
    for _ in range(20):
        box.let_pass(10 * MS)
        assert abs(guests[0].ticks - guests[1].ticks - ahead) <= 2 * MS + MS // 10
    assert min(guest.ticks for guest in guests) > (35 if neighbour else 80) * MS
    if neighbour:
        assert abs(sum(guest.ticks for guest in guests) - box.guests[2].ticks) <= 11 * MS


def test_vcpu_whose_vmm_works_has_its_turn_too(fresh):
    box = fresh(three)
    guests = run_two(box, exits_all_the_time, spins)
    box.let_pass(200 * MS)
    assert guests[1].ticks > 60 * MS and guests[0].ticks > MS


def test_siblings_share_an_asid_and_no_translations(fresh):
    box = fresh(three)
    send(STARTUP | ASSERT | 1, 1)
    flushed = []
    for n in (0, 1, 1, 0):
        box.guests[VM] = type('Once', (object,), {'run': staticmethod(
            lambda machine, registers, its: (flushed.append(bool(its.get('TLB_CONTROL') & 0xff)), its.exit(svm.EXIT_INTR)))})
        scheduler.compartment, scheduler.vcpu = compartments[VM], vcpus()[n]
        step()
    assert flushed == [True, True, False, True]


def test_a_vmm_that_waits_with_an_answer_owed_hurts_its_own_vm_only(fresh):
    box = fresh(three)
    make_vm(box, 2)
    exit_of(box, 0, IO, 0x3f80010, 7)
    for _ in range(3):
        assert box.kernel_call(VM, RUN, SECOND, 0) == (status.BAD_STATE, 0)
    assert compartments[2].state == call.STATE_RUNNING and compartments[VM].how == ending.NONE


def test_offset_of_the_tsc_goes_to_the_processor_and_the_deadlines(fresh):
    box = fresh(three)
    exit_of(box, 0, IO, 0x3f80010, 7)
    box.memory.put_word(vcpu_page(VM, 0) + STATE['TSC_OFFSET'], (1 << 64) - 5000)
    box.memory.put_word(vcpu_page(VM, 0) + ANSWER['ACTION'], RESUME)
    box.memory.put_word(vcpu_page(VM, 0) + ANSWER['DIRTY'], GROUP_TIME)
    assert box.kernel_call(VM, RUN, FIRST, 0) is None
    assert [int(block(box, n).get('TSC_OFFSET')) for n in range(3)] == [(1 << 64) - 5000, 0, 0]
    assert [int(vcpu.apic.tsc_offset) for vcpu in vcpus()] == [(1 << 64) - 5000, 0, 0]


def test_loops_end_behind_the_last_one_in_use(fresh):
    box = fresh(three)
    assert (bounds.compartments, bounds.vcpus) == (2, 3)
    for number in (2, 3):
        make_vm(box, number)
    assert (bounds.compartments, bounds.vcpus) == (4, 5)

    def destroy(number):
        slot = call.SLOT_MANAGER_FREE + number - 1
        box.kernel_call(0, call.STOP, slot, ending.DESTROYED, 0)
        assert box.kernel_call(0, call.TAKE, slot, call.SLOT_RAM, call.SLOT_MEMORY) == (status.OK, 0)
        assert box.kernel_call(0, call.STOP, slot, 0, 0) == (status.OK, 0)
    destroy(2)
    assert (bounds.compartments, bounds.vcpus) == (4, 5), 'the third is behind the hole'
    destroy(3)
    assert (bounds.compartments, bounds.vcpus) == (2, 3)
    make_vm(box, 2)
    assert (bounds.compartments, bounds.vcpus) == (3, 4)


def test_init_keeps_the_apics_mode_and_id(fresh):
    fresh(three)
    send(STARTUP | ASSERT | 1, 1)
    apic = vcpus()[1].apic
    assert apic.write_base(r_uint(int(apic.base) | lapic.APIC_BASE_X2APIC))
    ldr = int(apic.ldr)
    apic.tpr, apic.svr = r_uint(0x50), r_uint(0x1ff)
    send(INIT | ASSERT | LEVEL, 1)
    assert ldr == 1 << 1 and int(apic.ldr) == ldr and apic.is_x2apic() and apic.identity == 1
    assert int(apic.tpr) == 0 and int(apic.svr) == 0xff
