"""The vector registers' group: a VMM that emulates a move reads and writes what the guest has, and nothing else of its FPU state moves."""
import struct

import pytest
from hypothesis import given, settings, strategies as st

from hypervisor.hw import cpu as hw_cpu
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.switch import switcher
from hypervisor.spec import call, refusal, status, svm
from hypervisor.spec.vcpu import GROUP_GPR, GROUP_VECTOR, RESUME, STATE
from tests.unit.kernel import audit
from tests.unit.kernel.vm import make_vm, put_answer, run_guest_once, vcpu_page

RUN, READ, VCPU = call.VCPU_RUN, call.VCPU_READ, call.SLOT_VCPU
XMM, HEADER, YMM, BYTES = 160, 512, 576, 832        # Intel SDM Vol. 1, "Standard Format of an XSAVE Area"
U64 = (1 << 64) - 1


class Processor(object):
    """Its live x87, SSE and AVX state, and the instructions that move it; RFBM is XCR0 and the mask, as in the manual."""

    def __init__(self, box, monkeypatch):
        self.box, self.registers = box, box.cpu.register
        self.legacy, self.xmm, self.ymm = bytearray(160), bytearray(256), bytearray(256)

        def put(name, function):
            monkeypatch.setattr(hw_cpu, name, function)
        put('xsave', lambda area, mask: self.save(int(area), int(mask), True))
        put('xrstor', lambda area, mask: self.load(int(area), int(mask), True))
        put('fxsave', lambda area: self.save(int(area), 3, False))
        put('fxrstor', lambda area: self.load(int(area), 3, False))
        put('clts', lambda: self.registers.__setitem__('cr0', self.registers.get('cr0', 0) & ~8))

    def usable(self, mask, xsave):
        assert not self.registers.get('cr0', 0) & 8, 'CR0.TS is set'
        assert not xsave or self.registers['cr4'] & 1 << 18 and mask & ~self.registers['xcr0'] == 0

    def at(self, area):
        return audit.page_of(area) + area % 4096

    def save(self, area, mask, xsave):
        self.usable(mask, xsave)
        at, put = self.at(area), self.box.memory.put
        put(at, self.legacy)
        put(at + XMM, self.xmm)
        if xsave:
            self.box.memory.put_word(at + HEADER, self.box.memory.word(at + HEADER) & ~mask | 1)      # SSE and AVX are not in use
        if mask & 4:
            put(at + YMM, self.ymm)

    def load(self, area, mask, xsave):
        self.usable(mask, xsave)
        at, take = self.at(area), self.box.memory.take
        there = self.box.memory.word(at + HEADER) if xsave else 3
        self.legacy = bytearray(take(at, 160)) if there & 1 else bytearray(160)
        self.xmm = bytearray(take(at + XMM, 256)) if there & 2 else bytearray(256)
        if mask & 4:
            self.ymm = bytearray(take(at + YMM, 256)) if there & 4 else bytearray(256)


def two(box):
    for number in (1, 2):
        make_vm(box, number)
        assert box.kernel_call(number, RUN, VCPU, 0) is None



def in_page(box, number):
    at = vcpu_page(number) + STATE['YMM0_0']
    return struct.unpack('<64Q', bytes(bytearray(box.memory.take(at, 512))))


def live(processor, has_avx=True):
    """As the group has them: XMM, then what is above it."""
    xmm, ymm = struct.unpack('<32Q', bytes(processor.xmm)), struct.unpack('<32Q', bytes(processor.ymm))
    return tuple(word for n in range(16) for word in xmm[2 * n:2 * n + 2] + (ymm[2 * n:2 * n + 2] if has_avx else (0, 0)))


def fill(processor, seed):
    for n in range(160):
        processor.legacy[n] = seed + n & 0xff
    for n in range(256):
        processor.xmm[n], processor.ymm[n] = seed * 3 + n & 0xff, seed * 5 + n * 3 & 0xff


def exited(box, processor, number, seed):
    """The guest has left these values, and an exit that its VMM answers."""
    def guest(machine, registers, block):
        fill(processor, seed)
        block.exit(svm.EXIT_NPF, info2=0xd0000000)
    run_guest_once(box, number, guest)


def closed(box):
    assert box.cpu.register['cr0'] & 8 and not box.cpu.register.get('cr4', 0) & 1 << 18


def patched(test):
    """monkeypatch for a property: undone after each example."""
    from _pytest.monkeypatch import MonkeyPatch
    patch = MonkeyPatch()
    try:
        test(patch)
    finally:
        patch.undo()


@given(seed=st.integers(0, 255), words=st.lists(st.integers(0, U64), min_size=64, max_size=64), between=st.booleans(), xcr0=st.sampled_from([1, 3, 7]))
@settings(max_examples=30)
def test_what_is_read_is_the_guests_and_what_is_written_becomes_it(fresh, seed, words, between, xcr0):
    """Whether its state is live or, between reading and writing, another vCPU's."""
    def run(patch):
        box = fresh(two)
        processor = Processor(box, patch)
        exited(box, processor, 1, seed)
        compartments[1].vcpus[0].xcr0 = xcr0
        box.cpu.register['xcr0'] = xcr0
        legacy, before = bytearray(processor.legacy), live(processor)
        assert box.kernel_call(1, READ, VCPU, GROUP_VECTOR)[0] == status.OK
        closed(box)
        assert in_page(box, 1) == before == live(processor) and box.cpu.register['xcr0'] == xcr0
        if between:
            exited(box, processor, 2, seed + 1)
            compartments[2].task.ready = False
        box.memory.put(vcpu_page(1) + STATE['YMM0_0'], bytearray(struct.pack('<64Q', *words)))
        put_answer(box, 1, ACTION=RESUME, DIRTY=GROUP_VECTOR)
        neighbour = live(processor)
        assert box.kernel_call(1, RUN, VCPU, 0) is None
        closed(box)
        assert not between or live(processor) == neighbour
        seen = []
        run_guest_once(box, 1, lambda machine, registers, block: (seen.append((live(processor), processor.legacy, box.cpu.register['xcr0'])),
                                                                   block.exit(svm.EXIT_INTR)))
        assert seen == [(tuple(words), legacy, xcr0)]
    patched(run)


def test_other_groups_leave_the_vectors_alone(fresh, monkeypatch):
    box = fresh(two)
    processor = Processor(box, monkeypatch)
    exited(box, processor, 1, 9)
    monkeypatch.setattr(hw_cpu, 'xsave', None)
    monkeypatch.setattr(hw_cpu, 'xrstor', None)
    assert box.kernel_call(1, READ, VCPU, GROUP_GPR)[0] == status.OK
    assert in_page(box, 1) == (0,) * 64
    put_answer(box, 1, ACTION=RESUME, DIRTY=GROUP_GPR)
    assert box.kernel_call(1, RUN, VCPU, 0) is None


def test_the_first_answer_may_set_them(fresh, monkeypatch):
    box = fresh(lambda box: make_vm(box, 1))
    processor = Processor(box, monkeypatch)
    put_answer(box, 1, DIRTY=GROUP_VECTOR, YMM0_0=5, YMM15_1=6, YMM7_2=7)
    assert box.kernel_call(1, RUN, VCPU, 0) is None
    seen = []
    run_guest_once(box, 1, lambda machine, registers, block: (seen.append(live(processor)), block.exit(svm.EXIT_INTR)))
    assert [(n, word) for n, word in enumerate(seen[0]) if word] == [(0, 5), (30, 7), (61, 6)]


@pytest.mark.parametrize('leaves', [{1: (0, 0, 1 << 26 | 1 << 17, 1 << 9), 0xd: (3, 576, 576, 0)}, {1: (0, 0, 1 << 17, 1 << 9)}])
def test_a_processor_without_avx_or_xsave_has_zeros_above_xmm(make_machine, monkeypatch, leaves):
    box = make_machine(leaves=leaves)
    assert box.boot() == refusal.NONE
    two(box)
    processor = Processor(box, monkeypatch)
    exited(box, processor, 1, 3)
    assert box.kernel_call(1, READ, VCPU, GROUP_VECTOR)[0] == status.OK
    assert in_page(box, 1) == live(processor, False) and int(switcher.xcr0) in (0, 3)
    before = bytearray(box.memory.take(processor.at(int(compartments[1].vcpus[0].fpu)) + YMM, 256))
    put_answer(box, 1, ACTION=RESUME, DIRTY=GROUP_VECTOR, YMM3_0=77, YMM3_2=78)
    expected = list(live(processor, False))
    expected[12] = 77
    assert box.kernel_call(1, RUN, VCPU, 0) is None
    assert list(live(processor, False)) == expected
    assert box.memory.take(processor.at(int(compartments[1].vcpus[0].fpu)) + YMM, 256) == before == bytearray(256)


def test_a_vmm_that_has_not_read_them_sets_nothing_else(fresh, monkeypatch):
    box = fresh(two)
    processor = Processor(box, monkeypatch)
    exited(box, processor, 1, 9)
    put_answer(box, 1, ACTION=RESUME, DIRTY=GROUP_VECTOR, YMM15_3=1)
    legacy = bytearray(processor.legacy)
    assert box.kernel_call(1, RUN, VCPU, 0) is None
    assert processor.legacy == legacy and live(processor) == (0,) * 63 + (1,)
