"""UART, MSRs and CPUID as a guest meets them."""
import struct

import pytest
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import boot, call, ending, exit, vcpu
from hypervisor.vmm import bus, cpuid
from tests.unit.vmm.box import VCPU_PAGE, Box, exits, in_, out, run, then

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(0x3f8, 0x400)


def talk(steps, box=None):
    """Steps: ('out', port, value) or ('in', port). Returns what the reads gave."""
    box = box or Box()
    seen = []
    pending = [False]

    def collect(box):
        if pending[0]:
            seen.append(box.answer('RESULT'))
        pending[0] = False
    for step in steps:
        if step[0] == 'out':
            box.script.append(then(collect, out(step[1], step[2])))
        else:
            def ask(box, port=step[1]):
                collect(box)
                pending[0] = True
                return in_(port)(box)
            box.script.append(ask)
    box.script.append(then(collect, out(0xf4, 0)))
    assert run(box)[0] == ending.EXITED
    return seen


def test_uart_is_found_by_its_usual_probes():
    assert talk([('out', SCR, 0x5a), ('in', SCR)]) == [0x5a]
    assert talk([('out', LCR, 0x83), ('out', DATA, 0x34), ('out', IER, 0x12), ('in', DATA), ('in', IER), ('out', LCR, 3),
                 ('in', IER), ('in', LCR)]) == [0x34, 0x12, 0, 3]
    assert talk([('out', IER, 0xff), ('in', IER)]) == [0xf]
    assert talk([('in', IIR), ('out', IIR, 1), ('in', IIR), ('out', IIR, 0), ('in', IIR)]) == [1, 0xc1, 1]
    assert talk([('in', LSR), ('in', MSR)]) == [0x60, 0xb0]


def test_uart_loop_back():
    assert talk([('out', MCR, 0x1a), ('in', MSR)])[0] & 0xf0 == 0x90            # Linux' probe: RTS and OUT2 come back
    box = Box()
    assert talk([('out', IIR, 1), ('out', MCR, 0x10)] + [('out', DATA, n) for n in range(17)] + [('in', LSR), ('in', LSR)] +
                [('in', DATA)] * 17 + [('in', LSR)], box) == [0x63, 0x61] + list(range(16)) + [0, 0x60]
    assert box.output == b''


def test_uart_receives_what_the_manager_sends():
    box = Box()
    box.input += b'key'
    assert talk([('out', IIR, 1), ('in', LSR), ('in', DATA), ('in', DATA), ('in', DATA), ('in', LSR)], box) == [0x61] + list(bytearray(b'key')) + [0x60]


def test_without_a_fifo_each_byte_takes_its_time_on_the_line():
    box = Box()
    box.input += b'ke'
    seen = talk([('in', LSR), ('in', DATA)] + [('in', LSR)] * 100 + [('in', DATA), ('in', LSR)], box)
    assert seen[:3] == [0x61, ord('k'), 0x60] and seen[-3:] == [0x61, ord('e'), 0x60]


def test_later_input_is_announced_by_its_signal():
    box = Box()

    def typed(box):
        box.input += b'!'
        box.signals |= 1 << call.SLOT_CONSOLE_IN
        return call.REASON_SIGNAL
    seen = []
    box.script = [in_(LSR), typed, in_(LSR), then(lambda box: seen.append(box.answer('RESULT')), out(0xf4, 0))]
    run(box)
    assert seen == [0x61]


def test_uart_says_which_interrupt_it_would_raise():
    box = Box()
    box.input += b'x'
    assert talk([('out', IER, 1), ('in', IIR), ('in', DATA), ('in', IIR), ('out', IER, 2), ('in', IIR), ('in', IIR), ('out', DATA, 65),
                 ('in', IIR)], box) == [4, 120, 1, 2, 1, 2]


def test_wide_accesses_become_bytes():
    box = Box()
    seen = []
    box.script = [out(SCR - 1, 0x5a00, 2), in_(LCR, 4), then(lambda box: seen.append(box.answer('RESULT')), in_(0x3f7, 2)),
                  then(lambda box: seen.append(box.answer('RESULT')), out(0xf4, 0x1234, 4))]
    assert run(box) == (ending.EXITED, 0x1234)
    assert seen[0] == 0xb0600000 and seen[1] & 0xff == 0xff


def test_each_port_has_the_first_device_that_claims_it():
    devices = [bus.Device(*each) for each in ((0x3f8, 8, True), (0x61, 1, True), (0x60, 5, True), (0x1ff, 1, True), (0x200, 1, False),
                                              (0, 2, True), (0xffff, 1, True), (0xcf8, 8, False), (0x8000, 64, False), (0x3f0, 16, True))]
    it = bus.Bus(devices, [])
    for port in range(0x10000):
        claiming = [device for device in devices if device.port <= port < device.port + device.ports]
        assert it._at(port) is (claiming[0] if claiming else None), hex(port)


# MSRs.
def msr(number, vendor=boot.VENDOR_INTEL, write=None):
    """Returns (ACTION, RESULT, vector)."""
    box = Box(vendor=vendor, tsc_khz=2400000)
    seen = []
    kind = exit.MSR_READ if write is None else exit.MSR_WRITE
    box.script = [exits(kind, SELECTOR=number, VALUE=write or 0),
                  then(lambda box: seen.append((box.answer('ACTION'), box.answer('RESULT'), box.answer('RESULT2'))), out(0xf4, 0))]
    run(box)
    return seen[0]


GP = (vcpu.INJECT, 0, 13)


def test_msrs_that_exist_and_those_that_do_not():
    assert msr(0x1b) == GP and msr(0x6e0) == GP and msr(0x802) == GP            # the local APIC's are the kernel's
    assert msr(0x3a) == (vcpu.COMPLETE, 1, 0) and msr(0x3a, boot.VENDOR_AMD) == GP
    assert msr(0xce) == (vcpu.COMPLETE, 24 << 8, 0)
    assert msr(0xc0010114, boot.VENDOR_AMD) == (vcpu.COMPLETE, 0x18, 0) and msr(0xc0010114) == GP
    assert msr(0x12345) == GP and msr(0x12345, write=1) == GP
    assert msr(0x3a, write=5) == GP
    assert msr(0x1d9, write=0)[0] == vcpu.COMPLETE and msr(0x1d9, write=1) == GP
    assert msr(0x8b, write=0)[0] == vcpu.COMPLETE


# CPUID.
HOST = {0: (0x20, 0x756e6547, 0x6c65746e, 0x49656e69), 1: (0x306c3, 0x05100800, 0xffffffff, 0xffffffff), 2: (1, 2, 3, 4),
        4: (0xfc004121, 0x1c0003f, 0x3f, 0), (7, 0): (2, 0xffffffff, 0xffffffff, 0xffffffff), (7, 1): (9, 9, 9, 9),
        0xa: (0x7300403, 1, 2, 3), (0xd, 0): (0x2e7, 2696, 2696, 0), (0xd, 1): (0xf, 2568, 0x1900, 0), (0xd, 2): (256, 576, 0, 0),
        (0xd, 5): (64, 1088, 0, 0), (0xd, 9): (8, 2688, 0, 0), 0x80000000: (0x8000001f, 7, 8, 9), 0x80000001: (5, 6, 0xffffffff, 0xffffffff),
        0x80000008: (0x3927, 0xffffffff, 0xffff, 9), 0x8000000a: (1, 2, 3, 4), 0x40000000: (1, 2, 3, 4), 5: (64, 64, 3, 32)}


def table(host=HOST, vendor=boot.VENDOR_INTEL, tsc_khz=1000):
    """What the guest sees without asking: leaf -> four values, and the leaves that ask, one word per class."""
    from hypervisor.hw import memory
    box = Box(vendor=vendor, tsc_khz=tsc_khz)
    box.cpuid_leaves = host
    box.script = [out(0xf4, 0)]
    run(box)
    entries = {}
    for n, leaf in enumerate(cpuid.LEAVES):
        at = VCPU_PAGE + vcpu.CPUID_TABLE + 16 * n
        entries[leaf] = tuple(int(memory.load32(r_uint(at + 4 * k))) for k in range(4))
    return entries, [int(memory.load32(r_uint(VCPU_PAGE + vcpu.CPUID_ASK + 4 * n))) for n in range(len(vcpu.CPUID_CLASSES))]


def ask(leaf, subleaf, host=HOST, value=0):
    box = Box()
    box.cpuid_leaves = host
    seen = []

    def look(box):
        first, second = box.answer('RESULT'), box.answer('RESULT2')
        seen.append((first & 0xffffffff, first >> 32, second & 0xffffffff, second >> 32))
    box.script = [exits(exit.CPUID, SELECTOR=leaf | subleaf << 32, VALUE=value), then(look, out(0xf4, 0))]
    run(box)
    return seen[0]


def has(value, bit):
    return value >> bit & 1


def test_cpuid_hides_what_guests_must_not_use():
    entries, asked = table()
    assert entries[0] == (0x16,) + HOST[0][1:]
    eax, ebx, ecx, edx = entries[1]
    assert eax == 0x306c3 and ebx == 0x00010800
    for bit in (2, 3, 5, 6, 15, 17, 18, 27):                # DTES64 MONITOR VMX SMX PDCM PCID DCA OSXSAVE
        assert not has(ecx, bit)
    for bit in (0, 13, 20, 26, 28, 30, 31):                 # SSE3 CX16 SSE4.2 XSAVE AVX RDRAND hypervisor
        assert has(ecx, bit)
    for bit in (7, 12, 14, 21, 28):                         # MCE MTRR MCA DS HTT
        assert not has(edx, bit)
    assert entries[5] == entries[0xa] == entries[0x8000000a] == (0, 0, 0, 0)
    assert entries[0x80000000][0] == 0x80000008
    assert entries[0x80000008] == (0x3927, 0, 0, 0)
    for features, largest in ((0xffffffff & ~(1 << 16), 0x20), (0xffffffff, 6)):       # a processor without the leaf answers with another one
        host = dict(HOST)
        host[7, 0], host[0] = (2, 0, features, 0), (largest,) + HOST[0][1:]
        assert table(host)[0][0x80000008] == (0x3027, 0, 0, 0)
    extended = entries[0x80000001]
    assert not has(extended[2], 2) and not has(extended[3], 27) and not has(extended[3], 9) and has(extended[3], 29)
    assert asked == [1 << 4 | 1 << 7 | 1 << 0xb | 1 << 0xd, 0, 0, 0]


def test_cpuid_shows_the_kernels_local_apic_whatever_the_processor_has():
    for word in (0, 0xffffffff):
        host = dict(HOST)
        host[1] = (0x306c3, 0, word, word)
        _, _, ecx, edx = table(host)[0][1]
        assert has(edx, 9) and has(ecx, 21) and has(ecx, 24)                    # APIC, x2APIC, TSC deadline


def words_of(text):
    return tuple(struct.unpack('<3I', text))


def test_cpuid_names_the_hypervisor_where_guests_look():
    entries, _ = table()
    assert entries[0x40000000] == (0x40000010,) + words_of(b'KVMKVMKVM\0\0\0')
    assert entries[0x40000001] == (1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 11 | 1 << 24, 0, 0, 0)   # clock, delay, clock, steal time, PV IPI, stable: Linux' kvm/cpuid.rst
    assert entries[0x40000100] == (0x40000100,) + words_of(b'BulkheadBulk')
    for leaf in entries:
        if 0x40000000 <= leaf < 0x80000000 and leaf not in (0x40000000, 0x40000001, 0x40000010, 0x40000100):
            assert entries[leaf] == (0, 0, 0, 0)


@pytest.mark.parametrize('tsc_khz', [1000, 2400000, 3999999])
def test_cpuid_tells_both_rates(tsc_khz):
    """In leaf 0x15 TSC = crystal * EBX / EAX; the local APIC's timer counts the crystal, 16 TSC ticks a count (docs/abi.md)."""
    entries, _ = table(tsc_khz=tsc_khz)
    eax, ebx, crystal, edx = entries[0x15]
    assert ebx == 16 * eax and abs(crystal * 16 - tsc_khz * 1000) < 16 and edx == 0
    assert entries[0x40000010] == (tsc_khz, tsc_khz // 16, 0, 0)


def test_cpuid_leaves_beyond_the_hosts_largest_are_zeros():
    entries, _ = table({0: (1, 1, 2, 3), 1: HOST[1], 2: (1, 2, 3, 4), 0x80000000: (0x80000001, 0, 0, 0), 0x80000008: (1, 2, 3, 4)})
    assert entries[0][0] == 0x15 and entries[2] == entries[0x80000008] == (0, 0, 0, 0)
    assert [leaf for leaf in range(2, 0x20) if entries[leaf] != (0, 0, 0, 0)] == [0x15], 'only the rate is made without the host'


def test_cpuid_by_subleaf():
    eax, ebx, ecx, edx = ask(7, 0)
    assert eax == 0 and not has(ebx, 10) and not has(ebx, 16) and has(ecx, 3) and not has(ecx, 4) and has(ecx, 16) and not has(ecx, 22)
    assert has(ebx, 7) and has(ebx, 20) and has(ecx, 2) and edx == 1 << 4
    assert ask(7, 1) == (0, 0, 0, 0)
    assert ask(4, 0) == (0x121, 0x1c0003f, 0x3f, 0)
    assert ask(0xb, 0) == (0, 1, 0x100, 0) and ask(0xb, 1) == (0, 1, 0x201, 0) and ask(0xb, 2) == (0, 0, 2, 0)
    assert ask(0xd, 2) == (256, 576, 0, 0) and ask(0xd, 9) == (8, 2688, 0, 0)
    for other in (3, 4, 5, 6, 7, 8, 10, 34, 41, 0xffffffff):
        assert ask(0xd, other) == (0, 0, 0, 0)
    without = dict(HOST)
    without[1] = (0x306c3, 0, 0, 0xffffffff)
    assert ask(0xd, 0, without) == (0, 0, 0, 0)


def test_leaf_7_says_whether_the_guest_has_turned_keys_on():
    for cr4 in (0, 1 << 18, 1 << 22, 0xffffffff):
        assert has(ask(7, 0, value=cr4)[2], 4) == has(cr4, 22)
    assert ask(7, 1, value=1 << 22) == (0, 0, 0, 0)


@pytest.mark.parametrize('xcr0, standard, compacted', [(1, 576, 576), (3, 576, 576), (7, 832, 832), (0x203, 2696, 584), (0x207, 2696, 840), (0x2e7, 2696, 840)])
def test_sizes_of_the_xsave_area_follow_xcr0(xcr0, standard, compacted):
    """Source: Intel SDM Vol. 1, "Extended Region of an XSAVE Area"."""
    assert ask(0xd, 0, value=xcr0) == (0x207, standard, 2696, 0) and ask(0xd, 1, value=xcr0) == (7, compacted, 0, 0)
    aligned = dict(HOST)
    aligned[0xd, 9] = (8, 2688, 2, 0)
    aligned[0xd, 2] = (250, 576, 0, 0)
    assert ask(0xd, 1, aligned, xcr0)[1] == {576: 576, 584: 584, 832: 826, 840: 840}[compacted]
    assert ask(0xd, 9, aligned) == (8, 2688, 2, 0)


def test_xsave_has_no_key_component_without_keys():
    for ecx, components in ((0xffffffff & ~(1 << 3), 0x2e7), (0xffffffff, 0xe7)):
        host = dict(HOST)
        host[7, 0], host[0xd, 0] = (2, 0, ecx, 0), (components, 0, 0, 0)
        assert ask(0xd, 0, host, 0x207) == (7, 832, 832, 0) and ask(0xd, 1, host, 0x207) == (7, 832, 0, 0) and ask(0xd, 9, host) == (0, 0, 0, 0)


def test_memory_devices_are_found_where_they_are():
    """Whatever their order; and nobody else."""
    places = [(0xfed00000, 0x400), (0xfec00000, 0x1000), (0xfee00000, 0x1000)]
    devices = [bus.MemoryDevice(r_uint(base), r_uint(size)) for base, size in places]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [1], []):
        its = bus.Bus([bus.Device(0, 0, True)], [devices[n] for n in order])
        assert [its.lowest, its.lowest + its.span] == ([min(places[n][0] for n in order), max(sum(places[n]) for n in order)] if order else [(1 << 64) - 1] * 2)
        for gpa in [0, 0xd0000000, 0xfebfffff, 0xffffffff, 1 << 32, 0x1fec00000, (1 << 64) - 1] + [base + at for base, size in places for at in (-1, 0, size - 1, size)]:
            owners = [devices[n] for n in order if places[n][0] <= gpa < sum(places[n])]
            assert its.memory_device(r_uint(gpa)) is (owners[0] if owners else None), (order, hex(gpa))
