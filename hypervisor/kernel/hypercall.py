"""Hypercalls. Source: Linux, Documentation/virt/kvm/x86/hypercalls.rst (numbers and errors: hypervisor/spec/hypercall.py)."""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.kernel import interrupts, state
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.vcpu import RAX, RBX, RCX, RDX, RSI
from hypervisor.spec import hypercall as spec
from hypervisor.spec import lapic

R0 = r_uint(0)
LOW32 = r_uint(0xffffffff)
NOT_PHYSICAL = r_uint(lapic.ICR_LOGICAL | 3 << lapic.ICR_SHORTHAND_SHIFT)
PERMISSION, INVALID, UNKNOWN = [r_uint(error) for error in (spec.PERMISSION, spec.INVALID, spec.UNKNOWN)]


def handle(vcpu):
    """Answer and step over it first: an INIT that the guest sends to itself leaves nothing of that."""
    wide = state.in_64_bit_code(vcpu)
    number = argument(vcpu, RAX, wide)
    command = argument(vcpu, RSI, wide)
    targets = 0
    result = UNKNOWN
    if number == r_uint(spec.NOTHING):
        result = R0
    elif state.cpl(vcpu) != R0:
        result = PERMISSION
    elif number == r_uint(spec.SEND_IPI):
        result = INVALID
        if command & NOT_PHYSICAL == R0:
            targets = named(vcpu, wide, command)
            result = count(vcpu, command, targets)
    if not wide:
        result &= LOW32
    vcpu.set_gpr(RAX, result)
    switcher.vendor.advance(vcpu)
    if targets != 0:
        send(vcpu, command, targets)


def argument(vcpu, register, wide):
    value = vcpu.gpr(register)
    if wide:
        return value
    return value & LOW32


def named(vcpu, wide, command):
    """Which vCPUs of the VM the bitmap names and the message may reach: bit n for vCPU n. One that lives elsewhere decides itself."""
    low = argument(vcpu, RBX, wide)
    high = argument(vcpu, RCX, wide)
    first = vcpu.gpr(RDX) & LOW32
    compartment = vcpu.compartment
    targets = 0
    n = 0
    while n < compartment.vcpu_count:
        other = compartment.vcpus[n]
        if other is not None and is_set(low, high, wide, first, other.apic.identity):
            if interrupts.accepts(other, command) or other.away and interrupts.is_message(command):
                targets |= 1 << n
        n += 1
    return targets


def is_set(low, high, wide, first, identity):
    """Has the bitmap, whose bit 0 is APIC ID `first`, this one's bit?"""
    if r_uint(identity) < first:
        return False
    place = identity - intmask(first)
    width = 64 if wide else 32
    if place < width:
        return (low >> place) & 1 != R0
    place -= width
    return place < width and (high >> place) & 1 != R0


def count(vcpu, command, targets):
    """How many of them it reaches, as far as is known here."""
    compartment = vcpu.compartment
    number = R0
    n = 0
    while n < compartment.vcpu_count:
        other = compartment.vcpus[n]
        if other is not None and (targets >> n) & 1 != 0 and interrupts.accepts(other, command):
            number += 1
        n += 1
    return number


def send(vcpu, command, targets):
    compartment = vcpu.compartment
    n = 0
    while n < compartment.vcpu_count:
        other = compartment.vcpus[n]
        if other is not None and (targets >> n) & 1 != 0:
            interrupts.arrive(other, command)
        n += 1
