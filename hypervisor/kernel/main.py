"""The kernel from its first RPython instruction to the loop."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import cpu, image, memory
from hypervisor.hw.audit import publish_root
from hypervisor.hw.heap import seal_heap
from hypervisor.kernel import away, loop, panic, serial
from hypervisor.kernel.apic import apic
from hypervisor.kernel.core import this
from hypervisor.kernel.cores import cores
from hypervisor.kernel.first import load_manager, relocate_manager, vendor_number
from hypervisor.kernel.inventory import inventory
from hypervisor.kernel.link import links, wires
from hypervisor.kernel.multiboot import loader
from hypervisor.kernel.owned import owned
from hypervisor.kernel.root import root
from hypervisor.kernel.scheduler import scheduler
from hypervisor.kernel.state import features
from hypervisor.kernel.svm import Svm
from hypervisor.kernel.switch import switcher
from hypervisor.kernel.timer import timer
from hypervisor.kernel.vmx import Vmx
from hypervisor.kernel.wire import wire
from hypervisor.spec import audit, boot, core, refusal, status
from hypervisor.spec import cpu as bits

R0 = r_uint(0)
svm = Svm()
vmx = Vmx()


def kernel_start(magic, information):
    """Called by boot/kernel/support.c. Does not return."""
    if magic == r_uint(core.HANDOVER_MAGIC):
        this.join(information)
        links.open()
    else:
        serial.open_port()
    code = start(magic, information)
    if code != refusal.NONE:
        panic.refuse(code)
    seal_heap()
    links.say_state(core.RUNNING)
    away.receive()              # what came before this core listened
    loop.run_forever()


def start(magic, information):
    """Everything that happens once. Returns a refusal or NONE."""
    code = loader.read(magic, information)
    if code != refusal.NONE:
        return code
    if this.is_first():
        code = timer.begin()
        if code != refusal.NONE:
            return code
    code = inventory.open()
    if code != refusal.NONE:
        return code
    vendor = choose_vendor()
    code = vendor.probe()
    if code != refusal.NONE:
        return code
    code = open_cores()
    if code != refusal.NONE:
        return code
    if root.build() != status.OK:
        return refusal.NO_MEMORY
    if this.is_first():
        code = timer.measure()
        if code != refusal.NONE:
            return code
    vendor_number.owning = owned.why(vendor)
    code = load_manager()
    if code != refusal.NONE:
        return code
    protect()
    features.open()
    publish_root(r_uint(audit.RECORDS - 1), r_uint(audit.KIND_KERNEL), R0, root.root)
    image.set_kernel_root(root.root)
    inventory.relocate()
    relocate_manager()
    apic.relocate()
    links.relocate()
    wires.relocate()
    switcher.open(vendor)
    code = vendor.enable()
    if code != refusal.NONE:
        return code
    if not wire.open() or not away.inbox.open():
        return refusal.NO_MEMORY
    timer.start()
    owned.open()
    scheduler.open()
    return refusal.NONE


def open_cores():
    """The first core looks for others; these know its rates from what it has handed over. Returns a refusal or NONE."""
    code = refusal.NONE
    if this.is_first():
        code = cores.open()
        links.open()
    else:
        code = timer.open_again(memory.load64(this.record + core.HANDOVER['TSC_KHZ']), memory.load64(this.record + core.HANDOVER['RATIO']))
    wires.open()
    return code


def choose_vendor():
    """Intel's, unless the processor has no VMX; what else may be missing of either is for `probe` to say."""
    if vmx.probe() != refusal.NO_VENDOR:
        vendor_number.value = boot.VENDOR_INTEL
        return vmx
    vendor_number.value = boot.VENDOR_AMD
    return svm


def protect():
    """SMEP, SMAP and UMIP, where the processor has them. Source: Intel SDM Vol. 3A, "Control Registers"."""
    ebx = cpu.cpuid(r_uint(7), R0, r_uint(1))
    ecx = cpu.cpuid(r_uint(7), R0, r_uint(2))
    cr4 = cpu.read_cr4()
    if ebx & r_uint(1 << 7) != R0:
        cr4 |= r_uint(bits.CR4_SMEP)
    if ebx & r_uint(1 << 20) != R0:
        cr4 |= r_uint(bits.CR4_SMAP)
    if ecx & r_uint(1 << 2) != R0:
        cr4 |= r_uint(bits.CR4_UMIP)
    cpu.write_cr4(cr4)
