"""Source positions of low-level operations.   (Python 2.7)

The flow graphs keep a byte-code offset per operation, which the typer drops and inlining makes meaningless.  Here each
low-level operation gets a Position instead: an offset (the translator goes on treating it as one) that knows its own file,
line and function, and that every copy of the operation carries along.  tell_in_c() has the C say it, so that debuggers, profiles and failed
assertions speak of our source and not of the C.
"""
import dis
import os

from rpython.flowspace.model import SpaceOperation
from rpython.rtyper import rtyper as rtyper_module

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Position(int):
    """A byte-code offset that knows where it comes from.

    path: as shown to people; line: 1 is the first; function: a name; via: the Position of the call that inlining replaced by
    this operation, or None.
    """

    def __new__(cls, offset, path, line, function, via=None):
        self = int.__new__(cls, offset)
        self.path, self.line, self.function, self.via = path, line, function, via
        return self

    def __str__(self):
        return '%s:%d' % (self.path, self.line)

    def inlined_at(self, call):
        """Return this position as seen from a function into which the call at Position `call` was inlined."""
        via = call if self.via is None else self.via.inlined_at(call)
        return Position(int(self), self.path, self.line, self.function, via)

    def in_our_source(self):
        """Return where we have called what is inlined here, if that is rpython's own."""
        return ([self] + [place for place in self.way() if not place.path.startswith('rpython/')])[-1]

    def way(self):
        """Return the positions of the inlined calls, outermost first, and this one."""
        return (self.via.way() if self.via is not None else []) + [self]


def shown_path(path):
    """Return the path relative to the project's root; rpython's own files start with 'rpython/'."""
    path = os.path.abspath(path)
    marker = os.sep + 'rpython' + os.sep
    if not path.startswith(ROOT + os.sep) or marker in path:
        return path[path.rindex(marker) + 1:] if marker in path else path
    return os.path.relpath(path, ROOT)


def line_at(code, offset):
    """Return the source line of the byte-code at `offset` of `code`."""
    line = code.co_firstlineno
    for start, number in dis.findlinestarts(code):
        if start > offset:
            break
        line = number
    return line


def position_in(graph, offset):
    """Return the Position of `offset` in the function that `graph` was made from, or None when it has no source."""
    code = getattr(getattr(graph, 'func', None), '__code__', None)
    if code is None or offset is None or offset < 0:
        return None
    return Position(offset, shown_path(code.co_filename), line_at(code, offset), graph.name)


def start_of(graph):
    """Return the Position where the graph's function starts, or None."""
    return position_in(graph, 0)


def record_in(translator):
    """Make the typer and the inliner of `translator` keep positions.  Called once, before typing."""
    original_class = rtyper_module.RPythonTyper
    if getattr(original_class, 'keeps_positions', False):
        return
    original_class.keeps_positions = True
    keep_in_typer(original_class)
    keep_in_inliner()


def keep_in_typer(typer_class):
    plain_translate = typer_class.translate_hl_to_ll

    def translate_hl_to_ll(self, hop, varmapping):
        hop.llops.position = position_in(self.annotator.annotated.get(hop.llops.originalblock), hop.spaceop.offset)
        return plain_translate(self, hop, varmapping)

    class PositionedOpList(rtyper_module.LowLevelOpList):
        position = None

        def append(self, operation):
            if self.position is not None and not isinstance(operation.offset, Position):
                operation.offset = self.position
            list.append(self, operation)

    typer_class.translate_hl_to_ll = translate_hl_to_ll
    typer_class.make_new_lloplist = lambda self, block: PositionedOpList(self, block)


def tell_in_c():
    """Have a #line before each line of a function's body.  Called once, before any C is written."""
    from rpython.translator.c.funcgen import FunctionCodeGenerator
    if getattr(FunctionCodeGenerator, 'tells_positions', False):
        return
    FunctionCodeGenerator.tells_positions = True
    plain_op, plain_body = FunctionCodeGenerator.gen_op, FunctionCodeGenerator.cfunction_body

    def gen_op(self, op):
        if isinstance(op.offset, Position):
            self.position = op.offset.in_our_source()
        return plain_op(self, op)

    def cfunction_body(self):
        self.position = start_of(self.graph)
        for line in plain_body(self):
            if self.position is not None:
                yield '#line %d "%s"' % (self.position.line, self.position.path)
            yield line

    FunctionCodeGenerator.gen_op, FunctionCodeGenerator.cfunction_body = gen_op, cfunction_body


def keep_in_inliner():
    from rpython.translator.backendopt.inline import BaseInliner
    plain_copy = BaseInliner.copy_operation

    def copy_operation(self, operation):
        copy = plain_copy(self, operation)
        copy.offset = operation.offset
        if isinstance(copy.offset, Position) and isinstance(self.op.offset, Position):
            copy.offset = copy.offset.inlined_at(self.op.offset)
        return copy

    BaseInliner.copy_operation = copy_operation
