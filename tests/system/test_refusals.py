"""A machine that cannot run Bulkhead, and a box that is damaged, are refused with a sentence, and nothing of a guest runs."""
import zlib

import pytest

from bulkhead import emulator
from bulkhead.facts import BUILD, VMM
from hypervisor.spec import config as blob
from hypervisor.spec import refusal
from tests.system.box import config, run_box, vm

CANNOT_START = 69
ONE_GUEST = config(vm('a', 'hello'))


def with_cpu(monkeypatch, machine, model):
    """Let the emulator play another processor."""
    if machine == 'bochs':
        monkeypatch.setattr(emulator, 'BOCHS_CPU', model)
        return
    plain = emulator.Qemu.options

    def options(*arguments):
        given = plain(*arguments)
        given[given.index('-cpu') + 1] = model
        return given
    monkeypatch.setattr(emulator.Qemu, 'options', staticmethod(options))


@pytest.mark.parametrize('machine, model, name', [
    ('qemu', 'max,-svm', 'NO_VENDOR'),
    ('qemu', 'max,-npt', 'NO_NPT'),
    ('qemu', 'max,-apic', 'NO_LAPIC'),
    ('bochs', 'athlon64_venice', 'NO_VENDOR'),
    ('bochs', 'core2_penryn_t9600', 'NO_EPT'),
])
def test_each_missing_feature_is_named(monkeypatch, machine, model, name):
    with_cpu(monkeypatch, machine, model)
    result = run_box(ONE_GUEST, machine)
    sentences = dict((entry[1], entry[2]) for entry in refusal.TABLE)
    assert 'cannot start: ' + sentences[name] in result.own, result
    assert result.status == CANNOT_START and not result.lines


@pytest.mark.parametrize('machine, model', [('qemu', 'qemu32'), ('bochs', 'p4_willamette')])
def test_a_32_bit_processor_is_told_so(monkeypatch, machine, model):
    with_cpu(monkeypatch, machine, model)
    result = run_box(ONE_GUEST, machine)
    assert any(line.startswith('cannot start: this processor has no 64-bit mode') for line in result.own), result
    assert result.status == CANNOT_START


def damage(name, change):
    def edit(folder):
        path = folder / name
        path.write_bytes(change(bytearray(path.read_bytes())))
    return edit


def flip(data):
    data[blob.HEADER['END'] + 40] ^= 1
    return data


def rename_with_right_crc(data):
    """A name that the checker would never let through, in a blob whose CRC is right."""
    data[blob.HEADER['END']:blob.HEADER['END'] + 2] = b'[\n'
    at = blob.HEADER['CRC']
    data[at:at + 4] = bytes(4)
    data[at:at + 4] = zlib.crc32(data).to_bytes(4, 'little')
    return data


@pytest.mark.parametrize('change, words', [
    (flip, 'CRC'), (lambda data: data[:20], 'too short'), (lambda data: data[:-1], ''), (rename_with_right_crc, 'name'),
], ids=['flipped bit', 'cut header', 'cut end', 'hostile name'])
def test_a_damaged_configuration_is_refused(machine, change, words):
    result = run_box(ONE_GUEST, machine, edit=damage('config', change))
    refusals = [line for line in result.own if line.startswith('cannot start: ')]
    assert len(refusals) == 1 and words in refusals[0], result
    assert result.status in (2, CANNOT_START) and not result.lines


def test_a_damaged_manager_is_refused(machine):
    result = run_box(ONE_GUEST, machine, edit=damage('manager', lambda data: b'X' + data[1:]))
    sentences = dict((entry[1], entry[2]) for entry in refusal.TABLE)
    assert 'cannot start: ' + sentences['BAD_MANAGER'] in result.own, result


def test_a_damaged_vmm_ends_its_own_vm_only(machine):
    (BUILD / 'vmm-other.bin').write_bytes(VMM.read_bytes())
    box = config(vm('sick', 'hello', vmm='build/vmm-other.bin'), vm('well', 'ticker', command_line='lines=3'))
    result = run_box(box, machine, edit=damage('vmm-0', lambda data: b'X' + data[1:]))
    assert result.table['sick'].how.startswith('could not be started'), result
    assert result.table['well'].how == 'exited with status 0'
