"""Several cores: each runs its own kernel with its own VMs, and one that fails takes only those with it."""
import re
from dataclasses import replace

import pytest
from elftools.elf.elffile import ELFFile

from tests.system.box import config, load, run_box, vm

DEAD_CORE = 1
CALLS_BEFORE = 2000             # task runs of that core before its kernel faults: its VM has said something by then
ROOM = 128                      # bytes at the end of .entry.text that hold nothing but what the linker fills with
FILLING = set(b'\xcc')
DISPLACED = b'\x53\x55\x41\x54\x41\x55'     # how bh_task_run begins: push %rbx, %rbp, %r12, %r13


def on_cores(count, *vms, memory='256M'):
    description = config(*vms, memory=memory)
    description['box']['cpus'] = count
    return description


def ticker(name, core, lines=3):
    return vm(name, 'ticker', command_line='lines=%d loops=100000' % lines, cpus=[core])


def test_four_cores_run_their_own_guests(machine):
    """A core of its own for each of two; on the third two in turns with one that never gives the processor back; on the fourth one that is
    typed at, while the keyboard goes round."""
    ended = [(r"^bulkhead: \[%s\] (exited|used up)" % name, '') for name in ('g0', 'g1', 'g2', 'g2-too', 'greedy')]
    result = run_box(on_cores(4, vm('a', 'echo', cpus=[3]), vm('b', 'echo'), ticker('g0', 0), ticker('g1', 1), ticker('g2', 2),
                              ticker('g2-too', 2), vm('greedy', 'spinner', time_limit='50ms', cpus=[2])), machine,
                     script=[(r'^\[b\] echo: ready', ''), (r'^\[a\] echo: ready', 'first\r'), (r'^\[a\] echo: FIRST', '\x1d'),
                             (r'keyboard now goes to \[b\]', 'second\r'), (r'^\[b\] echo: SECOND', '')] + ended +
                            [('.', 'quit\r'), (r'keyboard now goes to \[a\]', 'quit\r')])
    for name in ('g0', 'g1', 'g2', 'g2-too'):
        assert result.lines[name] == ['tick %d of 3' % n for n in range(1, 4)] and result.table[name].how == 'exited with status 0', result
    assert result.table['greedy'].how == 'used up its time limit of 50 ms'
    assert 'echo: FIRST' in result.lines['a'] and 'echo: SECOND' not in result.lines['a'], result
    assert 'echo: SECOND' in result.lines['b'] and 'echo: FIRST' not in result.lines['b']
    assert result.status == 1


@pytest.mark.parametrize('guest, vcpus, cpus, report', [('smp', 2, [1, 0], 'smp: 41 checks, 0 wrong'), ('pvipi', 16, [0, 1, 2], 'pvipi: 19 checks, 0 wrong')])
def test_a_vms_vcpus_on_several_cores(machine, guest, vcpus, cpus, report):
    """INIT, STARTUP, interrupts, NMI and exits of vCPUs that run at once, beside a neighbour on each core."""
    neighbours = [ticker('beside-%d' % core, core) for core in cpus]
    result = run_box(on_cores(len(cpus), vm('spread', guest, vcpus=vcpus, cpus=cpus), *neighbours), machine)
    assert result.lines['spread'][-1] == report and result.table['spread'].how == 'exited with status 0', result
    for each in neighbours:
        assert result.lines[each['name']][-1] == 'tick 3 of 3' and result.table[each['name']].how == 'exited with status 0', result
    assert result.status == 0


def storm(name, cpus, rounds, **more):
    """A VM that has a vCPU on each of these cores; they shoot down each other's translations, that many times each. more: its options."""
    options = ' '.join('%s=%d' % option for option in more.items())
    return vm(name, 'storm', command_line=('rounds=%d %s' % (rounds, options)).strip(), vcpus=len(cpus), cpus=cpus)


@pytest.mark.parametrize('rounds', [{'alone': 150}, {'x2apic': 50, 'xapic': 30}], ids=['alone', 'two'])
def test_a_storm_of_shootdowns_on_four_cores_loses_nothing(machine, rounds):
    """All interrupt all at once. Two such VMs have their homes on two cores; the second one's interrupts go by way of its VMM there, and back."""
    homes = {'alone': [0, 1, 2, 3], 'x2apic': [0, 1, 2, 3], 'xapic': [2, 3, 0, 1]}
    vms = [storm(name, homes[name], count, x2apic=name != 'xapic', patience=60000) for name, count in rounds.items()]
    result = run_box(on_cores(4, *vms), machine)
    for name, count in rounds.items():
        assert result.lines[name][-1] == 'storm: 4 processors, %d shoot-downs each, 0 wrong' % count, result
        assert result.table[name].how == 'exited with status 0', result
    assert result.status == 0


SPOILT = {1: 'a shoot-down is not answered by all', 4: 'a plain interrupt came twice', 5: 'a plain interrupt has not come', 6: 'a wake-up has not come'}


@pytest.mark.parametrize('spoil', SPOILT)
def test_a_storm_that_is_spoilt_says_so(spoil):
    """An acknowledgement is kept back, an interrupt sent twice, not at all, and a sleeper is not woken: the guest sees it, and ends in time."""
    result = run_box(on_cores(4, storm('a', [0, 1, 2, 3], 20, spoil=spoil, patience=1000)), 'qemu')
    assert SPOILT[spoil] in result.text('a') and result.table['a'].how == 'exited with status 1', result


def test_a_core_that_the_machine_does_not_have(machine):
    """The configuration promises more processors than the emulator has: their VMs say so, the others run."""
    description = on_cores(2, ticker('here', 0), ticker('nowhere', 1))
    result = run_box(replace(load(description), cpus=1), machine)
    assert result.table['here'].how == 'exited with status 0', result
    assert result.table['nowhere'].how == 'could not be started, status 34: this machine has no such core'
    assert result.status == 1


def faulty(folder):
    """An edit of the laid-out box: after CALLS_BEFORE runs of tasks, the kernel of core DEAD_CORE meets an invalid opcode."""
    path = folder / 'kernel.elf'
    data = bytearray(path.read_bytes())
    with open(path, 'rb') as file:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name('.symtab')

        def place(name):
            address = symbols.get_symbol_by_name(name)[0]['st_value']
            return address, next(iter(elf.address_offsets(address)))
        run, run_offset = place('bh_task_run')
        end, _ = place('entry_text_end')
        cave = end - ROOM
        cave_offset = next(iter(elf.address_offsets(cave)))
        counter = symbols.get_symbol_by_name('panic_area')[0]['st_value']      # nobody needs it before a panic
    assert set(data[cave_offset:cave_offset + ROOM]) <= FILLING and data[run_offset:run_offset + len(DISPLACED)] == DISPLACED
    code = b'\x53\xb8\x01\x00\x00\x00\x0f\xa2\xc1\xeb\x18\x80\xfb' + bytes([DEAD_CORE]) + b'\x5b'       # push rbx; cpuid 1; ID in bl; pop rbx
    count = b'\x48\xff\x04\x25' + (counter & 0xffffffff).to_bytes(4, 'little')                          # incq counter
    count += b'\x48\x81\x3c\x25' + (counter & 0xffffffff).to_bytes(4, 'little') + CALLS_BEFORE.to_bytes(4, 'little')     # cmpq
    count += b'\x72\x02\x0f\x0b'                                                                        # jb over ud2
    code += b'\x75' + bytes([len(count)]) + count + DISPLACED
    back = run + len(DISPLACED) - (cave + len(code) + 5)
    code += b'\xe9' + (back & 0xffffffff).to_bytes(4, 'little')
    data[cave_offset:cave_offset + len(code)] = code
    data[run_offset:run_offset + 5] = b'\xe9' + ((cave - run - 5) & 0xffffffff).to_bytes(4, 'little')
    path.write_bytes(data)


def test_a_core_that_dies_takes_only_its_own_guests(machine):
    """And a VM of another core that has a vCPU there."""
    spread = vm('spread', 'ticker', command_line='lines=5000 loops=100000', vcpus=2, cpus=[2, 1])
    result = run_box(on_cores(3, ticker('zero', 0, 12), ticker('one', 1, 500), ticker('two', 2, 12), spread), machine, edit=faulty)
    assert 'spread' in result.table, result
    assert result.table['spread'].how == 'its core 1 stopped', result
    assert result.lines.get('spread', ['tick 1 of 5000'])[0] == 'tick 1 of 5000', 'on a slow machine it may not have come to say anything'
    assert any(line.startswith('core 1: bulkhead: kernel fault: #UD (invalid opcode)') for line in result.own), result
    assert any(re.match('core 1: RIP   ffffffff8[0-9a-f]{7} ', line) for line in result.own)
    assert result.lines['one'][0] == 'tick 1 of 500' and result.table['one'].how == 'its core 1 stopped'
    for name in ('zero', 'two'):
        assert result.lines[name] == ['tick %d of 12' % n for n in range(1, 13)] and result.table[name].how == 'exited with status 0'
    assert result.status == 1 and 'the box has stopped' not in result.own
