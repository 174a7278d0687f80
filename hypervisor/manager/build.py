"""Makes one VM out of frames, as docs/abi.md says under "The manager's duties".

Everything that a VM gets is cleared or overwritten here first, and nothing of it stays mapped in the manager.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.lib import call
from hypervisor.lib.view import View
from hypervisor.manager.frames import frames_of
from hypervisor.manager.vm import ENDED, RUNNING
from hypervisor.spec import ending, layout, pages, program, status
from hypervisor.spec.boot import MAGIC, STRINGS, VERSION
from hypervisor.spec.boot import VMM as FIELD
from hypervisor.spec.call import (BATCH, EXECUTE, READ, SLOT_CONSOLE_IN, SLOT_CONSOLE_OUT, SLOT_GUEST_MODULE, SLOT_IMAGE, SLOT_MODULE,
                                  SLOT_PROGRAM, SLOT_RAM, SLOT_SELF, SLOT_VCPU, WRITE)

# Windows in the manager's address space. Only the blob's stays mapped.
CONFIG_WINDOW = r_uint(0x80000000)
MODULE_WINDOW = r_uint(0x90000000)      # a VMM's program, as it was loaded
WORK_WINDOW = r_uint(0x1000000000)      # frames that are being cleared or filled; a multiple of 2 MiB
LARGE_WINDOW = WORK_WINDOW + r_uint(1 << 29)    # whole large pages of them, and nothing else: small ones would leave a table that stays

# Why a VM could not be made, beyond the kernel's status codes.
NO_FRAMES, BAD_PROGRAM, NO_CORE, CORE_SILENT = 32, 33, 34, 35
REASONS = dict(status.SENTENCES)
REASONS[NO_FRAMES] = 'there is not enough contiguous memory left'
REASONS[BAD_PROGRAM] = 'its VMM program is damaged'
REASONS[NO_CORE] = 'this machine has no such core'
REASONS[CORE_SILENT] = 'its core did not start'
REASON_TABLE = [REASONS.get(code, 'nobody knows why') for code in range(CORE_SILENT + 2)]

HEADER = program.OFFSETS
MOST_PART_BYTES = 64 << 20              # of one part of a program
MODULE_FIELDS = FIELD['MODULE_1_BYTES'] - FIELD['MODULE_0_BYTES']
LARGE_MASK = r_uint(layout.LARGE_PAGE - 1)
assert layout.PAGE == 4096 and CONFIG_WINDOW & LARGE_MASK == r_uint(0) and WORK_WINDOW & LARGE_MASK == r_uint(0)


def reason(code):
    """The sentence for the detail of NOT_STARTED."""
    if 0 <= code < len(REASON_TABLE):
        return REASON_TABLE[code]
    return 'nobody knows why'


def clear_batch(region, first, count):
    """Clear at most BATCH frames of the manager's own. Returns a status."""
    window = LARGE_WINDOW if count == BATCH else WORK_WINDOW
    answer = call.map_all(SLOT_SELF, region, first, window, count, READ | WRITE)
    if answer == status.OK:
        memory.clear(window, r_uint(count) * r_uint(layout.PAGE))
    undone = call.unmap_all(SLOT_SELF, window, count)
    return answer if answer != status.OK else undone


class Program(object):
    """The parts of a VMM's program image (hypervisor/spec/program.py), in frames."""

    def __init__(self):
        self.view = View()
        self.entry = r_uint(0)
        self.text = 0
        self.rodata = 0
        self.data = 0
        self.bss = 0

    def read(self, address, size):
        """Read and check the header of the image at `address`. Returns whether it is sound."""
        view = self.view
        view.look_at(address, size)
        if size < program.HEADER_BYTES or not self.is_program():
            return False
        self.entry = view.u64(HEADER['ENTRY'])
        self.text = self.frames(HEADER['TEXT_BYTES'])
        self.rodata = self.frames(HEADER['RODATA_BYTES'])
        self.data = self.frames(HEADER['DATA_BYTES'])
        self.bss = self.frames(HEADER['BSS_BYTES'])
        if self.text < 1 or self.rodata < 0 or self.data < 0 or self.bss < 0:
            return False
        return self.loaded_bytes() <= size - program.HEADER_BYTES and self.entry_in_text()

    def is_program(self):
        return (self.has(HEADER['MAGIC'], program.MAGIC) and self.has(HEADER['VERSION'], program.VERSION) and
                self.has(HEADER['BASE'], program.BASE) and self.has(HEADER['HEADER_BYTES'], program.HEADER_BYTES))

    def has(self, offset, value):
        return self.view.u64(offset) == r_uint(value)

    def frames(self, offset):
        """The frames of one part; -1 for a count that is no whole number of pages or too large."""
        size = self.view.u64(offset)
        if size > r_uint(MOST_PART_BYTES) or intmask(size) % layout.PAGE != 0:
            return -1
        return intmask(size) // layout.PAGE

    def entry_in_text(self):
        return self.text_start() <= self.entry < self.text_start() + r_uint(self.text) * r_uint(layout.PAGE)

    def text_start(self):
        return r_uint(program.BASE + program.HEADER_BYTES)

    def loaded_bytes(self):
        """What the image holds behind its header."""
        return (self.text + self.rodata + self.data) * layout.PAGE


class Builder(object):
    """Makes VMs one after the other. The program's frames: boot page, text, rodata, data, bss, stack."""

    def __init__(self, box, config):
        self.box = box
        self.config = config
        self.program = Program()

    def create(self, vm):
        """Make and start `vm`. When that fails, what exists of it is stopped and it ends as NOT_STARTED with the reason as detail."""
        vm.grant_count = 0
        answer = self.find_frames(vm)
        if answer == status.OK:
            answer = self.prepare(vm)
        if answer == status.OK:
            answer = call.create(vm.compartment, vm.run.region, vm.run.first, vm.run.count)
            if answer == status.OK:
                answer = self.furnish(vm)
                if answer != status.OK:
                    call.stop(vm.compartment, ending.NOT_STARTED, r_uint(answer))
            else:
                vm.grant_count = 0
        else:
            vm.grant_count = 0
        self.settle(vm, answer)

    def settle(self, vm, answer):
        vm.how = ending.NONE if answer == status.OK else ending.NOT_STARTED
        vm.detail = r_uint(answer)
        vm.state = RUNNING if answer == status.OK else ENDED

    # -- frames, while they are the manager's

    def find_frames(self, vm):
        """Check the program and choose the VM's frames."""
        answer = self.read_program(vm)
        if answer != status.OK:
            return answer
        if not self.find_run(vm, self.kernel_pages(vm)):
            return NO_FRAMES
        frames = self.box.frames
        if not frames.find(self.program_frames()):
            return NO_FRAMES
        vm.add_grant(frames.found.region, frames.found.first, self.program_frames(), SLOT_PROGRAM)
        if not frames.find_ram(vm.ram_frames):
            return NO_FRAMES
        vm.add_grant(frames.found.region, frames.found.first, vm.ram_frames, SLOT_RAM)
        self.grant_module(vm, vm.image_module, SLOT_IMAGE)
        for n in range(vm.module_count):
            self.grant_module(vm, vm.modules[n], SLOT_GUEST_MODULE + n)
        return status.OK

    def kernel_pages(self, vm):
        """How many pages the kernel wants for a VM that is at home here."""
        count = pages.for_vm(vm.ram_frames, vm.vcpus) + pages.for_part(frames_of(self.box.modules.bytes[vm.image_module]))
        for n in range(vm.module_count):
            count += pages.for_part(frames_of(self.box.modules.bytes[vm.modules[n]]))
        return min(count, pages.MOST)

    def find_run(self, vm, count):
        """Choose the frames that become the kernel's, once. Returns success."""
        if vm.run.count == 0 and self.box.frames.find(count):
            vm.run.set(self.box.frames.found.region, self.box.frames.found.first, count, 0)
        return vm.run.count != 0

    def grant_module(self, vm, module, target):
        vm.add_grant(SLOT_MODULE + module, 0, frames_of(self.box.modules.bytes[module]), target)

    def program_frames(self):
        p = self.program
        return 1 + p.text + p.rodata + p.data + p.bss + layout.STACK_PAGES

    def read_program(self, vm):
        size = self.box.modules.bytes[vm.vmm_module]
        answer = self.open_module(vm.vmm_module, size)
        sound = answer == status.OK and self.program.read(MODULE_WINDOW, size)
        undone = self.close_module(size)
        if answer != status.OK:
            return answer
        if not sound:
            return BAD_PROGRAM
        return undone

    def open_module(self, module, size):
        return call.map_all(SLOT_SELF, SLOT_MODULE + module, 0, MODULE_WINDOW, frames_of(size), READ)

    def close_module(self, size):
        return call.unmap_all(SLOT_SELF, MODULE_WINDOW, frames_of(size))

    def prepare(self, vm):
        """Fill the program's frames, clear the RAM and what lies behind the modules' ends."""
        answer = self.fill_program(vm, vm.grants[0])
        if answer == status.OK:
            answer = self.clear_frames(vm.grants[1])
        for n in range(2, vm.grant_count):
            if answer == status.OK:
                answer = self.clear_tail(vm.grants[n])
        return answer

    def clear_frames(self, grant):
        done = 0
        while done < grant.count:
            count = grant.count - done if grant.count - done < BATCH else BATCH
            answer = clear_batch(grant.region, grant.first + done, count)
            if answer != status.OK:
                return answer
            done += count
        return status.OK

    def clear_tail(self, grant):
        """Clear the rest of a module's last frame: whoever loaded it may have left anything there."""
        used = self.box.modules.bytes[grant.region - SLOT_MODULE] % layout.PAGE
        if used == 0:
            return status.OK
        answer = call.map_all(SLOT_SELF, grant.region, grant.count - 1, WORK_WINDOW, 1, READ | WRITE)
        if answer == status.OK:
            memory.clear(WORK_WINDOW + r_uint(used), r_uint(layout.PAGE - used))
        undone = call.unmap_all(SLOT_SELF, WORK_WINDOW, 1)
        return answer if answer != status.OK else undone

    def fill_program(self, vm, grant):
        size = self.box.modules.bytes[vm.vmm_module]
        answer = self.open_module(vm.vmm_module, size)
        if answer == status.OK:
            answer = call.map_all(SLOT_SELF, grant.region, grant.first, WORK_WINDOW, grant.count, READ | WRITE)
        if answer == status.OK:
            memory.clear(WORK_WINDOW, r_uint(grant.count) * r_uint(layout.PAGE))
            memory.copy(WORK_WINDOW + r_uint(layout.PAGE), MODULE_WINDOW + r_uint(program.HEADER_BYTES),
                        r_uint(self.program.loaded_bytes()))
            self.write_boot_page(vm)
        unmapped = call.unmap_all(SLOT_SELF, WORK_WINDOW, grant.count)
        closed = self.close_module(size)
        if answer == status.OK:
            answer = unmapped
        return answer if answer != status.OK else closed

    # -- the boot page, at the start of WORK_WINDOW

    def write_boot_page(self, vm):
        box = self.box
        self.put_at(FIELD['MAGIC'], r_uint(MAGIC))
        self.put_at(FIELD['VERSION'], r_uint(VERSION))
        self.put_at(FIELD['TSC_KHZ'], box.tsc_khz)
        self.put_at(FIELD['VENDOR'], box.vendor)
        self.put_at(FIELD['WALL_SECONDS'], r_uint(box.clock.seconds))
        self.put_at(FIELD['WALL_TSC'], box.clock.tsc)
        self.put_at(FIELD['FLAGS'], r_uint(vm.flags))
        self.put_at(FIELD['RAM_BYTES'], r_uint(vm.ram_frames) * r_uint(layout.PAGE))
        self.put_at(FIELD['IMAGE_KIND'], r_uint(vm.image_kind))
        self.put_at(FIELD['IMAGE_BYTES'], r_uint(box.modules.bytes[vm.image_module]))
        self.put_at(FIELD['LOAD_ADDRESS'], vm.load_address)
        self.put_at(FIELD['RESTARTS'], r_uint(vm.restarts))
        self.put_at(FIELD['MODULE_COUNT'], r_uint(vm.module_count))
        self.put_at(FIELD['VCPUS'], r_uint(vm.vcpus))
        self.write_strings(vm)

    def write_strings(self, vm):
        """The strings fit: config.py refuses what would not."""
        position = STRINGS
        self.put_at(FIELD['NAME_STRING'], r_uint(position))
        for n in range(vm.name_length):
            self.put_byte(position + n, vm.name[n])
        position += vm.name_length + 1
        self.put_at(FIELD['COMMAND_LINE_STRING'], r_uint(position))
        position = self.put_string(position, vm.command_line)
        for n in range(vm.module_count):
            fields = n * MODULE_FIELDS
            self.put_at(FIELD['MODULE_0_BYTES'] + fields, r_uint(self.box.modules.bytes[vm.modules[n]]))
            self.put_at(FIELD['MODULE_0_STRING'] + fields, r_uint(position))
            position = self.put_string(position, vm.module_strings[n])

    def put_string(self, position, offset):
        """Copy the blob's string at `offset` to `position`. Returns the position after its NUL."""
        n = 0
        byte = self.config.string_byte(offset, 0)
        while byte != 0 and position < layout.PAGE - 1:
            self.put_byte(position, byte)
            position += 1
            n += 1
            byte = self.config.string_byte(offset, n)
        return position + 1

    def put_at(self, offset, value):
        memory.store64(WORK_WINDOW + r_uint(offset), value)

    def put_byte(self, offset, byte):
        memory.store8(WORK_WINDOW + r_uint(offset), r_uint(byte))

    # -- the compartment, once it exists

    def furnish(self, vm):
        """Hand everything over and start the VMM."""
        for n in range(vm.grant_count):
            grant = vm.grants[n]
            answer = call.give_all(vm.compartment, grant.region, grant.first, grant.count, grant.target)
            if answer != status.OK:
                return answer
        answer = self.map_program(vm)
        if answer == status.OK:
            answer = call.share(vm.compartment, vm.entitlement, vm.cap, vm.weight)
        if answer == status.OK:
            answer = self.create_vcpus(vm)
        if answer == status.OK:
            answer = call.ring_create(vm.compartment, SLOT_CONSOLE_OUT, SLOT_SELF, vm.output)
        if answer == status.OK:
            answer = call.ring_create(SLOT_SELF, vm.input, vm.compartment, SLOT_CONSOLE_IN)
        if answer == status.OK:
            answer = call.start(vm.compartment, self.program.entry, r_uint(layout.STACK_TOP - 8), r_uint(0))
        return answer

    def create_vcpus(self, vm):
        for n in range(vm.vcpus):
            answer = call.vcpu_create(vm.compartment, SLOT_VCPU + n, vm.core_of(n), vm.index)
            if answer != status.OK:
                return answer
        return status.OK

    def map_program(self, vm):
        """Map the program's frames into the VMM's space: each part with the rights that it needs and no more."""
        p = self.program
        answer = self.map_part(vm, 0, r_uint(layout.BOOT_PAGE), 1, READ)
        address = p.text_start()
        first = 1
        if answer == status.OK:
            answer = self.map_part(vm, first, address, p.text, READ | EXECUTE)
        first += p.text
        if answer == status.OK:
            answer = self.map_part(vm, first, address + r_uint(p.text * layout.PAGE), p.rodata, READ)
        first += p.rodata
        if answer == status.OK:
            answer = self.map_part(vm, first, address + r_uint((p.text + p.rodata) * layout.PAGE), p.data + p.bss, READ | WRITE)
        first += p.data + p.bss
        if answer == status.OK:
            answer = self.map_part(vm, first, r_uint(layout.STACK_TOP - layout.STACK_PAGES * layout.PAGE), layout.STACK_PAGES,
                                   READ | WRITE)
        return answer

    def map_part(self, vm, first, address, count, rights):
        return call.map_all(vm.compartment, SLOT_PROGRAM, first, address, count, rights)
