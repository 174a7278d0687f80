/* msrprober: read every model-specific register in the ranges where processors and hypervisors have
 * any. Each access either works or raises #GP; nothing else may happen.
 *
 * write=1  also write back what was read, write junk, and write back again
 * full=1   every register; by default only each 16th of the ranges' upper halves, where none are known
 */
#include "runtime.h"
#include "trap.h"

static const struct { u32 first, dense, last; } ranges[] = {
    { 0x00000000, 0x00000fff, 0x00001fff },
    { 0x40000000, 0x400000ff, 0x400000ff },        /* hypervisors' own */
    { 0xc0000000, 0xc00003ff, 0xc0001fff },        /* AMD64: EFER, STAR, ... */
    { 0xc0010000, 0xc00103ff, 0xc0011fff },        /* AMD's implementation */
};

/* Junk here ends the guest by the architecture's own rules, whoever runs it. */
static const u32 no_junk[] = {
    0x0000001b,            /* APIC_BASE: moves or disables the local APIC */
    0x00000079,            /* BIOS_UPDT_TRIG: loads microcode from that address */
    0x000006e0,            /* TSC_DEADLINE: arms an interrupt */
    0x00000830,            /* x2APIC ICR: may send INIT to ourselves */
    0x0000083f,            /* x2APIC SELF IPI */
    MSR_EFER,              /* LME, and NXE below our own page tables */
};
#define JUNK 0xdead5eedcafebabeull

static u32 readable, refused, written, unwritable, junk_taken, junk_refused, other;

static int junk_allowed(u32 msr)
{
    for (u32 i = 0; i < sizeof no_junk / sizeof no_junk[0]; i++)
        if (msr == no_junk[i])
            return 0;
    return 1;
}

/* A refusal is #GP(0); anything else is a surprise. */
static void expect_gp(u32 msr, const char *access)
{
    if (trap_last == VECTOR_GP && trap.error == 0)
        return;
    other++;
    print("msr %08x: %s raised vector %u error %llx\n", msr, access, trap_last, trap.error);
}

static void probe_write(u32 msr, u64 value)
{
    if (try_wrmsr(msr, value))
        written++;
    else {
        unwritable++;
        expect_gp(msr, "write back");
    }
    if (!junk_allowed(msr))
        return;
    if (!try_wrmsr(msr, JUNK)) {
        junk_refused++;
        expect_gp(msr, "write of junk");
        return;
    }
    junk_taken++;
    try_wrmsr(msr, value);
}

static void probe(u32 msr, int writing)
{
    u64 value;
    if (try_rdmsr(msr, &value)) {
        readable++;
    } else {
        refused++;
        value = 0;
        expect_gp(msr, "read");
    }
    if (writing)
        probe_write(msr, value);
}

int main(void)
{
    word writing = option("write", 0), full = option("full", 0);
    for (u32 i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        for (u32 msr = ranges[i].first; msr <= ranges[i].last; msr += full || msr <= ranges[i].dense ? 1 : 16)
            probe(msr, writing);
    print("msrprober: %u readable, %u #GP\n", readable, refused);
    if (writing)
        print("msrprober: %u written back, %u #GP; junk: %u taken, %u #GP\n",
              written, unwritable, junk_taken, junk_refused);
    print("msrprober: %u surprises, done\n", other);
    return other ? 1 : 0;
}
