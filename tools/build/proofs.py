"""Proofs over the flow graphs, after every optimisation: what the C will do, not what the source seems to say.   (Python 2.7)

On the exit path (everything that a function of the target's EXIT_PATH can reach):
  1. nothing allocates (indirect calls count as calls of their whole family);
  2. no exception leaves a function of EXIT_PATH (one that is raised and handled inside is fine);
  3. nothing recurses, so that the stack has a bound.
In the whole program: no floating-point number.

A finding is a text of several lines: the sentence, then the chain from the entry to the operation, each with file and line.
"""
from rpython.rtyper.lltypesystem import lltype
from rpython.rtyper.lltypesystem.lloperation import LL_OPERATIONS

import raising
from callgraph import Reach, Step, Unknown, callees, graphs_of, is_call, operations

MOST_FINDINGS = 10          # of each kind; one mistake in a helper shows up in many places

ALLOCATING = set(name for name, operation in LL_OPERATIONS.items() if operation.canmallocgc)
ALLOCATING.update(['boehm_malloc', 'boehm_malloc_atomic', 'raw_malloc', 'stack_malloc', 'zero_malloc', 'gc_writebarrier_before_copy'])
RELEASING = set(['free', 'raw_free', 'gc_free', 'gc_deallocate'])
ALLOCATING_C = set(['malloc', 'calloc', 'realloc', 'free', 'alloca'])
FLOATS = (lltype.Float, lltype.SingleFloat, lltype.LongFloat)


def check(translator, target):
    """Return the findings for a target module."""
    findings = ['EXIT_PATH names %s, which no entry point reaches: remove it or call it' % function.__name__
                for function in target.EXIT_PATH if not graphs_of(translator, function)]
    exit_graphs = graphs_of_all(translator, target.EXIT_PATH)
    exit_path = Reach(translator, exit_graphs)
    entries = graphs_of_all(translator, [function for function, _ in target.ENTRY_POINTS])
    for proof in (no_allocation, no_exception, no_recursion):
        findings.extend(shortened(proof(translator, exit_path, exit_graphs)))
    findings.extend(shortened(no_float(Reach(translator, entries + exit_graphs))))
    return findings


def extent(translator, target):
    """Return one line that says how much the proofs of the exit path cover."""
    if not target.EXIT_PATH:
        return 'EXIT_PATH is empty: nothing is proved about allocation, exceptions and recursion'
    exit_path = Reach(translator, graphs_of_all(translator, target.EXIT_PATH))
    count = sum(1 for graph in exit_path.order for _ in operations(graph))
    return ('exit path proved: no allocation, exception or recursion in %d functions (%d operations) from %s on'
            % (len(exit_path.order), count, ', '.join(function.__name__ for function in target.EXIT_PATH)))


def graphs_of_all(translator, functions):
    return [graph for function in functions for graph in graphs_of(translator, function)]


class Finding(object):
    """A sentence, and the Steps from the entry to the operation that breaks the rule."""

    def __init__(self, sentence, steps):
        self.sentence, self.steps = sentence, steps

    def __str__(self):
        return '\n'.join([self.sentence] + [str(step) for step in self.steps])

    def mistake(self):
        """Return what tells two mistakes apart: one line of ours may break a rule in many helpers of RPython's."""
        own = [line for line in [step.own_line() for step in self.steps] if line]
        return self.sentence, own[-1] if own else str(self)


def shortened(findings):
    """Return the texts of at most MOST_FINDINGS, each mistake once, and say how many are left out."""
    texts, mistakes = [], set()
    for finding in findings:
        if finding.mistake() not in mistakes:
            mistakes.add(finding.mistake())
            texts.append(str(finding))
    left_out = len(texts) - MOST_FINDINGS
    return texts[:MOST_FINDINGS] + (['... and %d more of this kind' % left_out] if left_out > 0 else [])


# -- 1. allocation

def no_allocation(translator, exit_path, exit_graphs):
    for graph in exit_path.order:
        for operation, where in operations(graph):
            what = allocates(translator, operation)
            if what:
                yield Finding('the exit path allocates memory', exit_path.chain(graph) + [Step(where, what)])


def allocates(translator, operation):
    """Return what the operation does to the heap, in words, or None."""
    if operation.opname in ALLOCATING:
        return 'allocates %s (operation %s)' % (allocated_type(operation), operation.opname)
    if operation.opname in RELEASING:
        return 'frees memory (operation %s)' % operation.opname
    if operation.opname not in LL_OPERATIONS:
        return 'unknown operation %s: it may allocate' % operation.opname
    if is_call(operation):
        try:
            _, external = callees(translator, operation)
        except Unknown as unknown:
            return '%s: it may allocate' % unknown
        if external is not None and external._name in ALLOCATING_C:
            return 'calls the C function %s' % external._name
    return None


def allocated_type(operation):
    kind = getattr(operation.args[0], 'value', None) if operation.args else None
    name = getattr(kind, '_name', None)
    if name:
        return 'a %s' % name
    return 'an array' if isinstance(kind, lltype.Array) else 'memory'


# -- 2. exceptions

def no_exception(translator, exit_path, exit_graphs):
    raises = raising.Raising(translator, exit_path)
    for graph in exit_graphs:
        for exception in sorted(raises.leaving(graph), key=lambda each: each.__name__):
            name = 'some exception' if exception is Exception else exception.__name__
            yield Finding('%s may leave %s, which is on the exit path' % (name, graph.name), raises.chain(graph, exception))


# -- 3. recursion

def no_recursion(translator, exit_path, exit_graphs):
    """A depth-first walk: a call to a graph that is still open closes a circle."""
    closed = set()
    for root in exit_graphs:
        for circle in circles_from(root, exit_path, closed):
            yield circle


def circles_from(root, exit_path, closed):
    open_graphs = []                # the way from the root to here
    ways = []                       # where each of them was called
    pending = [(root, None, iter(exit_path.successors[root]))] if root not in closed else []
    if pending:
        open_graphs.append(root)
        ways.append(None)
    while pending:
        graph, _, calls = pending[-1]
        for target, where in calls:
            if target in open_graphs:
                start = open_graphs.index(target)
                names = [each.name for each in open_graphs[start + 1:]] + [target.name]
                steps = [Step(way, 'calls %s' % name) for way, name in zip(ways[start + 1:] + [where], names)]
                yield Finding('%s calls itself on the exit path: its stack has no bound' % target.name,
                              exit_path.chain(target) + steps)
            elif target not in closed:
                open_graphs.append(target)
                ways.append(where)
                pending.append((target, where, iter(exit_path.successors[target])))
                break
        else:
            closed.add(graph)
            pending.pop()
            open_graphs.pop()
            ways.pop()


# -- floating point

def no_float(program):
    for graph in program.order:
        for operation, where in operations(graph):
            for value in list(operation.args) + [operation.result]:
                if getattr(value, 'concretetype', None) in FLOATS:
                    yield Finding('the program computes with a floating-point number: use whole numbers',
                                  program.chain(graph) + [Step(where, 'operation %s' % operation.opname)])
                    break
