"""Codes of a panic: why a program of ours stopped itself, and the sentence of each.

bulkhead_panic(code) never returns; each program's boot code supplies it. 1 to 31 come from the C runtime (boot/runtime.c).
"""

TABLE = [
    # code, name, sentence
    (1, 'PANIC_HEAP_SEALED', 'something allocated memory after the heap was sealed'),
    (2, 'PANIC_HEAP_EXHAUSTED', 'the heap for start-up is used up'),
    (3, 'PANIC_ASSERTION', 'an assertion of the program does not hold'),
    (4, 'PANIC_FATAL_EXCEPTION', 'an exception of a kind that nothing may catch was raised'),
    (5, 'PANIC_UNCAUGHT_EXCEPTION', 'an exception left an entry point'),
    (6, 'PANIC_CHECK', 'a null pointer or an index out of range was used'),
    (7, 'PANIC_ABORT', 'the program gave up'),
    (8, 'PANIC_STACK', 'the stack guard value is damaged'),
]

NAMES = dict((code, name) for code, name, _ in TABLE)
SENTENCES = dict((code, sentence) for code, _, sentence in TABLE)
C_CONSTANTS = dict((name, code) for code, name, _ in TABLE)
for _code, _name, _sentence in TABLE:
    globals()[_name] = _code
assert len(NAMES) == len(C_CONSTANTS) == len(TABLE)
