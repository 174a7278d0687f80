"""The VMCB and the exit codes of SVM.

Source: AMD64 APM Vol. 2, "Secure Virtual Machine"; appendices "Layout of VMCB" and "SVM Intercept Exit Codes".
"""

# name, offset, bytes
CONTROL = [
    ('INTERCEPT_CR', 0x000, 4), ('INTERCEPT_DR', 0x004, 4), ('INTERCEPT_EXCEPTION', 0x008, 4), ('INTERCEPT_1', 0x00c, 4),
    ('INTERCEPT_2', 0x010, 4), ('IOPM_BASE_PA', 0x040, 8), ('MSRPM_BASE_PA', 0x048, 8), ('TSC_OFFSET', 0x050, 8), ('ASID', 0x058, 4),
    ('TLB_CONTROL', 0x05c, 1), ('V_INTR', 0x060, 8), ('INTERRUPT_SHADOW', 0x068, 8), ('EXITCODE', 0x070, 8), ('EXITINFO1', 0x078, 8),
    ('EXITINFO2', 0x080, 8), ('EXITINTINFO', 0x088, 8), ('NP_ENABLE', 0x090, 8), ('EVENTINJ', 0x0a8, 8), ('N_CR3', 0x0b0, 8),
    ('LBR_VIRTUALIZATION_ENABLE', 0x0b8, 8), ('CLEAN', 0x0c0, 4), ('NRIP', 0x0c8, 8),
]
SEGMENTS = [('ES', 0x400), ('CS', 0x410), ('SS', 0x420), ('DS', 0x430), ('FS', 0x440), ('GS', 0x450), ('GDTR', 0x460), ('LDTR', 0x470),
            ('IDTR', 0x480), ('TR', 0x490)]
SEGMENT_PARTS = {'SELECTOR': (0, 2), 'ATTRIBUTES': (2, 2), 'LIMIT': (4, 4), 'BASE': (8, 8)}
SAVE = [
    ('CPL', 0x4cb, 1), ('EFER', 0x4d0, 8), ('CR4', 0x548, 8), ('CR3', 0x550, 8), ('CR0', 0x558, 8), ('DR7', 0x560, 8), ('DR6', 0x568, 8),
    ('RFLAGS', 0x570, 8), ('RIP', 0x578, 8), ('RSP', 0x5d8, 8), ('RAX', 0x5f8, 8), ('STAR', 0x600, 8), ('LSTAR', 0x608, 8), ('CSTAR', 0x610, 8),
    ('SFMASK', 0x618, 8), ('KERNEL_GS_BASE', 0x620, 8), ('SYSENTER_CS', 0x628, 8), ('SYSENTER_ESP', 0x630, 8), ('SYSENTER_EIP', 0x638, 8),
    ('CR2', 0x640, 8), ('G_PAT', 0x668, 8), ('DBGCTL', 0x670, 8),
]
VMCB = dict((name, offset) for name, offset, _ in CONTROL + SAVE)

QEMU_LEAF, QEMU_NAME = 0x40000000, b'TCGTCGTCGTCG'          # of the processor that is QEMU's own

V_IRQ, V_IGNORE_TPR, V_INTR_MASKING = 1 << 8, 1 << 20, 1 << 24         # of V_INTR, whose upper half is the vector
V_TPR = 0xf                           # the guest's CR8
INTERCEPT_WRITE_CR8 = 1 << 24         # of INTERCEPT_CR
NOT_ALWAYS = ['VINTR', 'IRET', 'TASK_SWITCH']        # intercepts that are on only while they are wanted; task switches are the processor's

# INTERCEPT_1 and INTERCEPT_2 together: bit n of the one, bit 32 + n of the other. kind: hypervisor/spec/exit.py.
INTERCEPTS = [
    # bit, name, exit code
    (0, 'INTR', 0x60), (1, 'NMI', 0x61), (2, 'SMI', 0x62), (3, 'INIT', 0x63), (4, 'VINTR', 0x64), (15, 'RDPMC', 0x6f), (18, 'CPUID', 0x72), (19, 'RSM', 0x73), (20, 'IRET', 0x74),
    (22, 'INVD', 0x76), (24, 'HLT', 0x78), (26, 'INVLPGA', 0x7a), (27, 'IOIO', 0x7b), (28, 'MSR', 0x7c), (29, 'TASK_SWITCH', 0x7d),
    (30, 'FERR_FREEZE', 0x7e), (31, 'SHUTDOWN', 0x7f), (32, 'VMRUN', 0x80), (33, 'VMMCALL', 0x81), (34, 'VMLOAD', 0x82), (35, 'VMSAVE', 0x83),
    (36, 'STGI', 0x84), (37, 'CLGI', 0x85), (38, 'SKINIT', 0x86), (39, 'RDTSCP', 0x87), (41, 'WBINVD', 0x89), (42, 'MONITOR', 0x8a),
    (43, 'MWAIT', 0x8b), (44, 'MWAIT_CONDITIONAL', 0x8c), (45, 'XSETBV', 0x8d), (46, 'RDPRU', 0x8e),
]
for _bit, _name, _code in INTERCEPTS:
    globals()['EXIT_' + _name] = _code
EXIT_WRITE_CR8 = 0x18
EXIT_EXCEPTION = 0x40
EXIT_NPF = 0x400
EXIT_INVALID_LOW = 0xffffffff       # VMEXIT_INVALID is -1; some emulators keep only its low half

# Lengths of instructions without prefixes, for processors without NRIPS
LENGTHS = [('CPUID', 2), ('MSR', 2), ('HLT', 1), ('VMMCALL', 3), ('XSETBV', 3), ('INVD', 2), ('WBINVD', 2), ('RDPMC', 2)]

# EXITINFO1 of IOIO
IOIO_IN, IOIO_STRING, IOIO_REPEAT = 1 << 0, 1 << 2, 1 << 3
# EXITINFO1 of NPF. FINAL: the access is to the address that the guest's walk has found
NPF_WRITE, NPF_FETCH, NPF_FINAL = 1 << 1, 1 << 4, 1 << 32

# EVENTINJ and EXITINTINFO
EVENT_VALID, EVENT_ERROR = 1 << 31, 1 << 11
EVENT_TYPE_SHIFT = 8
EVENT_INTERRUPT, EVENT_NMI, EVENT_EXCEPTION, EVENT_SOFTWARE = 0, 2, 3, 4

TLB_FLUSH_ALL = 1
MSRPM_PAGES, IOPM_PAGES = 2, 3
MSRPM_RANGES = [(0x00000000, 0x000), (0xc0000000, 0x800), (0xc0010000, 0x1000)]     # first MSR, byte offset; 8192 MSRs each
CPUID_LEAF = 0x8000000a
CPUID_NP, CPUID_NRIPS = 1 << 0, 1 << 3
VM_CR_SVMDIS = 1 << 4

C_CONSTANTS = {'VMCB_RAX': VMCB['RAX']}
