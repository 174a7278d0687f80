"""The vCPU page: what the kernel and a VMM tell each other about one vCPU.

The kernel writes the exit part before VCPU_RUN returns with REASON_EXIT; the VMM writes the answer part (and, where the
answer or the initial state needs it, the state part with its group in DIRTY) before it calls VCPU_RUN again. The kernel
takes nothing from the page that it has not checked, and never reads back from it what it wrote there itself.
"""
from hypervisor.spec.record import offsets

EXIT_FIELDS = [
    'KIND',         # hypervisor/spec/exit.py
    'LENGTH',       # bytes of the instruction, 0 where the processor does not tell
    'SELECTOR',     # IO: port.  MEMORY: gpa.  MSR_*: number.  CPUID: leaf | subleaf << 32.  TASK_SWITCH: of the new TSS
    'SIZE',         # IO: 1, 2 or 4 bytes
    'FLAGS',        # IO: IO_IN | IO_STRING | IO_REPEAT.  MEMORY: ACCESS_*.  TASK_SWITCH: TASK_*
    'VALUE',        # IO out, MSR_WRITE: the value (IO in: 0).  HLT: RFLAGS.  TASK_SWITCH: the exception's error code.
                    # CPUID, of leaf 7: CR4.PKE alone of CR4; of leaf 0xd: XCR0.
                    # MEMORY: CS_ATTRIBUTES | SS_ATTRIBUTES << 16 | with ACCESS_BROUGHT: the register of the local APIC << BROUGHT_SHIFT
]
ANSWER_FIELDS = [
    'ACTION',       # below
    'RESULT',       # IO in, MSR_READ: the value.  CPUID: EAX | EBX << 32
    'RESULT2',      # CPUID: ECX | EDX << 32.  INJECT: the vector
    'ERROR',        # INJECT: the error code, for the vectors that have one
    'DIRTY',        # groups of the state part that the kernel shall apply, and REGISTER
]
EXIT = offsets(EXIT_FIELDS, 0)
BROUGHT_SHIFT = 32
ANSWER = offsets(ANSWER_FIELDS, 64)

# Kept by the kernel where TELL_STOLEN was asked for: the TSC ticks that others have had while this vCPU could have run. Each time that there is a millisecond
# more of them, the VMM hears a signal.
STOLEN = 104
assert ANSWER['END'] <= STOLEN

# ACTION
COMPLETE = 0        # the exit is handled: the kernel puts RESULT where the instruction wants it and steps over it
RESUME = 1          # nothing to complete: the VMM has changed the state itself (or nothing), go on at its RIP
INJECT = 2          # deliver exception RESULT2 (0 to 31, not 2) with ERROR at the instruction
ACTIONS = 3

GPR = ['RAX', 'RCX', 'RDX', 'RBX', 'RSP', 'RBP', 'RSI', 'RDI',
       'R8', 'R9', 'R10', 'R11', 'R12', 'R13', 'R14', 'R15']       # the order of instruction encodings
SEGMENTS = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS', 'LDTR', 'TR']       # the order of instruction encodings, then the system ones
SEGMENT_PARTS = ['SELECTOR', 'ATTRIBUTES', 'LIMIT', 'BASE']
# ATTRIBUTES as in a descriptor's bytes 5 and 6: type 0-3, S 4, DPL 5-6, P 7, AVL 8, L 9, D/B 10, G 11; UNUSABLE 12.
UNUSABLE = 1 << 12

# Groups of the state part: bits of DIRTY and of VCPU_READ.
GROUP_GPR = 1           # the sixteen general registers
GROUP_FLOW = 2          # RIP, RFLAGS
GROUP_CONTROL = 4       # CR0, CR2, CR3, CR4, EFER
GROUP_SEGMENT = 8       # the eight segments
GROUP_TABLE = 16        # GDTR, IDTR
GROUP_CPUID = 32        # the CPUID table; write only
GROUP_TIME = 64         # TSC_OFFSET, which is added to what the guest reads of the TSC
GROUP_VECTOR = 128      # YMM0 to YMM15, of which XMM0 to XMM15 are the lower halves
GROUPS = 255
GROUP_KEYS = 512        # PKRU; no part of DIRTY
READABLE = GROUPS & ~GROUP_CPUID | GROUP_KEYS       # what VCPU_READ takes
MEMORY_BRINGS = GROUP_GPR | GROUP_FLOW | GROUP_CONTROL      # what the page holds when an exit of kind MEMORY comes, without a VCPU_READ

# DIRTY besides: one of the general registers alone. Its number stands from REGISTER_SHIFT on.
REGISTER = 256
REGISTER_SHIFT = 12
# And a wish, for the whole VM and as long as it lives: to be told what is stolen.
TELL_STOLEN = 1024
DIRTY_KNOWN = GROUPS | REGISTER | 15 << REGISTER_SHIFT | TELL_STOLEN

VECTOR_BYTES = 32
GROUP_FIELDS = [
    (GROUP_GPR, GPR),
    (GROUP_FLOW, ['RIP', 'RFLAGS']),
    (GROUP_CONTROL, ['CR0', 'CR2', 'CR3', 'CR4', 'EFER']),
    (GROUP_SEGMENT, [s + '_' + p for s in SEGMENTS for p in SEGMENT_PARTS]),
    (GROUP_TABLE, ['GDTR_LIMIT', 'GDTR_BASE', 'IDTR_LIMIT', 'IDTR_BASE']),
    (GROUP_TIME, ['TSC_OFFSET']),
    (GROUP_VECTOR, ['YMM%d_%d' % (n, word) for n in range(16) for word in range(VECTOR_BYTES // 8)]),
    (GROUP_KEYS, ['PKRU']),
]
STATE_FIELDS = [name for _, names in GROUP_FIELDS for name in names]
STATE = offsets(STATE_FIELDS, 128)
CPUID_TABLE = 1280
assert STOLEN + 8 <= 128 and STATE['END'] <= CPUID_TABLE

# The CPUID table: entries of EAX, EBX, ECX, EDX (32 bits each), for the first 32 leaves of each class. Leaves outside answer
# zeros. Then one 32-bit word per class: bit n says that leaf n depends on the subleaf, so that the VMM is asked (kind CPUID).
CPUID_CLASSES = [0, 0x80000000, 0x40000000, 0x40000100]     # hypervisors of more than one interface have the second at 0x40000100
CPUID_LEAVES = 32
CPUID_ASK = CPUID_TABLE + len(CPUID_CLASSES) * CPUID_LEAVES * 16

# The task page: ring data at its start.
RING_BYTES = 2048       # that one RING_SEND or RING_RECEIVE moves at most

# INSPECT writes this to the caller's task page.
INSPECT = offsets(['STATE', 'HOW', 'DETAIL', 'TICKS', 'VMM_TICKS', 'EXITS'])
# TICKS: TSC ticks that its vCPUs ran; VMM_TICKS: its VMM. EXITS: one word per kind of hypervisor/spec/exit.py, from here on.
