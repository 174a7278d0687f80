"""RPython's types without their generality: r_uint computes and C functions' doubles are called as ever, several times as fast.

The hypervisor's arithmetic is all r_uint; untranslated, one addition takes as long as forty plain ones, and the state machines make
millions. A call of a double looks at each argument's type through some layers. test_quick.py compares each with the original.
"""
from rpython.rlib.rarithmetic import r_uint
from rpython.rtyper.lltypesystem import lltype

MASK = (1 << 64) - 1
OPERATIONS = ['add', 'sub', 'mul', 'and', 'or', 'xor', 'floordiv', 'mod']
SHIFTS = ['lshift', 'rshift']
PLAIN = (int, r_uint)
NUMBERS = (int, long, r_uint)
CLASSES = {lltype.Unsigned: r_uint, lltype.Signed: int}
NOBODY = None, None
ORIGINALS = {}


def _operation(name):
    plain, original, new = getattr(long, name), getattr(r_uint, name), long.__new__

    def quick(self, other):
        if other.__class__ in PLAIN:
            return new(r_uint, plain(self, other) & MASK)
        return original(self, other)
    return quick


def _call(original):
    """Calls of functions all of whose arguments are plain numbers; those of others, and wrong ones, are the original's."""
    known = {}                          # id of a pointer to a function -> the pointer, so that the id stays its own, and its arguments' classes

    def quick(self, *arguments):
        pointer, classes = known.get(id(self), NOBODY)
        if pointer is None and isinstance(self._T, lltype.FuncType):
            classes = [CLASSES.get(each) for each in self._T.ARGS]
            known[id(self)] = self, classes
        if classes != [each.__class__ for each in arguments]:
            return original(self, *arguments)
        return self._obj._callable(*arguments)
    return quick


def _new(original):
    def quick(kind, value=0):
        if kind is r_uint and value.__class__ in NUMBERS:
            return new(r_uint, long(value) & MASK)
        return original(kind, value)
    new = long.__new__
    return quick


def install():
    """Once for each process."""
    if ORIGINALS:
        return
    ORIGINALS['new'], ORIGINALS['call'] = r_uint.__new__, lltype._abstract_ptr.__call__.__func__
    r_uint.__new__ = staticmethod(_new(ORIGINALS['new']))
    lltype._abstract_ptr.__call__ = _call(ORIGINALS['call'])
    for name in OPERATIONS:
        setattr(r_uint, '__%s__' % name, _operation('__%s__' % name))
        setattr(r_uint, '__r%s__' % name, _operation('__r%s__' % name))
    for name in SHIFTS:
        setattr(r_uint, '__%s__' % name, _operation('__%s__' % name))
    r_uint.__invert__ = lambda self: long.__new__(r_uint, ~long(self) & MASK)
