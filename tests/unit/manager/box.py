"""Runs the whole manager, from boot page to power-off, on the fake kernel."""
from hypervisor.manager.frames import Box
from hypervisor.manager.main import Manager
from hypervisor.manager.vm import Vm
from hypervisor.spec.config import MAX_VMS
from hypervisor.spec import ending
from tests.unit.fake_kernel import BoxOff, FakeKernel
from tests.unit.manager import blob

EXITED = ('end', ending.EXITED, 0)


def make_manager(kernel):
    """The first core's manager, about to run."""
    kernel.boot_manager()
    box = Box()
    box.read()
    return Manager(box, [Vm(n) for n in range(MAX_VMS)])


class Run(object):
    """One finished run. lines: what the serial port said; status: of the box; kernel; manager."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.manager = make_manager(kernel)
        self.status = None
        try:
            self.manager.run()
        except BoxOff as off:
            self.status = off.status
        self.text = bytes(kernel.uart.output)
        assert self.text.endswith('\r\n')
        self.lines = self.text[:-2].split('\r\n')

    def own_lines(self):
        return [line[len('bulkhead: '):] for line in self.lines if line.startswith('bulkhead: ')]

    def lines_of(self, name):
        prefix = '[%s] ' % name
        return [line[len(prefix):] for line in self.lines if line.startswith(prefix)]

    def row_of(self, name):
        """The VM's row in the table."""
        rows = [line for line in self.own_lines() if line.split(' ')[0] == name]
        assert len(rows) == 1, self.lines
        return rows[0]


def modules(configuration, *others):
    """Boot modules: manager, blob, VMM program, then the others."""
    return ['manager', configuration, blob.program()] + list(others)


def two_guests(a, b, **options):
    """A kernel with the guests alpha and beta, who follow scripts a and b."""
    configuration = blob.make([blob.vm('alpha', image=3, command_line='one two'), blob.vm('beta', image=4, ram=2 << 20)])
    return FakeKernel(modules(configuration, 'A' * 5000, 'B' * 4096), regions=options.pop('regions', (4096,)),
                      scripts={'alpha': list(a) + [EXITED], 'beta': list(b) + [EXITED]}, **options)
