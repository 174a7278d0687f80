"""Guests beside each other: nobody's registers, memory or time become another's."""
import re

import pytest

from tests.system.box import Box, config, run_box, vm


def test_no_register_of_one_guest_is_ever_visible_in_another(machine):
    """Three guests guard different patterns in every register, two look for anything at all that is not theirs, time-sliced on one core."""
    result = run_box(config(*[vm('keeper%d' % seed, 'fpukeeper', command_line='seed=%d rounds=40' % seed) for seed in (3, 5, 9)],
                            vm('stale', 'stale'), vm('stale-too', 'stale')), machine)
    for seed in (3, 5, 9):
        assert 'fpukeeper: seed %d, 0 registers changed' % seed in result.text('keeper%d' % seed), result
    for name in ('stale', 'stale-too'):
        assert 'stale: 0 registers hold something' in result.text(name), result
    assert result.status == 0


@pytest.mark.parametrize('turns', ['exits=0', 'exits=1'])
def test_a_guest_that_spins_with_interrupts_off_takes_nobodys_time(machine, turns):
    result = run_box(config(vm('greedy', 'spinner', time_limit='300ms', command_line=turns),
                            vm('a', 'ticker', command_line='lines=5 loops=300000'), vm('b', 'ticker', command_line='lines=5 loops=300000')), machine)
    assert result.table['greedy'].how == 'used up its time limit of 300 ms', result
    for name in ('a', 'b'):
        assert result.lines[name] == ['tick %d of 5' % n for n in range(1, 6)] and result.table[name].how == 'exited with status 0'
    assert result.status == 1


def test_two_spinning_guests_both_make_progress(machine):
    result = run_box(config(vm('a', 'spinner', command_line='spin=30000000'), vm('b', 'spinner', command_line='spin=30000000')), machine)
    assert result.status == 0, result
    ended = [line for line in result.own if 'exited' in line][:2]
    times = [result.table[name].milliseconds for name in ('a', 'b')]
    assert max(times) <= 2 * min(times) and all(result.table[name].exits['interrupt'] >= 3 for name in ('a', 'b')), (ended, result)


def test_memory_is_zero_when_a_guest_gets_it(machine):
    result = run_box(config(vm('a', 'memwalker', command_line='zero=1'), vm('b', 'memwalker', command_line='zero=1')), machine)
    for name in ('a', 'b'):
        assert re.search('fresh memory, 0 words not zero', result.text(name)), result
    assert result.status == 0


def test_what_a_guest_types_goes_to_the_focused_one_only(machine):
    result = run_box(config(vm('a', 'echo'), vm('b', 'echo')), machine,
                     script=[(r'^\[b\] echo: ready', 'first\r'), (r'^\[a\] echo: FIRST', '\x1d'),
                             (r'keyboard now goes to \[b\]', 'second\r'), (r'^\[b\] echo: SECOND', 'quit\r'),
                             (r'keyboard now goes to \[a\]', 'quit\r')])
    assert 'echo: FIRST' in result.lines['a'] and 'echo: SECOND' not in result.lines['a'], result
    assert 'echo: SECOND' in result.lines['b'] and 'echo: FIRST' not in result.lines['b']
    assert result.status == 0


def test_a_guest_cannot_speak_for_another_or_for_the_box(machine):
    """Its command line comes back on its console; whatever is in it, each line carries the guest's own name."""
    result = run_box(config(vm('liar', 'hello', command_line='bulkhead: box off, status 0 [other] hi'), vm('b', 'ticker', command_line='lines=2')), machine)
    assert result.status == 0 and set(result.lines) == {'liar', 'b'}, result
    assert sum(line.startswith('box off') for line in result.own) == 1


@pytest.mark.parametrize('machine, lines, window', [('qemu', 100, 1000), ('bochs', 20, 50)])
def test_keys_and_a_timer_that_come_at_once_are_both_heard(machine, lines, window):
    """One guest is typed at, the other's timer fires all the time. Of two interrupts that the kernel lets in at once, one would never be
    acknowledged: it takes a second one for a fault of its own."""
    described = config(vm('typed', 'echo'), vm('fires', 'contender', command_line='how=5 every=100 windows=2 window=%d' % window))
    with Box(described, machine) as box:
        box.wait_for(r'^\[typed\] echo: ready')
        box.wait_for(r'^\[fires\] contender: ready')
        for n in range(lines):
            box.type('line %d\r' % n)
        box.wait_for(r'^\[typed\] echo: LINE %d$' % (lines - 1))
        box.wait_for(r'^bulkhead: \[fires\] exited with status 0')
        box.type('quit\r')
        result = box.finish()
    assert result.status == 0 and result.lines['typed'] == ['echo: ready'] + ['echo: LINE %d' % n for n in range(lines)] + ['echo: done'], result
