"""Reads the configuration blob (hypervisor/spec/config.py) and refuses it with a sentence when anything is wrong with it.

The blob comes from outside. Every offset and number is checked before use; a refused blob leaves half-filled records that nobody
looks at.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.lib import crc32
from hypervisor.lib.view import View
from hypervisor.spec import boot, call, layout
from hypervisor.spec.config import (COMMAND_LINE_BYTES, CORE_BITS, HEADER, MAGIC, MAX_VMS, MODULE_FIRST, MOST_PROMISED, MOST_VCPUS,
                                    MOST_VCPUS_TOGETHER, NAME_BYTES, RAM_MOST, RAM_STEP, VERSION, VM)
from hypervisor.spec.core import MOST as MOST_CORES
from hypervisor.spec.share import LEAST, NO_CAP, WEIGHT_MOST, WHOLE

# Sentences go after 'bulkhead: cannot start: '; those about one VM get 'VM record N: ' in front.
TABLE = [
    (0, 'OK', ''),
    (1, 'NO_BLOB', 'there is no configuration among the boot modules'),
    (2, 'TOO_SHORT', 'the configuration is too short for its header'),
    (3, 'BAD_MAGIC', 'the configuration does not begin with its magic number'),
    (4, 'BAD_VERSION', 'the configuration is of a version that this manager does not know'),
    (5, 'BAD_LENGTH', 'the configuration is not as long as its header says'),
    (6, 'BAD_CRC', 'the configuration is damaged: its CRC does not match'),
    (7, 'NO_VM', 'the configuration names no VM'),
    (8, 'TOO_MANY_VMS', 'the configuration names more VMs than there can be'),
    (9, 'NO_ROOM_FOR_RECORDS', 'the configuration is too short for its VM records'),
    (10, 'NOT_MAPPED', 'the kernel does not let the manager read the configuration'),
    (11, 'TOO_LONG', 'the configuration is longer than 1 MiB'),
    (16, 'NAME_EMPTY', 'it has no name'),
    (17, 'NAME_BYTE', 'its name holds a byte other than a-z, 0-9, _ and -'),
    (18, 'NAME_END', 'its name is not padded with zeros to its end'),
    (19, 'NAME_TWICE', 'another VM has the same name'),
    (20, 'RAM_NONE', 'it has no RAM'),
    (21, 'RAM_UNALIGNED', 'its RAM is not a multiple of 2 MiB'),
    (22, 'RAM_MOST_EXCEEDED', 'its RAM is more than the 3 GiB that a VM may have'),
    (23, 'RAM_TOO_MUCH', 'its RAM is more than this box has free'),
    (24, 'VMM_NO_MODULE', 'its VMM program is a module that does not exist'),
    (25, 'IMAGE_NO_MODULE', 'its image is a module that does not exist'),
    (26, 'GUEST_NO_MODULE', 'one of its modules does not exist'),
    (27, 'MODULE_EMPTY', 'a module that it names holds no byte'),
    (28, 'MODULE_TWICE', 'a module that it names is already somebody\'s image or module'),
    (29, 'PROGRAM_AS_IMAGE', 'a module is used as a VMM program and as an image or module'),
    (30, 'TOO_MANY_MODULES', 'it has more modules than a VM may have'),
    (31, 'IMAGE_KIND_UNKNOWN', 'its image is of an unknown kind'),
    (32, 'FLAG_UNKNOWN', 'it has a flag that this manager does not know'),
    (34, 'LOAD_OUTSIDE', 'its load address lies outside its RAM'),
    (35, 'STRING_OUTSIDE', 'a string of it does not lie behind the VM records'),
    (36, 'STRING_ENDLESS', 'a string of it is not terminated or longer than 1024 bytes'),
    (37, 'STRINGS_TOO_LONG', 'its strings together do not fit into its boot page'),
    (38, 'NO_VCPU', 'it has no vCPU'),
    (39, 'TOO_MANY_VCPUS', 'it has more than the 16 vCPUs that a VM may have'),
    (40, 'TOO_MANY_VCPUS_TOGETHER', 'with it the VMs have more than the 32 vCPUs that a box may have'),
    (41, 'ENTITLEMENT_RANGE', 'it is promised less than 1 or more than 100 hundredths of a processor'),
    (42, 'CAP_RANGE', 'its cap is less than what it is promised, or more than 100 hundredths of a processor'),
    (43, 'WEIGHT_RANGE', 'its weight is not a number from 1 to 10000'),
    (45, 'NO_SUCH_CORE', 'it wants a core beyond the 8 that a box may have'),
    (46, 'CORE_WITHOUT_VCPU', 'it names a core for a vCPU that it does not have'),
    (44, 'PROMISED_TOO_MUCH', 'with it the VMs of its core are promised more than the 95 hundredths of it that the manager leaves'),
]
SENTENCES = [''] * 64
for _code, _name, _sentence in TABLE:
    globals()[_name] = _code
    SENTENCES[_code] = _sentence

MOST_BYTES = 1 << 20
FLAGS_KNOWN = boot.FLAG_EXIT_PORT | boot.FLAG_HOST_TSC
STRING_ROOM = layout.PAGE - boot.STRINGS
EVERY_CORE = -1
UNUSED, PROGRAM, GUEST = 0, 1, 2        # what a boot module is used for
MODULE_STEP = VM['MODULE_1'] - VM['MODULE_0']
STRING_FROM_MODULE = VM['MODULE_0_STRING'] - VM['MODULE_0']
_STEP_MASK = r_uint(RAM_STEP - 1)
assert len(TABLE) < len(SENTENCES) and COMMAND_LINE_BYTES == 1024 and RAM_MOST == 3 << 30 and RAM_STEP == 2 << 20
assert MOST_CORES == 8 and MOST_VCPUS == 16 and MOST_VCPUS_TOGETHER == 32
assert LEAST == 1 and WHOLE == 100 and WEIGHT_MOST == 10000 and MOST_PROMISED == 95


def is_name_byte(byte):
    return ord('a') <= byte <= ord('z') or ord('0') <= byte <= ord('9') or byte == ord('_') or byte == ord('-')


class Config(object):
    """`vms`: MAX_VMS records to fill; `count` of them are. `culprit`: the VM record that the refusal is about, or -1.

    core: the core whose VMs are to be made here, or EVERY_CORE. Memory and modules of others' VMs are not looked at: they are not here.
    """

    def __init__(self, vms):
        assert len(vms) == MAX_VMS
        self.vms = vms
        self.count = 0
        self.culprit = -1
        self.core = EVERY_CORE
        self.view = View()
        self.uses = [UNUSED] * call.MODULES
        self.strings = 0                # offset of the first byte behind the records
        self.free_bytes = r_uint(0)
        self.vcpus = 0                  # of the VMs that have been read
        self.promised = [0] * MOST_CORES    # hundredths of each core

    def read(self, address, modules, free_frames):
        """Fill the VM records from the blob at r_uint `address`; it is boot module MODULE_CONFIG of `modules`.

        free_frames: all that the box has. Returns OK or the code of a sentence.
        """
        self.culprit = -1
        self.count = 0
        self.vcpus = 0
        for n in range(MOST_CORES):
            self.promised[n] = 0
        self.free_bytes = r_uint(free_frames) * r_uint(layout.PAGE)
        self.view.look_at(address, modules.config_bytes())
        for n in range(call.MODULES):
            self.uses[n] = UNUSED
        answer = self.read_header()
        if answer != OK:
            return answer
        for n in range(self.count):
            self.culprit = n
            answer = self.read_vm(n, modules)
            if answer != OK:
                return answer
        self.culprit = -1
        return OK

    def read_header(self):
        view = self.view
        if view.size < HEADER['END']:
            return TOO_SHORT
        if view.size > MOST_BYTES:
            return TOO_LONG
        if view.u64(HEADER['MAGIC']) != r_uint(MAGIC):
            return BAD_MAGIC
        if view.u32(HEADER['VERSION']) != VERSION:
            return BAD_VERSION
        if view.u32(HEADER['BYTES']) != view.size:
            return BAD_LENGTH
        if self.crc() != r_uint(view.u32(HEADER['CRC'])):
            return BAD_CRC
        return self.read_count()

    def read_count(self):
        count = self.view.u32(HEADER['VMS'])
        if count == 0:
            return NO_VM
        if count > MAX_VMS:
            return TOO_MANY_VMS
        self.strings = HEADER['END'] + count * VM['END']
        if self.strings > self.view.size:
            return NO_ROOM_FOR_RECORDS
        self.count = count
        return OK

    def crc(self):
        """The CRC of the blob with its own field as zeros."""
        result = crc32.START
        for offset in range(self.view.size):
            own = HEADER['CRC'] <= offset < HEADER['CRC'] + 4
            result = crc32.add(result, 0 if own else self.view.u8(offset))
        return result

    # -- one VM record

    def read_vm(self, index, modules):
        vm = self.vms[index]
        record = HEADER['END'] + index * VM['END']
        answer = self.read_name(vm, record + VM['NAME'], index)
        if answer == OK:
            answer = self.read_vcpus(vm, record)
        if answer == OK:
            answer = self.read_cores(vm, record)
        if answer == OK:
            answer = self.read_memory(vm, record)
        if answer == OK:
            answer = self.read_share(vm, record)
        if answer == OK:
            answer = self.read_switches(vm, record)
        if answer == OK:
            answer = self.read_modules(vm, record, modules)
        if answer == OK:
            answer = self.read_strings(vm, record)
        return answer

    def read_name(self, vm, offset, index):
        view = self.view
        length = 0
        while length < NAME_BYTES and view.u8(offset + length) != 0:
            byte = view.u8(offset + length)
            if not is_name_byte(byte):
                return NAME_BYTE
            vm.name[length] = byte
            length += 1
        if length == 0:
            return NAME_EMPTY
        for n in range(length, NAME_BYTES + 1):
            if view.u8(offset + n) != 0:
                return NAME_END
        vm.name_length = length
        for n in range(index):
            if vm.same_name(self.vms[n]):
                return NAME_TWICE
        return OK

    def read_cores(self, vm, record):
        """The number of vCPUs is known."""
        vm.cores = self.view.u64(record + VM['CORES'])
        for n in range(vm.vcpus):
            if vm.core_of(n) >= MOST_CORES:
                return NO_SUCH_CORE
        for n in range(vm.vcpus, MOST_VCPUS):       # no shift by all of the word: that would shift by nothing
            if vm.core_of(n) != 0:
                return CORE_WITHOUT_VCPU
        vm.core = vm.core_of(0)
        return OK

    def is_here(self, vm):
        return self.core == EVERY_CORE or self.core == vm.core

    def read_memory(self, vm, record):
        ram = self.view.u64(record + VM['RAM_BYTES'])
        if ram == r_uint(0):
            return RAM_NONE
        if ram & _STEP_MASK != r_uint(0):
            return RAM_UNALIGNED
        if ram > r_uint(RAM_MOST):
            return RAM_MOST_EXCEEDED
        if ram > self.free_bytes and self.is_here(vm):
            return RAM_TOO_MUCH
        vm.ram_frames = intmask(ram >> 12)
        return OK

    def read_vcpus(self, vm, record):
        count = self.view.u64(record + VM['VCPUS'])
        if count == r_uint(0):
            return NO_VCPU
        if count > r_uint(MOST_VCPUS):
            return TOO_MANY_VCPUS
        vm.vcpus = intmask(count)
        self.vcpus += vm.vcpus
        if self.vcpus > MOST_VCPUS_TOGETHER:
            return TOO_MANY_VCPUS_TOGETHER
        return OK

    def read_share(self, vm, record):
        view = self.view
        weight = view.u64(record + VM['WEIGHT'])
        if weight == r_uint(0) or weight > r_uint(WEIGHT_MOST):
            return WEIGHT_RANGE
        vm.entitlement = view.u32(record + VM['ENTITLEMENT'])
        vm.cap = view.u32(record + VM['CAP'])
        vm.weight = intmask(weight)
        if not LEAST <= vm.entitlement <= WHOLE:
            return ENTITLEMENT_RANGE
        if vm.cap != NO_CAP and not vm.entitlement <= vm.cap <= WHOLE:
            return CAP_RANGE
        for core in range(MOST_CORES):
            if vm.is_on(core):
                self.promised[core] += vm.entitlement
                if self.promised[core] > MOST_PROMISED:
                    return PROMISED_TOO_MUCH
        return OK

    def read_switches(self, vm, record):
        view = self.view
        vm.image_kind = view.u32(record + VM['IMAGE_KIND'])
        vm.flags = view.u32(record + VM['FLAGS'])
        vm.restarts = view.u32(record + VM['RESTARTS'])
        vm.time_limit = view.u32(record + VM['TIME_LIMIT'])
        vm.load_address = view.u64(record + VM['LOAD_ADDRESS'])
        if vm.image_kind not in boot.IMAGE_KINDS:
            return IMAGE_KIND_UNKNOWN
        if vm.flags & ~FLAGS_KNOWN != 0:
            return FLAG_UNKNOWN
        if vm.image_kind == boot.IMAGE_FLAT and vm.load_address >= view.u64(record + VM['RAM_BYTES']):
            return LOAD_OUTSIDE
        return OK

    # -- boot modules

    def read_modules(self, vm, record, modules):
        view = self.view
        vm.vmm_module = view.u32(record + VM['VMM_MODULE'])
        vm.image_module = view.u32(record + VM['IMAGE_MODULE'])
        vm.module_count = view.u32(record + VM['MODULE_COUNT'])
        if vm.module_count > call.GUEST_MODULES:
            return TOO_MANY_MODULES
        if not self.is_here(vm):
            return OK
        answer = self.use_program(vm.vmm_module, modules)
        if answer == OK:
            answer = self.use_guest(vm.image_module, modules, IMAGE_NO_MODULE)
        for n in range(vm.module_count):
            vm.modules[n] = view.u32(record + VM['MODULE_0'] + n * MODULE_STEP)
            if answer == OK:
                answer = self.use_guest(vm.modules[n], modules, GUEST_NO_MODULE)
        return answer

    def use_program(self, module, modules):
        """A VMM program is copied: several VMs may name it."""
        if module < MODULE_FIRST or module >= modules.count:
            return VMM_NO_MODULE
        if modules.bytes[module] == 0:
            return MODULE_EMPTY
        if self.uses[module] == GUEST:
            return PROGRAM_AS_IMAGE
        self.uses[module] = PROGRAM
        return OK

    def use_guest(self, module, modules, missing):
        """An image or a module of a guest is given away: only one VM can have it."""
        if module < MODULE_FIRST or module >= modules.count:
            return missing
        if modules.bytes[module] == 0:
            return MODULE_EMPTY
        if self.uses[module] == PROGRAM:
            return PROGRAM_AS_IMAGE
        if self.uses[module] == GUEST:
            return MODULE_TWICE
        self.uses[module] = GUEST
        return OK

    # -- strings

    def read_strings(self, vm, record):
        view = self.view
        vm.command_line = view.u32(record + VM['COMMAND_LINE_STRING'])
        answer = self.check_string(vm.command_line)
        room = STRING_ROOM - (vm.name_length + 1) - (self.string_length(vm.command_line) + 1)
        for n in range(vm.module_count):
            vm.module_strings[n] = view.u32(record + VM['MODULE_0'] + n * MODULE_STEP + STRING_FROM_MODULE)
            if answer == OK:
                answer = self.check_string(vm.module_strings[n])
            room -= self.string_length(vm.module_strings[n]) + 1
        if answer == OK and room < 0:
            return STRINGS_TOO_LONG
        return answer

    def check_string(self, offset):
        """0 stands for no string, which reads as an empty one."""
        if offset == 0:
            return OK
        if offset < self.strings or offset >= self.view.size:
            return STRING_OUTSIDE
        if self.string_length(offset) > COMMAND_LINE_BYTES:
            return STRING_ENDLESS
        return OK

    def string_length(self, offset):
        """Bytes before the NUL; COMMAND_LINE_BYTES + 1 when there is none in time. 0 for offsets that hold no string."""
        if offset < self.strings:
            return 0
        length = 0
        while length <= COMMAND_LINE_BYTES:
            if not self.view.contains(offset + length, 1):
                return COMMAND_LINE_BYTES + 1
            if self.view.u8(offset + length) == 0:
                return length
            length += 1
        return length

    def string_byte(self, offset, n):
        """Byte n of a checked string; 0 at and after its end."""
        if offset == 0:
            return 0
        return self.view.u8(offset + n)
