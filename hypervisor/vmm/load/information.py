"""The multiboot information structure, the strings it points to, and the modules, in the guest's memory.

Source: Multiboot Specification 0.6.96, "Boot information format".
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import boot as spec, call
from hypervisor.spec.record import offsets
from hypervisor.vmm import boot, ram as pc
from hypervisor.vmm.load import extent, parcel, refusal

LOADER_NAME = 'Bulkhead'
INFO = offsets([(name, 4) for name in (
    'FLAGS', 'MEM_LOWER', 'MEM_UPPER', 'BOOT_DEVICE', 'CMDLINE', 'MODS_COUNT', 'MODS_ADDR', 'SYMS_0', 'SYMS_1', 'SYMS_2', 'SYMS_3',
    'MMAP_LENGTH', 'MMAP_ADDR', 'DRIVES_LENGTH', 'DRIVES_ADDR', 'CONFIG_TABLE', 'BOOT_LOADER_NAME', 'APM_TABLE')])
FLAGS = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9          # memory, command line, modules, map, loader's name
MODULE = offsets([(name, 4) for name in ('START', 'END_', 'STRING', 'RESERVED')])
MAP_ENTRY = offsets([('SIZE', 4), 'BASE', 'LENGTH', ('TYPE', 4)])
MAP_ENTRY_SIZE = MAP_ENTRY['END'] - 4                       # `size` does not count itself
AVAILABLE = 1

# Offsets of the parts in one block of BYTES, taken from PLACE on.
MAP = 0x80
MAP_ENTRIES = 2
MODULES = 0x100
STRINGS = 0x200
BYTES = r_uint(STRINGS + parcel.STRINGS_BYTES)
PLACE = r_uint(0x8000)                                      # above the real-mode tables and a boot sector's place
assert INFO['END'] <= MAP and MAP + MAP_ENTRIES * MAP_ENTRY['END'] <= MODULES
assert MODULES + call.GUEST_MODULES * MODULE['END'] <= STRINGS and len(LOADER_NAME) < parcel.STRING_MOST


class Information(object):
    def __init__(self, ram):
        self.ram = ram
        self.address = r_uint(0)        # gpa of the block
        self.strings = parcel.Strings(ram)
        self.number = 0                 # of the module that found no room

    def build(self, extents):
        """Place modules and block beside what `extents` names. Returns a code of refusal.py."""
        self.address = extents.find(self.ram, PLACE, BYTES)
        if self.address == extent.NOWHERE:
            return refusal.NO_ROOM_INFORMATION
        extents.add(self.address, self.address + BYTES)
        self.strings.begin(self.address + r_uint(STRINGS))
        self._memory()
        self._put(INFO['FLAGS'], r_uint(FLAGS))
        self._put(INFO['BOOT_LOADER_NAME'], self.strings.constant(LOADER_NAME))
        self._put(INFO['CMDLINE'], self.strings.from_boot_page(boot.number(spec.VMM['COMMAND_LINE_STRING'])))
        return self._modules(extents)

    def _put(self, offset, value):
        self.ram.store32(self.address + r_uint(offset), value)

    # Memory.
    def _memory(self):
        self._put(INFO['MEM_LOWER'], pc.HOLE >> 10)
        self._put(INFO['MEM_UPPER'], (self.ram.size - pc.HOLE_END) >> 10)
        self._map_entry(0, r_uint(0), pc.HOLE)
        self._map_entry(1, pc.HOLE_END, self.ram.size - pc.HOLE_END)
        self._put(INFO['MMAP_ADDR'], self.address + r_uint(MAP))
        self._put(INFO['MMAP_LENGTH'], r_uint(MAP_ENTRIES * MAP_ENTRY['END']))

    def _map_entry(self, n, base, length):
        at = self.address + r_uint(MAP + n * MAP_ENTRY['END'])
        self.ram.store32(at + r_uint(MAP_ENTRY['SIZE']), r_uint(MAP_ENTRY_SIZE))
        self.ram.store64(at + r_uint(MAP_ENTRY['BASE']), base)
        self.ram.store64(at + r_uint(MAP_ENTRY['LENGTH']), length)
        self.ram.store32(at + r_uint(MAP_ENTRY['TYPE']), r_uint(AVAILABLE))

    # Modules.
    def _modules(self, extents):
        count = boot.module_count()
        self._put(INFO['MODS_COUNT'], r_uint(count))
        self._put(INFO['MODS_ADDR'], self.address + r_uint(MODULES))
        for n in range(count):
            self.number = n + 1
            code = self._module(n, extents)
            if code != refusal.OK:
                return code
        return refusal.OK

    def _module(self, n, extents):
        at = parcel.place_module(self.ram, n, extents)
        if at == extent.NOWHERE:
            return refusal.NO_ROOM_MODULE
        entry = MODULES + n * MODULE['END']
        self._put(entry + MODULE['START'], at)
        self._put(entry + MODULE['END_'], at + boot.module_bytes(n))
        self._put(entry + MODULE['STRING'], self.strings.from_boot_page(boot.module_string(n)))
        return refusal.OK
