"""What is wrong with a machine.toml: a file, a line, a key, a sentence, and what to write instead."""
from dataclasses import dataclass

from bulkhead.facts import shown


@dataclass(frozen=True)
class Mistake:
    file: str
    line: int               # from 1; 0: the file as a whole
    key: str                # as people say it: 'vm "left", boot.image'; '' where no key is meant
    what: str
    write: str = ''         # what to write instead, or to do; '' where `what` says it all

    def place(self):
        return '%s:%d' % (shown(self.file), self.line) if self.line else shown(self.file)

    def __str__(self):
        text = ': '.join(part for part in (self.place(), self.key, self.what) if part)
        return text + ('\n    write: ' + self.write if self.write else '')


class Mistakes(Exception):
    """All mistakes of one file at once."""

    def __init__(self, mistakes):
        self.mistakes = sorted(set(mistakes), key=lambda m: (m.line, m.key, m.what))
        super().__init__('\n'.join(str(mistake) for mistake in self.mistakes))


class Trouble(Exception):
    """Something that ends the command with a sentence: a missing tool, an emulator that would not start."""
