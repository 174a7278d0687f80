/* mmioforms: the many instructions that can touch memory, aimed at memory that nobody claims. Each read
 * must give all ones, each write must vanish. A hypervisor that emulates MMIO has to understand the
 * instruction first; one that does not stops the VM with a sentence, and hurts nobody else.
 *
 * more=1          all forms; by default plain MOVs, MOVZX and MOVSX only
 * x87=1           what loads and stores floating-point registers
 * end=0x4000000   where memory ends: operands that begin before and end behind it
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

/* What a vector register holds: XMM3 or, with AVX, YMM3. */
static u64 vector[4] __attribute__((aligned(32)));
static const u64 seed[4] __attribute__((aligned(32))) = { SEED, SEED * 3, SEED * 5, SEED * 7 };
static int avx;

static void check_vector(const char *form, u64 a, u64 b, u64 c, u64 d)
{
    check(form, vector[0], a);
    check(form, vector[1], b);
    if (avx) {
        check(form, vector[2], c);
        check(form, vector[3], d);
    }
}

/* Around a move: the register gets the seed, and is looked at afterwards. The mode says which width it has. */
#define AROUND(form, ...)                                                                             \
    do {                                                                                              \
        if (avx)                                                                                      \
            asm volatile("vmovdqa %1, %%ymm3; vmovdqa %1, %%ymm12; " form "; vmovdqa %%ymm3, %0"      \
                         : "=m"(vector) : "m"(seed), ##__VA_ARGS__ : "memory", "rax");                \
        else                                                                                          \
            asm volatile("movdqa %1, %%xmm3; movdqa %1, %%xmm12; " form "; movdqa %%xmm3, %0"         \
                         : "=m"(vector) : "m"(seed), ##__VA_ARGS__ : "memory", "rax");                \
    } while (0)

#define LOADS(form, a, b)                                                                             \
    do {                                                                                              \
        AROUND(form " (%[at]), %%xmm3", [at] "r"(at));                                                \
        check_vector(form, a, b, seed[2], seed[3]);                                                   \
    } while (0)
#define LOADS_VEX(form, operands, a, b, c, d)                                                         \
    do {                                                                                              \
        AROUND(form " (%[at])" operands, [at] "r"(at));                                               \
        check_vector(form, a, b, c, d);                                                               \
    } while (0)
#define STORES(form, registers)                                                                       \
    do {                                                                                              \
        AROUND(form " " registers ", (%[at])", [at] "r"(at));                                         \
        check_vector(form, seed[0], seed[1], seed[2], seed[3]);                                       \
        check(form, *(volatile u64 *)at, ones);                                                       \
    } while (0)

static void sse(word at)
{
    LOADS("movups", ones, ones);
    LOADS("movupd", ones, ones);
    LOADS("movaps", ones, ones);
    LOADS("movapd", ones, ones);
    LOADS("movdqa", ones, ones);
    LOADS("movdqu", ones, ones);
    LOADS("lddqu", ones, ones);
    LOADS("movss", ones & 0xffffffff, 0);
    LOADS("movsd", ones, 0);
    LOADS("movd", ones & 0xffffffff, 0);
    LOADS("movq", ones, 0);
    LOADS("rex.w movd", ones, 0);
    LOADS("movlps", ones, seed[1]);
    LOADS("movlpd", ones, seed[1]);
    LOADS("movhps", seed[0], ones);
    LOADS("movhpd", seed[0], ones);
    LOADS("movntdqa", ones, ones);
    STORES("movups", "%%xmm3");
    STORES("movups", "%%xmm12");
    STORES("movupd", "%%xmm3");
    STORES("movaps", "%%xmm3");
    STORES("movapd", "%%xmm3");
    STORES("movdqa", "%%xmm3");
    STORES("movdqu", "%%xmm3");
    STORES("movss", "%%xmm3");
    STORES("movsd", "%%xmm3");
    STORES("movd", "%%xmm3");
    STORES("movq", "%%xmm3");
    STORES("rex.w movd", "%%xmm3");
    STORES("movlps", "%%xmm3");
    STORES("movlpd", "%%xmm3");
    STORES("movhps", "%%xmm3");
    STORES("movhpd", "%%xmm3");
    STORES("movntps", "%%xmm3");
    STORES("movntpd", "%%xmm3");
    STORES("movntdq", "%%xmm3");
    asm volatile("movntil %k1, (%0); movntiq %1, 8(%0)" :: "r"(at), "r"(SEED) : "memory");
    check("movnti", *(volatile u64 *)(at + 8), ones);
}

static void vex(word at)
{
    LOADS_VEX("vmovups", ", %%ymm3", ones, ones, ones, ones);
    LOADS_VEX("vmovapd", ", %%ymm3", ones, ones, ones, ones);
    LOADS_VEX("vmovdqu", ", %%ymm3", ones, ones, ones, ones);
    LOADS_VEX("vmovdqa", ", %%xmm3", ones, ones, 0, 0);
    LOADS_VEX("vmovups", ", %%xmm3", ones, ones, 0, 0);
    LOADS_VEX("vmovss", ", %%xmm3", ones & 0xffffffff, 0, 0, 0);
    LOADS_VEX("vmovsd", ", %%xmm3", ones, 0, 0, 0);
    LOADS_VEX("vmovd", ", %%xmm3", ones & 0xffffffff, 0, 0, 0);
    LOADS_VEX("vmovq", ", %%xmm3", ones, 0, 0, 0);
    LOADS_VEX("vmovlps", ", %%xmm12, %%xmm3", ones, seed[1], 0, 0);
    LOADS_VEX("vmovhpd", ", %%xmm12, %%xmm3", seed[0], ones, 0, 0);
    LOADS_VEX("vmovntdqa", ", %%xmm3", ones, ones, 0, 0);
    STORES("vmovups", "%%ymm3");
    STORES("vmovdqa", "%%ymm12");
    STORES("vmovntps", "%%ymm3");
    STORES("vmovdqu", "%%xmm12");
    STORES("vmovss", "%%xmm3");
    STORES("vmovq", "%%xmm3");
    STORES("vmovhps", "%%xmm3");
}

/* Half of the operand is memory: what is moved can be seen. */
static void across(word end)
{
    volatile u64 *last = (volatile u64 *)(end - 8);
    word at = end - 8;
    u64 kept = *last;
    *last = SEED * 9;
    LOADS("movups", SEED * 9, ones);
    at = end - 4;
    LOADS("movsd", (SEED * 9) >> 32 | ones << 32, 0);
    at = end - 8;
    *last = 0;
    AROUND("movups %%xmm3, (%[at])", [at] "r"(at));
    check("movups across the end", *last, seed[0]);
    at = end - 12;
    *last = 0;
    AROUND("movups %%xmm12, (%[at])", [at] "r"(at));
    check("movups across the end", *last, seed[0] >> 32 | seed[1] << 32);
    at = end - 4;
    *last = 0;
    AROUND("movhps %%xmm3, (%[at])", [at] "r"(at));
    check("movhps across the end", *last, seed[1] << 32);
    if (avx) {
        at = end - 24;
        *last = 0;
        AROUND("vmovdqu %%ymm12, (%[at])", [at] "r"(at));
        check("vmovdqu across the end", *last, seed[2]);
    }
    *last = kept;
}

static void vectors(word at)
{
    write_cr4(read_cr4() | CR4_OSFXSR);
    print("mmioforms: SSE\n");
    sse(at);
    u32 features = cpuid(1, 0).ecx;
    if ((features >> 26 & 5) == 5) {
        write_cr4(read_cr4() | 1 << 18);                               /* OSXSAVE */
        asm volatile("xsetbv" :: "a"(7), "d"(0), "c"(0));
        avx = 1;
        print("mmioforms: AVX\n");
        sse(at);
        vex(at);
    }
    word end = option("end", 0);
    if (end)
        across(end);
}

static void x87(word at)
{
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
    if (option("x87", 0)) {
        print("mmioforms: x87\n");
        x87(at);
    }
    print("mmioforms: %u forms, %u errors\n", forms, errors);
    return errors ? 1 : 0;
}
