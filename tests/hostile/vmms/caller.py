"""A VMM that makes kernel calls with hostile arguments for half a second, then exits with status 0: caller=SEED.

It leaves out only what would end or stop itself by its own right: STOP of itself, a WAIT without an end, running its own
vCPU, and taking away its own memory.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import task
from hypervisor.lib import call
from hypervisor.spec import boot as boot_spec, call as spec, ending, layout, status
from hypervisor.vmm import boot
from tests.hostile.vmms import common, table

CALLS_MS = 500
NUMBERS = spec.COUNT + 4
EVIL = [r_uint(value) for value in (
    0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 63, 64, 65, 128, 511, 512, 513, 4095, 4096, 4097, 0x7fffffff, 0x80000000, 0xffffffff,
    0x100000000, 1 << 40, 1 << 52, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096,
    0x50000000, 0x50000001, layout.TASK_END, layout.TASK_END - 4096, 0x800000000000, layout.KERNEL_BASE, layout.ARENA_BASE)]
OWN = [r_uint(value) for value in (layout.TASK_BASE, layout.BOOT_PAGE, layout.TASK_PAGE, layout.VCPU_PAGE, layout.STACK_TOP - 4096)]
KNOWN_STATUS = len(status.TABLE)
ONE = r_uint(1)
numbers = common.Numbers()


def evil():
    """One of EVIL; now and then anything at all."""
    if numbers.below(8) == 0:
        return numbers.next()
    return EVIL[numbers.below(len(EVIL))]


def one_call():
    number = numbers.below(NUMBERS)
    a1, a2, a3, a4, a5, a6 = evil(), evil(), evil(), evil(), evil(), evil()
    if number == spec.WAIT:
        a1 = ONE
    elif number == spec.STOP and a1 == r_uint(spec.SLOT_SELF):
        a1 = r_uint(spec.SLOT_RAM)
    elif number == spec.VCPU_RUN and a1 == r_uint(spec.SLOT_VCPU):
        a1 = r_uint(spec.SLOT_RAM)
    elif number == spec.RING_SEND and a1 == r_uint(spec.SLOT_CONSOLE_OUT):
        a2 = r_uint(0)
    elif number == spec.MAP and a6 != r_uint(0) and numbers.below(4) == 0:
        a4 = OWN[numbers.below(len(OWN))]
    answer = task.kernel_call(r_uint(number), a1, a2, a3, a4, a5, a6)
    if answer >= r_uint(KNOWN_STATUS):
        call.stop(spec.SLOT_SELF, ending.VMM_GAVE_UP, r_uint(table.BAD_STATUS + number))


def run(which):
    numbers.seed(which)
    end = task.rdtsc() + boot.word(boot_spec.VMM['TSC_KHZ']) * r_uint(CALLS_MS)
    while task.rdtsc() < end:
        one_call()
    call.stop(spec.SLOT_SELF, ending.EXITED, r_uint(0))
