"""What the kernels of other cores say (hypervisor/spec/wire.py), and JOIN: the vCPUs of one VM on several cores.

The other kernels are this very program in ring 0, so what they say of physical addresses is taken as it is; but a core that has gone mad
must not make this one go mad, so everything else is checked, and what makes no sense is passed over.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu, memory
from hypervisor.kernel import answer, interrupts, startup
from hypervisor.kernel import news as marks
from hypervisor.kernel.arena import arena
from hypervisor.kernel.compartment import NO_NAME, bounds, compartments, manager
from hypervisor.kernel.core import this
from hypervisor.kernel.create import create_branch
from hypervisor.kernel.lapic import is_register
from hypervisor.kernel.link import links, wires
from hypervisor.kernel.news import news
from hypervisor.kernel.offer import core_of, offers
from hypervisor.kernel.owned import owned
from hypervisor.kernel.scheduler import Bell, scheduler
from hypervisor.kernel.task import IN_ASK
from hypervisor.kernel.wire import BODY, HEADER, wire
from hypervisor.spec import call, ending, status
from hypervisor.spec import core as cores
from hypervisor.spec import exit as kinds
from hypervisor.spec import wire as spec
from hypervisor.spec.config import MAX_VMS
from hypervisor.spec.lapic import ESR_ILLEGAL_RECEIVED
from hypervisor.spec.vcpu import EXIT, MEMORY_BRINGS

R0 = r_uint(0)
OFFER, ASK, END, COUNTS, RAISE, ADDRESS = (spec.OFFER_FIELDS, spec.ASK_FIELDS, spec.END_FIELDS, spec.COUNT_FIELDS, spec.RAISE_FIELDS,
                                           spec.ADDRESS_FIELDS)
SIZES = [0] * spec.KINDS                # of what each kind brings; ANSWER has two
for _kind, _size in ((spec.OFFER, OFFER['END']), (spec.ANSWER, spec.STATE_END - spec.ANSWER_START), (spec.ASK, ASK['END']), (spec.STOP, 0),
                     (spec.JOINED, 8), (spec.EXIT, spec.STATE_END), (spec.RESULT, 8), (spec.ENDED, END['END']), (spec.STOPPED, COUNTS['END']),
                     (spec.RAISE, RAISE['END']), (spec.ADDRESS, ADDRESS['END'])):
    SIZES[_kind] = _size
ILLEGAL = r_uint(0xffff)                # vectors below 16
EXIT_BYTES = r_uint(spec.ANSWER_START)


class Inbox(object):
    """page: hva of what has come. core: from which core."""

    def __init__(self):
        self.page = R0
        self.core = 0

    def open(self):
        """Once the arena is where it stays. Returns success."""
        hpa = arena.take()
        self.page = arena.hva(hpa)
        return hpa != R0

    def header(self, offset):
        return memory.load64(self.page + offset)

    def word(self, offset):
        """A word behind the header."""
        return memory.load64(self.page + BODY + offset)


inbox = Inbox()


def receive():
    """Take all that other cores have put in, see who has stopped, and send what has to be said to it."""
    if wires.base == R0:
        return
    core = 0
    while core < this.count:
        if core != this.number:
            take_all(core)
            if links.state(core) == r_uint(cores.DEAD):
                lose(core)
        core += 1
    if news.any or wire.left:
        wire.flush()


def take_all(core):
    """What is there now; what comes meanwhile rings again."""
    left = wires.waiting(core)
    inbox.core = core
    since = cpu.rdtsc()
    while left >= r_uint(BODY):
        wires.get(core, inbox.page, r_uint(BODY))
        size = inbox.header(HEADER['BYTES'])
        if size > r_uint(spec.MOST_BYTES) or size > left - BODY:
            wires.get(core, inbox.page, left - BODY)        # no message ends here: the rest cannot be understood
            return
        wires.get(core, inbox.page + BODY, size)
        compartment = take(inbox.header(HEADER['KIND']), intmask(size))
        left -= size + BODY
        if compartment is not None:
            now = cpu.rdtsc()
            scheduler.bill(compartment, now - since)
            since = now


def take(kind, size):
    """Returns whose vCPU it was about, or None."""
    home = inbox.header(HEADER['HOME'])
    name = inbox.header(HEADER['NAME'])
    index = inbox.header(HEADER['VCPU'])
    if kind >= r_uint(spec.KINDS) or home >= r_uint(this.count) or name >= r_uint(MAX_VMS) or size < SIZES[intmask(kind)]:
        return None
    if kind == r_uint(spec.OFFER) or kind == r_uint(spec.STOP):
        from_home(intmask(kind), intmask(home), intmask(name))
        return None
    compartment = find(intmask(home), intmask(name))
    if compartment is None:
        return None
    if kind == r_uint(spec.JOINED) or kind == r_uint(spec.ENDED) or kind == r_uint(spec.STOPPED):
        if not compartment.is_branch():
            to_home(compartment, intmask(kind))
    elif index < r_uint(compartment.vcpu_count):
        vcpu = compartment.vcpus[intmask(index)]
        if vcpu is not None and compartment.state == call.STATE_RUNNING and compartment.leaving == 0:
            about_vcpu(compartment, vcpu, intmask(kind), size)
            return compartment
    return None


def find(home, name):
    """The part that this core has of the VM `name` of core `home`; None if there is none."""
    n = 0
    while n < bounds.compartments:
        compartment = compartments[n]
        if compartment.used and compartment.name == name and compartment.home == home:
            return compartment
        n += 1
    return None


# -- whole VMs

def from_home(kind, home, name):
    """OFFER and STOP."""
    if home != inbox.core:
        return
    offer = offers.of(home, name)
    if kind == spec.OFFER:
        count = inbox.word(OFFER['COUNT'])
        places = inbox.word(OFFER['CORES'])
        if count > R0 and count <= r_uint(call.VCPUS_PER_VM) and are_cores(places, intmask(count)) and find(home, name) is None:
            offer.root = inbox.word(OFFER['ROOT'])
            offer.count = intmask(count)
            offer.cores = places
            manager.signal(call.SLOT_LINK + home)
            scheduler.wake(manager)
        return
    offer.root = R0
    branch = find(home, name)
    if branch is None:
        offer.stopped = True
        offers.owed = True
        news.any = True
        return
    branch.news &= ~(marks.JOINED | marks.ENDED)
    end(branch, ending.DESTROYED, R0)
    branch.news &= ~marks.ENDED
    news.of_compartment(branch, marks.STOPPED)


def are_cores(places, count):
    """Does each of `count` vCPUs live on a core of this box?"""
    n = 0
    while n < count:
        if core_of(places, n) >= r_uint(this.count):
            return False
        n += 1
    return True


def end(branch, how, detail):
    branch.stop(how, detail)
    scheduler.wake(manager)


def to_home(compartment, kind):
    """JOINED, ENDED and STOPPED: of the core that they come from."""
    bit = 1 << inbox.core
    if compartment.others & bit == 0:
        return
    if kind == spec.JOINED:
        code = inbox.word(0)
        if code != R0:
            compartment.stop(ending.NOT_STARTED, code)
        elif compartment.leaving == 0 and compartment.joined != compartment.others:
            compartment.joined |= bit
            if compartment.joined == compartment.others:
                compartment.task.wake()
                scheduler.wake(compartment)
    elif kind == spec.ENDED:
        how = inbox.word(END['HOW'])
        if how > R0 and how < r_uint(32):
            compartment.stop(intmask(how), inbox.word(END['DETAIL']))
    elif compartment.leaving & bit != 0:
        compartment.vcpu_ticks += inbox.word(COUNTS['TICKS'])
        n = 0
        while n < kinds.COUNT:
            compartment.counts[n] += inbox.word(COUNTS['EXITS'] + 8 * n)
            n += 1
        compartment.leave(inbox.core)
        scheduler.wake(manager)


def lose(core):
    """The core has stopped, and with it all vCPUs on it."""
    bit = 1 << core
    n = 0
    while n < bounds.compartments:
        compartment = compartments[n]
        if compartment.used and compartment.state != call.STATE_ENDED:
            if compartment.is_branch():
                if compartment.home == core:
                    end(compartment, ending.CORE_STOPPED, r_uint(core))
            elif compartment.others & bit != 0 and compartment.name != NO_NAME:
                compartment.stop(ending.CORE_STOPPED, r_uint(core))
                compartment.leave(core)
                scheduler.wake(manager)
        if compartment.is_branch() and compartment.home == core:
            compartment.news = 0                    # nobody is there to be told
            compartment.name = NO_NAME
        n += 1


def join(caller, slot, core, name, region, first, count):
    """JOIN. Its failure is the VM's end, which the home hears of."""
    if caller.number != 0 or not links.is_peer(core):
        caller.task.answer(status.BAD_SLOT, R0)
    elif name >= r_uint(MAX_VMS):
        caller.task.answer(status.BAD_RANGE, R0)
    elif not caller.slot_free(slot):
        caller.task.answer(status.SLOT_IN_USE, R0)
    elif offers.of(intmask(core), intmask(name)).root == R0:
        caller.task.answer(status.NOT_OFFERED, R0)
    else:
        offer = offers.of(intmask(core), intmask(name))
        code = create_branch(caller, intmask(slot), intmask(core), intmask(name), offer, region, first, count)
        offer.root = R0
        if code != status.OK:
            offer.failed = code
            offers.owed = True
            news.any = True
        caller.task.answer(code, R0)


# -- vCPUs

def about_vcpu(compartment, vcpu, kind, size):
    if vcpu.away:
        if vcpu.core == inbox.core:
            if kind == spec.ADDRESS:
                note_address(vcpu)
            elif not compartment.is_branch() and kind == spec.EXIT:
                take_exit(compartment, vcpu)
            elif not compartment.is_branch() and kind == spec.RESULT:
                take_result(compartment, vcpu)
        return
    was_ready = vcpu.ready
    if kind == spec.RAISE and compartment.others & (1 << inbox.core) != 0:
        take_requests(vcpu)
    elif compartment.home == inbox.core:
        if kind == spec.ANSWER:
            take_answer(compartment, vcpu, size)
        elif kind == spec.ASK:
            take_question(compartment, vcpu)
    if vcpu.ready and not was_ready:
        scheduler.wake(compartment)


def note_address(vcpu):
    apic = vcpu.apic
    apic.base = inbox.word(ADDRESS['BASE'])
    apic.ldr = inbox.word(ADDRESS['LDR'])
    apic.dfr = inbox.word(ADDRESS['DFR'])
    apic.svr = inbox.word(ADDRESS['SVR'])


def take_exit(compartment, vcpu):
    """Its exit is the VMM's business. One that it has not answered yet stays: a vCPU has one at a time."""
    if vcpu.outstanding or not vcpu.started:
        return
    memory.copy(vcpu.page, inbox.page + BODY, EXIT_BYTES)
    memory.copy(vcpu.mirror, inbox.page + BODY + spec.STATE_START, r_uint(spec.STATE_END - spec.STATE_START))
    if memory.load64(inbox.page + BODY + EXIT['KIND']) == r_uint(kinds.MEMORY):
        answer.write_mirrored(vcpu, r_uint(MEMORY_BRINGS))
    vcpu.outstanding = True
    vcpu.told = False
    answer.announce(vcpu)
    if compartment.task.ready:
        scheduler.wake(compartment)


def take_result(compartment, vcpu):
    task = compartment.task
    if task.blocked != IN_ASK:
        return
    if vcpu.ask == spec.RESET:
        vcpu.outstanding = False                    # what had come before
        vcpu.forget_requests()
        vcpu.apic.reset(vcpu.index)
        task.owes = False
        if compartment.has_outstanding():
            task.owe()
        task.answer(status.OK, r_uint(1))
    else:
        task.answer(status.OK, inbox.word(0))
    task.wake()
    scheduler.wake(compartment)


def take_answer(branch, vcpu, size):
    if not vcpu.outstanding and vcpu.started:
        return
    memory.copy(vcpu.page + spec.ANSWER_START, inbox.page + BODY, r_uint(size))
    rule = answer.accept(vcpu)
    if rule != 0:
        end(branch, ending.VMM_BAD_ANSWER, r_uint(rule))


def take_question(branch, vcpu):
    what = inbox.word(ASK['WHAT'])
    offset = inbox.word(ASK['OFFSET'])
    vcpu.result = R0
    if what == r_uint(spec.RESET):
        interrupts.reset(branch, vcpu)
    elif is_register(offset):
        vcpu.result = interrupts.accessed(vcpu, intmask(offset), what == r_uint(spec.APIC_WRITE), inbox.word(ASK['VALUE']))
    news.of_vcpu(vcpu, marks.RESULT)


def take_requests(vcpu):
    """INIT first, then STARTUP, then what else was raised after them."""
    apic = vcpu.apic
    flags = intmask(inbox.word(RAISE['FLAGS']))
    if flags & spec.RAISE_INIT:
        if vcpu.outstanding:
            vcpu.init = True
        elif vcpu.started:
            startup.init(vcpu)
    if flags & spec.RAISE_STARTUP:
        startup.startup(vcpu, inbox.word(RAISE['VECTOR']) & r_uint(0xff))
    if flags & spec.RAISE_NMI:
        apic.nmi = True
    if flags & spec.RAISE_EXTINT_ON:
        apic.extint = True
    if flags & spec.RAISE_EXTINT_OFF:
        apic.extint = False
    take_vectors(apic)
    vcpu.wake_for_interrupt()


def take_vectors(apic):
    """Those below 16 are errors, to an APIC that is switched off as well."""
    legal = ~ILLEGAL
    if inbox.word(RAISE['IRR']) & ILLEGAL != R0:
        apic.error(ESR_ILLEGAL_RECEIVED)
    n = 0
    while n < len(apic.irr) and apic.software_enabled():
        requests = inbox.word(RAISE['IRR'] + 8 * n) & legal
        apic.irr[n] |= requests
        apic.tmr[n] = apic.tmr[n] & ~requests | requests & inbox.word(RAISE['TMR'] + 8 * n)
        legal = ~R0
        n += 1


class Doorbell(Bell):
    def answer(self):
        owned.check_nmis()
        told = links.arrive()
        receive()
        return told


scheduler.bell = Doorbell()
