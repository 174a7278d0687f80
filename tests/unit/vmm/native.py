"""Run one x86-64 instruction on this machine's own processor: the oracle for the emulator.

Code and state lie in one page that is writable and executable; the instruction finds all registers as given and nothing
else changed. It must not fault: the caller sees to it that its addresses are in `data`.
"""
import ctypes
import mmap
import struct

NAMES = ['RAX', 'RCX', 'RDX', 'RBX', 'RSP', 'RBP', 'RSI', 'RDI'] + ['R%d' % n for n in range(8, 16)]
DATA_BYTES = 8192
IN, OUT, SAVED, FLAGS_IN, FLAGS_OUT = 0x800, 0x900, 0xa00, 0xa08, 0xa10
VECTORS_IN, VECTORS_OUT = 0x800, 0xc00


def _mapping(size, protection):
    area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, protection)
    return area, ctypes.addressof(ctypes.c_char.from_buffer(area))


class Native(object):
    def __init__(self):
        everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self.code, self.code_address = _mapping(4096, everything)
        self.area, self.data = _mapping(DATA_BYTES, mmap.PROT_READ | mmap.PROT_WRITE)

    def _mov(self, at, opcode, register, place):
        """MOV between a register and [RIP + ...]."""
        rex = 0x48 | (4 if register >= 8 else 0)
        self._emit(bytearray([rex, opcode, (register & 7) << 3 | 5]), place, at)

    def _move_vector(self, opcode, register, place):
        """VMOVDQU between a YMM register and [RIP + ...]."""
        self._emit(bytearray([0xc5, 0x7e if register >= 8 else 0xfe, opcode, (register & 7) << 3 | 5]), place)

    def _emit(self, code, place=None, _=None):
        self.program += code
        if place is not None:
            self.program += struct.pack('<i', place - len(self.program) - 4)

    def run(self, instruction, registers, flags, data):
        """registers: 16 values; data: DATA_BYTES. Returns (registers, flags, data) after the instruction."""
        self.program = bytearray()
        self._emit(bytearray.fromhex(u'53 55 41 54 41 55 41 56 41 57'))
        self._mov(None, 0x89, 4, SAVED)
        self._emit(bytearray([0xff, 0x35]), FLAGS_IN)                   # push [flags]; popfq
        self._emit(bytearray([0x9d]))
        for n in range(16):
            self._mov(None, 0x8b, n, IN + 8 * n)
        self._emit(bytearray(instruction))
        for n in range(16):
            self._mov(None, 0x89, n, OUT + 8 * n)
        self._mov(None, 0x8b, 4, SAVED)
        self._emit(bytearray([0x9c, 0x8f, 0x05]), FLAGS_OUT)            # pushfq; pop [flags]
        self._emit(bytearray.fromhex(u'fc 41 5f 41 5e 41 5d 41 5c 5d 5b c3'))
        assert len(self.program) <= IN
        self.code[:len(self.program)] = bytes(self.program)
        self.code[IN:IN + 128] = struct.pack('<16Q', *registers)
        self.code[FLAGS_IN:FLAGS_IN + 8] = struct.pack('<Q', flags)
        self.area[:] = bytes(data)
        ctypes.CFUNCTYPE(None)(self.code_address)()
        after = list(struct.unpack('<16Q', self.code[OUT:OUT + 128]))
        return after, struct.unpack('<Q', self.code[FLAGS_OUT:FLAGS_OUT + 8])[0], bytearray(self.area[:])

    def run_vector(self, instruction, address, vectors, data):
        """address: of the operand, in RDI. vectors: the 64 words of YMM0 to YMM15. Returns (vectors, data) after the instruction."""
        self.program = bytearray([0x48, 0xbf]) + struct.pack('<Q', address)
        for n in range(16):
            self._move_vector(0x6f, n, VECTORS_IN + 32 * n)
        self._emit(bytearray(instruction))
        for n in range(16):
            self._move_vector(0x7f, n, VECTORS_OUT + 32 * n)
        self._emit(bytearray.fromhex(u'c5 f8 77 c3'))                   # vzeroupper; ret
        assert len(self.program) <= VECTORS_IN
        self.code[:len(self.program)] = bytes(self.program)
        self.code[VECTORS_IN:VECTORS_IN + 512] = struct.pack('<64Q', *vectors)
        self.area[:] = bytes(data)
        ctypes.CFUNCTYPE(None)(self.code_address)()
        return list(struct.unpack('<64Q', self.code[VECTORS_OUT:VECTORS_OUT + 512])), bytearray(self.area[:])
