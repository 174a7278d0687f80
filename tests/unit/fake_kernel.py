"""A model of the kernel's side of docs/abi.md, in dicts, for driving a ring-3 program untranslated.

It is written from the document, shares nothing with the kernel's code, and is strict: what the document forbids gets the status that
the document names, and what a program may never do (touch memory that is not mapped, write to read-only pages) raises FakeFault.

    kernel = FakeKernel(modules=[...], regions=[frames, ...], scripts={'name of VM': [action, ...]})
    kernel.boot_manager()
    try: manager.run()
    except BoxOff as off: off.status

Time is the fake TSC: TSC_KHZ ticks per ms; a call costs one tick; WAIT jumps to the next thing that happens. VMs are scripts:

    ('send', bytes)       through the console ring, waiting for room        ('receive', n)   wait for n bytes of input
    ('sleep', ms)         ('end', how, detail)                              ('call', f)      f(kernel, compartment)
"""
import contextlib
import random
import struct
import sys

from hypervisor.hw import memory, task
from hypervisor.spec import boot, call, config, ending, exit, layout, pages, status, vcpu

PAGE = layout.PAGE
TSC_KHZ = 1000
GARBAGE = 0xa5              # what frames hold that nobody has written
RING = 4096
KERNEL = 'kernel'               # the owner of the pages that compartments live in
CALL_NAMES = dict((number, name) for number, name, _, _ in call.TABLE)
ARGUMENTS = dict((name, len(arguments)) for _, name, arguments, _ in call.TABLE)


@contextlib.contextmanager
def quick():
    """Let the loaded modules of hypervisor/ call the doubles of hw/ directly.

    Going through the foreign-function machinery, which also checks argument types, takes most of the time of tests that move many bytes.
    """
    doubles = dict((id(thing), thing._obj._callable) for module in (memory, task) for thing in vars(module).values()
                   if hasattr(thing, '_obj'))
    replaced = []
    for name, module in sorted(sys.modules.items()):
        if module is not None and name.startswith('hypervisor.'):
            for key, thing in list(vars(module).items()):
                if id(thing) in doubles:
                    replaced.append((module, key, thing))
                    setattr(module, key, doubles[id(thing)])
    try:
        yield
    finally:
        for module, key, thing in replaced:
            setattr(module, key, thing)


class BoxOff(Exception):
    """The box was switched off. status: N, or None where the way of switching off does not tell."""

    def __init__(self, number):
        Exception.__init__(self, number)
        self.status = number


class TaskStopped(Exception):
    """The running task has stopped itself. how, detail."""

    def __init__(self, how, detail):
        Exception.__init__(self, how, detail)
        self.how, self.detail = how, detail


class Stuck(Exception):
    """The task waits for ever and nothing can wake it."""


class StrictMemory(memory.FakeMemory):
    """The running task's address space, quicker than its base where a byte or a large piece is meant."""

    def __init__(self):
        memory.FakeMemory.__init__(self)
        self.readonly = set()

    def read(self, address, size):
        address = int(address)
        if size == 1:
            page = self.pages.get(address // PAGE)
            if page is None:
                raise memory.FakeFault(address)
            return chr(page[address % PAGE])
        return memory.FakeMemory.read(self, address, size)

    def write(self, address, data):
        position, address = 0, int(address)
        while position < len(data):
            page, offset = divmod(address + position, PAGE)
            if page not in self.pages or page in self.readonly:
                raise memory.FakeFault(address + position)
            piece = data[position:position + PAGE - offset]
            self.pages[page][offset:offset + len(piece)] = piece
            position += len(piece)


class Region(object):
    kind = 'region'

    def __init__(self, first, count):
        self.first, self.count = first, count

    def frames(self):
        return range(self.first, self.first + self.count)


class Ports(object):
    kind = 'ports'


class Vcpu(object):
    kind = 'vcpu'


class Ring(object):
    kind = 'ring'

    def __init__(self, sender, sender_slot, receiver, receiver_slot):
        self.sender, self.sender_slot = sender, sender_slot
        self.receiver, self.receiver_slot = receiver, receiver_slot
        self.data = bytearray()
        self.wants_room = False

    def send(self, data):
        """Take what fits. Returns how many bytes that was."""
        taken = min(len(data), RING - len(self.data))
        self.data += data[:taken]
        self.wants_room = taken < len(data)
        if taken:
            self.receiver.signals |= 1 << self.receiver_slot
        return taken

    def receive(self, most):
        data = bytes(self.data[:most])
        del self.data[:most]
        if data and self.wants_room:
            self.wants_room = False
            self.sender.signals |= 1 << self.sender_slot
        return data


class Compartment(object):
    kind = 'compartment'

    def __init__(self, number):
        self.number = number
        self.slots = {call.SLOT_SELF: self}
        self.space = {}         # page -> (frame, rights); frame None: the kernel's own
        self.nested = {}
        self.state = call.STATE_NEW
        self.how = self.detail = 0
        self.signals = 0
        self.ticks = 0
        self.exits = [0] * exit.COUNT
        self.vcpus = 0
        self.places = []        # (core, name) of each vCPU
        self.share = None       # (entitlement, cap, weight)
        self.script = []
        self.wake = 0
        self.received = bytearray()
        self.start = None       # (entry, stack, argument)
        self.watcher_slot = None
        self.run = []           # frames: the kernel's pages for it


class Uart(object):
    """A 16550 whose wire takes `period` ticks per byte. `typed`: [(tick, byte)] that come from the other end, with flow control."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.output = bytearray()
        self.typed = []
        self.read_count = 0         # of typed
        self.registers = {}
        self.period = 0
        self.free_at = 0
        self.present = True
        self.stuck = False
        self.lost = 0
        self.armed = False          # its interrupt line comes once more
        self.has_line = True        # False: a machine whose line never comes

    def tell(self):
        """The interrupt: once, if something has come in and the port was told to say so."""
        if self.armed and self.has_line and self.present and self.waiting() and self.registers.get(1, 0) & 1 and self.registers.get(4, 0) & 8:
            self.armed = False
            self.kernel.manager.signals |= 1 << call.SLOT_PORTS

    def next_line(self):
        """When the interrupt comes next; None if it does not."""
        if self.armed and self.has_line and self.read_count < len(self.typed):
            return self.typed[self.read_count][0]
        return None

    def waiting(self):
        return self.read_count < len(self.typed) and self.typed[self.read_count][0] <= self.kernel.now

    def take(self):
        self.read_count += 1
        return self.typed[self.read_count - 1][1]

    def read(self, offset):
        if not self.present:
            return 0xff
        if offset == 0:
            return self.take() if self.waiting() else 0
        if offset == 2:
            return 0xc1
        if offset == 5:
            idle = 0x60 if self.kernel.now >= self.free_at else 0
            return (1 if self.waiting() else 0) | (0 if self.stuck else idle)
        return self.registers.get(offset, 0)

    def write(self, offset, value):
        self.registers[offset] = value
        if offset == 0 and not self.registers.get(3, 0) & 0x80:
            assert self.registers.get(3, 0) & 3 == 3, 'bytes before LCR is set'
            start = max(self.kernel.now, self.free_at)
            if self.period and start - self.kernel.now >= 16 * self.period:
                self.lost += 1          # the FIFO is full
                return
            self.free_at = start + self.period
            self.output.append(value)


class FakeKernel(object):
    def __init__(self, modules=(), regions=(1024,), scripts=None, machine='qemu', seed=None):
        """modules: bytes of each boot module. regions: frames of each free region. machine: whose power-off works (qemu, bochs, acpi).

        seed: when given, other tasks also run at random moments between the program's calls, not only while it waits.
        """
        self.now = 1
        self.frames = {}            # frame -> bytearray
        self.owner = {}             # frame -> Compartment
        self.mapped = {}            # frame -> how many mappings
        self.log = []               # names of calls, in order
        self.fail = {}              # index in log -> status to answer instead of doing it
        self.compartments = []
        self.machine, self.off_word = machine, ''
        self.scripts = dict(scripts or {})
        self.started = {}           # name of VM -> Compartment
        self.uart = Uart(self)
        self.random = random.Random(seed) if seed is not None else None
        self.at_start = None        # called with (kernel, compartment) when a VM starts
        self.memory = StrictMemory()
        self.manager = self.make_compartment()
        self.manager.state = call.STATE_RUNNING
        self.current = self.manager
        self.give_out(modules, regions)

    def give_out(self, modules, regions):
        """Lay out physical memory: the free regions at multiples of 2 MiB, then the modules."""
        self.manager.slots[call.SLOT_PORTS] = Ports()
        frame = 512
        for n, count in enumerate(regions):
            self.own(call.SLOT_MEMORY + n, frame, count)
            frame = (frame + count + 511) // 512 * 512 + 512
        frame += 3
        self.region_frames, self.module_bytes = list(regions), [len(data) for data in modules]
        for n, data in enumerate(modules):
            count = (len(data) + PAGE - 1) // PAGE
            if count:
                self.own(call.SLOT_MODULE + n, frame, count)
                for index in range(count):
                    piece = bytearray(data[index * PAGE:(index + 1) * PAGE])
                    self.frames[frame + index] = piece + bytearray([GARBAGE]) * (PAGE - len(piece))
            frame += count + 1

    def own(self, slot, first, count):
        self.manager.slots[slot] = Region(first, count)
        for frame in range(first, first + count):
            self.owner[frame] = self.manager

    def make_compartment(self):
        result = Compartment(len(self.compartments))
        result.space[layout.TASK_PAGE // PAGE] = (None, call.READ | call.WRITE)
        self.compartments.append(result)
        return result

    # -- the machine of the running task

    def boot_manager(self):
        """Install this kernel and the manager's boot page and task page as the double of hw."""
        task.reset_fake(self)
        memory.fake = self.memory
        self.memory.map(layout.TASK_PAGE, PAGE)
        self.memory.map(layout.BOOT_PAGE, PAGE)
        self.memory.write(layout.BOOT_PAGE, self.manager_boot_page())
        self.memory.readonly.add(layout.BOOT_PAGE // PAGE)
        self.manager.space[layout.BOOT_PAGE // PAGE] = (None, call.READ)

    def manager_boot_page(self):
        page = bytearray(PAGE)

        def put(name, value):
            struct.pack_into('<Q', page, boot.MANAGER[name], value)
        put('MAGIC', boot.MAGIC)
        put('VERSION', boot.VERSION)
        put('TSC_KHZ', TSC_KHZ)
        put('VENDOR', boot.VENDOR_AMD)
        put('REGIONS', len(self.region_frames))
        for n, count in enumerate(self.region_frames):
            put('REGION_%d_FRAMES' % n, count)
        put('CORES', 1)
        put('MODULE_COUNT', len(self.module_bytes))
        for n, size in enumerate(self.module_bytes):
            put('MODULE_%d_BYTES' % n, size)
        return page

    def frame(self, number):
        if number not in self.frames:
            self.frames[number] = bytearray([GARBAGE]) * PAGE
        return self.frames[number]

    def read_space(self, compartment, address, size):
        """What a compartment's task sees at `address`."""
        out = bytearray()
        while size > 0:
            page, offset = divmod(address, PAGE)
            piece = self.frame(compartment.space[page][0])[offset:offset + min(size, PAGE - offset)]
            out += piece
            address += len(piece)
            size -= len(piece)
        return bytes(out)

    def rdtsc(self):
        self.now += 1
        return self.now

    def pause(self):
        self.now += 1

    def cpuid(self, leaf, subleaf):
        return (0, 0, 0, 0)

    # -- calls

    def call(self, number, *arguments):
        self.now += 1
        if self.random is not None and self.random.random() < 0.2:
            self.run_others()
        name = CALL_NAMES.get(number)
        if name is None:
            return status.BAD_CALL, 0
        self.log.append(name)
        if len(self.log) - 1 in self.fail:
            return self.fail[len(self.log) - 1], 0
        handler = getattr(self, 'do_' + name.lower())
        result = handler(*arguments[:ARGUMENTS[name]])
        return result if isinstance(result, tuple) else (result, 0)

    def look(self, slot, kind, compartment=None):
        found = (compartment or self.current).slots.get(slot)
        return found if found is not None and found.kind == kind else None

    def other(self, slot):
        """A compartment that the caller may arrange: not itself."""
        return None if slot == call.SLOT_SELF else self.look(slot, 'compartment')

    def page_write(self, data):
        self.memory.write(layout.TASK_PAGE, data)

    def do_wait(self, deadline):
        while True:
            self.uart.tell()
            if self.current.signals:
                signals, self.current.signals = self.current.signals, 0
                return status.OK, signals
            if deadline and self.now >= deadline:
                return status.OK, 0
            if not self.run_others():
                self.advance(deadline)

    def advance(self, deadline):
        """Nobody can run: jump to the next moment at which something happens."""
        moments = [c.wake for c in self.compartments if c.state == call.STATE_RUNNING and c.script and c.wake > self.now]
        if deadline:
            moments.append(deadline)
        if self.uart.next_line() is not None and self.uart.next_line() > self.now:
            moments.append(self.uart.next_line())
        if not moments:
            raise Stuck()
        self.now = max(self.now + 1, min(moments))

    def do_ring_send(self, slot, count):
        ring = self.look(slot, 'ring')
        if ring is None or ring.sender is not self.current:
            return status.BAD_SLOT
        if count > vcpu.RING_BYTES:
            return status.BAD_SIZE
        return status.OK, ring.send(self.memory.read(layout.TASK_PAGE, count))

    def do_ring_receive(self, slot):
        ring = self.look(slot, 'ring')
        if ring is None or ring.receiver is not self.current:
            return status.BAD_SLOT
        data = ring.receive(vcpu.RING_BYTES)
        self.page_write(data)
        return status.OK, len(data)

    def do_port_in(self, slot, port, size):
        if self.look(slot, 'ports') is None:
            return status.BAD_SLOT
        if size not in (1, 2, 4):
            return status.BAD_SIZE
        return status.OK, self.uart.read(port - 0x3f8) if 0x3f8 <= port <= 0x3ff else (1 << 8 * size) - 1

    def do_line(self, slot, line):
        if self.look(slot, 'ports') is None:
            return status.BAD_SLOT
        if line > 15 or line == 2:
            return status.BAD_RANGE
        if line == 4:
            self.uart.armed = True
        return status.OK

    def do_port_out(self, slot, port, size, value):
        if self.look(slot, 'ports') is None:
            return status.BAD_SLOT
        if size not in (1, 2, 4):
            return status.BAD_SIZE
        if 0x3f8 <= port <= 0x3ff:
            self.uart.write(port - 0x3f8, value)
        self.power_port(port, value)
        return status.OK

    def power_port(self, port, value):
        if self.machine == 'qemu' and port == 0x501:
            raise BoxOff(value)
        if self.machine == 'bochs' and port == 0x8900:
            self.off_word += chr(value)
            if self.off_word.endswith('Shutdown'):
                raise BoxOff(None)
        if self.machine == 'acpi' and port == 0xb004 and value == 0x2000:
            raise BoxOff(None)

    def do_map(self, slot, region_slot, first, address, count, rights):
        owner = self.look(slot, 'compartment')
        if owner is None or owner.state == call.STATE_ENDED:
            return status.BAD_SLOT if owner is None else status.BAD_STATE
        if not 1 <= count <= call.BATCH:
            return status.BAD_RANGE
        guest = bool(rights & call.GUEST)
        access = rights & ~call.GUEST
        if access & ~7 or not guest and access & call.WRITE and access & call.EXECUTE:
            return status.BAD_RIGHTS
        space = owner.nested if guest else owner.space
        if address % PAGE or not guest and (address < PAGE or address + count * PAGE > layout.TASK_END):
            return status.BAD_ADDRESS
        pages = range(address // PAGE, address // PAGE + count)
        if not access:
            return self.unmap(owner, space, pages)
        region = self.look(region_slot, 'region', owner)
        if region is None:
            return status.BAD_SLOT
        if first + count > region.count:
            return status.BAD_RANGE
        frames = range(region.first + first, region.first + first + count)
        if any(self.owner[frame] is not owner for frame in frames):
            return status.NOT_OWNER
        if any(page in space for page in pages):
            return status.ALREADY_MAPPED
        for page, frame in zip(pages, frames):
            self.map_page(owner, space, page, frame, access)
        return status.OK, count

    def map_page(self, owner, space, page, frame, access):
        space[page] = (frame, access)
        self.mapped[frame] = self.mapped.get(frame, 0) + 1
        if owner is self.current and space is owner.space:
            self.memory.pages[page] = self.frame(frame)
            if not access & call.WRITE:
                self.memory.readonly.add(page)

    def unmap(self, owner, space, pages):
        if any(page in space and space[page][0] is None for page in pages):
            return status.BAD_ADDRESS
        for page in pages:
            if page in space:
                frame, _ = space.pop(page)
                self.mapped[frame] -= 1
                if owner is self.current and space is owner.space:
                    del self.memory.pages[page]
                    self.memory.readonly.discard(page)
        return status.OK, len(pages)

    def do_create(self, slot, region, first, count):
        if not 0 <= slot < call.SLOTS:
            return status.BAD_SLOT
        if slot in self.current.slots:
            return status.SLOT_IN_USE
        code, run = self.take_run(region, first, count)
        if code != status.OK:
            return code
        made = self.make_compartment()
        made.watcher_slot, made.run = slot, run
        self.current.slots[slot] = made
        return status.OK

    def take_run(self, region_slot, first, count):
        """Frames of the caller's become the kernel's. Returns a status and the frames."""
        region = self.look(region_slot, 'region')
        if region is None:
            return status.BAD_SLOT, []
        if not 1 <= count <= pages.MOST or first + count > region.count:
            return status.BAD_RANGE, []
        frames = range(region.first + first, region.first + first + count)
        if any(self.owner[frame] is not self.current for frame in frames):
            return status.NOT_OWNER, []
        if any(self.mapped.get(frame) for frame in frames):
            return status.IN_USE, []
        for frame in frames:
            self.owner[frame] = KERNEL
        return status.OK, frames

    def release(self, slot, owner):
        """An ended compartment without regions is forgotten: the kernel's pages for it are the manager's again."""
        if any(thing.kind == 'region' for thing in owner.slots.values()):
            return status.IN_USE
        for frame in owner.run:
            self.owner[frame] = self.current
        owner.run = []
        for ring in [thing for thing in owner.slots.values() if isinstance(thing, Ring)]:
            for slots in (owner.slots, self.current.slots):
                for number in [number for number, thing in slots.items() if thing is ring]:
                    del slots[number]
        del self.current.slots[slot]
        return status.OK

    def do_give(self, slot, region_slot, first, count, target):
        to, region = self.other(slot), self.look(region_slot, 'region')
        if to is None or region is None or not 0 <= target < call.SLOTS:
            return status.BAD_SLOT
        if to.state == call.STATE_ENDED:
            return status.BAD_STATE
        if not 1 <= count <= call.BATCH or first + count > region.count:
            return status.BAD_RANGE
        frames = range(region.first + first, region.first + first + count)
        if any(self.owner[frame] is not self.current for frame in frames):
            return status.NOT_OWNER
        if any(self.mapped.get(frame) for frame in frames):
            return status.IN_USE
        there = to.slots.get(target)
        if there is None:
            to.slots[target] = Region(frames[0], count)
        elif there.kind == 'region' and there.first + there.count == frames[0]:
            there.count += count
        else:
            return status.SLOT_IN_USE
        for frame in frames:
            self.owner[frame] = to
        return status.OK, count

    def do_take(self, slot, target, mine):
        source = self.other(slot)
        if source is None:
            return status.BAD_SLOT
        if source.state != call.STATE_ENDED:
            return status.BAD_STATE
        region = self.look(target, 'region', source)
        if region is None or not 0 <= mine < call.SLOTS:
            return status.BAD_SLOT
        count = min(call.BATCH, region.count)
        there = self.current.slots.get(mine)
        if there is None:
            self.current.slots[mine] = Region(region.first, count)
        elif there.kind != 'region':
            return status.SLOT_IN_USE
        elif not (there.first <= region.first and region.first + region.count <= there.first + there.count):
            if there.first + there.count != region.first:
                return status.SLOT_IN_USE
            there.count += count
        for frame in range(region.first, region.first + count):
            self.owner[frame] = self.current
        region.first += count
        region.count -= count
        if not region.count:
            del source.slots[target]
        return status.OK, region.count

    def has_core(self, core):
        return core == 0

    def do_vcpu_create(self, slot, target, core, name):
        owner = self.other(slot)
        if owner is None or not 0 <= target < call.SLOTS:
            return status.BAD_SLOT
        if not self.has_core(core) or name >= config.MAX_VMS:
            return status.BAD_RANGE
        if target in owner.slots:
            return status.SLOT_IN_USE
        owner.slots[target] = Vcpu()
        owner.space[layout.VCPU_PAGE // PAGE + owner.vcpus] = (None, call.READ | call.WRITE)
        owner.vcpus += 1
        owner.places.append((core, name))
        return status.OK

    def do_join(self, slot, core, name, region, first, count):
        """This machine has one core: nobody offers anything."""
        return status.BAD_RANGE

    def do_ring_create(self, source, source_slot, to, to_slot):
        sender, receiver = self.look(source, 'compartment'), self.look(to, 'compartment')
        if sender is None or receiver is None or not (0 <= source_slot < call.SLOTS and 0 <= to_slot < call.SLOTS):
            return status.BAD_SLOT
        if source_slot in sender.slots or to_slot in receiver.slots:
            return status.SLOT_IN_USE
        ring = Ring(sender, source_slot, receiver, to_slot)
        sender.slots[source_slot] = receiver.slots[to_slot] = ring
        return status.OK

    def do_start(self, slot, entry, stack, argument):
        owner = self.other(slot)
        if owner is None:
            return status.BAD_SLOT
        if owner.state != call.STATE_NEW:
            return status.BAD_STATE
        owner.state = call.STATE_RUNNING
        owner.start = (entry, stack, argument)
        owner.wake = self.now
        name = self.vm_name(owner)
        self.started[name] = owner
        owner.script = list(self.scripts.get(name, [('end', ending.EXITED, 0)]))
        if self.at_start:
            self.at_start(self, owner)
        return status.OK

    def vm_name(self, owner):
        page = self.read_space(owner, layout.BOOT_PAGE, PAGE)
        offset = struct.unpack_from('<Q', page, boot.VMM['NAME_STRING'])[0]
        return page[offset:page.index('\0', offset)]

    def do_stop(self, slot, how, detail):
        if slot == call.SLOT_SELF:
            raise TaskStopped(how, detail)
        owner = self.look(slot, 'compartment')
        if owner is None:
            return status.BAD_SLOT
        if owner.state == call.STATE_ENDED:
            return self.release(slot, owner)
        self.end(owner, how, detail)
        return status.OK

    def end(self, owner, how, detail):
        """End a compartment: its mappings go, its creator gets the signal."""
        owner.state, owner.how, owner.detail, owner.script = call.STATE_ENDED, how, detail, []
        for space in (owner.space, owner.nested):
            for frame, _ in space.values():
                if frame is not None:
                    self.mapped[frame] -= 1
            space.clear()
        self.manager.signals |= 1 << owner.watcher_slot

    def do_share(self, slot, entitlement, cap, weight):
        owner = self.other(slot)
        if owner is None:
            return status.BAD_SLOT
        if owner.state == call.STATE_ENDED:
            return status.BAD_STATE
        if entitlement > 100 or cap > 100 or 0 < cap < entitlement or not 1 <= weight <= 10000:
            return status.BAD_SIZE
        if entitlement + sum(c.share[0] for c in self.compartments if c is not owner and c.share) > 95:
            return status.PROMISED
        owner.share = (entitlement, cap, weight)
        return status.OK

    def do_inspect(self, slot):
        owner = self.other(slot)
        if owner is None:
            return status.BAD_SLOT
        words = [owner.state, owner.how, owner.detail, owner.ticks, owner.ticks // 2] + owner.exits
        self.page_write(struct.pack('<%dQ' % len(words), *words))
        return status.OK, owner.state

    def do_vcpu_run(self, *arguments):
        raise NotImplementedError('scripts do not run vCPUs')

    do_vcpu_read = do_vcpu_interrupt = do_vcpu_apic = do_vcpu_run

    # -- the other tasks

    def run_others(self):
        """Let every scripted task do one action that it can do now. Returns whether one did."""
        did = False
        for owner in self.compartments:
            if owner.state == call.STATE_RUNNING and owner.script and owner.wake <= self.now:
                did = self.act(owner) or did
        return did

    def act(self, owner):
        action = owner.script[0]
        if action[0] == 'send':
            ring = owner.slots[call.SLOT_CONSOLE_OUT]
            taken = ring.send(action[1])
            owner.script[0] = ('send', action[1][taken:])
            if taken == len(action[1]):
                owner.script.pop(0)
            return taken > 0 or not action[1]
        if action[0] == 'receive':
            data = owner.slots[call.SLOT_CONSOLE_IN].receive(action[1])
            owner.received += data
            owner.script[0] = ('receive', action[1] - len(data))
            if len(data) == action[1]:
                owner.script.pop(0)
            return bool(data)
        owner.script.pop(0)
        if action[0] == 'sleep':
            owner.wake = self.now + int(action[1] * TSC_KHZ)
        elif action[0] == 'end':
            self.end(owner, action[1], action[2])
        elif action[0] == 'call':
            action[1](self, owner)
        else:
            raise ValueError(action)
        return True
