"""One VM as the manager knows it: what the configuration says, what it was given, how it ended.

All records are made at import time and filled later, because nothing allocates at run time.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec import call, config, core, ending, exit, share

# ENDED: its frames are being taken back; GONE: they are the manager's again; CLOSING: it has ended, and its last words are still to be told
ABSENT, RUNNING, ENDED, GONE, CLOSING = range(5)
GRANTS = 3 + call.GUEST_MODULES                 # program, RAM, image, modules
CORE_MASK = (1 << config.CORE_BITS) - 1
NOWHERE = -1

# What a manager knows of the vCPUs that a VM of another core's has here: none, or nothing more to do; waits for the other core to offer
# them; they are here, as a compartment in the VM's slot.
ELSEWHERE, AWAITED, JOINED = range(3)

# The manager's slots: three for each VM.
SLOT_COMPARTMENT = call.SLOT_MANAGER_FREE
SLOT_OUTPUT = SLOT_COMPARTMENT + config.MAX_VMS     # ring from the VMM
SLOT_INPUT = SLOT_OUTPUT + config.MAX_VMS           # ring to the VMM
assert SLOT_INPUT + config.MAX_VMS <= call.SLOT_LINK and call.SLOT_LINK + core.MOST <= call.SLOTS


class Grant(object):
    """A run of frames that a VM was given: frames first .. first+count-1 of the manager's `region`, in the VM's slot `target`."""

    def __init__(self):
        self.region = 0
        self.first = 0
        self.count = 0
        self.target = 0

    def set(self, region, first, count, target):
        self.region = region
        self.first = first
        self.count = count
        self.target = target


class Vm(object):
    def __init__(self, index):
        self.index = index
        self.compartment = SLOT_COMPARTMENT + index
        self.output = SLOT_OUTPUT + index
        self.input = SLOT_INPUT + index
        self.end_signal = r_uint(1) << self.compartment
        # from the configuration, checked there
        self.name = [0] * config.NAME_BYTES
        self.name_length = 0
        self.ram_frames = 0
        self.vcpus = 1
        self.core = 0                       # its home: that of its vCPU 0; its memory and its VMM are there
        self.cores = r_uint(0)              # each vCPU's, as in the configuration
        self.load_address = r_uint(0)
        self.vmm_module = 0
        self.image_module = 0
        self.image_kind = 0
        self.flags = 0
        self.restarts = 0
        self.entitlement = share.LEAST      # hundredths of a processor
        self.cap = share.NO_CAP             # likewise
        self.weight = share.WEIGHT
        self.time_limit = 0                 # milliseconds of processor time, 0: none
        self.command_line = 0               # offset in the blob, 0: none
        self.module_count = 0
        self.modules = [0] * call.GUEST_MODULES
        self.module_strings = [0] * call.GUEST_MODULES
        # its life
        self.state = ABSENT
        self.branch = ELSEWHERE
        self.grants = [Grant() for _ in range(GRANTS)]
        self.grant_count = 0
        self.run = Grant()                  # the kernel's pages for it, while count is not 0; its target means nothing
        # filled when it has ended
        self.how = ending.NONE
        self.detail = r_uint(0)
        self.ticks = r_uint(0)
        self.vmm_ticks = r_uint(0)
        self.started = r_uint(0)            # TSC
        self.ended = r_uint(0)
        self.exits = [r_uint(0)] * exit.COUNT

    def core_of(self, vcpu):
        return intmask(self.cores >> (config.CORE_BITS * vcpu)) & CORE_MASK

    def is_on(self, core):
        """Does a vCPU of it live there?"""
        for n in range(self.vcpus):
            if self.core_of(n) == core:
                return True
        return False

    def missing(self, running):
        """The first core that it needs and that is not among `running` (bit n: core n), or NOWHERE."""
        for n in range(self.vcpus):
            if running >> self.core_of(n) & r_uint(1) == r_uint(0):
                return self.core_of(n)
        return NOWHERE

    def add_grant(self, region, first, count, target):
        """Remember a grant. Returns it. There are never more than GRANTS: one per slot that the manager fills."""
        grant = self.grants[self.grant_count]
        grant.set(region, first, count, target)
        self.grant_count += 1
        return grant

    def same_name(self, other):
        if self.name_length != other.name_length:
            return False
        for n in range(self.name_length):
            if self.name[n] != other.name[n]:
                return False
        return True
