"""What an entry on SVM delivers, where a shadow ends, and what is different on QEMU's own processor."""
import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.kernel import svm_exit
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.svm_quick import Words
from hypervisor.kernel.switch import switcher
from hypervisor.spec import refusal
from tests.unit.kernel.test_answers import VM
from tests.unit.kernel.test_guest_exits import running
from tests.unit.kernel.vm import block_of, exits, run_guest_once

INTR, VINTR, DB = 0x60, 0x64, 0x41
IF, TF, V_IRQ = 1 << 9, 1 << 8, 1 << 8
TICK = 0x41
PLACED = 1 << 24 | 1 << 20 | V_IRQ | TICK << 32       # V_INTR: masking, TPR ignored, and a virtual interrupt with its vector


def entries(box, *plays):
    """(EVENTINJ, RFLAGS, INTERRUPT_SHADOW, V_INTR, #DB intercepted) of each entry; plays: (RIP, shadow, exit code), what the guest does then."""
    seen = []
    for rip, shadow, code in plays:
        def play(machine, registers, block):
            seen.append((block.get('EVENTINJ') & 0xffffffff, block.get('RFLAGS'), block.get('INTERRUPT_SHADOW'), block.get('V_INTR'),
                         block.get('INTERCEPT_EXCEPTION') >> 1 & 1))
            block.set('RIP', rip)
            block.set('RFLAGS', block.get('RFLAGS') | IF)
            block.set('INTERRUPT_SHADOW', shadow)
            block.exit(code)
        run_guest_once(box, VM, play)
    return seen


def machine_of(make_machine, emulated):
    box = make_machine(leaves={0x40000000: (0x40000001, 0x54474354, 0x43544743, 0x47435447)} if emulated else {})
    assert box.boot() == refusal.NONE
    running(box)
    return box


@pytest.mark.parametrize('emulated', [False, True])
def test_an_interrupt_in_a_shadow_waits_for_the_next_instruction(make_machine, emulated):
    """Also where VMRUN begins no shadow, and says at the next interrupt that there is none. Source: APM Vol. 2, "Interrupt Shadows"."""
    box = machine_of(make_machine, emulated)
    vcpu = compartments[VM].vcpus[0]
    vcpu.apic.write(0xf0, r_uint(0x1ff), r_uint(0))
    vcpu.apic.request(TICK, False)
    vcpu.attention = True
    again = 0 if emulated else 1
    seen = entries(box, (0x1000, 1, INTR), (0x1000, again, INTR), (0x1000, again, INTR), (0x1003, 0, DB if emulated else VINTR), (0x1003, 0, INTR))
    for event, rflags, shadow, control, debug in seen[1:4]:
        assert not event >> 31 and shadow & 1
        assert (bool(rflags & TF), debug, bool(control & V_IRQ)) == ((True, 1, False) if emulated else (False, 0, True))
    event, rflags, shadow, control, debug = seen[4]
    assert not rflags & TF and not debug
    if emulated:
        assert not event >> 31 and control == PLACED
    else:
        assert event == 1 << 31 | TICK and not control & V_IRQ


def test_a_shadow_is_remembered_for_its_instruction_only(make_machine):
    box = machine_of(make_machine, True)
    seen = entries(box, (0x1000, 1, INTR), (0x1001, 0, INTR), (0x1001, 0, INTR))
    assert [shadow for _, _, shadow, _, _ in seen] == [0, 1, 0]


MISNAMED = 1 << 31 | 3 << 8 | TICK      # what QEMU says of a virtual interrupt's interrupted delivery: an exception


def placed(make_machine, emulated, *plays):
    """(EVENTINJ, V_INTR) of each entry of a guest that takes interrupts and for which one is requested.
    plays: (exit code, EXITINTINFO, has the virtual interrupt been taken)."""
    box = machine_of(make_machine, emulated)
    vcpu = compartments[VM].vcpus[0]
    vcpu.apic.write(0xf0, r_uint(0x1ff), r_uint(0))
    seen = []
    for n, (code, interrupted, taken) in enumerate(plays):
        def play(machine, registers, block):
            seen.append((block.get('EVENTINJ') & 0xffffffff, block.get('V_INTR')))
            block.set('RFLAGS', block.get('RFLAGS') | IF)
            if taken:
                block.set('V_INTR', block.get('V_INTR') & ~V_IRQ)
            block.exit(code, interrupted=interrupted)
        run_guest_once(box, VM, play)
        if n == 0:
            vcpu.apic.request(TICK, False)
            vcpu.attention = True
    return seen[1:]


def test_an_interrupt_is_injected_where_that_is_once(make_machine):
    assert placed(make_machine, False, (INTR, 0, False), (INTR, 0, False), (INTR, 0, False)) == [(1 << 31 | TICK, 1 << 24), (0, 1 << 24)]


def test_a_virtual_interrupt_that_was_taken_comes_once(make_machine):
    assert [word & ~(0xff << 32 | 1 << 20) for _, word in placed(make_machine, True, (INTR, 0, False), (INTR, 0, True), (INTR, 0, True))] == [
        1 << 24 | V_IRQ, 1 << 24]


@pytest.mark.parametrize('interrupted', [0, MISNAMED])
def test_a_virtual_interrupt_that_was_not_taken_is_not_lost(make_machine, interrupted):
    """Because one of the machine's came first, or in the middle of its delivery."""
    assert placed(make_machine, True, (INTR, 0, False), (INTR, interrupted, False), (INTR, 0, True)) == [(0, PLACED), (0, PLACED)]


def test_what_was_taken_back_is_not_asked_for_again(make_machine):
    """The straight path keeps the event of an exit that it then leaves to the loop, which does the same."""
    box = machine_of(make_machine, True)
    vcpu, block = compartments[VM].vcpus[0], block_of(box, VM)
    block.set('V_INTR', PLACED)
    block.set('EXITINTINFO', MISNAMED)
    for _ in range(2):
        svm_exit.keep_event(vcpu, vcpu.control)
        assert vcpu.event == r_uint(1 << 31 | TICK)


def test_a_virtual_interrupt_is_there_during_the_run_only(make_machine):
    """What the next entry delivers may be something else."""
    box = machine_of(make_machine, True)
    vcpu = compartments[VM].vcpus[0]
    vcpu.event = r_uint(1 << 31 | TICK)
    run_guest_once(box, VM, exits(INTR))
    assert block_of(box, VM).get('V_INTR') == 1 << 24 and vcpu.event == r_uint(1 << 31 | TICK)


@pytest.mark.parametrize('more', [False, True])
def test_a_window_and_a_virtual_interrupt_are_not_there_at_once(make_machine, more):
    """The one would be taken for the other. Whichever comes first, the interrupt is delivered, and the window opens at the exit that follows."""
    box = machine_of(make_machine, True)
    vcpu, seen = compartments[VM].vcpus[0], []
    vcpu.apic.write(0xf0, r_uint(0x1ff), r_uint(0))

    def play(machine, registers, block):
        seen.append((block.get('EVENTINJ') & 0xffffffff, block.get('V_INTR'), block.get('INTERCEPT_1') >> 4 & 1))
        block.exit(INTR)
        if block.get('V_INTR') >> 32 & 0xff:
            block.set('V_INTR', block.get('V_INTR') & ~V_IRQ)
            block.set('RFLAGS', block.get('RFLAGS') & ~IF)
    run_guest_once(box, VM, play)
    switcher.vendor.open_window(vcpu)
    switcher.vendor.interrupt(vcpu, TICK)
    if more:
        vcpu.apic.request(0x91, False)
        switcher.vendor.open_window(vcpu)
        assert vcpu.attention
    run_guest_once(box, VM, play)
    run_guest_once(box, VM, play)
    assert seen[1] == (0, PLACED, 0)
    assert (seen[2][0], seen[2][1] & V_IRQ, seen[2][2]) == ((0, V_IRQ, 1) if more else (0, 0, 0))


@pytest.mark.parametrize('window', [False, True])
def test_the_quick_path_injects_beside_a_window(make_machine, window):
    """Behind a STI, one may be open though the guest takes interrupts. The interrupt may come twice then, but is not lost."""
    box = machine_of(make_machine, True)
    vcpu = compartments[VM].vcpus[0]
    if window:
        switcher.vendor.open_window(vcpu)
    Words.inject(vcpu, r_uint(1 << 31 | TICK))
    block = block_of(box, VM)
    opened = 1 << 24 | 1 << 20 | V_IRQ
    assert (block.get('EVENTINJ') & 0xffffffff, block.get('V_INTR')) == ((1 << 31 | TICK, opened) if window else (0, PLACED))
    Words.inject(vcpu, r_uint(0))
    assert block.get('EVENTINJ') == 0


def test_an_exception_is_injected_everywhere(make_machine):
    box = machine_of(make_machine, True)
    vcpu, seen = compartments[VM].vcpus[0], []

    def play(machine, registers, block):
        seen.append((block.get('EVENTINJ') & 0xffffffff, block.get('V_INTR')))
        block.exit(INTR)
    run_guest_once(box, VM, play)
    vcpu.event = r_uint(1 << 31 | 3 << 8 | 6)
    run_guest_once(box, VM, play)
    assert seen[1] == (1 << 31 | 3 << 8 | 6, 1 << 24)
