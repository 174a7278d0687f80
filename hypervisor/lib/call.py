"""Kernel calls as functions, for the manager and the VMMs.

Slots, counts, sizes, rights and first frames are plain ints (never negative); addresses, deadlines (TSC ticks) and data
are r_uint. Each returns the status (hypervisor/spec/status.py) as an int; value() then gives the call's value as r_uint.
docs/abi.md says what each call does. Nothing here allocates or raises.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import task
from hypervisor.hw.task import kernel_call, kernel_value
from hypervisor.spec import call, layout, status

ZERO = r_uint(0)
PAGE_SHIFT = 12
assert 1 << PAGE_SHIFT == layout.PAGE


def _call(number, a1=ZERO, a2=ZERO, a3=ZERO, a4=ZERO, a5=ZERO, a6=ZERO):
    return intmask(kernel_call(r_uint(number), a1, a2, a3, a4, a5, a6))


def value():
    """RDX of the last call."""
    return kernel_value()


def wait(deadline):
    """Block until a signal or until the TSC reaches `deadline` (0: never). value(): the signals, now cleared."""
    return _call(call.WAIT, deadline)


def ring_send(ring, count):
    """Send `count` bytes (at most RING_BYTES) from the start of the task page. value(): bytes taken."""
    return _call(call.RING_SEND, r_uint(ring), r_uint(count))


def ring_receive(ring):
    """Receive into the start of the task page. value(): bytes, 0 when the ring is empty."""
    return _call(call.RING_RECEIVE, r_uint(ring))


def port_in(port, size):
    """Read an I/O port, `size` 1, 2 or 4 bytes. value(): what it said. Manager only."""
    return _call(call.PORT_IN, r_uint(call.SLOT_PORTS), r_uint(port), r_uint(size))


def line(number):
    """Hear an interrupt line once, as the signal of SLOT_PORTS. number: 0 to 15, not 2. Manager only."""
    return _call(call.LINE, r_uint(call.SLOT_PORTS), r_uint(number))


def port_out(port, size, data):
    """Write r_uint `data` to an I/O port. Manager only."""
    return _call(call.PORT_OUT, r_uint(call.SLOT_PORTS), r_uint(port), r_uint(size), r_uint(data))


def map_batch(compartment, region, first, address, count, rights):
    """One MAP, at most BATCH frames. value(): frames done."""
    return _call(call.MAP, r_uint(compartment), r_uint(region), r_uint(first), address, r_uint(count), r_uint(rights))


def create(slot, region, first, count):
    """A compartment in the free `slot`. The frames become the kernel's, to keep it in, until STOP releases it."""
    return _call(call.CREATE, r_uint(slot), r_uint(region), r_uint(first), r_uint(count))


def give_batch(compartment, region, first, count, target):
    """One GIVE, at most BATCH frames. value(): frames done."""
    return _call(call.GIVE, r_uint(compartment), r_uint(region), r_uint(first), r_uint(count), r_uint(target))


def take_batch(compartment, target, slot):
    """One TAKE. value(): frames left to take."""
    return _call(call.TAKE, r_uint(compartment), r_uint(target), r_uint(slot))


def vcpu_create(compartment, target, core, name):
    """The next vCPU of a VM, to live on core `core`, whose manager asks for it by `name`: the VM's number in the configuration."""
    return _call(call.VCPU_CREATE, r_uint(compartment), r_uint(target), r_uint(core), r_uint(name))


def join(slot, core, name, region, first, count):
    """A compartment in the free `slot` with the vCPUs that VM `name`, at home on core `core`, has here. Frames: as for `create`.
    NOT_OFFERED: not yet."""
    return _call(call.JOIN, r_uint(slot), r_uint(core), r_uint(name), r_uint(region), r_uint(first), r_uint(count))


def ring_create(source, source_slot, to, to_slot):
    return _call(call.RING_CREATE, r_uint(source), r_uint(source_slot), r_uint(to), r_uint(to_slot))


def start(compartment, entry, stack, argument):
    return _call(call.START, r_uint(compartment), entry, stack, argument)


def stop(compartment, how, detail):
    """`how`: hypervisor/spec/ending.py; detail: r_uint. Does not return for SLOT_SELF."""
    return _call(call.STOP, r_uint(compartment), r_uint(how), detail)


def share(compartment, entitlement, cap, weight):
    """What it is promised of its core, and what it may have at most: hundredths, cap 0: all of it; weight: of what nobody is promised."""
    return _call(call.SHARE, r_uint(compartment), r_uint(entitlement), r_uint(cap), r_uint(weight))


def inspect(compartment):
    """Write the INSPECT record to the task page. value(): the state."""
    return _call(call.INSPECT, r_uint(compartment))


def vcpu_run(vcpu, deadline):
    """value(): REASON_*."""
    return intmask(task.vcpu_run(r_uint(vcpu), deadline))


def vcpu_read(vcpu, groups):
    """Bring the state's `groups` into the vCPU page."""
    return _call(call.VCPU_READ, r_uint(vcpu), r_uint(groups))


def vcpu_interrupt(vcpu, kind, vector=0, destination=0):
    """Work an interrupt input of a vCPU, or send a message: kind INTERRUPT_*; vector: 0 to 255, for FIXED and LEVEL; destination:
    DESTINATION_*, for these and NMI, whatever `vcpu` is. value(): how many vCPUs a message reaches. At any time."""
    return _call(call.VCPU_INTERRUPT, r_uint(vcpu), r_uint(kind), r_uint(vector), r_uint(destination))


def vcpu_apic_read(vcpu, offset):
    """A 32-bit register of the vCPU's local APIC, by its offset in the xAPIC page. value(): what it says."""
    return _call(call.VCPU_APIC, r_uint(vcpu), offset, ZERO, ZERO)


def vcpu_apic_write(vcpu, offset, data):
    """value(): 0, or 1 + the vector of a level-triggered interrupt that this EOI has ended."""
    return _call(call.VCPU_APIC, r_uint(vcpu), offset, r_uint(1), data)


def core_give(core, region, first, count, module, size):
    """One CORE_GIVE: at most BATCH frames to a core that has not been started. module: a module's number, `size` bytes of it, or
    spec.core.MEMORY. value(): frames done."""
    return _call(call.CORE_GIVE, r_uint(core), r_uint(region), r_uint(first), r_uint(count), r_uint(module), r_uint(size))


def core_start(core, step):
    """step: spec.core.INIT, 10 ms later STARTUP, 0.2 ms later STARTUP again."""
    return _call(call.CORE_START, r_uint(core), r_uint(step))


def core_inspect(core):
    """A core's last words into the task page: a word with their number of bytes, then these. value(): its state, of spec/core.py."""
    return _call(call.CORE_INSPECT, r_uint(core))


def batch_at(address, count):
    """Frames of the next MAP call: up to the next 2-MiB boundary, so that all later batches can use large pages."""
    room = call.BATCH - (intmask(address >> PAGE_SHIFT) & (call.BATCH - 1))
    return room if room < count else count


def map_all(compartment, region, first, address, count, rights):
    """MAP `count` frames, however many calls it takes. Returns the first status that is not OK.

    After a failure some of the frames may be mapped; unmap_all of the whole range cleans up.
    """
    while count > 0:
        answer = map_batch(compartment, region, first, address, batch_at(address, count), rights)
        if answer != status.OK:
            return answer
        done = intmask(value())
        if done <= 0 or done > count:
            return status.BAD_STATE
        first += done
        address += r_uint(done) << PAGE_SHIFT
        count -= done
    return status.OK


def unmap_all(compartment, address, count, guest=0):
    """Take away the mappings of `count` pages at `address`; guest: GUEST for the nested space, or 0 for the task's own."""
    return map_all(compartment, 0, 0, address, count, guest)


def give_all(compartment, region, first, count, target):
    """GIVE `count` frames, in batches that the target joins to one region. Returns the first status that is not OK."""
    while count > 0:
        answer = give_batch(compartment, region, first, count if count < call.BATCH else call.BATCH, target)
        if answer != status.OK:
            return answer
        done = intmask(value())
        if done <= 0 or done > count:
            return status.BAD_STATE
        first += done
        count -= done
    return status.OK


def take_all(compartment, target, slot):
    """TAKE until nothing is left. Returns the first status that is not OK."""
    left = r_uint(1)
    while left != ZERO:
        answer = take_batch(compartment, target, slot)
        if answer != status.OK:
            return answer
        left = value()
    return status.OK
