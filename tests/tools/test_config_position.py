"""Where keys stand: every key of a text is found on the line where it was written, whatever stands around it."""
import tomllib

from hypothesis import given, strategies as st

from bulkhead.position import lines_of


def test_tables_arrays_and_inline_tables_are_found():
    text = '''\
# comment [not] a = table
[box]            # 2
memory = "1M"    # 3
[[vm]]           # 4
name = "a # b"   # 5
[vm.boot]        # 6
x . "y.z" = [ 1, { k = "]" }, # 7
  { k = 2 } ]    # 8
[[vm]]           # 9
name = """
a = 3
"""
boot.kind = 'fl\\'  # 13
[vm.other]       # 14
d = 1979-05-27 07:32:00 # 15
'''
    tomllib.loads(text)
    lines = lines_of(text)
    assert lines[('box', 'memory')] == 3
    assert lines[('vm', 0)] == 4 and lines[('vm', 0, 'name')] == 5
    assert lines[('vm', 0, 'boot', 'x', 'y.z')] == 7
    assert lines[('vm', 0, 'boot', 'x', 'y.z', 1, 'k')] == 7
    assert lines[('vm', 0, 'boot', 'x', 'y.z', 2, 'k')] == 8
    assert lines[('vm', 1)] == 9 and lines[('vm', 1, 'name')] == 10
    assert lines[('vm', 1, 'boot', 'kind')] == 13 and lines[('vm', 1, 'other', 'd')] == 15


def test_windows_line_ends_count_once():
    assert lines_of('a = 1\r\n\r\nb = """x\r\ny"""\r\nc = 3\r\n') == {('a',): 1, ('b',): 3, ('c',): 5}


KEYS = st.text('abz09_-', min_size=1, max_size=4) | st.text('a. #="\\\n[é', max_size=4)
VALUES = st.recursive(
    st.integers() | st.booleans() | st.text('a"\\\'#\n=[]{},é', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6)


class Writer:
    """Writes TOML and remembers on which line it wrote each key: the model that lines_of() is compared with."""

    def __init__(self, draw):
        self.draw, self.text, self.lines = draw, '', {}

    def put(self, text):
        self.text += text

    def gap(self, newlines):
        self.put(self.draw(st.sampled_from(['', ' ', '\t'] + (['\n', ' # x = "\n', '\n\n'] if newlines else []))))

    def key(self, path):
        self.lines[path] = self.text.count('\n') + 1
        self.put(quoted(path[-1]))

    def value(self, path, value):
        if isinstance(value, dict):
            self.put('{')
            for n, (key, each) in enumerate(value.items()):
                self.put(', ' if n else '')
                self.pair(path + (key,), each)
            self.put('}')
        elif isinstance(value, list):
            self.put('[')
            for n, each in enumerate(value):
                self.gap(True)
                self.lines[path + (n,)] = self.text.count('\n') + 1
                self.value(path + (n,), each)
                self.gap(True)
                self.put(',')
            self.gap(True)
            self.put(']')
        elif isinstance(value, str):
            long_form = self.draw(st.booleans())
            self.put('"""' + quoted(value)[1:-1].replace('\\n', '\n') + '"""' if long_form else quoted(value))
        else:
            self.put(str(value).lower())

    def pair(self, path, value):
        self.key(path)
        self.gap(False)
        self.put('=')
        self.gap(False)
        self.value(path, value)


def quoted(text):
    return '"%s"' % text.replace('\\', '\\\\').replace('"', '\\"').replace('\n', '\\n')


@given(st.data(), st.dictionaries(KEYS, VALUES, max_size=4), st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_every_key_is_found_on_the_line_where_it_was_written(data, table, tables):
    writer = Writer(data.draw)
    for key, value in table.items():
        writer.gap(True)
        writer.pair(('',)[:0] + (key,), value)
        writer.put('\n')
    if 'list' not in table:
        for n, each in enumerate(tables):
            writer.lines[('list', n)] = writer.text.count('\n') + 1
            writer.lines.setdefault(('list',), writer.lines[('list', n)])
            writer.put('[[list]]\n')
            for key, value in each.items():
                writer.pair(('list', n, key), value)
                writer.put('\n')
    tomllib.loads(writer.text)
    assert lines_of(writer.text) == writer.lines
