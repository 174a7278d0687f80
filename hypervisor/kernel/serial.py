"""The kernel's own voice, for refusals and faults only. Everything else is printed by the manager.

On the first core that is the first serial port. Another core leaves the text in its status page, where the first one's manager reads it:
two cores that write to one port lose bytes.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import cpu, memory
from hypervisor.kernel.core import this
from hypervisor.kernel.link import links

R0 = r_uint(0)
R1 = r_uint(1)
PORT = 0x3f8
PATIENCE = 100000       # reads of the status before a port that is not there is given up
LONGEST = 100
HEX = '0123456789abcdef'


def open_port():
    """115200 baud, 8n1, no interrupts. Source: PC16550D data sheet, "Registers"."""
    for register, value in [(3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3), (1, 0)]:
        cpu.port_out(r_uint(PORT + register), R1, r_uint(value))


def put(char):
    if not this.is_first():
        links.say(r_uint(ord(char)))
        return
    n = 0
    while n < PATIENCE and cpu.port_in(r_uint(PORT + 5), R1) & r_uint(0x20) == R0:
        cpu.pause()
        n += 1
    cpu.port_out(r_uint(PORT), R1, r_uint(ord(char)))


def text(string):
    for n in range(len(string)):
        if string[n] == '\n' and this.is_first():
            put('\r')
        put(string[n])


def text_at(address):
    """What stands at an hva, up to a zero, and LONGEST bytes at most."""
    n = 0
    while n < LONGEST:
        byte = intmask(memory.load8(address + r_uint(n)))
        if byte == 0:
            return
        put(chr(byte & 0xff))
        n += 1


def number(value):
    """A hexadecimal number of sixteen digits."""
    shift = 60
    while shift >= 0:
        put(HEX[intmask((value >> shift) & r_uint(15))])
        shift -= 4


def decimal(value):
    """A decimal number."""
    divisor = r_uint(10000000000000000000)
    started = False
    while divisor > R0:
        digit = intmask((value // divisor) % r_uint(10))
        if digit != 0 or started or divisor == R1:
            put(HEX[digit])
            started = True
        divisor = divisor // r_uint(10)
