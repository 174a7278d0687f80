"""The shared console: many guests' output on one serial port, one keyboard for one of them at a time.

Output. Every line on the port begins with who speaks: `[name] ` for a guest, `bulkhead: ` for the manager. A guest's line is
kept until it is whole. What is not whole is shown all the same once it is full (terminal.LINE_BYTES), quiet for QUIET_MS, or its VM has ended;
from then on that line is *open*: its guest's bytes follow at once, as typing at a prompt needs. When somebody else has something to
say, an open line is ended first, and what its guest says next begins with its name again.

A guest cannot forge a prefix or touch what stands already. Only LF ends a line; within it a guest may move, overwrite and erase what it
has written there itself, and colour it: see terminal.py for what it obeys and why nothing else reaches the port. Once somebody else has
ended its open line, that part is out of reach as well. A line kept until it is whole is shown as its editing has left it, without the
steps. BEL passes when it is the focused guest's and its line is open, one in BELL_MS.
What this cannot help: a terminal that wraps long lines shows a guest's text at the left edge, and what is edited there is drawn at the
right edge only.

Input. What is typed goes to the focused VM; SWITCH_KEY moves the focus to the next running one, whose unfinished line, its prompt, is
shown again. Input waits (in the port, and so in the other end's buffers) while the guest does not read, but not for longer than
PATIENCE_MS: then it is dropped with a BEL, or the focus could never be moved away from a guest that does not read.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.hw.task import rdtsc
from hypervisor.lib import call, text
from hypervisor.manager.terminal import BEL, CR, LF, Terminal
from hypervisor.manager.vm import RUNNING
from hypervisor.spec import layout, status
from hypervisor.spec.vcpu import RING_BYTES

QUIET_MS = 100
BELL_MS = 500
PATIENCE_MS = 10000         # far longer than a guest that reads may be busy with other things
KEYS = 256                  # typed bytes that wait for one VM
SWITCH_KEY = 0x1d           # Ctrl-]
PREFIX_BYTES = 3            # of `[name] ` besides the name
NOBODY = -1
PAGE = r_uint(layout.TASK_PAGE)


class Line(object):
    """The line that one VM is writing, and the keys that it has not taken yet."""

    def __init__(self):
        self.terminal = Terminal()
        self.heard = r_uint(0)          # TSC after the last byte was handled: the time the port takes is not the guest's silence
        self.keys = [0] * KEYS
        self.key_count = 0
        self.taken = r_uint(0)          # TSC when the VM last took a key, or when the first one came to an empty queue

    def clear(self):
        self.terminal.clear()
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
        self.bell = r_uint(1)
        self.rung = r_uint(0)           # TSC at the last BEL of a guest

    def start(self, count, tsc_khz):
        """Serve the first `count` VMs."""
        self.count = count
        self.quiet = tsc_khz * r_uint(QUIET_MS)
        self.patience = tsc_khz * r_uint(PATIENCE_MS)
        self.bell = tsc_khz * r_uint(BELL_MS)
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
        self.heard(vm, count)
        return count

    def heard(self, vm, count):
        """`count` bytes of the VM were handled: show an unfinished line that is open, or has been quiet for long enough."""
        line = self.lines[vm.index]
        if count > 0:
            if self.open == vm.index:
                self.flush(vm)
            line.heard = rdtsc()
        elif self.open != vm.index and line.terminal.is_waiting() and rdtsc() - line.heard >= self.quiet:
            self.flush(vm)

    def hear(self, vm, byte):
        """One byte of a guest."""
        terminal = self.lines[vm.index].terminal
        terminal.resume()
        if byte == LF:
            terminal.end_sequence()
            self.finish(vm)
        elif byte == BEL:
            terminal.end_sequence()
            self.ring(vm)
        else:
            terminal.take(byte)
        if terminal.is_full():
            self.flush(vm)
            terminal.freeze()

    def ring(self, vm):
        if self.focus == vm.index and self.open == vm.index and rdtsc() - self.rung >= self.bell:
            self.rung = rdtsc()
            self.serial.put(BEL)

    def open_row(self, vm):
        """Have the VM's line on the port, as far as it was drawn."""
        if self.open != vm.index:
            self.close()
            self.name(vm)
            self.serial.put(ord(' '))
            self.open = vm.index

    def flush(self, vm):
        """Put what the VM's line holds on the port and leave the line open."""
        terminal = self.lines[vm.index].terminal
        self.open_row(vm)
        terminal.draw(self.serial, vm.name_length + PREFIX_BYTES)
        terminal.settle(self.serial, vm.name_length + PREFIX_BYTES)

    def finish(self, vm):
        """Put the VM's line on the port and end it."""
        terminal = self.lines[vm.index].terminal
        self.open_row(vm)
        terminal.draw(self.serial, vm.name_length + PREFIX_BYTES)
        self.close()
        terminal.clear_line()

    def close(self):
        """End the open line, whosever it is."""
        if self.open != NOBODY:
            self.lines[self.open].terminal.cut_off()
            self.open = NOBODY
            self.new_line()

    def finish_all(self, vm):
        """Show what is left of a VM that has ended."""
        terminal = self.lines[vm.index].terminal
        terminal.resume()
        terminal.end_sequence()
        if self.open == vm.index or terminal.is_waiting():
            self.finish(vm)
        self.lines[vm.index].clear()

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
        """Give the keyboard to the next running VM, if there is one, say so and show its prompt."""
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
        self.repeat(self.vms[self.focus])

    def repeat(self, vm):
        """Show all of the VM's unfinished line."""
        terminal = self.lines[vm.index].terminal
        if terminal.length > 0:
            terminal.repeat()
            self.flush(vm)

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
        self.taken(vm, intmask(call.value()), now)

    def taken(self, vm, taken, now):
        """The VM has taken that many of the keys that wait for it."""
        line = self.lines[vm.index]
        if taken <= 0 or taken > line.key_count:
            return
        line.taken = now
        line.key_count -= taken
        for n in range(line.key_count):
            line.keys[n] = line.keys[n + taken]


assert KEYS <= RING_BYTES
