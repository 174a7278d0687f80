"""Interrupts through the whole VMM: from a device's time or a byte for the console to the vCPU's inputs, and back with INTA and EOI."""
from hypervisor.spec import call, cpu, ending, exit, vcpu
from tests.unit.vmm.box import Box, exits, out, run, then

KHZ = 1000000                   # of the TSC
MS = KHZ
IOAPIC, APIC = 0xfec00000, 0xfee00000
PC_PIC = [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0xa0, 0x11), (0xa1, 0x28), (0xa1, 2), (0xa1, 1), (0x21, 0), (0xa1, 0)]


def outs(pairs):
    return [out(port, value) for port, value in pairs]


def timer(box):
    """The deadline of VCPU_RUN has come."""
    box.now = max(box.now, box.deadline)
    return call.REASON_DEADLINE


def store(gpa, value):
    """MOV [gpa], EAX in flat 32-bit code that ran into the device's page."""
    def step(box):
        box.registers.update(RFLAGS=2, CR0=cpu.CR0_PE, RIP=0x9000, RAX=value)
        for name in ('ES', 'SS', 'DS', 'FS', 'GS'):
            box.registers[name + '_ATTRIBUTES'] = 0xc93
            box.registers[name + '_LIMIT'] = 0xffffffff
        box.registers['CS_ATTRIBUTES'], box.registers['CS_LIMIT'] = 0xc9b, 0xffffffff
        box.put_guest(0x9000, b'\xa3' + bytes(bytearray(gpa >> shift & 0xff for shift in (0, 8, 16, 24))))
        box.exit(exit.MEMORY, SELECTOR=gpa, FLAGS=exit.ACCESS_WRITE, RIP=0x9000)
    return step


def test_timer_of_the_pit_reaches_the_pin_and_the_vector_answers_inta():
    box, seen = Box(tsc_khz=KHZ), []
    box.script = outs(PC_PIC + [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)])         # 11932: 10 ms
    box.script += [then(lambda box: seen.append((box.extint, box.deadline - box.now)), timer),
                   then(lambda box: seen.append(box.extint), exits(exit.INTA)),
                   then(lambda box: seen.append((box.answer('ACTION'), box.answer('RESULT'), box.extint)), out(0x20, 0x20)), timer,
                   then(lambda box: seen.append(box.extint), out(0xf4, 0))]
    assert run(box) == (ending.EXITED, 0)
    assert not seen[0][0] and abs(seen[0][1] - 10 * MS) < MS // 10
    assert seen[1:] == [True, (vcpu.COMPLETE, 0x20, False), True]


def test_deadline_is_the_nearer_of_console_and_devices():
    for period, near in ((0x9c2e, False), (0x0400, True)):
        box, seen = Box(tsc_khz=KHZ), []
        box.script = [out(0x3f8, ord('.')), then(lambda box: seen.append(box.deadline), out(0x43, 0x34)), out(0x40, period & 0xff),
                      out(0x40, period >> 8), then(lambda box: seen.append(box.deadline), out(0xf4, 0))]
        run(box)
        assert seen[0] and (seen[1] < seen[0]) == near, 'the console wants to be flushed in 5 ms'


def test_input_for_the_console_raises_line_4():
    box, seen = Box(tsc_khz=KHZ), []

    def typed(box):
        box.input += b'k'
        box.signals |= 1 << call.SLOT_CONSOLE_IN
        return call.REASON_SIGNAL
    box.script = outs(PC_PIC + [(0x3fc, 0x0b), (0x3f9, 1)]) + [typed, then(lambda box: seen.append(box.extint), exits(exit.INTA)),
                                                               then(lambda box: seen.append(box.answer('RESULT')), out(0xf4, 0))]
    run(box)
    assert seen == [True, 0x24]


def test_ioapic_by_memory_accesses_and_a_level_that_comes_back_by_eoi():
    """The power-management timer's SCI as a level on input 9."""
    box, seen = Box(tsc_khz=KHZ), []
    box.script = [store(IOAPIC, 0x10 + 2 * 9), store(IOAPIC + 0x10, 0x49 | 1 << 15), out(0x602, 1, 2), timer,
                  then(lambda box: seen.append(list(box.messages)), exits(exit.EOI, SELECTOR=0x49)),
                  then(lambda box: seen.append((box.answer('ACTION'), list(box.messages))), out(0x600, 1, 2)), exits(exit.EOI, SELECTOR=0x49),
                  then(lambda box: seen.append(list(box.messages)), out(0xf4, 0))]
    assert run(box) == (ending.EXITED, 0)
    one = (call.INTERRUPT_LEVEL, 0x49)
    assert seen == [[one], (vcpu.RESUME, [one, one]), [one, one]]


def test_local_apics_page_by_memory_accesses():
    box = Box()
    box.ends = [1 + 0x49]
    box.script = [store(IOAPIC, 0x10 + 2 * 9), store(IOAPIC + 0x10, 0x49 | 1 << 15), store(APIC + 0xf0, 0x1ff), store(APIC + 0xb0, 0), out(0xf4, 0)]
    assert run(box) == (ending.EXITED, 0)
    # LINT0 and LINT1 are what firmware leaves: ExtINT, NMI.
    assert box.apic == {0x350: 0x700, 0x360: 0x400, 0xf0: 0x1ff, 0xb0: 0} and box.ends == []


def test_spurious_inta_is_answered():
    box, seen = Box(), []
    box.script = outs(PC_PIC) + [exits(exit.INTA), then(lambda box: seen.append((box.answer('ACTION'), box.answer('RESULT'))), out(0xf4, 0))]
    run(box)
    assert seen == [(vcpu.COMPLETE, 0x27)]


def test_reset_takes_the_pin_back_and_stops_all_timers():
    box, seen = Box(restarts=1, tsc_khz=KHZ), []
    box.script = outs(PC_PIC + [(0x43, 0x34), (0x40, 0), (0x40, 1)]) + [
        timer, then(lambda box: seen.append(box.extint), out(0xcf9, 6)), then(lambda box: seen.append((box.extint, box.deadline)), out(0xf4, 0))]
    assert run(box) == (ending.EXITED, 0)
    assert seen == [True, (False, 0)]
