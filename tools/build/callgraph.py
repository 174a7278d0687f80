"""The call graph of a translated program: which graph calls which, and how one gets from an entry to a place.   (Python 2.7)"""
from collections import deque

from rpython.rtyper.lltypesystem.lltype import DelayedPointer

import position


class Unknown(Exception):
    """A call whose target the graphs do not tell; the message says what kind of call."""


def is_call(operation):
    return operation.opname in ('direct_call', 'indirect_call')


def callees(translator, operation):
    """Return ([graph, ...], external) of a call: what it may run.  external: the C function's object, or None.

    An indirect call may run each member of its family.  Raises Unknown when the family is not known.
    """
    if operation.opname == 'indirect_call':
        if operation.args[-1].value is None:
            raise Unknown('a call through a pointer whose targets are unknown')
        return list(operation.args[-1].value), None
    try:
        function = operation.args[0].value._obj
    except DelayedPointer:
        raise Unknown('a call of a helper that is not made yet')
    except AttributeError:
        raise Unknown('a call through a function pointer')
    if function is None:
        return [], None                     # a null pointer: a dead path
    if getattr(function, 'external', None) is not None:
        return callbacks(translator, function), function
    if getattr(function, 'graph', None) is None:
        raise Unknown('a call of %s, which has no graph' % getattr(function, '_name', 'a function'))
    return [function.graph], None


def callbacks(translator, function):
    """Return the graphs that an external function may call back."""
    declared = getattr(function, '_callbacks', None)
    graphs = []
    for callback in getattr(declared, 'callbacks', ()):
        graphs.extend(translator.annotator.bookkeeper.getdesc(callback).getgraphs())
    return graphs


def graphs_of(translator, function):
    """Return the graphs made from a Python function or method (several when it was specialised)."""
    function = getattr(function, 'im_func', function)
    return [graph for graph in translator.graphs if getattr(graph, 'func', None) is function]


class Step(object):
    """One link of a chain: at `where` something happens (`what`).  Inlined calls on the way get a line each."""

    def __init__(self, where, what):
        self.where, self.what = where, what

    def __str__(self):
        if self.where is None:
            return '    (no source): %s' % self.what
        way = self.where.way()
        happens = ['calls %s (inlined)' % inner.function for inner in way[1:]] + [self.what]
        return '\n'.join('    %s in %s: %s' % (where, where.function, what) for where, what in zip(way, happens))

    def own_line(self):
        """Return the innermost line of this step that is the project's own, or None when it is all RPython's."""
        own = [str(where) for where in (self.where.way() if self.where is not None else []) if not where.path.startswith('rpython/')]
        return own[-1] if own else None


class Reach(object):
    """Everything that can run once one of `roots` runs, with the shortest way to it."""

    def __init__(self, translator, roots):
        self.translator = translator
        self.caller = {}                    # graph -> (calling graph, position of the call)
        self.order = []                     # breadth first: callers before their callees
        self.successors = {}                # graph -> [(callee, position)]
        queue = deque()
        for graph in roots:
            self.visit(graph, None, None, queue)
        while queue:
            self.follow(queue.popleft(), queue)

    def visit(self, graph, caller, where, queue):
        if graph not in self.caller:
            self.caller[graph] = (caller, where)
            self.order.append(graph)
            queue.append(graph)

    def follow(self, graph, queue):
        calls = self.successors[graph] = []
        for operation, where in operations(graph):
            if not is_call(operation):
                continue
            try:
                targets, _ = callees(self.translator, operation)
            except Unknown:
                continue                    # each proof reports it in its own words
            for target in targets:
                calls.append((target, where))
                self.visit(target, graph, where, queue)

    def chain(self, graph):
        """Return the Steps from a root to `graph`."""
        steps = []
        while True:
            caller, where = self.caller[graph]
            if caller is None:
                return [Step(position.start_of(graph), 'starts here')] + steps[::-1]
            steps.append(Step(where, 'calls %s' % graph.name))
            graph = caller


def operations(graph):
    """Yield (operation, Position or None).  An operation made up on the way gets the position of its nearest neighbour."""
    for block in graph.iterblocks():
        where = first_position(block) or position.start_of(graph)
        for operation in block.operations:
            if isinstance(operation.offset, position.Position):
                where = operation.offset
            yield operation, where


def first_position(block):
    for operation in block.operations:
        if isinstance(operation.offset, position.Position):
            return operation.offset
    return None


def last_position(block):
    """Return the position of the last operation of `block` that has one, or None."""
    for operation in reversed(block.operations):
        if isinstance(operation.offset, position.Position):
            return operation.offset
    return None
