"""The PC around the processor: its chips, wired together."""
from hypervisor.vmm.device import pic as pics
from hypervisor.vmm.device.agenda import Agenda
from hypervisor.vmm.device.apic import LocalApic
from hypervisor.vmm.device.clock import Clock
from hypervisor.vmm.device.ioapic import Ioapic
from hypervisor.vmm.device.keyboard import Keyboard
from hypervisor.vmm.device.lines import Lines
from hypervisor.vmm.device.pci import Pci
from hypervisor.vmm.device.pic import ElcrPorts, Pic, PicPorts
from hypervisor.vmm.device.pins import Pins
from hypervisor.vmm.device.pit import Pit, PitPorts, SpeakerPort
from hypervisor.vmm.device.powermanagement import PowerManagement, PowerPorts
from hypervisor.vmm.device.pvpanic import PvPanic
from hypervisor.vmm.device.rtc import Rtc, RtcPorts


class Board(object):
    def __init__(self, power, vcpu):
        self.clock = Clock()
        self.agenda = Agenda()
        pins = Pins()
        self.pic = Pic(pins)
        self.ioapic = Ioapic(pins)
        self.lines = Lines(self.pic, self.ioapic)
        self.pit = Pit(self.agenda, self.clock, self.lines)
        self.rtc = Rtc(self.agenda, self.clock, self.lines)
        self.power_management = PowerManagement(self.agenda, self.clock, self.lines, power)
        self.keyboard = Keyboard(power, self.lines)
        self.pci = Pci()
        # What the bus sees. Port 0x61 lies between the keyboard's ports, so it comes before them.
        self.ports = [
            PicPorts(self.pic, self.pic.master, pics.MASTER_PORT), PicPorts(self.pic, self.pic.slave, pics.SLAVE_PORT),
            ElcrPorts(self.pic), PitPorts(self.pit), SpeakerPort(self.pit), RtcPorts(self.rtc), self.keyboard,
            PowerPorts(self.power_management), self.pci, PvPanic(power)]
        self.memory = [LocalApic(self.ioapic, vcpu), self.ioapic]

    def start(self, tsc_khz, now, ram_bytes, unix):
        """The VM is switched on at TSC `now`. unix: the time of day, in seconds."""
        self.clock.set_rate(tsc_khz)
        self.rtc.start(now, ram_bytes, unix)
        self.power_management.clear()

    def clear(self):
        """The VM is reset."""
        self.lines.clear()
        self.pic.clear()
        self.ioapic.clear()
        self.pit.clear()
        self.rtc.reset()
        self.power_management.clear()
        self.keyboard.clear()
        self.pci.clear()
