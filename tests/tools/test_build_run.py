"""The whole way from RPython to an image: it builds, it runs, it notices changes, and it stops where a proof fails."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'build'))

import build  # noqa: E402
from steps import BuildError  # noqa: E402

SAMPLES = ROOT / 'tests' / 'unit' / 'samples'


def sample(name, target):
    return build.Program(name, target, 3, SAMPLES / 'boot', ROOT / 'linker' / 'task.ld')


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    return tmp_path_factory.mktemp('build')


def steps_of(out, program, **options):
    """Build in a new process's place.  Returns the names of the steps that ran."""
    lines = []
    builder = build.Builder(out, report=lines.append, **options)
    builder.prepare()
    builder.build(program)
    return [line.split()[0] for line in lines]


def test_sample_builds_runs_and_needs_no_second_build(out):
    program = sample('sample', 'tests.unit.samples.task')
    assert {'translate', 'compile', 'link', 'check', 'image'} <= set(steps_of(out, program))
    assert subprocess.run([out / 'sample.elf']).returncode == 7         # t_run counts to the limit that _start gives t_boot
    assert (out / 'sample.bin').read_bytes()[:8] == b'BULKPROG'
    assert steps_of(out, program) == []
    assert set(steps_of(out, program, force=True)) >= {'translate', 'link', 'check'}


def test_allocation_after_the_seal_panics(out):
    """The seal is the second line of defence: an exit path that EXIT_PATH does not name is not proved."""
    steps_of(out, sample('sealed', 'tests.unit.samples.sealed_task'))
    assert subprocess.run([out / 'sealed.elf']).returncode == 128 + 1   # PANIC_HEAP_SEALED


def test_unlawful_program_stops_the_build_with_every_reason(out):
    with pytest.raises(BuildError) as caught:
        steps_of(out, sample('unlawful', 'tests.unit.samples.unlawful_task'))
    message = str(caught.value)
    assert 'the exit path allocates memory' in message and 'exit_paths.py' in message
    assert 'Refused may leave t_run' in message
    assert not (out / 'unlawful.elf').exists()


def test_wrong_python_is_explained_without_a_traceback(out):
    with pytest.raises(BuildError) as caught:
        steps_of(out, sample('mixed', 'tests.unit.samples.not_rpython'))
    assert 'this is not RPython' in str(caught.value) and 'not_rpython' in str(caught.value)
    assert 'Traceback' not in str(caught.value)


def test_missing_target_is_named(out):
    with pytest.raises(BuildError, match=r'tests/unit/samples/nowhere\.py is missing'):
        steps_of(out, sample('nowhere', 'tests.unit.samples.nowhere'))


@pytest.mark.parametrize('arguments, words', [
    (['kernal'], "no program 'kernal'"),
    (['--task-target', 'tests.unit.samples.task', 'vmm'], 'choose another'),
])
def test_command_line_mistake_is_a_sentence(tmp_path, arguments, words):
    command = [sys.executable, ROOT / 'tools' / 'build' / 'build.py', '--out', tmp_path, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert finished.returncode == 1 and words in finished.stderr and 'Traceback' not in finished.stderr
