"""Several cores: what takes minutes on Bochs, and Linux on them."""
import re

import pytest

from bulkhead.facts import ROOT
from tests.system.box import Box, config, run_box, vm
from tests.system.test_linux import BOX, check_unattended

TWO_CORES = ROOT / 'machines/two-cores.toml'
SAMPLES = 100
SECONDS = 900
ROW = re.compile(r'^\[bench\] bench: (\w+) minimum (\d+) median (\d+) ', re.MULTILINE)
GRAIN = 5           # instructions: what a Bochs with several processors counts in, each of which it gives one in turn
ROWS = ('hypercall', 'cpuid', 'rdmsr_efer', 'rdmsr_vmm', 'in_uart_lsr', 'out_uart_scr', 'mmio_read')


def rows(neighbour):
    """{row: median} of the bench guest on core 1 of Bochs, with `neighbour` on core 0."""
    description = config(vm('bench', 'bench', command_line='samples=%d' % SAMPLES, host_tsc=True, cpus=[1]), neighbour, memory='256M')
    description['box']['cpus'] = 2
    with Box(description, 'bochs', quantum=1, timeout=SECONDS) as box:
        box.wait_for(r'^bulkhead: \[bench\] exited with status 0')
        return {name: int(median) for name, _, median in ROW.findall(box.output)}


def four_cores():
    """machines/two-cores.toml with a core for each virtual processor."""
    text = TWO_CORES.read_text()
    for two, four in (('cpus = 2', 'cpus = 4'), ('cpus = [1, 0]', 'cpus = [2, 3]')):
        assert text.count(two) == 1 + (two == 'cpus = 2' and text.count('vcpus = 2'))
        text = text.replace('\n' + two, '\n' + four)
    return text


@pytest.mark.parametrize('machine, box, processors', [('bochs', BOX, 1), ('bochs', TWO_CORES, 2), ('qemu', TWO_CORES, 2), ('qemu', four_cores(), 2)],
                         ids=['bochs', 'bochs-two-cores', 'qemu-two-cores', 'qemu-four-cores'])
def test_two_linux_guests_check_themselves_and_power_off(machine, box, processors):
    check_unattended(machine, box, processors)


def test_an_exit_costs_the_same_beside_a_core_that_exits_all_the_time():
    """What the share-nothing claim is worth as a number. On Bochs, whose clock counts instructions; QEMU's counter would count those of all processors."""
    alone = rows(vm('idle', 'hello'))
    beside = rows(vm('busy', 'spinner', command_line='exits=1'))
    print()
    for name in ROWS:
        print('%-14s alone %5d, beside a busy core %5d' % (name, alone[name], beside[name]))
    assert all(abs(alone[name] - beside[name]) <= GRAIN for name in ROWS)


def test_a_linux_guest_alone_on_a_core_takes_its_ticks_without_exits():
    """It has the core's local APIC. Its own count of timer interrupts against the exits that each of them would cost: interrupt, deadline and EOI."""
    own = {'name': 'own', 'memory': '128M', 'cpus': [1], 'host_tsc': True,
           'boot': {'kind': 'linux', 'image': '@debian/cloud/vmlinuz', 'initrd': '@debian/initramfs', 'command_line': 'console=ttyS0 quiet bulkhead.check'}}
    result = run_box({'box': {'name': 'own', 'memory': '512M', 'cpus': 2}, 'vm': [own]}, 'bochs', timeout=SECONDS)
    ticks = int(re.search(r'^ *LOC: *(\d+)', result.text('own'), re.MULTILINE)[1])
    exits = result.table['own'].exits
    print('%d timer interrupts, exits: interrupt %d, wrmsr %d' % (ticks, exits['interrupt'], exits['wrmsr']))
    assert 'check: passed' in result.text('own') and ticks > 1000 and exits['interrupt'] + exits['wrmsr'] < ticks / 4, result
