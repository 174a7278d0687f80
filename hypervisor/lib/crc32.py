"""CRC-32 as zlib.crc32 computes it (reflected polynomial 0xedb88320, start and final XOR of all ones).

Source: RFC 1952 "GZIP file format specification", appendix "Sample CRC Code".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

POLYNOMIAL = 0xedb88320
_ONES = r_uint(0xffffffff)
START = r_uint(0)


def _entry(byte):
    value = byte
    for _ in range(8):
        value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
    return r_uint(value)


_TABLE = [_entry(byte) for byte in range(256)]


def add(crc, byte):
    """The CRC of some bytes and one more: `crc` is that of the bytes before (START for none)."""
    inner = crc ^ _ONES
    return (_TABLE[(intmask(inner) ^ byte) & 0xff] ^ (inner >> 8)) ^ _ONES
