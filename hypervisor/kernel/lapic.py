"""A vCPU's local APIC: registers, priorities and the timer. No memory access and no vendor word: plain integers in, plain integers out.

Source: Intel SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)".
"""
from rpython.rlib.objectmodel import always_inline, dont_inline
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw.cpu import bsr
from hypervisor.kernel.context import timed
from hypervisor.spec import lapic as spec

R0 = r_uint(0)
R1 = r_uint(1)
LOW32 = r_uint(0xffffffff)
WORDS = 4                               # 256 vectors in 64-bit words
NONE = -1
LVTS = [spec.CMCI, spec.TIMER, spec.THERMAL, spec.PERFORMANCE, spec.LINT0, spec.LINT1, spec.ERROR]
TIMER, LINT0, LINT1, ERROR = LVTS.index(spec.TIMER), LVTS.index(spec.LINT0), LVTS.index(spec.LINT1), LVTS.index(spec.ERROR)
# The bits of each LVT register that can be written
LVT_WRITABLE = [r_uint(bits) for bits in (0x107ff, 0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff)]
REGISTER_INDEX = [LVTS.index(offset << 4) if offset << 4 in LVTS else NONE for offset in range(0x40)]
MASKED = r_uint(spec.MASKED)


def highest(words):
    """The highest vector that is set in IRR or ISR, NONE if none is."""
    if words[3] != R0:                  # one after the other: a loop costs three times as much, and this is where interrupts spend their time
        return 192 + intmask(bsr(words[3]))
    if words[2] != R0:
        return 128 + intmask(bsr(words[2]))
    if words[1] != R0:
        return 64 + intmask(bsr(words[1]))
    if words[0] != R0:
        return intmask(bsr(words[0]))
    return NONE


highest._always_inline_ = True          # where its caller wants it so; Lapic.highest is a function


def is_register(offset):
    """Does a register of the xAPIC page begin there? offset: r_uint, any. What VCPU_APIC accepts."""
    return offset < r_uint(spec.REGISTERS) and offset & 15 == R0


class Lapic(object):
    """All registers; a deadline of 0 means that the timer is off. number: the vCPU's, in the kernel."""

    def __init__(self, number):
        self.bit = R1 << number         # of timed.vcpus
        self.irr = [R0] * WORDS
        self.isr = [R0] * WORDS
        self.tmr = [R0] * WORDS
        self.lvt = [MASKED] * len(LVTS)
        self.identity = 0
        self.base = R0
        self.tsc_offset = R0            # the guest's TSC is the processor's plus this
        self.reset(0)

    def reset(self, identity):
        """The state after RESET. identity: the APIC ID, which is the vCPU's number in its VM."""
        self.identity = identity
        self.base = r_uint(spec.APIC_BASE_RESET | spec.APIC_BASE_ENABLE)
        if identity == 0:
            self.base |= r_uint(spec.APIC_BASE_BSP)
        self.clear()
        self.extint = False             # the PIC's INT pin
        self.nmi = False                # an NMI is waiting

    def init(self):
        """The state after INIT: APIC_BASE and the ID stay."""
        self.clear()
        self.nmi = False
        if self.is_x2apic():
            self.ldr = self.x2apic_ldr()

    def clear(self):
        """What RESET, INIT and switching off have in common."""
        n = 0
        while n < WORDS:
            self.irr[n] = R0
            self.isr[n] = R0
            self.tmr[n] = R0
            n += 1
        n = 0
        while n < len(LVTS):
            self.lvt[n] = MASKED
            n += 1
        self.tpr = R0
        self.ldr = R0
        self.dfr = LOW32
        self.svr = r_uint(0xff)
        self.esr = R0
        self.esr_pending = R0
        self.icr_low = R0
        self.icr_high = R0
        self.divide = R0
        self.initial = R0
        self.started = R0               # TSC when the timer was started
        self.deadline = R0              # TSC when it fires next

    # Modes

    def is_enabled(self):
        return self.base & r_uint(spec.APIC_BASE_ENABLE) != R0

    def is_x2apic(self):
        return self.base & r_uint(spec.APIC_BASE_X2APIC) != R0

    def is_xapic(self):
        return self.base & r_uint(spec.APIC_BASE_ENABLE | spec.APIC_BASE_X2APIC) == r_uint(spec.APIC_BASE_ENABLE)

    def software_enabled(self):
        return self.is_enabled() and self.svr & r_uint(spec.SPURIOUS_ENABLE) != R0

    def write_base(self, value):
        """IA32_APIC_BASE. Returns False for what gets #GP: reserved bits, moving the window, or a forbidden change of mode."""
        known = r_uint(spec.APIC_BASE_ENABLE | spec.APIC_BASE_X2APIC | spec.APIC_BASE_BSP | spec.APIC_BASE_RESET)
        if value & ~known != R0 or value & r_uint(spec.APIC_BASE_RESET) != r_uint(spec.APIC_BASE_RESET):
            return False
        enable = value & r_uint(spec.APIC_BASE_ENABLE) != R0
        x2apic = value & r_uint(spec.APIC_BASE_X2APIC) != R0
        if x2apic and not enable or x2apic and not self.is_enabled() or self.is_x2apic() and enable and not x2apic:
            return False
        if not enable and self.is_enabled():
            self.clear()
        if x2apic and not self.is_x2apic():
            self.ldr = self.x2apic_ldr()
        self.base = value
        return True

    def x2apic_ldr(self):
        return r_uint(self.identity >> 4) << 16 | R1 << (self.identity & 15)

    # Priorities

    def highest(self, words):
        return highest(words)

    def ppr(self):
        """The processor priority: the higher of TPR and the class in service."""
        serving = self.highest(self.isr)
        if serving < 0:
            return self.tpr
        if self.tpr >> 4 >= r_uint(serving) >> 4:
            return self.tpr
        return r_uint(serving & 0xf0)

    @always_inline
    def pending(self):
        """The vector that the processor would take now, NONE if there is none above its priority."""
        if not self.has_request():
            return NONE
        return self.highest_request()

    @dont_inline                        # nearly always nothing is requested, and that shall cost no registers
    def highest_request(self):
        """pending(), when something is requested."""
        if not self.software_enabled():
            return NONE
        isr = self.isr
        if isr[3] | isr[2] | isr[1] | isr[0] != R0:
            return self.highest_above(self.ppr())
        vector = highest(self.irr)
        if r_uint(vector) >> 4 <= self.tpr >> 4:
            return NONE
        return vector

    @dont_inline
    def highest_above(self, level):
        """The highest that is requested, NONE if it is not above a level. There is one."""
        vector = self.highest(self.irr)
        if r_uint(vector) >> 4 <= level >> 4:
            return NONE
        return vector

    def is_held_by_tpr(self):
        """Is there a request that nothing but TPR holds back?"""
        if self.tpr == R0 or not self.software_enabled():
            return False
        vector = self.highest(self.irr)
        return vector >= 0 and vector >> 4 > self.highest(self.isr) >> 4 and r_uint(vector) >> 4 <= self.tpr >> 4

    def accepts_extint(self):
        """Does the PIC's pin reach the processor? Through LINT0 as ExtINT, or straight when the APIC is off."""
        if not self.extint:
            return False
        if not self.is_enabled():
            return True
        lint0 = self.lvt[LINT0]
        return lint0 & MASKED == R0 and (lint0 >> 8) & 7 == r_uint(spec.EXTINT)

    def request(self, vector, level):
        """An interrupt message arrives. Vectors below 16 are errors."""
        if vector < 16:
            self.error(spec.ESR_ILLEGAL_RECEIVED)
        elif self.software_enabled():
            self.accept(vector, level)

    def error(self, which):
        """An error was found. The first since ESR was written raises the error entry's interrupt."""
        first = self.esr_pending == R0
        self.esr_pending |= r_uint(which)
        vector = intmask(self.lvt[ERROR] & r_uint(0xff))
        if first and self.lvt[ERROR] & MASKED == R0 and vector >= 16:
            self.accept(vector, False)

    def accept(self, vector, level):
        """Into IRR. vector: 16 to 255."""
        word = (vector >> 6) & 3
        bit = R1 << (vector & 63)
        self.irr[word] |= bit
        if level:
            self.tmr[word] |= bit
        else:
            self.tmr[word] &= ~bit

    def take(self, vector):
        """The processor takes the vector: from IRR to ISR."""
        word = (vector >> 6) & 3
        bit = R1 << (vector & 63)
        self.irr[word] &= ~bit
        self.isr[word] |= bit

    def take_at_once(self, vector):
        """An edge-triggered request that nothing else goes before and nothing holds back: from the message to ISR. Returns whether it is one;
        if not, nothing has been done."""
        isr = self.isr
        if (vector < 16 or not self.software_enabled() or self.has_request() or isr[3] | isr[2] | isr[1] | isr[0] != R0 or
                r_uint(vector) >> 4 <= self.tpr >> 4):
            return False
        word = (vector >> 6) & 3
        bit = R1 << (vector & 63)
        self.tmr[word] &= ~bit
        isr[word] |= bit
        return True

    def end(self):
        """EOI. Returns the vector if it was level-triggered (the IOAPIC wants to know), else NONE."""
        vector = self.in_service()
        if vector < 0:
            return NONE
        self.leave_service(vector)
        if self.is_level(vector):
            return vector
        return NONE

    def in_service(self):
        """The highest vector in service, NONE if none is."""
        return self.highest(self.isr)

    def leave_service(self, vector):
        self.isr[(vector >> 6) & 3] &= ~(R1 << (vector & 63))

    def ends_alone(self, vector):
        """Would an EOI in x2APIC mode take `vector` from ISR and do nothing else? False when it is not in service."""
        isr = self.isr
        word = (vector >> 6) & 3
        bit = R1 << (vector & 63)
        if isr[word] != bit or self.tmr[word] & bit != R0 or not self.is_x2apic() or self.has_request():
            return False
        isr[word] = R0
        alone = isr[3] | isr[2] | isr[1] | isr[0] == R0
        isr[word] = bit
        return alone

    def is_level(self, vector):
        return (self.tmr[(vector >> 6) & 3] >> (vector & 63)) & 1 != R0

    def forget_requests(self):
        n = 0
        while n < WORDS:
            self.irr[n] = R0
            self.tmr[n] = R0
            n += 1
        self.nmi = False

    def has_request(self):
        """Is any vector requested, whatever holds it back?"""
        irr = self.irr
        return irr[3] | irr[2] | irr[1] | irr[0] != R0

    # Timer

    def timer_mode(self):
        return intmask((self.lvt[TIMER] >> 17) & 3)

    def shift(self):
        """TSC ticks per count, as a power of two."""
        code = intmask((self.divide & 3) | (self.divide >> 1) & 4)
        return spec.TIMER_SHIFT + ((code + 1) & 7)

    def set_deadline(self, moment):
        self.deadline = moment
        timed.vcpus |= self.bit

    def start_timer(self, now):
        """INITIAL_COUNT was written."""
        self.started = now
        self.deadline = R0
        if self.initial != R0:
            self.set_deadline(now + (self.initial << self.shift()))

    def count(self, now):
        """CURRENT_COUNT."""
        if self.deadline == R0 or self.timer_mode() == spec.LVT_MODE_DEADLINE:
            return R0
        passed = (now - self.started) >> self.shift()
        if self.timer_mode() == spec.LVT_MODE_PERIODIC:
            return self.initial - passed % self.initial
        if passed >= self.initial:
            return R0
        return self.initial - passed

    def expire(self, now):
        """The deadline has passed; a periodic timer goes on. Returns the vector to be requested, NONE if that is masked."""
        if self.timer_mode() == spec.LVT_MODE_PERIODIC and self.initial != R0:
            period = self.initial << self.shift()
            self.started += period * ((now - self.started) // period)
            self.deadline = self.started + period
        else:
            self.deadline = R0
            timed.vcpus &= ~self.bit
        entry = self.lvt[TIMER]
        if entry & MASKED != R0:
            return NONE
        return intmask(entry & r_uint(0xff))

    def write_deadline(self, value):
        """IA32_TSC_DEADLINE, in the guest's TSC; ignored in the other modes. What lies beyond the processor's TSC never comes."""
        if self.timer_mode() != spec.LVT_MODE_DEADLINE:
            return
        deadline = value - self.tsc_offset
        if value == R0:
            deadline = R0
        elif deadline < value and self.tsc_offset != R0 or deadline == R0:
            deadline = ~R0
        self.set_deadline(deadline)

    def read_deadline(self):
        if self.timer_mode() == spec.LVT_MODE_DEADLINE and self.deadline != R0:
            return self.deadline + self.tsc_offset
        return R0

    # Registers

    def read(self, offset, now):
        """A 32-bit register by its xAPIC offset (a multiple of 16 below 0x400)."""
        index = REGISTER_INDEX[(offset >> 4) & 0x3f]
        if index >= 0:
            return self.lvt[index]
        if offset >= spec.ISR and offset < spec.IRR + 0x80:
            return self.read_vectors(offset)
        if offset == spec.ID:
            if self.is_x2apic():
                return r_uint(self.identity)
            return r_uint(self.identity) << 24
        if offset == spec.VERSION:
            return r_uint(spec.VERSION_VALUE)
        if offset == spec.TPR:
            return self.tpr
        if offset == spec.PPR:
            return self.ppr()
        if offset == spec.LDR:
            return self.ldr
        if offset == spec.DFR:
            return self.dfr
        if offset == spec.SPURIOUS:
            return self.svr
        if offset == spec.ESR_OFFSET:
            return self.esr
        if offset == spec.ICR_LOW:
            return self.icr_low
        if offset == spec.ICR_HIGH:
            return self.icr_high
        if offset == spec.INITIAL_COUNT:
            return self.initial
        if offset == spec.CURRENT_COUNT:
            return self.count(now)
        if offset == spec.DIVIDE:
            return self.divide
        return R0

    def read_vectors(self, offset):
        """One of the 24 registers of ISR, TMR and IRR."""
        part = (offset - spec.ISR) >> 4
        word = (part >> 1) & 3
        words = self.isr
        if part >= 16:
            words = self.irr
        elif part >= 8:
            words = self.tmr
        return (words[word] >> (32 * (part & 1))) & LOW32

    def write(self, offset, value, now):
        """A 32-bit register, but EOI, ICR_LOW and SELF_IPI, which concern others too (kernel/interrupts.py)."""
        index = REGISTER_INDEX[(offset >> 4) & 0x3f]
        if index >= 0:
            self.write_lvt(index, value, now)
        elif offset == spec.TPR:
            self.tpr = value & r_uint(0xff)
        elif offset == spec.LDR:
            self.ldr = value & r_uint(0xff000000)
        elif offset == spec.DFR:
            self.dfr = value | r_uint(0x0fffffff)
        elif offset == spec.SPURIOUS:
            self.write_svr(value)
        elif offset == spec.ESR_OFFSET:
            self.esr = self.esr_pending
            self.esr_pending = R0
        elif offset == spec.ICR_HIGH:
            self.icr_high = value
        elif offset == spec.INITIAL_COUNT:
            if self.timer_mode() != spec.LVT_MODE_DEADLINE:         # ignored there
                self.initial = value & LOW32
                self.start_timer(now)
        elif offset == spec.DIVIDE:
            self.divide = value & r_uint(0xb)
            if self.initial != R0 and self.deadline != R0:
                self.start_timer(now)
        else:
            self.error(spec.ESR_ILLEGAL_REGISTER)

    def write_lvt(self, index, value, now):
        value &= LVT_WRITABLE[index]
        if not self.software_enabled():
            value |= MASKED
        changed = (self.lvt[index] ^ value) & r_uint(3 << 17)
        self.lvt[index] = value
        if index == TIMER and changed != R0:
            self.deadline = R0          # another mode: it is not armed until the count or the deadline is written again
            self.initial = R0

    def write_svr(self, value):
        """Switching off by software masks every LVT entry."""
        self.svr = value & r_uint(0x1ff)
        if self.svr & r_uint(spec.SPURIOUS_ENABLE) == R0:
            n = 0
            while n < len(LVTS):
                self.lvt[n] |= MASKED
                n += 1

    def is_addressed(self, destination, logical):
        """Is this APIC among those that an 8-bit (xAPIC) or 32-bit (x2APIC) destination names?"""
        if self.is_x2apic():
            if destination == LOW32:
                return True
            if not logical:
                return destination == r_uint(self.identity)
            return destination >> 16 == self.ldr >> 16 and destination & self.ldr & r_uint(0xffff) != R0
        if destination == r_uint(0xff):
            return True
        if not logical:
            return destination == r_uint(self.identity)
        mine = self.ldr >> 24
        if self.dfr >> 28 == r_uint(0xf):
            return destination & mine != R0
        return destination >> 4 == mine >> 4 and destination & mine & r_uint(15) != R0
