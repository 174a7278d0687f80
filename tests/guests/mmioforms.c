/* mmioforms: the many instructions that can touch memory, aimed at memory that nobody claims. Each read
 * must give all ones, each write must vanish. A hypervisor that emulates MMIO has to understand the
 * instruction first; one that does not stops the VM with a sentence, and hurts nobody else.
 *
 * more=1          all forms; by default plain MOVs, MOVZX and MOVSX only
 * unclaimed=0xff  the byte that unclaimed memory reads (QEMU's PC reads 0 there)
 * at=0xd0000000   where to aim
 */
#include "runtime.h"

static u64 ones;                               /* what a read gives, in all 64 bits */
static u32 errors, forms;

static void check(const char *form, u64 found, u64 wanted)
{
    forms++;
    if (found == wanted)
        return;
    errors++;
    print("mmioforms: %s gives %llx instead of %llx\n", form, found, wanted);
}

#define SEED 0x1122334455667788ull

/* A read into a register that held SEED before. Operand: %[to] with its size letter, (%[at]). */
#define READ(form, mask)                                                                     \
    do {                                                                                     \
        u64 to = SEED;                                                                       \
        asm volatile(form : [to] "+r"(to) : [at] "r"(at) : "memory", "cc");                  \
        check(form, to, (mask));                                                             \
    } while (0)

/* Something that writes; afterwards the memory must read as ever. */
#define WRITE(form)                                                                          \
    do {                                                                                     \
        u64 from = SEED;                                                                     \
        asm volatile(form : [from] "+r"(from) : [at] "r"(at) : "memory", "cc", "rax");       \
        check(form, *(volatile u64 *)at, ones);                                              \
    } while (0)

static void plain_moves(word at)
{
    READ("movb (%[at]), %b[to]", (SEED & ~0xffull) | (ones & 0xff));
    READ("movw (%[at]), %w[to]", (SEED & ~0xffffull) | (ones & 0xffff));
    READ("movl (%[at]), %k[to]", ones & 0xffffffff);
    READ("movq (%[at]), %[to]", ones);
    READ("movl 5(%[at]), %k[to]", ones & 0xffffffff);              /* misaligned */
    READ("xor %k[to], %k[to]; movl 0x40(%[at], %[to], 8), %k[to]", ones & 0xffffffff);
    READ("movzbl (%[at]), %k[to]", ones & 0xff);
    READ("movzwl (%[at]), %k[to]", ones & 0xffff);
    READ("movzbq (%[at]), %[to]", ones & 0xff);
    READ("movsbl (%[at]), %k[to]", ones & 0xffffffff);
    READ("movslq (%[at]), %[to]", ones);
    WRITE("movb %b[from], (%[at])");
    WRITE("movw %w[from], (%[at])");
    WRITE("movl %k[from], (%[at])");
    WRITE("movq %[from], (%[at])");
    WRITE("movb $0x5a, (%[at])");
    WRITE("movw $0x5a5a, (%[at])");
    WRITE("movl $0x5a5a5a5a, (%[at])");
    WRITE("movq $0x5a5a5a5a, (%[at])");
}

static void arithmetic(word at)
{
    u64 flags;
    READ("orq (%[at]), %[to]", SEED | ones);
    READ("andl (%[at]), %k[to]", SEED & ones & 0xffffffff);
    READ("addl (%[at]), %k[to]", (u32)(SEED + ones));
    READ("xorb (%[at]), %b[to]", SEED ^ (ones & 0xff));
    READ("xchgl %k[to], (%[at])", ones & 0xffffffff);
    READ("lock xaddl %k[to], (%[at])", ones & 0xffffffff);
    READ("stc; cmovcq (%[at]), %[to]", ones);
    READ("clc; cmovcq (%[at]), %[to]", SEED);                      /* reads, and does not move */
    WRITE("incl (%[at])");
    WRITE("lock addl $7, (%[at])");
    WRITE("notq (%[at])");
    WRITE("shll $3, (%[at])");
    WRITE("lock btsl $2, (%[at])");
    WRITE("xor %%eax, %%eax; lock cmpxchgl %k[from], (%[at])");
    WRITE("sete (%[at])");
    asm volatile("cmpb %b1, (%2); pushf; pop %0" : "=r"(flags) : "q"((u8)ones), "r"(at) : "memory", "cc");
    check("cmpb: ZF", flags >> 6 & 1, 1);
    asm volatile("testl $1, (%1); pushf; pop %0" : "=r"(flags) : "r"(at) : "memory", "cc");
    check("testl: ZF", flags >> 6 & 1, !(ones & 1));
}

static void strings_and_stack(word at)
{
    u64 buffer[4] = { SEED, SEED, SEED, SEED }, popped;
    word to = (word)buffer, from = at, count = 16;
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) :: "memory");
    check("rep movsb from there", buffer[1], ones);
    check("rep movsb from there: RCX", count, 0);
    to = at, from = (word)buffer, count = 2;
    asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) :: "memory");
    check("rep movsq to there", *(volatile u64 *)at, ones);
    to = at, count = 8;
    asm volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(0x5a) : "memory");
    check("rep stosl", to, at + 32);
    from = at;
    asm volatile("lodsq" : "+S"(from), "=a"(popped) :: "memory");
    check("lodsq", popped, ones);
    asm volatile("pushq (%1); popq %0" : "=r"(popped) : "r"(at) : "memory");
    check("pushq", popped, ones);
    asm volatile("pushq %0; popq (%1)" :: "r"(SEED), "r"(at) : "memory");
    check("popq", *(volatile u64 *)at, ones);
}

static void vectors(word at)
{
    u64 value;
    write_cr4(read_cr4() | CR4_OSFXSR);
    asm volatile("movdqa (%1), %%xmm3; movq %%xmm3, %0" : "=r"(value) : "r"(at) : "memory");
    check("movdqa from there", value, ones);
    asm volatile("movdqa %%xmm3, (%0); movntdq %%xmm3, 16(%0)" :: "r"(at) : "memory");
    check("movdqa to there", *(volatile u64 *)at, ones);
    asm volatile("fninit; fldl (%0); fstpl 8(%0)" :: "r"(at) : "memory");
    check("fstpl", *(volatile u64 *)(at + 8), ones);
}

int main(void)
{
    word at = option("at", 0xd0000000);
    ones = option("unclaimed", 0xff) * 0x0101010101010101ull;
    print("mmioforms: plain moves at %lx\n", at);
    plain_moves(at);
    if (option("more", 0)) {
        print("mmioforms: arithmetic\n");
        arithmetic(at);
        print("mmioforms: strings and stack\n");
        strings_and_stack(at);
        print("mmioforms: vectors\n");
        vectors(at);
    }
    print("mmioforms: %u forms, %u errors\n", forms, errors);
    return errors ? 1 : 0;
}
