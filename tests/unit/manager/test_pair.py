"""The first core's manager and another one's together: VMs of both with vCPUs on both, from the start of the second core to power-off."""
import random

import pytest

from hypervisor.manager.vm import GONE, JOINED
from hypervisor.spec import call, ending, status
from tests.unit.fake_kernel import TSC_KHZ, quick
from tests.unit.manager import blob
from tests.unit.manager.box import EXITED, modules
from tests.unit.manager.pair import Pair


@pytest.fixture(autouse=True)
def quickly():
    with quick():
        yield


def pair(scripts, seed=None, **options):
    vms = [blob.vm('alpha', image=3, ram=2 << 20, vcpus=4, cores=[0, 1], entitlement=30, **options),
           blob.vm('beta', image=4, ram=2 << 20, vcpus=2, cores=[1, 0], entitlement=40), blob.vm('gamma', image=5, ram=2 << 20, core=1)]
    scripts['gamma'] = [('sleep', 4000), EXITED]         # the box stays on for long enough to see what becomes of the others
    return Pair(modules(blob.make(vms), 'A' * 5000, 'B' * 4096, 'C' * 100), scripts, seed=seed).run()


def branch(kernel, vm):
    return kernel.branches[1 - kernel.core, vm]


def is_tidy(box):
    """Nothing of a VM is in a slot for a branch any more, and both managers know it. A station may still ask for one that was never there."""
    for kernel, manager in zip((box.first, box.second), box.managers):
        held = [thing for thing in kernel.manager.slots.values() if thing.kind == 'compartment']
        assert not [thing for thing in kernel.branches.values() if thing in held]
        assert JOINED not in [vm.branch for vm in manager.vms]
    assert [vm.state for vm in box.managers[0].vms[:3]] == [GONE] * 3
    return True


def test_two_homes_with_each_others_branches():
    box = pair({'alpha': [('sleep', 40), ('send', b'from alpha\n'), ('sleep', 40), EXITED],
                'beta': [('sleep', 20), ('send', b'from beta\n'), ('sleep', 700), ('send', b'later\n'), EXITED]})
    assert box.status == 0 and [line for line in box.lines if line.startswith('[')] == ['[beta] from beta', '[alpha] from alpha', '[beta] later']
    assert branch(box.second, 0).share == (30, 0, 100) and branch(box.first, 1).share == (40, 0, 100)
    assert box.first.started['alpha'].places == [(0, 0), (1, 0)] * 2 and box.second.started['beta'].places == [(1, 1), (0, 1)]
    assert sorted(box.second.started) == ['beta', 'gamma'] and is_tidy(box)


@pytest.mark.parametrize('name', ['alpha', 'beta'])
def test_a_vm_that_ends_at_once_leaves_no_branch(name):
    scripts = {'alpha': [('sleep', 3000), EXITED], 'beta': [('sleep', 3000), EXITED]}
    scripts[name] = [EXITED]
    box = pair(scripts)
    assert box.status == 0 and is_tidy(box)


def test_the_manager_that_stops_a_branch_ends_the_vm_at_home():
    """alpha's vCPUs on core 1 use up its time there."""
    def works(kernel, compartment):
        branch(kernel.pair.second, 0).ticks = 1000 * TSC_KHZ
    box = pair({'alpha': [('sleep', 100), ('call', works), ('sleep', 90000), EXITED], 'beta': [('sleep', 300), EXITED]}, time_limit=50)
    assert 'bulkhead: [alpha] used up its time limit of 50 ms' in box.lines and 'bulkhead: [beta] exited with status 0' in box.lines
    assert box.status == 1 and is_tidy(box)


def test_a_share_that_the_other_core_refuses_ends_the_vm_at_home():
    """Its kernel has promised more than the configuration says."""
    plain = Pair.begin

    def begin(self, first):
        plain(self, first)
        self.second.do_share_plain, self.second.do_share = self.second.do_share, lambda slot, *share: (
            status.PROMISED if self.second.look(slot, 'compartment') in self.second.branches.values() else self.second.do_share_plain(slot, *share))
    Pair.begin = begin
    try:
        box = pair({'alpha': [('sleep', 90000), EXITED], 'beta': [('sleep', 300), EXITED]})
    finally:
        Pair.begin = plain
    assert 'bulkhead: [alpha] could not be started, status 15: the processor has not so much time left to promise' in box.lines
    assert box.managers[0].vms[0].how == ending.NOT_STARTED and box.second.started['beta'].state == call.STATE_ENDED and is_tidy(box)


@pytest.mark.parametrize('seed', range(15))
def test_whenever_they_end_each_vm_ends_once_and_nothing_is_left(seed):
    choose = random.Random(seed)
    scripts = dict((name, [('sleep', choose.choice([0.01, 0.1, 1, 2, 20, 999, 1001])), ('send', name + b' was here\n'), EXITED]) for name in ('alpha', 'beta'))
    box = pair(scripts, seed=seed)
    assert box.status == 0 and is_tidy(box)
    for name in ('alpha', 'beta'):
        assert box.lines.count('[%s] %s was here' % (name, name)) == box.lines.count('bulkhead: [%s] exited with status 0' % name) == 1
