"""The parser of the configuration blob: every way in which a blob can be wrong has its sentence, and none does harm."""
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.manager import config
from hypervisor.manager.config import Config
from hypervisor.manager.frames import Modules
from hypervisor.manager.vm import Vm
from hypervisor.spec.config import HEADER, MAX_VMS, MOST_PROMISED, MOST_VCPUS, MOST_VCPUS_TOGETHER, VM
from hypervisor.spec.core import MOST as MOST_CORES
from tests.unit.fake_kernel import StrictMemory, quick
from tests.unit.manager import blob

BASE = 0x80000000
FREE_FRAMES = (1 << 30) // 4096


@pytest.fixture(autouse=True, scope='module')
def quickly():
    with quick():
        yield


def check(data, module_bytes=(1, None, 9, 9, 9, 9, 9, 9), free=FREE_FRAMES):
    """Parse `data` in memory where exactly its pages exist. Returns (code, Config)."""
    memory.fake = StrictMemory()
    if data:
        memory.fake.map(BASE, len(data))
        memory.fake.write(BASE, data)
    modules = Modules()
    modules.count = len(module_bytes)
    for n, size in enumerate(module_bytes):
        modules.bytes[n] = len(data) if size is None else size
    parser = Config([Vm(n) for n in range(MAX_VMS)])
    return parser.read(r_uint(BASE), modules, free), parser


def code(data, **options):
    return check(data, **options)[0]


def name_of(vm):
    return ''.join(chr(byte) for byte in vm.name[:vm.name_length])


TWO = [blob.vm('alpha', command_line='a b c', modules=[(5, 'initrd')]), blob.vm('beta', image=4, ram=2 << 20)]
GOOD = blob.make(TWO)


def test_a_good_blob_gives_what_it_says():
    answer, parser = check(GOOD)
    alpha, beta = parser.vms[0], parser.vms[1]
    assert (answer, parser.count, parser.culprit) == (config.OK, 2, -1)
    assert (name_of(alpha), alpha.ram_frames, alpha.vmm_module, alpha.image_module, alpha.modules[0]) == ('alpha', 1024, 2, 3, 5)
    assert (name_of(beta), beta.ram_frames, beta.vmm_module, beta.image_module, beta.module_count) == ('beta', 512, 2, 4, 0)
    assert [chr(parser.string_byte(alpha.command_line, n)) for n in range(5)] == list('a b c')
    assert parser.string_byte(alpha.command_line, 5) == 0


def test_no_string_reads_as_an_empty_one():
    answer, parser = check(blob.make([blob.vm('a', command_line=0)]))
    assert answer == config.OK and parser.string_byte(parser.vms[0].command_line, 0) == 0


@pytest.mark.parametrize('data, expected', [
    ('', config.TOO_SHORT), (GOOD[:23], config.TOO_SHORT), ('\0' * len(GOOD), config.BAD_MAGIC),
    (blob.make(TWO, magic='BLKDCONG'), config.BAD_MAGIC), (blob.make(TWO, version=1), config.BAD_VERSION),
    (GOOD + '\0', config.BAD_LENGTH), (GOOD[:-1], config.BAD_LENGTH), (GOOD[:24], config.BAD_LENGTH),
    (GOOD[:-3] + 'x' + GOOD[-2:], config.BAD_CRC), (blob.make([]), config.NO_VM),
    (blob.make([blob.vm('v%d' % n) for n in range(9)]), config.TOO_MANY_VMS),
    (blob.seal(GOOD[:20] + struct.pack('<I', 3) + GOOD[24:]), config.NO_ROOM_FOR_RECORDS),
    (blob.seal(GOOD[:20] + struct.pack('<I', 0xffffffff) + GOOD[24:]), config.TOO_MANY_VMS),
    (GOOD.ljust((1 << 20) + 1, 'x'), config.TOO_LONG),
], ids=lambda value: repr(value) if isinstance(value, int) else 'blob')
def test_a_damaged_frame_of_the_blob_is_refused(data, expected):
    assert code(data) == expected


def one(**changes):
    vm = blob.vm('alpha', modules=changes.pop('modules', ()))
    vm.update(changes)
    return blob.make([vm])


def several(*vcpus):
    """VMs with so many vCPUs."""
    return blob.make([blob.vm('v%d' % n, image=3 + n, vcpus=count) for n, count in enumerate(vcpus)])


def on_cores(*pairs):
    return blob.make([blob.vm('v%d' % n, image=3 + n, entitlement=each, core=core) for n, (each, core) in enumerate(pairs)])


def over_cores(*pairs):
    """VMs with four vCPUs each, on several cores."""
    return blob.make([blob.vm('v%d' % n, image=3 + n, vcpus=4, entitlement=each, cores=cores) for n, (each, cores) in enumerate(pairs)])


def promised(*entitlements):
    return blob.make([blob.vm('v%d' % n, image=3 + n, entitlement=each) for n, each in enumerate(entitlements)])


@pytest.mark.parametrize('data, expected', [
    (one(name=''), config.NAME_EMPTY), (one(name='Alpha'), config.NAME_BYTE), (one(name='a b'), config.NAME_BYTE),
    (one(name='a]\n'), config.NAME_BYTE), (one(name='\xe4'), config.NAME_BYTE), (one(name='a' * 32), config.NAME_END),
    (one(name='ab\0c'), config.NAME_END), (one(name='a' * 31), config.OK), (one(name='a-_9'), config.OK),
    (blob.make([blob.vm('same'), blob.vm('other', image=4), blob.vm('same', image=5)]), config.NAME_TWICE),
    (one(ram=0), config.RAM_NONE), (one(ram=(2 << 20) + 4096), config.RAM_UNALIGNED), (one(ram=1), config.RAM_UNALIGNED),
    (one(ram=(3 << 30) + (2 << 20)), config.RAM_MOST_EXCEEDED), (one(ram=1 << 63), config.RAM_MOST_EXCEEDED),
    (one(ram=(1 << 64) - (2 << 20)), config.RAM_MOST_EXCEEDED), (one(ram=(1 << 30) + (2 << 20)), config.RAM_TOO_MUCH),
    (one(ram=1 << 30), config.OK),
    (one(vcpus=0), config.NO_VCPU), (one(vcpus=16), config.OK), (one(vcpus=17), config.TOO_MANY_VCPUS), (one(vcpus=1 << 32), config.TOO_MANY_VCPUS),
    (one(vcpus=1 << 63), config.TOO_MANY_VCPUS), (one(vcpus=(1 << 64) - 1), config.TOO_MANY_VCPUS),
    (one(core=7), config.OK), (one(core=8), config.NO_SUCH_CORE), (one(word=(1 << 64) - 1), config.NO_SUCH_CORE),
    (one(vcpus=4, cores=[7, 0, 3]), config.OK), (one(vcpus=4, word=0x8000), config.NO_SUCH_CORE), (one(vcpus=4, word=0x0f07), config.NO_SUCH_CORE),
    (one(vcpus=3, word=0x1012), config.CORE_WITHOUT_VCPU), (one(vcpus=1, word=0x10), config.CORE_WITHOUT_VCPU),
    (one(vcpus=4, word=0x10000), config.CORE_WITHOUT_VCPU), (one(vcpus=4, word=1 << 63), config.CORE_WITHOUT_VCPU),
    (one(vcpus=15, word=1 << 60), config.CORE_WITHOUT_VCPU), (one(vcpus=16, word=1 << 60), config.OK), (one(vcpus=16, word=8 << 60), config.NO_SUCH_CORE),
    (one(vcpus=16, cores=[7, 0]), config.OK), (one(vcpus=0, word=1), config.NO_VCPU), (one(vcpus=1 << 63, word=0), config.TOO_MANY_VCPUS),
    (several(16, 8, 5, 3), config.OK), (several(16, 8, 5, 4), config.TOO_MANY_VCPUS_TOGETHER), (several(16, 8, 5, 3, 1), config.TOO_MANY_VCPUS_TOGETHER),
    (one(entitlement=0), config.ENTITLEMENT_RANGE), (one(entitlement=101), config.ENTITLEMENT_RANGE), (one(entitlement=95), config.OK),
    (one(entitlement=0xffffffff), config.ENTITLEMENT_RANGE), (one(entitlement=1 << 31), config.ENTITLEMENT_RANGE),
    (one(cap=1), config.OK), (one(cap=100), config.OK), (one(cap=101), config.CAP_RANGE), (one(cap=0xffffffff), config.CAP_RANGE),
    (one(entitlement=25, cap=24), config.CAP_RANGE), (one(entitlement=25, cap=25), config.OK),
    (one(weight=0), config.WEIGHT_RANGE), (one(weight=10000), config.OK), (one(weight=10001), config.WEIGHT_RANGE),
    (one(weight=1 << 32), config.WEIGHT_RANGE), (one(weight=(1 << 64) - 1), config.WEIGHT_RANGE),
    (on_cores((60, 0), (60, 1), (35, 0)), config.OK), (on_cores((60, 1), (35, 0), (36, 1)), config.PROMISED_TOO_MUCH),
    (over_cores((60, [0, 1]), (35, [1, 0])), config.OK), (over_cores((60, [0, 1]), (35, [2, 1]), (36, [0, 2])), config.PROMISED_TOO_MUCH),
    (over_cores((60, [0, 1]), (36, [2, 1])), config.PROMISED_TOO_MUCH), (over_cores((95, [0, 1, 0, 1])), config.OK),
    (promised(50, 45), config.OK), (promised(50, 46), config.PROMISED_TOO_MUCH), (promised(100), config.PROMISED_TOO_MUCH),
    (promised(60, 34, 1), config.OK), (promised(60, 34, 1, 1), config.PROMISED_TOO_MUCH), (promised(100, 100, 100), config.PROMISED_TOO_MUCH),
    (one(vmm=0), config.VMM_NO_MODULE), (one(vmm=1), config.VMM_NO_MODULE), (one(vmm=8), config.VMM_NO_MODULE),
    (one(vmm=0xffffffff), config.VMM_NO_MODULE), (one(image=1), config.IMAGE_NO_MODULE), (one(image=8), config.IMAGE_NO_MODULE),
    (one(image=24), config.IMAGE_NO_MODULE), (one(image=1 << 31), config.IMAGE_NO_MODULE),
    (one(modules=[(4, ''), (8, '')]), config.GUEST_NO_MODULE), (one(modules=[(0, '')]), config.GUEST_NO_MODULE),
    (one(image=2), config.PROGRAM_AS_IMAGE), (one(modules=[(2, '')]), config.PROGRAM_AS_IMAGE),
    (blob.make([blob.vm('a', image=3), blob.vm('b', vmm=3, image=4)]), config.PROGRAM_AS_IMAGE),
    (blob.make([blob.vm('a', image=3), blob.vm('b', image=3)]), config.MODULE_TWICE),
    (one(modules=[(4, ''), (4, '')]), config.MODULE_TWICE), (one(modules=[(3, '')]), config.MODULE_TWICE),
    (blob.make([blob.vm('a', modules=[(5, '')]), blob.vm('b', image=5)]), config.MODULE_TWICE),
    (one(count=5), config.TOO_MANY_MODULES), (one(count=0xffffffff), config.TOO_MANY_MODULES),
    (one(kind=0), config.IMAGE_KIND_UNKNOWN), (one(kind=3), config.OK), (one(kind=4), config.OK), (one(kind=5), config.IMAGE_KIND_UNKNOWN), (one(flags=2), config.OK), (one(flags=4), config.FLAG_UNKNOWN),
    (one(flags=0x80000001), config.FLAG_UNKNOWN), (one(flags=1), config.OK), (one(time_limit=1), config.OK),
    (one(kind=blob.FLAT, load=4 << 20), config.LOAD_OUTSIDE), (one(kind=blob.FLAT, load=1 << 63), config.LOAD_OUTSIDE),
    (one(kind=blob.FLAT, load=(4 << 20) - 1), config.OK), (one(kind=blob.MULTIBOOT, load=1 << 63), config.OK),
    (one(command_line=1), config.STRING_OUTSIDE), (one(command_line=159), config.STRING_OUTSIDE),
    (one(command_line=100000), config.STRING_OUTSIDE), (one(command_line=0xffffffff), config.STRING_OUTSIDE),
    (one(command_line='x' * 1024), config.OK), (one(command_line='x' * 1025), config.STRING_ENDLESS),
    (one(modules=[(4, 30)]), config.STRING_OUTSIDE),
    (one(modules=[(4, 'x' * 1024), (5, 'y' * 1024), (6, 'z' * 1014)], command_line=''), config.OK),
    (one(modules=[(4, 'x' * 1024), (5, 'y' * 1024), (6, 'z' * 1015)], command_line=''), config.STRINGS_TOO_LONG),
], ids=lambda value: repr(value) if isinstance(value, int) else 'blob')
def test_a_record_that_breaks_a_rule_is_refused_with_its_sentence(data, expected):
    answer, parser = check(data)
    names = dict((number, name) for number, name, _ in config.TABLE)
    assert names[answer] == names[expected]
    assert (answer == config.OK) == (parser.culprit == -1)


def test_each_vcpu_has_its_core_and_the_first_ones_is_home():
    answer, parser = check(blob.make([blob.vm('a', vcpus=4, cores=[2, 7, 0]), blob.vm('b', image=4, vcpus=2)]))
    a, b = parser.vms[:2]
    assert answer == config.OK and [a.core_of(n) for n in range(4)] == [2, 7, 0, 2] and (a.core, b.core) == (2, 0)
    assert [core for core in range(8) if a.is_on(core)] == [0, 2, 7] and [core for core in range(8) if b.is_on(core)] == [0]
    assert a.missing(r_uint(0x85)) == -1 and a.missing(r_uint(0x05)) == 7 and a.missing(r_uint(0)) == 2 and a.missing(r_uint(1 << 63 | 0x84)) == 0


def test_promises_are_counted_anew_for_each_blob_and_the_last_vm_is_the_culprit():
    answer, parser = check(promised(40, 40, 40))
    assert (answer, parser.culprit) == (config.PROMISED_TOO_MUCH, 2)
    modules = Modules()
    modules.count = 8
    data = promised(40, 55)
    modules.bytes[:8] = [1, len(data)] + [9] * 6
    memory.fake = StrictMemory()
    memory.fake.map(BASE, len(data))
    memory.fake.write(BASE, data)
    assert parser.read(r_uint(BASE), modules, FREE_FRAMES) == config.OK
    assert [vm.entitlement for vm in parser.vms[:2]] == [40, 55]


def test_vcpus_are_counted_anew_for_each_blob_and_the_last_vm_is_the_culprit():
    answer, parser = check(several(8, 8, 8, 9))
    assert (answer, parser.culprit) == (config.TOO_MANY_VCPUS_TOGETHER, 3)
    modules = Modules()
    modules.count = 8
    data = several(4, 4, 3)
    modules.bytes[:8] = [1, len(data)] + [9] * 6
    memory.fake = StrictMemory()
    memory.fake.map(BASE, len(data))
    memory.fake.write(BASE, data)
    for _ in range(2):
        assert parser.read(r_uint(BASE), modules, FREE_FRAMES) == config.OK
    assert [vm.vcpus for vm in parser.vms[:3]] == [4, 4, 3]


def test_a_string_without_an_end_is_refused():
    data = one(command_line='abc')
    shorter = data[:-1]
    assert code(blob.seal(shorter[:12] + struct.pack('<I', len(shorter)) + shorter[16:])) == config.STRING_ENDLESS


def test_a_module_without_bytes_is_refused():
    sizes = [1, None, 9, 0]
    assert code(one(), module_bytes=sizes) == config.MODULE_EMPTY
    assert code(one(vmm=3, image=2), module_bytes=sizes) == config.MODULE_EMPTY


def test_a_program_may_serve_several_vms():
    assert code(blob.make([blob.vm('a', vmm=2, image=3), blob.vm('b', vmm=2, image=4)])) == config.OK


def test_every_code_has_its_own_sentence():
    sentences = [sentence for _, _, sentence in config.TABLE]
    codes = [number for number, _, _ in config.TABLE]
    assert len(set(sentences)) == len(set(codes)) == len(config.TABLE)
    for number, _, sentence in config.TABLE:
        assert config.SENTENCES[number] == sentence


def test_every_sentence_but_the_callers_is_provoked_here():
    """NO_BLOB and NOT_MAPPED are main.py's; tests/unit/manager/test_run.py provokes them."""
    provoked = set()
    for function in (test_a_damaged_frame_of_the_blob_is_refused, test_a_record_that_breaks_a_rule_is_refused_with_its_sentence):
        for mark in function.pytestmark:
            provoked.update(expected for _, expected in mark.args[1])
    provoked.update([config.STRING_ENDLESS, config.MODULE_EMPTY])
    assert provoked == set(c for c, name, _ in config.TABLE) - set([config.NO_BLOB, config.NOT_MAPPED])


def test_each_changed_byte_is_refused():
    for position in range(len(GOOD)):
        for change in (1 << position % 8,):
            data = bytearray(GOOD)
            data[position] ^= change
            assert code(bytes(data)) != config.OK, position


def test_each_shorter_blob_is_refused():
    for length in range(len(GOOD)):
        assert code(GOOD[:length]) != config.OK


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_noise_is_refused(data):
    assert code(data) != config.OK


@settings(max_examples=250)
@given(st.lists(st.tuples(st.integers(20, len(GOOD) - 1), st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 255]))),
                min_size=1, max_size=8))
@example([(216, 5)])        # as many vCPUs as no other example has
def test_a_blob_with_a_good_crc_is_never_accepted_with_something_outside(changes):
    """A hostile blob: any bytes, CRC mended. Reading outside it would raise FakeFault or IndexError."""
    data = bytearray(GOOD)
    for position, byte in changes:
        data[position] = byte
    answer, parser = check(blob.seal(data))
    assert answer in [number for number, _, _ in config.TABLE]
    if answer == config.OK:
        assert 1 <= parser.count <= MAX_VMS
        check_accepted(parser, len(data))


def check_accepted(parser, size):
    images, vms = [], parser.vms[:parser.count]
    assert sum(vm.vcpus for vm in vms) <= MOST_VCPUS_TOGETHER
    for core in range(MOST_CORES):
        assert sum(vm.entitlement for vm in vms if vm.is_on(core)) <= MOST_PROMISED
    for vm in vms:
        assert 1 <= vm.entitlement <= MOST_PROMISED and (vm.cap == 0 or vm.entitlement <= vm.cap <= 100) and 1 <= vm.weight <= 10000
        assert 1 <= vm.vcpus <= MOST_VCPUS and all(vm.core_of(n) < MOST_CORES for n in range(vm.vcpus)) and vm.core == vm.core_of(0)
        assert 0 < vm.ram_frames <= FREE_FRAMES and vm.ram_frames % 512 == 0 and 0 <= vm.module_count <= 4
        assert 2 <= vm.vmm_module < 8
        images += [vm.image_module] + vm.modules[:vm.module_count]
        for offset in [vm.command_line] + vm.module_strings[:vm.module_count]:
            assert offset == 0 or HEADER['END'] + VM['END'] * parser.count <= offset < size
    assert len(images) == len(set(images)) and all(2 <= image < 8 for image in images)
