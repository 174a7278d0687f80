"""The decoder against Capstone's view of the same bytes, and against anything at all."""
import os

from hypothesis import given, settings, strategies as st

from hypervisor.vmm import decode as d

VECTORS = os.path.join(os.path.dirname(__file__), 'decode_vectors.txt')
REGISTERS = {
    2: ['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'],
    4: ['eax', 'ecx', 'edx', 'ebx', 'esp', 'ebp', 'esi', 'edi'] + ['r%dd' % n for n in range(8, 16)] + ['eip'],
    8: ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] + ['r%d' % n for n in range(8, 16)] + ['rip'],
}
SEGMENTS = ['es', 'cs', 'ss', 'ds', 'fs', 'gs']
# Implicit operands, which Capstone tells and ModRM does not; and forms in which Capstone names no base.
IMPLICIT = ('movs', 'cmps', 'stos', 'lods', 'scas', 'ins', 'outs', 'xlat', 'maskmov')
# Left out here on purpose: VMX instructions (their opcodes have other lengths as SSE4A), and SALC, which nobody documents.
LEFT_OUT = ('vmread', 'vmwrite', 'salc')
# Capstone takes UD0 and UD1 for instructions without ModRM.
OTHERWISE = ('ud0', 'ud1')


def decode(code, mode):
    fetched = d.Code()
    for byte in bytearray(code):
        fetched.add(byte)
    instruction = d.Instruction()
    return d.decode(fetched, instruction, mode), instruction


def lines():
    with open(VECTORS) as vectors:
        for line in vectors:
            if not line.startswith('#'):
                fields = line.split()
                mode, code, length, name = int(fields[0]), bytearray.fromhex(fields[1]), int(fields[2]), fields[3]
                yield line, mode, code, length, name, fields[4] if len(fields) > 4 else None


def is_82(code, mode):
    """Opcode 82, the twin of 80 that no assembler writes: not known here."""
    return mode != 64 and 0x82 in code[:3]


def signed(value):
    value = int(value)
    return value - (1 << 64) if value >> 63 else value


def memory(i):
    """The memory operand as vectors.py writes it, without the size."""
    size = i.address_size
    base = REGISTERS[size][i.base] if i.base != d.NONE else '-'
    index = REGISTERS[size][i.index] if i.index != d.NONE else '-'
    segment = SEGMENTS[i.segment] if i.segment != d.NONE else '-'
    return '%s:%s+%s*%d+%d' % (segment, base, index, 1 << i.scale, signed(i.displacement))


def normal(text, size):
    """Capstone's operand: the displacement signed in the address size, no index named riz, no scale without an index."""
    place, rest = text.split('@')[0].split(':')
    base, rest = rest.split('+', 1)
    index, rest = rest.split('*')
    scale, displacement = rest.split('+', 1)
    index = '-' if index in ('riz', 'eiz') else index
    value = int(displacement) & ((1 << (8 * size)) - 1)
    if value >> (8 * size - 1):
        value -= 1 << (8 * size)
    return '%s:%s+%s*%s+%d' % (place, base, index, scale if index != '-' else '1', value)


def test_lengths_are_those_of_capstone():
    checked, wrong = 0, []
    for line, mode, code, length, name, _ in lines():
        outcome, i = decode(code, mode)
        if length == 0 or name in OTHERWISE or outcome == d.UNKNOWN and (name in LEFT_OUT or is_82(code, mode)):
            continue
        if mode == 64 and i.map == d.MAP_0F and name.startswith('j') and i.prefix_66:
            continue                    # AMD takes the prefix for a 2-byte jump, Intel ignores it
        checked += 1
        if outcome != d.OK or i.length != length:
            wrong.append('%s  here: %d, %d bytes' % (line.rstrip(), outcome, i.length))
    assert wrong == [] and checked > 3500


def test_memory_operands_are_those_of_capstone():
    checked, wrong = 0, []
    for line, mode, code, length, name, operand in lines():
        outcome, i = decode(code, mode)
        if operand is None or outcome != d.OK or name.startswith(IMPLICIT):
            continue
        checked += 1
        ours = memory(i)
        theirs = normal(operand, i.address_size)
        if mode == 64 and theirs[:2] in ('es', 'cs', 'ss', 'ds'):      # these prefixes mean nothing in 64-bit mode
            theirs = theirs[theirs.index(':'):]
            ours = ours[ours.index(':'):]
        if i.index == d.NONE:
            ours = ours.replace('*%d+' % (1 << i.scale), '*1+')
        if not i.modrm:
            continue
        if not i.memory or ours != theirs:
            wrong.append('%s  here: %s' % (line.rstrip(), ours))
    assert wrong == [] and checked > 1200


def test_rex_counts_only_right_before_the_opcode():
    for code, size in (('48 8b 03', 8), ('66 48 8b 03', 8), ('48 66 8b 03', 2), ('48 67 8b 03', 4), ('48 40 8b 03', 4)):
        outcome, i = decode(bytearray.fromhex(code.decode() if isinstance(code, bytes) else code), 64)
        assert outcome == d.OK and i.operand_size == size, code


@settings(max_examples=500)
@given(st.binary(max_size=20), st.sampled_from([16, 32, 64]))
def test_any_bytes_are_decoded_or_refused(code, mode):
    outcome, i = decode(code, mode)
    assert outcome in (d.OK, d.TOO_SHORT, d.UNKNOWN)
    if outcome == d.OK:
        assert 1 <= i.length <= min(len(code), d.MOST_BYTES)
        assert i.operand_size in (2, 4, 8) and i.address_size in (2, 4, 8)
        assert -1 <= i.base <= 16 and -1 <= i.index <= 15 and 0 <= i.scale <= 3


@settings(max_examples=200)
@given(st.binary(min_size=15, max_size=15), st.sampled_from([16, 32, 64]))
def test_a_shorter_fetch_never_changes_the_meaning(code, mode):
    """What is decoded from n bytes is decoded alike from more."""
    outcome, whole = decode(code, mode)
    for count in range(15):
        part, i = decode(code[:count], mode)
        if part == d.OK:
            assert outcome == d.OK and i.length == whole.length and memory(i) == memory(whole)
        elif outcome == d.OK:
            assert part == d.TOO_SHORT and count < whole.length


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([3, 15, 15, 15]), st.sampled_from([32, 64])), min_size=2, max_size=12),
       st.binary(min_size=15, max_size=15))
def test_what_was_decoded_last_changes_nothing(picks, code):
    """The same bytes are not decoded again; others, fewer of them and other modes are."""
    codes = [code, b'\x66' * 8 + b'\x8b\x43\x10\0\0\0\0', b'\x66' * 8 + b'\x89\x43\x10\0\0\0\0', b'\x67' + code[1:]]
    fetched, instruction = d.Code(), d.Instruction()
    for which, count, mode in picks:
        fetched.clear()
        for byte in bytearray(codes[which][:count]):
            fetched.add(byte)
        outcome, fresh = decode(codes[which][:count], mode)
        assert d.decode(fetched, instruction, mode) == outcome
        assert vars(instruction) == vars(fresh)
