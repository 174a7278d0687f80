"""machine.toml: its keys, and the reading of one with all mistakes at once.

read() gives a Machine in which everything has been looked at that a file can say about itself; what depends on other files and on
sums is check.py's.
"""
import copy
import difflib
import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic_core import PydanticCustomError

from bulkhead import position
from bulkhead.facts import boot as boot_facts, call, config as facts, core, layout, processors_text, share, size_text
from bulkhead.mistake import Mistake, Mistakes

UNITS = {'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}
SIZE = re.compile(r'([0-9]+) ?([KMG])(?:i?B)?', re.ASCII)
NAME = re.compile(r'[a-z0-9_-]{1,%d}' % facts.NAME_BYTES, re.ASCII)
MOST_FILE_BYTES = 1 << 20
STRING_ROOM = layout.PAGE - boot_facts.STRINGS          # for a VM's name and command lines in its boot page
FLAT_LOAD = 0x7c00
REAL_MODE_END = 0x10000


def wrong(what, write=''):
    """A mistake in one value, for pydantic."""
    return PydanticCustomError('bulkhead', '{what}', {'what': what, 'write': write})


def _size(value):
    if not isinstance(value, str):
        hint = '"%s"' % size_text(value) if type(value) is int and value >= 1 << 20 and value % (1 << 20) == 0 else '"16M"'
        raise wrong('is a size, so it is written as text with its unit', hint + ' (units: K, M, G)')
    found = SIZE.fullmatch(value.strip())
    if not found:
        raise wrong('"%s" is no size' % value, 'a whole number and a unit, like "16M" (units: K, M, G)')
    return int(found[1]) * UNITS[found[2]]


def _aligned_size(value):
    size = _size(value)
    if size % facts.RAM_STEP or size == 0:
        below, above = size // facts.RAM_STEP * facts.RAM_STEP, -(-max(size, 1) // facts.RAM_STEP) * facts.RAM_STEP
        near = ' or '.join('"%s"' % size_text(each) for each in (below, above) if each)
        raise wrong('%s is no multiple of 2M' % value, near)
    return size


def _vm_memory(value):
    size = _aligned_size(value)
    if size > facts.RAM_MOST:
        raise wrong('%s is more than a VM may have' % value, 'at most "3G"')
    return size


def _name(value):
    if not isinstance(value, str):
        raise wrong('is a name, so it is text', '"left"')
    if not NAME.fullmatch(value):
        if not value:
            raise wrong('is empty', 'a name of a-z, 0-9, _ and -')
        if len(value.encode()) > facts.NAME_BYTES:
            raise wrong('is %d bytes long' % len(value.encode()), 'at most %d of a-z, 0-9, _ and -' % facts.NAME_BYTES)
        bad = sorted(set(c for c in value if not NAME.fullmatch(c)))
        better = re.sub('[^a-z0-9_-]+', '-', value.lower()).strip('-')
        raise wrong('"%s" has %s in it, which a name may not have' % (value, ', '.join(repr(c) for c in bad)),
                    ('"%s" (' % better if better else '(') + 'only a-z, 0-9, _ and -)')
    return value


def _command_line(value):
    if not isinstance(value, str):
        raise wrong('is a command line, so it is text', '"%s"' % value)
    size = len(value.encode())
    if size > facts.COMMAND_LINE_BYTES:
        raise wrong('is %d bytes long' % size, 'at most %d bytes' % facts.COMMAND_LINE_BYTES)
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise wrong('has a control character in it', 'one line of plain text')
    return value


def _cpus(value):
    if type(value) is not int or value < 1:
        raise wrong('is a number of processors', 'a number from 1 to %d' % core.MOST)
    if value > core.MOST:
        raise wrong('%d are more processors than a box may have' % value, 'at most %d' % core.MOST)
    return value


def _own_cpus(value):
    if type(value) is int and value > 0:
        raise wrong('is a list of the processors that the VM runs on', '[%d] for processor %d, or vcpus = %d for virtual ones' % (value, value, value))
    if not isinstance(value, list) or any(type(each) is not int or each < 0 for each in value):
        raise wrong('is a list of the processors that the VM runs on', '[1], or [0, 1]')
    if not value:
        raise wrong('names no processor: a VM runs on one at least', '[0]')
    if len(value) > core.MOST:
        raise wrong('names %d processors: a box has at most %d' % (len(value), core.MOST), 'each that the VM runs on once')
    once = list(dict.fromkeys(value))
    if len(once) != len(value):
        twice = next(each for each in once if value.count(each) > 1)
        raise wrong('names processor %d more than once: virtual processors go round this list anyway' % twice, '%s' % once)
    return value


def _vcpus(value):
    if type(value) is not int or value < 1:
        raise wrong('is a number of virtual processors', 'a number from 1 to %d' % facts.MOST_VCPUS)
    if value > facts.MOST_VCPUS:
        raise wrong('%d are more than a VM may have' % value, 'at most %d' % facts.MOST_VCPUS)
    return value


def _hundredths(value, what):
    """0.25 as 25. What has more than two decimals is a mistake, not rounded."""
    if type(value) not in (int, float) or type(value) is float and not math.isfinite(value):
        raise wrong('is %s, in processors' % what, '0.25')
    hundredths = round(value * share.WHOLE) if 0 <= value <= 1 else 0        # what is much larger cannot be multiplied
    if not share.LEAST <= hundredths <= share.WHOLE or abs(value * share.WHOLE - hundredths) > 1e-6:
        raise wrong('%s is not %s' % (value, what), 'from %s to %s, with two decimals' % (processors_text(share.LEAST), processors_text(share.WHOLE)))
    return hundredths


def _entitlement(value):
    return _hundredths(value, 'the part of a processor that the VM is promised')


def _cap(value):
    return _hundredths(value, 'the part of a processor that the VM has at most')


def _weight(value):
    if type(value) is not int or not 1 <= value <= share.WEIGHT_MOST:
        raise wrong('is the VM\'s part of what nobody is promised, against the others\' weights', 'a number from 1 to %d' % share.WEIGHT_MOST)
    return value


def _path(value):
    if not isinstance(value, str):
        raise wrong('is a path, so it is text', '"@guests/hello"')
    if not value or '\0' in value:
        raise wrong('is no path', '"@guests/hello" (of the build folder), or a path from this file\'s folder')
    return value


def _load(value):
    if type(value) is not int:
        raise wrong('is an address, so it is a number', '0x%x' % FLAT_LOAD)
    if not 0 <= value < REAL_MODE_END:
        raise wrong('0x%x is out of reach: a flat image starts in real mode, below 64 KiB' % value if value >= 0 else
                    '%d is no address' % value, '0x%x' % FLAT_LOAD)
    return value


def _restarts(value):
    if type(value) is not int or not 0 <= value <= 0xffffffff:
        raise wrong('is how often the VM may reset itself', 'a number from 0 on')
    return value


def _time_limit(value):
    found = re.fullmatch('([1-9][0-9]{0,6})(ms|s)', value) if isinstance(value, str) else None
    if not found:
        raise wrong('is no time: how long the VM may have the processor', '"500ms" or "10s"')
    return int(found[1]) * (1000 if found[2] == 's' else 1)


def _checked(function, kind):
    return Annotated[kind | None, pydantic.PlainValidator(function)]


class Table(pydantic.BaseModel):
    """A table of the file. A key without a value is None only where `required` names it (and then it is a mistake)."""
    model_config = pydantic.ConfigDict(extra='forbid', strict=True)
    required: ClassVar[tuple] = ()
    example: ClassVar[dict] = {}


class Module(Table):
    required: ClassVar = ('image',)
    example: ClassVar = {'image': 'image = "@guests/hello"'}
    image: _checked(_path, str) = None
    command_line: _checked(_command_line, str) = ''


class Boot(Table):
    required: ClassVar = ('kind', 'image')
    example: ClassVar = {'kind': 'kind = "multiboot"', 'image': 'image = "@guests/hello"'}
    kind: Literal['linux', 'multiboot', 'pvh', 'flat'] | None = None
    image: _checked(_path, str) = None
    initrd: _checked(_path, str) = None
    command_line: _checked(_command_line, str) = ''
    unattended: _checked(_command_line, str) = ''
    load: _checked(_load, int) = None
    modules: list[Module] = []


class Vm(Table):
    required: ClassVar = ('name', 'memory', 'boot')
    example: ClassVar = {'name': 'name = "left"', 'memory': 'memory = "16M"', 'boot': 'a table [vm.boot] with kind and image'}
    name: _checked(_name, str) = None
    memory: _checked(_vm_memory, int) = None
    vcpus: _checked(_vcpus, int) = 1
    cpus: _checked(_own_cpus, list) = [0]
    entitlement: _checked(_entitlement, int) = share.LEAST          # hundredths
    cap: _checked(_cap, int) = share.NO_CAP                         # hundredths
    weight: _checked(_weight, int) = share.WEIGHT
    restarts: _checked(_restarts, int) = 0
    time_limit: _checked(_time_limit, int) = 0
    exit_port: bool = False
    host_tsc: bool = False
    vmm: _checked(_path, str) = None
    boot: Boot | None = None


class Box(Table):
    required: ClassVar = ('memory',)
    example: ClassVar = {'memory': 'memory = "256M"'}
    name: _checked(_name, str) = None
    memory: _checked(_aligned_size, int) = None
    cpus: _checked(_cpus, int) = 1


class Machine(Table):
    required: ClassVar = ('box', 'vm')
    example: ClassVar = {'box': 'a table [box] with memory', 'vm': 'a table [[vm]] for each VM'}
    box: Box | None = None
    vm: list[Vm] = []


# Which table a key belongs to, for keys that stand in another one.
HOMES = [('[box]', Box), ('[[vm]]', Vm), ('[vm.boot]', Boot), ('modules = [{...}]', Module)]

TYPES = {
    'bool_type': ('is true or false', 'true'),
    'literal_error': ('is no kind of image', '"linux", "multiboot", "pvh" or "flat"'),
    'list_type': ('is a list', None),
    'model_type': ('is a table', None),
    'model_attributes_type': ('is a table', None),
}


class Source:
    """One file's text and what tomllib makes of it."""

    def __init__(self, path, text):
        self.path = str(path)
        self.folder = Path(path).resolve().parent
        self.stem = Path(path).stem
        self.table = _parse(path, text)
        self.lines = position.lines_of(text)
        self.mistakes = []

    def line(self, path):
        """The line of the closest thing to `path` that is in the file."""
        path = tuple(path)
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def key(self, path):
        """As people say it: ('vm', 0, 'boot', 'image') is 'vm "left", boot.image'."""
        path, where = tuple(path), ''
        if path[:1] == ('vm',) and len(path) > 1 and isinstance(path[1], int):
            where = 'vm ' + self._vm_name(path[1])
            path = path[2:]
        key = ''
        for part in path:
            key += ' %d' % (part + 1) if isinstance(part, int) else '.' + part if key else str(part)
        return ', '.join(each for each in (where, key) if each)

    def _vm_name(self, index):
        vms = self.table.get('vm')
        name = vms[index].get('name') if isinstance(vms, list) and isinstance(vms[index], dict) else None
        return '"%s"' % name if isinstance(name, str) and NAME.fullmatch(name) else '%d' % (index + 1)

    def add(self, path, what, write=''):
        self.mistakes.append(Mistake(self.path, self.line(path), self.key(path), what, write))


def read(path):
    """Read and check one file by itself. Returns (Machine, Source): what could not be understood is None and in source.mistakes.

    Raises Mistakes when there is nothing to go on with (no file, no TOML).
    """
    source = Source(path, _text(path))
    return parse(source), source


def parse(source):
    _refuse_long_numbers(source, source.table, ())
    if source.mistakes:
        raise Mistakes(source.mistakes)
    table = copy.deepcopy(source.table)
    _hint_at_shapes(source, table)
    machine = _validated(source, table)
    _require(source, machine, ())
    return machine


def _text(path):
    def fail(what, write=''):
        raise Mistakes([Mistake(str(path), 0, '', what, write)])
    try:
        with open(path, 'rb') as file:
            data = file.read(MOST_FILE_BYTES + 1)
    except FileNotFoundError:
        fail('there is no such file')
    except IsADirectoryError:
        fail('is a folder', 'the name of a machine.toml')
    except OSError as error:
        fail('cannot be read: %s' % error.strerror.lower())
    if len(data) > MOST_FILE_BYTES:
        fail('is larger than 1M: this is no machine.toml')
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise Mistakes([Mistake(str(path), line, '', 'is not UTF-8 text: byte 0x%02x' % data[error.start])]) from None


def _parse(path, text):
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        found = re.search(r' \(at line (\d+), column (\d+)\)$', said)
        line = int(found[1]) if found else max(text.rstrip().count('\n') + 1, 1)
        what = re.sub(r' \(at .*\)$', '', said)
        column = ', column %s' % found[2] if found else ', at its end'
        raise Mistakes([Mistake(str(path), line, '', 'is no TOML here%s: %s' % (column, what[:1].lower() + what[1:]))]) from None
    except ValueError:
        raise Mistakes([Mistake(str(path), 0, '', 'holds a number of thousands of digits: this is no machine.toml')]) from None
    except RecursionError:
        raise Mistakes([Mistake(str(path), 0, '', 'is nested too deeply: this is no machine.toml')]) from None


def _refuse_long_numbers(source, value, path):
    """Source: TOML v1.0.0, "Integer". Longer ones cannot be computed with like others, nor even be told."""
    if isinstance(value, int) and not -1 << 63 <= value < 1 << 63:
        source.add(path, 'is a number that does not fit into 64 bits')
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        _refuse_long_numbers(source, inner, path + (key,))


def _hint_at_shapes(source, table):
    """[vm] instead of [[vm]]: said once and mended, so that the rest is looked at as well."""
    if isinstance(table.get('vm'), dict):
        source.add(('vm',), 'is a list of VMs', '[[vm]] with two brackets')
        table['vm'] = [table['vm']]
        source.table = {**source.table, 'vm': table['vm']}
        source.lines = {(path[:1] + (0,) + path[1:] if path[:1] == ('vm',) else path): line for path, line in source.lines.items()}


def _validated(source, table):
    """A Machine of what can be understood; the rest becomes mistakes and is left out."""
    for _ in range(100):
        try:
            return Machine.model_validate(table)
        except pydantic.ValidationError as errors:
            for error in errors.errors(include_url=False):
                _explain(source, error)
            for error in errors.errors(include_url=False):
                _remove(table, error['loc'])
    raise AssertionError('mistakes that removing does not mend: %r' % table)


def _explain(source, error):
    path, kind = error['loc'], error['type']
    if kind == 'bulkhead':
        source.add(path, error['ctx']['what'], _assigned(path, error['ctx']['write']))
    elif kind == 'extra_forbidden':
        source.add(path, 'is no key that is known here', _nearest(path))
    elif kind in TYPES:
        what, write = TYPES[kind]
        source.add(path, what, _assigned(path, write) if write else _shape(path))
    else:
        source.add(path, error['msg'].lower())


def _assigned(path, write):
    key = next((part for part in reversed(path) if isinstance(part, str)), '')
    return '%s = %s' % (key, write) if write[:1] in '"[0123456789tf' and write else write


def _shape(path):
    names = [part for part in path if isinstance(part, str)]
    return {
        'vm': '[[vm]] and the keys of one VM below it', 'box': '[box] and its keys below it',
        'boot': '[vm.boot] and its keys below it', 'modules': 'modules = [{ image = "..." }]',
    }.get(names[-1], '')


def _table_at(path):
    """The model of the table that `path` is a key of."""
    names = [part for part in path[:-1] if isinstance(part, str)]
    return {'vm': Vm, 'box': Box, 'boot': Boot, 'modules': Module}.get(names[-1] if names else '', Machine)


def _nearest(path):
    key, here = path[-1], _table_at(path)
    homes = [home for home, model in HOMES if key in model.model_fields and model is not here]
    near = difflib.get_close_matches(key, here.model_fields, 1, 0.6)
    if homes:
        return ', or '.join(near + ['%s in %s' % (key, ' or '.join(homes))])
    if near:
        return '%s (did you mean that?)' % near[0]
    return 'one of ' + ', '.join(here.model_fields)


def _remove(table, path):
    """Take what `path` names out of the tables (a list's element becomes an empty table)."""
    for part in path[:-1]:
        if isinstance(table, dict) and part not in table:
            return
        table = table[part]
    if isinstance(table, list):
        table[path[-1]] = {}
    else:
        table.pop(path[-1], None)


def _require(source, table, path):
    """Each table has the keys that it must have."""
    raw = raw_at(source.table, path)
    for key in table.required:
        if (not isinstance(raw, dict) or key not in raw or raw[key] == []) and not _was_misspelt(key, raw, table):
            source.add(path + (key,), 'is missing', table.example[key])
    for key in type(table).model_fields:
        value = getattr(table, key)
        for index, each in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(each, Table) and isinstance(raw_at(source.table, path + (key,) + ((index,) if index is not None else ())), dict):
                _require(source, each, path + (key,) + ((index,) if index is not None else ()))


def _was_misspelt(key, raw, table):
    """Does some unknown key of this table look like `key`? Then that has been said already."""
    return any(difflib.get_close_matches(other, type(table).model_fields, 1, 0.6) == [key]
               for other in raw or () if other not in type(table).model_fields)


def was_misread(key, source, table, path):
    """Does the file say something for `key` of the table at `path` that was no value for it? Then its default stands there, and that has
    been said already."""
    raw = raw_at(source.table, path)
    return isinstance(raw, dict) and (key in raw and key not in table.model_fields_set or _was_misspelt(key, raw, table))


def raw_at(table, path):
    for part in path:
        try:
            table = table[part]
        except (KeyError, IndexError, TypeError):
            return None
    return table


def modules_of(boot):
    """The modules of one VM's image, in their order: a Linux kernel's initrd is its only one."""
    return ([Module(image=boot.initrd)] if boot.initrd is not None else []) + boot.modules


def longest_command_line(boot):
    """The command line with what joins it when nobody is at the keyboard."""
    return ' '.join(part for part in (boot.command_line, boot.unattended) if part)


def string_bytes(vm):
    """What the strings of this VM take of its boot page, each with its NUL."""
    strings = [vm.name, longest_command_line(vm.boot)] + [module.command_line for module in modules_of(vm.boot)]
    return sum(len((text or '').encode()) + 1 for text in strings)


assert call.GUEST_MODULES == 4      # docs/machine.md says so
