"""The faster r_uint of these tests computes what the original computes; the faster calls refuse what the original ones refuse."""
import operator

import pytest
from rpython.rlib.rarithmetic import r_uint
from rpython.rlib.rarithmetic import base_int
from rpython.rtyper.lltypesystem import lltype, rffi

from tests.unit import quick            # conftest.py has installed it

EDGES = [0, 1, 2, 7, 63, 64, 255, 4096, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 63 - 1, 2 ** 63, 2 ** 64 - 1]
NAMES = quick.OPERATIONS + quick.SHIFTS


def original(name):
    """As base_int has it; r_uint's own attribute is the quick one."""
    assert '__%s__' % name in vars(r_uint)
    return getattr(base_int, '__%s__' % name).__func__


@pytest.mark.parametrize('name', NAMES)
def test_operation_is_the_original_one(name):
    for a in EDGES:
        for b in EDGES:
            if name in ('floordiv', 'mod') and b == 0 or name in quick.SHIFTS and b > 64:
                continue
            for right in (r_uint(b), b) if b < 2 ** 63 else (r_uint(b),):
                expected, result = original(name)(r_uint(a), right), getattr(r_uint, '__%s__' % name)(r_uint(a), right)
                assert (type(expected), expected) == (type(result), result), (name, a, right)
                if name not in quick.SHIFTS and a < 2 ** 63 and not (name in ('floordiv', 'mod') and b == 0):
                    reversed_name = '__r%s__' % name
                    expected = getattr(base_int, reversed_name).__func__(r_uint(b), a)
                    result = getattr(r_uint, reversed_name)(r_uint(b), a)
                    assert (type(expected), expected) == (type(result), result), (reversed_name, a, b)


def test_invert_is_the_original_one():
    for a in EDGES:
        assert (type(~r_uint(a)), ~r_uint(a)) == (r_uint, base_int.__invert__.__func__(r_uint(a)))


def test_other_types_still_win():
    assert operator.add(r_uint(1), 0.5) == 1.5


@pytest.mark.parametrize('value', EDGES + [-1, -2 ** 63, 2 ** 64, 2 ** 70, True, 3.0, '17', r_uint(5)])
def test_a_number_is_made_as_by_the_original(value):
    made, expected = r_uint(value), quick.ORIGINALS['new'](r_uint, value)
    assert (type(made), made) == (type(expected), expected)


CALLED = []
double = rffi.llexternal('nothing', [lltype.Unsigned, lltype.Signed], lltype.Unsigned, _nowrapper=True,
                         _callable=lambda *arguments: CALLED.append(arguments) or r_uint(len(CALLED)))


@pytest.mark.parametrize('arguments', [(r_uint(1), 2), (r_uint(1), 2 ** 40), (r_uint(1), long(2)), (1, 2), (r_uint(1), r_uint(2)), (r_uint(1),),
                                       (r_uint(1), 2, 3), (r_uint(1), None), (r_uint(1), True), ('1', 2)])
def test_a_call_is_made_or_refused_as_by_the_original(arguments):
    outcomes = []
    for call in (double, lambda *arguments: quick.ORIGINALS['call'](double, *arguments)):
        del CALLED[:]
        try:
            outcomes.append((call(*arguments), list(CALLED)))
        except TypeError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
