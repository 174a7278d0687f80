"""Kernel calls: numbers, arguments and results.

A task executes `int 0x80` with the number in RAX and the arguments in RDI, RSI, RDX, R10, R8, R9. The kernel answers
with a status (hypervisor/spec/status.py) in RAX and a value in RDX; no other register changes, but for VCPU_RUN, after which
RSP is as it was and no other. A call names capability slots of the caller, never objects or physical addresses.
"""

GATE = 0x80                 # the one interrupt gate that ring 3 may use
SLOTS = 64                  # capability slots per task
BATCH = 512                 # frames that one MAP, GIVE or TAKE handles at most: what bounds the kernel's loops

TABLE = [
    # number, name, arguments, value in RDX
    (0, 'WAIT', ['deadline'], 'signals'),
    (1, 'RING_SEND', ['ring', 'bytes'], 'bytes taken'),
    (2, 'RING_RECEIVE', ['ring'], 'bytes put into the task page'),
    (3, 'PORT_IN', ['ports', 'port', 'size'], 'value read'),
    (4, 'PORT_OUT', ['ports', 'port', 'size', 'value'], '0'),
    (5, 'MAP', ['compartment', 'region', 'first', 'address', 'count', 'rights'], 'frames done'),
    (6, 'CREATE', ['slot', 'region', 'first', 'count'], '0'),
    (7, 'GIVE', ['compartment', 'region', 'first', 'count', 'target'], 'frames done'),
    (8, 'TAKE', ['compartment', 'target', 'slot'], 'frames left'),
    (9, 'VCPU_CREATE', ['compartment', 'target', 'core', 'name'], '0'),
    (10, 'RING_CREATE', ['from', 'from_slot', 'to', 'to_slot'], '0'),
    (11, 'START', ['compartment', 'entry', 'stack', 'argument'], '0'),
    (12, 'STOP', ['compartment', 'how', 'detail'], '0'),
    (13, 'INSPECT', ['compartment'], 'state'),
    (14, 'VCPU_RUN', ['vcpu', 'deadline'], 'reasons'),
    (15, 'VCPU_READ', ['vcpu', 'groups'], '0'),
    (16, 'VCPU_INTERRUPT', ['vcpu', 'kind', 'vector', 'destination'], 'vCPUs that it reaches'),
    (17, 'VCPU_APIC', ['vcpu', 'offset', 'write', 'value'], 'value'),
    (18, 'LINE', ['ports', 'line'], '0'),
    (19, 'SHARE', ['compartment', 'entitlement', 'cap', 'weight'], '0'),
    (20, 'CORE_GIVE', ['core', 'region', 'first', 'count', 'module', 'bytes'], 'frames done'),
    (21, 'CORE_START', ['core', 'step'], '0'),
    (22, 'CORE_INSPECT', ['core'], 'state'),
    (23, 'JOIN', ['slot', 'core', 'name', 'region', 'first', 'count'], '0'),
]
for _number, _name, _arguments, _value in TABLE:
    globals()[_name] = _number
COUNT = len(TABLE)

# MAP: rights. No rights (0) takes the mapping away. GUEST: the nested address space (address is a gpa).
READ, WRITE, EXECUTE, GUEST = 1, 2, 4, 8

# VCPU_RUN: reasons in RDX, may come together.
REASON_EXIT, REASON_SIGNAL, REASON_DEADLINE = 1, 2, 4
REASON_VCPU_SHIFT = 8       # REASON_EXIT: the vCPU's number in its VM, from here on

# VCPU_INTERRUPT: kinds.
INTERRUPT_FIXED, INTERRUPT_LEVEL, INTERRUPT_NMI, INTERRUPT_EXTINT_ON, INTERRUPT_EXTINT_OFF, INTERRUPT_RESET = range(6)

# destination of FIXED, LEVEL and NMI: an APIC ID or, with LOGICAL, a set of eight; LOWEST: one of those that it names.
DESTINATION_LOGICAL, DESTINATION_LOWEST = 1 << 8, 1 << 9

# INSPECT: state of a compartment.
STATE_NEW, STATE_RUNNING, STATE_ENDED = 0, 1, 2

# Slots of every task's table that the kernel fills at its creation.
SLOT_SELF = 0               # the task's own compartment

# Slots of the manager's table that the kernel fills at boot; slots from SLOT_MANAGER_FREE on are the manager's to use.
SLOT_PORTS = 1              # every I/O port
SLOT_MEMORY = 2             # free memory, first region; further ones follow
MEMORY_REGIONS = 6
SLOT_MODULE = 8             # boot modules, one slot each
MODULES = 24
SLOT_MANAGER_FREE = 32
SLOT_LINK = 56              # to the managers of the other cores: core n at SLOT_LINK + n

# Slots of a VMM's table that the manager fills.
SLOT_PROGRAM = 1            # frames of the VMM's own image, stack and boot page
SLOT_RAM = 2                # the guest's memory
SLOT_IMAGE = 3              # the boot module with the guest's image
SLOT_GUEST_MODULE = 4       # the guest's own modules, up to GUEST_MODULES
GUEST_MODULES = 4
SLOT_CONSOLE_OUT = 8        # ring to the manager
SLOT_CONSOLE_IN = 9         # ring from the manager
SLOT_VCPU = 16              # vCPUs, up to VCPUS_PER_VM
VCPUS_PER_VM = 16           # a power of two: a number below it is taken by a mask
VCPUS = 32                  # that the kernel has, for all VMs
assert SLOT_CONSOLE_IN < SLOT_VCPU and SLOT_VCPU + VCPUS_PER_VM <= SLOTS
assert VCPUS_PER_VM & VCPUS_PER_VM - 1 == 0 and VCPUS_PER_VM <= VCPUS

C_CONSTANTS = {'CALL_GATE': GATE, 'CALL_VCPU_RUN': VCPU_RUN, 'CALL_STOP': STOP, 'CALL_SLOT_SELF': SLOT_SELF}
