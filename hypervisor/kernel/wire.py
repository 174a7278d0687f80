"""Messages to the kernels of other cores: what is marked (news.py) is sent when there is room for it (hypervisor/spec/wire.py)."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel import news as marks
from hypervisor.kernel import state
from hypervisor.kernel.arena import arena
from hypervisor.kernel.compartment import NO_NAME, bounds, compartments, manager
from hypervisor.kernel.core import this
from hypervisor.kernel.hold import holds_back
from hypervisor.kernel.link import links, wires
from hypervisor.kernel.news import news
from hypervisor.kernel.offer import offers
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.vcpu import vcpus
from hypervisor.spec import call, ending, wire as spec
from hypervisor.spec import core as cores
from hypervisor.spec import exit as kinds
from hypervisor.spec import vcpu as page
from hypervisor.spec.config import MAX_VMS

R0 = r_uint(0)
HEADER = spec.HEADER
BODY = HEADER['END']
STATE_GROUPS = page.READABLE
ROOT, COUNT, CORES = [spec.OFFER_FIELDS[name] for name in ('ROOT', 'COUNT', 'CORES')]
WHAT, OFFSET, VALUE = [spec.ASK_FIELDS[name] for name in ('WHAT', 'OFFSET', 'VALUE')]
HOW, DETAIL = spec.END_FIELDS['HOW'], spec.END_FIELDS['DETAIL']
TICKS, EXITS = spec.COUNT_FIELDS['TICKS'], spec.COUNT_FIELDS['EXITS']
IRR, TMR, FLAGS, VECTOR = [spec.RAISE_FIELDS[name] for name in ('IRR', 'TMR', 'FLAGS', 'VECTOR')]
TO_ITS_CORE, TO_ITS_HOME = marks.ANSWER | marks.ASK | marks.RAISE, marks.EXIT | marks.RESULT
BASE, LDR, DFR, SVR = [spec.ADDRESS_FIELDS[name] for name in ('BASE', 'LDR', 'DFR', 'SVR')]


class Wire(object):
    """out: hva of the page in which a message is put together. left: something has found no room."""

    def __init__(self):
        self.out = R0
        self.left = False

    def open(self):
        """Once the arena is where it stays. Returns success."""
        hpa = arena.take()
        self.out = arena.hva(hpa)
        return hpa != R0

    # -- one message

    def begin(self, kind, home, name, vcpu):
        memory.store64(self.out + HEADER['KIND'], r_uint(kind))
        memory.store64(self.out + HEADER['HOME'], r_uint(home))
        memory.store64(self.out + HEADER['NAME'], r_uint(name))
        memory.store64(self.out + HEADER['VCPU'], r_uint(vcpu))

    def put(self, offset, value):
        """A word behind the header."""
        memory.store64(self.out + BODY + offset, value)

    def send(self, core, size):
        """The message, with `size` bytes behind its header. Returns whether there was room."""
        memory.store64(self.out + HEADER['BYTES'], r_uint(size))
        return wires.put_whole(core, self.out, r_uint(BODY + size))

    # -- all of them

    def flush(self):
        """Send what is marked. What finds no room keeps its mark: the other core's doorbell brings us back here."""
        news.any = False
        if self.left:
            wires.satisfied()
        left = 0
        n = 0
        while n < bounds.compartments:
            compartment = compartments[n]
            if compartment.news != 0:
                self.flush_compartment(compartment)
                left |= compartment.news
            n += 1
        n = 0
        while n < bounds.vcpus:
            vcpu = vcpus[n]
            if vcpu.news != 0 and vcpu.compartment is not None:
                self.flush_vcpu(vcpu)
                left |= vcpu.news
            n += 1
        if offers.owed:
            self.flush_offers()
        self.left = left != 0 or offers.owed

    def flush_compartment(self, compartment):
        if compartment.news & marks.OFFER:
            self.send_offers(compartment)
        if compartment.news & marks.STOP:
            self.send_stops(compartment)
        if compartment.news & marks.JOINED and self.send_word(compartment.home, spec.JOINED, compartment.name, R0):
            compartment.news &= ~marks.JOINED
        if compartment.news & marks.ENDED and self.send_end(compartment):
            compartment.news &= ~marks.ENDED
        if compartment.news & marks.STOPPED and self.send_counts(compartment):
            compartment.news &= ~marks.STOPPED
            compartment.name = NO_NAME          # its home expects nothing more

    def flush_vcpu(self, vcpu):
        """What a core wants to hear nothing of finds no room either."""
        compartment = vcpu.compartment
        if vcpu.news & TO_ITS_CORE and not holds_back(vcpu.core, compartment):
            self.tell_its_core(vcpu)
        if vcpu.news & TO_ITS_HOME and not holds_back(compartment.home, compartment):
            self.tell_its_home(vcpu)
        if vcpu.news & marks.ADDRESS and self.send_address(vcpu):
            vcpu.news &= ~marks.ADDRESS

    def tell_its_core(self, vcpu):
        if vcpu.news & marks.ANSWER and self.send_answer(vcpu):
            vcpu.news &= ~marks.ANSWER
        if vcpu.news & marks.ASK and self.send_ask(vcpu):
            vcpu.news &= ~marks.ASK
        if vcpu.news & marks.RAISE and self.send_requests(vcpu):
            vcpu.news &= ~marks.RAISE

    def tell_its_home(self, vcpu):
        if vcpu.news & marks.EXIT and self.send_exit(vcpu):
            vcpu.news &= ~marks.EXIT
        if vcpu.news & marks.RESULT and self.send_result(vcpu):
            vcpu.news &= ~marks.RESULT

    # -- from home

    def send_offers(self, compartment):
        """A core that has stopped before takes none, and rings for it no more."""
        core = 0
        while core < this.count:
            if (compartment.to_offer >> core) & 1 != 0 and links.state(core) == r_uint(cores.DEAD):
                compartment.stop(ending.CORE_STOPPED, r_uint(core))
                scheduler.wake(manager)
            if (compartment.to_offer >> core) & 1 != 0:
                self.begin(spec.OFFER, this.number, compartment.name, 0)
                self.put(ROOT, compartment.nested.root)
                self.put(COUNT, r_uint(compartment.vcpu_count))
                self.put(CORES, compartment.cores)
                if self.send(core, spec.OFFER_FIELDS['END']):
                    compartment.to_offer &= ~(1 << core)
                    compartment.offered |= 1 << core
            core += 1
        if compartment.to_offer == 0:
            compartment.news &= ~marks.OFFER

    def send_stops(self, compartment):
        core = 0
        while core < this.count:
            if (compartment.to_stop >> core) & 1 != 0:
                self.begin(spec.STOP, this.number, compartment.name, 0)
                if self.send(core, 0):
                    compartment.to_stop &= ~(1 << core)
            core += 1
        if compartment.to_stop == 0:
            compartment.news &= ~marks.STOP

    def send_answer(self, vcpu):
        """As the VMM has left it in the page: the core that the vCPU lives on checks what it gets."""
        size = spec.STATE_END - spec.ANSWER_START
        if memory.load64(vcpu.page + page.ANSWER['DIRTY']) & r_uint(page.GROUP_CPUID) != R0:
            size = spec.CPUID_END - spec.ANSWER_START
        self.begin(spec.ANSWER, this.number, vcpu.compartment.name, vcpu.index)
        memory.copy(self.out + BODY, vcpu.page + spec.ANSWER_START, r_uint(size))
        return self.send(vcpu.core, size)

    def send_ask(self, vcpu):
        self.begin(spec.ASK, this.number, vcpu.compartment.name, vcpu.index)
        self.put(WHAT, r_uint(vcpu.ask))
        self.put(OFFSET, vcpu.ask_offset)
        self.put(VALUE, vcpu.ask_value)
        return self.send(vcpu.core, spec.ASK_FIELDS['END'])

    # -- to the home

    def send_word(self, core, kind, name, value):
        self.begin(kind, core, name, 0)
        self.put(0, value)
        return self.send(core, 8)

    def send_end(self, compartment):
        self.begin(spec.ENDED, compartment.home, compartment.name, 0)
        self.put(HOW, r_uint(compartment.how))
        self.put(DETAIL, compartment.detail)
        return self.send(compartment.home, spec.END_FIELDS['END'])

    def send_counts(self, compartment):
        self.begin(spec.STOPPED, compartment.home, compartment.name, 0)
        self.put(TICKS, compartment.run_ticks())
        n = 0
        while n < kinds.COUNT:
            self.put(EXITS + 8 * n, compartment.exits(n))
            n += 1
        return self.send(compartment.home, spec.COUNT_FIELDS['END'])

    def flush_offers(self):
        """What is owed for VMs that have no branch here."""
        offers.owed = False
        n = 0
        while n < len(offers.all):
            offer = offers.all[n]
            core, name = n // MAX_VMS, n % MAX_VMS
            if offer.failed != 0 and self.send_word(core, spec.JOINED, name, r_uint(offer.failed)):
                offer.failed = 0
            if offer.stopped and self.send_nothing(core, name):
                offer.stopped = False
            if offer.failed != 0 or offer.stopped:
                offers.owed = True
            n += 1

    def send_nothing(self, core, name):
        """STOPPED, with zeros."""
        self.begin(spec.STOPPED, core, name, 0)
        memory.clear(self.out + BODY, r_uint(spec.COUNT_FIELDS['END']))
        return self.send(core, spec.COUNT_FIELDS['END'])

    def send_exit(self, vcpu):
        """With all of the state, so that the VMM can read it there."""
        state.write(vcpu, r_uint(STATE_GROUPS))
        self.begin(spec.EXIT, vcpu.compartment.home, vcpu.compartment.name, vcpu.index)
        memory.copy(self.out + BODY, vcpu.page, r_uint(spec.STATE_END))
        return self.send(vcpu.compartment.home, spec.STATE_END)

    def send_result(self, vcpu):
        self.begin(spec.RESULT, vcpu.compartment.home, vcpu.compartment.name, vcpu.index)
        self.put(0, vcpu.result)
        return self.send(vcpu.compartment.home, 8)

    # -- between any two cores of a VM

    def send_requests(self, vcpu):
        """What the APIC of a vCPU that lives elsewhere has been sent; nothing of it stays here."""
        apic = vcpu.apic
        self.begin(spec.RAISE, vcpu.compartment.home, vcpu.compartment.name, vcpu.index)
        n = 0
        while n < len(apic.irr):
            self.put(IRR + 8 * n, apic.irr[n])
            self.put(TMR + 8 * n, apic.tmr[n])
            n += 1
        flags = vcpu.to_raise
        if apic.nmi:
            flags |= spec.RAISE_NMI
        self.put(FLAGS, r_uint(flags))
        self.put(VECTOR, vcpu.startup_vector)
        if not self.send(vcpu.core, spec.RAISE_FIELDS['END']):
            return False
        vcpu.forget_requests()
        return True

    def send_address(self, vcpu):
        compartment, apic = vcpu.compartment, vcpu.apic
        core = 0
        while core < this.count:
            if (vcpu.untold >> core) & 1 != 0 and not holds_back(core, compartment):
                self.begin(spec.ADDRESS, compartment.home, compartment.name, vcpu.index)
                self.put(BASE, apic.base)
                self.put(LDR, apic.ldr)
                self.put(DFR, apic.dfr)
                self.put(SVR, apic.svr)
                if self.send(core, spec.ADDRESS_FIELDS['END']):
                    vcpu.untold &= ~(1 << core)
            core += 1
        return vcpu.untold == 0


wire = Wire()
assert cores.MOST <= 16 and call.VCPUS_PER_VM <= 16     # CORES has four bits for each
