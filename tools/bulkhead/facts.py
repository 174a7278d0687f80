"""The checkout's folders, and the facts of hypervisor/spec that the tools share with the hypervisor."""
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / 'build'
KERNEL, KERNEL_TO_DEBUG = BUILD / 'kernel.boot.elf', BUILD / 'kernel.elf'
MANAGER = BUILD / 'manager.bin'
VMM = BUILD / 'vmm.bin'
BOXES = BUILD / 'boxes'
GUESTS, DEBIAN = BUILD / 'guests', BUILD / 'debian'     # made by tests/guests/build.py and tools/guests/linux.py


def _import_facts():
    """hypervisor/ is Python 2's as well: leave no compiled files in it."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    try:
        from hypervisor.spec import boot, call, config, core, layout, pages, program, share
    finally:
        sys.dont_write_bytecode = before
    return boot, call, config, core, layout, pages, program, share


boot, call, config, core, layout, pages, program, share = _import_facts()


def shown(path):
    """`path` as short as it can be said from here."""
    path = Path(path)
    try:
        relative = os.path.relpath(path)
    except OSError:
        return str(path)
    return relative if not relative.startswith('../..') else str(path)


def processors_text(hundredths):
    """Hundredths of a processor as people write them: 0.25."""
    return '%d.%02d' % divmod(hundredths, share.WHOLE)


def size_text(count):
    """A number of bytes as people write it: 16M, 1536K, 700 bytes."""
    for unit, letter in ((1 << 30, 'G'), (1 << 20, 'M'), (1 << 10, 'K')):
        if count >= unit and count % unit == 0:
            return '%d%s' % (count // unit, letter)
    return '%d bytes' % count
