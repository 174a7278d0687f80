"""The whole manager, untranslated, on the fake kernel."""
import struct

import pytest

from hypervisor.manager import build, config
from hypervisor.spec import boot, call, ending, exit, layout, status
from tests.unit.fake_kernel import GARBAGE, TSC_KHZ, FakeKernel, Uart, quick
from tests.unit.manager import blob
from tests.unit.manager.box import EXITED, Run, make_manager, modules, two_guests

PAGE = layout.PAGE
READ, WRITE, EXECUTE = call.READ, call.WRITE, call.EXECUTE


@pytest.fixture(autouse=True)
def quickly(request):
    """All but two tests, which show that the calls' types are right as well, take the short way to the fake kernel."""
    if request.node.name.startswith('test_two_guests') or request.node.name.startswith('test_the_switch_key'):
        yield
    else:
        with quick():
            yield


def test_two_guests_print_and_the_box_goes_off_with_status_0():
    run = Run(two_guests([('send', 'hello\nworld\n')], [('send', 'moin\r\n')]))
    assert run.lines_of('alpha') == ['hello', 'world']
    assert run.lines_of('beta') == ['moin']
    assert run.status == 0
    assert run.lines[-1] == 'bulkhead: box off, status 0'


def test_a_vms_memory_is_cleared_through_large_pages(monkeypatch):
    """... in a window of their own: a table of small pages that something else has left there would stay."""
    mapped, do_map = [], FakeKernel.do_map

    def noted(self, slot, region, first, address, count, rights):
        if slot == call.SLOT_SELF and rights:
            mapped.append((address, count))
        return do_map(self, slot, region, first, address, count, rights)
    monkeypatch.setattr(FakeKernel, 'do_map', noted)
    assert Run(two_guests([], [])).status == 0
    large = [count for address, count in mapped if build.LARGE_WINDOW <= address < build.LARGE_WINDOW + (512 << 20)]
    assert large and set(large) == set([call.BATCH])
    assert all(count < call.BATCH for address, count in mapped if build.WORK_WINDOW <= address < build.LARGE_WINDOW)


@pytest.mark.parametrize('machine', ['bochs', 'acpi'])
def test_each_way_of_switching_off_is_tried(machine):
    run = Run(two_guests([], [], machine=machine))
    assert run.status is None and run.lines[-1] == 'bulkhead: box off, status 0'


def test_power_off_waits_until_the_last_byte_is_on_the_line():
    kernel = two_guests([], [])
    kernel.uart.period = 87
    Run(kernel)
    assert kernel.now >= kernel.uart.free_at


# -- what a VMM finds

class World(object):
    """What two_guests' VMMs found when they started."""

    def __init__(self):
        self.slots, self.memory, self.space, self.ram = {}, {}, {}, {}

    def __call__(self, kernel, compartment):
        name = kernel.vm_name(compartment)
        self.slots[name] = dict((slot, thing.kind) for slot, thing in compartment.slots.items())
        self.space[name] = dict(compartment.space)
        self.memory[name] = dict((page, bytes(kernel.frame(frame)))
                                 for page, (frame, _) in compartment.space.items() if frame is not None)
        self.ram[name] = compartment.slots[call.SLOT_RAM]
        for frame in self.ram[name].frames():
            assert not any(kernel.frame(frame)), 'RAM frame that is not clear'


@pytest.fixture(scope='module')
def world():
    found = World()
    kernel = two_guests([], [])
    kernel.at_start = found
    found.run = Run(kernel)
    return found


def rights_at(world, name, address):
    return world.space[name][address // PAGE][1]


def test_a_vmm_has_exactly_the_capabilities_of_the_contract(world):
    assert world.slots['alpha'] == {call.SLOT_SELF: 'compartment', call.SLOT_PROGRAM: 'region', call.SLOT_RAM: 'region',
                                    call.SLOT_IMAGE: 'region', call.SLOT_CONSOLE_OUT: 'ring', call.SLOT_CONSOLE_IN: 'ring',
                                    call.SLOT_VCPU: 'vcpu'}


def test_each_part_of_the_program_has_its_rights_and_content(world):
    memory = world.memory['beta']
    expected = [(0x401000, 'T', READ | EXECUTE), (0x402000, 'R', READ), (0x403000, 'D', READ | WRITE), (0x404000, '\0', READ | WRITE),
                (0x405000, '\0', READ | WRITE)]
    expected += [(layout.STACK_TOP - PAGE * n, '\0', READ | WRITE) for n in range(1, layout.STACK_PAGES + 1)]
    for address, content, rights in expected:
        assert memory[address // PAGE] == content * PAGE
        assert rights_at(world, 'beta', address) == rights
    mapped = set(memory)
    assert mapped == set(address // PAGE for address, _, _ in expected) | set([layout.BOOT_PAGE // PAGE])


def test_the_boot_page_says_what_the_configuration_said(world):
    page = world.memory['alpha'][layout.BOOT_PAGE // PAGE]
    assert rights_at(world, 'alpha', layout.BOOT_PAGE) == READ

    def word(name):
        return struct.unpack_from('<Q', page, boot.VMM[name])[0]

    def string(name):
        return page[word(name):page.index('\0', word(name))]
    assert [word(name) for name in ('MAGIC', 'VERSION', 'TSC_KHZ', 'VENDOR')] == [boot.MAGIC, 1, TSC_KHZ, boot.VENDOR_AMD]
    assert [word(name) for name in ('RAM_BYTES', 'IMAGE_KIND', 'IMAGE_BYTES', 'MODULE_COUNT')] == [4 << 20, 2, 5000, 0]
    assert string('NAME_STRING') == 'alpha' and string('COMMAND_LINE_STRING') == 'one two'


def test_a_vm_gets_the_vcpus_that_it_was_promised_and_is_told_how_many():
    kernel = FakeKernel(modules(blob.make([blob.vm('four', vcpus=4), blob.vm('one', image=4, ram=2 << 20)]), 'A', 'B'), regions=(4096,))
    seen = {}

    def look(kernel, c):
        page = kernel.read_space(c, layout.BOOT_PAGE, PAGE)
        slots = [slot for slot, thing in c.slots.items() if thing.kind == 'vcpu']
        seen[kernel.vm_name(c)] = (sorted(slots), struct.unpack_from('<Q', page, boot.VMM['VCPUS'])[0])
    kernel.at_start = look
    assert Run(kernel).status == 0
    assert seen == {'four': ([16, 17, 18, 19], 4), 'one': ([16], 1)}


def test_the_kernel_is_told_each_vms_share_before_it_starts():
    kernel = FakeKernel(modules(blob.make([blob.vm('a', entitlement=25, cap=50, weight=300), blob.vm('b', image=4, ram=2 << 20)]), 'A', 'B'), regions=(4096,))
    seen = {}

    def look(kernel, c):
        seen[kernel.vm_name(c)] = c.share
    kernel.at_start = look
    assert Run(kernel).status == 0
    assert seen == {'a': (25, 50, 300), 'b': (1, 0, 100)}


def test_a_vm_whose_share_the_kernel_refuses_is_not_started():
    kernel = FakeKernel(modules(blob.make([blob.vm('a', entitlement=25), blob.vm('b', image=4, ram=2 << 20)]), 'A', 'B'), regions=(4096,))
    plain = kernel.do_share
    kernel.do_share = lambda slot, entitlement, cap, weight: status.PROMISED if entitlement == 25 else plain(slot, entitlement, cap, weight)
    run = Run(kernel)
    assert status.SENTENCES[status.PROMISED] in run.row_of('a') and list(kernel.started) == ['b']


def test_a_vm_whose_last_vcpu_cannot_be_made_is_not_started():
    kernel = FakeKernel(modules(blob.make([blob.vm('four', vcpus=4), blob.vm('one', image=4, ram=2 << 20)]), 'A', 'B'), regions=(4096,))
    plain = kernel.do_vcpu_create
    kernel.do_vcpu_create = lambda slot, target, core, name: status.NO_ROOM if target == call.SLOT_VCPU + 3 else plain(slot, target, core, name)
    run = Run(kernel)
    assert 'status %d' % status.NO_ROOM in run.row_of('four') and list(kernel.started) == ['one']
    assert all(owner is kernel.manager for owner in kernel.owner.values())


def counts(compartment):
    return dict((slot, thing.count) for slot, thing in compartment.slots.items() if thing.kind == 'region')


def test_modules_flags_and_strings_reach_the_vmm():
    vm = blob.vm('solo', ram=2 << 20, kind=blob.FLAT, load=0x7c00, flags=1, restarts=3, command_line='x' * 1024,
                 modules=[(5, 'initrd first'), (4, '')])
    kernel = FakeKernel(modules(blob.make([vm]), 'I' * 10, 'J' * 20, 'K' * 4097), regions=(2048,))
    pages = []
    kernel.at_start = lambda kernel, c: pages.append((kernel.read_space(c, layout.BOOT_PAGE, PAGE), counts(c)))
    run = Run(kernel)
    page, slots = pages[0]

    def word(name):
        return struct.unpack_from('<Q', page, boot.VMM[name])[0]
    assert [word(n) for n in ('FLAGS', 'LOAD_ADDRESS', 'RESTARTS', 'MODULE_COUNT')] == [1, 0x7c00, 3, 2]
    assert [word(n) for n in ('MODULE_0_BYTES', 'MODULE_1_BYTES')] == [4097, 20]
    assert page[word('MODULE_0_STRING'):].startswith('initrd first\0') and page[word('MODULE_1_STRING')] == '\0'
    assert page[word('COMMAND_LINE_STRING'):].startswith('x' * 1024 + '\0')
    assert slots[call.SLOT_GUEST_MODULE] == 2 and slots[call.SLOT_GUEST_MODULE + 1] == 1
    assert run.status == 0


def test_what_lies_behind_a_modules_end_is_cleared_before_a_vm_gets_it():
    kernel = two_guests([], [])
    seen = {}

    def look(kernel, compartment):
        region = compartment.slots[call.SLOT_IMAGE]
        seen[kernel.vm_name(compartment)] = ''.join(bytes(kernel.frame(frame)) for frame in region.frames())
    kernel.at_start = look
    Run(kernel)
    assert seen['alpha'] == 'A' * 5000 + '\0' * 3192 and seen['beta'] == 'B' * 4096


def test_ram_begins_at_a_multiple_of_2_mib_and_vms_share_no_frame(world):
    alpha, beta = world.ram['alpha'], world.ram['beta']
    world_ram = [(4 << 20) // PAGE, (2 << 20) // PAGE]
    kernel = two_guests([], [])
    frames = []
    kernel.at_start = lambda kernel, c: frames.append([list(s.frames()) for s in c.slots.values() if s.kind == 'region'])
    Run(kernel)
    ours = [frame for regions in frames for region in regions for frame in region]
    assert len(ours) == len(set(ours))
    for regions, count in zip(frames, world_ram):
        ram = [region for region in regions if len(region) == count][0]
        assert ram[0] % 512 == 0
    assert alpha is not beta


def test_the_manager_keeps_nothing_of_a_vm_mapped():
    kernel = two_guests([], [])

    def look(kernel, compartment):
        mine = set(frame for frame, _ in kernel.manager.space.values())
        assert not mine & set(frame for s in compartment.slots.values() if s.kind == 'region' for frame in s.frames())
    kernel.at_start = look
    assert Run(kernel).status == 0


def test_the_vmm_starts_at_its_entry_with_its_stack(world):
    assert world.run.kernel.started['alpha'].start == (0x401020, layout.STACK_TOP - 8, 0)


# -- endings

def test_all_frames_of_ended_vms_are_the_managers_again_and_clear():
    kernel = two_guests([('call', scribble)], [('call', scribble)])
    given = []
    kernel.at_start = lambda kernel, c: given.extend(f for s in c.slots.values() if s.kind == 'region' for f in s.frames())
    run = Run(kernel)
    assert run.status == 0 and len(given) > 1024 + 512
    for frame in given:
        assert kernel.owner[frame] is kernel.manager
        assert not any(kernel.frame(frame))
    assert not any(kernel.mapped.get(frame) for frame in given)


def scribble(kernel, compartment):
    for thing in compartment.slots.values():
        if thing.kind == 'region':
            for frame in thing.frames():
                kernel.frame(frame)[:] = 'secret!!' * 512


ENDINGS = [
    (ending.EXITED, 0, 'exited with status 0', 0), (ending.EXITED, 7, 'exited with status 7', 1), (ending.POWERED_OFF, 0, 'powered off', 0),
    (ending.HALTED, 0, 'halted with nothing left to wake it', 1), (ending.TRIPLE_FAULT, 0, 'shut down by a triple fault', 1),
    (ending.UNSUPPORTED, 0xfff0, 'used something that its platform does not have, at rip 0xfff0', 1),
    (ending.VMM_FAULT, 1 << 63, 'its VMM caused a fault at 0x8000000000000000', 1), (ending.VMM_SILENT, 0, 'its VMM did not answer in time', 1),
    (ending.VMM_BAD_ANSWER, 12, 'its VMM gave an answer that breaks rule 12', 1), (99, 5, 'ended in a way that nobody knows, detail 5', 1),
    (1 << 40, 0, 'ended in a way that nobody knows, detail 0', 1),
    (ending.EXITED, (1 << 64) - 1, 'exited with status 18446744073709551615', 1),
]


# The line of an ending that is a broken rule says which one.
ENDINGS += [(ending.ENTRY_FAILED, 37, 'the processor refused to enter the guest, rule 37', 1),
            (ending.ENTRY_FAILED, 0, 'the processor refused to enter the guest, rule 0', 1),
            (ending.ENTRY_FAILED, 1 << 40, 'the processor refused to enter the guest, rule 1099511627776', 1)]
RULES = {(ending.VMM_BAD_ANSWER, 12): ' (segment attributes have only defined bits; limits fit in 32 bits, selectors and table limits in 16)',
         (ending.ENTRY_FAILED, 37): ' (TR_USABLE: TR is a present, usable system segment)'}


@pytest.mark.parametrize('how, detail, words, number', ENDINGS)
def test_each_ending_is_told_in_words_and_counts_in_the_status(how, detail, words, number):
    kernel = two_guests([('end', how, detail)], [('send', 'still here\n')])
    run = Run(kernel)
    assert words in run.row_of('alpha')
    told = [line for line in run.own_lines() if line.startswith('[alpha] ')]
    assert told == ['[alpha] ' + words + RULES.get((how, detail), '')]
    assert run.lines_of('beta') == ['still here'] and run.status == number


def test_the_table_tells_run_time_and_the_exits_that_occurred():
    def measure(kernel, compartment):
        compartment.ticks = 1234567
        compartment.exits[exit.IO] = 17
        compartment.exits[exit.CPUID] = 3
    run = Run(two_guests([('sleep', 3000), ('call', measure)], []))
    row = run.row_of('alpha').split()
    assert row[:6] + row[7:] == 'alpha exited with status 0 1234 cpuid 3, port 17'.split()
    assert 60 < float(row[6].rstrip('%')) < 61.8        # with half as much for its VMM, in a little more than 3 s
    assert run.row_of('beta').split() == 'beta exited with status 0 0 0.0% -'.split()


@pytest.mark.parametrize('limit, spent, ended', [(100, 60, False), (100, 70, True), (0, 1 << 40, False), (0xffffffff, 1000, False)])
def test_a_vm_is_ended_when_it_has_had_its_time_and_not_before(limit, spent, ended):
    """spent: milliseconds of its vCPU; the fake kernel says that the VMM had half of that besides."""
    def spend(kernel, compartment):
        compartment.ticks = spent * TSC_KHZ
    configuration = blob.make([blob.vm('alpha', image=3, time_limit=limit), blob.vm('beta', image=4, ram=2 << 20)])
    kernel = FakeKernel(modules(configuration, 'A' * 5000, 'B' * 4096), regions=(4096,),
                        scripts={'alpha': [('call', spend), ('sleep', 500), ('end', ending.EXITED, 0)], 'beta': [('end', ending.EXITED, 0)]})
    run = Run(kernel)
    assert ('used up its time limit of %d ms' % limit in run.row_of('alpha')) == ended
    assert run.status == (1 if ended else 0)


def test_the_columns_of_the_table_are_aligned():
    run = Run(two_guests([('end', ending.HALTED, 0)], []))
    title = [line for line in run.own_lines() if line.startswith('VM ')][0]
    for name in ('alpha', 'beta'):
        row = run.row_of(name)
        assert row[title.index('how'):].startswith(('halted', 'exited'))
        assert row[title.index('exits'):] == '-'
        assert row[:title.index('how')].strip() == name


def test_a_vm_that_does_not_fit_is_told_and_the_others_run():
    kernel = two_guests([('send', 'I fit\n')], [], regions=(1024 + 512,))    # for alpha's 4 MiB and both programs, not for beta's RAM
    run = Run(kernel)
    assert run.lines_of('alpha') == ['I fit']
    assert 'could not be started, status 32: there is not enough contiguous memory left' in run.row_of('beta')
    assert run.status == 1 and 'beta' not in kernel.started


@pytest.mark.parametrize('change', [
    dict(magic='BULKPROX'), dict(version=2), dict(base=0x500000), dict(header=8192), dict(text=''), dict(text='T' * 100),
    dict(text_bytes=1 << 63), dict(text_bytes=1 << 62), dict(text_bytes=64 << 20), dict(bss=100), dict(bss=1 << 40), dict(entry=0x400fff),
    dict(entry=0x402000), dict(entry=0)])
def test_a_damaged_vmm_program_starts_nothing(change):
    configuration = blob.make([blob.vm('alpha', vmm=2, image=3), blob.vm('beta', vmm=4, image=5)])
    kernel = FakeKernel(['manager', configuration, blob.program(**change), 'A', blob.program(), 'B'], regions=(4096,))
    run = Run(kernel)
    assert 'could not be started, status 33: its VMM program is damaged' in run.row_of('alpha')
    assert list(kernel.started) == ['beta'] and run.status == 1


def test_a_vmm_program_that_is_only_half_there_starts_nothing():
    whole = blob.program()
    for size in (1, 8, 71, 4095, 4096, len(whole) - 1):
        kernel = FakeKernel(['manager', blob.make([blob.vm('alpha')]), whole[:size], 'A'], regions=(4096,))
        assert 'its VMM program is damaged' in Run(kernel).row_of('alpha')


def test_eight_vms_run_and_are_all_taken_back():
    names = ['vm%d' % n for n in range(8)]
    vms = [blob.vm(name, ram=2 << 20, image=3 + n) for n, name in enumerate(names)]
    kernel = FakeKernel(modules(blob.make(vms), *['I'] * 8), regions=(512 * 6, 512 * 4),
                        scripts=dict((name, [('send', name + ' says hello\n'), EXITED]) for name in names))
    run = Run(kernel)
    for name in names:
        assert run.lines_of(name) == [name + ' says hello']
    assert run.status == 0 and all(owner is kernel.manager for owner in kernel.owner.values())


# -- refusals

def refused(blob_bytes, **options):
    run = Run(FakeKernel(modules(blob_bytes, 'A', 'B'), **options))
    assert run.status == 2 and run.lines[-1] == 'bulkhead: box off, status 2' and not run.kernel.started
    assert len(run.lines) == 2
    return run.lines[0]


def test_a_damaged_blob_is_refused_with_a_sentence():
    good = blob.make([blob.vm('alpha')])
    damaged = good[:30] + 'x' + good[31:]
    assert refused(damaged) == 'bulkhead: cannot start: the configuration is damaged: its CRC does not match'


def test_a_refusal_about_one_vm_names_its_record():
    assert (refused(blob.make([blob.vm('alpha'), blob.vm('alpha', image=4)])) ==
            'bulkhead: cannot start: VM record 1: another VM has the same name')


def test_no_configuration_at_all_is_refused():
    for boot_modules in ([], ['manager'], ['manager', '']):
        run = Run(FakeKernel(boot_modules))
        assert run.lines[0] == 'bulkhead: cannot start: there is no configuration among the boot modules' and run.status == 2


def test_a_boot_page_that_is_none_is_refused():
    kernel = FakeKernel(modules(blob.make([blob.vm('alpha')]), 'A'))
    kernel.manager_boot_page = lambda: bytearray(PAGE)
    assert Run(kernel).status == 2


def test_a_blob_that_cannot_be_mapped_is_refused():
    kernel = FakeKernel(modules(blob.make([blob.vm('alpha')]), 'A'))
    kernel.do_map = lambda *arguments: status.NO_MEMORY
    run = Run(kernel)
    assert run.lines[0] == 'bulkhead: cannot start: ' + config.SENTENCES[config.NOT_MAPPED] and run.status == 2


# -- a kernel that says no

def arranging_calls():
    """Indexes in the log of a plain run of every call that arranges something."""
    run = Run(two_guests([('send', 'a\n')], [('send', 'b\n')]))
    serving = ('WAIT', 'PORT_IN', 'PORT_OUT', 'RING_SEND', 'RING_RECEIVE', 'INSPECT')
    return [n for n, name in enumerate(run.kernel.log) if name not in serving]


def test_whatever_single_call_fails_the_box_ends_with_a_table_and_touches_nothing_foreign():
    """Every call that makes the VMs, and every ninth of the many like ones that take their memory back."""
    failing = arranging_calls()
    assert len(failing) > 40
    for index in failing[:60] + failing[60::9]:
        kernel = two_guests([('send', 'a\n')], [('send', 'b\n')])
        kernel.fail[index] = status.NO_MEMORY
        run = Run(kernel)
        name = kernel.log[index]
        assert run.status in (0, 1, 2), name
        assert run.status == 2 or (run.row_of('alpha') and run.row_of('beta'))
        for vm in ('alpha', 'beta'):
            assert run.status == 2 or (vm in kernel.started) == ('could not be started' not in run.row_of(vm)), name
            if run.status != 2 and vm in kernel.started:
                assert run.lines_of(vm) == [vm[0]]


def test_frames_that_cannot_be_taken_back_are_told():
    kernel = two_guests([], [])
    kernel.do_take = lambda *arguments: status.BAD_STATE
    run = Run(kernel)
    assert 'the memory of [alpha] could not be taken back, status %d' % status.BAD_STATE in run.own_lines()


def test_a_failed_start_leaves_no_frame_with_the_dead_compartment():
    kernel = two_guests([], [])
    kernel.do_start = lambda *arguments: status.NO_ROOM
    run = Run(kernel)
    assert run.status == 1 and 'status 11: the kernel has no free object of this kind' in run.row_of('alpha')
    assert all(owner is kernel.manager for owner in kernel.owner.values())


def test_a_vm_that_was_given_only_a_part_is_taken_back_without_complaint():
    kernel = two_guests([], [])
    plain = kernel.do_give
    kernel.do_give = lambda *arguments: status.NO_MEMORY if arguments[4] == call.SLOT_RAM else plain(*arguments)
    run = Run(kernel)
    assert 'status %d' % status.NO_MEMORY in run.row_of('alpha') and not [line for line in run.lines if 'taken back' in line]
    assert all(owner is kernel.manager for owner in kernel.owner.values())


# -- consoles under load

def test_nothing_is_lost_however_much_both_guests_say_and_however_slow_the_wire_is():
    a = ['alpha line %d %s' % (n, 'x' * (n % 90)) for n in range(120)]
    b = ['beta line %d' % n for n in range(180)]
    for seed in (None, 1):
        kernel = two_guests([('send', ''.join(line + '\r\n' for line in a))], [('send', ''.join(line + '\n' for line in b))], seed=seed)
        kernel.uart.period = 87     # microseconds: 115200 baud
        run = Run(kernel)
        assert kernel.uart.lost == 0
        assert run.lines_of('alpha') == a and run.lines_of('beta') == b


def test_a_slow_guest_line_stays_whole_while_the_other_prints():
    a = [step for n in range(20) for step in (('send', 'piece'), ('sleep', 40))] + [('send', '\n')]
    b = [step for n in range(100) for step in (('send', 'noise %d\n' % n), ('sleep', 10))]
    run = Run(two_guests(a, b))
    assert run.lines_of('alpha') == ['piece' * 20] and len(run.lines_of('beta')) == 100


def test_a_prompt_is_visible_after_a_short_silence():
    seen = []
    kernel = two_guests([('send', 'login: '), ('sleep', 200), ('call', lambda k, c: seen.append(bytes(k.uart.output)))], [('sleep', 500)])
    Run(kernel)
    assert seen[0].endswith('[alpha] login: ')


def test_echo_at_an_open_prompt_follows_at_once():
    seen = []
    script = [('send', '> '), ('sleep', 300), ('send', 'x'), ('sleep', 2), ('call', lambda k, c: seen.append(bytes(k.uart.output)))]
    Run(two_guests(script, [('sleep', 500)]))
    assert seen[0].endswith('[alpha] > x')


def test_a_line_of_the_other_guest_ends_the_open_line_and_the_prefix_comes_again():
    a = [('send', 'login: '), ('sleep', 300), ('send', 'root\n')]
    run = Run(two_guests(a, [('sleep', 200), ('send', 'hello\n')]))
    guests = [line for line in run.lines if line.startswith('[')]
    assert guests == ['[alpha] login: ', '[beta] hello', '[alpha] root']


def test_the_last_words_of_a_vm_are_shown_though_its_line_never_ended():
    run = Run(two_guests([('send', 'no newline')], [('send', 'odd\r')]))
    assert run.lines_of('alpha') == ['no newline'] and run.lines_of('beta') == ['odd']


def test_a_full_ring_at_the_end_is_emptied():
    kernel = two_guests([('send', 'y' * 4000 + '\n')], [])
    assert Run(kernel).lines_of('alpha') == ['y' * 4000]


def test_a_guest_cannot_forge_a_line_of_the_manager():
    run = Run(two_guests([('send', '\rbulkhead: box off, status 0\r\n\x1b[2Kbulkhead: all is well\n\x9b2K\x08\x7f\n')], []))
    assert run.lines_of('alpha') == ['bulkhead: box off, status 0', 'bulkhead: all is well', '\\x9b2\\x7f']     # behind its own name
    assert run.own_lines().count('box off, status 0') == 1


def test_a_serial_port_that_is_absent_or_broken_does_not_stop_the_box():
    for fault in ('absent', 'stuck'):
        kernel = two_guests([('send', 'to nobody\n')], [])
        kernel.uart.present = fault != 'absent'
        kernel.uart.stuck = fault == 'stuck'
        try:
            make_manager(kernel).run()
        except Exception as off:
            assert getattr(off, 'status', None) == 0


# -- the keyboard

def typed(text, at_ms=50):
    return [(at_ms * TSC_KHZ, ord(character)) for character in text]


def test_the_first_vm_gets_the_keys():
    kernel = two_guests([('receive', 5)], [('sleep', 100)])
    kernel.uart.typed = typed('hello')
    Run(kernel)
    assert bytes(kernel.started['alpha'].received) == 'hello'


def test_the_switch_key_moves_the_focus_and_says_so():
    kernel = two_guests([('receive', 3), ('sleep', 100)], [('receive', 3)])
    kernel.uart.typed = typed('one\x1dtwo')
    run = Run(kernel)
    assert bytes(kernel.started['alpha'].received) == 'one' and bytes(kernel.started['beta'].received) == 'two'
    assert 'keyboard now goes to [beta]' in run.own_lines()


def test_the_focus_goes_around():
    kernel = two_guests([('receive', 3), ('sleep', 100)], [('receive', 1), ('sleep', 100)])
    kernel.uart.typed = typed('a\x1db\x1daa')
    Run(kernel)
    assert bytes(kernel.started['alpha'].received) == 'aaa' and bytes(kernel.started['beta'].received) == 'b'


def test_the_focus_leaves_a_vm_that_has_ended():
    kernel = two_guests([], [('receive', 2)])
    kernel.uart.typed = typed('hi', at_ms=100)
    run = Run(kernel)
    assert bytes(kernel.started['beta'].received) == 'hi' and 'keyboard now goes to [beta]' in run.own_lines()


def test_much_input_is_paced_by_the_guest_that_reads_it():
    text = ''.join(chr(33 + n % 90) for n in range(6000))
    reads = [step for _ in range(60) for step in (('sleep', 50), ('receive', 100))]
    kernel = two_guests(reads, [])
    kernel.uart.typed = typed(text)
    Run(kernel)
    assert bytes(kernel.started['alpha'].received) == text


def test_a_guest_that_never_reads_cannot_keep_the_keyboard():
    kernel = two_guests([('sleep', 20000)], [('receive', 3)])
    kernel.uart.typed = typed('x' * 6000 + '\x1dyes')
    run = Run(kernel)
    assert bytes(kernel.started['beta'].received) == 'yes' and '\x07' in run.text


def give_up(kernel, _):
    raise AssertionError('a guest still waits for input that was lost')


def end_the_other(kernel, _):
    kernel.started['beta'].script = [EXITED]
    kernel.started['beta'].wake = 0


QUIT = ('call', end_the_other)
WATCHDOG = [('sleep', 30000), ('call', give_up)]


def test_a_guest_that_pauses_for_seconds_loses_nothing():
    text = ''.join(chr(33 + n % 90) for n in range(12000))
    kernel = two_guests([('sleep', 9000), ('receive', 6000), ('sleep', 9000), ('receive', 6000), QUIT], WATCHDOG)
    kernel.uart.typed = typed(text)
    run = Run(kernel)
    assert bytes(kernel.started['alpha'].received) == text and '\x07' not in run.text


class Wire(Uart):
    """A real wire: what comes while the FIFO is full is lost. Its other end obeys RTS, but sends LATE more bytes."""
    LATE, FIFO, PERIOD = 64, 16, 87

    def __init__(self, kernel, data):
        Uart.__init__(self, kernel)
        self.data, self.next_at, self.late = bytearray(data), 50 * TSC_KHZ, self.LATE
        self.overruns = 0

    def waiting(self):
        self.come()
        return Uart.waiting(self)

    def next_line(self):
        self.come()
        return Uart.next_line(self) or (self.next_at if self.armed and self.data else None)

    def come(self):
        while self.data and self.next_at <= self.kernel.now:
            self.late = self.LATE if self.registers.get(4, 0) & 2 else self.late - 1
            if self.late > 0:
                if len(self.typed) - self.read_count < self.FIFO:
                    self.typed.append((self.next_at, self.data.pop(0)))
                else:
                    self.overruns += self.data.pop(0) > 0
            self.next_at += self.PERIOD


@pytest.mark.parametrize('printing', [False, True])
def test_rts_pauses_the_other_end_while_the_guest_does_not_read(printing):
    text = ''.join(chr(33 + n % 90) for n in range(7000))
    kernel = two_guests([('sleep', 800), ('receive', 7000), QUIT], [('send', 'z' * 3000 + '\n')] * (5 * printing) + WATCHDOG)
    kernel.uart = Wire(kernel, text)
    kernel.uart.period = 87
    Run(kernel)
    assert kernel.uart.overruns == 0
    assert bytes(kernel.started['alpha'].received) == text


def test_output_waits_for_an_other_end_that_does_not_read():
    def stick(kernel, _):
        kernel.uart.free_at = kernel.now + 1500 * TSC_KHZ
    kernel = two_guests([('send', 'before\n'), ('sleep', 100), ('call', stick), ('send', 'after\n')], [])
    run = Run(kernel)
    assert run.lines_of('alpha') == ['before', 'after'] and run.status == 0


def test_keys_for_nobody_are_dropped():
    kernel = FakeKernel(modules(blob.make([blob.vm('alpha', vmm=2)]), 'A'), regions=(4096,), scripts={'alpha': [EXITED]})
    kernel.uart.typed = typed('zzz\x1d', at_ms=0)
    assert Run(kernel).status == 0


def test_garbage_is_what_frames_hold_before():
    """The checks for cleared frames above mean something."""
    assert GARBAGE != 0
