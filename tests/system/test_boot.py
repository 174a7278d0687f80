"""The ISO boots the box by GRUB on BIOS and on UEFI firmware, from CD and from a disk (as a USB stick would)."""
import subprocess
from pathlib import Path

import pytest

from bulkhead.box import Folder
from tests.system.box import config, load, vm

OVMF = Path('/usr/share/ovmf/OVMF.fd')
FROM_CD, FROM_DISK = ['-cdrom'], ['-drive']


@pytest.fixture(scope='module')
def iso(tmp_path_factory):
    folder = tmp_path_factory.mktemp('box')
    machine = load(config(vm('a', 'ticker', command_line='lines=2'), vm('b', 'hello_long')))
    return Folder(folder, machine).write().make_iso(folder / 'box.iso')


@pytest.mark.parametrize('medium', ['cd', 'disk'])
@pytest.mark.parametrize('firmware', ['bios', 'uefi'])
def test_the_iso_boots(iso, firmware, medium):
    command = ['qemu-system-x86_64', '-accel', 'tcg', '-cpu', 'max', '-m', '384M', '-display', 'none', '-serial', 'stdio', '-monitor', 'none',
               '-no-reboot', '-net', 'none', '-device', 'isa-debug-exit,iobase=0x501,iosize=2']
    command += ['-bios', str(OVMF)] if firmware == 'uefi' else []
    command += ['-cdrom', str(iso)] if medium == 'cd' else ['-drive', 'file=%s,format=raw,snapshot=on' % iso]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180)
    output = done.stdout.decode('utf-8', 'replace')
    for line in ('[a] tick 2 of 2', 'bulkhead: [b] exited with status 0', 'bulkhead: box off, status 0'):
        assert line in output, output[-3000:]
    assert done.returncode == 1             # (status 0 << 1) | 1
