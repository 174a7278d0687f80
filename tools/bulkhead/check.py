"""Checks of a whole box: what its files hold, what is named twice, whether it all fits. The way in: load()."""
import difflib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from bulkhead import config, image, linux
from bulkhead.facts import BUILD, KERNEL, MANAGER, VMM, call, config as facts, core as facts_core, layout, pages, processors_text, program, share, shown, size_text

LOW_MEMORY = 1 << 20                # left to the firmware
CORE_BYTES = 6 << 20             # of a core that is started, beyond its arena and its frames' table
KERNEL_BYTES = 2 << 20              # when it is not built yet, or smaller
HOLE, HOLE_END = 0xc0000000, 1 << 32    # emulated machines have at least this hole below 4 GiB
PLACEHOLDER = '@'                   # the checkout's build folder
TOO_LARGE = 1 << 30                 # of one image


@dataclass(frozen=True)
class Boot:
    """What one VM boots, with its files' places."""
    kind: str
    image: Path
    command_line: str
    load: int
    modules: tuple                  # of (path, command line); a Linux kernel's only one is its initrd
    unattended: str = ''            # what joins the command line when nobody is at the keyboard


@dataclass(frozen=True)
class Vm:
    name: str
    memory: int
    vcpus: int
    cpus: tuple                     # virtual processor k runs on cpus[k % len(cpus)]
    restarts: int
    time_limit: int                 # milliseconds, 0: none
    exit_port: bool
    host_tsc: bool
    vmm: Path
    boot: Boot
    entitlement: int = share.LEAST  # hundredths of a processor
    cap: int = share.NO_CAP         # likewise
    weight: int = share.WEIGHT

    def places(self):
        """The processor of each virtual one."""
        return [self.cpus[k % len(self.cpus)] for k in range(self.vcpus)]


@dataclass(frozen=True)
class Machine:
    """A box without mistakes."""
    source: Path
    name: str
    memory: int
    cpus: int
    vms: tuple

    def programs(self):
        """The VMM programs, each once, in the order of first use."""
        return list(dict.fromkeys(vm.vmm for vm in self.vms))

    def unattended(self):
        """The box as it runs when nobody is at the keyboard."""
        return replace(self, vms=tuple(replace(vm, boot=_unattended(vm.boot)) for vm in self.vms))


def _unattended(boot):
    return replace(boot, command_line=config.longest_command_line(boot), unattended='')


def load(path):
    """Read and check a machine.toml and everything it names. Returns a Machine or raises Mistakes with all of them."""
    machine, source = config.read(path)
    return finish(machine, source)


def load_text(text, path):
    """As load(), for a text that stands for a file at `path`."""
    source = config.Source(path, text)
    return finish(config.parse(source), source)


def finish(machine, source):
    if len(machine.vm) > facts.MAX_VMS:
        source.add(('vm', facts.MAX_VMS), 'is one VM too many', 'at most %d VMs in a box' % facts.MAX_VMS)
    _check_names(machine, source)
    _check_vcpus(machine, source)
    _check_cores(machine, source)
    _check_shares(machine, source)
    files = [_files(vm, source, n) for n, vm in enumerate(machine.vm)]
    _check_module_count(machine, source)
    name = machine.box.name if machine.box and machine.box.name else _name_of(source, machine)
    if not source.mistakes:
        _check_sum(machine, files, source)
    if source.mistakes:
        raise config.Mistakes(source.mistakes)
    return Machine(Path(source.path), name, machine.box.memory, machine.box.cpus,
                   tuple(_finished(vm, each) for vm, each in zip(machine.vm, files)))


def _finished(vm, files):
    load = config.FLAT_LOAD if vm.boot.load is None else vm.boot.load
    boot = Boot(vm.boot.kind, files.image, vm.boot.command_line, load if vm.boot.kind == 'flat' else 0,
                tuple((path, module.command_line) for path, module in zip(files.modules, config.modules_of(vm.boot))),
                vm.boot.unattended)
    return Vm(vm.name, vm.memory, vm.vcpus, tuple(vm.cpus), vm.restarts, vm.time_limit, vm.exit_port, vm.host_tsc, files.vmm, boot,
              vm.entitlement, vm.cap, vm.weight)


def _name_of(source, machine):
    """The box's name where the file gives none: the file's own."""
    if machine.box and not config.NAME.fullmatch(source.stem):
        if not (isinstance(source.table.get('box'), dict) and 'name' in source.table['box']):
            source.add(('box', 'name'), 'is missing, and the file\'s own name would be no name for a box', 'name = "my-box"')
        return ''
    return source.stem


def _check_names(machine, source):
    first = {}
    for n, vm in enumerate(machine.vm):
        if vm.name is None:
            continue
        if vm.name in first:
            source.add(('vm', n, 'name'), 'the VM on line %d has the same name' % source.line(('vm', first[vm.name], 'name')),
                       'another name')
        first.setdefault(vm.name, n)


def _check_vcpus(machine, source):
    """Told once, at the VM with which they become too many."""
    count = 0
    for n, vm in enumerate(machine.vm):
        count += vm.vcpus
        if count > facts.MOST_VCPUS_TOGETHER:
            source.add(('vm', n, 'vcpus'), 'the VMs up to this one have %d virtual processors together' % count,
                       'fewer here or in another VM: at most %d in a box' % facts.MOST_VCPUS_TOGETHER)
            return


def _check_cores(machine, source):
    for n, vm in enumerate(machine.vm):
        if len(vm.cpus) > vm.vcpus and not config.was_misread('vcpus', source, vm, ('vm', n)):
            source.add(('vm', n, 'cpus'), 'names %d processors, and the VM has %d virtual one%s: some would have nothing to do'
                       % (len(vm.cpus), vm.vcpus, '' if vm.vcpus == 1 else 's'), _fewer_cores(vm))
        elif machine.box is not None and not config.was_misread('cpus', source, machine.box, ('box',)):
            _check_processors_are_there(machine.box.cpus, vm, source, n)


def _fewer_cores(vm):
    fewer = 'cpus = %s' % vm.cpus[:vm.vcpus]
    return 'vcpus = %d, or %s' % (len(vm.cpus), fewer) if len(vm.cpus) <= facts.MOST_VCPUS else fewer


def _check_processors_are_there(count, vm, source, n):
    missing = sorted(core for core in vm.cpus if core >= count)
    if missing:
        which = 'processor %d is' % missing[0] if len(missing) == 1 else 'processors %s are' % ', '.join(map(str, missing))
        smaller = 'a smaller number here' if len(vm.cpus) == 1 else 'smaller numbers here'
        source.add(('vm', n, 'cpus'), '%s not there: the box has %d, numbered from 0' % (which, count),
                   'cpus = %d in [box], or %s' % (missing[-1] + 1, smaller) if missing[-1] < facts_core.MOST else smaller)


def _check_shares(machine, source):
    for n, vm in enumerate(machine.vm):
        if vm.cap != share.NO_CAP and vm.cap < vm.entitlement:
            source.add(('vm', n, 'cap'), '%s are less than the %s that the VM is promised' % (processors_text(vm.cap), processors_text(vm.entitlement)),
                       'cap = %s or more' % processors_text(vm.entitlement))
    _check_promises(machine, source)


def _check_promises(machine, source):
    """What a core's VMs are promised, together with its manager, is no more than the core. A VM is promised that much of each of its
    cores. Told once for a core, at the VM with which it becomes too much; at a VM for the core that is promised most."""
    together, told = Counter(), set()
    for n, vm in enumerate(machine.vm):
        together.update({core: vm.entitlement for core in vm.cpus})
        over = [core for core in vm.cpus if core not in told and together[core] > facts.MOST_PROMISED]
        told.update(over)
        if over:
            core = max(over, key=together.get)
            room = facts.MOST_PROMISED - (together[core] - vm.entitlement)
            source.add(('vm', n, 'entitlement'), 'the VMs up to this one on processor %d are promised %s of it together, and the manager %s: there is 1.00'
                       % (core, processors_text(together[core]), processors_text(share.MANAGER)),
                       'entitlement = %s or less' % processors_text(room) if room >= share.LEAST else 'less for the VMs before it')


def _check_module_count(machine, source):
    programs = set(vm.vmm for vm in machine.vm)
    count = facts.MODULE_FIRST + len(programs) + sum(1 + len(config.modules_of(vm.boot)) for vm in machine.vm if vm.boot)
    if count > call.MODULES:
        source.add(('vm',), 'the box needs %d boot modules (manager, configuration, %d VMM program%s, images and modules) and may have %d'
                   % (count, len(programs), '' if len(programs) == 1 else 's', call.MODULES), 'fewer VMs or fewer modules')


# One VM's files.

@dataclass
class Files:
    """Places and sizes; None where the file is not usable."""
    vmm: Path | None = None
    image: Path | None = None
    modules: list = field(default_factory=list)
    bytes: int = 0


def resolve(path, folder):
    """Where a path of a machine.toml leads: '@x' to x in the checkout's build folder, others from the file's own folder."""
    return BUILD / path[1:].lstrip('/') if path.startswith(PLACEHOLDER) else (folder / path).resolve()


def _files(vm, source, n):
    files = Files()
    files.vmm = _program(vm, source, n)
    if vm.boot is None:
        return files
    boot_path = ('vm', n, 'boot')
    if vm.boot.image is not None:
        data = _content(source, boot_path + ('image',), vm.boot.image)
        if data is not None:
            files.image = resolve(vm.boot.image, source.folder)
            files.bytes += len(data)
            _check_image(vm, data, source, boot_path)
    _check_modules(vm, files, source, boot_path)
    if vm.name is not None and config.string_bytes(vm) > config.STRING_ROOM:
        source.add(boot_path, 'name and command lines of this VM and its modules take %d bytes together'
                   % config.string_bytes(vm), 'at most %d bytes' % config.STRING_ROOM)
    return files


def _program(vm, source, n):
    """The VMM program: the build's own, or one that the file names (that one is looked at: it has to be a Bulkhead program)."""
    if vm.vmm is None:
        return VMM
    data = _content(source, ('vm', n, 'vmm'), vm.vmm)
    if data is None:
        return None
    if len(data) <= program.HEADER_BYTES or int.from_bytes(data[:8], 'little') != program.MAGIC:
        source.add(('vm', n, 'vmm'), "'%s' is no Bulkhead program" % vm.vmm, 'a NAME.bin as the build makes them')
        return None
    return resolve(vm.vmm, source.folder)


def _check_modules(vm, files, source, boot_path):
    for path, module in _module_keys(vm.boot, boot_path):
        data = _content(source, path, module.image) if module.image is not None else None
        if data is not None:
            files.modules.append(resolve(module.image, source.folder))
            files.bytes += len(data)
    if len(vm.boot.modules) > call.GUEST_MODULES:
        source.add(boot_path + ('modules', call.GUEST_MODULES), 'is one module too many', 'at most %d modules' % call.GUEST_MODULES)
    _check_fitting_keys(vm.boot, source, boot_path)
    if vm.memory is not None and files.bytes > vm.memory:
        source.add(boot_path, 'image and modules (%s) do not fit into the VM\'s memory of %s' % (mib(files.bytes), size_text(vm.memory)),
                   'memory = "%s" or more' % size_text(_round_up(files.bytes + (2 << 20), facts.RAM_STEP)))


def _module_keys(boot, boot_path):
    """The keys that name modules, each with its Module."""
    keys = [boot_path + ('initrd',)] if boot.initrd is not None else []
    return zip(keys + [boot_path + ('modules', m, 'image') for m in range(len(boot.modules))], config.modules_of(boot))


def _check_fitting_keys(boot, source, boot_path):
    """Some keys are for some kinds of images only; some must fit together."""
    size = len(config.longest_command_line(boot).encode())
    if boot.unattended and size > facts.COMMAND_LINE_BYTES:
        source.add(boot_path + ('unattended',), 'makes the command line %d bytes long' % size, 'at most %d bytes together' % facts.COMMAND_LINE_BYTES)
    if boot.kind == 'flat' and boot.modules:
        source.add(boot_path + ('modules',), 'a flat image cannot be told of modules', 'no modules here, or kind = "multiboot"')
    if boot.kind == 'linux' and boot.modules:
        source.add(boot_path + ('modules',), 'a Linux kernel takes no modules but an initrd', 'initrd = "..."')
    if boot.kind is not None and boot.kind != 'linux' and boot.initrd is not None:
        source.add(boot_path + ('initrd',), 'is for Linux kernels', 'kind = "linux"' if boot.kind == 'flat' else 'modules = [{ image = "..." }]')
    if boot.kind is not None and boot.kind != 'flat' and boot.load is not None:
        source.add(boot_path + ('load',), 'is for flat images: a %s image says itself where it goes' % boot.kind, 'no load here')


def _check_image(vm, data, source, boot_path):
    try:
        if vm.boot.kind == 'multiboot':
            ranges = image.multiboot_ranges(data)
        elif vm.boot.kind == 'flat':
            ranges = image.flat_range(len(data), config.FLAT_LOAD if vm.boot.load is None else vm.boot.load)
        elif vm.boot.kind == 'linux':
            ranges = linux.check(data, config.longest_command_line(vm.boot))
        elif vm.boot.kind == 'pvh':
            ranges = image.pvh_ranges(data)
        else:
            return
        if vm.memory is not None:
            image.check_ranges(ranges, vm.memory)
    except image.Unbootable as error:
        source.add(boot_path + ('image',), "'%s' cannot be booted: %s" % (vm.boot.image, error.what), error.write)


def _content(source, path, said):
    """The bytes of the file that a key names, or None with a mistake noted."""
    place = resolve(said, source.folder)
    try:
        if place.is_file() and place.stat().st_size > TOO_LARGE:
            source.add(path, "'%s' is larger than 1G" % said)
            return None
        data = place.read_bytes()
    except FileNotFoundError:
        source.add(path, "there is no file '%s' (looked for %s)" % (said, shown(place)), _nearest_file(said, place))
        return None
    except IsADirectoryError:
        source.add(path, "'%s' is a folder" % said, 'the name of a file')
        return None
    except (OSError, ValueError) as error:
        source.add(path, "'%s' cannot be read: %s" % (said, (getattr(error, 'strerror', None) or str(error)).lower()))
        return None
    if not data:
        source.add(path, "'%s' is empty" % said, 'a file with something in it')
        return None
    return data


def _nearest_file(said, place):
    """What might have been meant: a file of a like name beside it."""
    try:
        names = [each.name for each in place.parent.iterdir() if each.is_file() and each.suffix != '.stamp']
    except OSError:
        names = []
    near = difflib.get_close_matches(place.name, names, 1, 0.6)
    if near:
        return '"%s" (did you mean that?)' % (said[:len(said) - len(place.name)] + near[0])
    if said.startswith(PLACEHOLDER):
        return 'the name of a file in %s; `make` builds what belongs there' % shown(BUILD)
    return 'a path from the folder of this file, or "@guests/NAME" for one of the build\'s guests'


# The sum.

def _size_of(path, fallback):
    try:
        return path.stat().st_size
    except OSError:
        return fallback


def _check_sum(machine, files, source):
    """Does everything fit into the box? Counted generously: a sum that fits here fits in the box as well."""
    vms = sum(vm.memory for vm in machine.vm)
    kernel = max(KERNEL_BYTES, _size_of(KERNEL, KERNEL_BYTES))
    programs = [_size_of(VMM if each.vmm is None else each.vmm, 1 << 20) for each in files]
    modules = _size_of(MANAGER, 1 << 20) + sum(programs) + sum(each.bytes for each in files)
    tasks = sum(_round_up(size, layout.PAGE) + (layout.STACK_PAGES + 64) * layout.PAGE for size in programs + [1 << 20])
    alignment = facts.RAM_STEP * (len(machine.vm) > 0) + layout.PAGE * 2 * len(machine.vm)
    table = machine.box.memory // layout.PAGE * 2
    kept = layout.ARENA_BYTES + sum(_kernel_bytes(vm, each.bytes) for vm, each in zip(machine.vm, files))
    own = LOW_MEMORY + kernel + table + kept + modules + tasks + alignment + _cores_own(machine, programs)
    needed = vms + own
    usable = machine.box.memory
    if needed > usable:
        source.add(('box', 'memory'), '%s are too little: the VMs have %s together, and Bulkhead, images and modules need %s more'
                   % (size_text(usable), size_text(vms), mib(own)),
                   'memory = "%s" or more' % size_text(_round_up(needed, 16 << 20)))
        return
    _check_contiguous(machine, source, own)


def _kernel_bytes(vm, content):
    """What the kernels keep for a VM, whose image and modules have so many bytes: pages on each core that it is on."""
    parts = pages.for_part(content // layout.PAGE) + call.GUEST_MODULES * pages.PER_PART
    count = pages.for_vm(vm.memory // layout.PAGE, len(vm.cpus)) + parts
    return len(set(vm.cpus)) * min(count, pages.MOST) * layout.PAGE


def _cores_own(machine, programs):
    """What the cores beyond the first need for themselves: a kernel's memory, copies of the programs, room for each VM's own. A VM has
    memory where its first virtual processor is; the others need no more than a kernel there."""
    cores = set(core for vm in machine.vm for core in vm.cpus) - {facts_core.FIRST}
    manager = _size_of(MANAGER, 1 << 20)
    table = _round_up(machine.box.memory // layout.PAGE * 2, facts.RAM_STEP)
    each = layout.ARENA_BYTES + table + CORE_BYTES + 2 * facts.RAM_STEP + _round_up(manager + (1 << 20), facts.RAM_STEP)
    at_home_there = [size for vm, size in zip(machine.vm, programs) if vm.cpus[0] != facts_core.FIRST]
    return len(cores) * each + sum(_round_up(size, layout.PAGE) + facts.RAM_STEP for size in at_home_there)


def _check_contiguous(machine, source, own):
    """Each VM's memory is one stretch, and the hole below 4 GiB cuts the box's memory in two."""
    if machine.box.memory <= HOLE:
        return
    room = [HOLE - own, machine.box.memory - HOLE]
    for n, vm in sorted(enumerate(machine.vm), key=lambda pair: -pair[1].memory):
        place = next((each for each in (1, 0) if room[each] >= vm.memory), None)
        if place is None:
            source.add(('vm', n, 'memory'), 'no stretch of %s is left for it: a PC\'s memory has a hole below 4G' % size_text(vm.memory),
                       'a smaller VM, or a box with more memory')
            return
        room[place] -= vm.memory


def _round_up(count, step):
    return -(-count // step) * step


def mib(count):
    return '%dM' % (_round_up(count, 1 << 20) >> 20)
