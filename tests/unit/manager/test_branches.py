"""VMs with vCPUs on several cores: what the manager of each core does, at the VM's home and elsewhere."""
import random
import struct

import pytest

from hypervisor.manager import build
from hypervisor.manager.keeper import IDLE_MS
from hypervisor.manager.vm import ELSEWHERE, JOINED
from hypervisor.spec import call, ending, status
from hypervisor.spec import owning as spec_owning
from tests.unit.fake_kernel import TSC_KHZ, quick
from tests.unit.manager import blob
from tests.unit.manager.box import EXITED, Run, modules
from tests.unit.manager.cores import BEGIN, CORE_FRAMES, ENDED, MEMORY, CoresKernel, Peer, ended, message, word
from tests.unit.manager.test_cores import begin, heard, run_station

ALPHA, BETA, GAMMA = range(3)
SHARE = dict(entitlement=20, cap=40, weight=300)


@pytest.fixture(autouse=True)
def quickly():
    with quick():
        yield


def slot_of(vm):
    return call.SLOT_MANAGER_FREE + vm


def alpha(*cores, **options):
    return blob.vm('alpha', image=3, ram=2 << 20, vcpus=len(cores), cores=list(cores), **options)


def beta(*cores, **options):
    return blob.vm('beta', image=4, ram=2 << 20, vcpus=len(cores), cores=list(cores), **options)


def gamma(*cores, **options):
    return blob.vm('gamma', image=5, ram=2 << 20, vcpus=len(cores), cores=list(cores), **options)


def first(vms, here, *peers, **options):
    """The first core's kernel, about to run. here: what alpha does."""
    return CoresKernel(modules(blob.make(vms), 'A' * 5000, 'B' * 4096, 'C' * 100), regions=(8192,), scripts={'alpha': list(here) + [EXITED]},
                       peers=peers, **options)


def station(vms, script, scripts=None, prepare=None):
    return run_station(script, vms, scripts or {}, sizes=('A' * 5000, 'B' * 4096, 'C' * 100), prepare=prepare)


def joined(vm):
    """For a script that goes on when what its VM has here has been fetched."""
    return lambda peer: (peer.core, vm) in peer.kernel.branches


def told(peer):
    return bool(peer.told)


# -- two homes with each other's branches

def test_first_core_offers_its_vms_vcpus_and_fetches_those_of_another_home():
    peer = Peer(1, [('hear', 1), ('offer', BETA), ('until', joined(BETA)), ('end', BETA), ('say', ended(BETA))])
    kernel = first([alpha(0, 1, 0), beta(1, 0, **SHARE)], [('sleep', 50)], peer)
    run = Run(kernel)
    assert run.status == 0 and kernel.started['alpha'].places == [(0, ALPHA), (1, ALPHA), (0, ALPHA)]
    assert peer.offered == [ALPHA] and peer.heard[0] == (BEGIN, 0, peer.heard[0][2]) and struct.unpack('<3Q', peer.heard[0][2])[2] == 3
    assert set(kernel.asked) == set([(slot_of(BETA), 1, BETA)]) and kernel.branches[1, BETA].share == (20, 40, 300)
    assert slot_of(BETA) not in kernel.manager.slots and not peer.told, 'released, and the end was the home\'s to tell'


def test_station_offers_its_vms_vcpus_and_fetches_those_of_another_home():
    script = [begin(running=3), ('offer', ALPHA), ('until', joined(ALPHA)), ('sleep', 100), ('end', ALPHA), ('sleep', 100), ('finish',)]
    kernel, peer, it = station([alpha(0, 1, **SHARE), beta(1, 0, 1, 0)], script, {'beta': [('sleep', 50), EXITED]})
    assert kernel.started['beta'].places == [(1, BETA), (0, BETA), (1, BETA), (0, BETA)] and peer.offered == [BETA]
    assert set(kernel.asked) == set([(slot_of(ALPHA), 0, ALPHA)]) and kernel.branches[0, ALPHA].share == (20, 40, 300)
    assert slot_of(ALPHA) not in kernel.manager.slots and not peer.told and it.vms[ALPHA].branch == ELSEWHERE
    assert [(kind, vm) for kind, vm, _ in peer.heard] == [(ENDED, BETA)], 'of the branch nobody is told anything'


def test_vms_that_have_nothing_here_are_not_asked_for():
    kernel, _, it = station([alpha(0, 2), beta(1), gamma(0)], [begin(running=7), ('sleep', 100), ('finish',)])
    assert not kernel.asked and it.vms[ALPHA].branch == it.vms[GAMMA].branch == ELSEWHERE and list(kernel.started) == ['beta']


def test_all_cores_run_before_a_manager_is_told_to_begin():
    """Also a core without a home, which gets its kernel's memory, the manager and the configuration, and no VM's."""
    moments = []

    def note(peer):
        moments.append(peer.kernel.now)
    one, two = Peer(1, [('hear', 1), ('do', note), ('say', ended(BETA))]), Peer(2, [('hear', 1)])
    kernel = first([alpha(0, 2), beta(1, 2)], [], one, two)
    assert Run(kernel).status == 0 and len(two.steps) == 3
    assert moments[0] > two.steps[2][1] and [struct.unpack('<3Q', peer.heard[0][2])[2] for peer in (one, two)] == [7, 7]
    assert sorted(set(module for module, _, _, _ in two.given)) == [0, 1, MEMORY]
    assert sum(count for module, _, count, _ in two.given if module == MEMORY) == CORE_FRAMES + 512, 'two branches live in less than 2 MiB'


# -- offers

def test_a_vm_that_is_not_offered_yet_is_fetched_as_soon_as_it_is():
    at = []
    script = [begin(running=3), ('sleep', 340), ('offer', ALPHA), ('do', lambda peer: at.append(peer.kernel.now)), ('until', joined(ALPHA)),
              ('do', lambda peer: at.append(peer.kernel.now)), ('sleep', 3000), ('finish',)]
    kernel, _, it = station([alpha(0, 1), beta(1)], script, {'beta': [('sleep', 99999)]})
    assert at[1] - at[0] < TSC_KHZ and it.vms[ALPHA].branch == JOINED
    assert 2 <= len(kernel.asked) < 10 and slot_of(ALPHA) in kernel.manager.slots


def test_an_offer_whose_signal_was_lost_is_found_in_a_second():
    def offers(peer):
        peer.offers[ALPHA] = status.OK
        peer.kernel.since = peer.kernel.now
    script = [begin(running=3), ('sleep', 340), ('do', offers), ('until', joined(ALPHA)), ('finish',)]
    kernel, _, _ = station([alpha(0, 1), beta(1)], script)
    assert (0, ALPHA) in kernel.branches and kernel.now - kernel.since <= (IDLE_MS + 1) * TSC_KHZ


def test_the_first_core_is_woken_by_an_offer_as_well():
    at = []
    peer = Peer(1, [('hear', 1), ('sleep', 5340), ('offer', BETA), ('do', lambda peer: at.append(peer.kernel.now)), ('until', joined(BETA)),
                    ('do', lambda peer: at.append(peer.kernel.now)), ('end', BETA), ('say', ended(BETA))])
    kernel = first([alpha(0), beta(1, 0)], [], peer)
    assert Run(kernel).status == 0 and at[1] - at[0] < TSC_KHZ


@pytest.mark.parametrize('failure', [status.NO_MEMORY, status.NO_ROOM, status.BAD_RANGE, status.BAD_STATE])
def test_a_join_that_fails_is_not_tried_again(failure):
    """The kernel has told the home's, which ends the VM."""
    kernel, peer, it = station([alpha(0, 1), beta(1)], [begin(running=3), ('offer', ALPHA, failure), ('sleep', 5000), ('finish',)])
    assert 1 <= len(kernel.asked) <= 2 and kernel.asked[-1] == (slot_of(ALPHA), 0, ALPHA) and it.vms[ALPHA].branch == ELSEWHERE and not peer.told and slot_of(ALPHA) not in kernel.manager.slots


def test_a_join_that_fails_on_the_first_core_ends_the_vm_by_its_home_alone():
    peer = Peer(1, [('hear', 1), ('offer', BETA, status.NO_MEMORY), ('sleep', 3000), ('say', ended(BETA, ending.NOT_STARTED, status.NO_MEMORY))])
    kernel = first([alpha(0), beta(1, 0)], [('sleep', 4000)], peer)
    run = Run(kernel)
    assert len(kernel.asked) <= 2 and 'could not be started, status %d' % status.NO_MEMORY in run.row_of('beta')


def test_a_branch_whose_share_is_refused_ends_its_vm_and_says_why():
    def refuses(kernel, peer):
        kernel.do_share = lambda *arguments: status.PROMISED
    kernel, peer, it = station([alpha(0, 1), beta(0)], [begin(running=3), ('offer', ALPHA), ('sleep', 3000), ('finish',)], prepare=refuses)
    assert peer.told == [(ALPHA, ending.NOT_STARTED, status.PROMISED)] and not peer.heard
    assert slot_of(ALPHA) not in kernel.manager.slots and it.vms[ALPHA].branch == ELSEWHERE


def test_a_branch_that_has_ended_before_it_gets_its_share_is_released():
    """Its VM ends between JOIN and SHARE: there is no end to be told, and STOP releases."""
    def ends(kernel, peer):
        plain = kernel.do_share

        def share(*arguments):
            kernel.end_branch(peer, ALPHA)
            return plain(*arguments)
        kernel.do_share = share
    kernel, peer, it = station([alpha(0, 1), beta(0)], [begin(running=3), ('offer', ALPHA), ('sleep', 3000), ('finish',)], prepare=ends)
    assert not peer.told and slot_of(ALPHA) not in kernel.manager.slots and it.vms[ALPHA].branch == ELSEWHERE


# -- ends

def test_a_branch_may_end_before_its_vm_is_said_to_have_ended_and_after():
    before = Peer(1, [('hear', 1), ('offer', BETA), ('until', joined(BETA)), ('end', BETA), ('sleep', 50), ('say', ended(BETA, 2))])
    after = Peer(1, [('hear', 1), ('offer', BETA), ('until', joined(BETA)), ('say', ended(BETA, 2)), ('sleep', 50), ('end', BETA)])
    for peer in (before, after):
        kernel = first([alpha(0), beta(1, 0)], [('sleep', 200)], peer)
        run = Run(kernel)
        assert run.status == 0 and 'powered off' in run.row_of('beta') and [line for line in run.own_lines() if line.startswith('[beta]')] == ['[beta] powered off']
        assert slot_of(BETA) not in kernel.manager.slots and run.manager.vms[BETA].branch == ELSEWHERE and not peer.told


ALONE = 'core 1 is for [beta] alone, but not its local APIC: '


@pytest.mark.parametrize('options, owning, line', [
    ({}, spec_owning.POSSIBLE, 'core 1 and its local APIC are for [beta] alone'),
    ({}, spec_owning.NO_X2APIC, ALONE + 'the processor has no x2APIC mode'), ({}, spec_owning.NO_VENDOR, ALONE + 'that takes VMX'),
    ({'cap': 50}, spec_owning.POSSIBLE, ALONE + 'the VM has a cap')])
def test_the_box_says_whether_a_vcpu_has_its_cores_local_apic(options, owning, line):
    peer = Peer(1, [('hear', 1), ('offer', BETA), ('until', joined(BETA)), ('end', BETA), ('sleep', 50), ('say', ended(BETA, 2))])
    run = Run(first([alpha(0), beta(1, 0, **options)], [('sleep', 200)], peer, owning=owning))
    assert [each for each in run.own_lines() if ' alone' in each] == [line]


def test_of_a_core_that_is_shared_it_says_nothing():
    run = Run(first([alpha(0), beta(1, 1)], [('sleep', 200)], Peer(1, [('hear', 1), ('sleep', 50), ('say', ended(BETA, 2))])))
    assert run.status == 0 and not [each for each in run.own_lines() if ' alone' in each]


def test_a_vm_that_ended_before_it_was_fetched_is_given_up():
    peer = Peer(1, [('hear', 1), ('sleep', 100), ('say', ended(BETA)), ('sleep', 50), ('do', lambda peer: counts.append(len(peer.kernel.asked)))])
    counts = []
    kernel = first([alpha(0), beta(1, 0)], [('sleep', 5000)], peer)
    assert Run(kernel).status == 0 and counts and len(kernel.asked) == counts[0] and kernel.now > 5000 * TSC_KHZ


def test_a_signal_of_a_branch_that_has_not_ended_means_nothing():
    def rings(peer):
        peer.kernel.manager.signals |= 1 << slot_of(ALPHA)
    kernel, peer, it = station([alpha(0, 1), beta(0)], [begin(running=3), ('do', rings), ('offer', ALPHA), ('until', joined(ALPHA)), ('do', rings),
                                                        ('sleep', 2000), ('finish',)])
    assert it.vms[ALPHA].branch == JOINED and not peer.told and kernel.branches[0, ALPHA].state == call.STATE_RUNNING


def test_time_limit_holds_for_what_a_vm_has_on_another_core():
    def works(peer):
        peer.kernel.branches[0, ALPHA].ticks = 1000 * TSC_KHZ
    script = [begin(running=3), ('offer', ALPHA), ('until', joined(ALPHA)), ('sleep', 200), ('do', works), ('until', told), ('sleep', 200), ('finish',)]
    kernel, peer, it = station([alpha(0, 1, time_limit=30), beta(0, 1)], script)
    assert peer.told == [(ALPHA, ending.TIME_LIMIT, 30)] and slot_of(ALPHA) not in kernel.manager.slots


# -- cores that do not run

def test_a_vm_that_needs_a_core_that_does_not_start_is_not_started():
    """alpha lacks a core for its second vCPU, beta its home, gamma nothing."""
    peer = Peer(1, answers=False)
    kernel = first([alpha(0, 1), beta(1, 0), gamma(0)], [], peer)
    run = Run(kernel)
    assert list(kernel.started) == ['gamma'] and run.status == 1 and not kernel.asked
    for name in ('alpha', 'beta'):
        assert 'status %d: its core did not start' % build.CORE_SILENT in run.row_of(name)


def test_a_vm_that_needs_a_core_that_the_machine_lacks_says_so():
    kernel = first([alpha(0, 1), beta(2, 0), gamma(0)], [], Peer(1, [('hear', 1)]))
    run = Run(kernel)
    assert 'exited with status 0' in run.row_of('alpha') and kernel.started['alpha'].places == [(0, ALPHA), (1, ALPHA)]
    assert 'this machine has no such core' in run.row_of('beta')


def test_a_box_without_memory_for_a_core_with_branches_only_says_so():
    kernel = CoresKernel(modules(blob.make([alpha(0, 1), beta(0)]), 'A' * 5000, 'B' * 4096), regions=(CORE_FRAMES - 1,), peers=[Peer(1)])
    run = Run(kernel)
    assert 'not enough contiguous memory' in run.row_of('alpha') and list(kernel.started) == ['beta']


def test_a_vm_whose_home_runs_and_whose_other_core_does_not_is_its_homes_to_refuse():
    one = Peer(1, [('hear', 1), ('sleep', 100), ('say', ended(BETA, ending.NOT_STARTED, build.CORE_SILENT))])
    two = Peer(2, answers=False)
    kernel = first([alpha(0), beta(1, 2, 0)], [], one, two)
    run = Run(kernel)
    assert struct.unpack('<3Q', one.heard[0][2])[2] == 3 and not two.heard and not kernel.asked, 'there will be no offer'
    assert 'its core did not start' in run.row_of('beta') and len([line for line in run.own_lines() if line.startswith('[beta]')]) == 1


@pytest.mark.parametrize('core, reason', [(2, build.NO_CORE), (0, build.CORE_SILENT)])
def test_station_refuses_its_vms_that_need_a_core_that_does_not_run(core, reason):
    """The machine has two cores; which run is what BEGIN says, whatever that is."""
    running = 0xff & ~(1 << core)
    kernel, peer, it = station([alpha(1, core), beta(1), gamma(1, 0, 1, core)], [begin(running=running), ('hear', 3), ('sleep', 2000), ('finish',)])
    assert list(kernel.started) == ['beta'] and not kernel.asked
    for vm in (ALPHA, GAMMA):
        how, detail = struct.unpack('<2Q', heard(peer, ENDED, vm)[0][:16])
        assert (how, detail) == (ending.NOT_STARTED, reason)
    assert [vm for _, vm, _ in peer.heard] == [ALPHA, GAMMA, BETA]


def test_station_does_not_ask_for_a_vm_that_needs_a_core_that_does_not_run():
    kernel, _, it = station([alpha(0, 1, 2), beta(1)], [begin(running=3), ('sleep', 3000), ('finish',)])
    assert not kernel.asked and it.vms[ALPHA].branch == ELSEWHERE


def test_begin_of_another_length_makes_nothing_run():
    """A word that is not there reads as 0: no core runs, this one neither."""
    script = [('say', message(BEGIN, 0, word(7) + word(8))), ('hear', 1), ('sleep', 100), ('finish',)]
    kernel, peer, _ = station([alpha(0, 1), beta(1)], script)
    assert not kernel.started and [(kind, vm) for kind, vm, _ in peer.heard] == [(ENDED, BETA)]


# -- cores that die

def test_a_dead_core_with_branches_only_takes_no_other_homes_vm_in_this_managers_eyes():
    """Its last words are shown; how its VMs ended is told by their homes: alpha's kernel here, beta's core."""
    def dies(kernel, compartment):
        kernel.end(compartment, ending.CORE_STOPPED, 2)
    one = Peer(1, [('hear', 1), ('sleep', 300), ('say', ended(BETA, ending.CORE_STOPPED, 2))])
    two = Peer(2, [('hear', 1), ('sleep', 100), ('die', b'bulkhead: kernel fault: it broke\n')])
    kernel = first([alpha(0, 2), beta(1, 2), gamma(0, 1)], [('sleep', 110), ('call', dies)], one, two)
    kernel.scripts['gamma'] = [('sleep', 500), ('send', b'still here\n'), EXITED]
    run = Run(kernel)
    assert 'core 2: bulkhead: kernel fault: it broke' in run.own_lines() and run.lines_of('gamma') == ['still here']
    ends = [line for line in run.own_lines() if line.startswith('[')]
    assert ends == ['[alpha] its core 2 stopped', '[beta] its core 2 stopped', '[gamma] exited with status 0']
    assert run.manager.vms[ALPHA].ended > 100 * TSC_KHZ and run.manager.vms[BETA].ticks != 0, 'each by its home, with its figures'


def test_a_dead_home_takes_its_vm_and_the_branch_here_is_released():
    peer = Peer(1, [('hear', 1), ('offer', BETA), ('until', joined(BETA)), ('sleep', 50), ('die', b'gone\n')])
    kernel = first([alpha(0), beta(1, 0)], [('sleep', 300)], peer)
    run = Run(kernel)
    assert 'its core 1 stopped' in run.row_of('beta') and 'core 1: gone' in run.own_lines() and not peer.told
    assert slot_of(BETA) not in kernel.manager.slots and run.manager.vms[BETA].branch == ELSEWHERE


def test_a_home_that_dies_before_it_offers_is_not_asked_again():
    peer = Peer(1, [('hear', 1), ('sleep', 50), ('die', b'gone\n')])
    kernel = first([alpha(0), beta(1, 0)], [('sleep', 5000)], peer)
    run = Run(kernel)
    assert 'its core 1 stopped' in run.row_of('beta') and kernel.asked and len(kernel.asked) < 10


def test_what_a_lost_but_living_home_has_here_is_stopped():
    """Its manager talks nonsense, its kernel goes on."""
    peer = Peer(1, [('hear', 1), ('offer', BETA), ('until', joined(BETA)), ('say', b'\xff\xff\xff\xff')])
    kernel = first([alpha(0), beta(1, 0)], [('sleep', 300)], peer)
    run = Run(kernel)
    assert 'its core 1 stopped' in run.row_of('beta') and peer.told == [(BETA, ending.DESTROYED, 0)]
    assert slot_of(BETA) not in kernel.manager.slots


@pytest.mark.parametrize('seed', range(12))
def test_whatever_happens_when_no_branch_is_left_behind(seed):
    """Ends, offers and other tasks at random moments: every VM of another home has one end, every slot is free again."""
    choose = random.Random(seed)
    vms = [alpha(0, 1, 2)] + [blob.vm('v%d' % n, image=3 + n, ram=2 << 20, vcpus=2, cores=[1 + n % 2, 0]) for n in range(1, 6)]
    scripts = {}
    for core in (1, 2):
        moves = []
        for vm in range(1, 6):
            if 1 + vm % 2 == core:
                steps = [('sleep', choose.choice([0.3, 7, 900]))]
                if choose.random() < 0.8:
                    steps += [('offer', vm, choose.choice([0, 0, 0, status.NO_MEMORY])), ('sleep', choose.choice([0.1, 30]))]
                steps += choose.sample([('end', vm), ('say', ended(vm, 2))], 2) + [('sleep', 1)]
                moves += steps
        scripts[core] = [('hear', 1)] + moves
    kernel = CoresKernel(modules(blob.make(vms), *['i' * 100] * 6), regions=(16384,), seed=seed, peers=[Peer(core, scripts[core]) for core in (1, 2)],
                         scripts={'alpha': [('sleep', 9000), EXITED]})
    run = Run(kernel)
    assert run.status == 0 and all('powered off' in run.row_of('v%d' % vm) for vm in range(1, 6))
    assert not [slot for slot, thing in kernel.manager.slots.items() if thing.kind == 'compartment' and thing in kernel.branches.values()]
    assert not [peer.told for peer in kernel.peers.values() if peer.told] and JOINED not in [vm.branch for vm in run.manager.vms]
