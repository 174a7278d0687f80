"""Make tests/unit/vmm/decode_vectors.txt: instructions as Capstone, an independent decoder, sees them.   (Python 3)

    .env/bin/python3 tests/unit/vmm/vectors.py

One line each:  MODE BYTES LENGTH MNEMONIC [MEMORY], where MEMORY is SEGMENT:BASE+INDEX*SCALE+DISPLACEMENT@SIZE.
The bytes come from a fixed seed: opcodes of the integer maps with random prefixes, ModRM and operands.
"""
import os
import random

import capstone
from capstone import x86

MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
PER_OPCODE = 3
LEGACY = [0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65]


def bytes_of(random_, mode, opcode):
    """Random prefixes, the opcode, then random operands."""
    out = [random_.choice(LEGACY) for _ in range(random_.choice((0, 0, 0, 1, 1, 2)))]
    if mode == 64 and random_.random() < 0.4:
        out.append(0x40 | random_.randrange(16))
    out += opcode
    return bytes((out + [random_.randrange(256) for _ in range(15)])[:15])


def opcodes():
    yield from ([n] for n in range(256) if n != 0x0f and n not in LEGACY and n not in (0xf0, 0xc4, 0xc5, 0x62))
    yield from ([0x0f, n] for n in range(256) if n not in (0x38, 0x3a, 0x0f))


def memory(instruction):
    """The explicit memory operand as text, or ''."""
    for operand in instruction.operands:
        if operand.type == x86.X86_OP_MEM:
            m = operand.mem
            names = [instruction.reg_name(r) or '-' for r in (m.segment, m.base, m.index)]
            return '%s:%s+%s*%d+%d@%d' % (names[0], names[1], names[2], m.scale, m.disp, operand.size)
    return ''


def vectors():
    random_ = random.Random(1)
    for mode, cs_mode in sorted(MODES.items()):
        decoder = capstone.Cs(capstone.CS_ARCH_X86, cs_mode)
        decoder.detail = True
        for opcode in opcodes():
            for _ in range(PER_OPCODE):
                code = bytes_of(random_, mode, opcode)
                found = next(decoder.disasm(code, 0, 1), None)
                if found is None:
                    yield '%d %s 0 -' % (mode, code.hex())
                else:
                    yield ('%d %s %d %s %s' % (mode, code[:found.size].hex(), found.size, found.mnemonic.split()[-1], memory(found))).rstrip()


def main():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'decode_vectors.txt')
    with open(path, 'w') as out:
        out.write('# Made by vectors.py. MODE BYTES LENGTH MNEMONIC [SEGMENT:BASE+INDEX*SCALE+DISPLACEMENT@SIZE]\n')
        out.writelines(line + '\n' for line in vectors())


if __name__ == '__main__':
    main()
