"""No register of one vCPU is ever visible in another: what stays live in the processor is exchanged, whole and in the right order."""
import pytest
from hypothesis import given, settings, strategies as st
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu as hw_cpu
from hypervisor.kernel import startup
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.switch import switcher
from hypervisor.spec import answer as rules
from hypervisor.spec import call, ending, refusal, status, svm
from hypervisor.spec.vcpu import GROUP_KEYS, RESUME, STATE
from tests.unit.kernel import audit
from tests.unit.kernel.vm import SLOT, make_vm, put_answer, run_guest_once, vcpu_page

RUN, VCPU = call.VCPU_RUN, call.SLOT_VCPU
STATE_BYTES = 832                   # x87 and SSE 512, header 64, AVX 256: Intel SDM Vol. 1, "Standard Format"
DEBUG = ['dr0', 'dr1', 'dr2', 'dr3', 'dr6']
RESET = {'dr0': 0, 'dr1': 0, 'dr2': 0, 'dr3': 0, 'dr6': 0xffff0ff0, 'xcr0': 1}


class Fpu(object):
    """The live state of the processor: one value stands for all of x87, SSE and AVX. log: what was done, in order."""

    def __init__(self, box, monkeypatch, xsave=True):
        self.box, self.value, self.log = box, 'boot', []
        self.kept = {}
        registers = box.cpu.register

        def put(name, function):
            # an llexternal cannot be called with fewer checks; the kernel's modules look it up in hypervisor.hw.cpu each time
            monkeypatch.setattr(hw_cpu, name, function)
        put('xsave', lambda area, mask: self.save(int(area), int(mask), registers['xcr0']))
        put('xrstor', lambda area, mask: self.load(int(area), int(mask), registers['xcr0']))
        put('fxsave', lambda area: self.save(int(area), 3, 3))
        put('fxrstor', lambda area: self.load(int(area), 3, 3))
        put('clts', lambda: registers.__setitem__('cr0', registers.get('cr0', 0) & ~8))

    def usable(self):
        assert self.box.cpu.register.get('cr4', 0) & 1 << 18, 'XSAVE with CR4.OSXSAVE clear is a fault'
        assert not self.box.cpu.register.get('cr0', 0) & 8, 'an FPU instruction with CR0.TS set is a fault'

    def save(self, area, mask, xcr0):
        self.usable()
        assert mask & ~xcr0 == 0 and mask in (3, 7), 'components %#x with XCR0 %#x' % (mask, xcr0)
        assert area % 64 == 0 and area % 4096 + STATE_BYTES <= 4096
        self.log.append(('save', area))
        self.kept[area] = self.value

    def load(self, area, mask, xcr0):
        self.usable()
        assert mask & ~xcr0 == 0 and mask in (3, 7)
        self.log.append(('load', area))
        if area not in self.kept:
            self.value = 'reset'
            self.check_reset_image(area)
        else:
            self.value = self.kept[area]

    def check_reset_image(self, area):
        """A vCPU that has never run begins with the state after FNINIT, and a header that XRSTOR takes."""
        image = bytearray(self.box.memory.take(audit.page_of(area) + area % 4096, STATE_BYTES))
        expected = bytearray(STATE_BYTES)
        expected[0:2] = b'\x7f\x03'
        expected[24:28] = b'\x80\x1f\0\0'
        assert image == expected


def three_vms(box):
    for number in (1, 2, 3):
        make_vm(box, number, vcpus=1)
        assert box.kernel_call(number, RUN, VCPU, 0) is None


class Expected(object):
    """What each guest has left in the processor."""

    def __init__(self):
        self.state = dict((number, dict(RESET, fpu='reset')) for number in (1, 2, 3))


@given(turns=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1 << 32), st.sampled_from([1, 3, 7])), min_size=1, max_size=12))
@settings(max_examples=30)
def test_each_guest_finds_what_it_left_and_nothing_else(fresh, turns):
    monkeypatch = pytest.MonkeyPatch() if hasattr(pytest, 'MonkeyPatch') else __import__('_pytest.monkeypatch', fromlist=['x']).MonkeyPatch()
    try:
        box = fresh(three_vms)
        fpu, expected = Fpu(box, monkeypatch), Expected()
        for number, value, xcr0 in turns:
            def guest(machine, registers, block):
                live = dict((name, box.cpu.register.get(name, 0)) for name in DEBUG + ['xcr0'])
                live['fpu'] = fpu.value
                assert live == expected.state[number], 'guest %d finds %r' % (number, live)
                for n, name in enumerate(DEBUG):
                    box.cpu.register[name] = value + n
                fpu.value = (number, value)
                expected.state[number] = dict(((name, value + n) for n, name in enumerate(DEBUG)), xcr0=xcr0, fpu=fpu.value)
                registers.set('RAX', xcr0)
                registers.set('RDX', 0)
                registers.set('RCX', 0)
                block.exit(svm.EXIT_XSETBV)
            run_guest_once(box, number, guest)
            assert_closed(box)
    finally:
        monkeypatch.undo()


def test_same_vcpu_again_exchanges_nothing(fresh, monkeypatch):
    box = fresh(three_vms)
    fpu = Fpu(box, monkeypatch)
    for _ in range(3):
        run_guest_once(box, 1, lambda machine, registers, block: block.exit(svm.EXIT_INTR))
    assert [what for what, _ in fpu.log] == ['load']


def test_state_that_a_vmm_has_changed_is_loaded_whole_whatever_the_guest_has_in_xcr0(fresh, monkeypatch):
    box = fresh(three_vms)
    fpu, vcpu = Fpu(box, monkeypatch), compartments[1].vcpus[0]
    switcher.claim(vcpu)
    for xcr0 in (1, 3, 7):
        box.cpu.register['xcr0'] = xcr0
        switcher.keep_fpu(vcpu)
        assert box.cpu.register['xcr0'] == xcr0
        fpu.log = []
        switcher.load_fpu(vcpu)
        assert [what for what, _ in fpu.log] == ['load'] and box.cpu.register['xcr0'] == xcr0


def test_state_is_kept_before_the_next_is_loaded(fresh, monkeypatch):
    """Keep the old, tell the vendor, load the new."""
    box = fresh(three_vms)
    fpu = Fpu(box, monkeypatch)
    told = []
    monkeypatch.setattr(switcher.vendor, 'switch', lambda old, new: (told.append((old, new)), fpu.log.append(('vendor', 0))), raising=False)
    for number in (1, 2):
        run_guest_once(box, number, lambda machine, registers, block: block.exit(svm.EXIT_INTR))
    first, second = compartments[1].vcpus[0], compartments[2].vcpus[0]
    assert fpu.log == [('vendor', 0), ('load', int(first.fpu)), ('save', int(first.fpu)), ('vendor', 0), ('load', int(second.fpu))]
    assert told == [(None, first), (first, second)]
    del switcher.vendor.__dict__['switch']


def two_vms_on_a_processor_with_keys(box):
    for number in (1, 2):
        make_vm(box, number, vcpus=1)
        assert box.kernel_call(number, RUN, VCPU, 0) is None


def test_protection_keys_are_exchanged(make_machine, monkeypatch):
    """Whether or not XCR0 has them."""
    box = make_machine(leaves={7: (0, 1 << 0 | 1 << 7 | 1 << 20, 1 << 2 | 1 << 3, 0)})
    assert box.boot() == refusal.NONE
    two_vms_on_a_processor_with_keys(box)
    registers, seen = box.cpu.register, []

    def usable(function):
        def checked(*arguments):
            assert registers.get('cr4', 0) & 1 << 22, 'RDPKRU and WRPKRU with CR4.PKE clear are faults'
            return function(*arguments)
        return checked
    for name in ('rdpkru', 'wrpkru'):
        monkeypatch.setattr(hw_cpu, name, usable(getattr(hw_cpu, name)))

    def runs(value):
        def guest(machine, area, block):
            seen.append(registers.get('pkru', 0))
            registers['pkru'] = value
            block.exit(svm.EXIT_INTR)
        return guest
    for number, value in ((1, 0x11), (2, 0x22), (1, 0x33), (2, 0x44)):
        run_guest_once(box, number, runs(value))
        assert not registers.get('cr4', 0) & 1 << 22
    assert seen == [0, 0, 0x11, 0x22]


def test_a_vmm_reads_its_guests_keys(make_machine):
    """Live ones and kept ones, and nothing where the processor has none."""
    box = make_machine(leaves={7: (0, 1 << 0 | 1 << 7 | 1 << 20, 1 << 2 | 1 << 3, 0)})
    assert box.boot() == refusal.NONE
    two_vms_on_a_processor_with_keys(box)

    def exits(value):
        def guest(machine, area, block):
            box.cpu.register['pkru'] = value
            block.exit(svm.EXIT_NPF, info2=0xd0000000)
        return guest

    def read(number):
        box.memory.put_word(vcpu_page(number) + STATE['PKRU'], 0x77)
        assert box.kernel_call(number, call.VCPU_READ, VCPU, GROUP_KEYS) == (status.OK, 0)
        assert not box.cpu.register.get('cr4', 0) & (1 << 18 | 1 << 22)
        return box.memory.word(vcpu_page(number) + STATE['PKRU'])
    run_guest_once(box, 1, exits(0x55555554))
    assert read(1) == 0x55555554
    run_guest_once(box, 2, exits(0x12345678))
    assert read(1) == 0x55555554 and read(2) == 0x12345678


def test_xcr0_with_keys_is_kept(make_machine):
    """The kernel saves no more components for that: PKRU has its own way."""
    box = make_machine(leaves={7: (0, 0, 1 << 3, 0), 0xd: (0x2e7, 0, 0, 0)})
    assert box.boot() == refusal.NONE
    two_vms_on_a_processor_with_keys(box)
    assert switcher.xcr0 == 7 and switcher.offered == 0x207
    registers, seen = box.cpu.register, []

    def runs(value):
        def guest(machine, area, block):
            seen.append(registers['xcr0'])
            registers['xcr0'] = value       # as QEMU's SVM lets it
            block.exit(svm.EXIT_INTR)
        return guest
    for number, value in ((1, 0x207), (2, 0x203), (1, 7), (2, 3), (1, 1)):
        run_guest_once(box, number, runs(value))
    assert seen == [1, 1, 0x207, 0x203, 7]


@pytest.mark.parametrize('live', [True, False])
def test_a_reset_clears_keys_and_an_init_does_not(make_machine, live):
    box = make_machine(leaves={7: (0, 1 << 0 | 1 << 7 | 1 << 20, 1 << 2 | 1 << 3, 0)})
    assert box.boot() == refusal.NONE
    two_vms_on_a_processor_with_keys(box)
    registers, vcpu = box.cpu.register, compartments[1].vcpus[0]

    def exits(machine, area, block):
        registers['pkru'] = 0x55555554
        block.exit(svm.EXIT_NPF, info2=0xd0000000)
    run_guest_once(box, 1, exits)
    if not live:
        run_guest_once(box, 2, lambda machine, area, block: block.exit(svm.EXIT_INTR))
    startup.init(vcpu)
    assert switcher.pkru(vcpu) == 0x55555554
    before = registers['pkru']
    assert box.kernel_call(1, call.VCPU_INTERRUPT, VCPU, call.INTERRUPT_RESET, 0, 0)[0] == status.OK
    assert switcher.pkru(vcpu) == 0 and registers['pkru'] == (0 if live else before)
    assert not registers.get('cr4', 0) & 1 << 22


def test_no_keys_are_zero_and_no_answer_brings_any(fresh):
    box = fresh(three_vms)
    run_guest_once(box, 1, lambda machine, registers, block: block.exit(svm.EXIT_NPF, info2=0xd0000000))
    box.memory.put_word(vcpu_page(1) + STATE['PKRU'], 0x77)
    assert box.kernel_call(1, call.VCPU_READ, VCPU, GROUP_KEYS) == (status.OK, 0)
    assert box.memory.word(vcpu_page(1) + STATE['PKRU']) == 0
    put_answer(box, 1, ACTION=RESUME, DIRTY=GROUP_KEYS)
    box.kernel_call(1, RUN, VCPU, 0)
    assert (compartments[1].how, compartments[1].detail) == (ending.VMM_BAD_ANSWER, rules.RULE_DIRTY_UNKNOWN)


def test_state_of_a_vcpu_that_is_gone_is_dropped(fresh, monkeypatch):
    """It is not saved into pages that are free, and the next vCPU does not see it."""
    box = fresh(three_vms)
    fpu = Fpu(box, monkeypatch)

    def leaves(machine, registers, block):
        fpu.value = 'secret'
        box.cpu.register.update(dr0=0x5ec3e7, dr6=0xffff0fff)
        block.exit(svm.EXIT_INTR)
    run_guest_once(box, 1, leaves)
    assert switcher.owner is compartments[1].vcpus[0]
    box.kernel_call(0, call.STOP, SLOT, ending.DESTROYED, 0)
    assert switcher.owner is None
    del fpu.log[:]
    seen = []
    run_guest_once(box, 2, lambda machine, registers, block: (seen.append((fpu.value, box.cpu.register['dr0'], box.cpu.register['dr6'])), block.exit(svm.EXIT_INTR)))
    assert [what for what, _ in fpu.log] == ['load'] and seen == [('reset', 0, 0xffff0ff0)]


def test_vcpu_made_again_begins_anew(fresh, monkeypatch):
    """The next VM in the same kernel objects, on the same pages, finds the reset state, and its old translations are dropped."""
    box = fresh(three_vms)
    fpu = Fpu(box, monkeypatch)

    def leaves(machine, registers, block):
        fpu.value = 'secret'
        box.cpu.register.update(dr0=0x5ec3e7)
        for name in ('RAX', 'RBX', 'R15'):
            registers.set(name, 0x5ec3e7)
        block.exit(svm.EXIT_INTR)
    run_guest_once(box, 1, leaves)
    run_guest_once(box, 2, lambda machine, registers, block: block.exit(svm.EXIT_INTR))     # the first one's state is in memory now
    compartments[1].vcpus[0].pkru = r_uint(0x5ec3e7)
    box.kernel_call(0, call.STOP, SLOT, ending.DESTROYED, 0)
    assert box.kernel_call(0, call.TAKE, SLOT, call.SLOT_RAM, call.SLOT_MEMORY) == (0, 0)
    assert box.kernel_call(0, call.STOP, SLOT, 0, 0) == (0, 0)
    make_vm(box, 1)
    fpu.kept.clear()
    assert box.kernel_call(1, RUN, VCPU, 0) is None
    seen = []

    def newcomer(machine, registers, block):
        seen.append(dict((name, registers.get(name)) for name in ('RAX', 'RBX', 'R15')))
        seen.append((fpu.value, box.cpu.register['dr0'], block.get('TLB_CONTROL') & 0xff))
        block.exit(svm.EXIT_INTR)
    run_guest_once(box, 1, newcomer)
    assert compartments[1].vcpus[0].pkru == 0
    assert seen == [dict.fromkeys(('RAX', 'RBX', 'R15'), 0), ('reset', 0, svm.TLB_FLUSH_ALL)]


def test_translations_are_dropped_once(fresh):
    box = fresh(three_vms)
    seen = []
    for _ in range(2):
        run_guest_once(box, 1, lambda machine, registers, block: (seen.append(block.get('TLB_CONTROL') & 0xff), block.exit(svm.EXIT_INTR)))
    assert seen == [svm.TLB_FLUSH_ALL, 0]


def assert_closed(box):
    """A task's first FPU instruction faults, and XGETBV tells it nothing."""
    assert box.cpu.register['cr0'] & 8 and not box.cpu.register['cr4'] & 1 << 18


def test_tasks_never_find_the_fpu_open(fresh):
    box = fresh(three_vms)
    assert_closed(box)
    assert box.cpu.register['cr4'] & (1 << 9 | 1 << 10) == 1 << 9 | 1 << 10
    for number in (1, 2):
        run_guest_once(box, number, lambda machine, registers, block: block.exit(svm.EXIT_XSETBV))
        assert_closed(box)
