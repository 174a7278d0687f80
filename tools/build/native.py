"""Compile one RPython function with the build's own driver into a shared library, and call it from Python.   (Python 2.7)

The same phases, flags (as far as user space allows) and C runtime as the real programs, so that a test vector that passes here
passed through what runs on the machine.  Used by tests/native.
"""
import ctypes
import os
import subprocess
import sys

import translate

ROOT = translate.ROOT
HEAP_BYTES = 64 << 20       # tests may allocate as they like

GCC = ['gcc', '-std=gnu11', '-O2', '-w', '-shared', '-fPIC', '-fvisibility=hidden', '-ffreestanding', '-nostdinc', '-mno-red-zone',
       '-mgeneral-regs-only', '-fno-stack-protector', '-fwrapv', '-fno-strict-aliasing', '-fno-delete-null-pointer-checks',
       '-DRPY_ASSERT', '-DBULKHEAD_HEAP_BYTES=%d' % HEAP_BYTES, '-DBULKHEAD_PROGRAM="native"']

# A panic and an exception come back to Python as a code.
WRAPPER = '''
#include "bulkhead.h"
#define EXPORT __attribute__((visibility("default")))

static void *jump[5];
static int panic_code;

void bulkhead_panic(int code)
{
    panic_code = code;
    __builtin_longjmp(jump, 1);
}

EXPORT int native_start(void)
{
    if (__builtin_setjmp(jump))
        return panic_code;
    RPython_StartupCode();
    return 0;
}

extern %(result)s %(name)s(%(types)s);

EXPORT int native_call(const long *arguments, long *result)
{
    if (__builtin_setjmp(jump))
        return panic_code;
    %(store)s%(name)s(%(arguments)s);
    return bulkhead_exception_pending() ? PANIC_UNCAUGHT_EXCEPTION : 0;
}

EXPORT const char *native_exception(long *length)
{
    return bulkhead_exception_name(length);
}

EXPORT void native_seal(void)
{
    bulkhead_seal_heap();
}
'''


class Panic(Exception):
    """Translated code stopped itself.  code: of hypervisor/spec/panic.py; exception: the class that left, or None."""

    def __init__(self, code, exception=None):
        from hypervisor.spec import panic
        Exception.__init__(self, '%s: %s%s' % (panic.NAMES[code], panic.SENTENCES[code], ' (%s)' % exception if exception else ''))
        self.code, self.exception = code, exception


class Compiled(object):
    """A translated function.  Called like the original; its state (prebuilt objects) starts as it was when translated."""

    def __init__(self, library, convert):
        self.library, self.convert = ctypes.CDLL(library), convert
        self.library.native_exception.restype = ctypes.c_void_p
        self.check(self.library.native_start())

    def __call__(self, *arguments):
        words = (ctypes.c_ulong * (len(arguments) or 1))(*[word(each) for each in arguments])
        result = ctypes.c_ulong(0)
        self.check(self.library.native_call(words, ctypes.byref(result)))
        return self.convert(result.value)

    def seal_heap(self):
        """From here on an allocation is a Panic."""
        self.library.native_seal()

    def check(self, code):
        if code:
            length = ctypes.c_long(0)
            name = self.library.native_exception(ctypes.byref(length))
            raise Panic(code, ctypes.string_at(name, length.value) if name else None)


def word(value):
    """Return a number, character or truth value as 64 bits."""
    return (ord(value) if isinstance(value, str) else int(value)) & 0xffffffffffffffff


def lowlevel(kind):
    """Return the low-level type of int, r_uint, bool or str (one character); low-level types stand for themselves."""
    from rpython.rlib.rarithmetic import r_uint
    from rpython.rtyper.lltypesystem import lltype
    return {int: lltype.Signed, r_uint: lltype.Unsigned, bool: lltype.Bool, str: lltype.Char}.get(kind, kind)


def converter(kind):
    """Return the function that makes a Python value of a result's 64 bits."""
    from rpython.rlib.rarithmetic import intmask, r_uint
    from rpython.rtyper.lltypesystem import lltype
    return {lltype.Signed: intmask, lltype.Unsigned: r_uint, lltype.Bool: lambda value: bool(value & 0xff),
            lltype.Char: lambda value: chr(value & 0xff), lltype.Void: lambda value: None}[kind]


def compile_function(function, argument_types, folder):
    """Translate and compile.  folder: an existing, empty one.  Returns a Compiled."""
    types = [lowlevel(kind) for kind in argument_types]
    translate.silence(False)
    translator = translate.optimised_translator([(function, types)])
    database = translate.write_c(translator, [(function, types)], 'native', folder)
    graph = translator.annotator.bookkeeper.getdesc(function).getuniquegraph()
    with open(os.path.join(folder, 'wrapper.c'), 'w') as source:
        source.write(wrapper(database, graph, types))
    library = os.path.join(folder, 'native.so')
    run_gcc(folder, library)
    return Compiled(library, converter(graph.getreturnvar().concretetype))


def wrapper(database, graph, types):
    """Return the C that passes 64-bit words to the function of `graph` and its result back."""
    from rpython.rtyper.lltypesystem import lltype
    from rpython.rtyper.lltypesystem.lltype import getfunctionptr
    c_type = {lltype.Signed: 'long', lltype.Unsigned: 'unsigned long', lltype.Bool: '_Bool', lltype.Char: 'char', lltype.Void: 'void'}
    result = graph.getreturnvar().concretetype
    return WRAPPER % {
        'name': database.get(getfunctionptr(graph)),
        'result': c_type[result],
        'types': ', '.join(c_type[kind] for kind in types) or 'void',
        'arguments': ', '.join('(%s)arguments[%d]' % (c_type[kind], index) for index, kind in enumerate(types)),
        'store': '' if result is lltype.Void else '*result = (long)',
    }


def run_gcc(folder, library):
    import rpython
    header = os.path.join(folder, 'spec.h')
    subprocess.check_call([python3(), '-E', '-B', os.path.join(ROOT, 'tools', 'build', 'headers.py'), header])
    places = [folder] + [os.path.join(ROOT, 'boot', name) for name in ('', 'hw', 'include')]
    places.append(os.path.join(os.path.dirname(os.path.abspath(rpython.__file__)), 'translator', 'c'))
    sources = [os.path.join(folder, 'native.c'), os.path.join(folder, 'wrapper.c'), os.path.join(ROOT, 'boot', 'runtime.c')]
    subprocess.check_call(GCC + ['-I' + place for place in places] + sources + ['-o', library])


def python3():
    """Return the project's Python 3, or the machine's when there is none yet."""
    own = os.path.join(ROOT, '.env', 'bin', 'python3')
    return own if os.path.exists(own) else 'python3'


if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
