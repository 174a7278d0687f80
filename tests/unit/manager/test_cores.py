"""The managers of several cores: the one that has the ports, and the one that has only its link."""
import random
import struct

import pytest

from hypervisor.manager import config
from hypervisor.manager.outpost import START_MS
from hypervisor.manager.vm import GONE
from hypervisor.spec import call, ending, status
from tests.unit.fake_kernel import TSC_KHZ, Stuck, TaskStopped, quick
from tests.unit.manager import blob
from tests.unit.manager.box import EXITED, Run, modules
from tests.unit.manager.cores import (BEGIN, ENDED, KEYS, OUTPUT, REFUSED, TAKEN, CORE_FRAMES, MEMORY, CoresKernel, Finished, Peer, ended,
                                      make_station, message, word)


@pytest.fixture(autouse=True)
def quickly():
    with quick():
        yield


# -- the first core's manager

def two_cores(here, *peers, **options):
    """alpha on this core, beta on core 1."""
    configuration = options.pop('configuration', None) or blob.make(
        [blob.vm('alpha', image=3), blob.vm('beta', image=4, ram=2 << 20, core=1, time_limit=options.pop('limit', 0))])
    return CoresKernel(modules(configuration, 'A' * 5000, 'B' * 4096), regions=(8192,), scripts={'alpha': list(here) + [EXITED]},
                       peers=peers, **options)


def out(vm, text):
    return ('say', message(OUTPUT, vm, text))


def test_vms_of_both_cores_print_and_end_and_stand_in_one_table():
    peer = Peer(1, [('hear', 1), out(1, b'hello from '), out(1, b'there\r\nand more\n'), ('say', ended(1, 1, 0))])
    run = Run(two_cores([('send', b'here\n')], peer))
    assert run.status == 0
    assert run.lines_of('alpha') == ['here'] and run.lines_of('beta') == ['hello from there', 'and more']
    assert 'exited with status 0' in run.row_of('beta')
    assert peer.heard[0][0] == BEGIN and len(peer.heard) == 1


def test_a_core_gets_memory_programs_and_its_vms_images_and_no_more():
    configuration = blob.make([blob.vm('alpha', image=3), blob.vm('beta', image=4, ram=4 << 20, core=1), blob.vm('gamma', image=5, ram=2 << 20, core=1)])
    peer = Peer(1, [('hear', 1), ('say', ended(1) + ended(2))])
    kernel = CoresKernel(modules(configuration, 'A' * 5000, 'B' * 9000, 'C' * 100), regions=(8192,), peers=[peer])
    assert Run(kernel).status == 0
    memory = [(first, count) for module, first, count, _ in peer.given if module == MEMORY]
    assert sum(count for _, count in memory) >= CORE_FRAMES + 1024 + 512 + 2 * 512
    assert all(a[0] + a[1] == b[0] for a, b in zip(memory, memory[1:])) and memory[0][0] % 512 == 0
    assert sorted(set(module for module, _, _, _ in peer.given)) == [0, 1, 2, 4, 5, MEMORY]
    for module, right in ((0, b'manager'), (1, configuration), (2, blob.program()), (4, b'B' * 9000), (5, b'C' * 100)):
        assert kernel.module_given(1, module) == right
    steps = [step for step, _ in peer.steps]
    assert steps == [0, 1, 1] and peer.steps[1][1] - peer.steps[0][1] >= 10 * TSC_KHZ and peer.steps[2][1] - peer.steps[1][1] >= TSC_KHZ // 5


def test_a_machine_without_that_core_says_so_and_runs_the_others():
    run = Run(two_cores([('send', b'here\n')]))
    assert run.status == 1 and run.lines_of('alpha') == ['here']
    assert 'could not be started' in run.row_of('beta') and 'this machine has no such core' in run.row_of('beta')


def test_a_core_that_never_answers_is_given_up_after_a_while():
    peer = Peer(1, answers=False)
    kernel = two_cores([('send', b'here\n')], peer)
    run = Run(kernel)
    assert run.status == 1 and run.lines_of('alpha') == ['here'] and 'its core did not start' in run.row_of('beta')
    assert START_MS * TSC_KHZ <= kernel.now < 2 * START_MS * TSC_KHZ


def test_a_core_that_dies_while_it_starts_tells_why():
    peer = Peer(1, answers=False)
    kernel = two_cores([], peer)
    plain = kernel.do_core_start

    def dies(core, step):
        answer = plain(core, step)
        if len(peer.steps) == 3:
            peer.state, peer.text = 2, b'bulkhead: cannot start: no SVM\n'
        return answer
    kernel.do_core_start = dies
    run = Run(kernel)
    assert run.status == 1 and 'core 1: bulkhead: cannot start: no SVM' in run.own_lines() and kernel.now < START_MS * TSC_KHZ


def test_a_box_without_memory_for_the_core_says_so():
    peer = Peer(1)
    configuration = blob.make([blob.vm('alpha', image=3), blob.vm('beta', image=4, ram=30 << 20, core=1)])
    kernel = two_cores([], peer, configuration=configuration)
    run = Run(kernel)
    assert run.status == 1 and 'not enough contiguous memory' in run.row_of('beta') and not peer.steps


def test_keys_go_to_the_vm_on_the_other_core_and_what_it_does_not_take_is_sent_again():
    def rest(peer):
        assert peer.heard[1] == (KEYS, 1, b'abc')
    peer = Peer(1, [('hear', 1), out(1, b'? '), ('hear', 2), ('do', rest), ('say', message(TAKEN, 1, word(2))), ('hear', 3),
                    ('say', message(TAKEN, 1, word(1))), out(1, b'thanks\n'), ('say', ended(1))])
    kernel = two_cores([], peer)
    kernel.uart.typed = [(100 * TSC_KHZ, 0x1d), (200 * TSC_KHZ, ord('a')), (200 * TSC_KHZ, ord('b')), (200 * TSC_KHZ, ord('c'))]
    kernel.scripts['alpha'] = [('sleep', 3000), EXITED]
    run = Run(kernel)
    heard = [one for one in peer.heard if one[0] == KEYS]
    assert heard == [(KEYS, 1, b'abc'), (KEYS, 1, b'c')] and run.status == 0
    assert '? thanks' in run.lines_of('beta')


def test_a_core_that_dies_loses_its_vms_and_nothing_that_they_had_said():
    def says(peer):
        """Three messages at once, and no doorbell before the end."""
        peer.outbox += message(OUTPUT, 1, b'a line\nthe') + message(OUTPUT, 1, b' last w') + message(OUTPUT, 1, b'ords')
    peer = Peer(1, [('hear', 1), ('sleep', 10), ('do', says), ('die', b'\nbulkhead: kernel fault: it broke\nRIP 0\n')])
    run = Run(two_cores([('sleep', 50), ('send', b'still here\n')], peer))
    assert run.status == 1
    assert run.lines_of('beta') == ['a line', 'the last words'] and run.lines_of('alpha') == ['still here']
    assert 'core 1: bulkhead: kernel fault: it broke' in run.own_lines() and 'core 1: RIP 0' in run.own_lines()
    assert 'its core 1 stopped' in run.row_of('beta')


def test_a_core_that_dies_while_the_next_is_started_is_noticed():
    """The signal comes while the manager waits between two steps."""
    first = Peer(1, [('sleep', 3), ('die', b'gone\n')])
    second = Peer(2, [('hear', 1), ('say', ended(1))])
    configuration = blob.make([blob.vm('alpha', image=3, ram=2 << 20, core=1), blob.vm('beta', image=4, ram=2 << 20, core=2)])
    run = Run(two_cores([], first, second, configuration=configuration))
    assert 'its core 1 stopped' in run.row_of('alpha') and 'exited with status 0' in run.row_of('beta') and 'core 1: gone' in run.own_lines()


def test_a_core_that_talks_does_not_shorten_the_times_that_the_next_one_needs():
    first = Peer(1, [step for _ in range(30) for step in (('sleep', 0.4), out(0, b'x'))] + [('say', ended(0))])
    second = Peer(2, [('hear', 1), ('say', ended(1))])
    configuration = blob.make([blob.vm('alpha', image=3, ram=2 << 20, core=1), blob.vm('beta', image=4, ram=2 << 20, core=2)])
    assert Run(two_cores([], first, second, configuration=configuration)).status == 0
    times = [now for _, now in second.steps]
    assert times[1] - times[0] >= 10 * TSC_KHZ and times[2] - times[1] >= TSC_KHZ


def test_a_configuration_that_the_other_core_refuses_ends_its_vms():
    peer = Peer(1, [('hear', 1), ('say', message(REFUSED, 0, word(config.RAM_TOO_MUCH)))])
    run = Run(two_cores([('send', b'here\n')], peer))
    assert run.status == 1 and run.lines_of('alpha') == ['here'] and 'its core 1 stopped' in run.row_of('beta')


NONSENSE = {
    'no such kind': b'\x63\0\0\0', 'too long': b'\3\1\xff\xff', 'nothing': b'\0' * 40,
    'refused by nobody': message(REFUSED, 255, word(1)), 'refused without a reason': message(REFUSED, 8)}


@pytest.mark.parametrize('name', sorted(NONSENSE))
def test_a_core_that_talks_nonsense_is_lost_and_nobody_else(name):
    peer = Peer(1, [('hear', 1), out(1, b'fine\n'), ('say', NONSENSE[name])])
    run = Run(two_cores([('sleep', 50), ('send', b'here\n')], peer))
    assert run.status == 1 and run.lines_of('alpha') == ['here'] and run.lines_of('beta') == ['fine']
    assert 'its core 1 stopped' in run.row_of('beta')


def test_messages_about_others_vms_are_not_heard():
    """Not about this core's VM, not about one that is none, nor about one that has ended."""
    foreign = b''.join(message(kind, vm, data) for vm in (0, 2, 7, 8, 200, 255)
                       for kind, data in ((OUTPUT, b'mine\n'), (TAKEN, word(1)), (ENDED, b'x' * 300)))
    odd = message(TAKEN, 1) + message(TAKEN, 1, word((1 << 64) - 1)) + message(TAKEN, 1, word(1 << 63)) + message(BEGIN, 1) + message(KEYS, 1, b'k')
    peer = Peer(1, [('hear', 1), ('say', foreign + odd), out(1, b'fine\n'), ('say', ended(1) + message(OUTPUT, 1, b'late\n') + ended(1, 3))])
    run = Run(two_cores([('send', b'here\n'), ('sleep', 50)], peer))
    assert run.status == 0 and run.lines_of('alpha') == ['here'] and run.lines_of('beta') == ['fine']


@pytest.mark.parametrize('how', [0, 13, 19, 18, 25, 99, 1 << 31, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize('detail', [0, 1 << 31, 1 << 63, (1 << 64) - 1])
def test_an_end_of_any_kind_has_words(how, detail):
    peer = Peer(1, [('hear', 1), ('say', ended(1, how, detail))])
    run = Run(two_cores([], peer))
    assert run.status == 1 and run.row_of('beta')


def test_a_core_that_never_stops_talking_of_others_holds_nobody_up():
    peer = Peer(1, [('hear', 1)])
    kernel = two_cores([('send', b'here\n')], peer)
    plain, loads = kernel.do_ring_receive, []

    def receive(slot):
        if slot == call.SLOT_LINK + 1 and peer.state == 1:
            loads.append(1)
            if len(loads) > 400:
                return plain(slot)
            kernel.page_write(message(OUTPUT, 0, b'x') * 100)
            return status.OK, 500
        return plain(slot)
    kernel.do_ring_receive = receive
    turns = []

    def alpha_ends(kernel, compartment):
        turns.append(len(loads))
        peer.script = [('die', b'')]
    kernel.scripts['alpha'] = [('send', b'here\n'), ('call', alpha_ends), EXITED]
    kernel.random = random.Random(1)
    run = Run(kernel)
    assert turns and turns[0] < 100, 'alpha has waited for the noise to end'
    assert run.lines_of('alpha') == ['here']


# -- the other core's manager

def run_station(script, vms, scripts, sizes=('A' * 5000, 'B' * 4096), prepare=None):
    """Core 1's manager with the first core's at the other end. Returns the kernel, its peer and the station."""
    peer = Peer(0, script)
    kernel = CoresKernel(modules(blob.make(vms), *sizes), regions=(8192,), scripts=scripts, peers=[peer], core=1)
    peer.state = 1
    station = make_station(kernel)
    if prepare is not None:
        prepare(kernel, peer)
    try:
        station.run()
    except (Finished, Stuck):
        pass
    except TaskStopped as stopped:
        peer.hear()
        peer.stopped = stopped.how, stopped.detail
    return kernel, peer, station


def begin(seconds=77, tsc=88, running=0xff):
    return ('say', message(BEGIN, 0, word(seconds) + word(tsc) + word(running)))


VMS = [blob.vm('alpha', image=3), blob.vm('beta', image=4, ram=2 << 20, core=1)]


def heard(peer, kind, vm):
    return [data for what, which, data in peer.heard if (what, which) == (kind, vm)]


def test_station_makes_its_own_vms_once_and_tells_of_their_end_after_their_last_word():
    kernel, peer, station = run_station([begin(), begin(), ('sleep', 3000), ('finish',)], VMS,
                                        {'beta': [('send', b'x' * 6000), ('send', b'bye'), ('end', ending.EXITED, 5)]}, sizes=('', 'B' * 4096))
    assert list(kernel.started) == ['beta'] and station.box.clock.seconds == 77
    assert b''.join(heard(peer, OUTPUT, 1)) == b'x' * 6000 + b'bye'
    assert peer.heard[-1][0] == ENDED and struct.unpack('<2Q', peer.heard[-1][2][:16]) == (ending.EXITED, 5)
    assert [kind for kind, _, _ in peer.heard].count(ENDED) == 1 and set(vm for _, vm, _ in peer.heard) == set([1])
    assert station.vms[1].state == GONE


def test_station_without_begin_makes_nothing():
    kernel, peer, _ = run_station([('say', message(KEYS, 1, b'abc')), ('sleep', 100), ('finish',)], VMS, {})
    assert not kernel.started and not peer.heard


def test_no_output_is_lost_while_the_first_core_does_not_listen():
    text = bytes(bytearray(n * 7 & 0xff for n in range(14000)))

    def deaf(kernel, peer):
        peer.deaf = True

    def listen(peer):
        assert not peer.heard and len(peer.inbox) == 4096, 'it is full'
        assert peer.kernel.started['beta'].state == call.STATE_RUNNING, 'the VM waits'
        peer.deaf = False
    _, peer, _ = run_station([begin(), ('sleep', 500), ('do', listen), ('sleep', 3000), ('finish',)], VMS, {'beta': [('send', text), EXITED]}, prepare=deaf)
    assert b''.join(heard(peer, OUTPUT, 1)) == text and peer.heard[-1][0] == ENDED


def test_keys_are_offered_until_the_vm_takes_them():
    script = [begin(), ('say', message(KEYS, 1, b'k' * 64)), ('hear', 1), ('sleep', 100), ('finish',)]
    kernel, peer, _ = run_station(script, VMS, {'beta': [('sleep', 50), ('receive', 64), ('sleep', 9000), EXITED]})
    assert kernel.started['beta'].received == b'k' * 64 and heard(peer, TAKEN, 1) == [word(64)]


def test_keys_that_find_the_ring_full_wait_there():
    """The VM reads nothing: its ring takes two loads, of the next some, and then nothing until it reads."""
    loads = [('say', message(KEYS, 1, b'k' * 1500)) for _ in range(3)]
    script = [begin()]
    for n, load in enumerate(loads):
        script += [load, ('hear', n + 1)]
    script += [('say', message(KEYS, 1, b'z' * 404)), ('sleep', 200), ('do', lambda peer: check_waiting(peer)), ('sleep', 2000), ('finish',)]

    def check_waiting(peer):
        assert heard(peer, TAKEN, 1) == [word(1500), word(1500), word(1096)]
    kernel, peer, _ = run_station(script, VMS, {'beta': [('sleep', 1000), ('receive', 4096 + 404), ('sleep', 9000), EXITED]})
    assert kernel.started['beta'].received == b'k' * 4096 + b'z' * 404 and heard(peer, TAKEN, 1)[3] == word(404)


def test_keys_of_vms_that_are_not_here_are_dropped():
    noise = b''.join(message(KEYS, vm, b'no') for vm in (0, 2, 8, 255)) + message(OUTPUT, 1, b'x') + message(ENDED, 255) + message(TAKEN, 9)
    kernel, peer, station = run_station([begin(), ('say', noise), ('say', message(KEYS, 1, b'yes')), ('sleep', 100), ('finish',)], VMS,
                                        {'beta': [('receive', 3), ('sleep', 9000), EXITED]})
    assert kernel.started['beta'].received == b'yes' and heard(peer, TAKEN, 1) == [word(3)] and not heard(peer, TAKEN, 0)


@pytest.mark.parametrize('spoil, right', [
    (lambda vms: vms[1].update(ram=40 << 20), config.RAM_TOO_MUCH), (lambda vms: vms[1].update(image=9), config.IMAGE_NO_MODULE),
    (lambda vms: vms[0].update(name='A'), config.NAME_BYTE)])
def test_station_refuses_what_it_cannot_make_and_says_why(spoil, right):
    vms = [dict(one) for one in VMS]
    spoil(vms)
    kernel, peer, _ = run_station([begin(), ('sleep', 100), ('finish',)], vms, {})
    assert peer.heard == [(REFUSED, 0, word(right))] and not kernel.started
    assert peer.stopped == (ending.NOT_STARTED, right), 'vCPUs of others that were to live here'


def test_what_others_vms_need_is_not_looked_for_here():
    vms = [blob.vm('alpha', image=9, ram=64 << 20), blob.vm('beta', image=4, ram=2 << 20, core=1), blob.vm('gamma', image=4, ram=2 << 20, core=2)]
    kernel, peer, _ = run_station([begin(), ('hear', 1), ('finish',)], vms, {})
    assert list(kernel.started) == ['beta'] and peer.heard[0][:2] == (ENDED, 1)


def test_all_vms_that_cannot_be_made_are_told_of():
    vms = [blob.vm('vm%d' % n, image=3 + n, ram=2 << 20, core=1) for n in range(8)]

    def fails(kernel, peer):
        kernel.do_create = lambda slot, region, first, count: status.NO_ROOM
    kernel, peer, _ = run_station([begin(), ('hear', 8), ('finish',)], vms, {}, sizes=['i'] * 8, prepare=fails)
    assert [(kind, vm) for kind, vm, _ in peer.heard] == [(ENDED, n) for n in range(8)]
    assert all(struct.unpack('<2Q', data[:16]) == (ending.NOT_STARTED, status.NO_ROOM) for _, _, data in peer.heard)


def test_time_limit_holds_on_the_other_core():
    vms = [VMS[0], blob.vm('beta', image=4, ram=2 << 20, core=1, time_limit=30)]

    def works(kernel, compartment):
        compartment.ticks = 1000 * TSC_KHZ
    _, peer, _ = run_station([begin(), ('hear', 1), ('finish',)], vms, {'beta': [('call', works), ('sleep', 90000), EXITED]})
    assert struct.unpack('<2Q', peer.heard[0][2][:16]) == (ending.TIME_LIMIT, 30)


def test_nonsense_ends_the_conversation_and_nothing_else():
    kernel, peer, station = run_station([begin(), ('sleep', 10), ('say', b'\xff\xff\xff\xff'), ('sleep', 100), ('finish',)], VMS,
                                        {'beta': [('sleep', 9000), EXITED]})
    assert station.post.broken and kernel.started['beta'].state == call.STATE_RUNNING
