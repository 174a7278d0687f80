"""One VM, wired together. A single prebuilt object (main.py) holds all that the VMM ever needs."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import task
from hypervisor.spec import boot as spec
from hypervisor.vmm import boot
from hypervisor.vmm.bus import Bus
from hypervisor.vmm.console import Console
from hypervisor.vmm.cpuid import Cpuid
from hypervisor.vmm.device import acpi, apic, rtc
from hypervisor.vmm.device.board import Board
from hypervisor.vmm.emulate import Emulator
from hypervisor.vmm.exitport import ExitPort
from hypervisor.vmm.load.loader import Loader
from hypervisor.vmm.msr import Msrs
from hypervisor.vmm.paravirtual import Paravirtual
from hypervisor.vmm.power import Power
from hypervisor.vmm.ram import Ram
from hypervisor.vmm.reset import ResetControl
from hypervisor.vmm.taskswitch import TaskSwitch
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
        self.processors = 1             # vCPUs
        self.tsc_offset = r_uint(0)
        self.cpuid = Cpuid()
        self.msrs = Msrs()
        self.paravirtual = Paravirtual(self.ram, self.vcpu)
        self.board = Board(self.power, self.vcpu)
        self.uart = Uart(self.console, self.board.lines, self.board.agenda, self.board.clock)
        self.exit_port = ExitPort(self.power)
        self.reset_control = ResetControl(self.power)
        self.bus = Bus([self.uart, self.exit_port, self.reset_control] + self.board.ports, self.board.memory)
        self.loader = Loader(self.ram, self.vcpu, acpi.RSDP)
        self.emulator = Emulator(self.vcpu, self.ram, self.bus)
        self.task_switch = TaskSwitch(self.emulator, self.ram)

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
        if boot.number(spec.VMM['FLAGS']) & spec.FLAG_HOST_TSC == 0:
            self.tsc_offset = r_uint(0) - now
        self.paravirtual.set_clock(tsc_khz, now + self.tsc_offset, unix)
        self.processors = boot.number(spec.VMM['VCPUS'])
        self.cpuid.set_host(vendor, tsc_khz)
        self.cpuid.set_processors(self.processors)
        self.emulator.set_physical_bits(self.cpuid.physical_bits())
        self.board.start(tsc_khz, now, self.ram.size, unix)

    def write_firmware(self):
        """The guest is loaded: what a PC's firmware leaves in memory and in the local APIC."""
        acpi.write(self.ram, self.processors)
        apic.set_as_firmware()

    def reset_devices(self):
        self.board.lines.clear()
        self.uart.clear()
        self.reset_control.clear()
        self.paravirtual.clear()
        self.board.clear()
