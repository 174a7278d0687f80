"""One VM, wired together. A single prebuilt object (main.py) holds all that the VMM ever needs."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import task
from hypervisor.spec import boot as spec
from hypervisor.vmm import boot
from hypervisor.vmm.bus import Bus
from hypervisor.vmm.console import Console
from hypervisor.vmm.cpuid import Cpuid
from hypervisor.vmm.device import acpi, apic, pins, rtc
from hypervisor.vmm.device.board import Board
from hypervisor.vmm.emulate import Emulator
from hypervisor.vmm.exitport import ExitPort
from hypervisor.vmm.load.loader import Loader
from hypervisor.vmm.msr import Msrs
from hypervisor.vmm.paravirtual import Paravirtual
from hypervisor.vmm.power import Power
from hypervisor.vmm.ram import Ram
from hypervisor.vmm.reset import Keyboard, PowerControl, ResetControl
from hypervisor.vmm.uart import Uart
from hypervisor.vmm.vcpu import Vcpu


def wall_time(now, tsc_khz):
    """Unix time in seconds, as the manager knows it."""
    seconds = boot.word(spec.VMM['WALL_SECONDS'])
    if seconds == r_uint(0):
        return r_uint(rtc.START_UNIX)
    return seconds + (now - boot.word(spec.VMM['WALL_TSC'])) // (tsc_khz * r_uint(1000))


class Machine(object):
    def __init__(self):
        self.power = Power()
        self.console = Console()
        self.ram = Ram()
        self.vcpu = Vcpu()
        self.cpuid = Cpuid()
        self.msrs = Msrs()
        self.paravirtual = Paravirtual(self.ram)
        self.board = Board(self.power)
        self.uart = Uart(self.console, self.board.lines)
        self.exit_port = ExitPort(self.power)
        self.reset_control = ResetControl(self.power)
        always = [self.uart, self.exit_port, self.reset_control]
        self.bare = always + [Keyboard(self.power), PowerControl(self.power)]   # where no interrupt can arrive
        self.whole = always + self.board.ports
        self.bus = Bus(self.bare)
        self.has_board = False
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
        now = task.rdtsc()
        unix = wall_time(now, tsc_khz)
        self.paravirtual.set_clock(tsc_khz, now, unix)
        self.cpuid.set_host(vendor, tsc_khz)
        self.emulator.set_physical_bits(self.cpuid.physical_bits())
        self.has_board = pins.are_there()
        if self.has_board:
            self._use_board(tsc_khz, now, unix)

    def _use_board(self, tsc_khz, now, unix):
        """The kernel delivers interrupts: the VM is a whole PC."""
        self.bus.set_devices(self.whole, self.board.memory)
        self.board.start(tsc_khz, now, self.ram.size, unix)
        self.ram.use_firmware()
        self.loader.rsdp = acpi.RSDP

    def write_firmware(self):
        """The guest is loaded: what a PC's firmware leaves in memory and in the local APIC."""
        if self.has_board:
            acpi.write(self.ram)
            apic.set_as_firmware()

    def reset_devices(self):
        self.board.lines.clear()
        self.uart.clear()
        self.reset_control.clear()
        self.paravirtual.clear()
        if self.has_board:
            self.board.clear()
