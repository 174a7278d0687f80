"""Make build/gen/spec.h: the constants of hypervisor/spec for assembly, C and the linker scripts.

Every module of hypervisor/spec that defines C_CONSTANTS = {name: int} takes part.
"""
import importlib
import pkgutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class HeaderError(Exception):
    """A constant that cannot be written; the message says which and why."""


def spec_modules(package_name='hypervisor.spec'):
    """Import the package's modules, freshly when their files changed, in alphabetical order."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    package = importlib.import_module(package_name)
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f'{package_name}.{name}') for name in names]


def defines(modules):
    """Return [(module name, [(constant, value)])].  Raises HeaderError for a bad value or two values of one name."""
    seen = {}
    sections = []
    for module in modules:
        section = list(getattr(module, 'C_CONSTANTS', {}).items())
        for name, value in section:
            check(module.__name__, name, value, seen)
        if section:
            sections.append((module.__name__, section))
    return sections


def check(module_name, name, value, seen):
    if not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise HeaderError(f'{module_name}: C_CONSTANTS[{name!r}] is {value!r}: give a whole number from 0 to 2**64-1')
    if not name.isidentifier() or not name.isupper():
        raise HeaderError(f'{module_name}: C_CONSTANTS[{name!r}]: a constant is written in capitals, digits and underscores')
    if name in seen:
        raise HeaderError(f'{module_name}: C_CONSTANTS[{name!r}] is already made by {seen[name]}: a fact appears once')
    seen[name] = module_name


def text(sections):
    """Return the header.  Values are plain hexadecimal, because the assembler and the linker know no suffix."""
    lines = ['/* Made by tools/build/headers.py from hypervisor/spec. Do not edit. */',
             '#ifndef BULKHEAD_SPEC_H', '#define BULKHEAD_SPEC_H']
    for module_name, section in sections:
        lines += ['', f'/* {module_name} */']
        lines += [f'#define {name} {value:#x}' for name, value in section]
    return '\n'.join(lines + ['', '#endif', ''])


def write(path):
    """Write the header to `path`; the file stays untouched when nothing has changed."""
    content = text(defines(spec_modules()))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != content:
        path.write_text(content)


if __name__ == '__main__':
    sys.dont_write_bytecode = True
    write(sys.argv[1] if len(sys.argv) > 1 else ROOT / 'build' / 'gen' / 'spec.h')
