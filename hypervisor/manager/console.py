"""The shared console: many guests' output on one serial port, one keyboard for one of them at a time.

Output. Every line on the port begins with who speaks: `[name] ` for a guest, `bulkhead: ` for the manager. A guest's line is
kept until it is whole. What is not whole is shown all the same once it is full (LINE_BYTES), quiet for QUIET_MS, or its VM has ended;
from then on that line is *open*: its guest's bytes follow at once, as typing at a prompt needs. When somebody else has something to
say, an open line is ended first, and what its guest says next begins with its name again.

A guest cannot forge a prefix or touch what stands already: only LF ends a line; a CR right before it is dropped; TAB and the printable
ASCII characters are shown as they are; everything else, ESC and lone CRs included, as \\xNN (\\x1b), focused or not.
What this cannot help: a terminal that wraps long lines shows a guest's text at the left edge.

Input. What is typed goes to the focused VM; SWITCH_KEY moves the focus to the next running one. Input waits (in the port, and so in the
other end's buffers) while the guest does not read, but not for longer than PATIENCE_MS: then it is dropped with a BEL, or
the focus could never be moved away from a guest that does not read.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.hw.task import rdtsc
from hypervisor.lib import call, text
from hypervisor.manager.vm import RUNNING
from hypervisor.spec import layout, status
from hypervisor.spec.vcpu import RING_BYTES

LINE_BYTES = 1024
QUIET_MS = 100
PATIENCE_MS = 1000
KEYS = 256                  # typed bytes that wait for one VM
SWITCH_KEY = 0x1d           # Ctrl-]
BEL, TAB, LF, CR = 7, 9, 10, 13
NOBODY = -1
PAGE = r_uint(layout.TASK_PAGE)


class Line(object):
    """The output of one VM that is not on the port yet, and the keys that it has not taken yet."""

    def __init__(self):
        self.bytes = [0] * LINE_BYTES
        self.length = 0
        self.carriage_return = False    # a CR came last: what follows tells what it is
        self.heard = r_uint(0)          # TSC after the last byte was handled: the time the port takes is not the guest's silence
        self.keys = [0] * KEYS
        self.key_count = 0
        self.taken = r_uint(0)          # TSC when the VM last took a key, or when the first one came to an empty queue

    def clear(self):
        self.length = 0
        self.carriage_return = False
        self.key_count = 0


class Console(object):
    """`open`: index of the VM whose line is open on the port, or NOBODY. `focus`: index of the VM that gets the keys, or NOBODY."""

    def __init__(self, serial, vms):
        self.serial = serial
        self.vms = vms
        self.count = 0
        self.lines = [Line() for _ in vms]
        self.open = NOBODY
        self.focus = NOBODY
        self.quiet = r_uint(1)          # ticks
        self.patience = r_uint(1)

    def start(self, count, tsc_khz):
        """Serve the first `count` VMs."""
        self.count = count
        self.quiet = tsc_khz * r_uint(QUIET_MS)
        self.patience = tsc_khz * r_uint(PATIENCE_MS)
        self.open = NOBODY
        self.focus = NOBODY
        for line in self.lines:
            line.clear()

    # -- the manager's own lines

    def begin(self):
        """Start a line of the manager; the caller writes the rest to the serial port and calls end()."""
        self.close()
        text.write(self.serial, 'bulkhead: ')

    def end(self):
        self.new_line()

    def name(self, vm):
        text.write(self.serial, '[')
        self.bare_name(vm)
        text.write(self.serial, ']')

    def bare_name(self, vm):
        for n in range(vm.name_length):
            self.serial.put(vm.name[n])

    def new_line(self):
        self.serial.put(CR)
        self.serial.put(LF)

    # -- output of guests

    def receive(self, vm):
        """Take one load of bytes out of the VM's ring; show an unfinished line when there are none. Returns how many it were."""
        if call.ring_receive(vm.output) != status.OK:
            return 0
        count = intmask(call.value())
        if count < 0 or count > RING_BYTES:
            return 0
        for n in range(count):
            self.hear(vm, intmask(memory.load8(PAGE + r_uint(n))))
        line = self.lines[vm.index]
        if count > 0:
            line.heard = rdtsc()
        elif line.length > 0 and rdtsc() - line.heard >= self.quiet:
            self.flush(vm)
        return count

    def hear(self, vm, byte):
        """One byte of a guest."""
        line = self.lines[vm.index]
        if byte == LF:
            line.carriage_return = False
            self.finish(vm)
            return
        if line.carriage_return:
            self.add(vm, CR)
        line.carriage_return = byte == CR
        if byte != CR:
            self.add(vm, byte)

    def add(self, vm, byte):
        line = self.lines[vm.index]
        if self.open == vm.index:
            self.show(byte)
            return
        line.bytes[line.length] = byte
        line.length += 1
        if line.length == LINE_BYTES:
            self.flush(vm)

    def flush(self, vm):
        """Put what the VM's line holds on the port and leave the line open."""
        line = self.lines[vm.index]
        if self.open != vm.index:
            self.close()
            self.name(vm)
            self.serial.put(ord(' '))
            self.open = vm.index
        for n in range(line.length):
            self.show(line.bytes[n])
        line.length = 0

    def finish(self, vm):
        """Put the VM's line on the port and end it."""
        self.flush(vm)
        self.close()

    def close(self):
        """End the open line, whosever it is."""
        if self.open != NOBODY:
            self.open = NOBODY
            self.new_line()

    def show(self, byte):
        if ord(' ') <= byte <= ord('~') or byte == TAB:
            self.serial.put(byte)
        else:
            text.write(self.serial, '\\x')
            text.hex_digit(self.serial, byte >> 4)
            text.hex_digit(self.serial, byte)

    def finish_all(self, vm):
        """Show what is left of a VM that has ended."""
        line = self.lines[vm.index]
        if line.carriage_return:
            self.add(vm, CR)
        if line.length > 0:
            self.flush(vm)
        if self.open == vm.index:
            self.close()
        line.clear()

    def leave(self, vm):
        """Give the keyboard to somebody else if this VM had it."""
        if self.focus == vm.index:
            self.focus_next()

    # -- the keyboard

    def focus_first(self):
        """Give the keyboard to the first running VM, silently: at start."""
        for n in range(self.count):
            if self.vms[n].state == RUNNING:
                self.focus = n
                return

    def focus_next(self):
        """Give the keyboard to the next running VM, if there is one, and say so."""
        now_at = self.focus
        self.focus = NOBODY
        for step in range(1, self.count + 1):
            n = (now_at + step) % self.count
            if self.vms[n].state == RUNNING:
                self.focus = n
                break
        if self.focus == NOBODY:
            return
        self.begin()
        text.write(self.serial, 'keyboard now goes to ')
        self.name(self.vms[self.focus])
        self.end()

    def type(self, now):
        """Hand on the keys that have come in."""
        while self.accepts(now):
            byte = self.serial.next()
            if byte < 0:
                return
            if byte == SWITCH_KEY:
                self.focus_next()
            else:
                self.press(byte, now)

    def accepts(self, now):
        """Whether the next key can be handled now; it cannot while the focused VM may still take the ones before it."""
        if self.focus == NOBODY:
            return True
        line = self.lines[self.focus]
        return line.key_count < KEYS or now - line.taken >= self.patience

    def press(self, byte, now):
        if self.focus == NOBODY:
            return
        line = self.lines[self.focus]
        if line.key_count == KEYS:
            self.serial.put(BEL)
            return
        if line.key_count == 0:
            line.taken = now
        line.keys[line.key_count] = byte
        line.key_count += 1

    def send_keys(self, vm, now):
        """Offer the VM the keys that wait for it."""
        line = self.lines[vm.index]
        if line.key_count == 0:
            return
        for n in range(line.key_count):
            memory.store8(PAGE + r_uint(n), r_uint(line.keys[n]))
        if call.ring_send(vm.input, line.key_count) != status.OK:
            return
        taken = intmask(call.value())
        if taken <= 0 or taken > line.key_count:
            return
        line.taken = now
        line.key_count -= taken
        for n in range(line.key_count):
            line.keys[n] = line.keys[n + taken]


assert KEYS <= RING_BYTES
