/* badmode: ask the processor for states that the manual forbids, and expect #GP (or #UD) each time;
 * ask for odd states that it allows, and expect to get them. A hypervisor that passes a forbidden state
 * on fails its next VM entry.
 *
 * strict=1  a forbidden state that was taken is a failure (QEMU's TCG takes some)
 * exit=1    cause an exit while in whatever state was reached
 * risky=1   also those which, where they are taken, leave the guest no way back. QEMU's TCG takes a
 *           reserved bit in CR3 or CR4 for a failed VM entry: VMEXIT_INVALID in a guest, a hang on a bare PC.
 */
#include "fpu.h"
#include "runtime.h"
#include "trap.h"

#define BIT(n) (1ull << (n))

enum target { TO_CR0, TO_CR3, TO_CR4, TO_CR8, TO_DR6, TO_DR7, TO_XCR, TO_MSR };

struct attempt {
    const char *what;
    enum target target;
    u32 index;                             /* of the MSR or XCR */
    u64 set, clear;                        /* new = old & ~clear | set */
    int risky;
};

/* Sources: Intel SDM Vol. 3A, "Control Registers"; Vol. 2, "MOV - Move to/from Control Registers",
 * "WRMSR", "XSETBV"; AMD64 APM Vol. 2, "System-Control Registers". */
static const struct attempt forbidden[] = {
    { "CR0.NW without CD", TO_CR0, 0, CR0_NW, CR0_CD, 0 },
    { "CR0 above 32 bits", TO_CR0, 0, BIT(32), 0, 0 },
    { "CR0.PG without PE", TO_CR0, 0, 0, CR0_PE, 1 },
    { "CR0.PG cleared in 64-bit code", TO_CR0, 0, 0, CR0_PG, 1 },
    { "CR3 above the physical width", TO_CR3, 0, BIT(62), 0, 1 },
    { "CR4 bit 63", TO_CR4, 0, BIT(63), 0, 1 },
    { "CR4 bit 31", TO_CR4, 0, BIT(31), 0, 1 },
    { "CR4.PAE cleared in long mode", TO_CR4, 0, 0, CR4_PAE, 1 },
    { "CR4.LA57 set in long mode", TO_CR4, 0, BIT(12), 0, 0 },
    { "CR8 above 15", TO_CR8, 0, 16, 0, 0 },
    { "DR6 above 32 bits", TO_DR6, 0, BIT(32), 0, 0 },
    { "DR7 above 32 bits", TO_DR7, 0, BIT(40), 0, 0 },
    { "EFER reserved bit", TO_MSR, MSR_EFER, BIT(63), 0, 0 },
    { "EFER.LME cleared while paging", TO_MSR, MSR_EFER, 0, EFER_LME, 1 },
    { "LSTAR non-canonical", TO_MSR, 0xc0000082, BIT(60), 0, 0 },
    { "KERNEL_GS_BASE non-canonical", TO_MSR, 0xc0000102, BIT(60), 0, 0 },
    { "FS_BASE non-canonical", TO_MSR, 0xc0000100, BIT(60), 0, 0 },
    { "SYSENTER_EIP non-canonical", TO_MSR, 0x176, BIT(60), 0, 0 },
    { "PAT type 2", TO_MSR, 0x277, BIT(57), 0x07ull << 56, 0 },
    { "XCR0 without x87", TO_XCR, 0, 0, XSTATE_X87, 0 },
    { "XCR0 AVX without SSE", TO_XCR, 0, XSTATE_AVX, XSTATE_SSE, 0 },
    { "XCR0 bit 63", TO_XCR, 0, BIT(63), 0, 0 },
    { "XCR 5", TO_XCR, 5, 1, 0, 0 },
};

static const struct attempt allowed[] = {
    { "CR0.CD", TO_CR0, 0, CR0_CD, 0, 0 },
    { "CR0.CD and NW", TO_CR0, 0, CR0_CD | CR0_NW, 0, 0 },
    { "CR0.NE cleared", TO_CR0, 0, 0, CR0_NE, 0 },
    { "CR0.NE set", TO_CR0, 0, CR0_NE, 0, 0 },
    { "CR0.WP", TO_CR0, 0, CR0_WP, 0, 0 },
    { "CR0.AM", TO_CR0, 0, CR0_AM, 0, 0 },
    { "CR0.TS and MP", TO_CR0, 0, CR0_TS | CR0_MP, 0, 0 },
    { "CR0.EM", TO_CR0, 0, CR0_EM, 0, 0 },
    { "CR4.TSD", TO_CR4, 0, BIT(2), 0, 0 },
    { "CR4.DE", TO_CR4, 0, BIT(3), 0, 0 },
    { "CR4.PSE", TO_CR4, 0, CR4_PSE, 0, 0 },
    { "CR4.MCE", TO_CR4, 0, CR4_MCE, 0, 0 },
    { "CR4.MCE cleared", TO_CR4, 0, 0, CR4_MCE, 0 },
    { "CR4.PGE", TO_CR4, 0, CR4_PGE, 0, 0 },
    { "CR4.OSXMMEXCPT", TO_CR4, 0, CR4_OSXMMEXCPT, 0, 0 },
    { "EFER.SCE", TO_MSR, MSR_EFER, EFER_SCE, 0, 0 },
    { "EFER.NXE", TO_MSR, MSR_EFER, EFER_NXE, 0, 0 },
    { "XCR0 x87 only", TO_XCR, 0, XSTATE_X87, ~0ull, 0 },
};

static u64 read_target(const struct attempt *a)
{
    switch (a->target) {
    case TO_CR0: return read_cr0();
    case TO_CR3: return read_cr3();
    case TO_CR4: return read_cr4();
    case TO_CR8: return read_cr8();
    case TO_DR6: return read_dr6();
    case TO_DR7: return read_dr7();
    case TO_XCR: return xgetbv(0);
    case TO_MSR: return rdmsr(a->index);
    }
    return 0;
}

static void write_target(const struct attempt *a, u64 value)
{
    switch (a->target) {
    case TO_CR0: write_cr0(value); break;
    case TO_CR3: write_cr3(value); break;
    case TO_CR4: write_cr4(value); break;
    case TO_CR8: write_cr8(value); break;
    case TO_DR6: write_dr6(value); break;
    case TO_DR7: write_dr7(value); break;
    case TO_XCR: xsetbv(a->index, value); break;
    case TO_MSR: wrmsr(a->index, value); break;
    }
}

static u64 after;                          /* the target, read back in the state that was reached */

static void reach_for(void *argument)
{
    const struct attempt *a = argument;
    write_target(a, (read_target(a) & ~a->clear) | a->set);
    if (option("exit", 0))
        in8(PORT_UNCLAIMED);
    after = read_target(a);
}

static int applies(const struct attempt *a, u64 xcr0)
{
    if (a->target == TO_XCR && !xcr0)
        return 0;
    return !a->risky || option("risky", 0);
}

static u32 refused, taken, failed;

static void try_forbidden(const struct attempt *a)
{
    u64 before = read_target(a);
    int vector = trap_call(reach_for, (void *)a);
    if (vector == VECTOR_GP && trap.error == 0) {
        refused++;
        if (read_target(a) != before) {
            failed++;
            print("badmode: %s: #GP, yet changed\n", a->what);
        }
        return;
    }
    write_target(a, before);
    taken++;
    if (vector != NO_TRAP)
        failed++;
    print("badmode: %s: %s\n", a->what, vector == NO_TRAP ? "taken" : "raised something else");
}

static void try_allowed(const struct attempt *a)
{
    u64 before = read_target(a), wanted = (before & ~a->clear) | a->set;
    int vector = trap_call(reach_for, (void *)a);
    write_target(a, before);
    if (vector == NO_TRAP && after == wanted)
        return;
    failed++;
    if (vector == NO_TRAP)
        print("badmode: %s: reads %llx instead of %llx\n", a->what, after, wanted);
    else
        print("badmode: %s: vector %u error %llx\n", a->what, vector, trap.error);
}

/* Instructions of hypervisors and firmware: a guest that was promised neither VMX nor SVM gets #UD. */
#define MAKE(name, code) static void name(void *unused __attribute__((unused))) \
    { asm volatile(code :: "a"(0), "c"(0), "d"(0) : "memory"); }
MAKE(do_vmxon, "sub $8, %%rsp; vmxon (%%rsp); add $8, %%rsp")
MAKE(do_vmptrld, "sub $8, %%rsp; vmptrld (%%rsp); add $8, %%rsp")
MAKE(do_vmlaunch, "vmlaunch")
MAKE(do_vmread, "vmread %%rax, %%rcx")
MAKE(do_vmrun, "vmrun")
MAKE(do_vmload, "vmload")
MAKE(do_vmsave, "vmsave")
MAKE(do_stgi, "stgi")
MAKE(do_clgi, "clgi")
MAKE(do_skinit, "skinit")
MAKE(do_rsm, "rsm")
MAKE(do_invd, "invd")
MAKE(do_wbinvd, "wbinvd")

static const struct { const char *what; void (*make)(void *); int vector; } instructions[] = {
    { "VMXON", do_vmxon, VECTOR_UD }, { "VMPTRLD", do_vmptrld, VECTOR_UD }, { "VMLAUNCH", do_vmlaunch, VECTOR_UD },
    { "VMREAD", do_vmread, VECTOR_UD }, { "VMRUN", do_vmrun, VECTOR_UD }, { "VMLOAD", do_vmload, VECTOR_UD },
    { "VMSAVE", do_vmsave, VECTOR_UD }, { "STGI", do_stgi, VECTOR_UD }, { "CLGI", do_clgi, VECTOR_UD },
    { "SKINIT", do_skinit, VECTOR_UD }, { "RSM", do_rsm, VECTOR_UD },
    { "INVD", do_invd, NO_TRAP }, { "WBINVD", do_wbinvd, NO_TRAP },
};

static void try_instructions(void)
{
    for (u32 i = 0; i < sizeof instructions / sizeof instructions[0]; i++) {
        int vector = trap_call(instructions[i].make, 0);
        if (vector == instructions[i].vector) {
            refused += vector != NO_TRAP;
            continue;
        }
        taken += vector == NO_TRAP;
        failed += vector != NO_TRAP;
        print("badmode: %s: vector %u (%u: none)\n", instructions[i].what, vector, NO_TRAP);
    }
}

/* A guest that was not promised VMX or SVM may not switch them on either. */
static void try_virtualization(void)
{
    static const struct attempt vmxe = { "CR4.VMXE", TO_CR4, 0, CR4_VMXE, 0, 1 };
    static const struct attempt svme = { "EFER.SVME", TO_MSR, MSR_EFER, EFER_SVME, 0, 0 };
    if (!(cpuid(1, 0).ecx & BIT(5)) && applies(&vmxe, 1))
        try_forbidden(&vmxe);
    if (!(cpuid(0x80000001, 0).ecx & BIT(2)))
        try_forbidden(&svme);
    if (read_cr4() & CR4_VMXE || rdmsr(MSR_EFER) & EFER_SVME) {
        failed++;
        print("badmode: the hypervisor's own VMXE or SVME shows\n");
    }
}

int main(void)
{
    u64 xcr0 = fpu_enable();
    for (u32 i = 0; i < sizeof allowed / sizeof allowed[0]; i++)
        if (applies(&allowed[i], xcr0))
            try_allowed(&allowed[i]);
    for (u32 i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++)
        if (applies(&forbidden[i], xcr0))
            try_forbidden(&forbidden[i]);
    try_virtualization();
    try_instructions();
    print("badmode: %u refused, %u taken, %u wrong\n", refused, taken, failed);
    return failed || (taken && option("strict", 0));
}
