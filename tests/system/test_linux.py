"""Two unmodified Debian kernels on one box, each with a shell that is typed at, on both emulators.

One boot for all of it: a boot takes a minute and a half on Bochs.
"""
import re

import pytest

from tests.system.box import Box, load
from tests.system.shells import BOX, PORT, STARBOARD, Clock, paste_much, print_much, shells

INTERRUPT, ERASE = '\x03', '\x7f'
SECONDS = {'qemu': 600, 'bochs': 1200}
ANSWER_SECONDS = {'qemu': 60, 'bochs': 300}
PRINTED = {'qemu': 32 << 10, 'bochs': 8 << 10}      # bytes; tests/matrix has a megabyte
PASTED = {'qemu': 24 << 10, 'bochs': 6 << 10}       # QEMU: more than all buffers hold; Bochs: less, its serial line has no flow control
LOOKS = {'qemu': 4, 'bochs': 2}
ROUNDS = {'qemu': 2, 'bochs': 1}
FORKS = 60              # more than the test's own commands make while the loop runs
COMPLAINTS = ('BUG|Oops|[Uu]nexpected|[Ss]purious|Call Trace|[Uu]nstable|[Ss]kew|soft lockup|rcu.*stall|clocksource.*(wrong|fail|mark)'
              '|APIC.*([Ee]rror|fail|broken)|ACPI.*([Ee]rror|Warning|Exception)|timer.*(broken|doesn.t)')


@pytest.fixture(scope='module', params=list(SECONDS))        # conftest.py keeps the tests of each boot together
def guests(request):
    with shells(request.param, SECONDS[request.param], ANSWER_SECONDS[request.param]) as both:
        yield both


def test_both_shells_answer(guests):
    for name in (PORT, STARBOARD, PORT):
        assert guests.say(name, 'hostname; echo $((6 * 7))').split() == [name, '42']


def test_the_kernels_complain_about_nothing(guests):
    for name in (PORT, STARBOARD):
        assert guests.say(name, "dmesg | grep -E '%s'" % COMPLAINTS) == ''
        assert guests.number(name, 'dmesg | wc -l') > 100               # there was something to look at


def test_keys_and_five_levels_are_in_use_where_the_processor_has_them(guests):
    """The kernel takes a flag away that it does not use."""
    for name in (PORT, STARBOARD):
        flags = guests.say(name, "grep -owE 'la57|pku|ospke' /proc/cpuinfo | sort -u").split()
        assert flags == (['la57', 'ospke', 'pku'] if guests.box.machine == 'qemu' else [])


def test_interrupts_are_counted(guests):
    count = "awk '/^ *%s:/ { print $2 }' /proc/interrupts"
    for name in (PORT, STARBOARD):
        before = guests.number(name, count % 'LOC')
        serial = guests.number(name, count % '4')
        guests.say(name, 'sleep 1')
        assert guests.number(name, count % 'LOC') > before > 0
        assert guests.number(name, count % '4') > serial > 0
        assert guests.number(name, "awk '/^ *(SPU|ERR|MIS):/ { n += $2 } END { print n }' /proc/interrupts") == 0


def test_sleep_5_takes_5_seconds_of_guest_time(guests):
    uptime = "cut -d ' ' -f 1 /proc/uptime"
    for name in (PORT, STARBOARD):
        before, after = guests.say(name, '%s; sleep 5; %s' % (uptime, uptime)).split()
        assert 5.0 <= float(after) - float(before) < 6.0


def test_a_line_can_be_edited_and_a_command_interrupted(guests):
    for name in (PORT, STARBOARD):
        assert guests.say(name, 'echo first lasz' + ERASE + 't') == 'first last'
        guests.turn_to(name)
        at = guests.box.mark()
        # It is the command itself that says that it runs: a shell that has yet to put it into the foreground waits for it, whatever is typed.
        guests.box.type('sh -c \'echo "sta""rted"; exec sleep 1000000\'\r')
        guests.after(at, r'^\[%s\] started' % name)
        at = guests.box.mark()
        guests.box.type(INTERRUPT)      # throws away what was typed ahead, so wait for the prompt
        guests.after(at, r'root@%s:/root# ' % name)
        assert guests.number(name, 'ps | grep -c "[s]leep 1000000"') == 0


def test_a_long_print_loses_nothing_while_the_other_guest_answers(guests):
    print_much(guests, PRINTED[guests.box.machine])


def test_a_long_paste_loses_nothing_while_its_reader_sleeps_and_the_other_guest_answers(guests):
    paste_much(guests, 'crtscts', 'sleep 3', PASTED[guests.box.machine])


def test_a_long_paste_without_flow_control_loses_nothing_when_it_is_read(guests):
    paste_much(guests, '-crtscts', 'true', PASTED[guests.box.machine])


def test_busy_guests_stay_responsive_and_their_clocks_go_right(guests):
    """dd, a loop in the shell and a loop of forks, in both at once."""
    work = ('(while :; do dd if=/dev/zero of=/dev/null bs=64k count=100 2>/dev/null; done) & (while :; do :; done) & '
            '(while :; do /bin/true; done) &')
    uptime, forks, running = "cut -d ' ' -f 1 /proc/uptime", "awk '/^processes/ { print $2 }' /proc/stat", 'jobs | grep -c Running'
    before = {}
    clocks = {name: Clock(guests, name) for name in (PORT, STARBOARD)}
    for name in (PORT, STARBOARD):
        before[name] = guests.number(name, forks)
        clocks[name].look(LOOKS[guests.box.machine])    # just before the work and just after it: an idle guest answers soon
    for name in (PORT, STARBOARD):
        guests.say(name, work + ' true')
    spent = {name: processor_times(guests, name) for name in (PORT, STARBOARD)}
    for name in (PORT, STARBOARD) * ROUNDS[guests.box.machine]:
        first, second = re.findall(r'\b\d+\.\d\d\b', guests.say(name, '%s; sleep 1; %s' % (uptime, uptime)))
        assert 1.0 <= float(second) - float(first) < 4.0
        assert guests.number(name, 'echo $((40 + 2))') == 42
    for name in (PORT, STARBOARD):
        had, stolen = [now - before for now, before in zip(processor_times(guests, name), spent[name])]
        assert .3 < stolen / (had + stolen) < .7, (name, had, stolen)
    for name in (PORT, STARBOARD):
        assert guests.number(name, running) == 3
        assert guests.number(name, forks) > before[name] + FORKS
    for name in (PORT, STARBOARD):
        guests.say(name, 'kill %1 %2 %3; wait')
    for name in (PORT, STARBOARD):
        clocks[name].look(LOOKS[guests.box.machine])
        clocks[name].check()
        assert guests.number(name, running) == 0
        assert guests.say(name, "dmesg | grep -E '%s'" % COMPLAINTS) == ''


def processor_times(guests, name):
    """What the guest has had of its processor for itself, and what it knows to be stolen, in hundredths of a second."""
    return [int(number) for number in guests.say(name, "awk '/^cpu / { print $2 + $3 + $4, $9 }' /proc/stat").split()]


def test_one_guests_panic_leaves_the_others_shell_working(guests):
    """The last one here: the box is over afterwards."""
    guests.turn_to(STARBOARD)
    guests.box.type('echo c > /proc/sysrq-trigger\r')
    guests.box.wait_for(r'^\[starboard\] .*Kernel panic')
    guests.box.wait_for(r'^bulkhead: \[starboard\] its operating system panicked')
    guests.focus = PORT
    guests.box.wait_for(r'^bulkhead: keyboard now goes to \[port\]\n(?s:.*)root@port:/root# ')
    assert guests.say(PORT, 'echo $((6 * 9))') == '54'
    guests.box.type('poweroff -f\r')
    result = guests.box.finish()
    assert result.status == 1, result
    assert {name: row.how for name, row in result.table.items()} == {PORT: 'powered off', STARBOARD: 'its operating system panicked'}


def test_without_a_keyboard_the_guests_check_themselves_and_power_off():
    check_unattended('qemu', BOX, 1)


def check_unattended(machine, box, processors):
    """tests/matrix does this on Bochs, where it takes minutes, and on several cores."""
    with Box(load(box).unattended(), machine, timeout=SECONDS[machine]) as box:
        result = box.finish()
    assert result.status == 0, result
    for name in (PORT, STARBOARD):
        said = result.text(name)
        assert '%s: Linux ' % name in said and 'check: passed' in said, result
        assert 'WRONG' not in said and 'check: processors: %d\n' % processors in said
        assert result.table[name].how == 'powered off'
