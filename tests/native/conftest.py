"""Level 2: the unit tests' vectors through translated code.   (Python 2.7)

    def test_crc32_native(native):
        native.same(crc32_of, [int, r_uint], VECTORS)       # each vector: Python and C must agree

    compiled = native(function, [int, bool, r_uint])        # or call it yourself; native.Panic when it stops itself

pytest rewrites the asserts of test modules into what is not RPython: a function with an assert lives in another module.
"""
import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
for path in (os.path.join(ROOT, 'tools', 'build'), ROOT):
    if path not in sys.path:
        sys.path.insert(0, path)

import native as native_build       # noqa: E402


class Native(object):
    """What the `native` fixture gives."""

    Panic = native_build.Panic

    def __init__(self, new_folder):
        self.new_folder = new_folder

    def __call__(self, function, argument_types):
        """Return `function` translated to C and compiled, callable with the same arguments."""
        return native_build.compile_function(function, argument_types, str(self.new_folder()))

    def same(self, function, argument_types, vectors):
        """Assert that Python and C give the same result, of the same type, for each vector (a tuple of arguments)."""
        vectors = list(vectors)
        assert vectors, 'no vector: nothing was compared'
        compiled = self(function, argument_types)
        for vector in vectors:
            expected, result = function(*vector), compiled(*vector)
            assert (type(expected), expected) == (type(result), result), 'arguments %r' % (vector,)


@pytest.fixture
def native(tmpdir_factory):
    return Native(lambda: tmpdir_factory.mktemp('native'))
