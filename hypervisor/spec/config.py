"""The configuration blob: what `bulkhead build` compiles machine.toml into and the manager reads at boot.

Header, then VM records of fixed size, then strings (NUL-terminated; *_STRING fields are offsets from the blob's start).
Little-endian. CRC is that of zlib.crc32 over the whole blob with the CRC field itself as zero.
Modules are named by their place among the boot modules: 0 manager, 1 configuration, from 2 on VMM programs, images and modules.
Every boot module belongs to one VM alone (or to the manager), so an image that two VMs boot is listed twice; a VMM program is
copied and may be named by several VMs.
"""
from hypervisor.spec.call import GUEST_MODULES, VCPUS, VCPUS_PER_VM
from hypervisor.spec.core import MOST as MOST_CORES
from hypervisor.spec.record import offsets
from hypervisor.spec.share import MANAGER, WHOLE

MAGIC = 0x464e4f43444b4c42      # "BLKDCONF"
VERSION = 4
MAX_VMS = 8
MODULE_MANAGER, MODULE_CONFIG, MODULE_FIRST = 0, 1, 2

HEADER = offsets(['MAGIC', ('VERSION', 4), ('BYTES', 4), ('CRC', 4), ('VMS', 4)])
VM = offsets(
    # TIME_LIMIT: milliseconds of processor time after which the manager ends the VM; 0: none
    [('NAME', 32),                                  # NUL-padded, at most 31 bytes of [a-z0-9_-]
     'RAM_BYTES',                                   # multiple of 2 MiB
     'LOAD_ADDRESS',                                # flat images only
     'VCPUS',                                       # 1 to MOST_VCPUS
     'CORES',                                       # that it runs on: that of vCPU k in bits 4k to 4k+3; no bits of vCPUs that it has not
     ('VMM_MODULE', 4), ('IMAGE_MODULE', 4), ('IMAGE_KIND', 4), ('FLAGS', 4), ('RESTARTS', 4), ('COMMAND_LINE_STRING', 4),
     ('MODULE_COUNT', 4),
     ('TIME_LIMIT', 4)] +
    [field for n in range(GUEST_MODULES) for field in (('MODULE_%d' % n, 4), ('MODULE_%d_STRING' % n, 4))] +
    # hypervisor/spec/share.py: hundredths of a processor, CAP 0: none
    [('ENTITLEMENT', 4), ('CAP', 4), 'WEIGHT'])
assert HEADER['END'] % 8 == 0 and VM['END'] % 8 == 0

NAME_BYTES = 31
COMMAND_LINE_BYTES = 1024       # at most, without the NUL
RAM_STEP = 2 << 20
RAM_MOST = 3 << 30
MOST_VCPUS = VCPUS_PER_VM
MOST_VCPUS_TOGETHER = VCPUS     # of all VMs; a VM has an object for each on every core that it touches
CORE_BITS = 4                   # of CORES, per vCPU
MOST_PROMISED = WHOLE - MANAGER    # hundredths, of the core that the manager lives on
assert MOST_VCPUS_TOGETHER <= VCPUS and MOST_CORES <= 1 << CORE_BITS and MOST_VCPUS * CORE_BITS <= 64
