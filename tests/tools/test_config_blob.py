"""The configuration blob: what is compiled can be read back, is the same each time, and damage is noticed."""
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from bulkhead import blob, check
from bulkhead.facts import config as facts

NAMES = st.text('abcxyz019_-', min_size=1, max_size=31)
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x2ff, exclude_characters='\x7f'), max_size=100)
MODULES = st.lists(st.tuples(st.just(Path('m')), TEXT), max_size=4).map(tuple)
BOOTS = st.builds(check.Boot, st.sampled_from(['flat', 'multiboot']), st.just(Path('i')), TEXT, st.integers(0, 0xffff), MODULES)
CPUS = st.lists(st.integers(0, 7), min_size=1, max_size=4, unique=True).map(tuple)
VMS = st.builds(check.Vm, NAMES, st.integers(1, 1536).map(lambda n: n << 21), st.integers(1, 4), CPUS, st.integers(0, 2 ** 32 - 1), st.integers(0, 2 ** 32 - 1), st.booleans(), st.booleans(),
                st.sampled_from([Path('/a'), Path('/b')]), BOOTS, st.integers(1, 95), st.integers(0, 100), st.integers(1, 10000))
MACHINES = st.builds(check.Machine, st.just(Path('f')), NAMES, st.just(1 << 30), st.just(1), st.lists(VMS, min_size=1, max_size=8).map(tuple))


def machine(*vms):
    return check.Machine(Path('f'), 'box', 1 << 30, 1, vms)


def simple(name='a', vmm='/a', modules=(), vcpus=1, cpus=(0,)):
    return check.Vm(name, 2 << 20, vcpus, cpus, 0, 0, False, False, Path(vmm), check.Boot('multiboot', Path('i'), 'x', 0, modules))


@given(MACHINES)
def test_blob_says_what_the_machine_says(made):
    decoded = blob.decode(blob.compile_blob(made))['vms']
    names = [module.path for module in blob.boot_modules(made, Path('manager'))]
    assert len(decoded) == len(made.vms)
    for vm, read in zip(made.vms, decoded):
        assert read['places'] == [vm.cpus[k % len(vm.cpus)] for k in range(vm.vcpus)]
        assert (read['name'], read['memory'], read['vcpus'], read['restarts'], read['time_limit'], read['exit_port'], read['host_tsc']) == \
            (vm.name, vm.memory, vm.vcpus, vm.restarts, vm.time_limit, vm.exit_port, vm.host_tsc)
        assert (read['entitlement'], read['cap'], read['weight']) == (vm.entitlement, vm.cap, vm.weight)
        assert (read['kind'], read['load'], read['command_line']) == (vm.boot.kind, vm.boot.load, vm.boot.command_line)
        assert names[read['vmm']] == vm.vmm and names[read['image']] == vm.boot.image
        assert [(names[n], text) for n, text in read['modules']] == list(vm.boot.modules)


@given(MACHINES)
def test_no_boot_module_belongs_to_two_vms(made):
    decoded = blob.decode(blob.compile_blob(made))['vms']
    owned = [vm['image'] for vm in decoded] + [n for vm in decoded for n, _ in vm['modules']]
    assert len(owned) == len(set(owned)) and not set(owned) & set(vm['vmm'] for vm in decoded)
    assert set(owned) | set(vm['vmm'] for vm in decoded) == set(range(2, 2 + len(set(owned) | set(vm['vmm'] for vm in decoded))))


@given(MACHINES)
def test_same_machine_gives_the_same_bytes(made):
    assert blob.compile_blob(made) == blob.compile_blob(made)


def test_layout_by_hand():
    """The bytes themselves, without the decoder: what hypervisor/spec/config.py says."""
    data = blob.compile_blob(machine(simple('left', modules=((Path('m'), 'arg'),), vcpus=3, cpus=(5, 2))))
    magic, version, size, crc, vms = struct.unpack_from('<8sIIII', data)
    assert (magic, version, size, vms) == (b'BLKDCONF', 4, len(data), 1)
    assert crc == zlib.crc32(data[:16] + b'\0\0\0\0' + data[20:])
    assert data[24:56] == b'left'.ljust(32, b'\0')
    assert struct.unpack_from('<QQQQIIII', data, 56) == (2 << 20, 0, 3, 0x525, 2, 3, 2, 0)
    restarts, command_line, count, time_limit, module, string = struct.unpack_from('<IIIIII', data, 104)
    assert (restarts, count, time_limit, module) == (0, 1, 0, 4)
    assert struct.unpack_from('<IIQ', data, 24 + 128) == (1, 0, 100)
    assert data[command_line:command_line + 2] == b'x\0' and data[string:string + 4] == b'arg\0'


def test_programs_are_shared_and_images_are_not():
    names = [module.name for module in blob.boot_modules(machine(simple('a'), simple('b'), simple('c', '/other')), Path('manager'))]
    assert names == ['manager', 'config', 'vmm-0', 'vmm-1', 'image-a', 'image-b', 'image-c']


@settings(max_examples=200)
@given(st.data())
def test_any_damaged_byte_is_noticed(data):
    good = blob.compile_blob(machine(simple('a'), simple('b')))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(blob.Damaged):
        blob.decode(bytes(bad))


@pytest.mark.parametrize('size', [0, 10, facts.HEADER['END'], -1])
def test_short_blob_is_refused(size):
    with pytest.raises(blob.Damaged):
        blob.decode(blob.compile_blob(machine(simple()))[:size])
