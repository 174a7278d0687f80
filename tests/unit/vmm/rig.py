"""An emulator on its own: a vCPU in a mode of the test's choice, memory, page tables, a bus without devices."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import cpu, exit, vcpu
from hypervisor.vmm import emulate, space
from hypervisor.vmm.bus import DONE, Bus, Device
from hypervisor.vmm.ram import Ram
from hypervisor.vmm.vcpu import Vcpu
from tests.unit.vmm.box import MIB, Box

PML4 = 0x1000                       # page tables are made from here on
CODE = 0x400000                     # gva of the instruction in long mode
CODE_FRAME = 0x9000
CODE_64, CODE_32, CODE_16, DATA_32 = 0xa9b, 0xc9b, 0x9b, 0xc93
GPR = ['RAX', 'RCX', 'RDX', 'RBX', 'RSP', 'RBP', 'RSI', 'RDI'] + ['R%d' % n for n in range(8, 16)]
PRESENT_WRITABLE_USER = 7


class Recorder(Device):
    """Port 0x77: remembers what is written and reads a counter."""

    def __init__(self):
        Device.__init__(self, 0x77, 1, False)
        self.written = []
        self.counter = 0

    def read(self, offset, size):
        self.counter += 1
        return r_uint(self.counter)

    def write(self, offset, size, value):
        self.written.append((size, int(value)))
        return DONE


class Rig(object):
    """kind: of the exit that the emulator answers, where a test does not say."""

    def __init__(self, ram=4 * MIB):
        self.box = Box(ram=ram)
        space.map_ram(r_uint(ram))
        self.ram = Ram()
        self.ram.set_size(r_uint(ram))
        self.vcpu = Vcpu()
        self.port = Recorder()
        self.emulator = emulate.Emulator(self.vcpu, self.ram, Bus([self.port], []))
        self.emulator.set_physical_bits(40)
        self.state = self.box.registers
        self.state.update(RFLAGS=2, CR0=cpu.CR0_PE)
        self.next_table = PML4 + 0x1000
        self.kind = exit.IO

    # Modes.
    def segments(self, code, data=DATA_32, limit=0xffffffff):
        for name in ('ES', 'SS', 'DS', 'FS', 'GS'):
            self.state[name + '_ATTRIBUTES'] = data
            self.state[name + '_LIMIT'] = limit
        self.state['CS_ATTRIBUTES'] = code
        self.state['CS_LIMIT'] = limit

    def long_mode(self):
        self.segments(CODE_64)
        self.state.update(CR0=cpu.CR0_PE | cpu.CR0_PG | cpu.CR0_WP, CR3=PML4, CR4=cpu.CR4_PAE,
                          EFER=cpu.EFER_LMA | cpu.EFER_LME | cpu.EFER_NXE, RIP=CODE)
        self.map_page(CODE, CODE_FRAME)

    def flat_32(self, rip=0x9000):
        self.segments(CODE_32)
        self.state.update(RIP=rip)

    def real_mode(self, rip=0x9000):
        self.segments(CODE_16, 0x93, 0xffff)
        self.state.update(CR0=0x10, RIP=rip)

    # 4-level page tables.
    def map_page(self, gva, gpa, bits=PRESENT_WRITABLE_USER):
        table = PML4
        for shift in (39, 30, 21):
            at = table + (gva >> shift & 511) * 8
            entry = int(self.ram.load64(r_uint(at)))
            if not entry:
                entry = self.next_table | PRESENT_WRITABLE_USER
                self.next_table += 0x1000
                self.ram.store64(r_uint(at), r_uint(entry))
            table = entry & ~0xfff
        self.ram.store64(r_uint(table + (gva >> 12 & 511) * 8), r_uint(gpa | bits))

    # Running.
    def put(self, gpa, data):
        self.box.put_guest(gpa, bytes(data))

    def get(self, gpa, count):
        return bytearray(self.box.guest(gpa, count))

    def run(self, code, frame=CODE_FRAME, **fields):
        self.put(frame, code)
        return self.emulate(**fields)

    def emulate(self, kind=None, **fields):
        """kind, fields: of the exit. One of kind MEMORY brings most of the state, before others the VMM asks for it."""
        self.box.exit(self.kind if kind is None else kind, **fields)
        return self.emulator.emulate()

    def given_back(self, before):
        """The vCPU's registers after the answer, by its DIRTY. before: what they were."""
        dirty = self.emulator.dirty()
        if dirty & vcpu.GROUP_GPR:
            return self.registers()
        after = list(before)
        if dirty & vcpu.REGISTER:
            number = dirty >> vcpu.REGISTER_SHIFT
            after[number] = self.registers()[number]
        return after

    def registers(self):
        return [self.box.state(name) for name in GPR]
