"""Text and numbers, written byte by byte into a sink.

Nothing is allocated: strings are constants, digits are computed one at a time.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

_POWERS = [r_uint(10 ** n) for n in range(20)]      # up to the largest that fits into 64 bits
_HEX = '0123456789abcdef'
_FIRST_DIGIT = ord('0')


class Sink(object):
    """What takes bytes. The base of all sinks of a program, because one function writes into any of them; itself takes nothing."""

    def put(self, byte):
        """byte: an int from 0 to 255."""


def write(sink, string):
    for n in range(len(string)):
        sink.put(ord(string[n]))


def fill(sink, byte, count):
    """Write `byte` count times; none for a negative count."""
    for _ in range(count):
        sink.put(byte)


def digits(value):
    """How many decimal digits r_uint `value` has: 1 to 20."""
    count = 1
    while count < 20 and value >= _POWERS[count]:
        count += 1
    return count


def decimal(sink, value):
    """Write r_uint `value` without leading zeros."""
    place = digits(value) - 1
    while place >= 0:
        power = _POWERS[place]
        digit = value // power
        sink.put(_FIRST_DIGIT + intmask(digit))
        value -= digit * power
        place -= 1


def decimal_right(sink, value, width):
    """Write r_uint `value`, padded with spaces on the left to at least `width` columns."""
    fill(sink, ord(' '), width - digits(value))
    decimal(sink, value)


def hexadecimal(sink, value):
    """Write r_uint `value` in lower-case digits, without leading zeros and without 0x."""
    shift = 60
    while shift > 0 and value >> shift == r_uint(0):
        shift -= 4
    while shift >= 0:
        hex_digit(sink, intmask(value >> shift) & 15)
        shift -= 4


def hex_digit(sink, digit):
    sink.put(ord(_HEX[digit & 15]))
