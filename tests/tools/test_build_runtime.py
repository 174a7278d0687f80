"""The C runtime under every program does what the C standard says, and stops where it should (boot/runtime.c)."""
import ctypes
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'build'))

import headers  # noqa: E402
from hypervisor.spec import panic  # noqa: E402

HEAP_BYTES = 1024
HARNESS = '''
#include "bulkhead.h"
#include "stdlib.h"

static void *jump[5];
static int panic_code;

void bulkhead_panic(int code)
{
    panic_code = code;
    __builtin_longjmp(jump, 1);
}

/* The block, or minus the code of the panic. */
long try_calloc(size_t count, size_t bytes)
{
    if (__builtin_setjmp(jump))
        return -panic_code;
    return (long)calloc(count, bytes);
}

int panic_of(int which)
{
    void RPyAbort(void), bulkhead_assertion_failed(const char *), pypy_debug_catch_fatal_exception(void);
    if (__builtin_setjmp(jump))
        return panic_code;
    switch (which) {
    case 0: bulkhead_assertion_failed("loop.py:12"); break;
    case 1: pypy_debug_catch_fatal_exception(); break;
    case 2: RPyAbort(); break;
    case 3: abort(); break;
    }
    return 0;
}
'''


@pytest.fixture
def runtime(tmp_path):
    """Return boot/runtime.c as a fresh library of this process (each test gets a heap of its own)."""
    headers.write(tmp_path / 'spec.h')
    (tmp_path / 'harness.c').write_text(HARNESS)
    site = subprocess.run([ROOT / '.env' / 'bin' / 'python2', '-c', 'import rpython; print(rpython.__path__[0])'],
                          check=True, capture_output=True, text=True).stdout.strip()
    command = ['gcc', '-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-ffreestanding', '-nostdinc',
               '-mgeneral-regs-only', '-fno-stack-protector', '-Wl,-Bsymbolic', f'-DBULKHEAD_HEAP_BYTES={HEAP_BYTES}', f'-I{tmp_path}',
               f'-I{ROOT}/boot/include', '-isystem', f'{site}/translator/c', ROOT / 'boot' / 'runtime.c', tmp_path / 'harness.c']
    subprocess.run([*command, '-o', tmp_path / 'runtime.so'], check=True)
    library = ctypes.CDLL(tmp_path / 'runtime.so')
    for name in ('memcpy', 'memmove', 'memset', 'bulkhead_heap_used'):
        getattr(library, name).restype = ctypes.c_size_t
    library.memcpy.argtypes = library.memmove.argtypes = library.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    library.try_calloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    library.try_calloc.restype = ctypes.c_long
    return library


def test_memmove_agrees_with_slices_for_every_overlap(runtime):
    size = 24
    for start in range(size):
        for end in range(size):
            for count in range(size - max(start, end) + 1):
                area = ctypes.create_string_buffer(bytes(range(1, size + 1)), size)
                expected = bytearray(area.raw)
                expected[end:end + count] = expected[start:start + count]
                base = ctypes.addressof(area)
                assert runtime.memmove(base + end, base + start, count) == base + end
                assert area.raw == bytes(expected), (start, end, count)


def test_memcpy_and_memset_touch_only_their_range(runtime):
    for count in range(20):
        source, area = ctypes.create_string_buffer(bytes(range(100, 120)), 20), ctypes.create_string_buffer(b'.' * 22, 22)
        base = ctypes.addressof(area)
        assert runtime.memcpy(base + 1, ctypes.addressof(source), count) == base + 1
        assert area.raw == b'.' + source.raw[:count] + b'.' * (21 - count)
        assert runtime.memset(base + 1, 0x1ee, count) == base + 1
        assert area.raw == b'.' + b'\xee' * count + b'.' * (21 - count)


def test_memcmp_orders_like_python(runtime):
    generator = random.Random(1)
    for _ in range(2000):
        left, right = (bytes(generator.choice(b'\x00\x7f\x80\xff') for _ in range(3)) for _ in range(2))
        count = generator.randrange(4)
        result = runtime.memcmp(left, right, count)
        assert (result > 0) - (result < 0) == (left[:count] > right[:count]) - (left[:count] < right[:count]), (left, right, count)


def test_blocks_are_aligned_zero_and_apart(runtime):
    ends = []
    for bytes_wanted in (1, 15, 16, 17, 0, 100):
        block = runtime.try_calloc(1, bytes_wanted)
        assert block > 0 and block % 16 == 0
        assert all(block >= end for end in ends)
        assert ctypes.string_at(block, bytes_wanted) == bytes(bytes_wanted)
        runtime.memset(block, 0xff, bytes_wanted)
        ends.append(block + bytes_wanted)


def test_heap_gives_all_it_has_and_then_panics(runtime):
    assert runtime.try_calloc(1, HEAP_BYTES) > 0
    assert runtime.bulkhead_heap_used() == HEAP_BYTES
    assert runtime.try_calloc(1, 1) == -panic.PANIC_HEAP_EXHAUSTED


@pytest.mark.parametrize('count, size', [(1, HEAP_BYTES + 1), (1 << 63, 2), (1 << 32, 1 << 32), (1, (1 << 64) - 1), (1, (1 << 64) - 8)])
def test_impossible_size_panics_and_takes_nothing(runtime, count, size):
    assert runtime.try_calloc(count, size) == -panic.PANIC_HEAP_EXHAUSTED
    assert runtime.bulkhead_heap_used() == 0


def test_sealed_heap_panics_even_for_nothing(runtime):
    runtime.bulkhead_seal_heap()
    assert runtime.try_calloc(1, 0) == -panic.PANIC_HEAP_SEALED


def test_each_end_has_its_own_code(runtime):
    assert [runtime.panic_of(which) for which in range(4)] == [
        panic.PANIC_ASSERTION, panic.PANIC_FATAL_EXCEPTION, panic.PANIC_CHECK, panic.PANIC_ABORT]


def test_failed_assertion_is_kept_for_the_screen(runtime):
    place = ctypes.c_char_p.in_dll(runtime, 'bulkhead_failed_place')
    assert place.value is None
    runtime.panic_of(0)
    assert place.value == b'loop.py:12'
