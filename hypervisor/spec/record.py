"""Layouts of records in memory, made from lists of names.

A record is a run of 64-bit little-endian words unless a field names another width; offsets follow from the order, so no
number is written twice.
"""


def offsets(fields, start=0):
    """fields: names or (name, bytes). Returns {name: byte offset} plus 'END': the first byte after the record."""
    result = {}
    position = start
    for field in fields:
        name, width = field if isinstance(field, tuple) else (field, 8)
        assert name not in result, name
        result[name] = position
        position += width
    result['END'] = position
    return result
