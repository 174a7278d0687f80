"""The proofs over flow graphs find what they promise to find, and pass what is lawful."""
import os
import sys

import pytest
from rpython.rtyper.lltypesystem import lltype
from rpython.translator.c.funcgen import FunctionCodeGenerator

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, 'tools', 'build'))

import callgraph                                    # noqa: E402
import position                                     # noqa: E402
import proofs                                       # noqa: E402
import translate                                    # noqa: E402
from tests.unit.samples import exit_paths           # noqa: E402

SAMPLES = os.path.join('tests', 'unit', 'samples', 'exit_paths.py')


class Target(object):
    """What a target module declares: here one function, which is entry and exit path at once."""

    def __init__(self, function, exit_path=None):
        self.ENTRY_POINTS = [(function, [lltype.Signed])]
        self.EXIT_PATH = [function] if exit_path is None else exit_path


def findings(function, exit_path=None):
    target = Target(function, exit_path)
    return proofs.check(translate.optimised_translator(target.ENTRY_POINTS), target)


def line_of(mark):
    """Return 'FILE:LINE' of the sample's line that carries the comment LINE `mark`."""
    with open(os.path.join(ROOT, SAMPLES)) as source:
        numbers = [number for number, line in enumerate(source, 1) if line.rstrip().endswith('# LINE ' + mark)]
    assert len(numbers) == 1
    return '%s:%d' % (SAMPLES, numbers[0])


@pytest.mark.parametrize('name', ['counts', 'asserts', 'indexes_and_handles', 'raises_and_handles', 'overflows_and_handles'])
def test_lawful_exit_path_passes(name):
    assert findings(getattr(exit_paths, name)) == []


@pytest.mark.parametrize('name, mark', [
    ('appends', 'appends'),
    ('makes_object', 'makes_object'),
    ('formats', 'formats'),
    ('calls_family', 'family allocates'),
    ('calls_through_table', 'table allocates'),
    ('hides_in_helper', 'allocating_helper'),
    ('mallocs_raw', 'mallocs_raw'),
])
def test_allocation_on_exit_path_is_found_with_its_line(name, mark):
    found = findings(getattr(exit_paths, name))
    assert any(text.startswith('the exit path allocates memory') and line_of(mark) + ' ' in text for text in found), found


@pytest.mark.parametrize('name', ['appends', 'makes_object', 'formats', 'calls_family', 'hides_in_helper', 'mallocs_raw'])
def test_the_same_allocation_off_the_exit_path_passes(name):
    assert findings(getattr(exit_paths, name), exit_path=[]) == []


def test_calls_through_a_table_are_really_tested():
    """The samples with a large family compile to an indirect call: a smaller one would be a switch."""
    translator = translate.optimised_translator(Target(exit_paths.calls_through_table).ENTRY_POINTS)
    graph, = callgraph.graphs_of(translator, exit_paths.calls_through_table)
    assert 'indirect_call' in [operation.opname for operation, _ in callgraph.operations(graph)]


def test_chain_names_every_function_on_the_way():
    text, = findings(exit_paths.hides_in_helper)
    lines = text.splitlines()
    assert line_of('hides_in_helper') in text
    positions = [[line for line in lines if name in line] for name in ('calls through', 'calls allocating_helper', 'allocates a')]
    assert all(positions) and [lines.index(each[0]) for each in positions] == [2, 3, 4], text


@pytest.mark.parametrize('name, exception, mark', [
    ('raises', 'Refused', 'raising_helper'),
    ('handles_only_the_subclass', 'Refused', 'raising_helper'),
    ('raises_again', 'Refused', 'raising_helper'),
    ('raises_from_family', 'Refused', 'family raises'),
    ('raises_through_table', 'Refused', 'table raises'),
    ('overflows', 'OverflowError', 'overflows'),
])
def test_exception_leaving_the_exit_path_is_found_with_its_line(name, exception, mark):
    found = findings(getattr(exit_paths, name))
    sentence = '%s may leave %s' % (exception, name)
    assert any(text.startswith(sentence) and line_of(mark) + ' ' in text for text in found), found


def test_key_error_of_a_dict_is_found():
    assert any(text.startswith('KeyError may leave looks_up') for text in findings(exit_paths.looks_up))


@pytest.mark.parametrize('name, mark', [('recurses', 'recurses'), ('recurses_in_family', 'family recurses'),
                                        ('recurses_through_table', 'table recurses')])
def test_recursion_on_exit_path_is_found_with_its_line(name, mark):
    found = findings(getattr(exit_paths, name))
    assert any('calls itself' in text and line_of(mark) + ' ' in text for text in found), found


def test_float_anywhere_is_found_with_its_line():
    text, = findings(exit_paths.computes_half, exit_path=[])[:1]
    assert text.startswith('the program computes with a floating-point number') and line_of('computes_half') in text


def test_exit_path_function_that_nobody_calls_is_an_error():
    text, = findings(exit_paths.counts, exit_path=[exit_paths.appends])
    assert text == 'EXIT_PATH names appends, which no entry point reaches: remove it or call it'


def test_c_says_where_our_source_calls_for_each_line(tmpdir, monkeypatch):
    """Also where rpython's own code is inlined, here that of a list."""
    for name in ('gen_op', 'cfunction_body'):
        monkeypatch.setattr(FunctionCodeGenerator, name, getattr(FunctionCodeGenerator, name))
    function = exit_paths.reads_list
    function.c_name = 'sample'
    position.tell_in_c()
    translate.write_c(translate.optimised_translator([(function, [lltype.Signed])]), [(function, [lltype.Signed])], 'sample', str(tmpdir))
    lines = tmpdir.join('sample.c').read().splitlines()
    path, number = line_of('reads_list').split(':')
    checks = [n for n, line in enumerate(lines) if 'fixed getitem out of bounds' in line or 'list getitem out of bounds' in line]
    assert checks and all(lines[n - 1].strip() == '#line %s "%s"' % (number, path) for n in checks)
    assert lines.count(translate.CHECKS.rstrip()) == 1


PIECES = ['#include "common_header.h"\n' + translate.INCLUDED + 'long data = 1;\n',
          'long entry(void) {\n\treturn pypy_g_shared(1) + pypy_g_own(2);\n}\n', 'long pypy_g_shared(long l_x) {\n\treturn pypy_g_deep(l_x);\n}\n',
          'long pypy_g_own(long l_x) {\n\treturn 3;\n}\n', 'long pypy_g_deep(long l_x) {\n\treturn 4;\n}\n', 'long pypy_g_other(void) {\n\treturn pypy_g_shared(5);\n}\n']


def test_what_has_few_registers_goes_apart_with_all_that_it_calls(tmpdir):
    source = tmpdir.join('sample.c')
    source.write(translate.BETWEEN_FUNCTIONS.join(PIECES))
    translate.set_apart(str(tmpdir), 'sample', ['entry'])
    few, rest = tmpdir.join('sample.few.c').read(), source.read()
    assert [piece in few for piece in PIECES[1:]] == [True, True, True, True, False] and 'long data' not in few
    assert few.startswith('#include "common_header.h"\n' + translate.INCLUDED + translate.CHECKS)
    assert [piece in rest for piece in PIECES] == [True, False, True, True, True, True]


def test_what_goes_apart_is_functions_and_nothing_else(tmpdir):
    tmpdir.join('sample.c').write(translate.BETWEEN_FUNCTIONS.join(PIECES[:4] + [PIECES[4] + 'long more = 2;\n']))
    with pytest.raises(ValueError):
        translate.set_apart(str(tmpdir), 'sample', ['entry'])
