"""The exit port, 0xf4: whatever is written there, of any width, ends the VM with that status (FLAG_EXIT_PORT only)."""
from hypervisor.spec import ending
from hypervisor.vmm.bus import DONE, Device, ones

PORT = 0xf4


class ExitPort(Device):
    def __init__(self, power):
        Device.__init__(self, PORT, 1, False)
        self.power = power
        self.enabled = False

    def set_enabled(self, enabled):
        self.enabled = enabled

    def write(self, offset, size, value):
        if self.enabled:
            self.power.leave(ending.EXITED, value & ones(size))
        return DONE
