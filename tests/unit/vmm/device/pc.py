"""A board on its own: what the guest's instructions reach, the lines that devices set, and the time."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import call
from hypervisor.vmm.bus import Bus
from hypervisor.vmm.device import rtc
from hypervisor.vmm.device.board import Board
from hypervisor.vmm.power import Power
from hypervisor.vmm.vcpu import Vcpu
from tests.unit.vmm.box import MIB, Box

HZ = 10 ** 9                    # of the TSC: reading it costs a tick, which is nothing here
MS, US = HZ // 1000, HZ // 1000000


class Pc(object):
    def __init__(self, ram=32 * MIB):
        self.box = Box(tsc_khz=HZ // 1000)
        self.power = Power()
        self.board = Board(self.power, Vcpu())
        self.bus = Bus(self.board.ports, self.board.memory)
        self.board.start(r_uint(HZ // 1000), self.board.clock.now(), r_uint(ram), r_uint(rtc.START_UNIX))
        self.start = self.box.now
        self.edges = []             # (line, time) at which a line went up
        self.watch()

    def watch(self):
        set_line = self.board.lines.set

        def both(line, active):
            if active and not self.board.lines.active[line]:
                self.edges.append((line, self.box.now))
            set_line(line, active)
        self.board.lines.set = both

    # What the guest does.
    def put(self, port, value, size=1):
        self.bus.port_out(port, size, r_uint(value))

    def get(self, port, size=1):
        return int(self.bus.port_in(port, size))

    def store(self, gpa, value, size=4):
        device = self.bus.memory_device(r_uint(gpa))
        device.write(r_uint(gpa) - device.base, size, r_uint(value))

    def load(self, gpa, size=4):
        device = self.bus.memory_device(r_uint(gpa))
        return int(device.read(r_uint(gpa) - device.base, size)) & (1 << 8 * size) - 1

    def line(self, n, active=True):
        self.board.lines.set(n, active)

    def take_messages(self):
        """What has reached the local APIC since the last time: (kind, vector)."""
        messages = list(self.box.messages)
        del self.box.messages[:]
        return messages

    # Time passes; the VMM's loop serves what is due, at its moment.
    def let_pass(self, ticks):
        agenda = self.board.agenda
        end = self.box.now + ticks
        while agenda.nearest and int(agenda.nearest) <= end:
            self.box.now = max(self.box.now, int(agenda.nearest))
            before = int(agenda.nearest)
            agenda.tick(r_uint(self.box.now))
            assert not agenda.nearest or int(agenda.nearest) > before, 'the agenda does not move on'
        self.box.now = max(self.box.now, end)

    def times(self, line):
        return [at for which, at in self.edges if which == line]


FIXED, LEVEL, NMI = call.INTERRUPT_FIXED, call.INTERRUPT_LEVEL, call.INTERRUPT_NMI
