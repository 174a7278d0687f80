"""The loop: pick a context, run it until it exits, finish the exit or hand it on. For ever.

Every crossing between privilege levels is a call that returns here; interrupts are off and nothing re-enters.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu
from hypervisor.kernel import calls, exits, interrupts, panic
from hypervisor.kernel.news import news
from hypervisor.kernel.owned import owned
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.straight import back
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.wire import wire
from hypervisor.spec import call, ending
from hypervisor.spec.context import AREA

GATE = r_uint(call.GATE)


def run_forever():
    while True:
        step()


def step():
    """One context, one exit."""
    if news.any:
        wire.flush()
    scheduler.pick()
    vcpu = scheduler.vcpu
    if vcpu is None:
        run_task(scheduler.compartment)
    else:
        run_vcpu(vcpu)


def run_vcpu(vcpu):
    if switcher.owner is not vcpu:
        switcher.claim(vcpu)
    if vcpu.ticked:
        owned.lend(vcpu)
    if vcpu.attention and not interrupts.prepare(vcpu):
        return
    exited = switcher.vendor.run(vcpu)
    if vcpu.owns:
        owned.take_back(vcpu)
    if exited:
        exits.handle(vcpu)
    elif back.pending:
        back.pending = False
        come_back(vcpu.compartment, back.vector)


def run_task(compartment):
    come_back(compartment, cpu.task_run(compartment.task.area, compartment.space.root))


def come_back(compartment, vector):
    """A task has run, and this has ended it."""
    if vector == GATE:
        calls.dispatch(compartment)
    elif vector >= r_uint(32):
        exits.interrupt(vector)
    else:
        fault(compartment, vector)


def fault(compartment, vector):
    """A task's fault is its own compartment's end; the manager's is the box's."""
    rip = compartment.task.argument(AREA['RIP'])
    if compartment.number == 0:
        panic.manager_fault(vector, rip)
    else:
        compartment.stop(ending.VMM_FAULT, rip)
