"""One VM, wired together. A single prebuilt object (main.py) holds all that the VMM ever needs."""
from hypervisor.spec import boot as spec
from hypervisor.vmm import boot
from hypervisor.vmm.bus import Bus
from hypervisor.vmm.console import Console
from hypervisor.vmm.cpuid import Cpuid
from hypervisor.vmm.emulate import Emulator
from hypervisor.vmm.exitport import ExitPort
from hypervisor.vmm.load.loader import Loader
from hypervisor.vmm.msr import Msrs
from hypervisor.vmm.power import Power
from hypervisor.vmm.ram import Ram
from hypervisor.vmm.reset import Keyboard, PowerControl, ResetControl
from hypervisor.vmm.uart import Uart
from hypervisor.vmm.vcpu import Vcpu


class Machine(object):
    def __init__(self):
        self.power = Power()
        self.console = Console()
        self.ram = Ram()
        self.vcpu = Vcpu()
        self.cpuid = Cpuid()
        self.msrs = Msrs()
        self.uart = Uart(self.console)
        self.exit_port = ExitPort(self.power)
        self.reset_control = ResetControl(self.power)
        self.bus = Bus([self.uart, self.exit_port, self.reset_control, Keyboard(self.power), PowerControl(self.power)])
        self.loader = Loader(self.ram, self.vcpu)
        self.emulator = Emulator(self.vcpu, self.ram, self.bus)

    def configure(self):
        """Take over what the boot page says. It has been checked (boot.is_sane)."""
        tsc_khz = boot.word(spec.VMM['TSC_KHZ'])
        vendor = boot.number(spec.VMM['VENDOR'])
        self.console.set_clock(tsc_khz)
        self.ram.set_size(boot.word(spec.VMM['RAM_BYTES']))
        self.power.set_restarts(boot.number(spec.VMM['RESTARTS']))
        self.exit_port.set_enabled(boot.number(spec.VMM['FLAGS']) & spec.FLAG_EXIT_PORT != 0)
        self.msrs.set_platform(vendor, tsc_khz)
        self.cpuid.set_host(vendor)
        self.emulator.set_physical_bits(self.cpuid.physical_bits())

    def reset_devices(self):
        self.uart.clear()
        self.reset_control.clear()
