"""The kernel's prebuilt objects, put back as they were: what a reset of the machine does to .data and .bss."""
import sys

PREFIX = 'hypervisor.kernel'


def modules():
    return [module for name, module in sorted(sys.modules.items()) if module is not None and (name + '.').startswith(PREFIX + '.')]


def is_own(value):
    return type(value).__module__.startswith(PREFIX)


class Snapshot(object):
    """All objects of kernel classes, and all lists, that module globals lead to; with what they hold now."""

    def __init__(self):
        self.seen = {}
        self.objects = []
        self.lists = []
        for module in modules():
            for value in vars(module).values():
                self.visit(value)

    def visit(self, value):
        if id(value) in self.seen:
            return
        if isinstance(value, list):
            self.seen[id(value)] = value
            self.lists.append((value, list(value)))
            for item in value:
                self.visit(item)
        elif is_own(value) and hasattr(value, '__dict__') and not isinstance(value, type):
            self.seen[id(value)] = value
            self.objects.append((value, dict(vars(value))))
            for item in vars(value).values():
                self.visit(item)

    def restore(self):
        for target, content in self.objects:
            vars(target).clear()
            vars(target).update(content)
        for target, content in self.lists:
            target[:] = content
