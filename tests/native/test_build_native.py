"""The way to native tests itself: arguments, results and failures pass between Python and translated C unchanged."""
import re
import sys

import pytest
from rpython.rlib.objectmodel import dont_inline, we_are_translated
from rpython.rlib.rarithmetic import intmask, r_uint
from rpython.rtyper.lltypesystem import lltype

import translate

from hypervisor.lib.cold import hot
from hypervisor.spec import panic
from tests.unit.samples import exit_paths

EDGES = [0, 1, 2, 127, 128, 255, 256, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 63 - 1, 2 ** 63, 2 ** 64 - 1]


def mix_unsigned(left, right):
    return (left ^ (right << 7)) + (left >> 3) * right


def mix_signed(left, right):
    return intmask(intmask(left * 3) - right) ^ (left >> 5)


def is_between(value, low, high):
    return low <= value < high


def upper(character):
    if 'a' <= character <= 'z':
        return chr(ord(character) - 32)
    return character


def differs_when_translated(n):
    if we_are_translated() and n > 5:
        return n + 1
    return n


def mix_and_count(n):
    return counts_calls(mix_signed(n, n)) + counts_apart(n)


@hot
@dont_inline
def counts_apart(n):
    return counts_calls(n)


def counts_calls(n):
    exit_paths.world.items[0] += n
    return exit_paths.world.items[0]


def test_unsigned_edges_agree(native):
    native.same(mix_unsigned, [r_uint, r_uint], [(r_uint(a), r_uint(b)) for a in EDGES for b in EDGES])


def test_signed_edges_agree(native):
    native.same(mix_signed, [int, int], [(intmask(a), intmask(b)) for a in EDGES for b in EDGES])


def test_truth_values_agree(native):
    native.same(is_between, [int, int, int], [(n, -3, 4) for n in range(-5, 6)])


def test_every_character_agrees(native):
    native.same(upper, [str], [(chr(n),) for n in range(256)])


def test_a_disagreement_is_noticed(native):
    with pytest.raises(AssertionError):
        native.same(differs_when_translated, [int], [(1,), (6,)])


def test_prebuilt_state_lives_in_the_library(native):
    compiled = native(counts_calls, [int])
    before = exit_paths.world.items[0]
    assert [compiled(5), compiled(5)] == [before + 5, before + 10]
    assert exit_paths.world.items[0] == before


def test_failed_assert_is_a_panic(native):
    compiled = native(exit_paths.asserts, [int])
    assert compiled(9) == 9
    with pytest.raises(native.Panic) as caught:
        compiled(0)
    assert caught.value.code == panic.PANIC_ASSERTION


def test_exception_that_leaves_is_reported_with_its_class(native):
    compiled = native(exit_paths.raises, [int])
    with pytest.raises(native.Panic) as caught:
        compiled(9)
    assert (caught.value.code, caught.value.exception) == (panic.PANIC_UNCAUGHT_EXCEPTION, 'Refused')


def test_overflow_is_caught_like_in_python(native):
    native.same(exit_paths.overflows_and_handles, [int], [(0,), (-1,), (sys.maxint - 1,), (sys.maxint,)])


def test_list_index_is_checked(native):
    native.same(exit_paths.indexes_and_handles, [int], [(0,), (2,), (3,), (-3,), (-4,), (1000000,)])


def test_sealed_heap_panics(native):
    compiled = native(exit_paths.makes_object, [int])
    assert compiled(3) == 3
    compiled.seal_heap()
    with pytest.raises(native.Panic) as caught:
        compiled(3)
    assert caught.value.code == panic.PANIC_HEAP_SEALED


def test_only_entry_points_are_seen_outside_of_the_c_file(tmpdir):
    translator = translate.optimised_translator([(mix_and_count, [lltype.Signed])])
    translate.write_c(translator, [(mix_and_count, [lltype.Signed])], 'sample', str(tmpdir))
    header = tmpdir.join('forwarddecl.h').read()
    functions = re.findall(r'^(static|RPY_\w+) [^;()]*\b(pypy_g_\w+)\([^;]*\);$', header, re.MULTILINE)
    assert [name for how, name in functions if how != 'static'] == ['pypy_g_mix_and_count'] and len(functions) > 5
    assert re.findall(r'^static __attribute__\(\(hot, noinline\)\) \w+ (\w+)', header, re.MULTILINE) == ['pypy_g_counts_apart']
    assert re.findall(r'^static __attribute__\(\(noinline\)\) \w+ (\w+)', header, re.MULTILINE)     # rpython's own
    assert 'cold' not in header                 # no exit path is given


def test_what_the_exit_path_does_not_reach_is_compiled_for_size(tmpdir):
    translator = translate.optimised_translator([(mix_and_count, [lltype.Signed]), (exit_paths.makes_object, [lltype.Signed])])
    translate.write_c(translator, [(mix_and_count, [lltype.Signed]), (exit_paths.makes_object, [lltype.Signed])], 'sample', str(tmpdir), [mix_and_count])
    header = tmpdir.join('forwarddecl.h').read()
    cold = re.findall(r'^static __attribute__\(\([\w, ]*cold\)\) [^;()]*\b(pypy_g_\w+)\([^;]*\);$', header, re.MULTILINE)
    assert cold and 'pypy_g_counts_apart' not in cold


def test_a_header_of_another_form_is_an_error(tmpdir):
    tmpdir.join('sample.c').write('int x;')
    with pytest.raises(ValueError):
        translate.keep_functions_private(str(tmpdir.join('sample.c')), [], {})
