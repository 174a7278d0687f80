"""Why a vCPU stopped running: vendor-neutral kinds.

Each vendor file translates its own exit codes to these; nobody beyond it sees a vendor's word. `route` says who finishes
the exit: the kernel alone, or the VMM of that VM.
"""

TABLE = [
    # kind, name, route, what it says in the table of exits
    (0, 'INTERRUPT', 'kernel', 'interrupt'),
    (1, 'CPUID', 'kernel', 'cpuid'),
    (2, 'MSR_READ', 'vmm', 'rdmsr'),
    (3, 'MSR_WRITE', 'vmm', 'wrmsr'),
    (4, 'IO', 'vmm', 'port'),
    (5, 'MEMORY', 'vmm', 'memory'),
    (6, 'HLT', 'vmm', 'hlt'),
    (7, 'HYPERCALL', 'kernel', 'hypercall'),
    (8, 'SHUTDOWN', 'vmm', 'shutdown'),
    (9, 'ENTRY_FAILED', 'kernel', 'entry failed'),
    (10, 'XSETBV', 'kernel', 'xsetbv'),
    (11, 'CONTROL', 'kernel', 'control register'),
    (12, 'EXCEPTION', 'kernel', 'exception'),
    (13, 'PRIVILEGED', 'kernel', 'privileged instruction'),   # of a feature that guests do not get: #UD
    (14, 'IGNORED', 'kernel', 'ignored instruction'),         # INVD, WBINVD: skipped
    (15, 'TASK_SWITCH', 'vmm', 'task switch'),
    (16, 'WINDOW', 'kernel', 'interrupt window'),
    (17, 'NMI', 'kernel', 'nmi'),
    (18, 'UNKNOWN', 'kernel', 'unknown'),
    (19, 'INTA', 'vmm', 'interrupt acknowledge'),            # the guest takes the PIC's interrupt: which vector?
    (20, 'EOI', 'vmm', 'end of interrupt'),                   # of a level-triggered one: SELECTOR is the vector
]
for _kind, _name, _route, _text in TABLE:
    globals()[_name] = _kind
COUNT = len(TABLE)
NAMES = [text for _, _, _, text in TABLE]

# IO: flags of the exit record.
IO_IN, IO_STRING, IO_REPEAT = 1, 2, 4

# TASK_SWITCH: flags of the exit record. What began it, and whether the new task gets VALUE on its stack.
TASK_CALL, TASK_IRET, TASK_JMP, TASK_GATE = range(4)
TASK_SOURCE, TASK_ERROR = 3, 4

# MEMORY: what the guest tried at the gpa. OPERAND: the gpa is that of an operand, and the guest's page tables allow the access; without it,
# the gpa may be that of an entry of those tables. BROUGHT: the gpa is that of a register of the vCPU's local APIC, which is in xAPIC mode, and VALUE
# has what a read of it gives: what VCPU_APIC would answer.
ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE, ACCESS_OPERAND, ACCESS_BROUGHT = 1, 2, 4, 8, 16
