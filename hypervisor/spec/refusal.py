"""Why Bulkhead refuses to start on a machine: numbers and sentences, each naming what is missing and what to do."""

TABLE = [
    # number, name, sentence
    (0, 'NONE', ''),
    (1, 'NO_VENDOR', 'this processor has neither VMX (Intel) nor SVM (AMD): under a hypervisor, nesting must be switched on for this guest'),
    (2, 'NO_NPT', 'this processor has SVM but no nested paging (CPUID 0x8000000A EDX bit 0): guests could not be kept apart'),
    (3, 'SVM_DISABLED', 'SVM is switched off by the firmware (VM_CR.SVMDIS): switch on virtualisation in its set-up'),
    (4, 'FEATURE_CONTROL_LOCKED', 'VMX is locked off by the firmware (IA32_FEATURE_CONTROL): switch on virtualisation in its set-up'),
    (5, 'NO_SECONDARY', 'this processor has VMX but no secondary controls: EPT cannot exist'),
    (6, 'NO_EPT', 'this processor has no EPT with 4-level write-back tables: guests could not be kept apart'),
    (7, 'NO_UNRESTRICTED', 'this processor has no unrestricted guest: real-mode and unpaged guests cannot run'),
    (8, 'NO_VPID', 'this processor has no VPID with the INVVPID types that the kernel uses'),
    (9, 'NO_TRUE_CONTROLS', 'this processor has VMX without the true-controls MSRs (IA32_VMX_BASIC bit 55)'),
    (10, 'NO_EFER_SWITCH', 'this processor cannot switch IA32_EFER and IA32_PAT at VM entry and exit'),
    (11, 'NO_MSR_BITMAP', 'this processor has VMX without MSR bitmaps'),
    (12, 'CR_FIXED', 'this processor wants bits of CR0 or CR4 in VMX operation that the kernel cannot set'),
    (13, 'VMXON_FAILED', 'VMXON failed: some other hypervisor may already use this core'),
    (14, 'NO_ASIDS', 'this processor has fewer ASIDs than Bulkhead has VMs'),
    (15, 'NO_CONTROL', 'this processor lacks a VM-execution, VM-exit or VM-entry control that the kernel needs (IA32_VMX_TRUE_*_CTLS)'),
    (20, 'NO_LAPIC', 'this processor has no local APIC: there would be no time slices'),
    (21, 'LAPIC_SILENT', 'the local APIC timer does not count'),
    (22, 'NO_NX', 'this processor has no NX'),
    (23, 'PIT_SILENT', 'the PIT does not count, against which the timers are measured'),
    (30, 'BAD_LOADER', 'it was not started by a multiboot loader'),
    (31, 'NO_MEMORY_MAP', 'the boot loader gave no memory map'),
    (32, 'NO_ARENA', 'there is no free stretch of memory for the kernel: give the machine more memory'),
    (33, 'NO_MANAGER', 'the boot loader gave no module: the first must be the manager'),
    (34, 'BAD_MANAGER', 'the first boot module is not a Bulkhead program of this version'),
    (35, 'TOO_MANY_MODULES', 'the boot loader gave more modules than the kernel has slots for'),
    (36, 'MODULE_UNALIGNED', 'a boot module does not begin on a page boundary'),
    (38, 'NO_TRAMPOLINE', 'the page at 0x8000, where other processors begin, is not free memory'),
    (39, 'TOO_MANY_RANGES', 'the boot loader\'s memory map names more stretches that are no memory than the kernel can keep apart'),
    (37, 'NO_MEMORY', 'the kernel ran out of its own memory while starting'),
]
SENTENCES = dict((number, sentence) for number, _, sentence in TABLE)
for _number, _name, _sentence in TABLE:
    globals()[_name] = _number
