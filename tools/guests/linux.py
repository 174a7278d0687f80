#!/usr/bin/env python3
"""Make the Debian guests: kernels from their packages, and an initramfs of our own.

    tools/guests/linux.py [NAME...]     into build/debian; default: cloud initramfs
    tools/guests/linux.py --list

build/debian/NAME/vmlinuz is a kernel, build/debian/pvh/vmlinux the ELF file inside one of them, build/debian/initramfs the first
root file system for all of them; other guests' files are named in debian.py.
The first run fetches packages; later ones find them and need no network.
"""
import fcntl
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import debian       # noqa: E402
import initramfs    # noqa: E402
import vmlinux      # noqa: E402
from trouble import Trouble     # noqa: E402

OUTPUT = HERE.parents[1] / 'build' / 'debian'
INITRAMFS = 'initramfs'
PVH, PVH_KERNEL = 'pvh', 'amd64'        # the ELF file inside a kernel
DEFAULT_KERNEL = 'cloud'
DEFAULT = [DEFAULT_KERNEL, INITRAMFS]


def say(text):
    print('guests: ' + text, file=sys.stderr, flush=True)


def make(name):
    """Make one of them; nothing happens when it is there and right."""
    if name == INITRAMFS:
        make(DEFAULT_KERNEL)
        _write(OUTPUT / INITRAMFS, initramfs.make([OUTPUT / DEFAULT_KERNEL / 'modules']))
    elif name == PVH:
        make(PVH_KERNEL)
        (OUTPUT / PVH).mkdir(exist_ok=True)
        _write(OUTPUT / PVH / 'vmlinux', vmlinux.extract((OUTPUT / PVH_KERNEL / 'vmlinuz').read_bytes()))
    else:
        debian.fetch(debian.PACKAGES[name], OUTPUT / name, say)


def _write(path, data):
    if not path.exists() or path.read_bytes() != data:
        new = path.with_name(path.name + '.new')
        new.write_bytes(data)
        new.rename(path)


def main(arguments):
    if arguments == ['--list']:
        for package in debian.PACKAGES.values():
            print('%-10s %s: %s' % (package.name, package.package, package.about))
        print('%-10s the ELF file inside %s, with a PVH entry point' % (PVH, PVH_KERNEL))
        print('%-10s busybox and the files of %s' % (INITRAMFS, initramfs.ROOT_FILES.relative_to(HERE.parents[1])))
        return 0
    known = [*debian.PACKAGES, PVH, INITRAMFS]
    unknown = [name for name in arguments if name not in known]
    if unknown:
        say('there is no %s; there are %s' % (', '.join(unknown), ', '.join(known)))
        return 2
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with open(OUTPUT / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)        # two runs at once: the second one finds what the first one made
        for name in arguments or DEFAULT:
            try:
                make(name)
            except Trouble as trouble:
                say(str(trouble))
                return 1
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
