"""r_uint without its generality: the same results for integers, several times as fast.

The kernel's arithmetic is all r_uint; untranslated, one addition takes as long as forty plain ones, and the state machines make
millions. test_quick.py compares each operation with the original.
"""
from rpython.rlib.rarithmetic import r_uint

MASK = (1 << 64) - 1
OPERATIONS = ['add', 'sub', 'mul', 'and', 'or', 'xor', 'floordiv', 'mod']
SHIFTS = ['lshift', 'rshift']
PLAIN = (int, r_uint)


def _operation(name):
    plain, original, new = getattr(long, name), getattr(r_uint, name), long.__new__

    def quick(self, other):
        if other.__class__ in PLAIN:
            return new(r_uint, plain(self, other) & MASK)
        return original(self, other)
    return quick


def install():
    for name in OPERATIONS:
        setattr(r_uint, '__%s__' % name, _operation('__%s__' % name))
        setattr(r_uint, '__r%s__' % name, _operation('__r%s__' % name))
    for name in SHIFTS:
        setattr(r_uint, '__%s__' % name, _operation('__%s__' % name))
    r_uint.__invert__ = lambda self: long.__new__(r_uint, ~long(self) & MASK)
