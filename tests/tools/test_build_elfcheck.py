"""Each proof over an ELF is seen to fail on an ELF that breaks it, and to pass one that does not."""
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'build'))

import elfcheck  # noqa: E402
import headers  # noqa: E402
from hypervisor.spec import program  # noqa: E402

PROGRAM = '''
        .section .text.start, "ax"
        .globl _start
_start: call work
        ret
        .type work, @function
work:   {body}
        ret
        .section .rodata, "a"
        .quad 1
        .skip 4096              # parts of different sizes: two swapped counts must not look right
        .data
        .quad 2
        .skip 8192
        .bss
        .skip 12289
        .section .note.GNU-stack, "", @progbits
'''

WRITABLE_CODE = ('PHDRS { all PT_LOAD FLAGS(7); }\n'
                 'SECTIONS { . = 0x400000; .text : { *(.text*) } :all .data : { *(.data) *(.bss) *(.rodata) } }')
SHARED_PAGE = ('PHDRS { text PT_LOAD FLAGS(5); data PT_LOAD FLAGS(6); }\n'
               'SECTIONS { . = 0x400000; .text : { *(.text*) } :text .data : { *(.data) *(.bss) *(.rodata) } :data }')
WRONG_SEGMENT = ('PHDRS { text PT_LOAD FLAGS(4); }\n'
                 'SECTIONS { . = 0x400000; .text : { *(.text*) } :text .data : { *(.data) *(.bss) *(.rodata) } }')


def linked(folder, body='nop', script=None, flags=()):
    """Return an ELF whose function `work` holds the given instructions; script None: the real linker/task.ld."""
    headers.write(folder / 'spec.h')
    (folder / 'p.S').write_text(PROGRAM.format(body=body))
    subprocess.run(['gcc', '-c', folder / 'p.S', '-o', folder / 'p.o'], check=True)
    if script is None:
        script = subprocess.run(['gcc', '-E', '-P', '-undef', '-x', 'c', f'-I{folder}', ROOT / 'linker' / 'task.ld'],
                                check=True, capture_output=True, text=True).stdout
    (folder / 'p.ld').write_text(script)
    elf = folder / 'p.elf'
    subprocess.run(['ld', '-nostdlib', '-static', '-z', 'max-page-size=4096', '-z', 'noexecstack', *flags, '-T', folder / 'p.ld', '-o', elf,
                    folder / 'p.o'], check=True, capture_output=True)
    return elf


@pytest.mark.parametrize('ring', [0, 3])
def test_plain_program_passes(tmp_path, ring):
    assert elfcheck.check(linked(tmp_path), ring) == []


@pytest.mark.parametrize('body', [
    'movaps %xmm0, %xmm1', 'addsd (%rax), %xmm15', 'pxor %mm0, %mm0', 'vaddps %ymm0, %ymm1, %ymm2', 'kmovq %k1, %k2',
    'vpxorq %zmm31, %zmm1, %zmm2', 'fldpi', 'fadd %st(1), %st', 'fwait', 'emms', 'vzeroupper', 'cvtsi2sd %rax, %xmm3', 'movq %rax, %xmm0',
    'movdqu %xmm0, (%rip)', 'lock; nop; fldz',
])
@pytest.mark.parametrize('ring', [0, 3])
def test_vector_instruction_is_found_in_both_rings(tmp_path, ring, body):
    found = elfcheck.check(linked(tmp_path, body), ring)
    assert any('work at 0x' in text for text in found), found


@pytest.mark.parametrize('body', [
    'fxsave (%rdi)', 'fxrstor64 (%rdi)', 'xsave64 (%rdi)', 'xsaveopt (%rdi)', 'xrstor64 (%rdi)', 'ldmxcsr (%rdi)', 'fninit',
])
def test_state_switching_is_the_kernels_alone(tmp_path, body):
    elf = linked(tmp_path, body)
    assert elfcheck.check(elf, 0) == []
    assert any('work at 0x' in text for text in elfcheck.check(elf, 3))


@pytest.mark.parametrize('body', ['pause', 'mfence', 'rep movsb', 'lock cmpxchg %rax, (%rdi)', 'xgetbv',
                                  'popcnt %rax, %rax', 'prefetcht0 (%rax)'])
def test_plain_instruction_is_not_mistaken(tmp_path, body):
    assert elfcheck.check(linked(tmp_path, body), 3) == []


def test_undefined_symbol_is_found(tmp_path):
    linked(tmp_path, 'mov $printf, %eax', flags=['--unresolved-symbols=ignore-all'])
    with open(tmp_path / 'p.o', 'rb') as stream:        # a final link leaves no trace of it, a partial one does
        assert list(elfcheck.undefined_symbols(ELFFile(stream))) == ['the symbol printf is undefined']


def test_undefined_weak_symbol_is_found_in_the_objects(tmp_path):
    elf = linked(tmp_path, '.weak printf; mov $printf, %eax')
    assert elfcheck.check(elf, 3) == []                 # the linker has resolved it to 0
    found = elfcheck.check(elf, 3, [tmp_path / 'p.o'])
    assert found == ['p.elf: the symbol printf, wanted by p.o, is undefined']


@pytest.mark.parametrize('body, finding', [
    ('mov %rdi, %rax; jz k_panic@plt', 'calls k_panic'), ('call elsewhere', 'calls elsewhere'), ('mov %r8, %rax', 'r8'), ('movb $1, (%rdi, %r11)', 'r11'),
    ('xor %r9d, %r9d', 'r9d'), ('mov %r10b, %al', 'r10b'), ('call bulkhead_assertion_failed; mov %r12, %rbx; push %r15', None)])
def test_what_has_few_registers_uses_and_calls_no_more(tmp_path, body, finding):
    (tmp_path / 'few.S').write_text(f'first: {body}; ret\n')
    few = tmp_path / 'c-kernel.few.c.o'
    subprocess.run(['gcc', '-c', tmp_path / 'few.S', '-o', few], check=True)
    found = list(elfcheck.more_registers([few]))
    assert len(found) == (finding is not None) and all(finding in text for text in found), found
    assert not list(elfcheck.more_registers([tmp_path / 'few.S']))


def test_stripped_program_is_not_passed(tmp_path):
    elf = linked(tmp_path, flags=['-s'])
    assert any('no symbol table' in text for text in elfcheck.check(elf, 3))


def test_writable_and_executable_segment_is_found(tmp_path):
    assert any('writable and executable' in text for text in elfcheck.check(linked(tmp_path, script=WRITABLE_CODE), 0))


def test_page_with_two_rights_is_found(tmp_path):
    assert any('two segments with different rights' in text for text in elfcheck.check(linked(tmp_path, script=SHARED_PAGE), 0))


def test_section_in_a_segment_with_other_rights_is_found(tmp_path):
    found = elfcheck.check(linked(tmp_path, script=WRONG_SEGMENT), 0)
    assert any('.text is code' in text for text in found) and any('.data is written' in text for text in found), found


def test_image_without_code_is_an_error_and_not_a_pass():
    with pytest.raises(ValueError, match='nothing was checked'):
        list(elfcheck.forbidden('p.elf:     file format elf64-x86-64\n', frozenset()))


@pytest.mark.parametrize('field', program.FIELDS)
def test_each_wrong_field_of_the_header_is_found(tmp_path, field):
    elf = linked(tmp_path)
    image = bytearray(elf.read_bytes())
    start = image.index(struct.pack('<Q', program.MAGIC)) + program.OFFSETS[field]
    image[start + 1] ^= 0x10
    elf.write_bytes(image)
    assert any(f'the header says {field} =' in text for text in elfcheck.check(elf, 3))


def test_image_is_the_file_parts_in_order(tmp_path):
    elf = linked(tmp_path)
    subprocess.run(['objcopy', '-O', 'binary', elf, tmp_path / 'p.bin'], check=True)
    image = (tmp_path / 'p.bin').read_bytes()
    words = dict(zip(program.FIELDS, struct.unpack_from(f'<{len(program.FIELDS)}Q', image)))
    sizes = [words[f'{part}_BYTES'] for part in ('HEADER', 'TEXT', 'RODATA', 'DATA')]
    assert len(image) == sum(sizes)
    assert image[sum(sizes[:2])] == 1 and image[sum(sizes[:3])] == 2        # the .quads of .rodata and .data
    assert [words[f'{part}_BYTES'] // 4096 for part in ('TEXT', 'RODATA', 'DATA', 'BSS')] == [1, 2, 3, 4]
