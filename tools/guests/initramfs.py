"""The first root file system of the Debian guests: Debian's static busybox and the files in root/."""
import shutil
import subprocess
from pathlib import Path

from cpio import Archive
from trouble import Trouble

HERE = Path(__file__).resolve().parent
ROOT_FILES = HERE / 'root'
FOLDERS = ['bin', 'dev', 'proc', 'root', 'sys', 'tmp']
PROGRAMS = ['init', 'check', 'bench']
CONSOLE = (5, 1)            # where process 1 talks to before it mounts a /dev


def busybox():
    """The path of a static busybox."""
    found = shutil.which('busybox', path='/bin:/usr/bin')
    if not found:
        raise Trouble('busybox is not installed: `make setup` installs it, or on Debian `apt install busybox-static`')
    if b'/ld-linux' in Path(found).read_bytes():
        raise Trouble('%s needs shared libraries: on Debian, `apt install busybox-static` instead of busybox' % found)
    return Path(found)


def applets(program):
    """The names that this busybox answers to."""
    said = subprocess.run([program, '--list'], capture_output=True, text=True, check=True).stdout
    return sorted(set(said.split()) - {'busybox'})


def make(modules=()):
    """The archive's bytes. modules: folders whose files go to the same places below the root."""
    program, archive = busybox(), Archive()
    for name in FOLDERS:
        archive.folder(name)
    archive.device('dev/console', *CONSOLE)
    archive.file('bin/busybox', program.read_bytes(), 0o755)
    for name in applets(program):
        archive.link('bin/' + name, 'busybox')
    for top in [ROOT_FILES, *modules]:
        _add_all(archive, top)
    return archive.bytes()


def _add_all(archive, top):
    for path in sorted(top.rglob('*')):
        name = str(path.relative_to(top))
        if path.is_dir():
            archive.folder(name)
        else:
            archive.file(name, path.read_bytes(), 0o755 if name in PROGRAMS else 0o644)
