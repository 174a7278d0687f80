"""An assembler for the little ACPI machine language that the DSDT needs. Runs while the modules are imported; strings of bytes.

Source: ACPI Specification 6, "ACPI Machine Language (AML) Specification", "Resource Data Types for ACPI".
"""
import struct


def package_length(body):
    """PkgLength: counts itself."""
    for count in range(1, 5):
        length = len(body) + count
        if count == 1 and length < 0x40:
            return chr(length)
        if count > 1 and length < 1 << (4 + 8 * (count - 1)):
            rest = ''.join(chr(length >> (4 + 8 * n) & 0xff) for n in range(count - 1))
            return chr((count - 1) << 6 | length & 15) + rest
    assert False, 'too long'


def _with_length(opcode, body):
    return opcode + package_length(body) + body


def segment(text):
    """A NameSeg: four characters, filled up with underlines."""
    assert 1 <= len(text) <= 4 and text == text.upper()
    return text.ljust(4, '_')


def path(text):
    """A NameString: optional root, one or two segments."""
    root = '\\' if text.startswith('\\') else ''
    parts = [segment(part) for part in text[len(root):].split('.')]
    assert len(parts) <= 2
    return root + ('\x2e' if len(parts) == 2 else '') + ''.join(parts)


def integer(value):
    if value < 2:
        return chr(value)                               # ZeroOp, OneOp
    for opcode, form, end in (('\x0a', '<B', 1 << 8), ('\x0b', '<H', 1 << 16), ('\x0c', '<I', 1 << 32), ('\x0e', '<Q', 1 << 64)):
        if value < end:
            return opcode + struct.pack(form, value)
    assert False, value


def string(text):
    return '\x0d' + text + '\0'


def eisa_id(text):
    """'PNP0A03' as the compressed number."""
    letters = [ord(c) - 0x40 for c in text[:3]]
    number = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return '\x0c' + struct.pack('>I', number)


def name(text, value):
    return '\x08' + path(text) + value


def package(*elements):
    return _with_length('\x12', chr(len(elements)) + ''.join(elements))


def scope(text, *body):
    return _with_length('\x10', path(text) + ''.join(body))


def device(text, *body):
    return _with_length('\x5b\x82', path(text) + ''.join(body))


# Resource descriptors.
def resources(*descriptors):
    """A ResourceTemplate."""
    data = ''.join(descriptors) + '\x79\0'              # end tag; checksum 0: not computed
    return _with_length('\x11', integer(len(data)) + data)


def io(port, count):
    """Fixed ports, all 16 bits decoded."""
    return struct.pack('<BBHHBB', 0x47, 1, port, port, 1, count)


def irq(line):
    """Edge-triggered, active high, exclusive."""
    return struct.pack('<BH', 0x22, 1 << line)


PRODUCER_FIXED = 0x0c                   # positive decode; minimum and maximum do not move
ENTIRE_RANGE, READ_WRITE = 3, 1


def bus_numbers(first, last):
    return struct.pack('<BHBBB5H', 0x88, 13, 2, PRODUCER_FIXED, 0, 0, first, last, 0, last - first + 1)


def io_window(first, last):
    return struct.pack('<BHBBB5H', 0x88, 13, 1, PRODUCER_FIXED, ENTIRE_RANGE, 0, first, last, 0, last - first + 1)


def memory_window(first, last):
    """Not cacheable, 32-bit addresses."""
    return struct.pack('<BHBBB5I', 0x87, 23, 0, PRODUCER_FIXED, READ_WRITE, 0, first, last, 0, last - first + 1)
