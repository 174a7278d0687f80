"""The CPUID policy: what a guest sees is what the processor has, masked by the tables here.

A bit that is not named is not passed on: a new feature of a new processor stays hidden until somebody has thought about it.
Each vCPU is a core of its own in one package; no feature whose registers nobody switches. What the kernel makes itself (the local APIC, its x2APIC mode and
its TSC deadline) is there whatever the processor has. The kernel answers from a table in each vCPU's page, filled at the start;
leaves that depend on the subleaf come here (answer()).
OSXSAVE is set by the kernel; what else follows the guest's CR4 and XCR0 is in leaves 7 and 0xd, whose exits bring them.
Source: Intel SDM Vol. 2A, "CPUID"; AMD64 APM Vol. 3, "Obtaining Processor Information Via the CPUID Instruction"; Linux,
Documentation/virt/kvm/x86/cpuid.rst; for leaf 0x40000010 VMware, "Mechanisms to determine if software is running in a VMware
virtual machine".
"""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory, task
from hypervisor.spec import cpu, layout, lapic, vcpu as spec, xsave
from hypervisor.spec.boot import VENDOR_AMD
from hypervisor.vmm import paravirtual

ALL = 0xffffffff
NONE = 0


def bits(*numbers):
    return sum(1 << n for n in numbers)


FMS = ALL                                                   # leaf 1, EAX: family, model, stepping
LEAF_1_EBX = 0xffff                                         # brand index, CLFLUSH line size
PROCESSORS_SHIFT, APIC_ID_SHIFT = 16, 24                    # leaf 1, EBX: logical processors, initial APIC id
HTT = 1 << 28                                               # leaf 1, EDX: there is more than one logical processor
LAPIC_ECX = bits(21, 24)                                    # leaf 1: x2APIC, TSC deadline
LAPIC_EDX = bits(9)                                         # leaf 1: APIC
LEAF_1_ECX = bits(0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30)
#                 SSE3 PCLMUL SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND
HYPERVISOR = 1 << 31                                        # leaf 1, ECX
LEAF_1_EDX = bits(0, 1, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 17, 19, 23, 24, 25, 26, 27)
#                 FPU VME DE PSE TSC MSR PAE CX8 SEP PGE CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 SS
LEAF_7_EBX = bits(0, 3, 5, 6, 7, 8, 9, 13, 18, 19, 20, 23, 24, 29)
#                 FSGSBASE BMI1 AVX2 FDP SMEP BMI2 ERMS FCS/FDS RDSEED ADX SMAP CLFLUSHOPT CLWB SHA
LEAF_7_ECX = bits(2, 3, 8, 9, 10, 16)                       # UMIP PKU GFNI VAES VPCLMULQDQ LA57
LEAF_7_EDX = bits(4)                                        # FSRM
EXTENDED_1_ECX = bits(0, 5, 6, 7, 8, 11, 16, 21)            # LAHF LZCNT SSE4A misaligned 3DNOWPREFETCH XOP FMA4 TBM
EXTENDED_1_EDX = bits(0, 1, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 17, 20, 22, 23, 24, 26, 29, 30, 31)
#                     as leaf 1, with SYSCALL for SEP; NX MMXEXT MMX FXSR PAGE1GB LM 3DNOWEXT 3DNOW
CMP_LEGACY = 1 << 1                                         # 0x80000001, ECX: AMD: they are cores and no threads
TSC_INVARIANT = 1 << 8                                      # 0x80000007, EDX
PHYSICAL_BITS = 0xff                                        # 0x80000008, EAX
LINEAR_SHIFT = 8
CORE_ID_SIZE_SHIFT = 12                                     # 0x80000008, ECX: AMD: bits of an APIC id that name the core

LARGEST_BASIC = 0x16
TSC_RATE = 0x15
LARGEST_INTEL = 0x80000008
LARGEST_AMD = 0x8000001a
# KVM's leaves come first, because some guests look nowhere else; ours lie at the next place where hypervisors are looked for.
HYPERVISOR_FIRST, HYPERVISOR_FEATURES, HYPERVISOR_TIMING = 0x40000000, 0x40000001, 0x40000010
OWN_FIRST = 0x40000100
SIGNATURE = 'BulkheadBulk'                                  # EBX, ECX, EDX of leaf OWN_FIRST
KVM_SIGNATURE = 'KVMKVMKVM\0\0\0'

MASKS = {
    # leaf: EAX, EBX, ECX, EDX. Leaves that are not here are zeros.
    0x0: (ALL, ALL, ALL, ALL),                              # EAX is capped below
    0x1: (FMS, LEAF_1_EBX, LEAF_1_ECX, LEAF_1_EDX),
    0x2: (ALL, ALL, ALL, ALL),                              # Intel's cache descriptors
    0x16: (0xffff, 0xffff, 0xffff, NONE),                   # processor rate
    0x80000000: (ALL, ALL, ALL, ALL),
    0x80000001: (ALL, NONE, EXTENDED_1_ECX, EXTENDED_1_EDX),
    0x80000002: (ALL, ALL, ALL, ALL),                       # the processor's name
    0x80000003: (ALL, ALL, ALL, ALL),
    0x80000004: (ALL, ALL, ALL, ALL),
    0x80000005: (ALL, ALL, ALL, ALL),                       # AMD: L1 caches and TLBs
    0x80000006: (ALL, ALL, ALL, ALL),                       # L2, L3
    0x80000007: (NONE, NONE, NONE, TSC_INVARIANT),
    0x80000008: (PHYSICAL_BITS, NONE, NONE, NONE),
    0x80000019: (ALL, ALL, NONE, NONE),                     # AMD: TLBs for 1-GiB pages
    0x8000001a: (bits(0, 1, 2), NONE, NONE, NONE),          # AMD: widths of its floating-point units
}
CACHE, FEATURES, TOPOLOGY, XSAVE = 0x4, cpu.LEAF_7, 0xb, cpu.LEAF_XSAVE
ASKED = [CACHE, FEATURES, TOPOLOGY, XSAVE]                  # basic leaves that depend on the subleaf

CACHE_EAX = 0x3fff                                          # without the processors that share it
CACHE_TYPE, CACHE_LEVEL_SHIFT, CACHE_LEVEL = 0x1f, 5, 7
SHARED_LEVEL = 3                                            # from this level on all cores share a cache
CACHE_SHARING_SHIFT, CACHE_CORES_SHIFT = 14, 26             # each holds a count less one
XSAVE_COMPONENTS = xsave.X87 | xsave.SSE | xsave.AVX
XSAVE_INSTRUCTIONS = bits(0, 1, 2)                          # XSAVEOPT, XSAVEC, XGETBV with ECX=1
XSAVE_LEGACY, XSAVE_LEGACY_BYTES = xsave.X87 | xsave.SSE, 512 + 64
XSAVE_EXTENDED = [2, 9]                                     # components behind the legacy part: AVX, PKRU
XSAVE_ALIGNED = 1 << 1                                      # ECX of a component: at a multiple of 64 in the compacted format
TOPOLOGY_SMT, TOPOLOGY_CORE = 1 << 8, 2 << 8

# The table as rows, in the order of the vCPU page.
LEAVES = [first + n for first in spec.CPUID_CLASSES for n in range(spec.CPUID_LEAVES)]
ROWS = [r_uint(leaf) for leaf in LEAVES]
ROW_MASKS = [[r_uint(mask) for mask in MASKS.get(leaf, (NONE, NONE, NONE, NONE))] for leaf in LEAVES]
ASK_BASIC = r_uint(bits(*ASKED))
ZERO = r_uint(0)


def _signature(text):
    return [r_uint(sum(ord(text[at + n]) << (8 * n) for n in range(4))) for at in (0, 4, 8)]


OWN_EBX, OWN_ECX, OWN_EDX = _signature(SIGNATURE)
KVM_EBX, KVM_ECX, KVM_EDX = _signature(KVM_SIGNATURE)


def host(leaf, subleaf, register):
    """What the processor itself says. A processor answers leaves beyond its largest with those of another."""
    return task.cpuid(leaf, subleaf, register) & r_uint(ALL)


def least(a, b):
    return a if a < b else b


def most(a, b):
    return a if a > b else b


def id_bits(count):
    """The bits that tell `count` processors apart."""
    width = 0
    while 1 << width < count:
        width += 1
    return width


class Cpuid(object):
    def __init__(self):
        self.largest = ZERO             # of the host, basic and extended
        self.largest_extended = ZERO
        self.amd = False
        self.tsc_khz = ZERO
        self.processors = 1
        # Leaf 7, as far as it is always the same: it is asked too often to ask the processor three times.
        self.features_ebx = ZERO
        self.features_ecx = ZERO
        self.features_edx = ZERO
        # The answer of answer().
        self.eax = ZERO
        self.ebx = ZERO
        self.ecx = ZERO
        self.edx = ZERO

    def set_host(self, vendor, tsc_khz):
        """Called once, before all others."""
        self.amd = vendor == VENDOR_AMD
        self.tsc_khz = tsc_khz
        self.largest = host(ZERO, ZERO, task.EAX)
        self.largest_extended = host(r_uint(0x80000000), ZERO, task.EAX)
        leaf = r_uint(FEATURES)
        self.features_ebx = host(leaf, ZERO, task.EBX) & r_uint(LEAF_7_EBX)
        self.features_ecx = host(leaf, ZERO, task.ECX) & r_uint(LEAF_7_ECX)
        self.features_edx = host(leaf, ZERO, task.EDX) & r_uint(LEAF_7_EDX)

    def set_processors(self, count):
        """Called once, after set_host: how many vCPUs there are. The APIC id of each is its index."""
        self.processors = count

    def physical_bits(self):
        """MAXPHYADDR as the guest sees it."""
        if self.largest_extended < r_uint(0x80000008):
            return 36
        return intmask(host(r_uint(0x80000008), ZERO, task.EAX)) & PHYSICAL_BITS

    def linear_bits(self):
        offered = self.largest >= r_uint(FEATURES) and host(r_uint(FEATURES), ZERO, task.ECX) & r_uint(cpu.LEAF_7_ECX_LA57) != ZERO
        return cpu.LINEAR_BITS_LA57 if offered else cpu.LINEAR_BITS

    def _set(self, eax, ebx, ecx, edx):
        self.eax = eax
        self.ebx = ebx
        self.ecx = ecx
        self.edx = edx

    # The table.
    def fill(self, index=0):
        """Write the table into the page of vCPU `index`. The caller marks GROUP_CPUID dirty."""
        page = r_uint(layout.VCPU_PAGE + layout.PAGE * index)
        table = page + r_uint(spec.CPUID_TABLE)
        for row in range(len(ROWS)):
            self._static(row, index)
            entry = table + r_uint(16 * row)
            memory.store32(entry, self.eax)
            memory.store32(entry + r_uint(4), self.ebx)
            memory.store32(entry + r_uint(8), self.ecx)
            memory.store32(entry + r_uint(12), self.edx)
        for group in range(len(spec.CPUID_CLASSES)):
            memory.store32(page + r_uint(spec.CPUID_ASK + 4 * group), ASK_BASIC if group == 0 else ZERO)

    def _is_known(self, leaf):
        if leaf >= r_uint(0x80000000):
            return leaf <= self.largest_extended
        return leaf <= self.largest

    def _static(self, row, index):
        leaf = ROWS[row]
        masks = ROW_MASKS[row]
        self._set(ZERO, ZERO, ZERO, ZERO)
        if leaf >= r_uint(HYPERVISOR_FIRST) and leaf < r_uint(0x80000000):
            self._hypervisor(leaf)
        elif leaf == r_uint(TSC_RATE):
            self._tsc_rate()
        elif self._is_known(leaf):
            self._set(host(leaf, ZERO, task.EAX) & masks[0], host(leaf, ZERO, task.EBX) & masks[1],
                      host(leaf, ZERO, task.ECX) & masks[2], host(leaf, ZERO, task.EDX) & masks[3])
            self._adjust(leaf)
            self._add_processors(leaf, index)

    def _hypervisor(self, leaf):
        if leaf == r_uint(HYPERVISOR_FIRST):
            self._set(r_uint(HYPERVISOR_TIMING), KVM_EBX, KVM_ECX, KVM_EDX)
        elif leaf == r_uint(HYPERVISOR_FEATURES):
            self._set(r_uint(paravirtual.FEATURES), ZERO, ZERO, ZERO)
        elif leaf == r_uint(HYPERVISOR_TIMING):
            self._set(self.tsc_khz, self.tsc_khz >> lapic.TIMER_SHIFT, ZERO, ZERO)
        elif leaf == r_uint(OWN_FIRST):
            self._set(r_uint(OWN_FIRST), OWN_EBX, OWN_ECX, OWN_EDX)

    def _tsc_rate(self):
        """The crystal is what the local APIC's timer counts; the TSC is a whole multiple of it."""
        self._set(r_uint(1), r_uint(1 << lapic.TIMER_SHIFT), self.tsc_khz * r_uint(1000) >> lapic.TIMER_SHIFT, ZERO)

    def _adjust(self, leaf):
        if leaf == ZERO:
            self.eax = most(least(self.eax, r_uint(LARGEST_BASIC)), r_uint(TSC_RATE))
        elif leaf == r_uint(1):
            self.ecx |= r_uint(HYPERVISOR | LAPIC_ECX)
            self.edx |= r_uint(LAPIC_EDX)
        elif leaf == r_uint(0x80000000):
            self.eax = least(self.eax, r_uint(LARGEST_AMD if self.amd else LARGEST_INTEL))
        elif leaf == r_uint(0x80000008):
            self.eax |= r_uint(self.linear_bits() << LINEAR_SHIFT)

    def _add_processors(self, leaf, index):
        several = self.processors > 1
        if leaf == r_uint(1):
            self.ebx |= r_uint(self.processors << PROCESSORS_SHIFT | index << APIC_ID_SHIFT)
            if several:
                self.edx |= r_uint(HTT)
        elif leaf == r_uint(0x80000001) and self.amd and several:
            self.ecx |= r_uint(CMP_LEGACY)
        elif leaf == r_uint(0x80000008) and self.amd:
            self.ecx |= r_uint(self.processors - 1 | id_bits(self.processors) << CORE_ID_SIZE_SHIFT)

    # Leaves that depend on the subleaf.
    def answer(self, leaf, subleaf, index=0, value=ZERO):
        """Set eax to edx for one of ASKED as vCPU `index` sees it; zeros for everything else. value: of the exit."""
        self._set(ZERO, ZERO, ZERO, ZERO)
        if leaf > self.largest:
            return
        if leaf == r_uint(CACHE):
            self._cache(subleaf)
        elif leaf == r_uint(FEATURES) and subleaf == ZERO:
            self._features(value)
        elif leaf == r_uint(TOPOLOGY):
            self._topology(subleaf, index)
        elif leaf == r_uint(XSAVE) and self._has_xsave():
            self._xsave(subleaf, value)

    def _features(self, cr4):
        self._set(ZERO, self.features_ebx, self.features_ecx, self.features_edx)
        if cr4 & r_uint(cpu.CR4_PKE) != ZERO:
            self.ecx |= r_uint(cpu.LEAF_7_ECX_OSPKE)

    def _cache(self, subleaf):
        leaf = r_uint(CACHE)
        eax = host(leaf, subleaf, task.EAX) & r_uint(CACHE_EAX)
        others = self.processors - 1
        if intmask(eax) & CACHE_TYPE != 0:
            eax |= r_uint(others << CACHE_CORES_SHIFT)
            if intmask(eax) >> CACHE_LEVEL_SHIFT & CACHE_LEVEL >= SHARED_LEVEL:
                eax |= r_uint(others << CACHE_SHARING_SHIFT)
        self._set(eax, host(leaf, subleaf, task.EBX), host(leaf, subleaf, task.ECX), host(leaf, subleaf, task.EDX))

    def _topology(self, subleaf, index):
        """One thread in each core. The x2APIC id is in EDX whatever the subleaf."""
        number, identity = subleaf & r_uint(0xff), r_uint(index)
        if subleaf == ZERO:
            self._set(ZERO, r_uint(1), number | r_uint(TOPOLOGY_SMT), identity)
        elif subleaf == r_uint(1):
            self._set(r_uint(id_bits(self.processors)), r_uint(self.processors), number | r_uint(TOPOLOGY_CORE), identity)
        else:
            self._set(ZERO, ZERO, number, identity)

    def _has_xsave(self):
        return host(r_uint(1), ZERO, task.ECX) & r_uint(1 << 26) != ZERO

    def _components(self):
        offered = XSAVE_COMPONENTS
        if host(r_uint(FEATURES), ZERO, task.ECX) & r_uint(cpu.LEAF_7_ECX_PKU) != ZERO:
            offered |= xsave.PKRU
        return host(r_uint(XSAVE), ZERO, task.EAX) & r_uint(offered)

    def _standard_bytes(self, components):
        """How long XSAVE's area is with these in XCR0."""
        size = r_uint(XSAVE_LEGACY_BYTES)
        for n in XSAVE_EXTENDED:
            if components >> n & r_uint(1) != ZERO:
                size = most(size, host(r_uint(XSAVE), r_uint(n), task.EBX) + host(r_uint(XSAVE), r_uint(n), task.EAX))
        return size

    def _compacted_bytes(self, components):
        """Likewise XSAVEC's, in which one component follows the other."""
        size = r_uint(XSAVE_LEGACY_BYTES)
        for n in XSAVE_EXTENDED:
            if components >> n & r_uint(1) != ZERO:
                if host(r_uint(XSAVE), r_uint(n), task.ECX) & r_uint(XSAVE_ALIGNED) != ZERO:
                    size = size + r_uint(63) & ~r_uint(63)
                size += host(r_uint(XSAVE), r_uint(n), task.EAX)
        return size

    def _xsave(self, subleaf, xcr0):
        offered = self._components()
        live = xcr0 & offered
        if subleaf == ZERO:
            self._set(offered, self._standard_bytes(live), self._standard_bytes(offered), ZERO)
        elif subleaf == r_uint(1):
            self._set(host(r_uint(XSAVE), subleaf, task.EAX) & r_uint(XSAVE_INSTRUCTIONS), self._compacted_bytes(live), ZERO, ZERO)
        elif subleaf < r_uint(32) and offered & ~r_uint(XSAVE_LEGACY) & r_uint(1) << intmask(subleaf) != ZERO:
            self._set(host(r_uint(XSAVE), subleaf, task.EAX), host(r_uint(XSAVE), subleaf, task.EBX),
                      host(r_uint(XSAVE), subleaf, task.ECX) & r_uint(XSAVE_ALIGNED), ZERO)
