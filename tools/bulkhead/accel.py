"""Which accelerator QEMU gets. That /dev/kvm opens proves nothing: the box's kernel needs VMX or SVM inside, so KVM must nest."""
import os
import re
from pathlib import Path

from bulkhead.mistake import Trouble

CPUINFO, PARAMETERS, DEVICE = Path('/proc/cpuinfo'), Path('/sys/module'), '/dev/kvm'
MODULES = {'vmx': 'kvm_intel', 'svm': 'kvm_amd'}


def choose(wanted):
    """wanted: auto, kvm or tcg. Returns (accelerator, why) or, for kvm that cannot be, raises Trouble."""
    if wanted == 'tcg':
        return 'tcg', 'as asked for'
    obstacle = why_not_kvm()
    if wanted == 'kvm' and obstacle:
        raise Trouble('KVM cannot run this box: %s. Use --accel tcg' % obstacle)
    return ('tcg', 'not KVM, because ' + obstacle) if obstacle else ('kvm', 'the processor and its KVM module can nest')


def why_not_kvm():
    """A sentence, or '' where KVM can run a hypervisor."""
    flags = _flags()
    flag = next((each for each in MODULES if each in flags), None)
    if flag is None:
        return 'this machine\'s processor shows neither vmx nor svm'
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return '%s is not there' % DEVICE
    except OSError as error:
        return '%s cannot be opened: %s' % (DEVICE, (error.strerror or str(error)).lower())
    nested = PARAMETERS / MODULES[flag] / 'parameters/nested'
    try:
        value = nested.read_text().strip()
    except OSError:
        return '%s cannot be read, so nobody knows whether KVM nests' % nested
    return '' if value in ('1', 'Y', 'y') else 'nesting is switched off (%s says %s)' % (nested, value)


def _flags():
    try:
        found = re.search(r'^flags\s*:(.*)$', CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        return set()
    return set(found[1].split()) if found else set()
