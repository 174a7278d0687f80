"""The configuration blob (hypervisor/spec/config.py): made from a Machine, and read back for people and tests."""
import struct
import zlib
from dataclasses import dataclass

from bulkhead.facts import boot as boot_facts, call, config as facts

HEADER, VM = facts.HEADER, facts.VM
KINDS = {'flat': boot_facts.IMAGE_FLAT, 'multiboot': boot_facts.IMAGE_MULTIBOOT, 'linux': boot_facts.IMAGE_LINUX, 'pvh': boot_facts.IMAGE_PVH}
KIND_NAMES = {number: name for name, number in KINDS.items()}


class Damaged(Exception):
    """Why bytes are no configuration blob."""


@dataclass(frozen=True)
class BootModule:
    """One file that the boot loader hands over. `name`: unique, of letters that every loader takes."""
    name: str
    path: object            # None: the blob itself


def boot_modules(machine, manager):
    """The boot modules in the order in which the blob counts them: manager, configuration, VMM programs, images, modules."""
    modules = [BootModule('manager', manager), BootModule('config', None)]
    modules += [BootModule('vmm-%d' % n, path) for n, path in enumerate(machine.programs())]
    for vm in machine.vms:
        modules.append(BootModule('image-' + vm.name, vm.boot.image))
    for vm in machine.vms:
        modules += [BootModule('module-%d-%s' % (n, vm.name), path) for n, (path, _) in enumerate(vm.boot.modules)]
    return modules


def compile_blob(machine):
    """Returns the blob's bytes; the same machine gives the same bytes."""
    records = HEADER['END'] + len(machine.vms) * VM['END']
    strings = _Strings(records)
    programs, image = machine.programs(), facts.MODULE_FIRST + len(machine.programs())
    module = image + len(machine.vms)
    body = bytearray()
    for vm in machine.vms:
        body += _record(vm, facts.MODULE_FIRST + programs.index(vm.vmm), image, module, strings)
        image += 1
        module += len(vm.boot.modules)
    blob = bytearray(HEADER['END']) + body + strings.bytes
    struct.pack_into('<QIIII', blob, 0, facts.MAGIC, facts.VERSION, len(blob), 0, len(machine.vms))
    struct.pack_into('<I', blob, HEADER['CRC'], crc(blob))
    return bytes(blob)


def crc(blob):
    """The CRC of a blob, its own field taken as zero."""
    at = HEADER['CRC']
    return zlib.crc32(bytes(blob[:at]) + bytes(4) + bytes(blob[at + 4:]))


class _Strings:
    """The blob's strings; equal ones are stored once."""

    def __init__(self, start):
        self.start, self.bytes, self.places = start, bytearray(), {}

    def add(self, text):
        if text not in self.places:
            self.places[text] = self.start + len(self.bytes)
            self.bytes += text.encode() + b'\0'
        return self.places[text]


def _record(vm, program, image, module, strings):
    record = bytearray(VM['END'])

    def put(field, value, form='<I'):
        struct.pack_into(form, record, VM[field], value)

    record[VM['NAME']:VM['NAME'] + len(vm.name)] = vm.name.encode()
    put('RAM_BYTES', vm.memory, '<Q')
    put('LOAD_ADDRESS', vm.boot.load, '<Q')
    put('VCPUS', vm.vcpus, '<Q')
    put('CORES', sum(core << facts.CORE_BITS * k for k, core in enumerate(vm.places())), '<Q')
    put('VMM_MODULE', program)
    put('IMAGE_MODULE', image)
    put('IMAGE_KIND', KINDS[vm.boot.kind])
    put('FLAGS', (boot_facts.FLAG_EXIT_PORT if vm.exit_port else 0) | (boot_facts.FLAG_HOST_TSC if vm.host_tsc else 0))
    put('RESTARTS', vm.restarts)
    put('TIME_LIMIT', vm.time_limit)
    put('ENTITLEMENT', vm.entitlement)
    put('CAP', vm.cap)
    put('WEIGHT', vm.weight, '<Q')
    put('COMMAND_LINE_STRING', strings.add(vm.boot.command_line))
    put('MODULE_COUNT', len(vm.boot.modules))
    for n, (_, command_line) in enumerate(vm.boot.modules):
        put('MODULE_%d' % n, module + n)
        put('MODULE_%d_STRING' % n, strings.add(command_line))
    return record


def decode(blob):
    """Read a blob back: {'version', 'crc', 'vms': [...]}. Raises Damaged with a sentence."""
    if len(blob) < HEADER['END']:
        raise Damaged('it is shorter than its header')
    magic, version, size, stored, count = struct.unpack_from('<QIIII', blob)
    if magic != facts.MAGIC:
        raise Damaged('it does not begin with its magic number')
    if version != facts.VERSION:
        raise Damaged('it is of version %d, not %d' % (version, facts.VERSION))
    if size != len(blob):
        raise Damaged('it is %d bytes long and says %d' % (len(blob), size))
    if stored != crc(blob):
        raise Damaged('its CRC is 0x%08x and should be 0x%08x' % (stored, crc(blob)))
    if count > facts.MAX_VMS or HEADER['END'] + count * VM['END'] > size:
        raise Damaged('it has no room for %d VM records' % count)
    return {'version': version, 'crc': stored, 'vms': [_decode_vm(blob, HEADER['END'] + n * VM['END']) for n in range(count)]}


def _decode_vm(blob, at):
    def get(field, form='<I'):
        return struct.unpack_from(form, blob, at + VM[field])[0]

    def string(field):
        start = get(field)
        end = blob.find(b'\0', start)
        if not HEADER['END'] <= start < len(blob) or end < 0:
            raise Damaged('%s points to no string' % field)
        return blob[start:end].decode('utf-8', 'replace')

    count = get('MODULE_COUNT')
    if count > call.GUEST_MODULES:
        raise Damaged('a VM has %d modules' % count)
    return {
        'name': blob[at + VM['NAME']:at + VM['NAME'] + 32].rstrip(b'\0').decode('ascii', 'replace'),
        'memory': get('RAM_BYTES', '<Q'),
        'vcpus': get('VCPUS', '<Q'),
        'places': [get('CORES', '<Q') >> facts.CORE_BITS * k & (1 << facts.CORE_BITS) - 1 for k in range(min(get('VCPUS', '<Q'), facts.MOST_VCPUS))],
        'load': get('LOAD_ADDRESS', '<Q'),
        'vmm': get('VMM_MODULE'),
        'image': get('IMAGE_MODULE'),
        'kind': KIND_NAMES.get(get('IMAGE_KIND'), '%d' % get('IMAGE_KIND')),
        'exit_port': bool(get('FLAGS') & boot_facts.FLAG_EXIT_PORT),
        'host_tsc': bool(get('FLAGS') & boot_facts.FLAG_HOST_TSC),
        'restarts': get('RESTARTS'),
        'time_limit': get('TIME_LIMIT'),
        'entitlement': get('ENTITLEMENT'),
        'cap': get('CAP'),
        'weight': get('WEIGHT', '<Q'),
        'command_line': string('COMMAND_LINE_STRING'),
        'modules': [(get('MODULE_%d' % n), string('MODULE_%d_STRING' % n)) for n in range(count)],
    }
