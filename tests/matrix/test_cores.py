"""Several cores on Bochs: what takes minutes there."""
import re

import pytest

from tests.system.box import Box, config, vm
from tests.system.test_linux import BOX, TWO_CORES, check_unattended

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


@pytest.mark.parametrize('machine, box, processors', [('bochs', BOX, 1), ('bochs', TWO_CORES, 2), ('qemu', TWO_CORES, 2)])
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
