"""The clocks that guests are given go right while all of them are busy.

Looked at from outside a busy guest's clock is blurred by how long its answer takes. Here the guests compare their clocks with the TSC
themselves, and the machine counts instructions: its TSC's rate is a number, which nobody inside is told.
"""
import re

import pytest

from bulkhead.emulator import BOCHS_TICKS
from tests.system.box import config, run_box, vm

HZ = {'qemu': 10 ** 9, 'bochs': BOCHS_TICKS}         # QEMU: an instruction is a nanosecond
PM_HZ = 3579545
RATE_ERROR = 0.001
NAMES = ['port', 'starboard']
LINE = re.compile(r'clocks: tsc (\d+) kvm (\d+) pm (\d+) lapic (\d+) told (\d+) (\d+)')
MILLISECONDS = {'qemu': 400, 'bochs': 1000}


def rates(lines, hz):
    """Of each clock, how many of its seconds go by in one; what the guest is told of its TSC and its local APIC's timer counts as clocks."""
    found = [LINE.fullmatch(line) for line in lines]
    tsc, kvm, pm, lapic, tsc_khz, lapic_khz = map(int, next(match for match in found if match).groups())
    seconds = tsc / hz
    return {'kvm': kvm / 1e9 / seconds, 'pm': pm / PM_HZ / seconds, 'lapic': lapic / (lapic_khz * 1000) / seconds, 'told': tsc_khz * 1000 / hz}


@pytest.mark.parametrize('machine', ['qemu', 'bochs'])
def test_clocks_of_busy_guests_go_right(machine):
    guests = [vm(name, 'clocks', host_tsc=True, command_line='milliseconds=%d' % MILLISECONDS[machine]) for name in NAMES]
    result = run_box(config(*guests), machine, timeout=300, **({'icount': True} if machine == 'qemu' else {}))
    assert result.status == 0, result
    for name in NAMES:
        found = rates(result.lines[name], HZ[machine])
        print(machine, name, {clock: '%.5f' % rate for clock, rate in found.items()})
        assert all(abs(rate - 1) < RATE_ERROR for rate in found.values()), found
        assert result.table[name].milliseconds < MILLISECONDS[machine] * 0.7, 'they have shared the processor'
