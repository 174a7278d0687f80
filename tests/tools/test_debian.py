"""What the Debian guests are made of: sources for apt, files of packages, the ELF file inside a kernel."""
import gzip
import lzma
import struct
import sys

import pytest

from bulkhead.facts import ROOT

sys.path.insert(0, str(ROOT / 'tools/guests'))
import debian       # noqa: E402
import vmlinux      # noqa: E402
from trouble import Trouble     # noqa: E402

CONFIGURED = """'http://first.example/debian/dists/bookworm/InRelease' first_InRelease 0
'http://second.example/debian-security/dists/bookworm-security/InRelease' second_InRelease 0
'http://third.example/debian/dists/bookworm/InRelease' third_InRelease 0
"""


def backports_of(tmp_path, monkeypatch, codename):
    apt = debian.Apt(tmp_path / 'apt')
    monkeypatch.setattr(apt, 'run', lambda *arguments: CONFIGURED)
    monkeypatch.setattr(debian.platform, 'freedesktop_os_release', lambda: {'VERSION_CODENAME': codename})
    apt.use_backports()
    return (tmp_path / 'apt/sources.list').read_text()


def test_backports_come_from_the_mirror_that_the_system_has(tmp_path, monkeypatch):
    assert backports_of(tmp_path, monkeypatch, 'bookworm') == 'deb http://first.example/debian bookworm-backports main\n'


def test_a_system_without_that_release_is_told_so(tmp_path, monkeypatch):
    with pytest.raises(Trouble, match='no mirror of the release sid'):
        backports_of(tmp_path, monkeypatch, 'sid')


@pytest.mark.parametrize('name, unpacked', [('kernel', True), ('initrd.gz', False)])
def test_a_compressed_file_is_unpacked_unless_its_name_says_that_it_is_not(tmp_path, name, unpacked):
    packed = gzip.compress(b'plain')
    source, place = tmp_path / 'in-the-package.gz', tmp_path / name
    source.write_bytes(packed)
    debian._copy(source, place)
    assert place.read_bytes() == (b'plain' if unpacked else packed)


def bzimage(payload):
    data = bytearray(1024)
    data[0x1f1] = 1
    struct.pack_into('<II', data, 0x248, 100, len(payload) + 4)
    return bytes(data) + bytes(100) + payload + struct.pack('<I', 7)


def test_the_elf_file_inside_a_kernel():
    assert vmlinux.extract(bzimage(lzma.compress(b'\x7fELF...', check=lzma.CHECK_CRC32))) == b'\x7fELF...'


@pytest.mark.parametrize('payload, sentence', [(b'\x02\x21\x4c\x18', 'not compressed with xz'), (lzma.compress(b'MZ'), 'no ELF file')])
def test_what_is_no_such_kernel_is_told_so(payload, sentence):
    with pytest.raises(Trouble, match=sentence):
        vmlinux.extract(bzimage(payload))
