"""A keyboard controller (8042) with nothing plugged in.

It answers its own commands, so that no driver waits for ever, and says "timeout" for whatever is meant for a keyboard or a mouse.
There is no A20 gate and no second port.
Source: IBM PC/AT Technical Reference, "Keyboard Controller"; Intel UPI-41/42 data sheet, "Status Register".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.vmm.bus import DONE, Device
from hypervisor.vmm.device import lines as board

PORT, PORTS = 0x60, 5
DATA, COMMAND = 0, 4
NOTHING = 0xff

STATUS_FULL, STATUS_SELF_TESTED, STATUS_COMMAND, STATUS_UNLOCKED, STATUS_TIMEOUT = 0x01, 0x04, 0x08, 0x10, 0x40
READ_BYTE, WRITE_BYTE, SELF_TEST, TEST_KEYBOARD, DISABLE, ENABLE = 0x20, 0x60, 0xaa, 0xab, 0xad, 0xae
READ_INPUT, READ_OUTPUT, WRITE_OUTPUT, ECHO, WRITE_MOUSE = 0xc0, 0xd0, 0xd1, 0xd2, 0xd4
PULSE_RESET = 0xfe
SELF_TEST_PASSED, NO_ERROR, OUTPUT_PORT = 0x55, 0x00, 0x03   # output port: A20 open, no reset
RESEND = 0xfe                   # what the controller puts for a device that does not answer

CONTROL_INTERRUPT, CONTROL_SYSTEM, CONTROL_DISABLED, CONTROL_NO_MOUSE = 0x01, 0x04, 0x10, 0x20
AT_RESET = CONTROL_SYSTEM | CONTROL_DISABLED | CONTROL_NO_MOUSE
NO_ARGUMENT = -1


class Keyboard(Device):
    def __init__(self, power, lines):
        Device.__init__(self, PORT, PORTS, True)
        self.power = power
        self.lines = lines
        self.clear()

    def clear(self):
        self.control = AT_RESET         # the command byte
        self.output = 0
        self.status = STATUS_SELF_TESTED | STATUS_UNLOCKED
        self.argument_of = NO_ARGUMENT  # the command whose argument comes next

    def read(self, offset, size):
        if offset == COMMAND:
            return r_uint(self.status)
        if offset != DATA:
            return r_uint(NOTHING)
        self.status &= ~(STATUS_FULL | STATUS_TIMEOUT)
        self._update()
        return r_uint(self.output)

    def write(self, offset, size, value):
        byte = intmask(value) & 0xff
        if offset == COMMAND:
            self.status |= STATUS_COMMAND
            self._command(byte)
        elif offset == DATA:
            self.status &= ~STATUS_COMMAND
            self._data(byte)
        return DONE

    def _update(self):
        self.lines.set(board.KEYBOARD, self.control & CONTROL_INTERRUPT != 0 and self.status & STATUS_FULL != 0)

    def _put(self, byte, status=0):
        self.output = byte
        self.status |= STATUS_FULL | status
        self._update()

    def _command(self, byte):
        self.argument_of = NO_ARGUMENT
        if byte == READ_BYTE:
            self._put(self.control)
        elif byte == WRITE_BYTE or WRITE_OUTPUT <= byte and byte <= WRITE_MOUSE:
            self.argument_of = byte
        elif byte == SELF_TEST:
            self.control = AT_RESET
            self._put(SELF_TEST_PASSED)
        elif byte == TEST_KEYBOARD:
            self._put(NO_ERROR)         # of the controller's own wires
        elif byte == DISABLE:
            self.control |= CONTROL_DISABLED
        elif byte == ENABLE:
            self.control &= ~CONTROL_DISABLED
        elif byte == READ_INPUT:
            self._put(NO_ERROR)
        elif byte == READ_OUTPUT:
            self._put(OUTPUT_PORT)
        elif byte == PULSE_RESET:
            self.power.reset()

    def _data(self, byte):
        command = self.argument_of
        self.argument_of = NO_ARGUMENT
        if command == WRITE_BYTE:
            self.control = byte
            self._update()
        elif command == ECHO:
            self._put(byte)
        elif command == NO_ARGUMENT:
            self._put(RESEND, STATUS_TIMEOUT)           # for the keyboard, which is not there
