"""What the hostile VMM can do and how its VM must end. Plain data: the program and the tests (Python 3) both read it.

A variant is chosen by the guest's command line: the VMM looks for `kind=N` there, and kind.py does it. Where an ending is ANY, the processor decides:
one may take such a state, another refuse it; either way the VM ends, and ends alone.
"""
from hypervisor.spec import ending

ANY = [ending.VMM_BAD_ANSWER, ending.ENTRY_FAILED, ending.VMM_GAVE_UP, ending.TRIPLE_FAULT, ending.UNSUPPORTED, ending.KERNEL_LIMIT]

KINDS = [
    # kind, variants (words, or words and endings), endings that are right
    ('silent', ['spins without ever calling VCPU_RUN'], [ending.VMM_SILENT]),
    ('sleeper', ['waits for ever without ever calling VCPU_RUN', 'waits for ever instead of answering an exit'],
     [ending.VMM_SILENT]),
    ('silent_later', ['answers 100 exits, then spins'], [ending.VMM_SILENT]),
    ('nonsense', [
        'ACTION 3', 'ACTION -1', 'an unknown group is dirty', 'all bits of DIRTY',
        'injects vector 2', 'injects vector 32', 'injects vector 255', 'injects vector 2^63', 'an error code of 33 bits',
        'CR0: PG without PE', 'CR0: NW without CD', 'CR0 above 32 bits', 'CR4: reserved bit 15', 'CR4: VMXE',
        'CR4: a bit above 32', 'EFER: SVME', 'EFER: LMA without LME', 'EFER: reserved bit 1', 'long mode without PAE',
        'CR3 beyond the physical addresses', 'FS base not canonical', 'GDTR base not canonical', 'IDTR base not canonical',
        'TR base not canonical', 'GDTR limit above 64 KiB', 'RIP above 32 bits in 32-bit code', 'RFLAGS: bit 1 clear',
        'RFLAGS: reserved bit 3', ('RFLAGS: VM in real mode', ANY), ('CS is a data segment', ANY), ('CS is not present', ANY),
        ('CS is unusable', ANY), 'CS base above 32 bits', ('TR is no TSS', ANY), ('TR is unusable', ANY),
        ('SS with another privilege than CS', ANY), ('LDTR is no LDT', ANY), ('a limit that G contradicts', ANY),
        'random answers',
    ], [ending.VMM_BAD_ANSWER]),
    ('trespasser', [
        'reads the kernel image', "reads the core's arena", "reads the APIC's page", 'reads an address that is not mapped',
        'reads page 0', 'writes its boot page', 'writes its text', 'reads an address that is not canonical',
        'reads a physical address of the kernel', 'reads the end of the address space', 'runs code in its data',
        "runs code in the guest's memory", 'overruns its stack', "writes the guest's image",
    ], [ending.VMM_FAULT]),
    ('caller', ['makes kernel calls with hostile arguments for half a second, then exits with status 0'] * 4, [ending.EXITED]),
    ('portuser', [
        'out', 'in', 'cli', 'sti', 'hlt', 'rdmsr', 'wrmsr', 'mov cr0', 'mov cr3', 'lidt', 'lgdt', 'ltr', 'invlpg', 'wbinvd', 'clts',
        'vmcall', 'vmrun', 'int 0x20', 'int 0x81', 'int3', 'icebp', 'ud2', 'syscall', 'sysenter', 'a division by zero',
        'single step', 'iretq to ring 0',
    ], [ending.VMM_FAULT]),
    ('fpuuser', ['an SSE instruction', 'an x87 instruction', 'an AVX instruction'], [ending.VMM_FAULT]),
]
VARIANTS = dict((kind, variants) for kind, variants, _ in KINDS)


def cases():
    """(kind, number, words, endings) of every variant."""
    for kind, variants, endings in KINDS:
        for number, variant in enumerate(variants):
            words, right = variant if isinstance(variant, tuple) else (variant, endings)
            yield kind, number, words, right


# Details of VMM_GAVE_UP: the kernel let it pass.
SURVIVED = 100
BAD_STATUS = 200                # + number of the call: it answered with a status that does not exist
