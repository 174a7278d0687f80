"""A vCPU on a core of its own has that core's local APIC: what its timer's ticks cost, and that nothing of it escapes the box."""
import re

import pytest

from tests.system.box import Box, config, run_box, vm

FEW, MANY = 30, 230
EVERY = 1000                    # microseconds
REPORT = re.compile(r'ticks: (\d+) ticks in (\d+) us, (\d+) lost, the shortest after (\d+) us, the longest after (\d+) us')


def ticks(name, core, options, **more):
    return vm(name, 'ticks', command_line='every=%d %s' % (EVERY, options), cpus=[core], **more)


def on_cores(count, *vms):
    description = config(*vms, memory='256M')
    description['box']['cpus'] = count
    return description


def reported(result, name):
    """Ticks, microseconds, lost, shortest, longest."""
    return [int(number) for number in next(found for found in map(REPORT.match, result.lines[name]) if found).groups()]


def ticking(machine, options, **more):
    """Two guests on a core of their own each; one has MANY - FEW ticks more, while it does what the other does. Returns the Result and
    the exits of those ticks, by kind, but for what the consoles' lines cost."""
    description = on_cores(3, ticks('few', 1, 'count=%d %s' % (FEW, options), **more), ticks('many', 2, 'count=%d %s' % (MANY, options), **more))
    result = run_box(description, machine, quantum=1 if machine == 'bochs' else None)
    few, many = [result.table[name].exits for name in ('few', 'many')]
    spent = {kind: many[kind] - few.get(kind, 0) for kind in many if kind != 'port'}
    took = reported(result, 'many')[1] - reported(result, 'few')[1]
    print('%s, %s: %d ticks in %d us: %.1f exits a second, %s' % (machine, options, MANY - FEW, took, 1e6 * sum(spent.values()) / took,
                                                               {kind: count for kind, count in spent.items() if count}))
    return result, spent


@pytest.mark.parametrize('options, host_tsc, wrmsr', [('how=0', False, 0), ('how=1', True, 0), ('how=1', False, 1)],
                         ids=['periodic', 'deadline', 'deadline-of-its-own-tsc'])
def test_ticks_cost_no_exit(options, host_tsc, wrmsr):
    """... but where the guest counts its TSC from its own start: then the kernel has to translate each deadline."""
    result, spent = ticking('bochs', options, host_tsc=host_tsc)
    assert {kind: count for kind, count in spent.items() if count} == ({'wrmsr': wrmsr * (MANY - FEW)} if wrmsr else {}), result
    for name in ('few', 'many'):
        count, took, lost, shortest, longest = reported(result, name)
        assert lost == 0 and .99 * EVERY < shortest and longest < 1.02 * EVERY and abs(took - count * EVERY) < .005 * count * EVERY, result
    for core, name in ((1, 'few'), (2, 'many')):
        assert 'core %d and its local APIC are for [%s] alone' % (core, name) in result.own, result


def test_without_x2apic_each_tick_exits_as_anywhere():
    """QEMU has none under TCG: the box says so, and the guest notices nothing."""
    result, spent = ticking('qemu', 'how=0')
    for core, name in ((1, 'few'), (2, 'many')):
        assert 'core %d is for [%s] alone, but not its local APIC: the processor has no x2APIC mode' % (core, name) in result.own, result
    assert spent['interrupt'] > 0 and spent['wrmsr'] > 0 and result.status == 0


def test_a_cap_keeps_the_local_apic(machine):
    result = run_box(on_cores(2, ticks('own', 1, 'count=20', cap=.9)), machine)
    why = 'the VM has a cap'
    assert 'core 1 is for [own] alone, but not its local APIC: %s' % why in result.own, result
    assert result.table['own'].exits['interrupt'] >= 20 and result.status == 0


def test_a_guest_that_lets_nothing_in_is_ended_by_its_limit(machine):
    """It has had the local APIC when it closes its ears: RFLAGS.IF clear, the highest TPR. A neighbour on the first core is served meanwhile."""
    description = on_cores(2, vm('echo', 'echo'), ticks('deaf', 1, 'count=10 deaf=1', time_limit='300ms'))
    with Box(description, machine) as box:
        box.wait_for(r'^\[deaf\] ticks: ready')
        box.wait_for(r'^\[echo\] echo: ready')
        box.type('one\r')
        box.wait_for(r'^\[echo\] echo: ONE')
        box.wait_for(r'^bulkhead: \[deaf\] used up its time limit of 300 ms')
        box.type('quit\r')
        result = box.finish()
    if machine == 'bochs':
        assert result.table['deaf'].exits['interrupt'] < 20, result         # it was deaf with the APIC in its hands
    assert result.table['deaf'].milliseconds < 600 and result.table['echo'].how == 'exited with status 0', result


def test_a_guest_that_halts_for_ever_is_found_out(machine):
    result = run_box(on_cores(2, ticks('own', 1, 'count=10 deaf=2')), machine)
    assert result.table['own'].how == 'halted with nothing left to wake it', result


def test_another_cores_interrupts_reach_a_guest_that_has_the_local_apic(machine):
    """They come at any moment: while the guest runs, while the kernel answers its CPUID, and just before it is entered again."""
    patience, count = {'qemu': (5000, 1000), 'bochs': (20, 4000)}[machine]      # QEMU's processors wait for the host as well, and lend nothing
    description = on_cores(2, vm('own', 'ticks', command_line='every=200 partner=%d patience=%d' % (count, patience), vcpus=2, cpus=[0, 1], host_tsc=True))
    result = run_box(description, machine, quantum=1 if machine == 'bochs' else None)
    assert result.lines['own'][-1] == 'ticks: the second processor had %d of %d interrupts, 0 late, and its ticks' % (count, count), result
    if machine == 'bochs':
        assert result.table['own'].exits['nmi'] > 100, result
