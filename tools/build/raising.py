"""Which exceptions can leave which function.   (Python 2.7)

RPython's own RaiseAnalyzer answers only "can this raise?", and counts what is caught again.  Here each graph has the set of
Python classes that can leave it, with one witness each, so that a message can name the line; a handler takes its classes away.
Exception itself stands for "some exception, class unknown".

RPython's own MemoryErrors do not count: the allocator panics instead, and allocation has a proof of its own.
"""
from rpython.flowspace.model import Constant, mkentrymap
from rpython.rtyper.lltypesystem.lloperation import LL_OPERATIONS

import callgraph
from callgraph import Step, Unknown, callees


class Witness(object):
    """Why an exception can be raised at a place.  callee: the graph it comes from, or None when it starts here."""

    def __init__(self, where, what, callee=None, exception=None):
        self.where, self.what, self.callee, self.exception = where, what, callee, exception


class Raising(object):
    """The exceptions that leave each graph of a callgraph.Reach."""

    def __init__(self, translator, reach):
        self.translator = translator
        self.classes = class_of_vtable(translator)
        self.instances = translator.rtyper.lltype_to_classdef_mapping()
        self.result = dict((graph, {}) for graph in reach.order)
        self.settle(reach)

    def settle(self, reach):
        """Repeat until no set grows: callees first, so that few rounds are needed."""
        changed = True
        while changed:
            changed = False
            for graph in reversed(reach.order):
                for exception, witness in self.leaving_now(graph).items():
                    if exception not in self.result[graph]:
                        self.result[graph][exception] = witness
                        changed = True

    def leaving(self, graph):
        """Return {class: Witness} of what can leave `graph`."""
        return self.result[graph]

    def chain(self, graph, exception):
        """Return the Steps from `graph` to the place that raises."""
        steps, seen = [], set()
        while graph is not None and (graph, exception) not in seen:
            seen.add((graph, exception))
            witness = self.result[graph][exception]
            steps.append(Step(witness.where, witness.what))
            graph, exception = witness.callee, witness.exception
        return steps

    # -- one graph

    def leaving_now(self, graph):
        leaving = {}
        caught = {}                         # handler's link -> {class: Witness} that arrive there
        for block in graph.iterblocks():
            where = callgraph.first_position(block) or callgraph.position.start_of(graph)
            for index, operation in enumerate(block.operations):
                if isinstance(operation.offset, callgraph.position.Position):
                    where = operation.offset
                raised = self.raised_by(operation, where)
                if block.canraise and index == len(block.operations) - 1:
                    raised = hand_out(block, raised, caught)
                leaving.update(raised)
        entries = mkentrymap(graph)
        for link in entries.get(graph.exceptblock, ()):
            leaving.update(self.raised_by_link(graph, link, entries, caught))
        return leaving

    def raised_by(self, operation, where):
        """Return {class: Witness} of what one operation raises."""
        if callgraph.is_call(operation):
            return self.raised_by_call(operation, where)
        known = LL_OPERATIONS.get(operation.opname)
        if known is None:
            return {Exception: Witness(where, 'unknown operation %s' % operation.opname)}
        return dict((exception, Witness(where, 'raises %s (operation %s)' % (exception.__name__, operation.opname)))
                    for exception in known.canraise or () if exception is not MemoryError)

    def raised_by_call(self, operation, where):
        try:
            graphs, external = callees(self.translator, operation)
        except Unknown as unknown:
            return {Exception: Witness(where, str(unknown))}
        raised = {}
        if external is not None and getattr(external, 'canraise', True):
            raised[Exception] = Witness(where, 'calls the C function %s, which may raise' % external._name)
        for graph in graphs:
            for exception in self.result.get(graph, ()):
                raised.setdefault(exception, Witness(where, 'calls %s' % graph.name, graph, exception))
        return raised

    def raised_by_link(self, graph, link, entries, caught):
        """Return {class: Witness} of a jump to the graph's exceptional exit: a `raise`, or what a handler passes on."""
        where = callgraph.last_position(link.prevblock) or callgraph.first_position(link.prevblock)
        raised = {}
        for origin, value in origins(link, entries):
            if value is None:
                raised.update(caught.get(origin, {}))
            else:
                exception = self.class_of(value)
                at = callgraph.last_position(origin.prevblock) or where or callgraph.position.start_of(graph)
                name = 'an exception of unknown class' if exception is Exception else exception.__name__
                if exception is MemoryError and at is not None and at.path.startswith('rpython/'):
                    continue
                raised[exception] = Witness(at, 'raises %s' % name)
        return raised

    def class_of(self, value):
        """Return the Python class of an instance that is raised, as exactly as the graph tells."""
        if isinstance(value, Constant) and value.value:
            instance = value.value
            while not hasattr(instance, 'typeptr'):
                instance = instance.super
            return self.classes.get(instance.typeptr._obj, Exception)
        definition = self.instances.get(value.concretetype.TO)
        known = definition.classdesc.pyobj if definition is not None else Exception
        return known if issubclass(known, Exception) else Exception


def hand_out(block, raised, caught):
    """Give what the block's last operation raises to the handlers.  Returns {class: Witness} of what none of them takes."""
    for link in block.exits[1:]:
        taken = caught.setdefault(link, {})
        left = {}
        for exception, witness in raised.items():
            if issubclass(exception, link.exitcase):
                taken[exception] = witness
            else:
                left[exception] = witness
                if issubclass(link.exitcase, exception):
                    taken[link.exitcase] = witness      # perhaps; the rest of the class goes on
        raised = left
    return raised


def origins(link, entries):
    """Return [(link, value)] where the exception on its way through `link` comes from.

    value: the instance that a `raise` names; None when it is the exception that the returned (handler's) link caught.
    """
    found, seen = [], set()
    pending = [(link, link.args[1])]
    while pending:
        link, value = pending.pop()
        if (link, value) in seen:
            continue
        seen.add((link, value))
        if link.last_exc_value is not None and value is link.last_exc_value:
            found.append((link, None))
            continue
        value = before_casts(link.prevblock, value)
        incoming = [(entry, entry.args[link.prevblock.inputargs.index(value)]) for entry in entries.get(link.prevblock, ())
                    if value in link.prevblock.inputargs and entry.prevblock is not None]
        pending.extend(incoming)
        if not incoming:
            found.append((link, value))
    return found


def before_casts(block, value):
    """Return the value that `value` of `block` was cast from: its type is the narrowest that is known."""
    for operation in reversed(block.operations):
        if operation.result is value and operation.opname in ('cast_pointer', 'same_as'):
            value = operation.args[0]
    return value


def class_of_vtable(translator):
    """Return {low-level vtable: Python class} of all classes of the program."""
    from rpython.rtyper.rclass import getclassrepr
    rtyper = translator.rtyper
    classes = {}
    for definition in translator.annotator.bookkeeper.classdefs:
        representation = definition.repr
        if representation is not None and getattr(representation, 'vtable', None) is not None:
            classes[getclassrepr(rtyper, definition).getvtable()._obj] = definition.classdesc.pyobj
    return classes
