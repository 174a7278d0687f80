"""A kernel double for the VMM: one VM with its memory, its rings and a scripted vCPU.

A test gives it a script of exits. Each entry is a function called with the box when the VMM calls VCPU_RUN: it looks at the
answer to the exit before and puts the next exit into the vCPU page. The program ends with Ended, as STOP never returns.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory, task
from hypervisor.spec import boot, call, ending, exit, lapic, layout, status, vcpu

MIB = 1 << 20
PAGE = layout.PAGE
VCPU_PAGE = layout.VCPU_PAGE
REGION_BASE = 1 << 40               # where the fake keeps the frames of regions
STALE = 0x5a1e5a1e5a1e5a1e
SEGMENT_FIELDS = dict(vcpu.GROUP_FIELDS)[vcpu.GROUP_SEGMENT]


def store64(address, value):
    memory.store64(r_uint(address), r_uint(value))


def load64(address):
    return int(memory.load64(r_uint(address)))


class Ended(Exception):
    """STOP of the own compartment. args: how, detail."""


class Box(object):
    def __init__(self, ram=4 * MIB, kind=boot.IMAGE_FLAT, image=b'\xf4', load_address=0x7c00, flags=boot.FLAG_EXIT_PORT, restarts=0,
                 command_line=b'', modules=(), vendor=boot.VENDOR_INTEL, tsc_khz=1000, vcpus=1):
        memory.reset_fake()
        task.reset_fake(self)
        self.now = 1
        self.ram = ram
        self.output = bytearray()
        self.input = bytearray()
        self.ring_room = 1 << 30
        self.signals = 0
        self.script = []
        self.mapped = {}            # (guest, page) -> (region, frame, rights)
        self.reads = []
        self.runs = 0
        self.cpuid_leaves = {}
        self.registers = {}         # state that VCPU_READ delivers: name -> value
        self.waits = 0
        self.deadlines = 0
        self.deadline = 0           # of the last VCPU_RUN
        self.extint = None          # the ExtINT pin; None: nobody has worked it yet
        self.messages = []          # (kind, vector) that reached the APIC: FIXED, LEVEL, NMI
        self.slots = []             # of each VCPU_RUN
        self.resets = []            # slots of vCPUs
        self.destinations = []      # of these, as VCPU_INTERRUPT has them
        self.apic = {}              # registers of the xAPIC page that were written: offset -> value
        self.ends = []              # what the next writes of EOI answer: 0, or 1 + the vector
        memory.fake.map(layout.BOOT_PAGE, PAGE)
        memory.fake.map(layout.TASK_PAGE, PAGE)
        memory.fake.map(VCPU_PAGE, PAGE * vcpus)
        self.frames = {call.SLOT_RAM: self.region(call.SLOT_RAM, b'', ram), call.SLOT_IMAGE: self.region(call.SLOT_IMAGE, image)}
        for n, (data, _) in enumerate(modules):
            self.frames[call.SLOT_GUEST_MODULE + n] = self.region(call.SLOT_GUEST_MODULE + n, data)
        self.write_boot_page(kind, image, load_address, flags, restarts, command_line, modules, vendor, tsc_khz)
        store64(layout.BOOT_PAGE + boot.VMM['VCPUS'], vcpus)

    def region(self, slot, data, size=None):
        frames = ((len(data) if size is None else size) + PAGE - 1) // PAGE
        base = REGION_BASE + (slot << 34)
        if frames:
            memory.fake.map(base, frames * PAGE)
            memory.fake.write(base, data)
        return frames

    def write_boot_page(self, kind, image, load_address, flags, restarts, command_line, modules, vendor, tsc_khz):
        strings = bytearray()

        def string(text):
            at = boot.STRINGS + len(strings)
            strings.extend(text + b'\0')
            return at
        fields = dict(MAGIC=boot.MAGIC, VERSION=boot.VERSION, TSC_KHZ=tsc_khz, VENDOR=vendor, FLAGS=flags, RAM_BYTES=self.ram,
                      IMAGE_KIND=kind, IMAGE_BYTES=len(image), LOAD_ADDRESS=load_address, RESTARTS=restarts, NAME_STRING=string(b'vm'),
                      COMMAND_LINE_STRING=string(command_line), MODULE_COUNT=len(modules))
        for n, (data, text) in enumerate(modules):
            fields['MODULE_%d_BYTES' % n] = len(data)
            fields['MODULE_%d_STRING' % n] = string(text)
        for name, value in fields.items():
            store64(layout.BOOT_PAGE + boot.VMM[name], value)
        memory.fake.write(layout.BOOT_PAGE + boot.STRINGS, strings)

    # What hw/task.py asks of its double.
    def rdtsc(self):
        self.now += 1
        return self.now

    def pause(self):
        self.now += 1

    def cpuid(self, leaf, subleaf):
        return self.cpuid_leaves.get((leaf, subleaf), self.cpuid_leaves.get(leaf, (0, 0, 0, 0)))

    def call(self, number, *arguments):
        name, parameters = [(row[1].lower(), row[2]) for row in call.TABLE if row[0] == number][0]
        return getattr(self, 'call_' + name)(*arguments[:len(parameters)])

    def call_map(self, compartment, region, first, address, count, rights):
        if compartment != call.SLOT_SELF or region not in self.frames:
            return status.BAD_SLOT, 0
        if count < 1 or count > call.BATCH or first + count > self.frames[region]:
            return status.BAD_RANGE, 0
        guest = rights & call.GUEST
        for n in range(count):
            page = address // PAGE + n
            if (guest, page) in self.mapped:
                return status.ALREADY_MAPPED, n
            self.mapped[guest, page] = (region, first + n, rights)
            if not guest:
                memory.fake.alias(page * PAGE, REGION_BASE + (region << 34) + (first + n) * PAGE, PAGE)
        return status.OK, count

    def call_wait(self, deadline):
        self.waits += 1
        if not self.signals and deadline > self.now:
            self.now = deadline
        taken, self.signals = self.signals, 0
        return status.OK, taken

    def call_ring_send(self, ring, count):
        assert ring == call.SLOT_CONSOLE_OUT and 0 < count <= vcpu.RING_BYTES
        taken = min(count, self.ring_room)
        self.ring_room -= taken
        self.output += memory.fake.read(layout.TASK_PAGE, taken)
        return status.OK, taken

    def call_ring_receive(self, ring):
        assert ring == call.SLOT_CONSOLE_IN
        count = min(len(self.input), vcpu.RING_BYTES)
        memory.fake.write(layout.TASK_PAGE, self.input[:count])
        del self.input[:count]
        return status.OK, count

    def call_stop(self, compartment, how, detail):
        assert compartment == call.SLOT_SELF and how in ending.VMM_MAY_SAY
        raise Ended(how, detail)

    def call_vcpu_read(self, slot, groups):
        assert slot == call.SLOT_VCPU           # the fake's registers are those of vCPU 0
        self.reads.append(groups)
        self.show_state(groups)
        return status.OK, 0

    def show_state(self, groups):
        for group, names in vcpu.GROUP_FIELDS:
            if groups & group:
                for name in names:
                    self.set_state(name, self.registers.get(name, 0))

    def call_vcpu_interrupt(self, slot, kind, vector, destination):
        assert self.is_vcpu(slot) and kind <= call.INTERRUPT_RESET and vector <= 255
        if kind == call.INTERRUPT_RESET:
            self.resets.append(slot)
            self.apic = {}
            return status.OK, 1
        if kind < call.INTERRUPT_EXTINT_ON:
            identity = destination & 0xff
            if identity == 0 if destination & call.DESTINATION_LOGICAL else identity not in (0, 0xff):
                return status.OK, 0                     # nobody's
            self.messages.append((kind, vector))
            self.destinations.append(destination)
            return status.OK, 1
        active = kind == call.INTERRUPT_EXTINT_ON
        assert self.extint is None or self.extint != active, 'the pin is told what it is already'
        self.extint = active
        return status.OK, 0

    def call_vcpu_apic(self, slot, offset, write, value):
        """Registers that keep what is written, whatever they are."""
        assert self.is_vcpu(slot) and write in (0, 1) and value < 1 << 32
        if offset > 0x3ff or offset % 16:
            return status.BAD_RANGE, 0
        if not write:
            return status.OK, self.apic.get(offset, 0)
        self.apic[offset] = value
        return status.OK, self.ends.pop(0) if offset == lapic.EOI and self.ends else 0

    def is_vcpu(self, slot):
        return 0 <= slot - call.SLOT_VCPU < load64(layout.BOOT_PAGE + boot.VMM['VCPUS'])

    def call_vcpu_run(self, slot, deadline):
        assert self.is_vcpu(slot)
        self.slots.append(slot)
        self.runs += 1
        self.deadline = deadline
        if deadline and deadline <= self.now:
            self.deadlines += 1
            assert self.deadlines < 100, 'the VMM does nothing about its deadline'
            return status.OK, call.REASON_DEADLINE
        self.deadlines = 0
        if self.signals:
            return status.OK, call.REASON_SIGNAL
        if not self.script:
            raise AssertionError('the script has ended and the VM has not')
        reasons = self.script.pop(0)(self)
        return status.OK, call.REASON_EXIT if reasons is None else reasons

    # For scripts.
    def set_state(self, name, value):
        store64(VCPU_PAGE + vcpu.STATE[name], value)

    def state(self, name):
        return load64(VCPU_PAGE + vcpu.STATE[name])

    def answer(self, name):
        return load64(VCPU_PAGE + vcpu.ANSWER[name])

    def exit(self, kind, **fields):
        """One of kind MEMORY brings its groups; the segments are not what they were: nobody may go by them."""
        if kind == exit.MEMORY:
            for name in SEGMENT_FIELDS:
                self.set_state(name, STALE)
            self.show_state(vcpu.MEMORY_BRINGS)
            fields['VALUE'] = (self.registers.get('CS_ATTRIBUTES', 0) | self.registers.get('SS_ATTRIBUTES', 0) << 16 |
                               fields.pop('BROUGHT', 0) << vcpu.BROUGHT_SHIFT)
        store64(VCPU_PAGE + vcpu.EXIT['KIND'], kind)
        for name in vcpu.EXIT_FIELDS[1:]:
            store64(VCPU_PAGE + vcpu.EXIT[name], fields.get(name, 0))

    def guest(self, gpa, count):
        """Bytes of the guest's memory."""
        return memory.fake.read(REGION_BASE + (call.SLOT_RAM << 34) + gpa, count)

    def put_guest(self, gpa, data):
        memory.fake.write(REGION_BASE + (call.SLOT_RAM << 34) + gpa, data)


def out(port, value, size=1):
    return lambda box: box.exit(exit.IO, SELECTOR=port, SIZE=size, VALUE=value, LENGTH=2)


def in_(port, size=1):
    return lambda box: box.exit(exit.IO, SELECTOR=port, SIZE=size, FLAGS=exit.IO_IN, LENGTH=2)


def exits(kind, **fields):
    return lambda box: box.exit(kind, **fields)


def then(look, following):
    """Look at the answer to the exit before, then do what `following` does."""
    def step(box):
        look(box)
        return following(box)
    return step


def run(box):
    """Run a fresh VMM on this box to its end. Returns (how, detail)."""
    from hypervisor.vmm import main, machine
    main.machine = machine.Machine()
    try:
        main.task_main(0)
    except Ended as ended:
        return ended.args
    raise AssertionError('the VMM returned')
