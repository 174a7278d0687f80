"""The VM's bus: which device answers at a port, and what answers where none does.

A narrow device has byte-wide registers: a wider access to it becomes several accesses to neighbouring ports, as on an ISA
bus. Ports and addresses beyond the RAM that nobody claims read as all ones and swallow what is written.
"""
from rpython.rlib.objectmodel import always_inline, dont_inline
from rpython.rlib.rarithmetic import r_uint

R0, R1 = r_uint(0), r_uint(1)
ONES = r_uint(-1)
PORT_MASK = 0xffff
GROUP_SHIFT, WORD_SHIFT = 3, 9  # eight ports have a bit, and so 512 a word
DONE, BUSY = 0, 1               # write: BUSY means that nothing happened and the guest has to try again


def ones(size):
    """All ones in `size` bytes, 1 to 8."""
    return ONES >> (64 - 8 * size)


class Device(object):
    """What claims `ports` ports from `port` on."""

    def __init__(self, port, ports, narrow):
        self.port = port
        self.ports = ports
        self.narrow = narrow

    def read(self, offset, size):
        return ones(size)

    def write(self, offset, size, value):
        return DONE


class MemoryDevice(object):
    """What claims `size` bytes of guest-physical addresses from `base` on. base, size: r_uint."""

    def __init__(self, base, size):
        self.base = base
        self.size = size

    def read(self, offset, size):
        """offset: r_uint, the first byte lies inside. size: 1, 2, 4 or 8. Bits beyond `size` do not count."""
        return ones(size)

    def write(self, offset, size, value):
        pass


def claims(devices):
    """A bit for each group of ports: set when a device has one of them."""
    words = [R0] * ((PORT_MASK >> WORD_SHIFT) + 1)
    for device in devices:
        for port in range(device.port, device.port + device.ports):
            words[port >> WORD_SHIFT] |= R1 << (port >> GROUP_SHIFT & 63)
    return words


class Bus(object):
    """devices: where two claim a port, the first one has it. The very first is the one that is used most. They never change."""

    def __init__(self, devices, memory_devices):
        self.first = devices[0]
        self.others = devices[1:]
        self.claims = claims(self.others)       # nearly all ports are nobody's: they need no search
        self.memory_devices = memory_devices
        self.lowest = ONES                      # what they claim lies in [lowest, lowest + span)
        self.span = R0
        for device in memory_devices:
            if device.base < self.lowest:
                self.lowest = device.base
        for device in memory_devices:
            if device.base + device.size - self.lowest > self.span:
                self.span = device.base + device.size - self.lowest

    def memory_device(self, gpa):
        """Who claims this address, or None."""
        if gpa - self.lowest >= self.span:
            return None
        for device in self.memory_devices:
            if gpa - device.base < device.size:         # r_uint: an address below the base is far above the size
                return device
        return None

    def port_in(self, port, size):
        """size: 1, 2 or 4. Returns the value, zero-extended."""
        device = self._at(port)
        if device is not None and (size == 1 or not device.narrow):
            return device.read(port - device.port, size)
        if size == 1:
            return ones(1)
        return self._bytes_in(port, size)

    @dont_inline                        # or the common way above would keep registers for it
    def _bytes_in(self, port, size):
        value = r_uint(0)
        for n in range(size):
            value |= self._byte_in((port + n) & PORT_MASK) << (8 * n)
        return value

    def port_out(self, port, size, value):
        """Returns DONE or BUSY."""
        device = self._at(port)
        if size == 1:
            return DONE if device is None else device.write(port - device.port, 1, value & r_uint(0xff))
        if device is not None and not device.narrow:
            return device.write(port - device.port, size, value)
        return self._bytes_out(port, size, value)

    @dont_inline
    def _bytes_out(self, port, size, value):
        for n in range(size):
            if self._byte_out((port + n) & PORT_MASK, (value >> (8 * n)) & r_uint(0xff)) == BUSY:
                return BUSY     # only the UART is ever busy, and it has no narrow neighbour before it
        return DONE

    @always_inline
    def _at(self, port):
        """port: 0 to PORT_MASK."""
        device = self.first
        if device.port <= port and port < device.port + device.ports:
            return device
        if self.claims[port >> WORD_SHIFT] >> (port >> GROUP_SHIFT & 63) & R1 == R0:
            return None
        for device in self.others:
            if device.port <= port and port < device.port + device.ports:
                return device
        return None

    def _byte_in(self, port):
        device = self._at(port)
        if device is None or not device.narrow:
            return r_uint(0xff)
        return device.read(port - device.port, 1)

    def _byte_out(self, port, value):
        device = self._at(port)
        if device is None or not device.narrow:
            return DONE
        return device.write(port - device.port, 1, value)
