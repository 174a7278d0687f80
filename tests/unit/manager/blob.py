"""Makes configuration blobs and VMM programs by hand, from the wording of hypervisor/spec and not from its offsets."""
import struct
import zlib

PAGE = 4096
FLAT, MULTIBOOT = 1, 2


def vm(name, ram=4 << 20, vmm=2, image=3, kind=MULTIBOOT, flags=0, restarts=0, load=0, command_line='', modules=(), time_limit=0, vcpus=1,
       entitlement=1, cap=0, weight=100, core=0, cores=None, word=None):
    """One VM as a dict. modules: (module number, string) pairs. core: that of all its vCPUs; or cores: theirs in turns; or word: as it stands."""
    return dict(name=name, ram=ram, vmm=vmm, image=image, kind=kind, flags=flags, restarts=restarts, load=load,
                command_line=command_line, modules=list(modules), count=len(modules), time_limit=time_limit, vcpus=vcpus,
                entitlement=entitlement, cap=cap, weight=weight, core=core, cores=cores, word=word)


def places(one):
    """Each vCPU's core, four bits for each."""
    if one['word'] is not None:
        return one['word']
    cores = one['cores'] or [one['core']]
    return sum(cores[n % len(cores)] << 4 * n for n in range(min(one['vcpus'], 16)))


def record(one, add_string):
    """The 144 bytes of a VM record."""
    out = struct.pack('<32sQQQQ', one['name'], one['ram'], one['load'], one['vcpus'], places(one))
    out += struct.pack('<8I', one['vmm'], one['image'], one['kind'], one['flags'], one['restarts'], add_string(one['command_line']),
                       one['count'], one['time_limit'])
    for n in range(4):
        if n < len(one['modules']):
            module, string = one['modules'][n]
            out += struct.pack('<II', module, add_string(string))
        else:
            out += struct.pack('<II', 0, 0)
    out += struct.pack('<IIQ', one['entitlement'], one['cap'], one['weight'])
    assert len(out) == 144
    return out


def make(vms, version=4, magic='BLKDCONF'):
    """The blob. An int in place of a string is taken as its offset."""
    strings = bytearray()
    start = 24 + 144 * len(vms)

    def add_string(string):
        if isinstance(string, int):
            return string
        strings.extend(string + '\0')
        return start + len(strings) - len(string) - 1
    body = ''.join(record(one, add_string) for one in vms) + bytes(strings)
    return seal(struct.pack('<8sIIII', magic, version, 24 + len(body), 0, len(vms)) + body)


def seal(blob):
    """Set the CRC."""
    blob = bytearray(blob)
    blob[16:20] = '\0' * 4
    blob[16:20] = struct.pack('<I', zlib.crc32(bytes(blob)) & 0xffffffff)
    return bytes(blob)


def program(text='T' * PAGE, rodata='R' * PAGE, data='D' * PAGE, bss=2 * PAGE, entry=0x401000 + 0x20, magic='BULKPROG', version=1,
            base=0x400000, header=PAGE, text_bytes=None):
    """A VMM program image; see hypervisor/spec/program.py."""
    fields = struct.pack('<8s8Q', magic, version, base, entry, header, len(text) if text_bytes is None else text_bytes, len(rodata),
                         len(data), bss)
    return fields.ljust(PAGE, '\0') + text + rodata + data
