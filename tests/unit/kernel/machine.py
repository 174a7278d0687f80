"""A machine on fakes: memory, processor, timer and boot modules around the real kernel. Nothing here knows the kernel's inside except
where a comment says so."""
import struct

from hypervisor.hw import cpu as hw_cpu
from hypervisor.hw import image as hw_image
from hypervisor.hw import memory as hw_memory
from hypervisor.hw import svm as hw_svm
from hypervisor.kernel import main
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.loop import step
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.vcpu import vcpus
from hypervisor.spec import call, lapic, program, refusal
from hypervisor.spec.context import AREA
from hypervisor.spec.layout import TASK_BASE
from hypervisor.spec.svm import EXIT_INTR, VMCB
from rpython.rlib.rarithmetic import r_uint
from tests.unit.kernel import singletons
from tests.unit.kernel.memory import PAGE, Memory, install

MEGA = 1 << 20
LAPIC = 0xfee00000
ROM = 0xe0000                   # to 1 MiB: the BIOS, and where its ACPI root pointer may be
TICKS_PER_COUNT = 10            # of the TSC, per count of the local APIC's timer
TSC_HZ = 10 ** 9
INFORMATION = 0x9000            # where the boot loader's information lies
FIRST_MODULE = 0x140000
TIMER_VECTOR, GATE_VECTOR = 0xf0, call.GATE
ARGUMENTS = ['RDI', 'RSI', 'RDX', 'R10', 'R8', 'R9']
GATE_TICKS = 1500               # of a read of the PIT's gate
WAKING_TICKS = 20000            # what the processor takes to wake
CALL_TICKS = 20000              # what a call or an exit costs its maker; slow, so that tests need fewer steps


def up(value, step=PAGE):
    return (value + step - 1) // step * step


def manager_image(bss=2):
    """A program image: header, two pages of text, one of rodata, one of data."""
    words = {'MAGIC': program.MAGIC, 'VERSION': program.VERSION, 'BASE': TASK_BASE, 'ENTRY': TASK_BASE + PAGE, 'HEADER_BYTES': PAGE,
             'TEXT_BYTES': 2 * PAGE, 'RODATA_BYTES': PAGE, 'DATA_BYTES': PAGE, 'BSS_BYTES': bss * PAGE}
    header = b''.join(struct.pack('<Q', words[name]) for name in program.FIELDS)
    return header.ljust(5 * PAGE, b'\0')


def multiboot1(ranges, modules, address=INFORMATION):
    """The information structure with memory map and modules. ranges: (start, size, kind); modules: (start, end)."""
    table = address + 128
    entries = b''.join(struct.pack('<IQQI', 20, start, size, kind) for start, size, kind in ranges)
    lines = table + len(entries)
    data = bytearray(128)
    struct.pack_into('<I', data, 0, 1 << 3 | 1 << 6)
    struct.pack_into('<II', data, 20, len(modules), lines)
    struct.pack_into('<II', data, 44, len(entries), table)
    return bytes(data) + entries + b''.join(struct.pack('<IIII', start, end, 0, 0) for start, end in modules)


def multiboot2(ranges, modules, address=INFORMATION):
    """As multiboot1, with tags of other kinds between."""
    def tag(kind, data):
        return (struct.pack('<II', kind, 8 + len(data)) + data).ljust(up(8 + len(data), 8), b'\xee')
    parts = tag(2, b'loader\0')
    for start, end in modules:
        parts += tag(3, struct.pack('<II', start, end) + b'module\0')
    parts += tag(6, struct.pack('<II', 24, 0) + b''.join(struct.pack('<QQII', start, size, kind, 0) for start, size, kind in ranges))
    parts += tag(0, b'')
    return struct.pack('<II', 8 + len(parts), 0) + parts


class Processor(dict):
    """The input ports: the PIT's interval is as long as was written to it; the serial port is always ready."""

    def __init__(self, machine):
        dict.__init__(self)
        self.machine = machine
        self.started = None         # TSC
        self.interval = None        # ticks
        self.away = []              # ticks for which the processor is away at the end of each interval; of later ones none
        self.measured = 0           # intervals
        self.gate_ticks = GATE_TICKS
        self.stuck = False

    def get(self, port, default=None):
        if port == lapic.PIT_GATE:
            return self.pit_gate()
        if port == 0x3f8 + 5:
            return 0x20
        return dict.get(self, port, default)

    def pit_gate(self):
        """The first read of a calibration comes before the interval, the others in it."""
        cpu = self.machine.cpu
        if self.started is None:
            self.started = cpu.tsc
            self.interval = None
            return 0
        if self.interval is None:
            low, high = [value for port, _, value in cpu.output if port == lapic.PIT_CHANNEL2][-2:]
            self.interval = TSC_HZ * (low | high << 8) // lapic.PIT_HZ
        cpu.tsc += self.gate_ticks
        passed = cpu.tsc - self.started
        if self.stuck:
            cpu.tsc += TSC_HZ // 10
            return 0
        if passed < self.interval:
            return 0
        self.machine.memory.put(LAPIC + lapic.CURRENT_COUNT, struct.pack('<I', 0xffffffff - passed // TICKS_PER_COUNT))
        if self.measured < len(self.away):
            cpu.tsc += self.away[self.measured]
        self.measured += 1
        self.started = None
        return 0x20


class Asleep(Exception):
    """The processor sleeps, and the test has seen enough of that."""


class Machine(object):
    """ram: (start, size, kind) as the boot loader tells them. modules: their bytes; None for the manager's image.

    tasks, guests: compartment or vCPU number -> something with run(machine, ...), see below.
    """

    def __init__(self, ram=((0, 0x9fc00, 1), (0x9fc00, 0x400, 2), (MEGA, 63 * MEGA, 1)), modules=(None, 'configuration', 'x' * 5000),
                 leaves=None):
        self.cpu = hw_cpu.fake
        self.cpu.reset()
        self.due = None                     # TSC at which the timer fires, None: not armed
        self.acknowledged = 0
        self.until = 1 << 63                # TSC from which on sleep ends the test's turn
        self.tasks = {}
        self.guests = {}
        self.log = []                       # ('task', number) and ('guest', number) in the order in which they ran
        self.ram = list(ram)
        self.contents = [manager_image() if content is None else content for content in modules]
        self.memory = Memory([(start, start + size) for start, size, _ in ram] + [(ROM, MEGA), (LAPIC, LAPIC + PAGE)])
        self.places = []
        at = FIRST_MODULE
        for content in self.contents:
            self.places.append((at, at + len(content)))
            at = up(at + len(content))
        self.cpu.leaves = {1: (0, 0, 1 << 26 | 1 << 17, 1 << 9), 7: (0, 1 << 0 | 1 << 7 | 1 << 20, 1 << 2, 0), 0xd: (7, 0, 0, 0),
                           0x80000001: (0, 0, 1 << 2, 0), 0x8000000a: (1, 16, 0, 1 << 0 | 1 << 3)}
        self.cpu.leaves.update(leaves or {})
        self.cpu.msr = {0x1b: LAPIC | 0x900, 0xc0000080: 0xd00}
        self.cpu.input = Processor(self)
        self.cpu.run = self.run_task
        self.cpu.wait = self.wait
        self.cpu.take = self.take
        hw_svm.fake_run[0] = self.run_guest
        self.connect()

    def connect(self):
        """Put this machine's memory under the kernel."""
        machine = self

        class Root(list):
            def __setitem__(self, index, root):
                list.__setitem__(self, index, root)
                machine.memory.load_root(root)
        hw_image.fake_root = Root([0])
        install(hw_memory, self.memory)
        self.watch(None)

    def watch(self, function):
        """function(hpa, size, value) sees each store; the local APIC sees its own in any case."""
        def both(hpa, size, value):
            if hpa >> 12 == LAPIC >> 12:
                self.lapic_written(hpa & 0xfff, value)
            elif function is not None:
                function(hpa, size, value)
        self.memory.watch = both

    def lapic_written(self, register, value):
        if register == lapic.INITIAL_COUNT:
            assert value < 1 << 32
            self.due = self.cpu.tsc + value * TICKS_PER_COUNT if value else None
        elif register == lapic.EOI:
            self.acknowledged += 1

    # Boot

    def boot(self, magic=0x2badb002):
        """Everything up to the loop. Returns the refusal."""
        for content, (start, _) in zip(self.contents, self.places):
            self.memory.put(start, content)
        make = multiboot2 if magic == 0x36d76289 else multiboot1
        self.memory.put(INFORMATION, make(self.ram, self.places))
        return main.start(r_uint(magic), r_uint(INFORMATION))

    # The processor's runs

    def number_of(self, area):
        """Whose register area is this? Compartments know theirs; so this is the one place that asks the kernel."""
        owners = [c.number for c in compartments if c.used and c.task.area == area]
        assert len(owners) == 1, 'a register area of %d tasks' % len(owners)
        return owners[0]

    def run_task(self, area, root):
        number = self.number_of(area)
        self.log.append(('task', number))
        return self.tasks[number].run(self, Registers(self, int(area)), root)

    def run_guest(self, area, vmcb):
        owners = [v for v in vcpus if v.compartment is not None and v.control == vmcb]
        assert len(owners) == 1 and owners[0].area == area
        vcpu = owners[0]
        self.log.append(('guest', vcpu.compartment.number))
        self.guests[vcpu.compartment.number].run(self, Registers(self, int(area)), Block(self, int(vmcb)))

    def pass_time(self, ticks):
        """Let at most `ticks` pass, or until the timer fires. Returns the ticks that passed and whether it fired."""
        if self.due is not None and self.cpu.tsc + ticks >= self.due:
            passed = max(self.due - self.cpu.tsc, 0)
            self.cpu.tsc += passed
            self.due = None
            return passed, True
        self.cpu.tsc += ticks
        return ticks, False

    def wait(self):
        assert self.due is not None, 'the processor sleeps, and no timer will wake it'
        self.log.append(('sleep', self.cpu.tsc))
        if self.due > self.until:
            self.cpu.tsc = max(self.cpu.tsc, self.until)
            raise Asleep()
        self.cpu.tsc = max(self.cpu.tsc, self.due) + WAKING_TICKS
        self.due = None
        return TIMER_VECTOR

    def take(self):
        return TIMER_VECTOR

    def let_pass(self, ticks):
        """Run the kernel's loop for that long, or a little longer."""
        self.until = self.cpu.tsc + ticks
        try:
            while self.cpu.tsc < self.until:
                step()
        except Asleep:
            pass
        self.until = 1 << 63

    # One call at a time, for tests that are not about scheduling

    def kernel_call(self, number, which, *arguments):
        """Let compartment `number`'s task make a call now, if it is ready. Returns (status, value); None while it is blocked, and when it
        ended by the call."""
        compartment = compartments[number]
        assert compartment.used and compartment.task.ready
        one = OneCall(which, arguments)
        before = self.tasks.get(number)
        self.tasks[number] = one
        scheduler.compartment = compartment
        scheduler.vcpu = None
        area = int(compartment.task.area)
        step()
        assert one.done
        self.tasks[number] = before
        registers = Registers(self, area)
        if compartment.state == call.STATE_ENDED or not compartment.task.ready:
            return None
        return registers.get('RAX'), registers.get('RDX')

    def result(self, number):
        """What the task's last call answered, once it is no longer blocked."""
        registers = Registers(self, int(compartments[number].task.area))
        return registers.get('RAX'), registers.get('RDX')


class Registers(object):
    """A register area."""

    def __init__(self, machine, area):
        self.machine = machine
        self.hpa = machine.memory.translated(area, True) * PAGE + (area & 0xfff)

    def get(self, name):
        return self.machine.memory.word(self.hpa + AREA[name])

    def set(self, name, value):
        self.machine.memory.put_word(self.hpa + AREA[name], value & (1 << 64) - 1)


class Block(object):
    """A VMCB, as the processor sees it."""

    def __init__(self, machine, vmcb):
        self.memory = machine.memory
        self.hpa = self.memory.translated(vmcb, True) * PAGE

    def get(self, name):
        return self.memory.word(self.hpa + VMCB[name])

    def set(self, name, value):
        self.memory.put_word(self.hpa + VMCB[name], value & (1 << 64) - 1)

    def exit(self, code, info1=0, info2=0, interrupted=0, nrip=None):
        self.set('EXITCODE', code)
        self.set('EXITINFO1', info1)
        self.set('EXITINFO2', info2)
        self.set('EXITINTINFO', interrupted)
        self.set('NRIP', self.get('RIP') + 2 if nrip is None else nrip)


class OneCall(object):
    """A task that makes one call. Every register that is no argument keeps what it is."""

    def __init__(self, which, arguments):
        self.which, self.arguments, self.done = which, arguments, False

    def run(self, machine, registers, root):
        assert not self.done, 'the task ran twice'
        self.done = True
        registers.set('RAX', self.which)
        for name, value in zip(ARGUMENTS, self.arguments):
            registers.set(name, value)
        return GATE_VECTOR


class Program(object):
    """A task written as a generator: `yield ('call', number, arguments...)` gives (status, value), `yield ('spin', ticks)` uses the
    processor, `yield ('fault', vector)` faults."""

    def __init__(self, function, *arguments):
        self.generator = function(*arguments)
        self.action = None
        self.calling = False
        self.left = 0

    def run(self, machine, registers, root):
        while True:
            if self.left:
                passed, fired = machine.pass_time(self.left)
                self.left -= passed
                if fired:
                    return TIMER_VECTOR
            if self.calling:
                self.calling = False
                action = self.generator.send((registers.get('RAX'), registers.get('RDX')))
            else:
                action = next(self.generator)
            if action[0] == 'spin':
                self.left = action[1]
            elif action[0] == 'fault':
                return action[1]
            else:
                self.calling = True
                machine.cpu.tsc += CALL_TICKS
                registers.set('RAX', action[1])
                for name, value in zip(ARGUMENTS, action[2:]):
                    registers.set(name, value)
                return GATE_VECTOR


class Guest(object):
    """A guest written as a generator over its VMCB: `yield ('spin', ticks)`, `yield ('exit', code, ...)` as Block.exit."""

    def __init__(self, function, *arguments):
        self.generator = function(*arguments)
        self.left = 0
        self.ticks = 0

    def run(self, machine, registers, block):
        while True:
            if self.left:
                passed, fired = machine.pass_time(self.left)
                self.left -= passed
                self.ticks += passed
                if fired:
                    block.exit(EXIT_INTR)
                    return
            action = next(self.generator)
            if action[0] == 'spin':
                self.left = action[1]
            else:
                machine.cpu.tsc += CALL_TICKS
                block.exit(*action[1:])
                return


HW_NAMES = ['load8', 'store8', 'load16', 'store16', 'load32', 'store32', 'load64', 'store64', 'copy', 'clear']
HW_ORIGINALS = dict((name, getattr(hw_memory, name)) for name in HW_NAMES)
ROOT_ORIGINAL = hw_image.fake_root
PRISTINE = singletons.Snapshot()


def disconnect():
    """Leave the fakes of hypervisor.hw as they were found."""
    for name, original in HW_ORIGINALS.items():
        setattr(hw_memory, name, original)
    hw_image.fake_root = ROOT_ORIGINAL
    hw_svm.fake_run[0] = None
    hw_svm.fake_quick[0] = hw_svm.fake_straight[0] = None
    hw_cpu.fake.reset()
    PRISTINE.restore()


class Booted(object):
    """A machine that has just booted, and that prepare(machine) has brought further, as often as it is wanted."""

    def __init__(self, prepare=None, **options):
        PRISTINE.restore()
        self.machine = Machine(**options)
        assert self.machine.boot() == refusal.NONE
        if prepare is not None:
            prepare(self.machine)
        self.remember()

    def remember(self):
        self.objects = singletons.Snapshot()
        self.pages = self.machine.memory.copy()
        self.leaves, self.msr, self.register = dict(self.machine.cpu.leaves), dict(self.machine.cpu.msr), dict(self.machine.cpu.register)
        self.tsc, self.due = self.machine.cpu.tsc, self.machine.due
        self.root = hw_image.fake_root[0]

    def fresh(self):
        machine = self.machine
        self.objects.restore()
        machine.memory.restore(self.pages)
        machine.cpu.reset()
        machine.cpu.leaves, machine.cpu.msr, machine.cpu.register = dict(self.leaves), dict(self.msr), dict(self.register)
        machine.cpu.input, machine.cpu.tsc, machine.due = Processor(machine), self.tsc, self.due
        machine.cpu.run, machine.cpu.wait, machine.cpu.take = machine.run_task, machine.wait, machine.take
        machine.tasks, machine.guests, machine.log, machine.acknowledged, machine.until = {}, {}, [], 0, 1 << 63
        hw_svm.fake_run[0] = machine.run_guest
        hw_svm.fake_quick[0] = hw_svm.fake_straight[0] = None
        machine.connect()
        list.__setitem__(hw_image.fake_root, 0, self.root)
        return machine
