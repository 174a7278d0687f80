"""Who may import whom: proved on the source, before anything is translated.   (Python 3)

    spec      imports nothing but spec
    hw        spec and hw; the only one that may use rffi, lltype, llexternal, we_are_translated
    lib       lib, spec, hw, rpython.rlib
    kernel, vmm, manager
              itself, lib, spec, hw, rpython.rlib; never one another. target.py may name lltypes for its entry points.

The rules look at the syntax, so an import inside a function or a condition counts like any other.
"""
import ast
from pathlib import Path

PROGRAMS = ('kernel', 'vmm', 'manager')
MAY_IMPORT = {
    'spec': {'spec'},
    'hw': {'spec', 'hw'},
    'lib': {'lib', 'spec', 'hw'},
    'kernel': {'kernel', 'lib', 'spec', 'hw'},
    'vmm': {'vmm', 'lib', 'spec', 'hw'},
    'manager': {'manager', 'lib', 'spec', 'hw'},
}
HARDWARE_NAMES = {'rffi', 'lltype', 'llmemory', 'llexternal', 'we_are_translated'}
WHY = {
    'we_are_translated': 'code that asks whether it is translated is tested in one form and runs in another',
}
WHY_HARDWARE = 'memory and instructions are reached through hypervisor/hw only'


def check(root):
    """Return the findings, 'file:line: sentence', for everything below root/hypervisor."""
    root = Path(root)
    findings = []
    for path in sorted((root / 'hypervisor').rglob('*.py')):
        parts = path.relative_to(root / 'hypervisor').parts
        if len(parts) < 2:
            continue                        # hypervisor/__init__.py
        findings += [f'{path.relative_to(root)}:{line}: {sentence}' for line, sentence in check_file(path, parts)]
    return findings


def check_file(path, parts):
    """Yield (line, sentence) for one file of hypervisor/PART/."""
    part = parts[0]
    if part not in MAY_IMPORT:
        yield 1, f'hypervisor/{part} is no part of the design: there are {", ".join(MAY_IMPORT)}'
        return
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        yield error.lineno or 1, f'{error.msg}: write what both Python 2.7 and Python 3 can read'
        return
    package = ('hypervisor',) + parts[:-1]
    for node in ast.walk(tree):
        for module in imported(node, package):
            sentence = refuse_import(part, parts[-1], module)
            if sentence:
                yield node.lineno, sentence
        for name in used(node):
            sentence = refuse_name(part, parts[-1], name)
            if sentence:
                yield node.lineno, sentence


def imported(node, package):
    """Return the dotted modules that an import statement names; for `from a import b` both a and a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = list(package[:len(package) - node.level + 1]) if node.level else []
        base += node.module.split('.') if node.module else []
        return ['.'.join(base)] + ['.'.join(base + [alias.name]) for alias in node.names]
    return []


def refuse_import(part, file_name, module):
    """Return why hypervisor/`part` must not import `module`, or None."""
    words = module.split('.')
    if words[0] == 'hypervisor':
        other = words[1] if len(words) > 1 else None
        if other is None or other in MAY_IMPORT[part]:
            return None
        if part in PROGRAMS and other in PROGRAMS:
            return f'{part} imports {module}: the programs never import one another (move what both need to spec or lib)'
        return f'{part} imports {module}: {part} may import only {", ".join(sorted(MAY_IMPORT[part]))}'
    if part == 'spec' and words[0] != '__future__':
        return f'spec imports {module}: spec is plain data that both Pythons can import, and imports nothing but spec'
    if words[0] == 'rpython' and part != 'hw' and len(words) > 1 and words[1] != 'rlib' and not types_of_target(file_name, module):
        return f'{part} imports {module}: outside hypervisor/hw only rpython.rlib may be used'
    return None


def types_of_target(file_name, module):
    """target.py declares the types of its entry points, with lltype's names for them."""
    lowlevel = 'rpython.rtyper.lltypesystem'
    return file_name == 'target.py' and (lowlevel.startswith(module) or module == lowlevel + '.lltype')


def used(node):
    """Return the names that a node brings up: a variable, an attribute, what is imported."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.name.split('.')[-1] for alias in node.names]
    return []


def refuse_name(part, file_name, name):
    """Return why hypervisor/`part` must not use `name`, or None."""
    if name not in HARDWARE_NAMES or part == 'hw' or (name == 'lltype' and file_name == 'target.py'):
        return None
    return f'{part} uses {name}: {WHY.get(name, WHY_HARDWARE)}'


if __name__ == '__main__':
    import sys
    found = check(Path(__file__).resolve().parents[2])
    print('\n'.join(found) or 'imports: every rule holds')
    sys.exit(1 if found else 0)
