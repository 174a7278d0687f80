"""The vCPU whose exit the VMM handles: the exit, the state that VCPU_READ fetches, and the answer.

One object stands for all vCPUs of the VM: `select` says whose turn it is. All of it lies in that vCPU's page
(hypervisor/spec/vcpu.py). What is written there with its group in DIRTY becomes the vCPU's state when the answer is given; the groups
that were not read or written as a whole must not be marked dirty.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.lib import call
from hypervisor.spec import layout, vcpu as spec
from hypervisor.spec.call import REASON_EXIT, REASON_VCPU_SHIFT, SLOT_VCPU

PAGE, PAGE_BYTES = r_uint(layout.VCPU_PAGE), r_uint(layout.PAGE)


def _field(offset):
    """Where it is in the page."""
    return r_uint(offset)


KIND = _field(spec.EXIT['KIND'])
LENGTH = _field(spec.EXIT['LENGTH'])
SELECTOR = _field(spec.EXIT['SELECTOR'])
SIZE = _field(spec.EXIT['SIZE'])
FLAGS = _field(spec.EXIT['FLAGS'])
VALUE = _field(spec.EXIT['VALUE'])
ACTION = _field(spec.ANSWER['ACTION'])
RESULT = _field(spec.ANSWER['RESULT'])
RESULT2 = _field(spec.ANSWER['RESULT2'])
ERROR = _field(spec.ANSWER['ERROR'])
DIRTY = _field(spec.ANSWER['DIRTY'])
STOLEN = _field(spec.STOLEN)

STATE = dict((name, _field(offset)) for name, offset in spec.STATE.items())
REGISTER_0 = STATE['RAX']
VECTOR_0 = STATE['YMM0_0']
SEGMENT_0 = STATE['ES_SELECTOR']
PARTS = len(spec.SEGMENT_PARTS)
SEGMENT_SELECTOR, SEGMENT_ATTRIBUTES, SEGMENT_LIMIT, SEGMENT_BASE = range(PARTS)     # the order of SEGMENT_PARTS
assert spec.SEGMENT_PARTS == ['SELECTOR', 'ATTRIBUTES', 'LIMIT', 'BASE']

# Numbers of registers and segments: those of instruction encodings.
AX, CX, DX, BX, SP, BP, SI, DI = range(8)
ES, CS, SS, DS, FS, GS, LDTR, TR = range(8)
assert spec.SEGMENTS == ['ES', 'CS', 'SS', 'DS', 'FS', 'GS', 'LDTR', 'TR']


class Vcpu(object):
    """index: of the vCPU in its VM, below VCPUS_PER_VM. page: its vCPU page. exited: what VCPU_RUN says when it has exited, and nothing else
    has happened."""

    def __init__(self):
        self.select(0)

    def select(self, index):
        self.index = index
        self.page = PAGE + r_uint(index) * PAGE_BYTES
        self.exited = r_uint(REASON_EXIT) | r_uint(index) << REASON_VCPU_SHIFT

    def slot(self):
        return SLOT_VCPU + self.index

    # The exit. Numbers that the kernel computes are small; addresses and values stay r_uint.
    def kind(self):
        return intmask(memory.load64(self.page + KIND))

    def selector(self):
        return memory.load64(self.page + SELECTOR)

    def size(self):
        return intmask(memory.load64(self.page + SIZE))

    def length(self):
        return memory.load64(self.page + LENGTH)

    def flags(self):
        return intmask(memory.load64(self.page + FLAGS))

    def value(self):
        return memory.load64(self.page + VALUE)

    def brought(self):
        """With ACCESS_BROUGHT in flags()."""
        return self.value() >> spec.BROUGHT_SHIFT

    # The state.
    def read(self, groups):
        """Fetch these groups into the page. Only while an exit is outstanding; returns the call's status."""
        return call.vcpu_read(self.slot(), groups)

    def get(self, field):
        """field: of STATE."""
        return memory.load64(self.page + field)

    def set(self, field, value):
        memory.store64(self.page + field, value)

    def register(self, number):
        """A general register, 0 to 15, in the order of instruction encodings."""
        return memory.load64(self.page + REGISTER_0 + r_uint((number & 15) * 8))

    def set_register(self, number, value):
        memory.store64(self.page + REGISTER_0 + r_uint((number & 15) * 8), value)

    def vector(self, number, word):
        """Eight bytes of a YMM register, 0 to 15; word: 0 to 3, of which 0 and 1 are the XMM register."""
        return memory.load64(self.page + VECTOR_0 + r_uint((number & 15) * spec.VECTOR_BYTES + (word & 3) * 8))

    def set_vector(self, number, word, value):
        memory.store64(self.page + VECTOR_0 + r_uint((number & 15) * spec.VECTOR_BYTES + (word & 3) * 8), value)

    def segment(self, number, part):
        """number: ES to TR. part: SEGMENT_*."""
        return memory.load64(self.page + SEGMENT_0 + r_uint(((number & 7) * PARTS + part) * 8))

    def set_segment(self, number, selector, attributes, limit, base):
        start = self.page + SEGMENT_0 + r_uint((number & 7) * PARTS * 8)
        memory.store64(start + r_uint(8 * SEGMENT_SELECTOR), r_uint(selector))
        memory.store64(start + r_uint(8 * SEGMENT_ATTRIBUTES), r_uint(attributes))
        memory.store64(start + r_uint(8 * SEGMENT_LIMIT), limit)
        memory.store64(start + r_uint(8 * SEGMENT_BASE), base)

    # The answer: the fields that the kernel reads of such a one (spec/vcpu.py).
    def complete(self, result=r_uint(0)):
        page = self.page
        memory.store64(page + ACTION, r_uint(spec.COMPLETE))
        memory.store64(page + RESULT, result)
        memory.store64(page + DIRTY, r_uint(0))

    def complete_and_be_told(self):
        """From now on the kernel keeps account of what is stolen, and signals it."""
        self.complete()
        memory.store64(self.page + DIRTY, r_uint(spec.TELL_STOLEN))

    def complete_cpuid(self, result, result2):
        self.complete(result)
        memory.store64(self.page + RESULT2, result2)

    def resume(self, dirty):
        """Go on at the RIP of the state. dirty: groups, all of whose fields are valid in the page."""
        page = self.page
        memory.store64(page + ACTION, r_uint(spec.RESUME))
        memory.store64(page + DIRTY, r_uint(dirty))

    def inject(self, vector, error, dirty=0):
        page = self.page
        memory.store64(page + ACTION, r_uint(spec.INJECT))
        memory.store64(page + RESULT2, r_uint(vector))
        memory.store64(page + ERROR, error)
        memory.store64(page + DIRTY, r_uint(dirty))

    def stolen(self, index):
        """TSC ticks that others have had while vCPU `index` could have run."""
        return memory.load64(PAGE + r_uint(index) * PAGE_BYTES + STOLEN)

    def run(self, deadline):
        """Give the answer and let the vCPU run. Returns the call's status; call.value(): REASON_*."""
        return call.vcpu_run(self.slot(), deadline)
