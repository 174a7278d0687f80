"""The rules that a VMM's answer must keep: numbers for VMM_BAD_ANSWER, and their sentences."""

TABLE = [
    (1, 'ACTION_UNKNOWN', 'ACTION is COMPLETE, RESUME or INJECT'),
    (2, 'ACTION_UNFIT', 'this kind of exit cannot be answered with this ACTION'),
    (3, 'VECTOR', 'INJECT delivers an exception: a vector from 0 to 31 that the processor knows, and not NMI'),
    (4, 'DIRTY_UNKNOWN', 'DIRTY has only the bits of known groups'),
    (5, 'CR0', 'CR0 has only defined bits; PG needs PE, NW needs CD'),
    (6, 'CR4', 'CR4 has only bits that guests may set on this processor'),
    (7, 'EFER', 'EFER has only SCE, LME, LMA and NXE; LMA is set exactly when LME and CR0.PG are, and needs CR4.PAE'),
    (8, 'CR3', 'CR3 lies within 52 bits'),
    (9, 'RFLAGS', 'RFLAGS has only defined bits, and bit 1'),
    (10, 'RIP', 'RIP is canonical, and fits in 32 bits outside of 64-bit code'),
    (11, 'BASE', 'segment and table bases are canonical; those of ES, CS, SS, DS fit in 32 bits'),
    (12, 'ATTRIBUTES', 'segment attributes have only defined bits; limits fit in 32 bits, selectors and table limits in 16'),
    (13, 'ERROR_CODE', 'an error code fits in 32 bits'),
    (14, 'ENDING', 'a VMM may end its VM only with the codes that are its own'),
]
SENTENCES = dict((number, sentence) for number, _, sentence in TABLE)
for _number, _name, _sentence in TABLE:
    globals()['RULE_' + _name] = _number
