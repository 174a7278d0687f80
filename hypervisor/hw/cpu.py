"""Privileged instructions. The double is `fake`: registers in dicts, ports as a log, and scripted runs of tasks."""
from rpython.rlib.rarithmetic import r_uint
from rpython.rtyper.lltypesystem import lltype, rffi
from rpython.translator.tool.cbuild import ExternalCompilationInfo

_ECI = ExternalCompilationInfo(includes=['hw/cpu.h'])


class Halted(Exception):
    """Untranslated only: the processor would now stand still for ever."""


class FakeCpu(object):
    """Registers and ports of one processor. Tests set `run` to play the tasks, `wait` to play the interrupts."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.msr = {}
        self.register = {}
        self.leaves = {}
        self.output = []            # (port, size, value) of each OUT
        self.input = {}             # port -> value of each IN
        self.tsc = 0
        self.rdtsc_ticks = 100      # what a RDTSC takes
        self.loaded_state = None    # what XRSTOR or FXRSTOR loaded last
        self.run = None             # run(area, root) -> vector
        self.wait = lambda: 0xf0    # an interrupt comes at once
        self.take = lambda: 0xf0


fake = FakeCpu()


def _external(name, arguments, result, double):
    return rffi.llexternal('bh_' + name, arguments, result, compilation_info=_ECI, _nowrapper=True, _callable=double)


_U = lltype.Unsigned
_V = lltype.Void


def _fake_rdmsr(number):
    return r_uint(fake.msr.get(int(number), 0))


def _fake_wrmsr(number, value):
    fake.msr[int(number)] = int(value)


def _fake_rdtsc():
    fake.tsc += fake.rdtsc_ticks
    return r_uint(fake.tsc)


def _fake_bsr(word):
    assert word, 'BSR leaves its result undefined'
    return r_uint(int(word).bit_length() - 1)


def _fake_cpuid(leaf, subleaf, which):
    registers = fake.leaves.get((int(leaf), int(subleaf))) or fake.leaves.get(int(leaf)) or (0, 0, 0, 0)
    return r_uint(registers[int(which)])


def _fake_in(port, size):
    return r_uint(fake.input.get(int(port), 0xffffffff) & ((1 << 8 * int(size)) - 1))


def _fake_out(port, size, value):
    fake.output.append((int(port), int(size), int(value) & ((1 << 8 * int(size)) - 1)))


def _fake_load_state(area, *_):
    fake.loaded_state = int(area)


def _fake_halt():
    raise Halted()


def _register(name):
    def read():
        return r_uint(fake.register.get(name, 0))

    def write(value):
        fake.register[name] = int(value)
    return _external('read_' + name, [], _U, read), _external('write_' + name, [_U], _V, write)


rdmsr = _external('rdmsr', [_U], _U, _fake_rdmsr)
wrmsr = _external('wrmsr', [_U, _U], _V, _fake_wrmsr)
rdtsc = _external('rdtsc', [], _U, _fake_rdtsc)
bsr = _external('bsr', [_U], _U, _fake_bsr)                      # the number of the highest set bit of a word that is not 0
cpuid = _external('cpuid', [_U, _U, _U], _U, _fake_cpuid)       # leaf, subleaf, register (0 EAX to 3 EDX)
port_in = _external('in', [_U, _U], _U, _fake_in)               # port, size in bytes
port_out = _external('out', [_U, _U, _U], _V, _fake_out)        # port, size in bytes, value

read_cr0, write_cr0 = _register('cr0')
read_cr2, write_cr2 = _register('cr2')
read_cr3, write_cr3 = _register('cr3')
read_cr4, write_cr4 = _register('cr4')
read_dr0, write_dr0 = _register('dr0')
read_dr1, write_dr1 = _register('dr1')
read_dr2, write_dr2 = _register('dr2')
read_dr3, write_dr3 = _register('dr3')
read_dr6, write_dr6 = _register('dr6')

xsave = _external('xsave', [_U, _U], _V, lambda area, mask: None)       # area, XCR0 mask
xrstor = _external('xrstor', [_U, _U], _V, _fake_load_state)
fxsave = _external('fxsave', [_U], _V, lambda area: None)
fxrstor = _external('fxrstor', [_U], _V, _fake_load_state)
xsetbv = _external('xsetbv', [_U], _V, lambda value: fake.register.__setitem__('xcr0', int(value)))
xgetbv = _external('xgetbv', [], _U, lambda: r_uint(fake.register.get('xcr0', 1)))
rdpkru = _external('rdpkru', [], _U, lambda: r_uint(fake.register.get('pkru', 0)))
wrpkru = _external('wrpkru', [_U], _V, lambda value: fake.register.__setitem__('pkru', int(value)))
clts = _external('clts', [], _V, lambda: None)
pause = _external('pause', [], _V, lambda: None)
halt = _external('halt', [], _V, _fake_halt)

# task_run(area, root): runs a task until it exits; returns the vector.  take_interrupt(): lets a pending interrupt in, returns
# its vector or 0.  wait_interrupt(): sleeps until one comes.
task_run = _external('task_run', [_U, _U], _U, lambda area, root: r_uint(fake.run(area, root)))
take_interrupt = _external('take_interrupt', [], _U, lambda: r_uint(fake.take()))
wait_interrupt = _external('wait_interrupt', [], _U, lambda: r_uint(fake.wait()))
