"""What the kernels of two cores say to each other about a VM that has vCPUs on both.

A VM's *home* is the core of its compartment: frames, nested tables, VMM. Another core on which vCPUs of it run has a *branch*: a compartment
without task and frames. HOME and NAME say which VM a message is about, VCPU which of its vCPUs.
"""
from hypervisor.spec.record import offsets
from hypervisor.spec import exit
from hypervisor.spec.core import CAPACITY
from hypervisor.spec.vcpu import ANSWER as ANSWER_FIELDS
from hypervisor.spec.vcpu import CPUID_ASK, CPUID_CLASSES, CPUID_TABLE, STATE

HEADER = offsets(['KIND', 'HOME', 'NAME', 'VCPU', 'BYTES'])     # BYTES: of what follows

# KIND. From home to a branch's core:
OFFER = 0           # OFFER_FIELDS: its manager may join
ANSWER = 1          # the vCPU page from its answer on: up to the CPUID table, or with it
ASK = 2             # ASK_FIELDS: the VMM waits for the RESULT
STOP = 3            # the VM has ended: nothing of it may run any more when STOPPED is said
# To the home:
JOINED = 4          # a word: the status with which the branch was made
EXIT = 5            # the vCPU page up to the end of its state
RESULT = 6          # a word
ENDED = 7           # END_FIELDS: something here has to be the VM's end
STOPPED = 8         # COUNT_FIELDS
# From any core of a VM to any other:
RAISE = 9           # RAISE_FIELDS: interrupts for a vCPU there
ADDRESS = 10        # ADDRESS_FIELDS: what a vCPU here answers to
KINDS = 11

OFFER_FIELDS = offsets(['ROOT', 'COUNT', 'CORES'])      # ROOT: hpa of the nested tables. CORES: the core of vCPU n in bits 4n to 4n + 3
ASK_FIELDS = offsets(['WHAT', 'OFFSET', 'VALUE'])       # OFFSET: of an xAPIC register
APIC_READ, APIC_WRITE, RESET = range(3)
END_FIELDS = offsets(['HOW', 'DETAIL'])
COUNT_FIELDS = offsets(['TICKS', ('EXITS', 8 * exit.COUNT)])
RAISE_FIELDS = offsets([('IRR', 32), ('TMR', 32), 'FLAGS', 'VECTOR'])      # requests, those of them that are level-triggered; VECTOR: of STARTUP
RAISE_NMI, RAISE_INIT, RAISE_STARTUP, RAISE_EXTINT_ON, RAISE_EXTINT_OFF = 1, 2, 4, 8, 16     # FLAGS
ADDRESS_FIELDS = offsets(['BASE', 'LDR', 'DFR', 'SVR'])     # of its local APIC

STATE_START, STATE_END = STATE['RAX'], STATE['END']
ANSWER_START = ANSWER_FIELDS['ACTION']
CPUID_END = CPUID_ASK + 4 * len(CPUID_CLASSES)
assert ANSWER_START < STATE_START < STATE_END <= CPUID_TABLE and CPUID_END % 8 == 0
MOST_BYTES = CPUID_END - ANSWER_START
assert HEADER['END'] + MOST_BYTES <= CAPACITY and STATE_END <= MOST_BYTES
