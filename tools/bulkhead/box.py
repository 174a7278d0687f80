"""Boxes as files: a folder with the kernel and the boot modules in order, and an ISO that boots on BIOS and UEFI machines."""
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from bulkhead import blob
from bulkhead.facts import BUILD, DEBIAN, GUESTS, KERNEL, MANAGER, ROOT, VMM, shown
from bulkhead.mistake import Trouble

MANIFEST = 'manifest.json'
# GRUB's own messages go to the serial port as well, so that a box that GRUB cannot load is not silent.
GRUB_CONFIG = '''serial --unit=0 --speed=115200
terminfo serial dumb
terminal_output {output}
set timeout=0
multiboot2 /boot/kernel.elf
{modules}
boot
'''
PACKAGES = {
    'grub-mkrescue': 'grub-common, grub-pc-bin, grub-efi-amd64-bin', 'xorriso': 'xorriso', 'mformat': 'mtools',
    'qemu-system-x86_64': 'qemu-system-x86', 'bochs': 'bochs and bochs-term',
}


def need(tool):
    """The path of a tool, or Trouble that says what to install."""
    found = shutil.which(tool)
    if not found:
        raise Trouble('%s is not installed: `make setup` installs it, or on Debian `apt install %s`' % (tool, PACKAGES[tool].split()[0].strip(',')))
    return found


def ensure_built(say, machine_files=()):
    """Build what is missing of kernel, manager, VMM and guests. `say` gets a sentence before something that takes long.

    machine_files: the files in the build folder that a box wants.
    """
    steps, missing = [], [path for path in machine_files if not path.exists()]
    if not all(path.exists() for path in (KERNEL, MANAGER, VMM)):
        steps.append(('the kernel and its programs', ROOT / 'tools/build/build.py', []))
    if any(GUESTS in path.parents for path in missing):
        steps.append(('the guests', ROOT / 'tests/guests/build.py', []))
    debian = sorted(set(path.relative_to(DEBIAN).parts[0] for path in missing if DEBIAN in path.parents))
    if debian:
        steps.append(('the Debian guests', ROOT / 'tools/guests/linux.py', debian))
    for what, script, arguments in steps:
        say('%s are not built yet: building them (%s)' % (what, shlex.join([shown(script), *arguments])))
        if not script.exists() or subprocess.run([sys.executable, str(script), *arguments], cwd=ROOT, stdout=sys.stderr).returncode:
            raise Trouble('%s could not be built: the lines above say why' % what)
    for path in (KERNEL, MANAGER, VMM):
        if not path.exists():
            raise Trouble('%s was not built: run `make build` and look at what it says' % shown(path))


class Folder:
    """A box laid out in a folder: kernel.elf, one file per boot module, a manifest."""

    def __init__(self, path, machine, kernel=KERNEL, manager=MANAGER):
        self.path = Path(path)
        self.machine = machine
        self.kernel = kernel
        self.modules = blob.boot_modules(machine, manager)

    def write(self):
        """Write everything anew; what an earlier build left goes away."""
        self.path.mkdir(parents=True, exist_ok=True)
        for left in self._left_over():
            left.unlink()
        _copy(self.kernel, self.path / 'kernel.elf')
        for module in self.modules:
            if module.path is None:
                (self.path / module.name).write_bytes(blob.compile_blob(self.machine))
            else:
                _copy(module.path, self.path / module.name)
        (self.path / MANIFEST).write_text(json.dumps(self.manifest(), indent=2) + '\n')
        return self

    def _left_over(self):
        """The files that an earlier build's manifest names. A folder with other files in it is not ours to write to."""
        if not any(self.path.iterdir()):
            return []
        try:
            names = json.loads((self.path / MANIFEST).read_text())
            files = [names['kernel']['file']] + [module['file'] for module in names['modules']] + [MANIFEST]
        except (OSError, ValueError, KeyError, TypeError):
            raise Trouble('%s is no folder of a box and not empty: name another one with -o' % shown(self.path)) from None
        return [self.path / name for name in files if Path(name).name == name and (self.path / name).exists()]

    def manifest(self):
        return {
            'box': self.machine.name,
            'memory': self.machine.memory,
            'kernel': {'file': 'kernel.elf'},
            'modules': [{'file': module.name, 'bytes': (self.path / module.name).stat().st_size} for module in self.modules],
        }

    def make_iso(self, iso, bios_only=False):
        """An ISO with GRUB. `bios_only`: a small one that is made at once."""
        for tool in ('grub-mkrescue', 'xorriso') if bios_only else ('grub-mkrescue', 'xorriso', 'mformat'):
            need(tool)
        _check_grub(bios_only)
        tree = iso.with_name(iso.name + '.tree')
        shutil.rmtree(tree, ignore_errors=True)
        try:
            self._fill(tree, bios_only)
            grub_image(tree, iso, bios_only)
        finally:
            shutil.rmtree(tree, ignore_errors=True)
        return iso

    def _fill(self, tree, bios_only):
        (tree / 'boot/grub').mkdir(parents=True)
        for name in ['kernel.elf'] + [module.name for module in self.modules]:
            _copy(self.path / name, tree / 'boot' / name)
        lines = ['module2 /boot/%s %s' % (module.name, module.name) for module in self.modules]
        output = 'serial' if bios_only else 'console serial'
        (tree / 'boot/grub/grub.cfg').write_text(GRUB_CONFIG.format(modules='\n'.join(lines), output=output))


def _check_grub(bios_only):
    platforms = ['i386-pc'] if bios_only else ['i386-pc', 'x86_64-efi']
    for platform in platforms:
        if not Path('/usr/lib/grub', platform).is_dir():
            package = {'i386-pc': 'grub-pc-bin', 'x86_64-efi': 'grub-efi-amd64-bin'}[platform]
            raise Trouble('GRUB for %s is not installed: `make setup` installs it, or on Debian `apt install %s`' % (platform, package))


def grub_image(tree, iso, bios_only, more=''):
    """An ISO of what lies in the folder `tree`. more: further modules of GRUB's, for a small one."""
    command = ['grub-mkrescue', '--fonts=', '--locales=', '--themes=', '--compress=no', '-o', str(iso)]
    if bios_only:
        command += ['-d', '/usr/lib/grub/i386-pc', '--install-modules=multiboot2 normal iso9660 biosdisk part_msdos serial terminfo ' + more]
    done = subprocess.run(command + [str(tree)], capture_output=True, text=True, env={**os.environ, 'LC_ALL': 'C'})
    if done.returncode or not iso.exists():
        tail = '\n'.join('    ' + line for line in done.stderr.strip().splitlines()[-6:])
        raise Trouble('grub-mkrescue could not make %s:\n%s' % (shown(iso), tail))


def _copy(source, target):
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise Trouble('%s cannot be copied to %s: %s' % (shown(source), shown(target), (error.strerror or str(error)).lower())) from None


RUNS = BUILD / 'run'                # folders of boxes that run now
