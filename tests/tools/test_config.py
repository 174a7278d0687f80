"""machine.toml: each mistake is named with its line, its key and what to write; all at once; never a traceback."""
import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from bulkhead import check, facts
from bulkhead.mistake import Mistakes

GOOD = '''\
[box]
memory = "64M"

[[vm]]
name = "one"
memory = "16M"
[vm.boot]
kind = "multiboot"
image = "guest"
'''


def multiboot(flags=0x10000, load=0x100000, load_end=0, bss_end=0, entry=None, size=100):
    """A Multiboot 1 image with addresses, as bytes."""
    head = struct.pack('<III', 0x1badb002, flags, -(0x1badb002 + flags) & 0xffffffff)
    return (head + struct.pack('<IIIII', load, load, load_end, bss_end, load if entry is None else entry)).ljust(size, b'\0')


def elf(*segments, entry=0x100000, machine=3, header=True):
    """A 32-bit ELF image with segments (address, bytes in memory) and a multiboot header without addresses."""
    data = bytearray(b'\x7fELF\x01\x01\x01'.ljust(16, b'\0'))
    data += struct.pack('<HHIIIIIHHHHHH', 2, machine, 1, entry, 52, 0, 0, 52, 32, len(segments), 0, 0, 0)
    for address, size in segments:
        data += struct.pack('<IIIIIIII', 1, 0, address, address, 0, size, 7, 4096)
    if header:
        data += struct.pack('<III', 0x1badb002, 3, -(0x1badb002 + 3) & 0xffffffff)
    return bytes(data)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'guest').write_bytes(multiboot())
    (tmp_path / 'sector').write_bytes(bytes(510) + b'\x55\xaa')
    return tmp_path


def mistakes_in(text, folder):
    try:
        check.load_text(text, folder / 'box.toml')
    except Mistakes as mistakes:
        return mistakes.mistakes
    return []


def only_mistake(text, folder):
    found = mistakes_in(text, folder)
    assert len(found) == 1, found
    return found[0]


def test_good_file_gives_what_it_says(folder):
    text = GOOD + 'command_line = "a=1 b"\nmodules = [{ image = "sector", command_line = "m" }]\n'
    machine = check.load_text(text.replace('memory = "64M"', 'memory = "128M"\ncpus = 3').replace('memory = "16M"', 'memory = "16M"\nvcpus = 4\ncpus = [2, 0, 1]\nentitlement = 0.25\ncap = 0.5\nweight = 7\nrestarts = 3\ntime_limit = "2s"\nexit_port = true\nhost_tsc = true'), folder / 'box.toml')
    vm, = machine.vms
    assert (machine.name, machine.memory, machine.cpus) == ('box', 128 << 20, 3)
    assert (vm.name, vm.memory, vm.vcpus, vm.cpus, vm.restarts, vm.time_limit, vm.exit_port, vm.host_tsc, vm.vmm) == ('one', 16 << 20, 4, (2, 0, 1), 3, 2000, True, True, facts.VMM)
    assert (vm.entitlement, vm.cap, vm.weight) == (25, 50, 7) and vm.places() == [2, 0, 1, 2]
    assert (vm.boot.kind, vm.boot.image, vm.boot.command_line) == ('multiboot', folder / 'guest', 'a=1 b')
    assert vm.boot.modules == ((folder / 'sector', 'm'),)


BOTH = GOOD[GOOD.index('memory = "64M"'):GOOD.index('\n[vm.boot]')]         # the box's memory to the VM's

# What is changed in GOOD, and the one mistake that has to come: line, key, a part of the sentence, a part of what to write.
ONE_MISTAKE = [
    ('memory = "64M"', 'memory = "63M"', 2, 'box.memory', 'no multiple of 2M', '"62M" or "64M"'),
    ('memory = "64M"', 'memory = 67108864', 2, 'box.memory', 'written as text', '"64M"'),
    ('memory = "64M"', 'memory = "64 apples"', 2, 'box.memory', 'is no size', 'units: K, M, G'),
    ('memory = "64M"', 'memory = "0M"', 2, 'box.memory', 'no multiple', '"2M"'),
    ('memory = "64M"', 'cpus = 1', 1, 'box.memory', 'is missing', 'memory = '),
    ('memory = "64M"', 'memory = "64M"\ncpus = 9', 3, 'box.cpus', '9 are more processors than a box may have', 'at most 8'),
    ('memory = "64M"', 'memory = "64M"\ncpus = 0', 3, 'box.cpus', 'number of processors', 'from 1 to 8'),
    ('memory = "16M"', 'memory = "16M"\ncpus = [1]', 7, 'vm "one", cpus', 'processor 1 is not there: the box has 1', 'cpus = 2 in [box]'),
    ('memory = "16M"', 'memory = "16M"\ncpus = []', 7, 'vm "one", cpus', 'names no processor', 'cpus = [0]'),
    ('memory = "16M"', 'memory = "16M"\ncpus = [0, 1]', 7, 'vm "one", cpus', 'names 2 processors, and the VM has 1 virtual one:', 'vcpus = 2, or cpus = [0]'),
    ('memory = "16M"', 'memory = "16M"\nvcpus = 4\ncpus = [0, 1, 2, 3, 4]', 8, 'vm "one", cpus', 'names 5 processors, and the VM has 4 virtual ones', 'cpus = [0, 1, 2, 3]'),
    ('memory = "16M"', 'memory = "16M"\nvcpus = 3\ncpus = [1, 0, 1]', 8, 'vm "one", cpus', 'names processor 1 more than once', 'cpus = [1, 0]'),
    ('memory = "16M"', 'memory = "16M"\nvcpus = 2\ncpus = [0, 1]', 8, 'vm "one", cpus', 'processor 1 is not there: the box has 1', 'cpus = 2 in [box], or smaller numbers'),
    ('memory = "16M"', 'memory = "16M"\nvcpus = 4\ncpus = [0, 7, 3]', 8, 'vm "one", cpus', 'processors 3, 7 are not there: the box has 1', 'cpus = 8 in [box], or'),
    ('memory = "16M"', 'memory = "16M"\ncpus = [8]', 7, 'vm "one", cpus', 'processor 8 is not there', 'a smaller number here'),
    ('memory = "16M"', 'memory = "16M"\ncpus = [0, 1, 2, 3, 4, 5, 6, 7, 8]', 7, 'vm "one", cpus', 'names 9 processors: a box has at most 8', 'once'),
    ('memory = "16M"', 'memory = "16M"\ncpus = [[0], 1]', 7, 'vm "one", cpus', 'list of the processors', '[1], or [0, 1]'),
    (BOTH, BOTH.replace('\n', '\ncpus = 2\n', 1) + '\nvcpus = 17\ncpus = [0, 1]', 8, 'vm "one", vcpus', '17 are more than a VM may have', 'at most 16'),
    (BOTH, BOTH.replace('\n', '\ncpus = 2\n', 1) + '\nvcpu = 2\ncpus = [0, 1]', 8, 'vm "one", vcpu', 'no key', 'vcpus (did you mean that?)'),
    ('memory = "64M"', 'memory = "64M"\ncpus = 9\n[[vm]]\nname = "two"\nmemory = "2M"\ncpus = [5]\nboot = { kind = "flat", image = "sector" }', 3, 'box.cpus', '9 are more processors', 'at most 8'),
    ('memory = "16M"', 'memory = "16M"\ncpus = [true]', 7, 'vm "one", cpus', 'list of the processors', '[1]'),
    ('memory = "16M"', 'memory = "16M"\ncpus = [-1]', 7, 'vm "one", cpus', 'list of the processors', '[1]'),
    ('memory = "64M"', 'memory = "64M"\nname = "A B"', 3, 'box.name', "' ', 'A', 'B'", '"a-b"'),
    ('memory = "64M"', 'memory = "18M"', 2, 'box.memory', 'too little', 'or more'),
    ('memory = "64M"', 'memori = "64M"', 2, 'box.memori', 'no key that is known', 'memory (did you mean'),
    ('[box]\nmemory = "64M"\n', '', 1, 'box', 'is missing', '[box]'),
    ('[box]\nmemory = "64M"', 'box = 3', 1, 'box', 'is a table', '[box]'),
    ('"one"', '""', 5, 'vm 1, name', 'is empty', 'a-z'),
    ('"one"', '"%s"' % ('x' * 32), 5, 'vm 1, name', '32 bytes long', 'at most 31'),
    ('"one"', '"caf\u00e9"', 5, 'vm 1, name', "'\u00e9'", '"caf"'),
    ('"one"', '"a\\u0000"', 5, 'vm 1, name', "'\\x00'", '"a"'),
    ('"one"', '7', 5, 'vm 1, name', 'is text', '"left"'),
    ('name = "one"\n', '', 4, 'vm 1, name', 'is missing', 'name = '),
    ('memory = "16M"', 'memory = "4G"', 6, 'vm "one", memory', 'more than a VM may have', '"3G"'),
    ('memory = "16M"', 'memory = "-2M"', 6, 'vm "one", memory', 'is no size', ''),
    ('memory = "64M"', 'memory = "64M"\ncpus = true', 3, 'box.cpus', 'number of processors', 'from 1 to 8'),
    ('memory = "64M"', 'memory = "64M"\nvcpus = 2', 3, 'box.vcpus', 'no key', 'cpus, or vcpus in [[vm]]'),
    ('memory = "16M"', 'memory = "16M"\nvcpus = 0', 7, 'vm "one", vcpus', 'number of virtual processors', 'from 1 to 16'),
    ('memory = "16M"', 'memory = "16M"\nvcpus = -1', 7, 'vm "one", vcpus', 'number of virtual processors', 'from 1 to 16'),
    ('memory = "16M"', 'memory = "16M"\nvcpus = true', 7, 'vm "one", vcpus', 'number of virtual processors', 'from 1 to 16'),
    ('memory = "16M"', 'memory = "16M"\nvcpus = "2"', 7, 'vm "one", vcpus', 'number of virtual processors', 'from 1 to 16'),
    ('memory = "16M"', 'memory = "16M"\nvcpus = 17', 7, 'vm "one", vcpus', '17 are more than a VM may have', 'at most 16'),
    ('memory = "16M"', 'memory = "16M"\nentitlement = 0', 7, 'vm "one", entitlement', '0 is not the part', 'from 0.01 to 1.00'),
    ('memory = "16M"', 'memory = "16M"\nentitlement = -0.5', 7, 'vm "one", entitlement', '-0.5 is not the part', 'from 0.01 to 1.00'),
    ('memory = "16M"', 'memory = "16M"\nentitlement = 0.255', 7, 'vm "one", entitlement', '0.255 is not the part', 'two decimals'),
    ('memory = "16M"', 'memory = "16M"\nentitlement = 25', 7, 'vm "one", entitlement', '25 is not the part', 'from 0.01 to 1.00'),
    ('memory = "16M"', 'memory = "16M"\nentitlement = true', 7, 'vm "one", entitlement', 'in processors', 'entitlement = 0.25'),
    ('memory = "16M"', 'memory = "16M"\nentitlement = "25%"', 7, 'vm "one", entitlement', 'in processors', 'entitlement = 0.25'),
    ('memory = "16M"', 'memory = "16M"\nentitlement = inf', 7, 'vm "one", entitlement', 'in processors', 'entitlement = 0.25'),
    ('memory = "16M"', 'memory = "16M"\nentitlement = nan', 7, 'vm "one", entitlement', 'in processors', 'entitlement = 0.25'),
    ('memory = "16M"', 'memory = "16M"\nentitlement = 1', 7, 'vm "one", entitlement', 'processor 0 are promised 1.00 of it together, and the manager 0.05: there is 1.00', 'entitlement = 0.95 or less'),
    ('memory = "16M"', 'memory = "16M"\nentitlement = 0.5\ncap = 0.3', 8, 'vm "one", cap', '0.30 are less than the 0.50', 'cap = 0.50 or more'),
    ('memory = "16M"', 'memory = "16M"\ncap = 1.5', 7, 'vm "one", cap', '1.5 is not the part', 'from 0.01 to 1.00'),
    ('memory = "16M"', 'memory = "16M"\ncapped = true', 7, 'vm "one", capped', 'no key', 'cap (did you mean that?)'),
    ('memory = "16M"', 'memory = "16M"\nweight = 0', 7, 'vm "one", weight', 'what nobody is promised', 'from 1 to 10000'),
    ('memory = "16M"', 'memory = "16M"\nweight = 1.5', 7, 'vm "one", weight', 'what nobody is promised', 'from 1 to 10000'),
    ('memory = "16M"', 'memory = "16M"\nweight = 10001', 7, 'vm "one", weight', 'what nobody is promised', 'from 1 to 10000'),
    ('memory = "64M"', 'memory = "64M"\nweight = 3', 3, 'box.weight', 'no key', 'weight in [[vm]]'),
    ('memory = "16M"', 'memory = "16M"\ncpus = 2', 7, 'vm "one", cpus', 'list of the processors', 'cpus = [2] for processor 2, or vcpus = 2'),
    ('memory = "16M"', 'memory = "16M"\nrestarts = -1', 7, 'vm "one", restarts', 'how often', 'from 0'),
    ('memory = "16M"', 'memory = "16M"\ntime_limit = 5', 7, 'vm "one", time_limit', 'no time', '"500ms"'),
    ('memory = "16M"', 'memory = "16M"\ntime_limit = "0s"', 7, 'vm "one", time_limit', 'no time', '"500ms"'),
    ('memory = "16M"', 'memory = "16M"\nexit_port = 1', 7, 'vm "one", exit_port', 'true or false', 'exit_port = true'),
    ('memory = "16M"', 'memory = "16M"\nvmm = "nix"', 7, 'vm "one", vmm', "no file 'nix'", ''),
    ('memory = "16M"', 'memory = "16M"\nvmm = "guest"', 7, 'vm "one", vmm', 'no Bulkhead program', 'NAME.bin'),
    ('memory = "16M"', 'memory = "16M"\nload = 3', 7, 'vm "one", load', 'no key', 'load in [vm.boot]'),
    ('memory = "16M"', 'memory = "16M"\nvolume = 3', 7, 'vm "one", volume', 'no key', 'one of name, memory'),
    ('[[vm]]', '[vm]', 4, 'vm', 'list of VMs', '[[vm]]'),
    ('"multiboot"', '"multiboat"', 8, 'vm "one", boot.kind', 'no kind of image', '"linux", "multiboot", "pvh" or "flat"'),
    ('kind = "multiboot"', '', 7, 'vm "one", boot.kind', 'is missing', 'kind ='),
    ('"guest"', '"gast"', 9, 'vm "one", boot.image', "no file 'gast'", '"guest" (did you mean'),
    ('"guest"', '"."', 9, 'vm "one", boot.image', 'is a folder', 'a file'),
    ('"guest"', '""', 9, 'vm "one", boot.image', 'is no path', ''),
    ('"guest"', '"@guests/no-such-guest-anywhere"', 9, 'vm "one", boot.image', 'no file', '`make` builds'),
    ('"guest"', '"guest"\nvmm = "x"', 10, 'vm "one", boot.vmm', 'no key', 'vmm in [[vm]]'),
    ('"guest"', '"guest"\nload = 0x7c00', 10, 'vm "one", boot.load', 'for flat images', 'no load'),
    ('"guest"', '"guest"\ncommand_line = "%s"' % ('x' * 1025), 10, 'vm "one", boot.command_line', '1025 bytes', '1024'),
    ('"guest"', '"guest"\ncommand_line = "a\\nb"', 10, 'vm "one", boot.command_line', 'control character', 'one line'),
    ('"guest"', '"guest"\nmodules = 3', 10, 'vm "one", boot.modules', 'is a list', 'modules = [{'),
    ('"guest"', '"guest"\nmodules = ["guest"]', 10, 'vm "one", boot.modules 1', 'is a table', 'modules = [{'),
    ('"guest"', '"guest"\nmodules = [\n{}]', 11, 'vm "one", boot.modules 1.image', 'is missing', 'image ='),
    ('"guest"', '"guest"\nmodules = [%s]' % ', '.join(['{image="guest"}'] * 5), 10, 'vm "one", boot.modules 5', 'one module too many', '4'),
    ('"guest"', '"sector"', 9, 'vm "one", boot.image', 'boot sector', 'kind = "flat"'),
    ('"multiboot"\nimage = "guest"', '"flat"\nimage = "sector"\nload = 0x10000', 10, 'vm "one", boot.load', 'below 64 KiB', '0x7c00'),
    ('"multiboot"\nimage = "guest"', '"flat"\nimage = "sector"\nload = "7c00"', 10, 'vm "one", boot.load', 'is a number', '0x7c00'),
    ('"multiboot"\nimage = "guest"', '"flat"\nimage = "sector"\nmodules = [{image="guest"}]', 10, 'vm "one", boot.modules', 'flat', 'kind = '),
    (GOOD, GOOD + '[[vm]]\nname = "one"\nmemory = "2M"\nboot = {kind="flat", image="sector"}', 11, 'vm "one", name', 'line 5', 'another'),
    (GOOD, GOOD + '[[vm]]\n', 10, 'vm 2, boot', 'is missing', 'vm.boot'),
    (GOOD, GOOD + 'image = "guest"\n', 10, '', 'no TOML here, column', ''),
    (GOOD, GOOD + 'x = "\n', 10, '', 'no TOML here', ''),
    (GOOD, GOOD + 'a = [', 10, '', 'no TOML here', ''),
]


@pytest.mark.parametrize('old, new, line, key, what, write', ONE_MISTAKE, ids=lambda value: None)
def test_mistake_names_line_key_and_remedy(folder, old, new, line, key, what, write):
    assert old in GOOD
    found = [m for m in mistakes_in(GOOD.replace(old, new, 1), folder) if (m.line, m.key) == (line, key)]
    assert len(found) == 1, mistakes_in(GOOD.replace(old, new, 1), folder)
    assert what in found[0].what and write in found[0].write


@pytest.mark.parametrize('old, new', [(case[0], case[1]) for case in ONE_MISTAKE if case[1] != GOOD + '[[vm]]\n'], ids=lambda value: None)
def test_one_mistake_is_told_once(folder, old, new):
    """No mistake drags others along (an empty [[vm]] has three: name, memory, boot)."""
    only_mistake(GOOD.replace(old, new, 1), folder)


def test_no_box_is_asked_for_more_processors_than_a_box_may_have(folder):
    assert only_mistake(GOOD.replace('memory = "16M"', 'memory = "16M"\ncpus = [8]'), folder).write == 'a smaller number here'


def test_all_mistakes_come_at_once_in_order_of_lines(folder):
    text = GOOD.replace('64M', '63M').replace('"one"', '"One"').replace('"multiboot"', '"x"').replace('"guest"', '"gone"')
    assert [mistake.line for mistake in mistakes_in(text, folder)] == [2, 5, 8, 9]


def test_too_many_vms_and_modules_are_told(folder):
    vms = ''.join('[[vm]]\nname = "v%d"\nmemory = "2M"\n[vm.boot]\nkind = "multiboot"\nimage = "guest"\nmodules = [%s]\n'
                  % (n, ', '.join(['{image="guest"}'] * 4)) for n in range(9))
    found = mistakes_in('[box]\nmemory = "64M"\n' + vms, folder)
    assert any(m.line == 59 and 'one VM too many' in m.what for m in found), found
    assert any('needs 48 boot modules' in m.what for m in found), found


def with_vcpus(*counts):
    return '[box]\nmemory = "64M"\n' + ''.join(
        '[[vm]]\nname = "v%d"\nmemory = "2M"\nboot = { kind = "flat", image = "sector" }\nvcpus = %d\n' % pair for pair in enumerate(counts))


def test_vcpus_of_a_box_are_bounded_and_told_where_they_become_too_many(folder):
    assert mistakes_in(with_vcpus(16, 8, 4, 4), folder) == []
    for counts, n, together in (((16, 8, 4, 5), 3, 33), ((16, 8, 4, 4, 2, 4), 4, 34)):
        mistake = only_mistake(with_vcpus(*counts), folder)
        assert (mistake.line, mistake.key) == (7 + 5 * n, 'vm "v%d", vcpus' % n)
        assert 'have %d virtual processors together' % together in mistake.what and 'at most 32 in a box' in mistake.write


def with_entitlements(*entitlements):
    return '[box]\nmemory = "64M"\n' + ''.join(
        '[[vm]]\nname = "v%d"\nmemory = "2M"\nboot = { kind = "flat", image = "sector" }\nentitlement = %s\n' % pair for pair in enumerate(entitlements))


def test_a_core_is_not_promised_twice_and_the_sum_is_told(folder):
    assert mistakes_in(with_entitlements(0.5, 0.25, 0.2), folder) == []
    assert mistakes_in(with_entitlements(*[0.11] * 8), folder) == []        # 0.88, though no binary fraction
    for entitlements, n, together, write in ((('0.5', '0.25', '0.25'), 2, '1.00', 'entitlement = 0.20 or less'),
                                             (('0.6', '0.6', '0.6'), 1, '1.20', 'entitlement = 0.35 or less'),
                                             (('0.95', '0.01'), 1, '0.96', 'less for the VMs before it')):
        mistake = only_mistake(with_entitlements(*entitlements), folder)
        assert (mistake.line, mistake.key) == (7 + 5 * n, 'vm "v%d", entitlement' % n)
        assert 'processor 0 are promised %s of it together, and the manager 0.05: there is 1.00' % together in mistake.what and write in mistake.write
    spread = with_entitlements('0.5', '0.6', '0.4').replace('memory = "64M"', 'memory = "128M"\ncpus = 3')
    places = {0: '[0, 1]', 1: '[1, 2]', 2: '[2, 1]'}
    for n, place in places.items():
        spread = spread.replace('name = "v%d"' % n, 'name = "v%d"\nvcpus = 2\ncpus = %s' % (n, place))
    first, second = mistakes_in(spread, folder)
    assert first.key == 'vm "v1", entitlement' and 'on processor 1 are promised 1.10 of it' in first.what and '0.45 or less' in first.write
    assert second.key == 'vm "v2", entitlement' and 'on processor 2 are promised 1.00 of it' in second.what and '0.35 or less' in second.write
    assert only_mistake(spread.replace('0.4', '0.35'), folder).key == 'vm "v1", entitlement'
    assert mistakes_in(spread.replace('0.6', '0.1').replace('0.4', '0.35'), folder) == []
    crowded = with_entitlements('0.6', '0.5', '0.4').replace('memory = "64M"', 'memory = "128M"\ncpus = 2').replace('name = "v0"', 'name = "v0"\ncpus = [1]')
    crowded = crowded.replace('name = "v2"', 'name = "v2"\nvcpus = 2\ncpus = [1, 0]').replace('0.5', '0.56')
    mistake = only_mistake(crowded, folder)
    assert 'on processor 1 are promised 1.00 of it' in mistake.what and '0.35 or less' in mistake.write, 'it fits both then'
    both = with_entitlements('0.6', '0.6').replace('memory = "64M"', 'memory = "64M"\ncpus = 2')
    assert len(mistakes_in(both, folder)) == 1
    assert mistakes_in(both.replace('name = "v1"', 'name = "v1"\ncpus = [1]'), folder) == []


def test_strings_of_one_vm_have_to_fit_its_boot_page(folder):
    long = 'x' * 1000
    text = GOOD + 'command_line = "%s"\nmodules = [%s]\n' % (long, ', '.join(['{image="guest", command_line="%s"}' % long] * 3))
    assert 'take 4008 bytes together' in only_mistake(text, folder).what
    fits = GOOD + 'command_line = "%s"\nmodules = [%s]\n' % (long, ', '.join(['{image="guest", command_line="%s"}' % long] * 2))
    assert mistakes_in(fits, folder) == []


IMAGES = [
    (b'', 'is empty'),
    (bytes(9000), 'no multiboot image'),
    (bytes(8192) + multiboot(), 'no multiboot image'),
    (struct.pack('<QI', 0, 0xe85250d6) .ljust(64, b'\0'), 'multiboot2 header but no Multiboot 1'),
    (b'\x7fELF'.ljust(200, b'\0'), 'ELF file, but no Multiboot 1 header'),
    (bytes(0x202) + b'HdrS' + bytes(100), 'Linux kernel'),
    (multiboot(flags=0x10004), 'not offered (flags 0x4)'),
    (multiboot(load=0xff0000, size=0x11000), "leaves the VM's memory of 16M"),
    (multiboot(bss_end=0x2000000), "leaves the VM's memory"),
    (multiboot(load_end=0x200000), 'more than the file holds'),
    (multiboot(entry=0), 'entry point 0x0'),
    (multiboot(load=0x9fff0), 'overlaps 0xa0000 to 0xfffff'),
    (multiboot()[:31], 'cut off'),
    (multiboot(flags=3), 'no ELF file'),
    (elf((0x100000, 4096), (0x100800, 4096)), 'segment 2 (0x100800 to 0x101800) overlaps its segment 1'),
    (elf((0x100000, 16 << 20)), "leaves the VM's memory"),
    (elf((0x100000, 4096), entry=5), 'entry point 0x5'),
    (elf((0x100000, 4096), machine=40), 'little-endian'),
    (elf((0x100000, 0)), 'nothing to load'),
    (elf(), 'program headers are missing'),
]


@pytest.mark.parametrize('data, what', IMAGES, ids=[what for _, what in IMAGES])
def test_image_that_cannot_be_booted_is_told(folder, data, what):
    (folder / 'guest').write_bytes(data)
    mistake = only_mistake(GOOD, folder)
    assert (mistake.line, mistake.key) == (9, 'vm "one", boot.image') and what in mistake.what


@pytest.mark.parametrize('data', [multiboot(), elf((0x100000, 4096), (0x101000, 64)), multiboot(load_end=0x100040, bss_end=0x300000)])
def test_image_that_can_be_booted_is_accepted(folder, data):
    (folder / 'guest').write_bytes(data)
    assert mistakes_in(GOOD, folder) == []


def test_image_that_fills_the_memory_exactly_is_accepted(folder):
    (folder / 'guest').write_bytes(multiboot(bss_end=16 << 20))
    assert mistakes_in(GOOD, folder) == []
    (folder / 'guest').write_bytes(multiboot(bss_end=(16 << 20) + 1))
    assert len(mistakes_in(GOOD, folder)) == 1


def test_memory_above_the_hole_is_not_one_stretch(folder):
    vms = ''.join('[[vm]]\nname = "v%d"\nmemory = "1536M"\nboot = { kind = "multiboot", image = "guest" }\n' % n for n in range(3))
    assert 'no stretch of 1536M' in only_mistake('[box]\nmemory = "5G"\n' + vms, folder).what
    assert mistakes_in('[box]\nmemory = "8G"\n' + vms, folder) == []


@pytest.mark.parametrize('write, what', [
    (lambda path: None, 'no such file'),
    (lambda path: path.mkdir(), 'is a folder'),
    (lambda path: path.write_bytes(b'a = 1\nb = "\xff"'), 'not UTF-8'),
    (lambda path: path.write_bytes(b'#' * (1 << 20) + b'x'), 'larger than 1M'),
    (lambda path: path.write_bytes(b''), 'is missing'),
    (lambda path: path.write_bytes(b'a=' + b'[' * 50000), 'too deeply'),
])
def test_file_that_is_none_is_told(tmp_path, write, what):
    path = tmp_path / 'box.toml'
    write(path)
    with pytest.raises(Mistakes) as caught:
        check.load(path)
    assert what in str(caught.value)


def test_example_boxes_have_no_mistakes():
    boxes = sorted((facts.ROOT / 'machines').glob('*.toml'))
    assert boxes
    for path in boxes:
        check.load(path)


WORDS = st.sampled_from(['box', 'vm', 'boot', 'name', 'memory', 'cpus', 'vcpus', 'modules', 'image', 'kind', 'load', 'x', 'vmm', 'restarts', 'entitlement', 'cap', 'weight'])
VALUES = st.recursive(
    st.none() | st.integers(-5, 5) | st.sampled_from([10 ** 18, -10 ** 400, 10 ** 400, 10 ** 4299]) | st.floats(allow_nan=False) | st.booleans() | st.sampled_from(['16M', 'guest', 'a', '', 'flat', '..', '@']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12)


def written(value):
    if isinstance(value, dict):
        return '{%s}' % ', '.join('%s = %s' % (key, written(each)) for key, each in value.items())
    if isinstance(value, list):
        return '[%s]' % ', '.join(written(each) for each in value)
    if value is None:
        return '1979-05-27'
    return '"%s"' % value if isinstance(value, str) else str(value).lower() if not isinstance(value, float) else '%e' % value


@pytest.mark.parametrize('text, line, key, what', [
    ('[box]\ncpus = 0x%s' % ('f' * 5000), 2, 'box.cpus', 'is a number that does not fit into 64 bits'),
    ('[[vm]]\nname = "a"\nvcpus = %d' % (1 << 63), 3, 'vm "a", vcpus', 'is a number that does not fit into 64 bits'),
    ('[box]\ncpus = %s' % ('1' * 5000), 0, '', 'holds a number of thousands of digits: this is no machine.toml'),
])
def test_numbers_that_nobody_could_count_to(text, line, key, what):
    assert [(mistake.line, mistake.key, mistake.what) for mistake in mistakes_in(text, Path('/nowhere'))] == [(line, key, what)]


@settings(max_examples=300)
@given(st.dictionaries(WORDS, VALUES, max_size=5))
@example({'vm': {'boot': {'modules': [1, [], {}]}}})
@example({'box': {'memory': '16M'}, 'vm': [{'name': 'a', 'memory': '2M', 'boot': {'kind': ['flat'], 'image': '@'}}]})
@example({'vm': [[]]})
@example({'vm': {'entitlement': 1.8e306}})
@example({'vm': {'cap': 10 ** 400}})
def test_no_table_leads_to_a_traceback(table):
    text = '\n'.join('%s = %s' % (key, written(value)) for key, value in table.items())
    for mistake in mistakes_in(text, Path('/nowhere')):
        assert mistake.line >= 1 and mistake.what and '\n' not in mistake.what


@settings(max_examples=200)
@given(st.binary(max_size=200).map(lambda tail: multiboot()[:32] + tail) | st.binary(max_size=300) |
       st.tuples(st.integers(0, 150), st.binary(min_size=1, max_size=8)).map(
           lambda edit: elf((0x100000, 4096), (0x200000, 64))[:edit[0]] + edit[1] + elf((0x100000, 4096), (0x200000, 64))[edit[0]:]))
def test_no_image_leads_to_a_traceback(data):
    from bulkhead import image
    try:
        image.check_ranges(image.multiboot_ranges(data), 16 << 20)
    except image.Unbootable as error:
        assert error.what


UNATTENDED = GOOD + 'command_line = "quiet"\nunattended = "%s"\n'


def test_unattended_words_join_the_command_line_only_when_nobody_is_there(folder):
    machine = check.load_text(UNATTENDED % 'check now', folder / 'box.toml')
    assert machine.vms[0].boot.command_line == 'quiet'
    assert machine.unattended().vms[0].boot.command_line == 'quiet check now'
    assert machine.unattended().unattended() == machine.unattended()


def test_unattended_words_must_fit_the_command_line(folder):
    most = 1024 - len('quiet ')
    assert mistakes_in(UNATTENDED % ('x' * most), folder) == []
    mistake = only_mistake(UNATTENDED % ('x' * (most + 1)), folder)
    assert mistake.key.endswith('unattended') and '1025 bytes' in mistake.what


def test_memory_is_counted_for_processors_with_virtual_ones_only(folder):
    """A processor with nothing but a VM's second virtual one needs a kernel there as well, and none of the VM's memory."""
    def needed(cpus):
        text = GOOD.replace('memory = "64M"', 'memory = "2M"\ncpus = 8').replace('memory = "16M"', 'memory = "16M"\nvcpus = 4\ncpus = %s' % cpus)
        return int(only_mistake(text, folder).what.rsplit(' need ', 1)[1].split('M')[0])
    kernel = needed([0, 1]) - needed([0])
    assert 10 < kernel < 30
    assert abs(needed([0, 1, 2]) - needed([0]) - 2 * kernel) <= 1 and abs(needed([0, 7]) - needed([0, 1])) == 0
    assert needed([1, 0]) == needed([1]), 'the first has one anyway'
    assert needed([1]) > needed([0, 1]), 'and where the VM is at home is its program'
