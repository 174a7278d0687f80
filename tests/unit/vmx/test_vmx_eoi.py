"""An EOI that does not exit is, to the guest and its VMM, the one that does: two cores, one with virtual-interrupt delivery and one without,
whose guests, devices and VMMs do the same. The processor's part is a model of its own, from the SDM's "Virtualizing MSR-Based APIC
Accesses", "EOI Virtualization" and "PPR Virtualization"."""
from hypothesis import HealthCheck, example, given, settings, strategies as st

import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu, memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel import exits, interrupts, startup, vmx_check, vmx_quick
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.vmx_setup import setup
from hypervisor.spec import cpu as bits
from hypervisor.spec import exit as kinds
from hypervisor.spec import lapic, status, vmx
from hypervisor.spec.context import AREA, PRIVATE_CPUID, QUICK_LEAVE
from hypervisor.spec.layout import PAGE
from tests.unit.recorded import recorded
from tests.unit.vmx.machine import Compartment, Core

IF = 0x200
X2APIC = lapic.APIC_BASE_RESET | lapic.APIC_BASE_ENABLE | lapic.APIC_BASE_X2APIC | lapic.APIC_BASE_BSP
BASE, TPR, PPR, EOI, SVR, ESR, ICR, SELF_IPI = 0x1b, 0x808, 0x80a, 0x80b, 0x80f, 0x828, 0x830, 0x83f
TO_ITSELF = 1 << 18
LINT0 = 0x835


class Processor(object):
    """What a guest can see and do of its APIC, and what a VMM is told: all in `trace`. spares: the processor has APICv. quick: the quick
    path is asked."""

    def __init__(self, spares, quick=True):
        self.core = Core(spares).enable()
        compartment = Compartment()
        compartment.others = 0
        self.vcpu, self.other = self.core.vcpu(compartment=compartment), self.core.vcpu(1, compartment)
        compartment.vcpu_count, compartment.vcpus = 1, [self.vcpu]
        self.vcpu.cpuid = self.vcpu.area + PRIVATE_CPUID
        self.vmcs = self.core.fields(self.vcpu)
        switcher.vendor, switcher.owner = self.core.vendor, self.vcpu
        scheduler.armed = r_uint(1)
        self.vcpu.apic.reset(0)
        self.trace, self.reading = [], None
        self.answers = []
        hw.fake.quick = recorded(vmx_quick, self.answers) if quick else None
        self.guest(('write', BASE, X2APIC), ('write', SVR, 0x1ff))
        del self.trace[:]

    def quick(self):
        """How many exits the quick path has finished."""
        return len([answer for answer in self.answers if answer != QUICK_LEAVE])

    # The kernel's loop
    def guest(self, *operations):
        """The guest does these things one by one, with as many exits as they take; then an interrupt of the machine's comes."""
        self.queue = list(operations) + [('interrupted', 0, 0)]
        original, exits.answer.deliver = exits.answer.deliver, self.deliver
        assert interrupts.answer is exits.answer
        try:
            while self.queue:
                if self.vcpu.attention and not interrupts.prepare(self.vcpu):
                    continue
                hw.fake.run = self.play
                if self.core.vendor.run(self.vcpu):
                    exits.handle(self.vcpu)
        finally:
            exits.answer.deliver = original
        apic = self.vcpu.apic
        self.trace.append([list(map(int, words)) for words in (apic.irr, apic.isr, apic.tmr)] + [int(apic.tpr), self.vcpu.has_interrupt()])

    def deliver(self, vcpu):
        self.trace.append(('told', vcpu.exit_kind, int(vcpu.exit_selector)))
        if vcpu.exit_kind == kinds.INTA:
            vcpu.apic.extint = False
            switcher.vendor.interrupt(vcpu, 0x70)
            vcpu.attention = True

    # The processor
    def play(self, area, vmcs):
        """From an entry to an exit."""
        assert vmcs is self.vmcs
        self.check_entry()
        self.take_event()
        if self.reading is not None:
            value = [int(memory.load64(r_uint(area + AREA[name]))) for name in ('RAX', 'RDX')]
            self.trace.append(('read', self.reading, value))
            self.reading = None
        while True:
            if vmcs[vmx.PRIMARY_CONTROLS] & vmx.PRIMARY_INTERRUPT_WINDOW and vmcs[vmx.GUEST_RFLAGS] & IF:
                return self.exit(vmx.REASON_INTERRUPT_WINDOW)
            what, index, value = self.queue.pop(0)
            if not getattr(self, 'do_' + what)(index, value):
                return hw.SUCCEED

    def check_entry(self):
        reader = vmx_check.vmcs_reader
        reader.vendor, reader.vcpu = self.core.vendor, self.vcpu
        assert vmx_check.execution_rule(reader) == 0
        if not setup.spares:
            assert not self.vmcs[vmx.SECONDARY_CONTROLS] & vmx.NEED_TPR_SHADOW and vmx.GUEST_INTERRUPT_STATUS not in self.vmcs
            return
        assert self.vmcs[vmx.SECONDARY_CONTROLS] & vmx.EOI_SECONDARY == vmx.EOI_SECONDARY
        self.evaluate()

    def take_event(self):
        info = self.vmcs.get(vmx.ENTRY_INTERRUPTION_INFO, 0)
        self.vmcs[vmx.ENTRY_INTERRUPTION_INFO] = 0
        if info >> 31:
            kind = info >> 8 & 7
            assert kind != vmx.TYPE_EXTERNAL or self.vmcs[vmx.GUEST_RFLAGS] & IF
            if kind == vmx.TYPE_HARDWARE:           # #GP: its handler goes on behind the instruction, which has read nothing
                assert info & 0xff == 13
                self.reading = None
            else:
                self.vmcs[vmx.GUEST_RFLAGS] &= ~IF
            self.trace.append(('taken', kind, info & 0xff))

    def exit(self, reason, length=2, **fields):
        self.vmcs.update({vmx.EXIT_REASON: reason, vmx.EXIT_INSTRUCTION_LENGTH: length, vmx.IDT_VECTORING_INFO: 0})
        self.vmcs.update((getattr(vmx, name), value) for name, value in fields.items())
        return hw.SUCCEED

    # Virtual-interrupt delivery
    def passes(self, msr, part):
        at = self.vmcs[vmx.MSR_BITMAP] + part + msr // 8
        return not int(memory.load8(r_uint(at))) >> (msr & 7) & 1

    def in_page(self, first):
        return [int(memory.load32(r_uint(self.vmcs[vmx.VIRTUAL_APIC] + first + 16 * n))) for n in range(8)]

    def evaluate(self):
        """PPR virtualization and the evaluation of what is pending: nothing may ever be."""
        state = self.vmcs[vmx.GUEST_INTERRUPT_STATUS]
        assert state & 0xff == 0 and not any(self.in_page(lapic.IRR)), 'RVI'
        level = max(self.in_page(lapic.TPR)[0], state >> 8 & 0xf0)
        memory.store32(r_uint(self.vmcs[vmx.VIRTUAL_APIC] + lapic.PPR), r_uint(level))

    def end(self):
        vector = self.vmcs[vmx.GUEST_INTERRUPT_STATUS] >> 8
        served = self.in_page(lapic.ISR)
        served[vector // 32] &= ~(1 << vector % 32)
        for n, word in enumerate(served):
            memory.store32(r_uint(self.vmcs[vmx.VIRTUAL_APIC] + lapic.ISR + 16 * n), r_uint(word))
        rest = [32 * n + word.bit_length() - 1 for n, word in enumerate(served) if word]
        self.vmcs[vmx.GUEST_INTERRUPT_STATUS] = (rest or [0])[-1] << 8
        assert not self.vmcs[vmx.EOI_EXIT_BITMAP0 + 2 * (vector // 64)] >> vector % 64 & 1
        self.evaluate()

    # Instructions. Each returns whether the guest goes on without an exit.
    def do_interrupted(self, index, value):
        self.exit(vmx.REASON_EXTERNAL_INTERRUPT, EXIT_INTERRUPTION_INFO=1 << 31 | bits.VECTOR_SPURIOUS)
        self.queue = []

    def do_flag(self, index, value):
        self.vmcs[vmx.GUEST_RFLAGS] = value | 2
        return True

    def do_cpuid(self, index, value):
        memory.store64(r_uint(int(self.vcpu.area) + AREA['RAX']), r_uint(0))
        self.exit(vmx.REASON_CPUID)

    def do_wbinvd(self, index, value):
        self.exit(vmx.REASON_WBINVD)

    def do_cr8(self, index, value):
        memory.store64(r_uint(int(self.vcpu.area) + AREA['RAX']), r_uint(value))
        self.exit(vmx.REASON_CONTROL_REGISTER, 3, EXIT_QUALIFICATION=8)

    def do_read(self, msr, value):
        assert not 0x800 <= msr < 0x900 or not self.passes(msr, vmx.MSR_BITMAP_READ_LOW)
        memory.store64(r_uint(int(self.vcpu.area) + AREA['RCX']), r_uint(msr))
        self.reading = msr
        self.exit(vmx.REASON_RDMSR)

    def do_write(self, msr, value):
        if self.passes(msr, vmx.MSR_BITMAP_WRITE_LOW):
            assert msr == EOI and setup.spares, 'the guest would reach the real x2APIC'
            if value:
                self.trace.append(('taken', vmx.TYPE_HARDWARE, 13))
            else:
                self.end()
            return True
        for name, word in (('RCX', msr), ('RAX', value & 0xffffffff), ('RDX', value >> 32)):
            memory.store64(r_uint(int(self.vcpu.area) + AREA[name]), r_uint(word))
        self.exit(vmx.REASON_WRMSR)


class Caller(object):
    """A VMM that uses VCPU_APIC."""
    def __init__(self, trace):
        self.task = self
        self.trace = trace

    def answer(self, code, value):
        self.trace.append(('answered', code, int(value)))


# Vectors that share a bit of their word, that share a class, and the ends of what there is
vectors = st.sampled_from([0x10, 0x21, 0x30, 0x3f, 0x61, 0x6f, 0x7f, 0xa1, 0xe0, 0xe1, 0xff])
STI, CLI, END = ('flag', 0, IF), ('flag', 0, 0), ('write', EOI, 0)
instructions = st.one_of(
    st.sampled_from([STI, STI, STI, STI, CLI, END, END, END, END, ('write', EOI, 1), ('cpuid', 0, 0), ('wbinvd', 0, 0), ('write', ESR, 0)]),
    st.builds(lambda vector: ('write', SELF_IPI, vector), st.one_of(vectors, vectors, st.sampled_from([5, 0x100]))),
    st.builds(lambda vector: ('write', ICR, TO_ITSELF | vector), vectors),
    st.builds(lambda level: ('write', TPR, level), st.sampled_from([0, 0x20, 0x30, 0xe0, 0x100])),
    st.builds(lambda level: ('cr8', 0, level), st.sampled_from([0, 2, 6, 15])),
    st.builds(lambda msr: ('read', msr, 0), st.sampled_from([TPR, PPR, EOI, 0x811, 0x813, 0x817, 0x821, 0x827, BASE])),
    st.sampled_from([('write', SVR, 0xff), ('write', SVR, 0x1ff), ('write', BASE, X2APIC), ('write', LINT0, 0x700),
                     ('write', BASE, X2APIC & ~(lapic.APIC_BASE_ENABLE | lapic.APIC_BASE_X2APIC)),
                     ('write', BASE, X2APIC & ~lapic.APIC_BASE_X2APIC)]))
outside = st.tuples(st.sampled_from(['edge', 'edge', 'edge', 'level', 'nmi', 'extint', 'vmm ends', 'vmm reads', 'init', 'other']), vectors)
# What happens while the guest does not run, and what it does then
stories = st.lists(st.tuples(st.lists(outside, max_size=3), st.lists(instructions, max_size=8)), min_size=1, max_size=8)


def happen(processor, what, vector):
    vcpu = processor.vcpu
    if what == 'edge':
        interrupts.arrive(vcpu, r_uint(vector))
    elif what == 'level':
        vcpu.apic.request(vector, True)
        vcpu.wake_for_interrupt()
    elif what == 'nmi':
        vcpu.apic.nmi = True
        vcpu.wake_for_interrupt()
    elif what == 'extint':
        vcpu.apic.extint = True
        vcpu.wake_for_interrupt()
    elif what == 'vmm ends':
        interrupts.access(Caller(processor.trace), vcpu, r_uint(lapic.EOI), r_uint(1), r_uint(0))
    elif what == 'vmm reads':
        interrupts.access(Caller(processor.trace), vcpu, r_uint(lapic.ISR + (vector >> 5 << 4)), r_uint(0), r_uint(0))
    elif what == 'init':
        initialize(vcpu)
    elif what == 'other':
        processor.core.vendor.make_current(processor.other)


def initialize(vcpu):
    vcpu.started = True
    original = switcher.forget_debug
    switcher.forget_debug, vcpu.want = lambda vcpu: None, lambda: None
    try:
        startup.init(vcpu)
    finally:
        switcher.forget_debug = original


def told(story, spares, quick):
    processor = Processor(spares, quick)
    for events, operations in story:
        for event in events:
            happen(processor, *event)
        processor.guest(*operations)
    return processor


@settings(max_examples=200, suppress_health_check=HealthCheck.all())
@given(story=stories, quick=st.booleans())
@example(story=[([], [STI, ('write', SELF_IPI, 0x61), ('write', SELF_IPI, 0x21), END, ('read', 0x813, 0), END])], quick=True)
@example(story=[([('edge', 0x61)], [STI]), ([('edge', 0xa1)], [STI]), ([('vmm reads', 0x61)], [END, ('read', PPR, 0), END, STI])], quick=True)
@example(story=[([('edge', 0x61)], [STI]), ([('edge', 0x30)], [STI, END, END])], quick=True)
@example(story=[([('edge', 0x61)], [STI]), ([('vmm ends', 0)], [STI, ('write', SELF_IPI, 0x61), ('write', SELF_IPI, 0x21), END, END])], quick=True)
@example(story=[([('edge', 0x61)], [STI, STI]), ([('edge', 0xa1)], [('read', 0x813, 0), END, ('read', 0x813, 0), ('read', 0x815, 0), END])], quick=True)
@example(story=[([], [STI, ('write', SELF_IPI, 0x61), STI, ('write', SELF_IPI, 0xa1), END, ('read', 0x813, 0), END])], quick=True)
@example(story=[([], [STI, ('write', SELF_IPI, 0x61), END, STI, ('write', SELF_IPI, 0xa1), END, ('read', 0x813, 0)])], quick=True)
@example(story=[([('edge', 0x61)], [STI]), ([('nmi', 0), ('edge', 0x30)], [END, STI, END])], quick=True)
@example(story=[([('edge', 0x61), ('edge', 0x30)], [STI, STI, END, ('read', 0x811, 0), END])], quick=True)
@example(story=[([('level', 0x61)], [STI, END]), ([('edge', 0x61)], [STI, END, STI])], quick=False)
def test_the_guest_cannot_tell_which_ends_exit(story, quick):
    assert told(story, True, quick).trace == told(story, False, quick).trace


def served(*operations):
    """A guest that has just taken an interrupt, 0x61, and has EOI to itself."""
    processor = Processor(True)
    happen(processor, 'edge', 0x61)
    processor.guest(STI, *operations)
    return processor


def exits_of(processor, *operations):
    """Exits that these things take, beside the interrupt that ends the run."""
    processor.vcpu.settle()
    before = sum(map(int, processor.vcpu.counts))
    processor.guest(*operations)
    processor.vcpu.settle()
    return sum(map(int, processor.vcpu.counts)) - before - 1


def test_an_interrupt_alone_is_ended_without_an_exit():
    processor = served()
    assert processor.vcpu.spared == 0x61 and processor.vmcs[vmx.GUEST_INTERRUPT_STATUS] == 0x6100
    assert exits_of(processor, END) == 0
    assert processor.vcpu.spared == -1 and processor.vcpu.apic.in_service() == -1


def test_a_self_ipi_is_its_only_exit():
    processor = Processor(True)
    for _ in range(3):
        before = processor.quick()
        assert exits_of(processor, STI, ('write', SELF_IPI, 0x61), END) == 1 and processor.quick() == before + 1
    assert processor.trace.count(('taken', vmx.TYPE_EXTERNAL, 0x61)) == 3


def test_what_the_guest_has_ended_is_known_at_its_next_self_ipi():
    processor = Processor(True)
    before = processor.quick()
    assert exits_of(processor, STI, ('write', SELF_IPI, 0xa1), END, STI, ('write', SELF_IPI, 0x61), END) == 2 and processor.quick() == before + 2
    assert processor.vcpu.apic.in_service() == -1


def test_an_end_that_finds_nothing_in_service_does_not_exit_either():
    assert exits_of(served(END), END, END) == 0


@pytest.mark.parametrize('what, vector', [('edge', 0x21), ('edge', 0x6f), ('edge', 0xe0), ('level', 0x30)])
def test_an_end_that_lets_another_in_exits(what, vector):
    processor = served()
    happen(processor, what, vector)
    processor.guest()
    assert processor.vcpu.spared == -1 and processor.vmcs[vmx.MSR_BITMAP] == int(setup.bitmap)
    processor.guest(END, STI)
    assert ('taken', vmx.TYPE_EXTERNAL, vector) in processor.trace


def test_the_end_of_a_level_exits():
    processor = Processor(True)
    happen(processor, 'level', 0x61)
    assert exits_of(processor, STI, END) == 3       # WRMSR and what the VMM is told, and the window's
    assert ('told', kinds.EOI, 0x61) in processor.trace and not processor.vcpu.passes_eoi


def test_out_of_x2apic_mode_there_is_no_such_register():
    processor = served()
    processor.guest(('write', BASE, X2APIC & ~(lapic.APIC_BASE_ENABLE | lapic.APIC_BASE_X2APIC)), END)
    assert processor.trace[-2] == ('taken', vmx.TYPE_HARDWARE, 13) and processor.vmcs[vmx.MSR_BITMAP] == int(setup.bitmap)


def test_a_vcpu_that_does_not_run_is_asked_nothing():
    """What the guest has ended is known when its run is over, whoever's VMCS is current then."""
    processor = served(END)
    processor.core.vendor.make_current(processor.other)
    assert processor.vcpu.apic.in_service() == -1 and int(hw.vmread(r_uint(vmx.GUEST_INTERRUPT_STATUS))) == 0


@pytest.mark.parametrize('spares', [False, True])
def test_what_is_used_depends_on_the_processor(spares):
    processor = Processor(spares)
    assert setup.spares == spares and (vmx.VIRTUAL_APIC in processor.vmcs) == spares
    happen(processor, 'edge', 0x61)
    processor.guest(STI)
    assert processor.vcpu.passes_eoi == spares


@pytest.mark.parametrize('msr, lacking', [(vmx.MSR_VMX_TRUE_PRIMARY, vmx.PRIMARY_TPR_SHADOW), (vmx.MSR_VMX_SECONDARY, vmx.SECONDARY_X2APIC),
                                          (vmx.MSR_VMX_SECONDARY, vmx.SECONDARY_INTERRUPT_DELIVERY)])
def test_a_part_of_it_is_not_used(msr, lacking):
    core = Core(True)
    cpu.fake.msr[msr] &= ~(lacking << 32)
    core.enable()
    assert not setup.spares and not setup.secondary & vmx.NEED_TPR_SHADOW and not setup.primary & vmx.PRIMARY_TPR_SHADOW
    assert vmx.VIRTUAL_APIC not in core.fields(core.vcpu())


def test_the_bitmap_lets_nothing_but_the_end_through():
    Core(True).enable()
    plain, sparing = [memory.fake.read(page, PAGE) for page in (setup.bitmap, setup.eoi_bitmap)]
    assert [(n, ord(a) ^ ord(b)) for n, (a, b) in enumerate(zip(plain, sparing)) if a != b] == [(vmx.MSR_BITMAP_WRITE_LOW + EOI // 8, 1 << EOI % 8)]


def test_a_new_vcpu_in_an_old_ones_place_has_its_ends_exit():
    processor = served()
    assert processor.core.vendor.create(processor.vcpu) == status.OK
    vmcs = processor.core.fields(processor.vcpu)
    assert not processor.vcpu.passes_eoi and processor.vcpu.spared == -1
    assert vmcs[vmx.MSR_BITMAP] == int(setup.bitmap) and vmcs[vmx.GUEST_INTERRUPT_STATUS] == 0


def test_a_lent_apic_has_nothing_virtual_about_it():
    processor = served(END)
    vendor, vcpu, vmcs = processor.core.vendor, processor.vcpu, processor.vmcs
    vendor.lend(vcpu, r_uint(1000), False)
    assert not vmcs[vmx.SECONDARY_CONTROLS] & vmx.NEED_TPR_SHADOW and vmcs[vmx.MSR_BITMAP] == int(setup.lent_bitmap)
    assert vcpu.spared == -1 and not vcpu.passes_eoi
    vendor.take_back(vcpu)
    processor.guest(('wbinvd', 0, 0))
    assert vmcs[vmx.SECONDARY_CONTROLS] == int(setup.secondary) and vmcs[vmx.MSR_BITMAP] == int(setup.bitmap)
