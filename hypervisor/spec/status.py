"""Status codes that kernel calls answer with, and the sentence of each."""

TABLE = [
    # code, name, sentence
    (0, 'OK', 'done'),
    (1, 'BAD_CALL', 'there is no kernel call with this number'),
    (2, 'BAD_SLOT', 'the capability slot is empty, out of range or of another kind'),
    (3, 'SLOT_IN_USE', 'the capability slot is already taken'),
    (4, 'BAD_RANGE', 'the range is empty, too long or leaves the region'),
    (5, 'BAD_ADDRESS', 'the address is not page-aligned, not canonical or not in the part that tasks may map'),
    (6, 'BAD_RIGHTS', 'the rights are unknown, or writable and executable at once'),
    (7, 'NOT_OWNER', 'a frame of the range belongs to somebody else'),
    (8, 'IN_USE', 'a frame of the range is still mapped'),
    (9, 'NO_MEMORY', 'the kernel has no page left for this compartment'),
    (10, 'ALREADY_MAPPED', 'something else is mapped at this address'),
    (11, 'NO_ROOM', 'the kernel has no free object of this kind'),
    (12, 'BAD_SIZE', 'the size is not one of those allowed'),
    (13, 'BAD_STATE', 'the object is not in a state that allows this call'),
    (14, 'BAD_ANSWER', 'the answer of the VMM breaks a rule'),
    (15, 'PROMISED', 'the processor has not so much time left to promise'),
    (16, 'NOT_OFFERED', 'the other core has not offered this VM yet'),
]

NAMES = dict((code, name) for code, name, _ in TABLE)
SENTENCES = dict((code, sentence) for code, _, sentence in TABLE)
for _code, _name, _sentence in TABLE:
    globals()[_name] = _code
