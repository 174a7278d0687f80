"""Linux on several vCPUs: all come up, work, take interrupts, go off and on again. tests/matrix does this on Bochs, which takes minutes for it."""
from bulkhead.facts import ROOT
from tests.system.box import Box, load
from tests.system.shells import PORT, STARBOARD, Guests
from tests.system.test_linux import ANSWER_SECONDS, COMPLAINTS

SECONDS = {'qemu': 240, 'bochs': 1800}
# Bochs may keep the serial port's interrupt from the kernel for 2.5 ms, in which 29 bytes can come (docs/proven.md, "Known limits").
PAUSE = {'qemu': 0, 'bochs': 0.3}
VCPUS = {PORT: 2, STARBOARD: 4}
PLACES = {1: {PORT: [0], STARBOARD: [0]}, 2: {PORT: [0, 1], STARBOARD: [1, 0]}}
MOST = 16
WITHOUT_THE_SECOND = {2: '0', 4: '0,2-3', MOST: '0,2-15'}
ONE_GUEST = '''
[box]
memory = "384M"
cpus = 2

[[vm]]
name = "%s"
memory = "192M"
vcpus = %d
cpus = [0, 1]

[vm.boot]
kind = "linux"
image = "@debian/cloud/vmlinuz"
initrd = "@debian/initramfs"
command_line = "console=ttyS0 quiet cryptomgr.notests hostname=%s"
''' % (PORT, MOST, PORT)
# A processor that promises no even TSC is believed not to have one across several; the guest has KVM's clock instead.
UNSYNCHRONIZED = 'TSCs unsynchronized'


def two_guests(cores):
    """machines/two-linux.toml, with more vCPUs, on so many cores."""
    text = (ROOT / 'machines/two-linux.toml').read_text().replace('[box]\n', '[box]\ncpus = %d\n' % cores)
    for name, count in VCPUS.items():
        text = text.replace('name = "%s"\n' % name, 'name = "%s"\nvcpus = %d\ncpus = %s\n' % (name, count, PLACES[cores][name]))
    return load(text)


def check_guest(guests, name, count):
    """Raises AssertionError with what is wrong."""
    say, number = guests.say, guests.number
    assert number(name, 'nproc') == count
    taken = "awk '/^ *LOC:/ { for (n = 2; n <= %d; n++) print $n }' /proc/interrupts" % (count + 1)
    before = [int(word) for word in say(name, taken).split()]
    for n in range(count):
        assert number(name, 'taskset %x awk \'{ print $39 }\' /proc/self/stat' % (1 << n)) == n
    assert say(name, "dmesg | grep -c 'kvm-guest: setup PV IPIs'") == '1'
    # One loop each: all are busy at once, and the shell still answers.
    say(name, 'n=0; loops=; while [ $n -lt %d ]; do taskset $(printf %%x $((1 << n))) sh -c "while :; do :; done" & loops="$loops $!"; n=$((n + 1)); done' % count)
    say(name, 'sleep 2')
    used = "for job in $loops; do awk '{ print ($14 + $15 > 0), $39 }' /proc/$job/stat; done"
    assert say(name, used).split() == [word for n in range(count) for word in ('1', str(n))]
    say(name, 'kill $loops; wait')
    after = [int(word) for word in say(name, taken).split()]
    assert len(after) == count and all(now > then for now, then in zip(after, before)), (before, after)
    assert say(name, 'echo 0 > /sys/devices/system/cpu/cpu1/online; cat /sys/devices/system/cpu/online').split()[-1] == WITHOUT_THE_SECOND[count]
    assert number(name, 'nproc') == count - 1
    assert say(name, 'echo 1 > /sys/devices/system/cpu/cpu1/online; cat /sys/devices/system/cpu/online').split()[-1] == '0-%d' % (count - 1)
    assert number(name, 'taskset 2 awk \'{ print $39 }\' /proc/self/stat') == 1
    assert say(name, "dmesg | grep -E '%s' | grep -v '%s'" % (COMPLAINTS, UNSYNCHRONIZED)) == ''
    assert number(name, "awk '/^ *CAL:/ { for (n = 2; n <= %d; n++) sum += $n } END { print sum }' /proc/interrupts" % (count + 1)) > 0       # by PV IPI


def check_two_guests(machine, cores=1):
    with Box(two_guests(cores), machine, timeout=SECONDS[machine]) as box:
        for name in VCPUS:
            box.wait_for(r'^\[%s\] root@%s:/root# ' % (name, name))
        guests = Guests(box, 4 * ANSWER_SECONDS[machine], PAUSE[machine])
        for name, count in VCPUS.items():
            check_guest(guests, name, count)
        for name in VCPUS:
            guests.turn_to(name)
            box.type('poweroff -f\r')
            box.wait_for(r'^bulkhead: \[%s\] powered off' % name)
            guests.focus = STARBOARD
        result = box.finish()
    assert result.status == 0, result
    assert {name: row.how for name, row in result.table.items()} == dict.fromkeys(VCPUS, 'powered off')


def check_sixteen(machine):
    """Eight to a core: whoever holds a lock is often not the one that runs. It takes a minute and a half: tests/matrix calls it."""
    with Box(load(ONE_GUEST), machine, timeout=SECONDS[machine]) as box:
        box.wait_for(r'^\[%s\] root@%s:/root# ' % (PORT, PORT))
        check_guest(Guests(box, 4 * ANSWER_SECONDS[machine]), PORT, MOST)
        box.type('poweroff -f\r')
        result = box.finish()
    assert result.status == 0 and result.table[PORT].how == 'powered off', result


def test_two_guests_with_two_and_four_vcpus_each_on_both_cores():
    check_two_guests('qemu', 2)
