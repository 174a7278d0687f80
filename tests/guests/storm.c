/* storm: TLB shoot-downs of all processors at once. Each has a page of the same page table, and two frames for it. It puts the other frame into
 * the entry, interrupts all others, waits until each has executed INVLPG and said so, and spoils the frame that was there before. Meanwhile it is
 * interrupted by the others' shoot-downs, and by plain interrupts that they count; it has interrupts off now and then. No interrupt may be lost or
 * come twice, and nobody may read of a page what was there before its last INVLPG.  It ends with
 *   storm: 4 processors, N shoot-downs each, W wrong
 *
 * rounds=200      shoot-downs of each processor;  dwell=3000  TSC ticks at most between two things, with interrupts off or on
 * x2apic=1        0: by the local APIC's page, as on a processor without x2APIC
 * patience=10000  milliseconds after which what does not come is lost
 * spoil=0         to see it fail: 1 an acknowledgement is missing; 2 no INVLPG (whoever has an exit may have lost the old translation all the same);
 *                 3 one shoot-down is sent to nobody; 4 a plain interrupt is sent twice; 5 one is not sent; 6 a sleeper is not woken
 */
#include "runtime.h"
#include "irq.h"

enum { MSR_APIC_BASE = 0x1b, MSR_GS_BASE = 0xc0000101, X2APIC_MODE = 1 << 10, EOI = 0xb0, SPURIOUS = 0xf0, ICR = 0x300, ICR_HIGH = 0x310,
       INIT = 5 << 8, STARTUP = 6 << 8, ASSERT = 1 << 14, OTHERS = 3 << 18, IF = 1 << 9, FEATURES = 0x40000001, LEAF_TIMING = 0x40000010, SEND_IPI = 10 };
/* Vectors: + who is shooting, or sending. */
enum { SHOOT = 0x40, WAKE = 0x58, PLAIN = 0x60, MOST = 8 };
enum spoil { NOTHING, NO_ANSWER, NO_INVLPG, NOBODY, TWICE, NOT_SENT, NO_WAKE };
enum { PAGE = 4096, FRAMES = 2, COMPLAINTS = 10, SPOILT_ROUND = 5 };
#define PAGES (4ul << 30)                              /* the first linear address that start64.S has not mapped */
#define SPOILT (~0ull)

/* What smp_start.S leaves and finds. */
static volatile struct { u32 cs, flags, cr0, efer, edx, starts, unused[2]; u8 gdt[16]; u32 cr3; } *const mailbox = (void *)0x7000;
extern u8 smp_start[], smp_start_end[];
static struct { u16 limit; u64 base; } __attribute__((packed)) idt;

extern u64 pdpt[];
static u64 directory[512] __attribute__((aligned(PAGE)));
static volatile u64 table[512] __attribute__((aligned(PAGE)));
static volatile u64 frames[MOST][FRAMES][PAGE / 8] __attribute__((aligned(PAGE)));

/* One processor's, written by itself only. */
struct processor {
    u32 number;                                         /* at GS: 0 */
    u64 chance;
    volatile word slept, finished;
    volatile word shot[MOST], plain[MOST], woken;       /* what has come, by sender */
    volatile word sent[MOST];                           /* plain interrupts, by receiver */
};
static struct processor all[MOST];
static volatile word wanted[MOST];                      /* the round of each initiator's last shoot-down; its page holds that number */
static volatile word unanswered[MOST], asleep[MOST];
static volatile u32 up, over, wrong;
static volatile int go;
static struct complaint { const char *what; word who, whose, seen; } complaints[COMPLAINTS];

static struct { volatile word next, serving; } ticket;
static volatile word taken;
static volatile word changes[2];                        /* of entries, under either lock */

static word rounds, dwell_most, spoil, patience;
static u32 cpus;
static int x2apic, amd, hypercalls;

static u64 rdtsc(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static struct processor *self(void)
{
    u32 number;
    asm volatile("movl %%gs:0, %0" : "=r"(number));
    return &all[number];
}

static u64 stamp(u32 whose, word round) { return (u64)whose << 48 | round; }

static word chance(word below)
{
    struct processor *me = self();
    u64 state = me->chance;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    me->chance = state;
    return state % below;
}

static void complain(const char *what, word whose, word seen)
{
    u32 n = __atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
    if (n < COMPLAINTS)
        complaints[n] = (struct complaint){ what, self()->number, whose, seen };
}

static void check(int right, const char *what, word whose, word seen)
{
    if (!right)
        complain(what, whose, seen);
}

/* The first to come here ends the VM. */
static void __attribute__((noreturn)) end(void)
{
    if (__atomic_exchange_n(&over, 1, __ATOMIC_SEQ_CST) == 0) {
        for (u32 n = 0; n < wrong && n < COMPLAINTS; n++)
            print("storm: WRONG: processor %lu: %s (of %lu: %lx)\n", complaints[n].who, complaints[n].what, complaints[n].whose, complaints[n].seen);
        print("storm: %u processors, %lu shoot-downs each, %u wrong\n", cpus, rounds, wrong);
        leave(wrong != 0);
    }
    for (;;)
        asm volatile("pause");
}

/* Called in each turn of a wait. */
static void be_patient(u64 since, const char *what, word whose, word seen)
{
    asm volatile("pause");
    if (rdtsc() - since > patience) {
        complain(what, whose, seen);
        end();
    }
}

static void apic_write(u32 at, u32 value)
{
    if (x2apic)
        wrmsr(0x800 + (at >> 4), value);
    else
        *(volatile u32 *)(0xfee00000ul + at) = value;
}

/* Called with interrupts off: by the page it takes two writes, and handlers send too. */
static void send(u32 destination, u32 what)
{
    if (x2apic) {
        wrmsr(0x800 + (ICR >> 4), (u64)destination << 32 | what);
        return;
    }
    apic_write(ICR_HIGH, destination << 24);
    apic_write(ICR, what);
}

static void send_by_hypercall(u64 mask, u32 what)
{
    long answer = SEND_IPI;
    if (amd)
        asm volatile("vmmcall" : "+a"(answer) : "b"(mask), "c"(0ul), "d"(0ul), "S"((u64)what) : "memory");
    else
        asm volatile("vmcall" : "+a"(answer) : "b"(mask), "c"(0ul), "d"(0ul), "S"((u64)what) : "memory");
    check(answer == cpus - 1, "a hypercall has not reached all", what, answer);
}

/* Some time, with interrupts as they are. */
static void dwell(void)
{
    u64 since = rdtsc(), length = chance(dwell_most + 1);
    while (rdtsc() - since < length)
        ;
}

static volatile u64 *page_of(u32 whose) { return (volatile u64 *)(PAGES + whose * PAGE); }

static void invalidate(u32 whose) { asm volatile("invlpg (%0)" :: "r"(page_of(whose)) : "memory"); }

static void shot(struct processor *me, u32 whose)
{
    word round = ++me->shot[whose];
    check(round == wanted[whose], "a shoot-down came twice, or one before it did not", whose, round);
    if (spoil != NO_INVLPG)
        invalidate(whose);
    check(*page_of(whose) == stamp(whose, wanted[whose]), "a page is an old one after INVLPG", whose, *page_of(whose));
    if (spoil == NO_ANSWER && me->number == 1 && whose == 0 && round == SPOILT_ROUND)
        return;
    int sleeps = asleep[whose];                         /* from the last answer on it may be another round's */
    if (__atomic_sub_fetch(&unanswered[whose], 1, __ATOMIC_SEQ_CST) == 0 && sleeps && spoil != NO_WAKE)
        send(whose, ASSERT | WAKE);
}

static void handle(struct irq_frame *frame)
{
    struct processor *me = self();
    u32 vector = frame->vector, sender = vector % MOST;
    int early = (vector + me->shot[0]) & 1;
    check((frame->rflags & IF) != 0, "an interrupt came while they were off", vector, frame->rip);
    if (early)
        apic_write(EOI, 0);
    switch (vector - sender) {
    case SHOOT:
        shot(me, sender);
        break;
    case PLAIN:
        me->plain[sender]++;
        check(me->plain[sender] == all[sender].sent[me->number], "a plain interrupt came twice", sender, me->plain[sender]);
        break;
    case WAKE:
        me->woken++;
        break;
    default:
        complain("a vector that nobody sends", vector, me->number);
    }
    if (!early)
        apic_write(EOI, 0);
}

/* Every page is what it was at this processor's last INVLPG, or at most one round further. If not, it says what another INVLPG makes of it. */
static void look(struct processor *me)
{
    for (u32 n = 0; n < cpus; n++) {
        word known = n == me->number ? wanted[n] : me->shot[n];
        u64 seen = *page_of(n);
        if (seen == stamp(n, known) || seen == stamp(n, known + 1))
            continue;
        complain("a page is not what it was at the last INVLPG", n, seen);
        complain("which was in this round", n, known);
        complain("its entry is", n, table[n]);
        invalidate(n);
        complain("after one more INVLPG the page is", n, *page_of(n));
        end();
    }
}

/* A plain interrupt to another processor, if the last one has come: one bit holds one. */
static void send_plain(struct processor *me, word n)
{
    u32 receiver = (me->number + 1 + chance(cpus - 1)) % cpus;
    volatile word *come = &all[receiver].plain[me->number];
    if (*come != me->sent[receiver])
        return;
    static int done;
    int spoilt = me->number == 1 && n >= SPOILT_ROUND && !done;
    done |= spoilt;
    me->sent[receiver]++;
    if (!(spoilt && spoil == NOT_SENT))
        send(receiver, ASSERT | (PLAIN + me->number));
    if (spoilt && spoil == TWICE) {
        for (u64 since = rdtsc(); *come != me->sent[receiver];) {
            let_in();
            be_patient(since, "a plain interrupt has not come", receiver, *come);
        }
        send(receiver, ASSERT | (PLAIN + me->number));
    }
}

/* The entry is changed under one of two locks. Interrupts are off while it is held. */
static void change_entry(u32 whose, word round)
{
    u64 since = rdtsc();
    int by_ticket = chance(2);
    if (by_ticket) {
        word mine = __atomic_fetch_add(&ticket.next, 1, __ATOMIC_SEQ_CST);
        while (ticket.serving != mine)
            be_patient(since, "a ticket's turn has not come", mine, ticket.serving);
    } else {
        while (__atomic_exchange_n(&taken, 1, __ATOMIC_SEQ_CST)) {
            let_in();
            be_patient(since, "a spin lock has not become free", whose, round);
        }
    }
    table[whose] = (u64)frames[whose][round % FRAMES] | PAGE_P | PAGE_W;
    word before = changes[by_ticket];
    spin(chance(50));
    changes[by_ticket] = before + 1;
    if (by_ticket)
        ticket.serving++;
    else
        __atomic_store_n(&taken, 0, __ATOMIC_SEQ_CST);
}

static void tell_the_others(struct processor *me)
{
    u32 what = ASSERT | (SHOOT + me->number), others = ((1u << cpus) - 1) & ~(1u << me->number);
    switch (chance(hypercalls ? 3 : 2)) {
    case 0:
        send(0, OTHERS | what);
        break;
    case 1:
        for (u32 n = 0, first = chance(cpus); n < cpus; n++) {
            u32 receiver = (first + n) % cpus;
            if (receiver == me->number)
                continue;
            send(receiver, what);
            if (chance(4) == 0)
                let_in();
        }
        break;
    default:
        send_by_hypercall(others, what);
    }
}

/* The first processor never sleeps, so that somebody always looks at the clock. */
static void shoot(struct processor *me, word round)
{
    u32 whose = me->number;
    int untold = spoil == NOBODY && whose == 1 && round == SPOILT_ROUND, sleeps = whose && !untold && chance(2);
    frames[whose][round % FRAMES][0] = stamp(whose, round);
    asleep[whose] = sleeps;
    unanswered[whose] = cpus - 1;
    wanted[whose] = round;
    change_entry(whose, round);
    invalidate(whose);
    if (untold)
        unanswered[whose] = 0;
    else
        tell_the_others(me);
    u64 since = rdtsc();
    while (unanswered[whose]) {
        if (sleeps)
            halt();
        else
            let_in();
        look(me);
        be_patient(since, "a shoot-down is not answered by all", whose, unanswered[whose]);
    }
    me->slept += sleeps;
    for (since = rdtsc(); me->woken != me->slept;) {
        let_in();
        be_patient(since, "a wake-up has not come", whose, me->woken);
    }
    check(*page_of(whose) == stamp(whose, round), "the initiator's own page is an old one", whose, *page_of(whose));
    frames[whose][(round - 1) % FRAMES][0] = SPOILT;
}

static void work(struct processor *me)
{
    for (u64 since = rdtsc(); !go;)
        be_patient(since, "the others do not begin", 0, up);
    for (word n = 1; n <= rounds; n++) {
        send_plain(me, n);
        dwell();
        look(me);
        let_in();
        shoot(me, n);
        look(me);
        if (chance(2)) {
            asm volatile("sti");
            dwell();
            asm volatile("cli");
        }
    }
    me->finished = 1;
}

/* The other processors, from smp_start.S, on one stack after the other. */
static u8 stacks[MOST][8192] __attribute__((aligned(16)));

static void begin(struct processor *me)
{
    if (x2apic)
        wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | X2APIC_MODE);
    apic_write(SPURIOUS, 0x1ff);
    wrmsr(MSR_GS_BASE, (u64)me);
    me->chance = 0x123456789abcdef1 * (2 * me->number + 1);
}

static void stay(void)
{
    begin(&all[up]);
    up++;
    work(self());
    for (;;)
        let_in();
}

void smp_main(void);
void smp_main(void)
{
    asm volatile("lidt %0" :: "m"(idt));
    asm volatile("mov %0, %%rsp; jmp *%1" :: "r"((u64)stacks[up] + sizeof *stacks - 8), "r"(stay));
    __builtin_unreachable();
}

static void start_all(void)
{
    asm volatile("sgdt %0" : "=m"(*(u8 (*)[10])mailbox->gdt));
    asm volatile("sidt %0" : "=m"(idt));
    mailbox->cr3 = read_cr3();
    memcpy((u8 *)0x8000, smp_start, smp_start_end - smp_start);
    for (u32 n = 1; n < cpus; n++) {
        send(n, INIT | ASSERT);
        for (u64 since = rdtsc(); rdtsc() - since < patience / 1000;)
            ;
        send(n, STARTUP | ASSERT | 8);
        for (u64 since = rdtsc(); up != n + 1;)
            be_patient(since, "a processor does not start", n, up);
    }
}

static void map_pages(void)
{
    for (u32 n = 0; n < cpus; n++) {
        all[n].number = n;
        frames[n][0][0] = stamp(n, 0);
        table[n] = (u64)frames[n][0] | PAGE_P | PAGE_W;
    }
    directory[0] = (u64)table | PAGE_P | PAGE_W;
    pdpt[PAGES >> 30] = (u64)directory | PAGE_P | PAGE_W;
}

static void wait_for_the_others(void)
{
    for (u32 n = 0; n < cpus; n++)
        for (u64 since = rdtsc(); !all[n].finished;) {
            let_in();
            be_patient(since, "a processor does not finish", n, wanted[n]);
        }
    for (u32 n = 0; n < cpus * cpus; n++)
        for (u64 since = rdtsc(); all[n % cpus].plain[n / cpus] != all[n / cpus].sent[n % cpus];) {
            let_in();
            be_patient(since, "a plain interrupt has not come", n / cpus, n % cpus);
        }
    for (u64 since = rdtsc(); rdtsc() - since < patience / 1000;)      /* whatever comes twice */
        let_in();
}

static void check_counts(void)
{
    word plain = 0, woken = 0;
    for (u32 n = 0; n < cpus; n++) {
        for (u32 sender = 0; sender < cpus; sender++) {
            check(all[n].shot[sender] == (n == sender ? 0 : rounds), "the count of shoot-downs", sender, all[n].shot[sender]);
            check(all[n].plain[sender] == all[sender].sent[n], "the count of plain interrupts", sender, all[n].plain[sender]);
            plain += all[n].plain[sender];
        }
        check(all[n].woken == all[n].slept, "the count of wake-ups", n, all[n].woken);
        woken += all[n].woken;
    }
    check(changes[0] + changes[1] == cpus * rounds, "two were in one lock", changes[0], changes[1]);
    check(rounds < 10 || (plain && woken && changes[0] && changes[1]), "none of some kind came", plain, woken);
    print("storm: %lu plain interrupts, %lu wake-ups, %lu changes under the ticket lock\n", plain, woken, changes[1]);
}

int main(void)
{
    word khz = cpuid(0x40000000, 0).eax >= LEAF_TIMING ? cpuid(LEAF_TIMING, 0).eax : 0;
    rounds = option("rounds", 200);
    dwell_most = option("dwell", 3000);
    spoil = option("spoil", NOTHING);
    patience = option("patience", 10000) * (khz ? khz : 1000000);
    x2apic = option("x2apic", 1) && cpuid(1, 0).ecx >> 21 & 1;
    amd = cpuid(0, 0).ebx == 0x68747541;
    hypercalls = cpuid(0x40000000, 0).eax >= FEATURES && cpuid(FEATURES, 0).eax >> 11 & 1;
    cpus = cpuid(1, 0).ebx >> 16 & 0xff;
    out8(0x21, 0xff);                                   /* a PC's PIC: what it sends is none of this */
    out8(0xa1, 0xff);
    irq_init();
    irq_handler = handle;
    map_pages();
    begin(&all[0]);
    if (cpus < 2 || cpus > MOST) {
        complain("it wants two to eight processors", 0, cpus);
        end();
    }
    up = 1;
    start_all();
    go = 1;
    work(&all[0]);
    wait_for_the_others();
    check_counts();
    end();
}
