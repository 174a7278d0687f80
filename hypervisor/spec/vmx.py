"""VMX: the fields of the VMCS, controls, exit reasons and capability MSRs.

Source: Intel SDM Vol. 3C, "Virtual Machine Control Structures"; appendices "VMX Capability Reporting Facility", "Field Encoding in
VMCS" and "VMX Basic Exit Reasons".
"""
from hypervisor.spec.context import AREA, PRIVATE_AREA, PRIVATE_CPUID, VMM
from hypervisor.spec.record import offsets
from hypervisor.spec.vcpu import GPR, SEGMENTS

# -- fields ------------------------------------------------------------------------------------------------------------------
# Width and kind are part of an encoding: bits 14:13 and 11:10.
WORD, QUAD, DOUBLE, NATURAL = 0, 1, 2, 3            # 16, 64, 32 bits; as wide as the processor
CONTROL, READ_ONLY, GUEST, HOST = 0, 1, 2, 3

FIELDS = [
    # name, encoding, width
    ('VPID', 0x0000, WORD), ('GUEST_INTERRUPT_STATUS', 0x0810, WORD),
    ('HOST_ES_SELECTOR', 0x0c00, WORD), ('HOST_CS_SELECTOR', 0x0c02, WORD), ('HOST_SS_SELECTOR', 0x0c04, WORD),
    ('HOST_DS_SELECTOR', 0x0c06, WORD), ('HOST_FS_SELECTOR', 0x0c08, WORD), ('HOST_GS_SELECTOR', 0x0c0a, WORD),
    ('HOST_TR_SELECTOR', 0x0c0c, WORD),

    ('IO_BITMAP_A', 0x2000, QUAD), ('IO_BITMAP_B', 0x2002, QUAD), ('MSR_BITMAP', 0x2004, QUAD), ('EXIT_MSR_STORE', 0x2006, QUAD),
    ('EXIT_MSR_LOAD', 0x2008, QUAD), ('ENTRY_MSR_LOAD', 0x200a, QUAD), ('TSC_OFFSET', 0x2010, QUAD), ('VIRTUAL_APIC', 0x2012, QUAD),
    ('EPT_POINTER', 0x201a, QUAD), ('EOI_EXIT_BITMAP0', 0x201c, QUAD), ('EOI_EXIT_BITMAP1', 0x201e, QUAD),
    ('EOI_EXIT_BITMAP2', 0x2020, QUAD), ('EOI_EXIT_BITMAP3', 0x2022, QUAD),
    ('GUEST_PHYSICAL_ADDRESS', 0x2400, QUAD),
    ('VMCS_LINK_POINTER', 0x2800, QUAD), ('GUEST_DEBUGCTL', 0x2802, QUAD), ('GUEST_PAT', 0x2804, QUAD), ('GUEST_EFER', 0x2806, QUAD),
    ('GUEST_PDPTE0', 0x280a, QUAD), ('GUEST_PDPTE1', 0x280c, QUAD), ('GUEST_PDPTE2', 0x280e, QUAD), ('GUEST_PDPTE3', 0x2810, QUAD),
    ('HOST_PAT', 0x2c00, QUAD), ('HOST_EFER', 0x2c02, QUAD),

    ('PIN_CONTROLS', 0x4000, DOUBLE), ('PRIMARY_CONTROLS', 0x4002, DOUBLE), ('EXCEPTION_BITMAP', 0x4004, DOUBLE),
    ('PAGE_FAULT_MASK', 0x4006, DOUBLE), ('PAGE_FAULT_MATCH', 0x4008, DOUBLE), ('CR3_TARGET_COUNT', 0x400a, DOUBLE),
    ('EXIT_CONTROLS', 0x400c, DOUBLE), ('EXIT_MSR_STORE_COUNT', 0x400e, DOUBLE), ('EXIT_MSR_LOAD_COUNT', 0x4010, DOUBLE),
    ('ENTRY_CONTROLS', 0x4012, DOUBLE), ('ENTRY_MSR_LOAD_COUNT', 0x4014, DOUBLE), ('ENTRY_INTERRUPTION_INFO', 0x4016, DOUBLE),
    ('ENTRY_EXCEPTION_ERROR', 0x4018, DOUBLE), ('ENTRY_INSTRUCTION_LENGTH', 0x401a, DOUBLE), ('TPR_THRESHOLD', 0x401c, DOUBLE),
    ('SECONDARY_CONTROLS', 0x401e, DOUBLE),
    ('INSTRUCTION_ERROR', 0x4400, DOUBLE), ('EXIT_REASON', 0x4402, DOUBLE), ('EXIT_INTERRUPTION_INFO', 0x4404, DOUBLE),
    ('EXIT_INTERRUPTION_ERROR', 0x4406, DOUBLE), ('IDT_VECTORING_INFO', 0x4408, DOUBLE), ('IDT_VECTORING_ERROR', 0x440a, DOUBLE),
    ('EXIT_INSTRUCTION_LENGTH', 0x440c, DOUBLE), ('EXIT_INSTRUCTION_INFO', 0x440e, DOUBLE),
    ('GUEST_GDTR_LIMIT', 0x4810, DOUBLE), ('GUEST_IDTR_LIMIT', 0x4812, DOUBLE), ('GUEST_INTERRUPTIBILITY', 0x4824, DOUBLE),
    ('GUEST_ACTIVITY', 0x4826, DOUBLE), ('GUEST_SYSENTER_CS', 0x482a, DOUBLE), ('GUEST_PREEMPTION_TIMER', 0x482e, DOUBLE),
    ('HOST_SYSENTER_CS', 0x4c00, DOUBLE),

    ('CR0_MASK', 0x6000, NATURAL), ('CR4_MASK', 0x6002, NATURAL), ('CR0_SHADOW', 0x6004, NATURAL), ('CR4_SHADOW', 0x6006, NATURAL),
    ('EXIT_QUALIFICATION', 0x6400, NATURAL), ('GUEST_LINEAR_ADDRESS', 0x640a, NATURAL),
    ('GUEST_CR0', 0x6800, NATURAL), ('GUEST_CR3', 0x6802, NATURAL), ('GUEST_CR4', 0x6804, NATURAL),
    ('GUEST_GDTR_BASE', 0x6816, NATURAL), ('GUEST_IDTR_BASE', 0x6818, NATURAL), ('GUEST_DR7', 0x681a, NATURAL),
    ('GUEST_RSP', 0x681c, NATURAL), ('GUEST_RIP', 0x681e, NATURAL), ('GUEST_RFLAGS', 0x6820, NATURAL),
    ('GUEST_PENDING_DEBUG', 0x6822, NATURAL), ('GUEST_SYSENTER_ESP', 0x6824, NATURAL), ('GUEST_SYSENTER_EIP', 0x6826, NATURAL),
    ('HOST_CR0', 0x6c00, NATURAL), ('HOST_CR3', 0x6c02, NATURAL), ('HOST_CR4', 0x6c04, NATURAL), ('HOST_FS_BASE', 0x6c06, NATURAL),
    ('HOST_GS_BASE', 0x6c08, NATURAL), ('HOST_TR_BASE', 0x6c0a, NATURAL), ('HOST_GDTR_BASE', 0x6c0c, NATURAL),
    ('HOST_IDTR_BASE', 0x6c0e, NATURAL), ('HOST_SYSENTER_ESP', 0x6c10, NATURAL), ('HOST_SYSENTER_EIP', 0x6c12, NATURAL),
    ('HOST_RSP', 0x6c14, NATURAL), ('HOST_RIP', 0x6c16, NATURAL),
]
for _index, _name in enumerate(SEGMENTS):       # the order of SEGMENTS is the VMCS's own
    FIELDS += [('GUEST_%s_SELECTOR' % _name, 0x0800 + 2 * _index, WORD), ('GUEST_%s_LIMIT' % _name, 0x4800 + 2 * _index, DOUBLE),
               ('GUEST_%s_ATTRIBUTES' % _name, 0x4814 + 2 * _index, DOUBLE), ('GUEST_%s_BASE' % _name, 0x6806 + 2 * _index, NATURAL)]

WIDTH_BITS = {WORD: 16, QUAD: 64, DOUBLE: 32, NATURAL: 64}
WIDTH_OF = {}               # encoding -> bits
NAME_OF = {}                # encoding -> name
for _name, _encoding, _width in FIELDS:
    assert (_encoding >> 13) & 3 == _width and _encoding & 1 == 0 and _encoding not in NAME_OF, _name
    globals()[_name] = _encoding
    WIDTH_OF[_encoding] = WIDTH_BITS[_width]
    NAME_OF[_encoding] = _name


def kind_of(encoding):
    """CONTROL, READ_ONLY, GUEST or HOST."""
    return (encoding >> 10) & 3


# Access rights: as in a descriptor's bytes 5 and 6, with AVL, L, D/B and G at 12 to 15 and "unusable" at 16.
RIGHTS_LOW, RIGHTS_HIGH, RIGHTS_SHIFT = 0x00ff, 0x1f00, 4       # of spec.vcpu's ATTRIBUTES; the high part moves up by SHIFT

# EXIT_QUALIFICATION of EPT violations: the access is to the address that the guest's walk of a linear one has found
EPT_FINAL = 1 << 7 | 1 << 8

# -- controls ------------------------------------------------------------------------------------------------------------------
PIN = [('EXTERNAL_INTERRUPT', 0), ('NMI', 3), ('VIRTUAL_NMIS', 5), ('PREEMPTION_TIMER', 6), ('POSTED_INTERRUPTS', 7)]
PRIMARY = [
    ('INTERRUPT_WINDOW', 2), ('TSC_OFFSETTING', 3), ('HLT', 7), ('INVLPG', 9), ('MWAIT', 10), ('RDPMC', 11), ('RDTSC', 12), ('CR3_LOAD', 15),
    ('CR3_STORE', 16), ('CR8_LOAD', 19), ('CR8_STORE', 20), ('TPR_SHADOW', 21), ('NMI_WINDOW', 22), ('MOV_DR', 23), ('UNCONDITIONAL_IO', 24),
    ('IO_BITMAPS', 25), ('MONITOR_TRAP', 27), ('MSR_BITMAPS', 28), ('MONITOR', 29), ('PAUSE', 30), ('SECONDARY', 31)]
SECONDARY = [
    ('APIC_ACCESSES', 0), ('EPT', 1), ('DESCRIPTOR_TABLE', 2), ('RDTSCP', 3), ('X2APIC', 4), ('VPID', 5), ('WBINVD', 6), ('UNRESTRICTED', 7),
    ('APIC_REGISTERS', 8), ('INTERRUPT_DELIVERY', 9), ('PAUSE_LOOP', 10), ('RDRAND', 11), ('INVPCID', 12), ('VM_FUNCTIONS', 13), ('SHADOWING', 14),
    ('ENCLS', 15), ('RDSEED', 16), ('PML', 17), ('VE', 18), ('XSAVES', 20), ('TSC_SCALING', 25)]
EXIT = [('SAVE_DEBUG', 2), ('HOST_64', 9), ('LOAD_PERF_GLOBAL_CTRL', 12), ('ACKNOWLEDGE_INTERRUPT', 15), ('SAVE_PAT', 18), ('LOAD_PAT', 19),
        ('SAVE_EFER', 20), ('LOAD_EFER', 21), ('SAVE_PREEMPTION_TIMER', 22)]
ENTRY = [('LOAD_DEBUG', 2), ('GUEST_64', 9), ('SMM', 10), ('NO_DUAL_MONITOR', 11), ('LOAD_PERF_GLOBAL_CTRL', 13), ('LOAD_PAT', 14),
         ('LOAD_EFER', 15)]
for _prefix, _bits in (('PIN_', PIN), ('PRIMARY_', PRIMARY), ('SECONDARY_', SECONDARY), ('EXIT_CONTROL_', EXIT), ('ENTRY_CONTROL_', ENTRY)):
    for _name, _bit in _bits:
        globals()[_prefix + _name] = 1 << _bit

# Interruption information (entry, exit and IDT-vectoring alike)
INTERRUPTION_VALID, INTERRUPTION_ERROR = 1 << 31, 1 << 11
INTERRUPTION_KEPT = 0x80000fff          # bits of IDT-vectoring information that an entry takes; bit 12 is undefined there
INTERRUPTION_TYPE_SHIFT = 8
TYPE_EXTERNAL, TYPE_NMI, TYPE_HARDWARE, TYPE_SOFTWARE_INTERRUPT, TYPE_PRIVILEGED_SOFTWARE, TYPE_SOFTWARE, TYPE_OTHER = 0, 2, 3, 4, 5, 6, 7
ERROR_CODE_VECTORS = 1 << 8 | 0x1f << 10 | 1 << 17      # what an entry takes an error code for

BLOCKING_STI, BLOCKING_MOV_SS, BLOCKING_SMI, BLOCKING_NMI = 1, 2, 4, 8
PENDING_DEBUG_BS, PENDING_DEBUG_ENABLED = 1 << 14, 1 << 12
DEBUGCTL_BTF = 1 << 1
DR6_CONDITIONS = 0xf | 1 << 13 | 1 << 14        # B0-B3, BD, BS: in the exit qualification of #DB as in DR6
DR7_GD = 1 << 13
DR7_LOCAL = 0x155                     # L0 to L3 and LE: the task's own
LINK_NONE = 0xffffffffffffffff

EPTP_WRITE_BACK, EPTP_FOUR_LEVELS = 6, 3 << 3
EPT_IGNORE_PAT = 1 << 6
INVEPT_SINGLE, INVEPT_ALL = 1, 2
INVVPID_SINGLE, INVVPID_ALL = 1, 2

# -- exits ---------------------------------------------------------------------------------------------------------------------
REASONS = [
    # number, name, kind (hypervisor/spec/exit.py)
    (0, 'EXCEPTION_OR_NMI', 'EXCEPTION'), (1, 'EXTERNAL_INTERRUPT', 'INTERRUPT'), (2, 'TRIPLE_FAULT', 'SHUTDOWN'), (3, 'INIT', 'UNKNOWN'),
    (4, 'SIPI', 'UNKNOWN'), (5, 'IO_SMI', 'UNKNOWN'), (6, 'OTHER_SMI', 'UNKNOWN'), (7, 'INTERRUPT_WINDOW', 'WINDOW'), (8, 'NMI_WINDOW', 'WINDOW'),
    (9, 'TASK_SWITCH', 'TASK_SWITCH'), (10, 'CPUID', 'CPUID'), (11, 'GETSEC', 'PRIVILEGED'), (12, 'HLT', 'HLT'), (13, 'INVD', 'IGNORED'),
    (14, 'INVLPG', 'UNKNOWN'), (15, 'RDPMC', 'CONTROL'), (16, 'RDTSC', 'UNKNOWN'), (17, 'RSM', 'PRIVILEGED'), (18, 'VMCALL', 'HYPERCALL'),
    (19, 'VMCLEAR', 'PRIVILEGED'), (20, 'VMLAUNCH', 'PRIVILEGED'), (21, 'VMPTRLD', 'PRIVILEGED'), (22, 'VMPTRST', 'PRIVILEGED'),
    (23, 'VMREAD', 'PRIVILEGED'), (24, 'VMRESUME', 'PRIVILEGED'), (25, 'VMWRITE', 'PRIVILEGED'), (26, 'VMXOFF', 'PRIVILEGED'),
    (27, 'VMXON', 'PRIVILEGED'), (28, 'CONTROL_REGISTER', 'CONTROL'), (29, 'MOV_DR', 'UNKNOWN'), (30, 'IO', 'IO'), (31, 'RDMSR', 'MSR_READ'),
    (32, 'WRMSR', 'MSR_WRITE'), (33, 'ENTRY_GUEST_STATE', 'ENTRY_FAILED'), (34, 'ENTRY_MSR', 'ENTRY_FAILED'), (36, 'MWAIT', 'PRIVILEGED'),
    (37, 'MONITOR_TRAP', 'UNKNOWN'), (39, 'MONITOR', 'PRIVILEGED'), (40, 'PAUSE', 'UNKNOWN'), (41, 'ENTRY_MACHINE_CHECK', 'ENTRY_FAILED'),
    (43, 'TPR', 'UNKNOWN'), (44, 'APIC_ACCESS', 'UNKNOWN'), (45, 'EOI', 'UNKNOWN'), (46, 'GDTR_IDTR', 'UNKNOWN'), (47, 'LDTR_TR', 'UNKNOWN'),
    (48, 'EPT_VIOLATION', 'MEMORY'), (49, 'EPT_MISCONFIGURATION', 'UNKNOWN'), (50, 'INVEPT', 'PRIVILEGED'), (51, 'RDTSCP', 'PRIVILEGED'),
    (52, 'PREEMPTION_TIMER', 'WINDOW'), (53, 'INVVPID', 'PRIVILEGED'), (54, 'WBINVD', 'IGNORED'), (55, 'XSETBV', 'XSETBV'),
    (56, 'APIC_WRITE', 'UNKNOWN'), (57, 'RDRAND', 'UNKNOWN'), (58, 'INVPCID', 'UNKNOWN'), (59, 'VMFUNC', 'PRIVILEGED'), (60, 'ENCLS', 'PRIVILEGED'),
    (61, 'RDSEED', 'UNKNOWN'), (62, 'PML_FULL', 'UNKNOWN'), (63, 'XSAVES', 'PRIVILEGED'), (64, 'XRSTORS', 'PRIVILEGED'),
]
REASON_COUNT = 65
REASON_ENTRY_FAILED = 1 << 31
for _number, _name, _kind in REASONS:
    globals()['REASON_' + _name] = _number
REASON_NAMES = dict((number, name) for number, name, _ in REASONS)

# What vcpu.exit_code holds when VMLAUNCH or VMRESUME itself failed: this, and VM_INSTRUCTION_ERROR in the low bits.
CODE_VMFAIL = 1 << 30

# Exit qualification of control-register accesses
ACCESS_TO, ACCESS_FROM, ACCESS_CLTS, ACCESS_LMSW = 0, 1, 2, 3
# Exit qualification of I/O instructions
IO_IN, IO_STRING, IO_REPEAT = 1 << 3, 1 << 4, 1 << 5

# -- capabilities --------------------------------------------------------------------------------------------------------------
MSR = [('BASIC', 0x480), ('MISC', 0x485), ('CR0_FIXED0', 0x486), ('CR0_FIXED1', 0x487), ('CR4_FIXED0', 0x488), ('CR4_FIXED1', 0x489),
       ('SECONDARY', 0x48b), ('EPT_VPID', 0x48c), ('TRUE_PIN', 0x48d), ('TRUE_PRIMARY', 0x48e), ('TRUE_EXIT', 0x48f), ('TRUE_ENTRY', 0x490)]
for _name, _number in MSR:
    globals()['MSR_VMX_' + _name] = _number

CPUID_VMX = 1 << 5                      # leaf 1, ECX
FEATURE_CONTROL_LOCK, FEATURE_CONTROL_VMX = 1 << 0, 1 << 2
MISC_TIMER_RATE = 0x1f                  # the preemption timer counts down when this bit of the TSC changes
BASIC_REVISION, BASIC_TRUE_CONTROLS = 0x7fffffff, 1 << 55
MISC_STORES_LMA = 1 << 5                # exits store EFER.LMA in "IA-32e mode guest"; goes with unrestricted guest
EPT_FOUR_LEVELS, EPT_WRITE_BACK, EPT_LARGE_PAGES = 1 << 6, 1 << 14, 1 << 16
EPT_INVEPT, EPT_INVEPT_SINGLE, EPT_INVEPT_ALL = 1 << 20, 1 << 25, 1 << 26
VPID_INVVPID, VPID_INVVPID_SINGLE, VPID_INVVPID_ALL = 1 << 32, 1 << 41, 1 << 42

# What the kernel asks of each control word. Wanted bits must be there, optional ones are used where they are.
WANTED_PIN = PIN_EXTERNAL_INTERRUPT | PIN_NMI
OPTIONAL_PIN = PIN_VIRTUAL_NMIS | PIN_PREEMPTION_TIMER
WANTED_PRIMARY = (PRIMARY_TSC_OFFSETTING | PRIMARY_HLT | PRIMARY_MWAIT | PRIMARY_RDPMC | PRIMARY_CR8_LOAD | PRIMARY_CR8_STORE | PRIMARY_UNCONDITIONAL_IO |
                  PRIMARY_MSR_BITMAPS | PRIMARY_MONITOR | PRIMARY_SECONDARY)
WANTED_SECONDARY = SECONDARY_EPT | SECONDARY_VPID | SECONDARY_UNRESTRICTED
OPTIONAL_SECONDARY = SECONDARY_WBINVD | SECONDARY_INVPCID
OPTIONAL_EXIT = EXIT_CONTROL_SAVE_PREEMPTION_TIMER      # where there is that timer: it counts on from entry to entry
WANTED_EXIT = (EXIT_CONTROL_SAVE_DEBUG | EXIT_CONTROL_HOST_64 | EXIT_CONTROL_ACKNOWLEDGE_INTERRUPT | EXIT_CONTROL_SAVE_PAT |
               EXIT_CONTROL_LOAD_PAT | EXIT_CONTROL_SAVE_EFER | EXIT_CONTROL_LOAD_EFER)
# For an EOI without an exit (hypervisor/kernel/vmx_eoi.py), where the processor offers all of it. The second control needs the first, and
# "external-interrupt exiting".
EOI_PRIMARY = PRIMARY_TPR_SHADOW
EOI_SECONDARY = SECONDARY_X2APIC | SECONDARY_INTERRUPT_DELIVERY
X2APIC_EOI = 0x80b
NEED_TPR_SHADOW = SECONDARY_X2APIC | SECONDARY_APIC_REGISTERS | SECONDARY_INTERRUPT_DELIVERY
STATUS_SVI_SHIFT = 8                    # of GUEST_INTERRUPT_STATUS: the vector in service; that of a request is below
WANTED_ENTRY = ENTRY_CONTROL_LOAD_DEBUG | ENTRY_CONTROL_LOAD_PAT | ENTRY_CONTROL_LOAD_EFER

# MSRs that guests read and write without an exit; TSC is for reading only.
PASSED_THROUGH = [0x174, 0x175, 0x176, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102]
PASSED_FOR_READING = [0x10]
# Besides, where the guest has the core's local APIC (hypervisor/kernel/owned.py): TPR and PPR; TPR and EOI. No register that masks
# an NMI, sends anything or sets a delivery mode may be among them.
LENT_FOR_READING = [0x808, 0x80a]
LENT_FOR_WRITING = [0x808, 0x80b]
MSR_BITMAP_READ_LOW, MSR_BITMAP_READ_HIGH, MSR_BITMAP_WRITE_LOW, MSR_BITMAP_WRITE_HIGH = 0, 1024, 2048, 3072

# -- the run stub's own words, behind the register area in a vCPU's private page ----------------------------------------------
PRIVATE = offsets(['HOST_STACK',        # RSP of the kernel while the guest runs
                   'LAUNCHED'],         # 0 until the first VMLAUNCH
                  VMM['END'])
assert PRIVATE_AREA + PRIVATE['END'] <= PRIVATE_CPUID
# Instructions name a register by its number (hypervisor/kernel/vmx_exit.py): the area must begin with them, in this order.
assert [AREA[name] for name in GPR] == [8 * n for n in range(16)]

C_CONSTANTS = {'VMX_HOST_STACK': PRIVATE['HOST_STACK'], 'VMX_LAUNCHED': PRIVATE['LAUNCHED']}
