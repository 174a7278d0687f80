"""Proofs over a finished ELF: what the processor will be given.   (Python 3)

    no undefined symbol, no relocation, no dynamic linking
    no segment writable and executable, no page with two kinds of rights, every segment whole pages
    no x87, MMX, SSE or AVX instruction: these registers hold a guest's state. The kernel may save and restore them whole.
    what is compiled with few registers (NAME.few.c.o) has no instruction with another, and calls nobody who might
    ring 3: the header page that loaders trust says what the ELF says
"""
import re
import struct
import subprocess
import sys
from pathlib import Path

from elftools.elf.constants import P_FLAGS, SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

ROOT = Path(__file__).resolve().parents[2]
PAGE = 4096
MOST_FINDINGS = 10      # of each kind

# Boot code in another processor mode, which a 64-bit disassembly would misread. It is not compiled but written by hand.
OTHER_MODE = {'.boot', '.boot.text'}

# The kernel switches these registers between guests as a whole, and never computes with them.
STATE_SWITCHING = {
    'fxsave', 'fxsave64', 'fxrstor', 'fxrstor64', 'fninit', 'fnclex', 'ldmxcsr', 'stmxcsr', 'xsave', 'xsave64', 'xsavec', 'xsavec64',
    'xsaveopt', 'xsaveopt64', 'xsaves', 'xsaves64', 'xrstor', 'xrstor64', 'xrstors', 'xrstors64',
}
VECTOR_REGISTER = re.compile(r'%(?:[xyz]?mm\d+|st\b|k[0-7]\b|tmm\d)')
# Without a register operand: every x87 mnemonic starts with f; the rest is listed.
VECTOR_MNEMONIC = re.compile(r'^(?:f\w+|emms|v?ldmxcsr|v?stmxcsr|vzero(?:upper|all)|xsave\w*|xrstor\w*|tilerelease|[lsv]dtilecfg)$')
INSTRUCTION = re.compile(r'^\s*([0-9a-f]+):\s+(?:(?:lock|repz?|repnz|data16|addr32|bnd|notrack|rex\.?\w*|[cdefgs]s) )*([a-z]\w*)\s*(.*)$')
FUNCTION = re.compile(r'^([0-9a-f]+) <(.+)>:$')


def check(path, ring, objects=()):
    """Return the findings for the ELF of a program that runs in `ring` (0 or 3), linked from `objects`."""
    path = Path(path)
    with open(path, 'rb') as stream:
        elf = ELFFile(stream)
        findings = [
            *shortened(undefined_symbols(elf)), *shortened(leftovers(elf)), *shortened(rights(elf)),
            *shortened(vector_instructions(path, elf, ring)),
        ]
        if ring == 3:
            findings += wrong_header(elf)
    findings += shortened(undefined_weak(objects)) + shortened(more_registers(objects))
    return [f'{path.name}: {finding}' for finding in findings]


def shortened(findings):
    findings = list(findings)
    left_out = len(findings) - MOST_FINDINGS
    return findings[:MOST_FINDINGS] + ([f'... and {left_out} more of this kind'] if left_out > 0 else [])


# -- symbols, relocations

def undefined_symbols(elf):
    tables = [section for section in elf.iter_sections() if isinstance(section, SymbolTableSection)]
    if not tables:
        yield 'there is no symbol table, so undefined symbols cannot be ruled out'
    for symbol in symbols(elf):
        if symbol['st_shndx'] == 'SHN_UNDEF':
            yield f'the symbol {symbol.name} is undefined'


def symbols(elf):
    """Return the symbols that have a name."""
    return [symbol for table in elf.iter_sections() if isinstance(table, SymbolTableSection)
            for symbol in table.iter_symbols() if symbol.name]


def undefined_weak(objects):
    """Yield a sentence for each weak symbol that nobody defines: the linker makes it 0 and leaves no trace in the ELF."""
    wanted, defined = {}, set()
    for path in objects:
        with open(path, 'rb') as stream:
            for symbol in symbols(ELFFile(stream)):
                if symbol['st_shndx'] != 'SHN_UNDEF':
                    defined.add(symbol.name)
                elif symbol['st_info']['bind'] == 'STB_WEAK':
                    wanted.setdefault(symbol.name, path)
    for name, path in wanted.items():
        if name not in defined:
            yield f'the symbol {name}, wanted by {Path(path).name}, is undefined'


def leftovers(elf):
    for section in elf.iter_sections():
        if section['sh_type'] in ('SHT_RELA', 'SHT_REL') and section['sh_size']:
            yield f'section {section.name} holds relocations: nobody would apply them'
    for segment in elf.iter_segments():
        if segment['p_type'] in ('PT_INTERP', 'PT_DYNAMIC', 'PT_TLS'):
            yield f'there is a {segment["p_type"]} segment: the program expects a dynamic linker or threads'


# -- rights

def rights(elf):
    loaded = [segment for segment in elf.iter_segments() if segment['p_type'] == 'PT_LOAD' and segment['p_memsz']]
    for segment in elf.iter_segments():
        if segment['p_flags'] & P_FLAGS.PF_W and segment['p_flags'] & P_FLAGS.PF_X:
            yield f'the {segment["p_type"]} segment at {segment["p_vaddr"]:#x} is writable and executable'
    for segment in loaded:
        if segment['p_vaddr'] % PAGE:
            yield f'the segment at {segment["p_vaddr"]:#x} does not start on a page'
    pages = sorted((pages_of(segment), segment['p_flags']) for segment in loaded)
    for (first, flags), (second, other) in zip(pages, pages[1:]):
        if second[0] < first[1] and flags != other:
            yield f'the page at {second[0] * PAGE:#x} belongs to two segments with different rights'
    yield from sections_outside(elf, loaded)


def pages_of(segment):
    """Return (first page, page after the last) of a segment."""
    return segment['p_vaddr'] // PAGE, -(-(segment['p_vaddr'] + segment['p_memsz']) // PAGE)


def sections_outside(elf, loaded):
    """Yield a sentence for each section whose own rights differ from those of the segment it lies in."""
    for section in elf.iter_sections():
        if not section['sh_flags'] & SH_FLAGS.SHF_ALLOC or not section['sh_size']:
            continue
        segment = next((each for each in loaded if each['p_vaddr'] <= section['sh_addr']
                        and section['sh_addr'] + section['sh_size'] <= each['p_vaddr'] + each['p_memsz']), None)
        if segment is None:
            yield f'section {section.name} lies in no segment'
        elif section['sh_flags'] & SH_FLAGS.SHF_WRITE and not segment['p_flags'] & P_FLAGS.PF_W:
            yield f'section {section.name} is written to but lies in a read-only segment'
        elif section['sh_flags'] & SH_FLAGS.SHF_EXECINSTR and not segment['p_flags'] & P_FLAGS.PF_X:
            yield f'section {section.name} is code but lies in a segment that is not executable'


# -- instructions

def vector_instructions(path, elf, ring):
    code = [section.name for section in elf.iter_sections()
            if section['sh_flags'] & SH_FLAGS.SHF_EXECINSTR and section['sh_size'] and section['sh_type'] == 'SHT_PROGBITS']
    allowed = STATE_SWITCHING if ring == 0 else frozenset()
    for name in code:
        if name in OTHER_MODE:
            continue
        for address, function, text in forbidden(disassembly(path, name), allowed):
            yield f'{function} at {address:#x}: {text}: {why(ring)}'


def why(ring):
    if ring == 0:
        return 'these registers hold a guest\'s state; the kernel may only save and restore them whole'
    return 'a ring-3 program has no x87, MMX, SSE or AVX registers'


def disassembly(path, section):
    command = ['objdump', '-d', '--no-show-raw-insn', '-j', section, path]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def forbidden(listing, allowed):
    """Yield (address, function, instruction) of a disassembly's vector instructions that are not in `allowed`."""
    function, seen = '?', 0
    for line in listing.splitlines():
        start = FUNCTION.match(line)
        if start:
            function = start.group(2)
            continue
        match = INSTRUCTION.match(line)
        if not match:
            continue
        seen += 1
        address, mnemonic, operands = match.groups()
        operands = operands.split('#')[0]
        if mnemonic in allowed and not VECTOR_REGISTER.search(operands):
            continue
        if VECTOR_MNEMONIC.match(mnemonic) or VECTOR_REGISTER.search(operands):
            yield int(address, 16), function, f'{mnemonic} {operands}'.strip()
    if not seen:
        raise ValueError('the disassembly shows no instruction: nothing was checked')


# -- few registers

# boot/kernel/guest.h: these hold the guest's while the rest of such an object runs.
FEW_REGISTERS = '.few.c.o'
ANOTHER_REGISTER = re.compile(r'%r(?:8|9|10|11)[dwb]?\b')
NEVER_RETURNS = {'bulkhead_assertion_failed'}
R_X86_64_PLT32 = 4


def more_registers(objects):
    """Yield a sentence for each instruction with R8 to R11, and each call of a function that might have one, where there are to be none."""
    for path in objects:
        if not str(path).endswith(FEW_REGISTERS):
            continue
        with open(path, 'rb') as stream:
            elf = ELFFile(stream)
            for name in called_elsewhere(elf) - NEVER_RETURNS:
                yield f'{Path(path).name} calls {name}, which may use all registers'
        listing = subprocess.run(['objdump', '-d', '--no-show-raw-insn', path], check=True, stdout=subprocess.PIPE, text=True).stdout
        instructions = [match for match in map(INSTRUCTION.match, listing.splitlines()) if match]
        if not instructions:
            raise ValueError('the disassembly shows no instruction: nothing was checked')
        for match in instructions:
            if ANOTHER_REGISTER.search(match.group(3)):
                yield f'{Path(path).name}: {match.group(2)} {match.group(3)}: this register is to stay the guest\'s'


def called_elsewhere(elf):
    """Return the names of the functions that an object calls and does not hold."""
    names = set()
    for section in elf.iter_sections():
        if section['sh_type'] != 'SHT_RELA':
            continue
        table = elf.get_section(section['sh_link'])
        for relocation in section.iter_relocations():
            symbol = table.get_symbol(relocation['r_info_sym'])
            if relocation['r_info_type'] == R_X86_64_PLT32 and symbol['st_shndx'] == 'SHN_UNDEF':
                names.add(symbol.name)
    return names


# -- the header page of ring-3 programs

def wrong_header(elf):
    """Yield what the header says that the ELF does not."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from hypervisor.spec import program
    header = elf.get_section_by_name('.header')
    if header is None:
        return ['there is no .header section']
    words = struct.unpack_from(f'<{len(program.FIELDS)}Q', header.data())
    sizes = {name: section['sh_size'] if section else 0
             for name, section in ((name, elf.get_section_by_name(name)) for name in ('.text', '.rodata', '.data', '.bss'))}
    expected = [program.MAGIC, program.VERSION, program.BASE, elf['e_entry'], program.HEADER_BYTES,
                sizes['.text'], sizes['.rodata'], sizes['.data'], sizes['.bss']]
    findings = [f'the header says {name} = {word:#x}; the ELF says {right:#x}'
                for name, word, right in zip(program.FIELDS, words, expected) if word != right]
    return findings + [f'{name} is {size:#x} bytes, not whole pages' for name, size in sizes.items() if size % PAGE]


if __name__ == '__main__':
    found = check(sys.argv[1], int(sys.argv[2]))
    print('\n'.join(found) or f'{sys.argv[1]}: every rule holds')
    sys.exit(1 if found else 0)
