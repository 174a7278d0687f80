"""The VMM's start: boot page, mappings, the guest. Every failure ends the VM with a sentence or a code."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.lib import call
from hypervisor.spec import boot as spec, ending, status
from hypervisor.spec.vcpu import GROUP_CPUID, GROUP_TIME
from hypervisor.spec.call import SLOT_GUEST_MODULE, SLOT_IMAGE, SLOT_SELF
from hypervisor.vmm import boot, space
from hypervisor.vmm.vcpu import STATE
from hypervisor.vmm.load import refusal

AT_ONCE = r_uint(1)             # a deadline that has passed
# Details of VMM_GAVE_UP.
NO_BOOT_PAGE, NO_MAPPING, NO_VCPU = 1, 2, 3


def give_up(code):
    call.stop(SLOT_SELF, ending.VMM_GAVE_UP, r_uint(code))


def begin(machine):
    """Bring the VM to where its guest can start: state and CPUID table lie in the vCPU page. Returns success."""
    if not boot.is_sane():
        give_up(NO_BOOT_PAGE)
        return False
    machine.configure()
    if _map(machine.ram.size) != status.OK:
        give_up(NO_MAPPING)
        return False
    for n in range(machine.processors):
        machine.cpuid.fill(n)
        machine.vcpu.select(n)
        machine.vcpu.set(STATE['TSC_OFFSET'], machine.tsc_offset)
    machine.vcpu.select(0)
    return load(machine) and _start_others(machine)


def _start_others(machine):
    """All vCPUs but the first wait in the kernel for STARTUP; nothing of them runs yet. Returns success."""
    vcpu = machine.vcpu
    for n in range(1, machine.processors):
        vcpu.select(n)
        vcpu.resume(GROUP_CPUID | GROUP_TIME)
        if vcpu.run(AT_ONCE) != status.OK:
            give_up(NO_VCPU)
            return False
    vcpu.select(0)
    return True


def _map(ram_bytes):
    answer = space.map_ram(ram_bytes)
    if answer == status.OK:
        answer = space.map_read_only(SLOT_IMAGE, space.IMAGE, boot.word(spec.VMM['IMAGE_BYTES']))
    for n in range(boot.module_count()):
        if answer == status.OK:
            answer = space.map_read_only(SLOT_GUEST_MODULE + n, space.module_address(n), boot.module_bytes(n))
    return answer


def load(machine):
    """Load the guest into clear memory; a refusal goes to the console and is the VM's end. Returns success."""
    machine.ram.use_firmware(False)
    code = machine.loader.load()
    if code == refusal.OK:
        machine.ram.use_firmware(True)
        machine.write_firmware()
        return True
    _explain(machine.console, code, machine.loader.number)
    machine.power.leave(ending.BAD_IMAGE, r_uint(code))
    return False


def _explain(console, code, number):
    console.begin()
    console.text('cannot boot: ')
    sentence = refusal.SENTENCES[code]
    for n in range(len(sentence)):
        if sentence[n] == '%':
            console.decimal(number)
        elif n == 0 or sentence[n - 1] != '%':
            console.put(ord(sentence[n]))
    console.end()
