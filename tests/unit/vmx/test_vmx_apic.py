"""A local APIC that the processor keeps is, to its guest and its VMM, the one that the kernel keeps: two cores, one with APICv and one
without, whose guests do the same. The processor's part is a model of its own, from the SDM's "APIC Virtualization and Virtual Interrupts"."""
import random

import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu, memory
from hypervisor.hw import vmx as hw
from hypervisor.kernel import exits, interrupts, startup
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.vmx_setup import setup
from hypervisor.spec import cpu as bits
from hypervisor.spec import exit as kinds
from hypervisor.spec import lapic, status, vmx
from hypervisor.spec.context import AREA
from tests.unit.vmx.machine import Compartment, Core

IF = 0x202
X2APIC = lapic.APIC_BASE_RESET | lapic.APIC_BASE_ENABLE | lapic.APIC_BASE_X2APIC | lapic.APIC_BASE_BSP
TPR, PPR, EOI, SVR, ICR, SELF_IPI, ESR = 0x808, 0x80a, 0x80b, 0x80f, 0x830, 0x83f, 0x828
VECTORS = [0x1f, 0x20, 0x2f, 0x30, 0x3f, 0x40, 0x45, 0x7e, 0x80, 0xe0, 0xef, 0xff]
WORTH_READING = [TPR, PPR, ESR] + [first + vector // 32 for first in (0x810, 0x818, 0x820) for vector in (0x20, 0x45, 0xe0)]
RANGES = {'isr': 0x810, 'tmr': 0x818, 'irr': 0x820}


def highest(word):
    return word.bit_length() - 1


class Processor(object):
    """What a guest can see and do of its APIC, and what a VMM is told. virtual: the processor has APICv."""

    def __init__(self, virtual):
        self.core = Core(virtual_apic=virtual).enable()
        self.compartment = Compartment()
        self.vcpu = self.core.vcpu(compartment=self.compartment)
        self.compartment.vcpu_count, self.compartment.vcpus = 1, [self.vcpu]
        self.vmcs = self.core.fields(self.vcpu)
        switcher.vendor, switcher.owner = self.core.vendor, self.vcpu
        scheduler.armed = r_uint(0)
        self.vcpu.apic.reset(0)
        self.taken, self.told, self.flags, self.gp = [], [], 2, 0

    # The guest
    def do(self, *operations):
        """Enter the guest; it does these things, one by one, with as many exits as they take."""
        queue = list(operations)
        while True:
            exited = self.enter(queue)
            if not exited:
                return

    def enter(self, queue):
        """One entry. Returns whether the guest has more to do."""
        if self.vcpu.attention and not interrupts.prepare(self.vcpu):
            return True
        done = []

        def play(area, vmcs):
            done.append(self.play(area, vmcs, queue))
            return hw.SUCCEED
        hw.fake.run = play
        if self.core.vendor.run(self.vcpu):
            original, exits.answer.deliver = exits.answer.deliver, self.deliver
            try:
                exits.handle(self.vcpu)
            finally:
                exits.answer.deliver = original
        return done != [False]

    def deliver(self, vcpu):
        assert vcpu.exit_kind == kinds.EOI
        self.told.append(int(vcpu.exit_selector))

    def play(self, area, vmcs, queue):
        """Until an exit. Returns whether there is more to do, or something may be pending."""
        vmcs[vmx.IDT_VECTORING_INFO] = 0
        info = vmcs.get(vmx.ENTRY_INTERRUPTION_INFO, 0)
        vmcs[vmx.ENTRY_INTERRUPTION_INFO] = 0
        if info >> 31:
            if info >> 8 & 7 == vmx.TYPE_HARDWARE:
                self.gp += 1
            else:
                assert info >> 8 & 7 == 0 and vmcs[vmx.GUEST_RFLAGS] & 0x200
                self.take(vmcs, info & 0xff)
        if self.virtual(vmcs):
            self.evaluate(vmcs)
        while True:
            if vmcs[vmx.PRIMARY_CONTROLS] & vmx.PRIMARY_INTERRUPT_WINDOW and vmcs[vmx.GUEST_RFLAGS] & 0x200:
                return self.exit(vmcs, vmx.REASON_INTERRUPT_WINDOW, 0)
            if not queue:
                self.exit(vmcs, vmx.REASON_EXCEPTION_OR_NMI, 0, EXIT_INTERRUPTION_INFO=1 << 31 | vmx.TYPE_NMI << 8 | 2)     # the host's
                return False
            what = queue.pop(0)
            if not self.act(area, vmcs, *what):
                return True

    def exit(self, vmcs, reason, length, **fields):
        vmcs[vmx.EXIT_REASON], vmcs[vmx.EXIT_INSTRUCTION_LENGTH] = reason, length
        for name, value in fields.items():
            vmcs[getattr(vmx, name)] = value
        return True

    def act(self, area, vmcs, what, value=0, msr=0):
        """One instruction. Returns whether the guest goes on without an exit."""
        if what == 'sti' or what == 'cli':
            vmcs[vmx.GUEST_RFLAGS] = IF if what == 'sti' else 2
            if what == 'sti' and self.virtual(vmcs):
                self.evaluate(vmcs)
            return True
        if what == 'cr8':
            if self.virtual(vmcs):
                assert not vmcs[vmx.PRIMARY_CONTROLS] & vmx.PRIMARY_CR8_LOAD
                self.write_tpr(vmcs, value << 4)
                return True
            assert vmcs[vmx.PRIMARY_CONTROLS] & vmx.PRIMARY_CR8_LOAD
            memory.store64(r_uint(area + AREA['RAX']), r_uint(value))
            self.exit(vmcs, vmx.REASON_CONTROL_REGISTER, 3, EXIT_QUALIFICATION=8)
            return False
        if what == 'write':
            return self.write(area, vmcs, msr, value)
        assert what == 'read'
        if self.passes(vmcs, msr, vmx.MSR_BITMAP_READ_LOW):
            value.append(self.load(vmcs, msr))
            return True
        memory.store64(r_uint(area + AREA['RCX']), r_uint(msr))
        vmcs[vmx.GUEST_RIP] = 0
        self.exit(vmcs, vmx.REASON_RDMSR, 2)
        self.wanted = value
        return False

    def write(self, area, vmcs, msr, value):
        if self.passes(vmcs, msr, vmx.MSR_BITMAP_WRITE_LOW):
            if msr == TPR:
                if value >> 8:
                    self.gp += 1
                else:
                    self.write_tpr(vmcs, value)
            elif msr == EOI:
                if value:
                    self.gp += 1
                else:
                    return self.end(vmcs)
            else:
                assert msr == SELF_IPI
                if value >> 8:
                    self.gp += 1
                elif value < 16:
                    self.store(vmcs, SELF_IPI, value)
                    self.exit(vmcs, vmx.REASON_APIC_WRITE, 2, EXIT_QUALIFICATION=0x3f0)
                    return False
                else:
                    self.set_bit(vmcs, 'irr', value, 1)
                    vmcs[vmx.GUEST_INTERRUPT_STATUS] = vmcs[vmx.GUEST_INTERRUPT_STATUS] & 0xff00 | max(vmcs[vmx.GUEST_INTERRUPT_STATUS] & 0xff, value)
                    self.evaluate(vmcs)
            return True
        for name, word in (('RCX', msr), ('RAX', value & 0xffffffff), ('RDX', value >> 32)):
            memory.store64(r_uint(area + AREA[name]), r_uint(word))
        self.exit(vmcs, vmx.REASON_WRMSR, 2)
        return False

    def take(self, vmcs, vector):
        self.taken.append(vector)
        vmcs[vmx.GUEST_RFLAGS] = 2

    # The processor: registers in the virtual-APIC page
    def virtual(self, vmcs):
        on = bool(vmcs[vmx.SECONDARY_CONTROLS] & vmx.SECONDARY_INTERRUPT_DELIVERY)
        assert on == bool(vmcs[vmx.SECONDARY_CONTROLS] & vmx.SECONDARY_X2APIC) == bool(vmcs[vmx.PRIMARY_CONTROLS] & vmx.PRIMARY_TPR_SHADOW)
        return on

    def passes(self, vmcs, msr, part):
        at = vmcs[vmx.MSR_BITMAP] + part + (msr & 0x1fff) // 8
        through = not int(memory.load8(r_uint(at))) >> (msr & 7) & 1
        assert not through or self.virtual(vmcs), 'the guest would reach the real x2APIC'
        return through

    def at(self, vmcs, msr):
        return r_uint(vmcs[vmx.VIRTUAL_APIC] + ((msr & 0xff) << 4))

    def load(self, vmcs, msr):
        assert int(memory.load32(self.at(vmcs, msr) + 4)) == 0
        return int(memory.load32(self.at(vmcs, msr)))

    def store(self, vmcs, msr, value):
        memory.store32(self.at(vmcs, msr), r_uint(value))

    def bits(self, vmcs, name):
        return sum(self.load(vmcs, RANGES[name] + n) << 32 * n for n in range(8))

    def set_bit(self, vmcs, name, vector, value):
        msr, bit = RANGES[name] + vector // 32, 1 << vector % 32
        self.store(vmcs, msr, self.load(vmcs, msr) | bit if value else self.load(vmcs, msr) & ~bit)

    def evaluate(self, vmcs):
        """PPR virtualization, evaluation and delivery."""
        vector, serving = vmcs[vmx.GUEST_INTERRUPT_STATUS] & 0xff, vmcs[vmx.GUEST_INTERRUPT_STATUS] >> 8
        assert vector == max(highest(self.bits(vmcs, 'irr')), 0) and serving == max(highest(self.bits(vmcs, 'isr')), 0), 'RVI and SVI are not those of the page'
        level = self.load(vmcs, TPR)
        self.store(vmcs, PPR, level if level >> 4 >= serving >> 4 else serving & 0xf0)
        if (vmcs[vmx.GUEST_RFLAGS] & 0x200 and not vmcs.get(vmx.GUEST_INTERRUPTIBILITY, 0) & 3 and vector >> 4 > self.load(vmcs, PPR) >> 4 and
                not vmcs[vmx.PRIMARY_CONTROLS] & vmx.PRIMARY_INTERRUPT_WINDOW):
            self.set_bit(vmcs, 'isr', vector, 1)
            self.set_bit(vmcs, 'irr', vector, 0)
            self.store(vmcs, PPR, vector & 0xf0)
            vmcs[vmx.GUEST_INTERRUPT_STATUS] = vector << 8 | max(highest(self.bits(vmcs, 'irr')), 0)
            self.take(vmcs, vector)

    def write_tpr(self, vmcs, value):
        self.store(vmcs, TPR, value)
        self.evaluate(vmcs)

    def end(self, vmcs):
        vector = vmcs[vmx.GUEST_INTERRUPT_STATUS] >> 8
        self.set_bit(vmcs, 'isr', vector, 0)
        vmcs[vmx.GUEST_INTERRUPT_STATUS] = vmcs[vmx.GUEST_INTERRUPT_STATUS] & 0xff | max(highest(self.bits(vmcs, 'isr')), 0) << 8
        if vmcs[vmx.EOI_EXIT_BITMAP0 + 2 * (vector // 64)] >> vector % 64 & 1:
            self.exit(vmcs, vmx.REASON_EOI, 2, EXIT_QUALIFICATION=vector)
            return False
        self.evaluate(vmcs)
        return True

    # What can be seen
    def read(self, msr):
        """RDMSR, with or without an exit. The interrupt flag is off meanwhile."""
        value = []
        self.do(('read', value, msr))
        if not value:
            area = int(self.vcpu.area)
            value.append(int(memory.load64(r_uint(area + AREA['RAX']))) | int(memory.load64(r_uint(area + AREA['RDX']))) << 32)
        return value[0]


def both(test, rng_seed):
    """Run test(processor, rng) on each; returns what it returned."""
    results = []
    for virtual in (False, True):
        results.append(test(Processor(virtual), random.Random(rng_seed)))
    return results


def seen(processor):
    processor.do(('write', 0, ESR))
    registers = [processor.read(msr) for msr in WORTH_READING]
    return registers, list(processor.taken), list(processor.told), processor.gp, bool(processor.vcpu.has_interrupt())


def walk(processor, rng):
    """Twenty random things that guests and devices do. Returns what could be seen after each."""
    vcpu, trace = processor.vcpu, []
    processor.do(('write', X2APIC, 0x1b))
    processor.do(('write', 0x1ff, SVR))
    for _ in range(20):
        what = rng.randrange(16)
        vector = rng.choice(VECTORS)
        if what < 3:
            interrupts.arrive(vcpu, r_uint(vector))
        elif what < 6:
            vcpu.apic.request(rng.choice(VECTORS) & ~1, True)
            vcpu.apic.request(vector & ~1, True)
            vcpu.wake_for_interrupt()
        elif what < 8:
            processor.do(('write', rng.choice([vector | 1, vector | 1, 5, 0x100]), SELF_IPI))      # odd: it does not make a level an edge
        elif what < 10:
            processor.do(('write', rng.choice([0, 0, 0, 0, 1]), EOI))
        elif what == 10:
            processor.do(('write', rng.choice([0, 0x10, 0x30, 0x4f, 0xf0, 0x100]), TPR))
        elif what == 11:
            processor.do(('cr8', rng.choice([0, 2, 4, 15])))
        elif what == 12:
            processor.do(('write', rng.choice([0xff, 0x1ff, 0x1ff]), SVR))
        elif what == 13:
            base = rng.choice([X2APIC, X2APIC & ~lapic.APIC_BASE_X2APIC & ~lapic.APIC_BASE_ENABLE])
            processor.do(('write', base, 0x1b))
            if base != X2APIC:
                processor.do(('write', base | lapic.APIC_BASE_ENABLE, 0x1b), ('write', X2APIC, 0x1b), ('write', 0x1ff, SVR))
        elif what == 14:
            interrupts.access(Caller(), vcpu, r_uint(rng.choice([lapic.EOI, lapic.TPR])), r_uint(1), r_uint(0x20))
        else:
            processor.do(('sti',), ('write', 0, EOI))
        if rng.randrange(2):
            processor.do(*rng.choice([[('sti',)], [('sti',), ('write', 0, EOI), ('sti',), ('write', 0, EOI)], [('sti',), ('cli',)]]))
            processor.do(('cli',))
            processor.vmcs[vmx.GUEST_RFLAGS] = 2
        trace.append((what, seen(processor)))
    return trace


class Caller(object):
    class task(object):
        @staticmethod
        def answer(code, value):
            pass


@pytest.mark.parametrize('seed', range(30))
def test_the_guest_cannot_tell_whose_its_apic_is(seed):
    kernels, processors = both(walk, seed)
    for n, (one, other) in enumerate(zip(kernels, processors)):
        assert one == other, 'step %d' % n


def test_a_self_ipi_and_its_end_take_no_exit():
    processor = Processor(True)
    processor.do(('write', X2APIC, 0x1b), ('write', 0x1ff, SVR))
    processor.do(('sti',))
    before = list(processor.vcpu.counts)
    processor.do(('write', 0x45, SELF_IPI), ('write', 0, EOI), ('write', 0x20, TPR), ('cr8', 0), ('read', [], TPR), ('read', [], 0x822))
    assert processor.taken == [0x45]
    assert [after - then for after, then in zip(processor.vcpu.counts, before)] == [int(n == kinds.NMI) for n in range(kinds.COUNT)]


@pytest.mark.parametrize('virtual', [False, True])
def test_what_is_used_depends_on_the_processor(virtual):
    processor = Processor(virtual)
    assert setup.virtual_apic == virtual and (processor.vcpu.apic.page != 0) == virtual
    processor.do(('write', X2APIC, 0x1b), ('write', 0x1ff, SVR))
    processor.do()
    assert processor.virtual(processor.vmcs) == processor.vcpu.virtualized == virtual


@pytest.mark.parametrize('msr', [vmx.MSR_VMX_TRUE_PRIMARY, vmx.MSR_VMX_SECONDARY])
@pytest.mark.parametrize('lacking', [vmx.PRIMARY_TPR_SHADOW, vmx.SECONDARY_X2APIC, vmx.SECONDARY_APIC_REGISTERS, vmx.SECONDARY_INTERRUPT_DELIVERY])
def test_half_of_it_is_not_used(msr, lacking):
    if (msr == vmx.MSR_VMX_TRUE_PRIMARY) != (lacking == vmx.PRIMARY_TPR_SHADOW):
        return
    core = Core(virtual_apic=True)
    cpu.fake.msr[msr] &= ~(lacking << 32)
    core.enable()
    assert not setup.virtual_apic and core.vcpu().apic.page == 0


def test_init_takes_the_apic_back_and_forgets_what_was_requested():
    processor = Processor(True)
    vcpu = processor.vcpu
    vcpu.started = True
    processor.do(('write', X2APIC, 0x1b), ('write', 0x1ff, SVR))
    vcpu.apic.request(0x45, False)
    processor.do()
    assert vcpu.apic.away
    switcher.forget_debug = lambda vcpu: None
    try:
        startup.init(vcpu)
    finally:
        del switcher.__dict__['forget_debug']
    assert not vcpu.apic.away and not vcpu.has_interrupt()
    processor.do()
    assert not vcpu.virtualized and processor.vmcs[vmx.MSR_BITMAP] == int(setup.bitmap)
    processor.vmcs[vmx.GUEST_RFLAGS] = IF
    processor.do(('write', 0x1ff, SVR))
    processor.do(('sti',))
    assert processor.taken == []


def test_the_pics_interrupt_goes_first_and_the_others_follow():
    processor = Processor(True)
    vcpu, asked = processor.vcpu, []
    processor.do(('write', X2APIC, 0x1b), ('write', 0x1ff, SVR), ('write', 0x700, 0x835))
    vcpu.apic.request(0x45, False)
    vcpu.apic.extint = True
    vcpu.wake_for_interrupt()
    original, interrupts.answer.deliver = interrupts.answer.deliver, lambda vcpu: asked.append(vcpu.exit_kind)
    try:
        processor.do(('cli',))
        assert asked == [] and processor.vmcs[vmx.PRIMARY_CONTROLS] & vmx.PRIMARY_INTERRUPT_WINDOW
        processor.enter([('sti',)])
        assert asked == [] and vcpu.attention and processor.taken == []
        assert not interrupts.prepare(vcpu) and asked == [kinds.INTA]
    finally:
        interrupts.answer.deliver = original
    vcpu.apic.extint = False
    switcher.vendor.interrupt(vcpu, 0x30)
    processor.do()
    processor.do(('sti',))
    assert processor.taken == [0x30, 0x45]


def test_without_a_page_there_is_no_vcpu():
    core = Core(virtual_apic=True).enable()
    vcpu = type(core.vcpu())(3)
    vcpu.compartment, vcpu.area = Compartment(pages=1), core.vcpu().area
    assert core.vendor.create(vcpu) == status.NO_MEMORY


def test_a_new_vcpu_in_an_old_ones_place_has_nothing_of_its_apic():
    processor = Processor(True)
    vcpu = processor.vcpu
    processor.do(('write', X2APIC, 0x1b), ('write', 0x1ff, SVR))
    vcpu.apic.request(0x45, True)
    processor.do()
    assert vcpu.virtualized and vcpu.apic.shown[1] != 0
    vcpu.apic.reset(0)
    assert processor.core.vendor.create(vcpu) == status.OK
    vmcs = processor.core.fields(vcpu)
    assert not vcpu.virtualized and vcpu.apic.shown == [0] * 4 and not vcpu.apic.away
    assert [vmcs[vmx.EOI_EXIT_BITMAP0 + 2 * n] for n in range(4)] == [0] * 4 and vmcs[vmx.GUEST_INTERRUPT_STATUS] == 0
    assert not vmcs[vmx.SECONDARY_CONTROLS] & vmx.APIC_SECONDARY
