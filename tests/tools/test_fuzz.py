"""make fuzz: goes on after a failure, tells how to repeat it, and never passes without having run anything."""
import pytest

import fuzz

FAILURE = '''F
=================================== FAILURES ===================================
______________ test_one[3] ______________
E   assert 1 == 2
________ Machine.test_two ________
____ TestThree.runTest ____
1 failed'''


@pytest.fixture
def rounds(monkeypatch):
    """rounds(answer, count) runs that many; answer(part, seed, without) is pytest's (status, output). Returns what was run."""
    def play(answer, count=3):
        ran, clock = [], iter([0] * count + [10 ** 9] * 9)
        monkeypatch.setattr(fuzz.time, 'monotonic', lambda: next(clock))
        monkeypatch.setattr(fuzz.parts, 'parts', lambda folders: ['a', 'b'])

        def run(python, part, seed, without):
            ran.append((str(part), seed, without))
            return ('run %s %d' % (part, seed),) + answer(str(part), without)
        monkeypatch.setattr(fuzz, 'run', run)
        fuzz.main('1', 'python2', 'python3')
        return ran
    return play


def test_each_round_has_a_seed_of_its_own(rounds, capsys):
    ran = rounds(lambda part, without: (0, '') if part != 'b' else (fuzz.NO_TESTS, ''))
    first = ran[0][1]
    assert [(part, seed - first) for part, seed, _ in ran] == [(part, n) for n in range(3) for part in ('a', 'b', 'tests/tools')]
    assert capsys.readouterr().out.splitlines()[-1] == '3 rounds passed'


def test_no_time_is_one_round(rounds):
    """Or nothing would have run, and passed."""
    assert len(rounds(lambda part, without: (0, ''), 1)) == 3


def test_a_failure_is_told_once_with_its_command_and_the_rest_goes_on(rounds, capsys):
    with pytest.raises(SystemExit) as end:
        rounds(lambda part, without: (1, FAILURE) if part == 'a' and not without else (0, ''))
    printed = capsys.readouterr().out
    assert printed.count('repeat it with\n  run a ') == 1 and 'round 3' in printed
    assert 'TestThree, test_one, test_two' in end.value.code and 'run a ' in end.value.code


@pytest.mark.parametrize('status, output, said', [(fuzz.NO_TESTS, '', 'no properties'), (4, 'ERROR: unknown option', 'pytest itself')])
def test_what_did_not_run_has_not_passed(rounds, status, output, said):
    with pytest.raises(SystemExit, match=said):
        rounds(lambda part, without: (status, output))
