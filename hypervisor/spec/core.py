"""Several cores: what one kernel instance hands to another when it starts it, and the pages through which they talk.

The instances share these pages and nothing else. Each page has one core that writes it; every other core maps it read-only or not at
all. A core's pages, its outbox, lie in a row: one page of bytes for each core that it may write to, then its status page.
"""
from hypervisor.spec.call import MEMORY_REGIONS, MODULES
from hypervisor.spec.record import offsets

MOST = 8                        # cores of a box
FIRST = 0                       # the core that the machine starts; the manager that holds the ports is there

# The record that the first core leaves in its page of bytes for a core that it starts, before there are any bytes in it.
HANDOVER_MAGIC = 0x45524f43     # "CORE"; takes the place of a boot loader's magic number
HANDOVER = offsets(
    ['NUMBER', 'CORES', 'TSC_KHZ', 'RATIO',         # RATIO: local APIC counts per 2^20 TSC ticks
     'PRIVATE', 'PRIVATE_BYTES',                    # hpa: boot tables, then the core's own copy of the image's data
     'PAGES'] +                                     # hpa of the first core's outbox
    ['APIC_%d' % n for n in range(MOST)] +          # each core's local APIC ID
    ['RANGES'] +                                    # of memory: bytes
    [field for n in range(MEMORY_REGIONS) for field in ('RANGE_%d_START' % n, 'RANGE_%d_END' % n)] +
    [field for n in range(MODULES) for field in ('MODULE_%d_START' % n, 'MODULE_%d_BYTES' % n)])    # 0 bytes: not given
assert HANDOVER['END'] <= 4096

# The status page. head: bytes ever put into the page for core n; tail: bytes ever taken out of core n's page for this one;
# starved: this core has more for core n than there was room for. HELD: VMs about whose vCPUs this core wants to hear nothing for now, bit
# MAX_VMS * home + name of each (spec/wire.py); it rings when it takes one back.
STATUS = offsets(['HEAD_%d' % n for n in range(MOST)] + ['TAIL_%d' % n for n in range(MOST)] +
                 ['STARVED_%d' % n for n in range(MOST)] + ['STATE', 'TEXT_BYTES', 'HELD', 'BY_NMI'] +
                 ['NMIS_%d' % n for n in range(MOST)])
# BY_NMI: this core's doorbell is an NMI. NMIS: how many of them this core has sent to core n.
STATUS_TEXT = 1024              # the last words of a core that died
STATUS_TEXT_BYTES = 3072
assert STATUS['END'] <= STATUS_TEXT and STATUS_TEXT + STATUS_TEXT_BYTES == 4096
CAPACITY = 4096                 # of a page of bytes

# All of that is there once for each channel: one for the managers' streams, one for the kernels' own messages (spec/wire.py). How a core is,
# and its last words, are in the status page of the first.
CHANNELS = 2
MANAGERS, KERNELS = 0, 1

# STATE
ABSENT, RUNNING, DEAD = 0, 1, 2

# CORE_GIVE: `module` for plain memory
MEMORY = MODULES
# CORE_START: steps. Source: Intel SDM Vol. 3A, "MP Initialization Protocol Algorithm"
INIT, STARTUP = 0, 1

TRAMPOLINE = 0x8000             # where a started processor begins, in real mode: a page of conventional memory
BOOT_TABLE_PAGES = 11           # PML4, PDPT of both halves, 4 page directories one to one, the image's directory and 3 page tables

C_CONSTANTS = {'TRAMPOLINE': TRAMPOLINE, 'HANDOVER_MAGIC': HANDOVER_MAGIC, 'BOOT_TABLE_PAGES': BOOT_TABLE_PAGES}
