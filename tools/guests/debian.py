"""Files of Debian packages that are guests: fetched by apt once, unpacked, and then there for good.

build/debian/NAME/ gets the wanted file under a fixed name and package.txt: the package, its version and its SHA-256.
A file that a package has compressed with gzip is decompressed, unless its name here ends with .gz as well.
"""
import gzip
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field

from trouble import Trouble

RECORD = 'package.txt'


@dataclass(frozen=True)
class Package:
    """package: or a meta package, whose dependency of the name `real` is meant. files: name here -> pattern in the package; a name
    that ends with / is a folder for all that match. backports: of the release's backports, on the system's own mirror."""
    name: str
    package: str
    files: dict
    real: str = ''
    about: str = ''
    backports: bool = False


PVPANIC = 'lib/modules/*/kernel/drivers/misc/pvpanic/pvpanic*.ko'
KERNEL = {'vmlinuz': 'boot/vmlinuz-*', 'config': 'boot/config-*', 'modules/': PVPANIC}


def _kernel(name, package, about, backports=False):
    return Package(name, package, KERNEL, r'linux-image-[0-9][a-z0-9.+-]*', about, backports)


PACKAGES = {each.name: each for each in [
    _kernel('cloud', 'linux-image-cloud-amd64', 'the kernel for clouds'),
    _kernel('amd64', 'linux-image-amd64', 'the usual kernel'),
    _kernel('rt', 'linux-image-rt-amd64', 'the kernel with PREEMPT_RT'),
    Package('kvm', 'linux-image-cloud-amd64',
            {'vmlinuz': 'boot/vmlinuz-*', 'kvm/': 'lib/modules/*/kernel/arch/x86/kvm/kvm*.ko', 'virt/': 'lib/modules/*/kernel/virt/lib/irqbypass.ko'},
            r'linux-image-[0-9][a-z0-9.+-]*', 'the kernel for clouds, with KVM'),
    Package('xen', 'xen-hypervisor-4.17-amd64', {'xen': 'boot/xen-4.17-amd64.gz'}, about='the hypervisor Xen'),
    Package('i386', 'debian-installer-12-netboot-i386',
            {'vmlinuz': 'usr/lib/debian-installer/images/12/i386/text/debian-installer/i386/linux',
             'initrd.gz': 'usr/lib/debian-installer/images/12/i386/text/debian-installer/i386/initrd.gz'},
            about='the installer\'s 32-bit kernel'),
    _kernel('backports', 'linux-image-cloud-amd64', 'the kernel for clouds of the release\'s backports', backports=True),
    Package('memtest', 'memtest86+', {'x64.bin': 'boot/memtest86+x64.bin', 'ia32.bin': 'boot/memtest86+ia32.bin'}, about='a memory test'),
    Package('gnumach', 'gnumach-image-1.8-486', {'gnumach': 'boot/gnumach-1.8-486.gz'}, about='the microkernel GNU Mach'),
    Package('ipxe', 'ipxe', {'ipxe.lkrn': 'boot/ipxe.lkrn'}, about='the network boot loader iPXE'),
]}
RELEASE_URI = re.compile(r"^'(.*)/dists/([^/]*)/InRelease'", re.MULTILINE)


class Apt:
    """apt, with the system's lists or, when those are missing or too old, with lists of our own in `folder`."""

    def __init__(self, folder):
        self.folder = folder
        self.options = []

    def run(self, tool, *arguments, cwd=None):
        """Returns what the tool printed, or None when it failed."""
        environment = {**os.environ, 'LC_ALL': 'C.UTF-8', 'DEBIAN_FRONTEND': 'noninteractive'}
        done = subprocess.run([tool, '-q', *self.options, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
        self.said = (done.stderr or done.stdout).strip()
        return done.stdout if done.returncode == 0 else None

    def own_lists(self):
        """Fetch the package lists into our own folder: what the system has is left alone, and no root is needed."""
        for name in ('lists/partial', 'cache/archives/partial'):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.options += ['-o', 'Dir::State::Lists=%s' % (self.folder / 'lists'), '-o', 'Dir::Cache=%s' % (self.folder / 'cache'),
                         '-o', 'APT::Sandbox::User=', '-o', 'Acquire::Languages=none']
        self.run('apt-get', 'update')

    def use_backports(self):
        """Know nothing but the backports of the system's release, on the mirror from which the system gets that release."""
        mirrors = dict((suite, uri) for uri, suite in reversed(RELEASE_URI.findall(self.run('apt-get', 'update', '--print-uris') or '')))
        suite = platform.freedesktop_os_release().get('VERSION_CODENAME', '')
        if suite not in mirrors:
            raise Trouble('no mirror of the release %s is configured here, so its backports cannot be had' % (suite or 'of this system'))
        self.folder.mkdir(parents=True, exist_ok=True)
        sources = self.folder / 'sources.list'
        sources.write_text('deb %s %s-backports main\n' % (mirrors[suite], suite))
        self.options += ['-o', 'Dir::Etc::SourceList=%s' % sources, '-o', 'Dir::Etc::SourceParts=-']

    def real_name(self, package):
        """The package that is meant, or None."""
        said = self.run('apt-cache', '--no-all-versions', 'show', package.package)
        if said is None or not package.real:
            return said and package.package
        depends = re.search(r'^Depends:(.*)$', said, re.MULTILINE)
        found = re.search(package.real, depends[1]) if depends else None
        return found and found[0]

    def download(self, package, folder):
        """Fetch the package into `folder`. Returns the file, or None."""
        name = self.real_name(package)
        if name is None or self.run('apt-get', '-o', 'APT::Sandbox::User=', 'download', name, cwd=folder) is None:
            return None
        return next(folder.glob('*.deb'), None)


def is_here(package, folder):
    return all((folder / name).exists() for name in [RECORD, *package.files])


def fetch(package, folder, say):
    """Put the package's files into `folder`, unless they are there. Raises Trouble."""
    if is_here(package, folder):
        return
    if not shutil.which('apt-get') or not shutil.which('dpkg-deb'):
        raise Trouble('no apt-get here: put %s of Debian\'s package %s into %s by hand, and any text into %s there'
                      % (', '.join(package.files), package.package, folder, RECORD))
    say('fetching Debian\'s %s (%s)' % (package.package, package.about))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=package.name + '-', dir=folder.parent) as work:
        work = type(folder)(work)
        apt = Apt(folder.parent / ('apt-backports' if package.backports else 'apt'))
        if package.backports:
            apt.use_backports()
        archive = None if package.backports else apt.download(package, work)
        if archive is None:
            apt.own_lists()
            archive = apt.download(package, work)
        if archive is None:
            raise Trouble('Debian\'s package %s could not be had: %s' % (package.package, (apt.said.splitlines() or ['apt says nothing'])[-1]))
        _unpack(package, archive, work / 'files', work / 'ready')
        shutil.rmtree(folder, ignore_errors=True)
        (work / 'ready').rename(folder)


def _copy_all(found, files, folder):
    """Files by their paths in the package."""
    folder.mkdir()
    for path in found:
        place = folder / path.relative_to(files)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _copy(source, place):
    if source.suffix == '.gz' and place.suffix != '.gz':
        place.write_bytes(gzip.decompress(source.read_bytes()))
    else:
        shutil.copyfile(source, place)


def _unpack(package, archive, files, ready):
    subprocess.run(['dpkg-deb', '-x', archive, files], check=True)
    ready.mkdir()
    for name, pattern in package.files.items():
        found = sorted(files.glob(pattern))
        if name.endswith('/'):
            _copy_all(found, files, ready / name)
            continue
        if len(found) != 1:
            raise Trouble('%s has %d files like %s, not one' % (archive.name, len(found), pattern))
        _copy(found[0], ready / name)
    fields = subprocess.run(['dpkg-deb', '-W', '--showformat=${Package} ${Version} ${Architecture}', archive],
                            check=True, capture_output=True, text=True).stdout
    (ready / RECORD).write_text('%s\nsha256 %s\n' % (fields, hashlib.sha256(archive.read_bytes()).hexdigest()))
