"""Figures of the whole system: sizes of the programs, what the box keeps for itself, and how long it takes to start.

Everything is counted from the built programs or read from a running box; nothing is timed.
"""
import io
import json
import re
import struct
import subprocess
from functools import lru_cache
from pathlib import Path

from bulkhead.facts import BUILD, ROOT, layout
from bulkhead.mistake import Trouble
from elftools.elf.elffile import ELFFile

import paths
from boxes import PROCESSORS, Box

PROGRAMS = ('kernel', 'manager', 'vmm')
WRITE, ALLOCATED, EXECUTE = 1, 2, 4            # of a section's flags
CLEARED_AT_ONCE = 8             # bytes, by an instruction: REP STOSQ counts as one for each
PADDING = b'\0\x90\xcc'
KERNEL_OWNER = 1                # in the owner table (hypervisor/kernel/frames.py)


def sizes(program):
    """Bytes of a program in memory: {'text', 'read only', 'data' (in the file), 'zeroed'}."""
    found = dict.fromkeys(('text', 'read only', 'data', 'zeroed'), 0)
    for section in _sections(program):
        found[_kind(section)] += section['sh_size']
    return found


def code(program):
    """Bytes of a program's text without the padding to a whole page."""
    return sum(len(section.data().rstrip(PADDING)) for section in _sections(program) if _kind(section) == 'text')


def _sections(program):
    file = ELFFile(io.BytesIO((BUILD / (program + '.elf')).read_bytes()))
    return [section for section in file.iter_sections() if section['sh_flags'] & ALLOCATED]


def _kind(section):
    if section['sh_flags'] & EXECUTE:
        return 'text'
    if section['sh_type'] == 'SHT_NOBITS':
        return 'zeroed'
    return 'data' if section['sh_flags'] & WRITE else 'read only'


def lines(program):
    """Non-blank lines of the sources that a program was built from: {'RPython', 'assembly and C'}."""
    folder = BUILD / program
    facts = json.loads((folder / 'c' / (program + '.json')).read_text())
    python = [ROOT / name for name in facts['inputs'] if name.startswith('hypervisor/')]
    words = re.split(r'[\s\\]+', ' '.join(file.read_text() for file in folder.glob('*.d')))
    other = {Path(word) for word in words if word.startswith(str(ROOT / 'boot') + '/') and not word.endswith(':')}
    return {'RPython': sum(map(_lines, python)), 'assembly and C': sum(map(_lines, other))}


def _lines(path):
    return sum(1 for line in path.read_text('utf-8').splitlines() if line.strip())


# The running box.

def box_of(guests, memory=16):
    """A box of `guests` bench guests with `memory` MiB each, which stop being watched at their first row."""
    vms = ''.join('[[vm]]\nname = "bench%d"\nmemory = "%dM"\nexit_port = true\nhost_tsc = true\n'
                  'boot = {kind = "multiboot", image = "@guests/bench", command_line = "samples=1"}\n' % (n, memory)
                  for n in range(guests))
    return '[box]\nname = "figures"\nmemory = "192M"\n' + vms


def start(processor, memory=16):
    """Instructions from the first of the kernel to the first of a guest with `memory` MiB of RAM, without those that clear it."""
    description, cleared = box_of(1, memory), (memory << 20) // CLEARED_AT_ONCE
    return -cleared + stamped(processor, description, 'image-bench0', paths.GUEST, 'start') - stamped(processor, description, 'kernel.elf', BUILD / 'kernel.elf', 'start32')


def stamped(processor, description, file, elf, symbol):
    """The TSC at which `symbol` of a box's file is reached. elf: where the symbol is to be found."""
    address = paths.symbols(elf)[symbol]

    def edit(folder):
        image = bytearray((folder / file).read_bytes())
        at = file_offset(image, address)
        image[at:at + len(stamp())] = stamp()
        (folder / file).write_bytes(image)

    with Box(processor, description, edit=edit) as box:
        box.watch.run()                 # a kernel that is a stamp does not end as a box does
        said = re.search(r'\b[0-9a-f]{16}\b', box.output.text())
        if not said:
            raise Trouble('no stamp came on %s:\n%s' % (processor.title, box.output.text()))
        return int(said[0], 16)


def file_offset(image, address):
    """Where the byte at a virtual address lies in an ELF, or in a multiboot image with the address fields."""
    for segment in ELFFile(io.BytesIO(bytes(image))).iter_segments():
        if segment['p_type'] == 'PT_LOAD' and segment['p_vaddr'] <= address < segment['p_vaddr'] + segment['p_filesz']:
            return address - segment['p_vaddr'] + segment['p_offset']
    raise Trouble('0x%x is not in the file' % address)


@lru_cache(None)
def stamp():
    """The machine code of stamp.S."""
    source, folder = Path(__file__).with_name('stamp.S'), BUILD / 'bench'
    folder.mkdir(parents=True, exist_ok=True)
    made, code = folder / 'stamp.o', folder / 'stamp.bin'
    subprocess.run(['gcc', '-m32', '-c', '-o', made, source], check=True)
    subprocess.run(['objcopy', '-O', 'binary', '-j', '.text', made, code], check=True)
    return code.read_bytes()


def kept(guests):
    """Bytes that the kernel keeps, with so many guests running: {'image', 'owner table', 'arena used', 'runs', 'reserved'}. runs: what the
    manager has given for the guests."""
    kernel, guest = paths.symbols(BUILD / 'kernel.elf'), paths.symbols(paths.GUEST)
    with Box(PROCESSORS['qemu-svm'], box_of(guests), monitor=True) as box:
        for n in range(guests):
            box.debugger.go_to(guest['sort'])
        read = Reader(box.emulator)
        taken = read.field('arena_Arena', 'pages_next', 'arena_Account') - read.field('arena_Arena', 'pages_start', 'arena_Account')
        table = read.field('inventory_Inventory', 'table_bytes')
        own = read.field('inventory_Inventory', 'size')
        owners = box.emulator.read_physical(read.field('inventory_Inventory', 'base'), table)[::2]
    image = kernel['image_end'] - kernel['image_load_start']
    reserved = owners.count(KERNEL_OWNER) * layout.PAGE
    return {'image': image, 'owner table': table, 'arena used': taken, 'runs': reserved - image - own, 'reserved': reserved}


def program_memory(name):
    """Bytes that a running ring-3 program takes: its image, its stack and its boot page."""
    return sum(sizes(name).values()) + (layout.STACK_PAGES + 1) * layout.PAGE


def all_of_them():
    """{name: number}, by the names of tests/bench/budget.toml."""
    one, two = kept(1), kept(2)
    small, large = (start(PROCESSORS['qemu-svm'], memory) for memory in (16, 32))
    found = {}
    for name in PROGRAMS:
        found[name + '_text'] = code(name)
        found[name + '_lines'] = sum(lines(name).values())
    manager, vmm = program_memory('manager'), program_memory('vmm')
    found['kept'] = one['reserved'] + manager + vmm
    found['used'] = one['image'] + one['owner table'] + one['arena used'] + one['runs'] + manager + vmm
    found['vm_used'] = two['arena used'] + two['runs'] - one['arena used'] - one['runs'] + vmm
    found['start_mib'] = (large - small) // 16
    return found


class Reader:
    """Fields of the kernel's prebuilt RPython objects, in the memory of a stopped box."""

    def __init__(self, emulator):
        self.emulator = emulator
        self.symbols = paths.symbols(BUILD / 'kernel.elf')

    def field(self, what, name, base=None):
        """The 64-bit field `name` of the object of a class in hypervisor/kernel; what: MODULE_CLASS; base: the class that it has the field from."""
        address = self.symbols['pypy_g_hypervisor_kernel_' + what] - layout.KERNEL_BASE
        offset = field_offsets('pypy_hypervisor_kernel_%s0' % (base or what))['inst_' + name]
        return struct.unpack('<Q', self.emulator.read_physical(address + offset, 8))[0]


@lru_cache(None)
def field_offsets(structure):
    """{field without its first prefix: offset} of one of the generated C's structures."""
    with open(BUILD / 'kernel.elf', 'rb') as file:
        for unit in ELFFile(file).get_dwarf_info().iter_CUs():
            for die in unit.get_top_DIE().iter_children():
                if die.tag == 'DW_TAG_structure_type' and _name(die) == structure:
                    return {_name(member).partition('_')[2]: member.attributes['DW_AT_data_member_location'].value
                            for member in die.iter_children() if member.tag == 'DW_TAG_member'}
    raise KeyError(structure)


def _name(die):
    name = die.attributes.get('DW_AT_name')
    return name.value.decode() if name else ''
