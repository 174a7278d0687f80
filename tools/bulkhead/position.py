"""Where each key of a TOML text stands.

tomllib says what a file means but not where. This reads a text that tomllib has already accepted, so it may trust the syntax
and only has to follow it.
"""

BARE = frozenset('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-')
ESCAPES = {'b': '\b', 't': '\t', 'n': '\n', 'f': '\f', 'r': '\r', '"': '"', '\\': '\\'}


def lines_of(text):
    """Returns {path: line}, lines counted from 1. A path is a tuple of keys and, for arrays, indexes: ('vm', 0, 'name')."""
    return _Scanner(text).document()


class _Scanner:
    def __init__(self, text):
        # TOML counts CRLF as one newline.
        self.text = text.replace('\r\n', '\n')
        self.at = 0
        self.lines = {}
        self.arrays = {}            # path of an array of tables -> how many of them so far

    # Characters.
    def peek(self, count=1):
        return self.text[self.at:self.at + count]

    def line(self):
        return self.text.count('\n', 0, self.at) + 1

    def blanks(self, newlines):
        """Pass blanks and comments, and ends of line too where `newlines` are nothing special."""
        while self.at < len(self.text):
            c = self.peek()
            if c == '#':
                while self.at < len(self.text) and self.peek() != '\n':
                    self.at += 1
            elif c in ' \t' or (newlines and c == '\n'):
                self.at += 1
            else:
                return

    # Structure.
    def document(self):
        table = ()
        while True:
            self.blanks(newlines=True)
            if self.at >= len(self.text):
                return self.lines
            if self.peek() == '[':
                table = self.header()
            else:
                self.pair(table)

    def header(self):
        line, is_array = self.line(), self.peek(2) == '[['
        self.at += 2 if is_array else 1
        keys = self.dotted_key()
        self.at += 2 if is_array else 1
        path = self.resolve(keys[:-1]) + (keys[-1],)
        if is_array:
            index = self.arrays.get(path, 0)
            self.arrays[path] = index + 1
            self.note(path, line)
            path += (index,)
        else:
            path = self.last_of(path)
        self.note(path, line)
        return path

    def resolve(self, keys):
        """The path that these keys of a header mean: below an array of tables, its last table."""
        path = ()
        for key in keys:
            path = self.last_of(path + (key,))
        return path

    def last_of(self, path):
        return path + (self.arrays[path] - 1,) if path in self.arrays else path

    def note(self, path, line):
        self.lines.setdefault(path, line)

    def pair(self, table):
        line, keys = self.line(), self.dotted_key()
        for depth in range(1, len(keys) + 1):
            self.note(table + keys[:depth], line)
        self.blanks(newlines=False)
        self.at += 1                # =
        self.blanks(newlines=False)
        self.value(table + keys)

    def dotted_key(self):
        keys = ()
        while True:
            self.blanks(newlines=False)
            keys += (self.simple_key(),)
            self.blanks(newlines=False)
            if self.peek() != '.':
                return keys
            self.at += 1

    def simple_key(self):
        if self.peek() in ('"', "'"):
            return self.string()
        start = self.at
        while self.peek() in BARE and self.at < len(self.text):
            self.at += 1
        return self.text[start:self.at]

    def value(self, path):
        c = self.peek()
        if c in ('"', "'"):
            self.string()
        elif c == '[':
            self.array(path)
        elif c == '{':
            self.inline_table(path)
        else:
            while self.at < len(self.text) and self.peek() not in ',]}\n#':
                self.at += 1

    def array(self, path):
        self.at += 1
        index = 0
        while True:
            self.blanks(newlines=True)
            if self.peek() == ']':
                self.at += 1
                return
            if self.peek() == ',':
                self.at += 1
                continue
            self.note(path + (index,), self.line())
            self.value(path + (index,))
            index += 1

    def inline_table(self, path):
        self.at += 1
        while True:
            self.blanks(newlines=True)
            if self.peek() == '}':
                self.at += 1
                return
            if self.peek() == ',':
                self.at += 1
                continue
            self.pair(path)

    def string(self):
        """Pass a string. Returns what it says (escapes of multi-line strings are not looked at: they are no keys)."""
        quote = self.peek()
        if self.peek(3) == quote * 3:
            return self.long_string(quote)
        self.at += 1
        said = ''
        while self.peek() != quote:
            if quote == '"' and self.peek() == '\\':
                said += self.escape()
            else:
                said += self.peek()
                self.at += 1
        self.at += 1
        return said

    def long_string(self, quote):
        self.at += 3
        start = self.at
        while self.peek(3) != quote * 3:
            self.at += 2 if quote == '"' and self.peek() == '\\' else 1
        end = self.at
        while self.peek() == quote:         # up to two quotes may stand right before the closing three
            self.at += 1
        return self.text[start:end]

    def escape(self):
        letter = self.text[self.at + 1]
        if letter in ESCAPES:
            self.at += 2
            return ESCAPES[letter]
        digits = 4 if letter == 'u' else 8
        said = chr(int(self.text[self.at + 2:self.at + 2 + digits], 16))
        self.at += 2 + digits
        return said
