"""Load the guest: image, boot information, and the state that its boot protocol asks for."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import boot as spec
from hypervisor.vmm import boot, space, state, vcpu as v
from hypervisor.vmm.load import extent, flat, image, information, linux, multiboot, pvh, refusal

BOOTED_BY_MULTIBOOT = r_uint(0x2badb002)        # EAX


class Loader(object):
    def __init__(self, ram, vcpu, rsdp):
        self.ram = ram
        self.vcpu = vcpu
        self.image = image.Image()
        self.extents = extent.Extents()
        self.information = information.Information(ram)
        self.linux = linux.Linux(ram, vcpu)
        self.pvh = pvh.Pvh(ram, vcpu)
        self.rsdp = rsdp                        # gpa of ACPI's root pointer
        # Results of the parts of this folder.
        self.entry = r_uint(0)
        self.number = 0                         # of the segment or module that a refusal is about

    def load(self):
        """The guest's memory is clear. Returns a code of refusal.py; the vCPU page's state part is as the guest starts."""
        self.image.set(space.IMAGE, boot.word(spec.VMM['IMAGE_BYTES']))
        self.extents.clear()
        self.number = 0
        kind = boot.number(spec.VMM['IMAGE_KIND'])
        if kind == spec.IMAGE_FLAT:
            return self._flat(boot.word(spec.VMM['LOAD_ADDRESS']))
        if kind == spec.IMAGE_MULTIBOOT:
            return self._multiboot()
        if kind == spec.IMAGE_LINUX:
            return self.linux.load(self.image, self.rsdp)
        if kind == spec.IMAGE_PVH:
            return self.pvh.load(self.image, self, self.rsdp)
        return refusal.UNKNOWN_KIND

    def _flat(self, address):
        code = flat.load(self.image, self.ram, address)
        if code == refusal.OK:
            state.real_mode(self.vcpu, 0, r_uint(0), address)
        return code

    def _multiboot(self):
        code = multiboot.load(self.image, self.ram, self)
        if code != refusal.OK:
            return code
        code = self.information.build(self.extents)
        if code != refusal.OK:
            self.number = self.information.number
            return code
        state.protected_mode(self.vcpu, self.entry)
        self.vcpu.set_register(v.AX, BOOTED_BY_MULTIBOOT)
        self.vcpu.set_register(v.BX, self.information.address)
        return refusal.OK
