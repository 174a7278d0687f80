"""What a manager does to make a VM, in as few calls as can be; and what a VMM sees."""
from hypervisor.kernel.compartment import compartments
from hypervisor.kernel.loop import step
from hypervisor.kernel.scheduler import scheduler
from hypervisor.spec import call, status
from hypervisor.spec.layout import TASK_BASE
from hypervisor.spec.vcpu import ANSWER, EXIT, STATE
from tests.unit.kernel.machine import Block

SLOT = call.SLOT_MANAGER_FREE       # the first VM's; it is compartment 1


KERNEL_PAGES = 192


def run(number):
    """Arguments of CREATE and JOIN: frames for compartment `number`, from the end of this core's first region of memory."""
    return call.SLOT_MEMORY, int(compartments[0].second[call.SLOT_MEMORY]) - KERNEL_PAGES * number, KERNEL_PAGES


def make_vm(box, number, vcpus=1, frames=8, start=True):
    """Compartment `number` is the next one that is free. Its slot in the manager's table: SLOT + number - 1."""
    slot = SLOT + number - 1

    def ok(which, *arguments):
        assert box.kernel_call(0, which, *arguments)[0] == status.OK, call.TABLE[which]
    ok(call.CREATE, slot, *run(number))
    ok(call.GIVE, slot, call.SLOT_MEMORY, 512 * number, frames, call.SLOT_RAM)
    for n in range(vcpus):
        ok(call.VCPU_CREATE, slot, call.SLOT_VCPU + n, 0, 0)
    ok(call.RING_CREATE, slot, call.SLOT_CONSOLE_OUT, call.SLOT_SELF, 46 + 2 * number)
    ok(call.RING_CREATE, call.SLOT_SELF, 47 + 2 * number, slot, call.SLOT_CONSOLE_IN)
    if start:
        ok(call.START, slot, TASK_BASE, 0, 0)
    return slot


def vcpu_page(number, n=0):
    """hpa of the vCPU page."""
    return int(compartments[number].vcpus[n].page_hpa)


def put_answer(box, number, **fields):
    """Write fields of the answer and the state part, by name."""
    for name, value in fields.items():
        place = ANSWER[name] if name in ANSWER and name != 'END' else STATE[name]
        box.memory.put_word(vcpu_page(number) + place, value)


def exit_field(box, number, name):
    return box.memory.word(vcpu_page(number) + EXIT[name])


def run_guest_once(box, number, play):
    """play(box, registers, block) is the guest's one run; the kernel handles its exit. The VM's task must be blocked."""
    box.guests[number] = type('Once', (object,), {'run': staticmethod(play)})
    scheduler.compartment = compartments[number]
    scheduler.vcpu = None
    step()


def exits(*arguments):
    """A guest that exits at once, as Block.exit."""
    return lambda box, registers, block: block.exit(*arguments)


def block_of(box, number):
    return Block(box, int(compartments[number].vcpus[0].control))
