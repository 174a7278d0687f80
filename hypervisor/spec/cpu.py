"""Architectural registers and bits that the kernel uses.

Source: AMD64 APM Vol. 2, "System-Control Registers"; Intel SDM Vol. 3A, "System Architecture Overview"; Vol. 4, "Model-Specific
Registers".
"""

CR0 = [('PE', 0), ('MP', 1), ('EM', 2), ('TS', 3), ('ET', 4), ('NE', 5), ('WP', 16), ('AM', 18), ('NW', 29), ('CD', 30), ('PG', 31)]
CR4 = [('VME', 0), ('PVI', 1), ('TSD', 2), ('DE', 3), ('PSE', 4), ('PAE', 5), ('MCE', 6), ('PGE', 7), ('PCE', 8), ('OSFXSR', 9),
       ('OSXMMEXCPT', 10), ('UMIP', 11), ('LA57', 12), ('VMXE', 13), ('SMXE', 14), ('FSGSBASE', 16), ('PCIDE', 17), ('OSXSAVE', 18),
       ('SMEP', 20), ('SMAP', 21), ('PKE', 22), ('CET', 23)]
EFER = [('SCE', 0), ('LME', 8), ('LMA', 10), ('NXE', 11), ('SVME', 12), ('LMSLE', 13), ('FFXSR', 14)]
RFLAGS = [('CF', 0), ('PF', 2), ('AF', 4), ('ZF', 6), ('SF', 7), ('TF', 8), ('IF', 9), ('DF', 10), ('OF', 11), ('NT', 14), ('RF', 16),
          ('VM', 17), ('AC', 18), ('VIF', 19), ('VIP', 20), ('ID', 21)]
RFLAGS_FIXED = 2        # bit 1 always reads as one

MSR = [
    ('TSC', 0x10), ('APIC_BASE', 0x1b), ('FEATURE_CONTROL', 0x3a), ('SYSENTER_CS', 0x174), ('SYSENTER_ESP', 0x175), ('SYSENTER_EIP', 0x176),
    ('DEBUGCTL', 0x1d9), ('PAT', 0x277), ('TSC_DEADLINE', 0x6e0), ('X2APIC_FIRST', 0x800),
    ('SELF_IPI', 0x83f),
    ('EFER', 0xc0000080), ('STAR', 0xc0000081), ('LSTAR', 0xc0000082), ('CSTAR', 0xc0000083), ('SFMASK', 0xc0000084),
    ('FS_BASE', 0xc0000100), ('GS_BASE', 0xc0000101), ('KERNEL_GS_BASE', 0xc0000102), ('TSC_AUX', 0xc0000103),
    ('VM_CR', 0xc0010114), ('VM_HSAVE_PA', 0xc0010117),
]
PAT_RESET = 0x0007040600070406
DR6_RESET, DR7_RESET = 0xffff0ff0, 0x400
SEGMENT_LONG = 1 << 9              # of a code segment's ATTRIBUTES (hypervisor/spec/vcpu.py): L
LEAF_1_ECX_OSXSAVE = 1 << 27        # CPUID: what software has set in CR4
LEAF_1_EDX_APIC = 1 << 9            # what it has left on in APIC_BASE
LEAF_7, LEAF_7_ECX_PKU, LEAF_7_ECX_OSPKE = 7, 1 << 3, 1 << 4       # protection keys, and what software has set in CR4
LEAF_7_ECX_LA57 = 1 << 16
LINEAR_BITS, LINEAR_BITS_LA57 = 48, 57      # of an address; the rest repeats the highest of them
LEAF_XSAVE = 0xd

VECTORS = [
    # number, mnemonic, has an error code
    (0, 'DE', 0), (1, 'DB', 0), (2, 'NMI', 0), (3, 'BP', 0), (4, 'OF', 0), (5, 'BR', 0), (6, 'UD', 0), (7, 'NM', 0), (8, 'DF', 1),
    (10, 'TS', 1), (11, 'NP', 1), (12, 'SS', 1), (13, 'GP', 1), (14, 'PF', 1), (16, 'MF', 0), (17, 'AC', 1), (18, 'MC', 0),
    (19, 'XM', 0), (20, 'VE', 0), (21, 'CP', 1), (29, 'VC', 1), (30, 'SX', 1),
]
VECTOR_ERROR_MASK = sum(1 << number for number, _, error in VECTORS if error)
VECTOR_NAMES = dict((number, '#' + name) for number, name, _ in VECTORS)
VECTOR_TIMER = 0xf0         # the kernel's own have the highest sixteen
VECTOR_DOORBELL = 0xf1      # another core has something to say
VECTOR_SPURIOUS = 0xff

C_CONSTANTS = {'VECTOR_ERROR_MASK': VECTOR_ERROR_MASK, 'VECTOR_DOORBELL': VECTOR_DOORBELL}
for _prefix, _bits in (('CR0_', CR0), ('CR4_', CR4), ('EFER_', EFER), ('RFLAGS_', RFLAGS)):
    for _name, _bit in _bits:
        globals()[_prefix + _name] = 1 << _bit
        C_CONSTANTS[_prefix + _name] = 1 << _bit
for _name, _number in MSR:
    globals()['MSR_' + _name] = _number
    C_CONSTANTS['MSR_' + _name] = _number
for _number, _name, _ in VECTORS:
    globals()['VECTOR_' + _name] = _number
