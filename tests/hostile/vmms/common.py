"""What the hostile VMMs share: their variant, a guest that runs, a source of numbers, an end that tells."""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import task
from hypervisor.lib import call
from hypervisor.spec import boot as spec, ending, vcpu as vcpu_spec
from hypervisor.spec.call import SLOT_SELF
from hypervisor.vmm import boot, main, start, state
from tests.hostile.vmms.table import SURVIVED

NONE = -1


def option(name):
    """The number after `name=` on the guest's command line, NONE if that is not there."""
    at = boot.number(spec.VMM['COMMAND_LINE_STRING'])
    while boot.string_byte(at) != 0:
        if _is_here(name, at):
            return _digits(at + len(name) + 1)
        at += 1
    return NONE


def _is_here(name, at):
    for n in range(len(name)):
        if boot.string_byte(at + n) != ord(name[n]):
            return False
    return boot.string_byte(at + len(name)) == ord('=')


def _digits(at):
    value = 0
    while 48 <= boot.string_byte(at) and boot.string_byte(at) <= 57 and value < 100000:
        value = value * 10 + boot.string_byte(at) - 48
        at += 1
    return value


def survived(variant):
    """The kernel let it pass: that is what the test must not see."""
    call.stop(SLOT_SELF, ending.VMM_GAVE_UP, r_uint(SURVIVED + variant))


def spin():
    """Without an end. The translator is not to know that: it takes for an error what cannot be left."""
    turn = r_uint(1)
    while turn != r_uint(0):
        task.pause()
        turn += r_uint(2)


def sleep():
    """Likewise."""
    turn = r_uint(1)
    while turn != r_uint(0):
        call.wait(r_uint(0))
        turn += r_uint(2)


def boot_guest():
    """Start as the honest VMM does. Returns its machine; the next turn runs the guest."""
    machine = main.machine
    if start.begin(machine):
        machine.vcpu.resume(state.ALL | vcpu_spec.GROUP_CPUID | vcpu_spec.GROUP_TIME)
    return machine


def serve(machine, exits):
    """Be honest about so many exits. The answer to the last one is not given yet."""
    while exits > 0:
        if main.turn(machine):
            exits -= 1


class Numbers(object):
    """xorshift64: the same numbers for the same seed."""

    def __init__(self):
        self.state = r_uint(1)

    def seed(self, value):
        self.state = r_uint(value + 1) * r_uint(0x9e3779b97f4a7c15)

    def next(self):
        x = self.state
        x ^= x << 13
        x ^= x >> 7
        x ^= x << 17
        self.state = x
        return x

    def below(self, bound):
        return intmask(self.next() >> 33) % bound
