/* pcapic: the interrupt controllers of a PC with APICs: local APIC in its xAPIC mode, IOAPIC, NMI, interrupt shadows, CR8.
 *
 * Each line of the report is one promise of a manual; it is the same on a bare PC and under a hypervisor.
 * Sources: Intel SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)", "Interrupt and Exception Handling"; Intel
 * 82093AA data sheet.
 * QEMU 7.2 deviates: it delivers vectors below 16, its error status register does not tell of them, and an APIC that software
 * disables does not mask its LVT entries.
 */
#include "runtime.h"
#include "board.h"
#include "irq.h"
#include "report.h"
#include "trap.h"

enum { APIC = 0xfee00000, ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SPURIOUS = 0xf0,
       ISR = 0x100, TMR = 0x180, IRR = 0x200, ESR = 0x280, ICR = 0x300, ICR_HIGH = 0x310, LVT_TIMER = 0x320, LINT0 = 0x350,
       LINT1 = 0x360, LVT_ERROR = 0x370, INITIAL = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0,
       MASKED = 1 << 16, PERIODIC = 1 << 17, SELF = 1 << 18, ALL_BUT_SELF = 3 << 18, ALL_AND_SELF = 2 << 18, LOGICAL = 1 << 11,
       NMI = 4 << 8, EXTINT = 7 << 8, ASSERT = 1 << 14, BUSY = 1 << 12, MSR_APIC_BASE = 0x1b, ENABLE = 1 << 11,
       LOW = 0x41, LOW_TOO = 0x45, HIGH = 0x61, TIMER = 0x51, ERROR = 0x55, LINE = 0x71, MASTER = 0x30 };
#define IOAPIC 0xfec00000ul
enum { IOAPIC_ID = 0, IOAPIC_VERSION = 1, ENTRY = 0x10, REMOTE_IRR = 1 << 14, LEVEL = 1 << 15, TIMER_INPUT = 2,
       IER = PORT_COM1 + 1, IIR = PORT_COM1 + 2, MCR = PORT_COM1 + 4 };

static u32 apic(u32 at) { return *(volatile u32 *)(0xfee00000ul + at); }
static void set_apic(u32 at, u32 value) { *(volatile u32 *)(0xfee00000ul + at) = value; }
static int has(u32 base, u32 vector) { return apic(base + (vector >> 5) * 16) >> (vector & 31) & 1; }
static void send(u32 command) { set_apic(ICR, command | ASSERT); }

static u32 ioapic(u32 n)
{
    *(volatile u32 *)IOAPIC = n;
    return *(volatile u32 *)(IOAPIC + 16);
}

static void set_ioapic(u32 n, u32 value)
{
    *(volatile u32 *)IOAPIC = n;
    *(volatile u32 *)(IOAPIC + 16) = value;
}

static void end(struct irq_frame *frame)
{
    if (frame->vector != 2)
        set_apic(EOI, 0);
}

/* -- local APIC --------------------------------------------------------------------------------------------------------- */
static void registers(void)
{
    report_part("apic");
    check("CPUID tells of it", cpuid(1, 0).edx >> 9 & 1);
    u64 base = rdmsr(MSR_APIC_BASE);
    check("it is at 0xfee00000, on, of the boot processor", base == (0xfee00000ull | ENABLE | 1 << 8));
    check("the id is CPUID's", apic(ID) >> 24 == cpuid(1, 0).ebx >> 24);
    check("VERSION tells an integrated one with timer, LINTs and error", (apic(VERSION) & 0xff) >= 0x10 && (apic(VERSION) >> 16 & 0xff) >= 3);
    set_apic(SPURIOUS, 0x1ff);
    check("the spurious-vector register keeps its bits", apic(SPURIOUS) == 0x1ff);
    set_apic(TPR, 0x35);
    check("TPR keeps a byte", apic(TPR) == 0x35);
    check("PPR follows it", apic(PPR) == 0x35);
    check("CR8 is its upper half", read_cr8() == 3);
    write_cr8(5);
    check("and TPR that of CR8", apic(TPR) == 0x50);
    write_cr8(0);
    check("0 opens all", apic(TPR) == 0 && apic(PPR) == 0);
    set_apic(LDR, 0x01ffffff);
    check("LDR keeps the upper byte", apic(LDR) == 0x01000000);
    set_apic(DFR, 0xffffffff);
    check("DFR: flat", apic(DFR) == 0xffffffff);
    set_apic(LVT_TIMER, MASKED | TIMER);
    check("LVT entries read back", apic(LVT_TIMER) == (MASKED | TIMER));
    set_apic(DIVIDE, 0xb);
    check("the divider reads back", apic(DIVIDE) == 0xb);
    check("ICR is idle", !(apic(ICR) & BUSY));
}

static void look(struct irq_frame *frame)
{
    static int done;
    if (frame->vector == LOW && !done) {
        done = 1;
        check("the vector in service is in ISR, not in IRR", has(ISR, LOW) && !has(IRR, LOW));
        check("PPR is its class", (apic(PPR) & 0xf0) == (LOW & 0xf0));
        send(SELF | LOW_TOO);
        send(SELF | HIGH);
        let_in();
        check("only a higher class comes in between", irq_count[HIGH] == 1 && irq_count[LOW_TOO] == 0);
    }
    end(frame);
}

static void priorities(void)
{
    irq_handler = end;
    irq_forget();
    set_apic(TPR, 0x50);
    send(SELF | LOW);
    send(SELF | HIGH);
    let_in();
    check("TPR holds lower classes back", irq_count[LOW] == 0 && irq_count[HIGH] == 1);
    check("what is held back is in IRR", has(IRR, LOW) && !has(ISR, LOW));
    set_apic(TPR, 0);
    let_in();
    check("it comes when TPR falls", irq_count[LOW] == 1);
    write_cr8(4);
    send(SELF | LOW);
    let_in();
    check("CR8 holds its own class back", irq_count[LOW] == 1);
    asm volatile("sti");
    write_cr8(0);
    asm volatile("nop; nop; cli");
    check("it comes when CR8 falls", irq_count[LOW] == 2);
    irq_forget();
    send(SELF | LOW);
    send(SELF | HIGH);
    send(SELF | LOW);
    let_in();
    check("the higher vector first, each once", irq_orders == 2 && irq_order[0] == HIGH && irq_order[1] == LOW);
    irq_forget();
    irq_handler = look;
    send(SELF | LOW);
    let_in();
    check("the equal class comes after EOI", irq_count[LOW_TOO] == 1 && irq_order[0] == LOW && irq_order[2] == LOW_TOO);
    irq_handler = end;
}

static void destinations(void)
{
    irq_forget();
    set_apic(ICR_HIGH, apic(ID));
    send(LOW);
    let_in();
    check("a physical destination", irq_count[LOW] == 1);
    set_apic(ICR_HIGH, 0xff000000);
    send(LOW);
    let_in();
    check("a broadcast", irq_count[LOW] == 2);
    set_apic(ICR_HIGH, 0x01000000);
    send(LOGICAL | LOW);
    let_in();
    check("a logical one in flat mode", irq_count[LOW] == 3);
    set_apic(ICR_HIGH, 0x02000000);
    send(LOGICAL | LOW);
    let_in();
    check("somebody else's", irq_count[LOW] == 3);
    set_apic(DFR, 0x0fffffff);
    set_apic(LDR, 0x21000000);
    set_apic(ICR_HIGH, 0x21000000);
    send(LOGICAL | LOW);
    let_in();
    check("a logical one in cluster mode", irq_count[LOW] == 4);
    set_apic(ICR_HIGH, 0x11000000);
    send(LOGICAL | LOW);
    let_in();
    check("another cluster's", irq_count[LOW] == 4);
    set_apic(DFR, 0xffffffff);
    send(ALL_AND_SELF | LOW);
    let_in();
    check("all and self", irq_count[LOW] == 5);
    send(ALL_BUT_SELF | LOW);
    let_in();
    check("all but self", irq_count[LOW] == 5);
}

static void errors(void)
{
    report_part("apic-errors");
    irq_take(5);
    set_apic(LVT_ERROR, MASKED | ERROR);
    set_apic(ESR, 0);
    set_apic(ESR, 0);
    check("ESR is clear after two writes", apic(ESR) == 0);
    send(SELF | 5);
    set_apic(ESR, 0);
    irq_forget();
    let_in();
    check("a vector below 16 does not come", irq_count[5] == 0);
    check("it is an error", apic(ESR) & 0x60);
    set_apic(ESR, 0);
    check("told once", apic(ESR) == 0);
    set_apic(0x40, 1);
    set_apic(ESR, 0);
    check("so is a register that is none", apic(ESR) & 0x80);
    irq_forget();
    set_apic(LVT_ERROR, ERROR);
    send(SELF | 5);
    let_in();
    check("the error entry interrupts", irq_count[ERROR] > 0);
    set_apic(LVT_ERROR, MASKED | ERROR);
    set_apic(ESR, 0);
    set_apic(ESR, 0);
}

static void timer(void)
{
    report_part("apic-timer");
    irq_forget();
    set_apic(DIVIDE, 0xb);
    set_apic(LVT_TIMER, TIMER);
    set_apic(INITIAL, 0xf0000000);
    u32 first = apic(CURRENT), second = apic(CURRENT);
    check("CURRENT counts down", first <= 0xf0000000 && second <= first && second);
    set_apic(INITIAL, 0);
    check("0 stops it", apic(CURRENT) == 0);
    set_apic(INITIAL, 50000);
    check("one shot", arrives(TIMER, 1));
    wait_us(5000);
    let_in();
    check("once, and stands at 0", irq_count[TIMER] == 1 && apic(CURRENT) == 0);
    set_apic(INITIAL, 50000);
    while (irq_count[TIMER] < 2)
        halt();
    check("it wakes from HLT", 1);
    set_apic(LVT_TIMER, PERIODIC | TIMER);
    set_apic(INITIAL, 20000);
    check("periodic", arrives(TIMER, 7));
    set_apic(LVT_TIMER, MASKED | PERIODIC | TIMER);
    let_in();
    u32 seen = irq_count[TIMER];
    wait_us(10000);
    let_in();
    check("until it is masked", irq_count[TIMER] == seen);
    set_apic(INITIAL, 0);
    set_apic(LVT_TIMER, TIMER);
    set_apic(INITIAL, 1000);
    wait_us(5000);
    check("what comes while interrupts are off waits in IRR", has(IRR, TIMER));
    let_in();
    check("and is taken then", irq_count[TIMER] == seen + 1);
    set_apic(LVT_TIMER, MASKED);
}

/* -- shadows and NMI ---------------------------------------------------------------------------------------------------- */
static void shadows(void)
{
    report_part("shadow");
    irq_forget();
    irq_handler = end;
    send(SELF | LOW);
    asm volatile("sti; cli" ::: "memory");
    check("nothing between STI and CLI", irq_count[LOW] == 0);
    asm volatile("sti; nop; cli" ::: "memory");
    check("it comes after the instruction behind STI", irq_count[LOW] == 1);
    send(SELF | LOW);
    asm volatile("sti; hlt; cli" ::: "memory");
    check("STI, HLT with one pending goes on", irq_count[LOW] == 2);
    u64 after = 0;
    asm volatile("mov %%ss, %%ecx; mov $1, %0; sti; nop; mov %1, (%2); mov %%ecx, %%ss; movl $0, (%2); cli"
                 : "+r"(after) : "r"((u32)(SELF | LOW | ASSERT)), "r"(0xfee00000ul + ICR) : "rcx", "memory");
    check("nor is it lost around MOV SS", irq_count[LOW] >= 2);
    let_in();
    irq_forget();
    send(SELF | LOW);
    asm volatile("pushf; orl $0x200, (%%rsp); popf; nop; cli" ::: "memory");
    check("POPF that sets IF has no shadow that matters", irq_count[LOW] == 1);
}

/* TCG lets an NMI in only between its blocks of code. */
static void settle(void) { wait_us(200); }

static volatile u32 nmi_depth, nmi_deepest, nmi_again, nmi_inside;
static void take_nmi(struct irq_frame *frame)
{
    if (frame->vector != 2) {
        end(frame);
        return;
    }
    nmi_depth++;
    if (nmi_depth > nmi_deepest)
        nmi_deepest = nmi_depth;
    if (nmi_again) {
        nmi_again = 0;
        set_apic(ICR_HIGH, apic(ID));
        send(NMI);
        settle();
        nmi_inside = irq_count[2];
    }
    nmi_depth--;
}

static void nmi(void)
{
    report_part("nmi");
    irq_forget();
    irq_handler = take_nmi;
    set_apic(ICR_HIGH, apic(ID));
    send(NMI);
    settle();
    check("it comes with interrupts off", irq_count[2] == 1);
    send(NMI);
    settle();
    check("and again after IRET", irq_count[2] == 2);
    nmi_again = 1;
    nmi_deepest = 0;
    send(NMI);
    settle();
    check("one inside the handler waits for its IRET", nmi_inside == 3 && nmi_deepest == 1);
    check("and comes then", irq_count[2] == 4);
    set_apic(TPR, 0xff);
    send(NMI);
    settle();
    check("TPR does not hold it back", irq_count[2] == 5);
    set_apic(TPR, 0);
    irq_handler = end;
}

/* An NMI whose handler runs on a stack of its own: the next one must not come before IRET has left that stack. */
static volatile u64 nmi_frames[4];
static volatile u32 nmi_frame_count;
static void keep_frame(struct irq_frame *frame)
{
    if (frame->vector != 2)
        return;
    nmi_frames[nmi_frame_count++ & 3] = frame->rsp;
    if (nmi_frame_count == 1) {
        set_apic(ICR_HIGH, apic(ID));
        send(NMI);
    }
}

static void nmi_order(void)
{
    nmi_frame_count = 0;
    irq_handler = keep_frame;
    set_apic(ICR_HIGH, apic(ID));
    send(NMI);
    settle();
    check("the next one interrupts what the first had interrupted", nmi_frame_count == 2 && nmi_frames[0] == nmi_frames[1]);
    irq_handler = end;
}

/* -- IOAPIC ------------------------------------------------------------------------------------------------------------- */
static void raise_com1(void)
{
    out8(IER, 0);
    out8(IER, 2);
}

static void drop_com1(void)
{
    out8(IER, 0);
    in8(IIR);
}

static volatile u32 while_in_service, keep_line;
static void level(struct irq_frame *frame)
{
    if (frame->vector == LINE) {
        while_in_service = ioapic(ENTRY + 2 * IRQ_COM1);
        if (keep_line)
            keep_line--;
        else
            drop_com1();
    }
    end(frame);
}

static void io(void)
{
    report_part("ioapic");
    pic_init(MASTER, MASTER + 8, ICW4_8086);
    pic_mask(0xffff);
    check("24 inputs", (ioapic(IOAPIC_VERSION) >> 16 & 0xff) == 23);
    check("a version of the 82093AA or later", (ioapic(IOAPIC_VERSION) & 0xff) >= 0x11);
    u32 id = ioapic(IOAPIC_ID);
    set_ioapic(IOAPIC_ID, 0x05000000);
    check("the id can be set", ioapic(IOAPIC_ID) == 0x05000000);
    set_ioapic(IOAPIC_ID, id);
    set_ioapic(ENTRY + 40, MASKED | LEVEL | 0x99);
    set_ioapic(ENTRY + 41, 0x03000000);
    check("entries read back", ioapic(ENTRY + 40) == (MASKED | LEVEL | 0x99) && ioapic(ENTRY + 41) == 0x03000000);
    set_ioapic(ENTRY + 40, MASKED);
    set_ioapic(ENTRY + 41, 0);
    check("the register select reads back", *(volatile u32 *)IOAPIC == ENTRY + 41);

    irq_handler = end;
    irq_forget();
    set_ioapic(ENTRY + 2 * TIMER_INPUT + 1, 0);
    set_ioapic(ENTRY + 2 * TIMER_INPUT, TIMER);
    pit_start(PIT_RATE, 3000);
    check("the PIT at input 2, by edges", arrives(TIMER, 4));
    u32 seen = irq_count[TIMER];
    while (irq_count[TIMER] < seen + 3)
        halt();
    check("it wakes from HLT", 1);
    set_ioapic(ENTRY + 2 * TIMER_INPUT, MASKED | TIMER);
    let_in();
    seen = irq_count[TIMER];
    wait_us(10000);
    let_in();
    check("until it is masked", irq_count[TIMER] == seen);
    pit_start(PIT_ONE_SHOT, 100);
    wait_us(1000);
    set_ioapic(ENTRY + 2 * TIMER_INPUT, TIMER);
    let_in();
    check("an edge at a masked input is lost", irq_count[TIMER] == seen);
    set_ioapic(ENTRY + 2 * TIMER_INPUT + 1, 0x02000000);
    pit_start(PIT_ONE_SHOT, 100);
    wait_us(1000);
    let_in();
    check("a message to an APIC that is not there reaches nobody", irq_count[TIMER] == seen);
    set_ioapic(ENTRY + 2 * TIMER_INPUT + 1, 0);
    set_ioapic(ENTRY + 2 * TIMER_INPUT, NMI);
    seen = irq_count[2];
    pit_start(PIT_ONE_SHOT, 100);
    wait_us(1000);
    check("an entry may say NMI", irq_count[2] == seen + 1);
    set_ioapic(ENTRY + 2 * TIMER_INPUT, MASKED);
    pit_stop();

    uart_drain();
    out8(MCR, 8);
    irq_handler = level;
    set_ioapic(ENTRY + 2 * IRQ_COM1 + 1, 0);
    set_ioapic(ENTRY + 2 * IRQ_COM1, LEVEL | LINE);
    keep_line = 2;
    raise_com1();
    check("a level goes on while the line is active", arrives(LINE, 3));
    check("remote IRR is set while it is served", while_in_service & REMOTE_IRR);
    check("and falls with EOI", !(ioapic(ENTRY + 2 * IRQ_COM1) & REMOTE_IRR));
    wait_us(1000);
    let_in();
    check("nothing more when the line has fallen", irq_count[LINE] == 3);
    check("TMR says that it was a level", has(TMR, LINE));
    raise_com1();
    check("without IF it waits with remote IRR set", has(IRR, LINE) && (ioapic(ENTRY + 2 * IRQ_COM1) & REMOTE_IRR));
    keep_line = 0;
    let_in();
    check("and comes once", irq_count[LINE] == 4);
    set_ioapic(ENTRY + 2 * IRQ_COM1, MASKED | LEVEL | LINE);
    raise_com1();
    let_in();
    check("masked, it does not come", irq_count[LINE] == 4);
    set_ioapic(ENTRY + 2 * IRQ_COM1, LEVEL | LINE);
    let_in();
    check("it comes when the mask opens, because a level is still there", irq_count[LINE] == 5);
    set_ioapic(ENTRY + 2 * IRQ_COM1, MASKED);
    drop_com1();
    irq_handler = end;
}

/* -- the PIC behind LINT0, and without an APIC -------------------------------------------------------------------------- */
static void end_pic(struct irq_frame *frame)
{
    if (frame->vector >= MASTER && frame->vector < MASTER + 16)
        pic_eoi(frame->vector - MASTER);
    else
        end(frame);
}

static void extint(void)
{
    report_part("extint");
    irq_handler = end_pic;
    irq_forget();
    pic_mask(0xffff & ~1);
    set_apic(LINT0, EXTINT);
    pit_start(PIT_RATE, 3000);
    check("the PIC through LINT0", arrives(MASTER, 3));
    check("it leaves no bit in ISR", !has(ISR, MASTER));
    set_apic(TPR, 0xff);
    u32 seen = irq_count[MASTER];
    check("TPR does not hold it back", arrives(MASTER, seen + 2));
    set_apic(TPR, 0);
    set_apic(LINT0, MASKED | EXTINT);
    let_in();
    seen = irq_count[MASTER];
    wait_us(10000);
    let_in();
    check("LINT0's mask does", irq_count[MASTER] == seen);
    set_apic(LINT0, EXTINT);
    seen = irq_count[MASTER];
    while (irq_count[MASTER] < seen + 3)
        halt();
    check("it wakes from HLT", 1);

    report_part("software-disabled");
    set_apic(LVT_TIMER, TIMER);
    set_apic(SPURIOUS, 0xff);
    check("the LVT entries are masked", apic(LVT_TIMER) & MASKED);
    set_apic(LVT_TIMER, TIMER);
    check("and stay so", apic(LVT_TIMER) & MASKED);
    set_apic(SPURIOUS, 0x1ff);

    report_part("apic-off");
    set_apic(LVT_TIMER, MASKED);
    set_apic(LINT0, EXTINT);
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) & ~(u64)ENABLE);
    check("APIC_BASE says so", !(rdmsr(MSR_APIC_BASE) & ENABLE));
    check("CPUID says so", !(cpuid(1, 0).edx >> 9 & 1));
    seen = irq_count[MASTER];
    check("the PIC reaches the processor's pin", arrives(MASTER, seen + 3));
    pit_stop();
    pic_mask(0xffff);
}

int main(void)
{
    irq_init();
    pic_init(MASTER, MASTER + 8, ICW4_8086);    /* what the firmware had running comes no more */
    pic_mask(0xffff);
    registers();
    priorities();
    destinations();
    errors();
    timer();
    shadows();
    nmi();
    nmi_order();
    io();
    extint();
    return report_end("pcapic") ? 1 : 0;
}
