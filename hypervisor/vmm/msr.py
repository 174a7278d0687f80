"""Model-specific registers that the VMM answers. What is not here does not exist: #GP(0).

Chosen so that an operating system that believes the CPUID policy (cpuid.py) never meets a #GP that it does not expect.
The kernel answers those that are part of a context (docs/abi.md).
Source: Intel SDM Vol. 4, "Model-Specific Registers"; AMD64 APM Vol. 2, "MSR Cross-Reference"; AMD BKDG/PPR for the rest.
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.spec.boot import VENDOR_AMD, VENDOR_INTEL

# What a write does: REFUSE: #GP(0). SAME: #GP(0) unless the value is what reads. DROP: nothing.
REFUSE, SAME, DROP = 0, 1, 2
ANY = 0

FEATURES_LOCKED = 1                         # no VMX, no SMX
FAST_STRINGS, NO_BTS, NO_PEBS = 1 << 0, 1 << 11, 1 << 12
TSC_COUNTS_P0 = 1 << 24
LFENCE_SERIALIZES = 1 << 1
SVM_LOCKED, SVM_DISABLED = 1 << 3, 1 << 4
PLATFORM_INFO = 0xce

TABLE = [
    # number, name, vendor, value, write
    (0x8b, 'BIOS_SIGN_ID', ANY, 0, DROP),           # AMD: PATCH_LEVEL. 0 is written before it is read. First, because each processor's start asks for it
    (0x17, 'PLATFORM_ID', VENDOR_INTEL, 0, REFUSE),
    (0x3a, 'FEATURE_CONTROL', VENDOR_INTEL, FEATURES_LOCKED, REFUSE),
    (PLATFORM_INFO, 'PLATFORM_INFO', VENDOR_INTEL, 0, REFUSE),      # the value is made from the TSC's rate, below
    (0x1a0, 'MISC_ENABLE', VENDOR_INTEL, FAST_STRINGS | NO_BTS | NO_PEBS, DROP),
    (0x1d9, 'DEBUGCTL', ANY, 0, SAME),
    (0xc0010010, 'SYSCFG', VENDOR_AMD, 0, DROP),
    (0xc0010015, 'HWCR', VENDOR_AMD, TSC_COUNTS_P0, DROP),
    (0xc001001f, 'NB_CFG', VENDOR_AMD, 0, DROP),
    (0xc0010055, 'INT_PENDING', VENDOR_AMD, 0, DROP),
    (0xc0010058, 'MMIO_CONFIG_BASE', VENDOR_AMD, 0, DROP),
    (0xc0010114, 'VM_CR', VENDOR_AMD, SVM_LOCKED | SVM_DISABLED, SAME),
    (0xc0011020, 'LS_CFG', VENDOR_AMD, 0, DROP),
    (0xc0011021, 'IC_CFG', VENDOR_AMD, 0, DROP),
    (0xc0011022, 'DC_CFG', VENDOR_AMD, 0, DROP),
    (0xc0011023, 'BU_CFG2', VENDOR_AMD, 0, DROP),
    (0xc0011029, 'DE_CFG', VENDOR_AMD, LFENCE_SERIALIZES, DROP),
]
NUMBERS = [r_uint(number) for number, _, _, _, _ in TABLE]
VENDORS = [vendor for _, _, vendor, _, _ in TABLE]
VALUES = [r_uint(value) for _, _, _, value, _ in TABLE]
WRITES = [write for _, _, _, _, write in TABLE]
NONE = -1
KHZ_PER_RATIO = 100000                      # PLATFORM_INFO counts in steps of 100 MHz


class Msrs(object):
    def __init__(self):
        self.vendor = VENDOR_INTEL
        self.platform_info = r_uint(0)

    def set_platform(self, vendor, tsc_khz):
        self.vendor = vendor
        self.platform_info = r_uint(((intmask(tsc_khz) // KHZ_PER_RATIO) & 0xff) << 8)      # "maximum non-turbo ratio"

    def find(self, number):
        """The row of an MSR (r_uint), or NONE."""
        for row in range(len(NUMBERS)):
            if NUMBERS[row] == number and (VENDORS[row] == ANY or VENDORS[row] == self.vendor):
                return row
        return NONE

    def read(self, row):
        """row: from find()."""
        if NUMBERS[row] == r_uint(PLATFORM_INFO):
            return self.platform_info
        return VALUES[row]

    def write_is_allowed(self, row, value):
        return WRITES[row] == DROP or WRITES[row] == SAME and value == self.read(row)
