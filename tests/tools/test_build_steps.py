"""A step runs when its command or the content of an input has changed, and only then."""
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'build'))

from steps import BuildError, Steps  # noqa: E402


class Bench:
    """One step: copies `source` and, as an input found afterwards, depends on `header` as well."""

    def __init__(self, folder):
        self.folder = folder
        self.source, self.header, self.result = folder / 'source', folder / 'header', folder / 'result'
        self.source.write_text('one')
        self.header.write_text('h')

    def runs(self, force=False, command=None):
        """Run the step in a new process's place.  Returns how often it really ran: 0 or 1."""
        steps = Steps(self.folder / 'out', force, report=lambda line: None)
        steps.run('copy', command or ['cp', self.source, self.result], [self.source], [self.result], lambda: [self.header])
        return steps.count


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_second_run_does_nothing(bench):
    assert [bench.runs(), bench.runs()] == [1, 0]


def test_changed_input_runs_it_again(bench):
    bench.runs()
    bench.source.write_text('two')
    assert bench.runs() == 1
    assert bench.result.read_text() == 'two'


def test_touched_but_equal_input_does_not(bench):
    bench.runs()
    bench.source.write_text('one')
    assert bench.runs() == 0


@pytest.mark.parametrize('change', [lambda path: path.write_text('H'), lambda path: path.unlink()])
def test_input_found_afterwards_counts(bench, change):
    bench.runs()
    change(bench.header)
    assert bench.runs() == 1


def test_missing_output_runs_it_again(bench):
    bench.runs()
    bench.result.unlink()
    assert bench.runs() == 1


def test_other_command_runs_it_again(bench):
    bench.runs()
    assert bench.runs(command=['cp', '-f', bench.source, bench.result]) == 1


def test_force_runs_it_again(bench):
    bench.runs()
    assert bench.runs(force=True) == 1


def test_failure_shows_command_and_error_and_is_not_remembered(bench):
    bench.runs()
    failing = ['sh', '-c', 'echo the reason; exit 3']
    for _ in range(2):
        with pytest.raises(BuildError) as caught:
            bench.runs(command=failing)
        assert 'status 3' in str(caught.value) and 'sh -c' in str(caught.value) and 'the reason' in str(caught.value)
    assert bench.runs() == 1


def test_step_that_makes_nothing_is_a_failure(bench):
    with pytest.raises(BuildError, match='made no'):
        bench.runs(command=['true'])


def test_damaged_manifest_means_build_anew(bench):
    bench.runs()
    (bench.folder / 'out' / 'manifest.json').write_text('{')
    assert bench.runs() == 1
