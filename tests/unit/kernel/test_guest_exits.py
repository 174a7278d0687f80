"""Guests: whatever the processor reports, the kernel finishes it, hands it to the VMM or ends that VM."""
import pytest
from hypothesis import example, given, strategies as st
from rpython.rlib.rarithmetic import r_uint

from hypervisor.kernel.compartment import compartments
from hypervisor.spec import call, ending, refusal, svm, vcpu
from hypervisor.spec import exit as kinds
from tests.unit.kernel import audit
from tests.unit.kernel.test_answers import EDGES, NEIGHBOUR, VM, canonical, control_area, objects_of, prepared, values, FIRST
from tests.unit.kernel.vm import block_of, exit_field, exits, make_vm, run_guest_once, vcpu_page

RUN, SLOT = call.VCPU_RUN, call.SLOT_VCPU
CPUID_CODES, MSR, XSETBV, VMMCALL = 0x72, 0x7c, 0x8d, 0x81
UD, GP = 6, 13
HOST_XCR0 = 7


def running(box):
    """Two VMs whose vCPUs run; no exit is outstanding."""
    for number in (VM, NEIGHBOUR):
        make_vm(box, number)
        table = bytearray((n * 37 + 11) % 256 for n in range(vcpu.CPUID_ASK - vcpu.CPUID_TABLE))
        box.memory.put(vcpu_page(number) + vcpu.CPUID_TABLE, bytes(table))
        box.memory.put_word(vcpu_page(number) + vcpu.CPUID_ASK, 0x80000012 | 0x10 << 32)
        box.memory.put(vcpu_page(number) + vcpu.CPUID_ASK + 8, b'\x01\0\0\0')
        box.memory.put_word(vcpu_page(number) + vcpu.ANSWER['DIRTY'], vcpu.GROUP_CPUID)
        assert box.kernel_call(number, RUN, SLOT, 0) is None


ASKED = [set([1, 4, 31]), set([4]), set([0])]
CLASSES = [0, 0x80000000, 0x40000000]

# Exit codes of the APM's appendix "SVM Intercept Exit Codes", and what docs/abi.md has done about each
FINISHED = {0x60: None, 0x61: None, 0x62: None, 0x76: 'advance', 0x89: 'advance', 0x81: 'advance', 0x52: None}     # INTR, NMI, SMI, INVD, WBINVD, VMMCALL, #MC
REFUSED = [0x7a, 0x80, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x8a, 0x8b, 0x8c, 0x73, 0x8e, 0x6f]                      # #UD: features that guests do not get
LIMITS = [0x7d, 0x7e]                                                                                               # TASK_SWITCH, FERR_FREEZE
DELIVERED = {0x78: kinds.HLT, 0x7f: kinds.SHUTDOWN, 0x7b: kinds.IO, 0x7c: kinds.MSR_READ, 0x400: kinds.MEMORY}
WINDOWS = [0x18, 0x41, 0x64, 0x74]                        # MOV to CR8, #DB, VINTR, IRET: what the kernel itself waits for
codes = st.one_of(st.integers(0, 0xff), st.integers(0x60, 0x90), st.sampled_from([0x400, 0x401, 0x402, 0x403, (1 << 64) - 1, 0xffffffff, 1 << 32 | 0x72] + EDGES), values)


def sent_event(box, number, code=0x60):
    """EVENTINJ of the next run."""
    seen = []
    run_guest_once(box, number, lambda machine, registers, block: (seen.append(block.get('EVENTINJ')), block.exit(code)))
    return seen[0]


@given(code=codes, info1=values, info2=values, rip=values, interrupted=values, nrip=values, rax=values, rcx=values, rdx=values)
@example(code=0x7b, info1=0x3f80010, info2=0, rip=0, interrupted=0, nrip=0, rax=0, rcx=0, rdx=0)
@example(code=0x400, info1=0, info2=0, rip=0, interrupted=0x80000b0e, nrip=0, rax=0, rcx=0, rdx=0)
@example(code=(1 << 64) - 1, info1=0, info2=0, rip=0, interrupted=0, nrip=0, rax=0, rcx=0, rdx=0)
def test_any_exit_is_finished_delivered_or_the_end(fresh, code, info1, info2, rip, interrupted, nrip, rax, rcx, rdx):
    box = fresh(running)
    if code == 0x7b:
        info1 = info1 & ~0x70 | 0x10 << info2 % 3         # the processor sets exactly one of SZ8, SZ16, SZ32
    neighbour = objects_of(box, NEIGHBOUR)

    def guest(machine, registers, block):
        for name, value in (('RAX', rax), ('RCX', rcx), ('RDX', rdx)):
            registers.set(name, value)
        block.set('RIP', rip)
        block.exit(code, info1, info2, interrupted, nrip)
    control = control_area(box, VM)
    run_guest_once(box, VM, guest)
    assert objects_of(box, NEIGHBOUR) == neighbour, 'the neighbour was touched'
    c = compartments[VM]
    event = int(c.vcpus[0].event) if c.vcpus[0] else 0
    if code in LIMITS or (code == 0x400 and repeated(interrupted)):
        assert (c.state, c.how, int(c.detail)) == (call.STATE_ENDED, ending.KERNEL_LIMIT, rip)
    elif code & 0xffffffff == 0xffffffff:
        assert (c.state, c.how) == (call.STATE_ENDED, ending.ENTRY_FAILED)
    elif code in (0x72, 0x7c, 0x8d):
        assert c.state == call.STATE_RUNNING            # tests of their own below
    elif code in DELIVERED:
        assert c.vcpus[0].outstanding and not c.vcpus[0].ready and c.task.ready
        assert exit_field(box, VM, 'KIND') == DELIVERED[code]
    elif code in REFUSED:
        assert event == 0x80000300 | UD and c.vcpus[0].ready
    elif code in WINDOWS:
        assert c.vcpus[0].ready and not c.vcpus[0].outstanding
    elif code in FINISHED:
        assert c.vcpus[0].ready and not c.vcpus[0].outstanding
        assert block_of(box, VM).get('RIP') == (nrip if FINISHED[code] else rip)
        assert event == (interrupted if repeated(interrupted) else 0)
    else:
        assert (c.state, c.how, int(c.detail)) == (call.STATE_ENDED, ending.EXIT_UNKNOWN, code)
    if c.state == call.STATE_RUNNING and code not in WINDOWS:
        same = bytearray(control_area(box, VM))
        for name in ('EXITCODE', 'EXITINFO1', 'EXITINFO2', 'EXITINTINFO', 'NRIP', 'EVENTINJ'):
            same[svm.VMCB[name]:svm.VMCB[name] + 8] = control[svm.VMCB[name]:svm.VMCB[name] + 8]
        assert bytes(same) == control, 'the VMCB control area changed'
    audit.check(box)


def repeated(event):
    """Must an interrupted delivery be repeated? Source: APM Vol. 2, "EXITINTINFO Pseudo-Code": what INT, INT3 and INTO began is begun again
    by the instruction."""
    kind, vector = event >> 8 & 7, event & 0xff
    return bool(event >> 31 & 1) and kind != 4 and not (kind == 3 and vector & 31 in (3, 4))


@pytest.mark.parametrize('event', [0x80000030, 0x80000202, 0x8000030d | 1 << 11 | 0x18 << 32, 0x80000306, 0x80000b0e | 7 << 32])
def test_interrupted_delivery_is_repeated_once(fresh, event):
    box = fresh(running)
    run_guest_once(box, VM, exits(0x60, 0, 0, event))
    assert sent_event(box, VM) == event
    assert sent_event(box, VM) == 0


@pytest.mark.parametrize('event', [0, 0x30, 0x80000480, 0x80000303, 0x80000304])
def test_what_an_instruction_began_is_not_repeated(fresh, event):
    box = fresh(running)
    run_guest_once(box, VM, exits(0x60, 0, 0, event))
    assert sent_event(box, VM) == 0


def test_reset_forgets_the_event_that_the_shutdown_interrupted(fresh):
    box = fresh(running)
    run_guest_once(box, VM, exits(0x7f, 0, 0, 0x80000b0e))
    box.memory.put_word(vcpu_page(VM) + vcpu.ANSWER['ACTION'], vcpu.RESUME)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    assert sent_event(box, VM) == 0


@pytest.mark.parametrize('vector', [n for n in range(32) if n not in (2, 9, 15) and n < 21])
def test_injected_exception_carries_an_error_code_where_the_manual_has_one(fresh, vector):
    box = fresh(running)
    run_guest_once(box, VM, exits(0x7c, 0))
    for name, value in (('ACTION', vcpu.INJECT), ('RESULT2', vector), ('ERROR', 0x1234)):
        box.memory.put_word(vcpu_page(VM) + vcpu.ANSWER[name], value)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    with_error = vector in (8, 10, 11, 12, 13, 14, 17)
    assert sent_event(box, VM) == 0x80000300 | vector | (1 << 11 | 0x1234 << 32 if with_error else 0)


# CPUID

leaves = st.one_of(st.integers(0, 40), st.sampled_from([base + n for base in CLASSES for n in (0, 1, 2, 4, 30, 31, 32, 33)] +
                                                       [0x3fffffff, 0x7fffffff, 0xffffffff, 0xbfffffff]), st.integers(0, 0xffffffff))


@given(leaf=leaves, subleaf=st.integers(0, 0xffffffff), high=st.integers(0, 0xffffffff), osxsave=st.booleans())
def test_cpuid_answers_from_the_table(fresh, leaf, subleaf, high, osxsave):
    box = fresh(running)
    table = box.memory.take(vcpu_page(VM) + vcpu.CPUID_TABLE, 96 * 16)
    box.memory.put(vcpu_page(VM) + vcpu.CPUID_TABLE, b'\0' * 96 * 16)       # the table is a copy by now
    before = dict((name, (high << 32 | n) * 3 % (1 << 64)) for n, name in enumerate(vcpu.GPR))
    before['RAX'], before['RCX'] = high << 32 | leaf, high << 32 | subleaf

    def guest(machine, registers, block):
        for name, value in before.items():
            registers.set(name, value)
        block.set('CR4', 1 << 18 if osxsave else 0)
        block.exit(CPUID_CODES)
    run_guest_once(box, VM, guest)
    c = compartments[VM]
    group = [n for n, base in enumerate(CLASSES) if leaf & 0xc0000000 == base]
    inside = group and leaf - CLASSES[group[0]] < 32
    if inside and leaf - CLASSES[group[0]] in ASKED[group[0]]:
        assert c.vcpus[0].outstanding
        assert [exit_field(box, VM, name) for name in ('KIND', 'SELECTOR')] == [kinds.CPUID, leaf | subleaf << 32]
        return
    right = [0, 0, 0, 0]
    if inside:
        at = (group[0] * 32 + (leaf & 31)) * 16
        right = [int(table[at + 4 * n:at + 4 * n + 4][::-1].encode('hex'), 16) for n in range(4)]
    assert c.vcpus[0].ready
    seen = dict((name, word) for name, word in zip(vcpu.GPR, [box.memory.word(area_hpa(c) + 8 * n) for n in range(16)]))
    assert [seen[name] for name in ('RAX', 'RBX', 'RCX', 'RDX')] == right
    assert all(seen[name] == before[name] for name in vcpu.GPR if name not in ('RAX', 'RBX', 'RCX', 'RDX'))


@pytest.mark.parametrize('leaf', [base + n for base in CLASSES for n in (32, 33, 63)] + [0x3fffffff, 0x7fffffff, 0xffffffff])
def test_leaves_outside_the_table_are_zeros(fresh, leaf):
    """Also where the leaf of the same place in the table is one that the VMM is asked for."""
    box = fresh(running)

    def guest(machine, registers, block):
        for name in ('RAX', 'RBX', 'RCX', 'RDX'):
            registers.set(name, leaf if name == 'RAX' else 0x1111)
        block.exit(CPUID_CODES)
    run_guest_once(box, VM, guest)
    c = compartments[VM]
    assert c.vcpus[0].ready and [box.memory.word(area_hpa(c) + 8 * n) for n in range(4)] == [0, 0, 0, 0]


def area_hpa(c):
    return audit.page_of(c.vcpus[0].area) + int(c.vcpus[0].area) % 4096


@pytest.mark.parametrize('table_bit', [0, 1])
@pytest.mark.parametrize('cr4_bit', [0, 1])
def test_osxsave_is_what_the_guest_has_set_in_cr4(fresh, table_bit, cr4_bit):
    """Leaf 1 ECX bit 27. Source: Intel SDM Vol. 2A, "CPUID"."""
    box = fresh(prepared_leaf1)
    c = compartments[VM]
    box.memory.put(audit.page_of(c.vcpus[0].cpuid) + int(c.vcpus[0].cpuid) % 4096 + 16 + 8, bytearray([1, 0, 0, table_bit << 3]))

    def guest(machine, registers, block):
        registers.set('RAX', 1)
        block.set('CR4', cr4_bit << 18)
        block.exit(CPUID_CODES)
    run_guest_once(box, VM, guest)
    assert box.memory.word(area_hpa(c) + 8) == 1 | cr4_bit << 27


def prepared_leaf1(box):
    make_vm(box, VM)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None


# MSRs that are part of a context

def msr(box, number, value=None, **state):
    """RDMSR, or WRMSR of value. Returns what came of it: ('delivered', kind), 'GP' or the value of EDX:EAX."""
    def guest(machine, registers, block):
        registers.set('RCX', 0xdeadbeef << 32 | number)
        if value is not None:
            registers.set('RAX', 0xdeadbeef << 32 | value & 0xffffffff)
            registers.set('RDX', 0xdeadbeef << 32 | value >> 32)
        for name, content in state.items():
            block.set(name, content)
        block.exit(MSR, 0 if value is None else 1)
    rip = block_of(box, VM).get('RIP')
    run_guest_once(box, VM, guest)
    c = compartments[VM]
    assert c.state == call.STATE_RUNNING
    if c.vcpus[0].outstanding:
        return 'delivered', exit_field(box, VM, 'KIND')
    if int(c.vcpus[0].event):
        assert int(c.vcpus[0].event) == 0x80000b00 | GP and block_of(box, VM).get('RIP') == rip
        return 'GP'
    assert block_of(box, VM).get('RIP') == rip + 2
    return (box.memory.word(area_hpa(c) + 16) << 32 | box.memory.word(area_hpa(c)) & 0xffffffff) if value is None else 'written'


EFER_BITS = [0, 8, 10, 11, 12, 13, 14, 15, 1, 16, 32, 63]
efers = st.lists(st.sampled_from(EFER_BITS), unique=True).map(lambda names: sum(1 << bit for bit in names))


@given(old=st.sampled_from([0, 1, 0x100, 0x500, 0xd01]), new=efers, paging=st.booleans())
def test_efer_is_written_as_the_manual_has_it(fresh, old, new, paging):
    """SCE, LME and NXE; LMA stays the processor's; LME only while paging is off; SVME is never seen nor lost."""
    box = fresh(running)
    result = msr(box, 0xc0000080, new, EFER=old | 0x1000, CR0=0x80000011 if paging else 0x11)
    efer = block_of(box, VM).get('EFER')
    if new & ~0xd01 or ((new ^ old) & 0x100 and paging):
        assert result == 'GP' and efer == old | 0x1000
    else:
        assert result == 'written' and efer == new & 0x901 | old & 0x400 | 0x1000
        assert msr(box, 0xc0000080) == new & 0x901 | old & 0x400


@given(kinds_of_memory=st.lists(st.sampled_from([0, 1, 4, 5, 6, 7, 0, 1, 4, 5, 6, 7, 2, 3, 8, 0x80, 0xff]), min_size=8, max_size=8))
def test_pat_takes_memory_types_only(fresh, kinds_of_memory):
    """Source: AMD64 APM Vol. 2, "PAT Register"."""
    box = fresh(running)
    value = sum(kind << 8 * n for n, kind in enumerate(kinds_of_memory))
    result = msr(box, 0x277, value)
    if set(kinds_of_memory) <= set([0, 1, 4, 5, 6, 7]):
        assert result == 'written' and block_of(box, VM).get('G_PAT') == value and msr(box, 0x277) == value
    else:
        assert result == 'GP' and block_of(box, VM).get('G_PAT') == 0x0007040600070406


# EFER, PAT, and the local APIC's: APIC_BASE, TSC_DEADLINE and the x2APIC registers
KERNELS_MSRS = [0x277, 0xc0000080, 0x1b, 0x6e0] + list(range(0x800, 0x840))


@given(number=st.one_of(st.integers(0, 0xffffffff), st.sampled_from([0x10, 0x1a, 0x1c, 0x6df, 0x6e1, 0x7ff, 0x840, 0x276, 0x278, 0xc000007f, 0xc0000081, 0xc0010117])), value=st.one_of(st.none(), values))
def test_other_msrs_are_the_vmms(fresh, number, value):
    box = fresh(running)
    if number not in KERNELS_MSRS:
        assert msr(box, number, value) == ('delivered', kinds.MSR_READ if value is None else kinds.MSR_WRITE)
        assert exit_field(box, VM, 'SELECTOR') == number
        assert value is None or exit_field(box, VM, 'VALUE') == value


@pytest.mark.parametrize('number', KERNELS_MSRS)
def test_the_kernels_msrs_are_not_the_vmms(fresh, number):
    result = msr(fresh(running), number)
    assert isinstance(result, (int, long)) or result == 'GP'


@pytest.mark.parametrize('index, value, cpl', [(0, value, 0) for value in list(range(10)) + [0x203, 1 << 32 | 3, 1 << 63 | 7]] +
                         [(0, value, cpl) for value in (1, 3, 7) for cpl in (1, 2, 3)] + [(index, 3, 0) for index in (1, 2, 0x80000000)])
def test_xsetbv_takes_what_the_manual_allows(fresh, index, value, cpl):
    """Source: Intel SDM Vol. 2C, "XSETBV"; the box's processor offers x87, SSE and AVX."""
    box = fresh(running)

    def guest(machine, registers, block):
        for name, word in (('RAX', value & 0xffffffff), ('RDX', value >> 32), ('RCX', index)):
            registers.set(name, 0xdeadbeef << 32 | word)
        machine.memory.put(block.hpa + 0x422, bytearray([0x93 | cpl << 5, 0x0c]))
        block.exit(XSETBV)
    run_guest_once(box, VM, guest)
    allowed = index == 0 and cpl == 0 and value in (1, 3, 7)
    assert int(compartments[VM].vcpus[0].event) == (0 if allowed else 0x80000b00 | GP)
    assert box.cpu.register['xcr0'] == int(compartments[VM].vcpus[0].xcr0) == (value if allowed else 1)


KEYS = {7: (0, 1 << 0 | 1 << 7 | 1 << 20, 1 << 2 | 1 << 3, 0), 0xd: (0x2e7, 0, 0, 0)}


@pytest.mark.parametrize('leaves', [KEYS, dict(KEYS, **{7: (0, 0, 1 << 2, 0)}), dict(KEYS, **{0xd: (0xe7, 0, 0, 0)})], ids=['keys', 'no keys', 'no component'])
def test_xcr0_has_the_key_component_where_the_processor_has_both(make_machine, leaves):
    """Whatever else is in it, and not of the other components that the processor has."""
    box = make_machine(leaves=leaves)
    assert box.boot() == refusal.NONE
    make_vm(box, VM, vcpus=1)
    assert box.kernel_call(VM, RUN, SLOT, 0) is None
    for value in (0x201, 0x207, 0x205, 0x200, 0x20f, 0x2e7, 0x601, 7, 0x203):
        before = int(compartments[VM].vcpus[0].xcr0)

        def guest(machine, registers, block):
            for name, word in (('RAX', value), ('RDX', 0), ('RCX', 0)):
                registers.set(name, word)
            block.exit(XSETBV)
        compartments[VM].vcpus[0].event = r_uint(0)
        run_guest_once(box, VM, guest)
        allowed = value in ((0x201, 0x207, 7, 0x203) if leaves is KEYS else (7,))
        assert int(compartments[VM].vcpus[0].event) == (0 if allowed else 0x80000b00 | GP), hex(value)
        assert box.cpu.register['xcr0'] == int(compartments[VM].vcpus[0].xcr0) == (value if allowed else before)


@pytest.mark.parametrize('leaf, value', [(7, 0x400000), (0xd, 0x207)])
def test_leaves_7_and_0xd_bring_what_their_answer_depends_on(make_machine, leaf, value):
    """CR4.PKE, and XCR0 as the processor has it: an XSETBV that did not exit counts as well."""
    box = make_machine(leaves=KEYS)
    assert box.boot() == refusal.NONE
    running(box)
    box.memory.put_word(audit.page_of(compartments[VM].vcpus[0].cpuid) + int(compartments[VM].vcpus[0].cpuid) % 4096 + vcpu.CPUID_ASK - vcpu.CPUID_TABLE, 1 << leaf)
    compartments[VM].vcpus[0].note_apart()

    def guest(machine, registers, block):
        registers.set('RAX', 0xdead << 32 | leaf)
        registers.set('RCX', 3)
        box.cpu.register['xcr0'] = 0x207
        block.set('CR4', 0x400628)
        block.exit(CPUID_CODES)
    run_guest_once(box, VM, guest)
    assert [exit_field(box, VM, name) for name in ('KIND', 'SELECTOR', 'VALUE')] == [kinds.CPUID, leaf | 3 << 32, value]
    assert not box.cpu.register['cr4'] & (1 << 18 | 1 << 22)


def test_permission_maps_let_through_only_the_context_msrs(fresh):
    """Read out of physical memory. Source: APM Vol. 2, "MSR Intercepts", "I/O Intercepts"."""
    box = fresh(running)
    block = block_of(box, VM)
    ports = box.memory.take(block.get('IOPM_BASE_PA'), 3 * 4096)
    assert ports == b'\xff' * len(ports)
    maps = bytearray(box.memory.take(block.get('MSRPM_BASE_PA'), 2 * 4096))
    open_bits = {}
    for first, offset in ((0, 0), (0xc0000000, 0x800), (0xc0010000, 0x1000)):
        for n in range(8192):
            bits = maps[offset + n // 4] >> n % 4 * 2 & 3
            if bits != 3:
                open_bits[first + n] = bits
    assert open_bits == dict([(0x10, 2)] + [(number, 0) for number in (0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102,
                                                                        0x174, 0x175, 0x176)])


def test_vmcb_control_area_is_the_kernels(fresh):
    """ASID, nested paging and intercepts of two VMs; each has its own ASID and root."""
    box = fresh(running)
    first, second = block_of(box, VM), block_of(box, NEIGHBOUR)
    for number, block in ((VM, first), (NEIGHBOUR, second)):
        assert block.get('ASID') & 0xffffffff == number and block.get('NP_ENABLE') & 1
        assert block.get('N_CR3') == int(compartments[number].nested.root) != 0
        assert block.get('V_INTR') == 1 << 24
        intercepts = block.get('INTERCEPT_1') >> 0 & 0xffffffff | (block.get('INTERCEPT_2') & 0xffffffff) << 32
        for bit in (0, 1, 2, 18, 24, 27, 28, 31, 32, 33, 34, 35, 36, 37, 38, 45):
            assert intercepts >> bit & 1, 'intercept %d' % bit
    assert first.get('N_CR3') != second.get('N_CR3')
