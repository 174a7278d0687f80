"""build/gen/spec.h says what hypervisor/spec says, in a form that the assembler, the linker and C all read."""
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'build'))

import headers  # noqa: E402


def module(name, **constants):
    return SimpleNamespace(__name__=name, C_CONSTANTS=constants)


def test_every_constant_of_spec_is_seen_by_c_and_assembler(tmp_path):
    headers.write(tmp_path / 'spec.h')
    constants = {name: value for each in headers.spec_modules() for name, value in getattr(each, 'C_CONSTANTS', {}).items()}
    assert 'PROGRAM_MAGIC' in constants
    asserts = ''.join(f'_Static_assert({name} == {value}ul, "{name}");\n' for name, value in constants.items())
    (tmp_path / 'c.c').write_text('#include "spec.h"\n' + asserts)
    quads = ''.join(f'.quad {name}\n' for name in constants)
    (tmp_path / 's.S').write_text('#include "spec.h"\n' + quads)
    for name in ('c.c', 's.S'):
        subprocess.run(['gcc', '-c', tmp_path / name, '-o', tmp_path / 'o.o'], check=True)


@pytest.mark.parametrize('value', [-1, 1 << 64, 'text', 1.5, None])
def test_value_that_is_no_word_is_refused(value):
    with pytest.raises(headers.HeaderError, match='spec.a: C_CONSTANTS'):
        headers.defines([module('spec.a', PAGE=value)])


def test_name_given_twice_is_refused_even_with_one_value():
    with pytest.raises(headers.HeaderError, match='already made by spec.a'):
        headers.defines([module('spec.a', PAGE=1), module('spec.b', PAGE=1)])


@pytest.mark.parametrize('name', ['Page', 'PAGE SIZE', '1PAGE'])
def test_name_that_is_no_macro_is_refused(name):
    with pytest.raises(headers.HeaderError, match='capitals'):
        headers.defines([module('spec.a', **{name: 1})])


def test_unchanged_header_keeps_its_time(tmp_path):
    headers.write(tmp_path / 'spec.h')
    before = (tmp_path / 'spec.h').stat().st_mtime_ns
    headers.write(tmp_path / 'spec.h')
    assert (tmp_path / 'spec.h').stat().st_mtime_ns == before
