"""A VMM that is honest for a while and then gives an answer that breaks a rule: nonsense=N of table.py."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.spec import vcpu as spec
from hypervisor.vmm import main, state, vcpu as v
from tests.hostile.vmms import common, table

EXITS = 50                      # the guest has printed its first line by then
PF = 14
NOT_CANONICAL = 1 << 60         # with four levels of page tables and with five
U64 = (1 << 64) - 1

# What each variant does, in the order of table.py: fields of the vCPU page that get a value, after an honest answer.
ACTION = [('ACTION', 3), ('ACTION', U64), ('DIRTY', spec.DIRTY_KNOWN + 1), ('DIRTY', U64)]
INJECT = [2, 32, 255, 1 << 63]
STATE = [
    ('CR0', 0x80000010), ('CR0', 0x20000011), ('CR0', 0x100000011), ('CR4', 1 << 15), ('CR4', 1 << 13), ('CR4', 1 << 32),
    ('EFER', 1 << 12), ('EFER', 1 << 10), ('EFER', 1 << 1), ('EFER', 'long mode'), ('CR3', U64 & ~0xfff),
    ('FS_BASE', NOT_CANONICAL), ('GDTR_BASE', NOT_CANONICAL), ('IDTR_BASE', NOT_CANONICAL), ('TR_BASE', NOT_CANONICAL),
    ('GDTR_LIMIT', 0x10000), ('RIP', 1 << 32), ('RFLAGS', 0), ('RFLAGS', 2 | 1 << 3), ('RFLAGS', 'real mode'),
    ('CS_ATTRIBUTES', 0xc93), ('CS_ATTRIBUTES', 0xc1b), ('CS_ATTRIBUTES', 0x1c9b), ('CS_BASE', 1 << 32), ('TR_ATTRIBUTES', 0x93),
    ('TR_ATTRIBUTES', 0x108b), ('SS_ATTRIBUTES', 0xcf3), ('LDTR_ATTRIBUTES', 0x93), ('CS_LIMIT', 0xfffffffe),
]
ERROR_CODE = len(ACTION) + len(INJECT)
FIRST_STATE = ERROR_CODE + 1
RANDOM = FIRST_STATE + len(STATE)
assert RANDOM + 1 == len(table.VARIANTS['nonsense'])

PAGE = v.PAGE
ACTION_AT = [r_uint(spec.ANSWER[name]) for name, _ in ACTION]
ACTION_VALUE = [r_uint(value) for _, value in ACTION]
INJECT_VALUE = [r_uint(value) for value in INJECT]
STATE_AT = [v.STATE[name] for name, _ in STATE]
STATE_VALUE = [r_uint(value if isinstance(value, int) or isinstance(value, long) else 0) for _, value in STATE]
LONG_MODE = FIRST_STATE + STATE.index(('EFER', 'long mode'))
VIRTUAL_8086 = FIRST_STATE + STATE.index(('RFLAGS', 'real mode'))
numbers = common.Numbers()


def spoil(vcpu, which):
    if which < len(ACTION):
        memory.store64(PAGE + ACTION_AT[which], ACTION_VALUE[which])
    elif which < ERROR_CODE:
        memory.store64(PAGE + v.ACTION, r_uint(spec.INJECT))
        memory.store64(PAGE + v.RESULT2, INJECT_VALUE[which - len(ACTION)])
    elif which == ERROR_CODE:
        vcpu.inject(PF, r_uint(1 << 32))
    elif which < RANDOM:
        spoil_state(vcpu, which)
    else:
        for n in range(64, 1024, 8):            # answer and state
            memory.store64(PAGE + r_uint(n), numbers.next())


def spoil_state(vcpu, which):
    """The guest's own state, sent back whole but for the one field."""
    vcpu.read(state.ALL)
    if which == LONG_MODE:
        vcpu.set(v.STATE['EFER'], r_uint(0x500))
        vcpu.set(v.STATE['CR0'], r_uint(0x80000011))
        vcpu.set(v.STATE['CR4'], r_uint(0))
    elif which == VIRTUAL_8086:
        vcpu.set(v.STATE['CR0'], r_uint(0x10))
        vcpu.set(v.STATE['RFLAGS'], r_uint(2 | 1 << 17))
    else:
        vcpu.set(STATE_AT[which - FIRST_STATE], STATE_VALUE[which - FIRST_STATE])
    memory.store64(PAGE + v.DIRTY, r_uint(state.ALL))


def run(which):
    if which > RANDOM:
        which = RANDOM
    numbers.seed(which)
    machine = common.boot_guest()
    common.serve(machine, EXITS)
    spoil(machine.vcpu, which)
    main.turn(machine)
    common.survived(which)
