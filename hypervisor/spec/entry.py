"""The rules that a processor checks before it runs a guest, as a table: number, name, sentence, and the section of the vendor's manual.

ENTRY_FAILED carries the number of the first rule that hypervisor/kernel/entry_check.py (Intel's control fields:
hypervisor/kernel/vmx_check.py) finds broken; 0 when none tells. Rules of features that the kernel never turns on
(posted interrupts, SMM transfers, CET, ...) are left out: their controls are zero, which rule CONTROL_RESERVED and its like see to.

Sections are those of the Intel SDM, Vol. 3C, "VM Entries", and of the AMD64 APM, Vol. 2, "Secure Virtual Machine".
"""

REGISTERS = 'Checks on Guest Control Registers, Debug Registers, and MSRs'
SEGMENTS = 'Checks on Guest Segment Registers'
TABLES = 'Checks on Guest Descriptor-Table Registers'
FLOW = 'Checks on Guest RIP, RFLAGS, and SSP'
NON_REGISTER = 'Checks on Guest Non-Register State'
PDPTES = 'Checks on Guest Page-Directory-Pointer-Table Entries'
EXECUTION = 'VM-Execution Control Fields'
EXIT = 'VM-Exit Control Fields'
ENTRY = 'VM-Entry Control Fields'
HOST_REGISTERS = 'Checks on Host Control Registers, MSRs, and SSP'
HOST_SEGMENTS = 'Checks on Host Segment and Descriptor-Table Registers'
HOST_SIZE = 'Checks Related to Address-Space Size'
MSR_LOAD = 'Loading MSRs'
AMD = 'Canonicalization and Consistency Checks'

BOTH = [
    # number, name, sentence, Intel's section; AMD's is AMD for all of them
    (1, 'CR0_HIGH', 'CR0 bits 63:32 are zero', REGISTERS),
    (2, 'CR3_WIDTH', 'CR3 has no bit beyond the physical-address width', REGISTERS),
    (3, 'CR4_RESERVED', 'CR4 has only bits that this processor defines', REGISTERS),
    (4, 'LONG_PAE', 'long mode (EFER.LME with CR0.PG) needs CR4.PAE', REGISTERS),
    (5, 'LONG_PE', 'long mode (EFER.LME with CR0.PG) needs CR0.PE', REGISTERS),
    (6, 'EFER_RESERVED', 'EFER has only bits that this processor defines', REGISTERS),
    (7, 'LONG_CS', 'in long mode, CS is not 64-bit (L) and 32-bit (D) at once', SEGMENTS),
    (8, 'DR7_HIGH', 'DR7 bits 63:32 are zero', REGISTERS),
]

INTEL = [
    (10, 'CR0_FIXED', 'CR0 has the bits that VMX operation fixes (IA32_VMX_CR0_FIXED0 and 1; PE and PG are free)', REGISTERS),
    (11, 'CR0_PG_PE', 'CR0.PG needs CR0.PE', REGISTERS),
    (12, 'CR4_FIXED', 'CR4 has the bits that VMX operation fixes (IA32_VMX_CR4_FIXED0 and 1)', REGISTERS),
    (13, 'DEBUGCTL_RESERVED', 'IA32_DEBUGCTL has only defined bits', REGISTERS),
    (14, 'LONG_PG', '"IA-32e mode guest" needs CR0.PG', REGISTERS),
    (15, 'PCIDE_LONG', 'CR4.PCIDE needs "IA-32e mode guest"', REGISTERS),
    (16, 'SYSENTER_CANONICAL', 'IA32_SYSENTER_ESP and IA32_SYSENTER_EIP are canonical', REGISTERS),
    (17, 'PAT_TYPE', 'each byte of IA32_PAT is a memory type: 0, 1, 4, 5, 6 or 7', REGISTERS),
    (18, 'EFER_LMA', 'EFER.LMA is as "IA-32e mode guest" says, and as EFER.LME while CR0.PG is set', REGISTERS),

    (20, 'TR_TI', 'TR\'s selector refers to the GDT', SEGMENTS),
    (21, 'LDTR_TI', 'LDTR\'s selector refers to the GDT', SEGMENTS),
    (22, 'V86_BASE', 'in virtual-8086 mode, a segment\'s base is its selector times 16', SEGMENTS),
    (23, 'V86_LIMIT', 'in virtual-8086 mode, a segment\'s limit is 0xffff', SEGMENTS),
    (24, 'V86_RIGHTS', 'in virtual-8086 mode, a segment\'s attributes are 0xf3', SEGMENTS),
    (25, 'BASE_CANONICAL', 'the bases of FS, GS, TR and a usable LDTR are canonical', SEGMENTS),
    (26, 'BASE_HIGH', 'the bases of CS and of usable ES, SS, DS fit in 32 bits', SEGMENTS),
    (27, 'CS_TYPE', 'CS is an accessed code segment, or a read/write accessed data segment that grows up', SEGMENTS),
    (28, 'SS_TYPE', 'SS, when usable, is a read/write accessed data segment', SEGMENTS),
    (29, 'DATA_TYPE', 'ES, DS, FS and GS, when usable, are accessed, and readable when they are code', SEGMENTS),
    (30, 'SEGMENT_S', 'CS and the usable ES, SS, DS, FS, GS are code or data segments (S)', SEGMENTS),
    (31, 'CS_DPL', 'CS.DPL is 0 for a data segment, SS.DPL for nonconforming code, at most SS.DPL for conforming code', SEGMENTS),
    (32, 'SS_DPL', 'SS.DPL is 0 when CR0.PE is clear or CS is a data segment', SEGMENTS),
    (33, 'SEGMENT_P', 'CS and the usable ES, SS, DS, FS, GS are present', SEGMENTS),
    (34, 'SEGMENT_G', 'a segment\'s limit and G agree: with G its low 12 bits are ones, without it its high 12 bits are zero', SEGMENTS),
    (36, 'TR_TYPE', 'TR is a busy TSS: of 32 or 64 bits, or of 16 bits outside long mode', SEGMENTS),
    (37, 'TR_USABLE', 'TR is a present, usable system segment', SEGMENTS),
    (38, 'LDTR_TYPE', 'LDTR, when usable, is a present LDT', SEGMENTS),

    (40, 'TABLE_CANONICAL', 'the bases of GDTR and IDTR are canonical', TABLES),
    (41, 'TABLE_LIMIT', 'the limits of GDTR and IDTR fit in 16 bits', TABLES),
    (42, 'RIP_HIGH', 'RIP fits in 32 bits outside of 64-bit code', FLOW),
    (43, 'RIP_CANONICAL', 'RIP is canonical', FLOW),
    (44, 'RFLAGS_RESERVED', 'RFLAGS has only defined bits, and bit 1', FLOW),
    (45, 'RFLAGS_VM', 'RFLAGS.VM is clear in long mode and in real mode', FLOW),
    (46, 'RFLAGS_IF', 'RFLAGS.IF is set when an external interrupt is injected', FLOW),

    (50, 'ACTIVITY', 'the activity state is one that exists (0 to 3)', NON_REGISTER),
    (51, 'ACTIVITY_HLT', 'a guest in HLT has SS.DPL 0', NON_REGISTER),
    (52, 'ACTIVITY_BLOCKING', 'a guest with interrupts blocked by STI or MOV SS is active', NON_REGISTER),
    (53, 'ACTIVITY_EVENT', 'the injected event can be delivered in the activity state', NON_REGISTER),
    (54, 'BLOCKING_RESERVED', 'the interruptibility state has only defined bits', NON_REGISTER),
    (55, 'BLOCKING_BOTH', 'interrupts are not blocked by STI and MOV SS at once', NON_REGISTER),
    (56, 'BLOCKING_STI_IF', 'blocking by STI needs RFLAGS.IF', NON_REGISTER),
    (57, 'BLOCKING_INTERRUPT', 'no external interrupt is injected while STI or MOV SS blocks them', NON_REGISTER),
    (58, 'BLOCKING_NMI', 'no NMI is injected while MOV SS or an NMI blocks them', NON_REGISTER),
    (59, 'BLOCKING_SMI', 'SMIs are not blocked outside SMM', NON_REGISTER),
    (60, 'PENDING_RESERVED', 'the pending debug exceptions have only defined bits', NON_REGISTER),
    (61, 'PENDING_STEP', 'with interrupts blocked, or in HLT, a pending single step (BS) is there exactly when RFLAGS.TF is set and BTF is not',
     NON_REGISTER),
    (62, 'LINK_POINTER', 'the VMCS link pointer is all ones: there is no shadow VMCS', NON_REGISTER),
    (63, 'PDPTE_RESERVED', 'with PAE paging, a present page-directory-pointer-table entry has no reserved bit', PDPTES),

    (70, 'PIN_RESERVED', 'the pin-based controls are what the processor allows', EXECUTION),
    (71, 'PRIMARY_RESERVED', 'the primary processor-based controls are what the processor allows', EXECUTION),
    (72, 'SECONDARY_RESERVED', 'the secondary processor-based controls are what the processor allows', EXECUTION),
    (73, 'CR3_TARGETS', 'there are at most four CR3 targets', EXECUTION),
    (74, 'IO_BITMAP', 'the I/O bitmaps, when used, are aligned pages within the physical-address width', EXECUTION),
    (75, 'MSR_BITMAP', 'the MSR bitmap, when used, is an aligned page within the physical-address width', EXECUTION),
    (76, 'VIRTUAL_NMIS', '"virtual NMIs" needs "NMI exiting", and "NMI-window exiting" needs "virtual NMIs"', EXECUTION),
    (77, 'VPID_ZERO', 'the VPID is not 0', EXECUTION),
    (78, 'EPTP', 'the EPT pointer says write-back and four levels, has no reserved bit, and lies within the physical-address width', EXECUTION),
    (79, 'UNRESTRICTED_EPT', '"unrestricted guest" needs "enable EPT"', EXECUTION),
    (80, 'EXIT_RESERVED', 'the VM-exit controls are what the processor allows', EXIT),
    (81, 'EXIT_TIMER', '"save VMX-preemption timer value" needs "activate VMX-preemption timer"', EXIT),
    (82, 'EXIT_MSRS', 'the MSR areas of exits, when not empty, are 16-byte aligned', EXIT),
    (83, 'ENTRY_RESERVED', 'the VM-entry controls are what the processor allows', ENTRY),
    (84, 'ENTRY_SMM', '"entry to SMM" and "deactivate dual-monitor treatment" are clear outside SMM', ENTRY),
    (85, 'ENTRY_MSRS', 'the MSR area of entries, when not empty, is 16-byte aligned', ENTRY),
    (86, 'EVENT_TYPE', 'the injected event\'s type exists', ENTRY),
    (87, 'EVENT_VECTOR', 'the injected event\'s vector fits its type: an NMI has 2, a hardware exception at most 31', ENTRY),
    (88, 'EVENT_ERROR', 'an error code is delivered exactly with the hardware exceptions that have one, in protected mode', ENTRY),
    (89, 'EVENT_RESERVED', 'the injected event has no reserved bit, its error code fits in 15 bits', ENTRY),
    (90, 'EVENT_LENGTH', 'an injected software interrupt or exception has an instruction length from 1 to 15', ENTRY),

    (91, 'VIRTUAL_APIC', 'the virtual-APIC page, when used, is an aligned page within the physical-address width', EXECUTION),
    (92, 'TPR_THRESHOLD', 'the TPR threshold, when used, fits in 4 bits', EXECUTION),
    (93, 'TPR_SHADOW', '"virtualize x2APIC mode", "APIC-register virtualization" and "virtual-interrupt delivery" need "use TPR shadow"', EXECUTION),
    (94, 'APIC_MODES', '"virtualize x2APIC mode" and "virtualize APIC accesses" are not set at once', EXECUTION),
    (95, 'DELIVERY_EXTERNAL', '"virtual-interrupt delivery" needs "external-interrupt exiting"', EXECUTION),

    (100, 'HOST_CR0', 'the host\'s CR0 has the bits that VMX operation fixes', HOST_REGISTERS),
    (101, 'HOST_CR4', 'the host\'s CR4 has the bits that VMX operation fixes', HOST_REGISTERS),
    (102, 'HOST_CR3', 'the host\'s CR3 has no bit beyond the physical-address width', HOST_REGISTERS),
    (103, 'HOST_SYSENTER', 'the host\'s IA32_SYSENTER_ESP and IA32_SYSENTER_EIP are canonical', HOST_REGISTERS),
    (104, 'HOST_PAT', 'each byte of the host\'s IA32_PAT is a memory type', HOST_REGISTERS),
    (105, 'HOST_EFER', 'the host\'s EFER has only defined bits; LMA and LME are as "host address-space size" says', HOST_REGISTERS),
    (106, 'HOST_SELECTOR', 'the host\'s selectors have RPL 0 and refer to the GDT', HOST_SEGMENTS),
    (107, 'HOST_CS_TR', 'the host\'s CS and TR are not null', HOST_SEGMENTS),
    (108, 'HOST_BASE', 'the host\'s bases of FS, GS, TR, GDTR and IDTR are canonical', HOST_SEGMENTS),
    (109, 'HOST_64', 'in 64-bit mode, "host address-space size" is set', HOST_SIZE),
    (110, 'HOST_PAE', 'the host\'s CR4.PAE is set', HOST_SIZE),
    (111, 'HOST_RIP', 'the host\'s RIP is canonical', HOST_SIZE),

    (120, 'MSR_LOADING', 'the MSRs of the VM-entry MSR-load area can be loaded', MSR_LOAD),
]

AMD_ONLY = [
    (130, 'EFER_SVME', 'EFER.SVME is set', AMD),
    (131, 'CR0_NW_CD', 'CR0.NW needs CR0.CD', AMD),
    (132, 'DR6_HIGH', 'DR6 bits 63:32 are zero', AMD),
    (133, 'INTERCEPT_VMRUN', 'VMRUN is intercepted', AMD),
    (134, 'ASID_ZERO', 'the ASID is not 0', AMD),
    (135, 'PERMISSION_MAPS', 'the I/O and MSR permission maps lie within the physical-address width', AMD),
    (136, 'NESTED_CR3', 'the nested CR3 has no bit beyond the physical-address width', AMD),
    (137, 'EVENT_TYPE_AMD', 'the injected event\'s type and vector exist: an NMI does not count as an exception', 'Event Injection'),
]

TABLE = BOTH + INTEL + AMD_ONLY
SENTENCES = dict((number, sentence) for number, _, sentence, _ in TABLE)
NAMES = dict((number, name) for number, name, _, _ in TABLE)
assert len(NAMES) == len(TABLE)
for _number, _name, _, _ in TABLE:
    globals()['RULE_' + _name] = _number
