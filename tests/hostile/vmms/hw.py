"""Instructions that no VMM of ours has: the hostile ones reach for them here.

The vector instructions hide in the immediate of a MOV, so that the build's proof over the ELF does not see them: that
proof keeps honest programs honest, and is not what protects the kernel.
"""
from rpython.rtyper.lltypesystem import lltype, rffi
from rpython.translator.tool.cbuild import ExternalCompilationInfo

_ECI = ExternalCompilationInfo(post_include_bits=['''
static inline void hostile_instruction(unsigned long which)
{
    unsigned long word = 0;
    struct { unsigned short limit; unsigned long base; } __attribute__((packed)) table = { 0, 0 };
    switch (which) {
    case 0: __asm__ volatile("outb %b0, %w1" : : "a"(65), "d"(0x3f8)); break;
    case 1: __asm__ volatile("inb %w1, %b0" : "=a"(word) : "d"(0x3f8)); break;
    case 2: __asm__ volatile("cli"); break;
    case 3: __asm__ volatile("sti"); break;
    case 4: __asm__ volatile("hlt"); break;
    case 5: __asm__ volatile("rdmsr" : "=a"(word) : "c"(0xc0000080) : "rdx"); break;
    case 6: __asm__ volatile("wrmsr" : : "a"(0), "d"(0), "c"(0xc0000082)); break;
    case 7: __asm__ volatile("mov %%cr0, %0" : "=r"(word)); break;
    case 8: __asm__ volatile("mov %0, %%cr3" : : "r"(word)); break;
    case 9: __asm__ volatile("lidt %0" : : "m"(table)); break;
    case 10: __asm__ volatile("lgdt %0" : : "m"(table)); break;
    case 11: __asm__ volatile("ltr %w0" : : "r"(0x28)); break;
    case 12: __asm__ volatile("invlpg (%0)" : : "r"(&table)); break;
    case 13: __asm__ volatile("wbinvd"); break;
    case 14: __asm__ volatile("clts"); break;
    case 15: __asm__ volatile(".byte 0x0f, 0x01, 0xc1" : : "a"(0)); break;       /* vmcall */
    case 16: __asm__ volatile(".byte 0x0f, 0x01, 0xd8" : : "a"(0)); break;       /* vmrun */
    case 17: __asm__ volatile("int $0x20"); break;
    case 18: __asm__ volatile("int $0x81"); break;
    case 19: __asm__ volatile("int3"); break;
    case 20: __asm__ volatile(".byte 0xf1"); break;                              /* icebp */
    case 21: __asm__ volatile("ud2"); break;
    case 22: __asm__ volatile("syscall" : : "a"(0) : "rcx", "r11", "memory"); break;
    case 23: __asm__ volatile("sysenter"); break;
    case 24: __asm__ volatile("xor %%edx, %%edx; div %%rdx" : "+a"(word) : : "rdx", "cc"); break;
    case 25: __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; nop" : : : "memory", "cc"); break;
    case 26: __asm__ volatile("mov %%rsp, %%rax; pushq $0x10; push %%rax; pushfq; pushq $8; lea 1f(%%rip), %%rax; push %%rax; iretq; 1:"
                              : : : "rax", "memory", "cc"); break;
    }
}

/* 1f + 1 is the middle of the MOV: its immediate, which ends in RET, is what runs. */
#define HOSTILE_HIDDEN(bytes) __asm__ volatile("call 1f+1; jmp 2f; 1: mov $" #bytes ", %%eax; 2:" : : : "rax", "rdx", "rcx", "memory")

static inline void hostile_fpu(unsigned long which)
{
    switch (which) {
    case 0: HOSTILE_HIDDEN(0xc3c0570f); break;          /* xorps %xmm0, %xmm0; ret */
    case 1: HOSTILE_HIDDEN(0xc390e8d9); break;          /* fld1; nop; ret */
    case 2: __asm__ volatile("call 1f+2; jmp 2f; 1: movabs $0xc3c057f8c5909090, %%rax; 2:" : : : "rax", "memory"); break;  /* vxorps */
    }
}

static inline void hostile_call(unsigned long address)
{
    ((void (*)(void))address)();
}

/* Deeper and deeper, a page at a time. */
static inline void hostile_overrun(void)
{
    for (;;)
        __asm__ volatile("sub $4096, %%rsp; orq $0, (%%rsp)" : : : "memory", "cc");
}
'''])


def _external(name, arguments):
    def double(*arguments):
        raise NotImplementedError('only as machine code')
    return rffi.llexternal(name, [lltype.Unsigned] * arguments, lltype.Void, compilation_info=_ECI, _nowrapper=True, _callable=double)


instruction = _external('hostile_instruction', 1)       # number: its place in table.py's list
fpu = _external('hostile_fpu', 1)
call_address = _external('hostile_call', 1)
overrun_stack = _external('hostile_overrun', 0)
