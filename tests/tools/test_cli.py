"""The command's own face: what check and build print and make, and that no mistake of a user ends in a traceback."""
import json
import shutil
import socket
import subprocess
import sys
import time

import pytest

from bulkhead import blob, check
from bulkhead.facts import ROOT
from tests.tools.test_config import GOOD, multiboot
from tests.tools.test_run import BULKHEAD, command, file, kernel  # noqa: F401

OVMF = '/usr/share/OVMF/OVMF_CODE.fd'


def bulkhead(*arguments, cwd=None, env=None, status=0):
    done = subprocess.run([*BULKHEAD, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=env, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == status, done
    assert 'Traceback' not in done.stderr
    return done


@pytest.fixture
def good(tmp_path):
    (tmp_path / 'guest').write_bytes(multiboot())
    (tmp_path / 'good.toml').write_text(GOOD)
    (tmp_path / 'bad.toml').write_text(GOOD.replace('64M', '63M').replace('"guest"', '"gast"'))
    return tmp_path


def test_check_says_that_a_good_file_is_good(good):
    assert bulkhead('check', 'good.toml', cwd=good).stdout == 'good.toml: box good, 1 VM, no mistakes\n'


def test_check_lists_the_mistakes_of_all_files_with_file_and_line(good):
    done = bulkhead('check', 'bad.toml', 'good.toml', 'gone.toml', cwd=good, status=78)
    assert 'good.toml: box good' in done.stdout
    assert 'bad.toml:2: box.memory: 63M is no multiple of 2M\n    write: memory = "62M" or "64M"\n' in done.stderr
    assert 'bad.toml:9: vm "one", boot.image: there is no file' in done.stderr
    assert 'gone.toml: there is no such file' in done.stderr and '3 mistakes' in done.stderr


def test_mistakes_with_brackets_are_not_taken_for_markup(good):
    (good / 'x.toml').write_text(GOOD.replace('"one"', '"[red]x[/red]"'))
    assert '[red]x[/red]' in bulkhead('check', 'x.toml', cwd=good, status=78).stderr


def test_dump_shows_the_compiled_blob(good):
    text = bulkhead('check', '--dump', 'good.toml', cwd=good).stdout
    crc = blob.decode(blob.compile_blob(check.load(good / 'good.toml')))['crc']
    (good / 'two.toml').write_text(GOOD.replace('memory = "64M"', 'memory = "96M"\ncpus = 2').replace('memory = "16M"', 'memory = "16M"\nvcpus = 3\ncpus = [1, 0]'))
    assert 'vm one: 16M, 3 vCPUs on processors 1, 0, 1, multiboot' in bulkhead('check', '--dump', 'two.toml', cwd=good).stdout
    assert 'CRC 0x%08x' % crc in text and '3 image-one' in text and 'vm one: 16M, 1 vCPU on processor 0, multiboot' in text


def test_build_makes_a_folder_in_the_order_of_the_blob_and_makes_it_again(good):
    bulkhead('build', 'good.toml', '-o', 'box', cwd=good)
    manifest = json.loads((good / 'box/manifest.json').read_text())
    assert [module['file'] for module in manifest['modules']] == ['manager', 'config', 'vmm-0', 'image-one']
    for module in manifest['modules']:
        assert (good / 'box' / module['file']).stat().st_size == module['bytes']
    assert (good / 'box/image-one').read_bytes() == multiboot()
    assert blob.decode((good / 'box/config').read_bytes())['vms'][0]['name'] == 'one'
    (good / 'good.toml').write_text(GOOD.replace('"one"', '"two"'))
    bulkhead('build', 'good.toml', '-o', 'box', cwd=good)
    assert (good / 'box/image-two').exists() and not (good / 'box/image-one').exists()


def test_build_does_not_write_into_a_folder_with_other_files(good):
    (good / 'photos').mkdir()
    (good / 'photos/kernel.elf').write_text('mine')
    done = bulkhead('build', 'good.toml', '-o', 'photos', cwd=good, status=69)
    assert 'no folder of a box' in done.stderr and (good / 'photos/kernel.elf').read_text() == 'mine'


def test_build_of_a_bad_file_makes_nothing(good):
    bulkhead('build', 'bad.toml', '-o', 'box', cwd=good, status=78)
    assert not (good / 'box').exists()


@pytest.fixture(scope='module')
def iso(kernel, tmp_path_factory):  # noqa: F811
    """An ISO of a box with the stand-in for a kernel."""
    folder = tmp_path_factory.mktemp('iso')
    (folder / 'box.toml').write_text(GOOD.replace('image = "guest"', 'image = "%s"\ncommand_line = "hm5"' % kernel))
    bulkhead('build', 'box.toml', '--kernel', kernel, '-o', 'box.iso', cwd=folder)
    assert sorted(path.name for path in folder.iterdir()) == ['box.iso', 'box.toml']
    return folder / 'box.iso'


@pytest.mark.parametrize('firmware, medium', [('bios', 'usb'), ('uefi', 'cd')])       # tests/system boots a whole box in all four ways
def test_iso_boots_on_bios_and_uefi_from_cd_and_usb(iso, firmware, medium):
    drive = ['-cdrom', str(iso)] if medium == 'cd' else ['-drive', 'file=%s,format=raw,readonly=on,if=virtio' % iso]
    machine = ['-drive', 'if=pflash,format=raw,readonly=on,file=' + OVMF] if firmware == 'uefi' else []
    done = subprocess.run(['qemu-system-x86_64', '-display', 'none', '-m', '256', '-serial', 'stdio', '-no-reboot', '-net', 'none', '-cpu', 'max',
                           '-device', 'isa-debug-exit,iobase=0x501,iosize=2', *machine, *drive],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 5 * 2 + 1, done
    lines = [line.strip('\r') for line in done.stdout.split('\n')]
    assert lines[-6:-1] == ['module manager', 'module config', 'module vmm-0', 'module image-one', 'bulkhead: box off, status 5']


def test_missing_tool_is_a_sentence(good, tmp_path):
    (tmp_path / 'bin').mkdir()
    done = bulkhead('run', 'good.toml', cwd=good, env={'PATH': str(tmp_path / 'bin')}, status=69)
    assert 'qemu-system-x86_64 is not installed' in done.stderr and 'qemu-system-x86`' in done.stderr
    done = bulkhead('run', 'good.toml', '--machine', 'bochs', cwd=good, env={'PATH': str(tmp_path / 'bin')}, status=69)
    assert 'bochs is not installed' in done.stderr
    done = bulkhead('build', '--iso', 'good.toml', '-o', 'x.iso', cwd=good, env={'PATH': str(tmp_path / 'bin')}, status=69)
    assert 'grub-mkrescue is not installed' in done.stderr


@pytest.mark.parametrize('options, sentence', [
    (['--machine', 'bochs', '--gdb'], 'use --machine qemu'),
    (['--machine', 'bochs', '--accel', 'kvm'], 'Bochs interprets'),
    (['--machine', 'bochs', '--icount'], "is QEMU's"),
    (['--log', '/nowhere/at/all'], 'no such file'),
    (['--kernel', '/nowhere/kernel'], '/nowhere/kernel'),
])
def test_options_that_cannot_be_are_sentences(good, options, sentence):
    assert sentence in bulkhead('run', 'good.toml', *options, cwd=good, status=69).stderr


def test_kernel_that_qemu_cannot_load_is_said_with_qemus_words(good):
    (good / 'nonsense').write_bytes(b'no kernel at all' * 100)
    done = bulkhead('run', 'good.toml', '--kernel', 'nonsense', cwd=good, status=70)
    assert 'QEMU ended (exit code 1)' in done.stderr and 'kernel' in done.stderr.split('QEMU ended')[1]


def test_gdb_can_attach_before_the_first_instruction(file, kernel):  # noqa: F811
    process = subprocess.Popen(command(file('h0'), kernel, '--gdb', '--timeout', '60'), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    try:
        assert 'QEMU' in process.stderr.readline()
        assert 'target remote 127.0.0.1:1234' in process.stderr.readline()
        with connected(1234) as gdb:
            gdb.sendall(b'+$g#67')                              # all registers: RIP, at the reset vector, is number 16
            answer = b''
            while b'#' not in answer:
                answer += gdb.recv(4096)
            assert answer.partition(b'$')[2][16 * 16:][:16] == b'f0ff000000000000'
            assert process.poll() is None
            gdb.sendall(b'+$D#44')                              # detach: the box runs
            assert 'box off, status 0' in process.communicate(timeout=60)[0]
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def connected(port):
    end = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(('127.0.0.1', port), 5)
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_missing_kernel_is_built_first(good, tmp_path):
    """In a copy of the checkout with a build step of its own: run builds what is missing and goes on."""
    copy = tmp_path / 'copy'
    for folder in ('tools/bulkhead', 'hypervisor/spec'):
        shutil.copytree(ROOT / folder, copy / folder)
    (copy / 'hypervisor/__init__.py').touch()
    (copy / 'tools/build').mkdir()
    (copy / 'tools/build/build.py').write_text('raise SystemExit("the build says why")')
    run = [sys.executable, '-c', 'import sys; sys.path.insert(0, %r); from bulkhead.cli import app; app()' % str(copy / 'tools'),
           'build', str(good / 'good.toml')]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 69 and 'building them' in done.stderr and 'the build says why' in done.stderr and 'Traceback' not in done.stderr
    (copy / 'tools/build/build.py').write_text(
        'from pathlib import Path\nb = Path("build"); b.mkdir(exist_ok=True)\n'
        'for name in ("kernel.boot.elf", "manager.bin", "vmm.bin"): (b / name).write_text(name)\n')
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0 and (copy / 'build/boxes/good/kernel.elf').read_text() == 'kernel.boot.elf', done
