/* pc: the board of a PC as software knows it: PIC pair, timer, real-time clock, COM1, ACPI tables, PCI, keyboard controller.
 *
 * Each line of the report is one promise of a data sheet; it is the same on a bare PC and under a hypervisor.
 * Sources: Intel 8259A and 8254 data sheets; Motorola MC146818; National PC16550D; ACPI Specification 6; PCI Local Bus 3.0;
 * IBM PC/AT Technical Reference.
 * QEMU 7.2 deviates: in loop-back its COM1 interrupts all the same, although OUT2 is cut off from the line then.
 */
#include "runtime.h"
#include "board.h"
#include "irq.h"
#include "report.h"
#include "trap.h"

enum { MASTER = 0x30, SLAVE = 0x38, ALL = 0xffff, TIMER_VECTOR = MASTER + IRQ_TIMER, COM1_VECTOR = MASTER + IRQ_COM1,
       RTC_VECTOR = SLAVE,
       CMOS = 0x70, RTC_A = 10, RTC_B = 11, RTC_C = 12, RTC_D = 13, B_SET = 0x80, B_PERIODIC = 0x40, B_ALARM = 0x20,
       B_UPDATE = 0x10, B_24 = 2,
       UART = PORT_COM1, IER = UART + 1, IIR = UART + 2, LCR = UART + 3, MCR = UART + 4, LSR = UART + 5, MSR = UART + 6,
       SCR = UART + 7, MCR_OUT2 = 8, MCR_LOOP = 16 };

static u8 cmos(u8 n)
{
    out8(CMOS, n);
    return in8(CMOS + 1);
}

static void set_cmos(u8 n, u8 value)
{
    out8(CMOS, n);
    out8(CMOS + 1, value);
}

static int line_of(u64 vector) { return vector - MASTER; }

static void answer(struct irq_frame *frame) { pic_eoi(line_of(frame->vector)); }

/* COM1's "transmitter empty" is an interrupt that software can have at any time. */
static void raise_com1(void)
{
    out8(MCR, MCR_OUT2);
    out8(IER, 0);
    out8(IER, 2);
}

static void drop_com1(void)
{
    out8(IER, 0);
    in8(IIR);
}

/* A timer edge that waits in IRR. */
static void raise_timer(void)
{
    pit_start(PIT_ONE_SHOT, 100);
    wait_us(1000);
}

/* -- PIC ---------------------------------------------------------------------------------------------------------------- */
/* Nothing but the PIC is programmed: the firmware has opened the way through the local APIC. */
static void firmware(void)
{
    report_part("firmware");
    pic_init(MASTER, SLAVE, ICW4_8086);
    check("initialisation opens all lines", in8(PIC + 1) == 0 && in8(PIC_SLAVE + 1) == 0);
    pic_mask(ALL & ~1);
    irq_handler = answer;
    pit_start(PIT_RATE, 5000);
    check("a timer interrupt comes through the PIC, with the APIC as it was left", arrives(TIMER_VECTOR, 3));
    pit_stop();
}

static u16 isr_inside, isr_after;
static void look(struct irq_frame *frame)
{
    isr_inside = pic_isr();
    pic_eoi(line_of(frame->vector));
    isr_after = pic_isr();
}

static int nested;
static void let_others(struct irq_frame *frame)
{
    if (frame->vector == MASTER + IRQ_TIMER) {
        raise_com1();
        let_in();
        nested = irq_count[COM1_VECTOR];
    } else {
        drop_com1();
    }
    pic_eoi(line_of(frame->vector));
}

static void let_higher(struct irq_frame *frame)
{
    if (frame->vector == COM1_VECTOR) {
        drop_com1();
        raise_timer();
        let_in();
        nested = irq_count[TIMER_VECTOR];
    }
    pic_eoi(line_of(frame->vector));
}

static void special_mask(struct irq_frame *frame)
{
    if (frame->vector == TIMER_VECTOR) {
        pic_mask(ALL & ~(1 << IRQ_COM1));
        out8(PIC, 0x68);
        raise_com1();
        let_in();
        nested = irq_count[COM1_VECTOR];
        out8(PIC, 0x48);
    } else {
        drop_com1();
        out8(PIC, 0x60 | IRQ_COM1);            /* specific: the timer is in service too */
        return;
    }
    out8(PIC, 0x60);
}

static void no_end(struct irq_frame *frame)
{
    (void)frame;
    drop_com1();
    isr_inside = pic_isr();
}

static void both_at_once(void)
{
    irq_forget();
    raise_com1();
    raise_timer();
    let_in();
    drop_com1();
}

static void pic(void)
{
    report_part("pic");
    pit_stop();
    pic_init(MASTER, SLAVE, ICW4_8086);
    pic_mask(0xffff);
    check("the masks read back", in8(PIC + 1) == 0xff && in8(PIC_SLAVE + 1) == 0xff);
    pic_mask(0x5aa5);
    check("each by itself", in8(PIC + 1) == 0xa5 && in8(PIC_SLAVE + 1) == 0x5a);
    pic_mask(ALL);

    raise_timer();
    check("a masked line waits in IRR", (pic_irr() & 1) && pic_isr() == 0);
    irq_forget();
    irq_handler = look;
    let_in();
    check("and does not interrupt", irq_count[TIMER_VECTOR] == 0);
    pic_mask(ALL & ~1);
    let_in();
    check("it comes when the mask opens, once", irq_count[TIMER_VECTOR] == 1);
    check("in service until EOI", isr_inside == 1 && isr_after == 0);
    check("IRR has let it go", !(pic_irr() & 1));

    irq_handler = answer;
    pic_mask(ALL & ~(1 << IRQ_TIMER | 1 << IRQ_COM1));
    both_at_once();
    check("the lower line number comes first", irq_orders == 2 && irq_order[0] == TIMER_VECTOR && irq_order[1] == COM1_VECTOR);
    out8(PIC, 0xc0 | 3);                       /* set priority: line 3 is the lowest, line 4 the highest */
    both_at_once();
    check("unless priorities were rotated", irq_orders == 2 && irq_order[0] == COM1_VECTOR && irq_order[1] == TIMER_VECTOR);
    out8(PIC, 0xc0 | 7);
    both_at_once();
    check("and back", irq_orders == 2 && irq_order[0] == TIMER_VECTOR);

    irq_forget();
    irq_handler = let_others;
    raise_timer();
    let_in();
    check("a lower line waits for the higher one's EOI", nested == 0 && irq_count[COM1_VECTOR] == 1);
    irq_forget();
    irq_handler = let_higher;
    raise_com1();
    let_in();
    check("a higher one interrupts a lower one", nested == 1 && irq_count[COM1_VECTOR] == 1);
    irq_forget();
    irq_handler = special_mask;
    raise_timer();
    let_in();
    check("special mask mode lets a lower one in", nested == 1 && pic_isr() == 0);

    pic_mask(ALL & ~(1 << IRQ_COM1));
    irq_forget();
    irq_handler = no_end;
    raise_com1();
    let_in();
    raise_com1();
    let_in();
    check("without EOI no second interrupt", irq_count[COM1_VECTOR] == 1 && pic_isr() == 1 << IRQ_COM1);
    out8(PIC, 0x60 | IRQ_COM1);
    check("a specific EOI ends it", pic_isr() == 0);
    let_in();
    check("and lets the second one in", irq_count[COM1_VECTOR] == 2);
    out8(PIC, 0x60 | IRQ_COM1);

    pic_mask(ALL & ~(1 << IRQ_TIMER));
    raise_timer();
    out8(PIC, 0x0c);                           /* poll */
    check("a poll takes the highest request", in8(PIC) == 0x80);
    check("as an acknowledge does", pic_isr() == 1);
    pic_eoi(0);
    out8(PIC, 0x0c);
    check("and says when there is none", !(in8(PIC) & 0x80));

    pic_init(MASTER, SLAVE, ICW4_8086 | ICW4_AUTO_EOI);
    pic_mask(ALL & ~(1 << IRQ_COM1));
    irq_forget();
    irq_handler = no_end;
    raise_com1();
    let_in();
    check("automatic EOI leaves nothing in service", irq_count[COM1_VECTOR] == 1 && isr_inside == 0);

    pic_init(MASTER, SLAVE, ICW4_8086);
    pic_mask(ALL & ~(1 << IRQ_COM1));
    out8(ELCR, 1 << IRQ_COM1);
    check("ELCR keeps what may be level", in8(ELCR) == 1 << IRQ_COM1);
    raise_com1();
    check("a level line asks", pic_irr() & 1 << IRQ_COM1);
    drop_com1();
    check("and stops asking", !(pic_irr() & 1 << IRQ_COM1));
    out8(ELCR, 0);
    pic_mask(ALL);
}

/* A request that goes away between INT and INTA is line 7: here a level that falls when the slave has asked. */
static void spurious(void)
{
    report_part("spurious");
    pic_init(MASTER, SLAVE, ICW4_8086);
    pic_mask(ALL & ~(1 << 2 | 1 << IRQ_RTC));
    cmos(RTC_C);
    set_cmos(RTC_A, 0x26);
    set_cmos(RTC_B, B_24 | B_PERIODIC);
    wait_us(5000);                             /* the slave has asked, the master knows */
    check("the slave asks the master", pic_irr() & 4);
    set_cmos(RTC_B, B_24);
    pic_mask(ALL & ~(1 << 2));                 /* the slave takes its request back */
    irq_forget();
    irq_handler = answer;
    let_in();
    report_value("vector that comes", irq_orders ? irq_order[0] : 0);
    pic_init(MASTER, SLAVE, ICW4_8086);
    pic_mask(ALL);
    cmos(RTC_C);
}

/* -- PIT ---------------------------------------------------------------------------------------------------------------- */
static void pit(void)
{
    report_part("pit");
    pit_start(PIT_RATE, 0xffff);
    check("read-back tells access and mode", (pit_status(0) & 0x7f) == 0x34);
    out8(PIT_CONTROL, 0x30);
    check("a new mode has no count yet", pit_status(0) & 0x40);
    check("mode 0 starts with OUT low", !(pit_status(0) & 0x80));
    pit_start(PIT_ONE_SHOT, 200);
    wait_us(1000);
    check("and ends with OUT high", pit_status(0) & 0x80);
    pit_start(PIT_RATE, 10000);
    u16 seen = 0, most = 0;
    int moves = 0;
    u16 before = pit_count(0);
    for (int n = 0; n < 300; n++) {
        seen = pit_count(0);
        moves |= seen != before;
        most = seen > most ? seen : most;
    }
    check("a counter moves and stays below its count", moves && most <= 10000);
    out8(PIT_CONTROL, 0);                      /* latch */
    u16 first = in8(PIT);
    wait_us(1000);
    first |= in8(PIT) << 8;
    check("a latched count is one value", first <= 10000);
    pit_stop();

    out8(PORT_B, 0);
    out8(PIT_CONTROL, 0xb0);
    out8(PIT + 2, 0xff);
    out8(PIT + 2, 0xff);
    u16 stopped = pit_count(2);
    for (int n = 0; n < 100; n++)
        in8(PORT_B);
    check("channel 2 stands while its gate is closed", pit_count(2) == stopped);
    out8(PORT_B, 1);
    for (int n = 0; n < 100; n++)
        in8(PORT_B);
    check("and counts when it is open", pit_count(2) != stopped);
    out8(PIT + 2, 0xff);
    out8(PIT + 2, 3);
    wait_us(2000);
    check("its OUT is bit 5 of port 0x61", in8(PORT_B) & 0x20);
    out8(PORT_B, 0);
    check("the gate bit reads back", !(in8(PORT_B) & 3));
    int refresh = in8(PORT_B) & 0x10, changes = 0;
    for (int n = 0; n < 10000; n++) {
        changes += (in8(PORT_B) & 0x10) != refresh;
    }
    check("the refresh bit toggles", changes > 0);

    pic_init(MASTER, SLAVE, ICW4_8086);
    pic_mask(ALL & ~1);
    irq_handler = answer;
    irq_forget();
    pit_start(PIT_ONE_SHOT, 1000);
    check("one shot: one interrupt", arrives(TIMER_VECTOR, 1));
    wait_us(5000);
    let_in();
    check("and no more", irq_count[TIMER_VECTOR] == 1);
    pit_start(PIT_SQUARE, 2000);
    check("a square wave goes on", arrives(TIMER_VECTOR, 5));
    pit_start(PIT_RATE, 2000);
    irq_forget();
    while (irq_count[TIMER_VECTOR] < 5)
        halt();
    check("and wakes from HLT", 1);
    pit_stop();
    pic_mask(ALL);
}

/* -- RTC ---------------------------------------------------------------------------------------------------------------- */
static u8 last_c;
static void answer_rtc(struct irq_frame *frame)
{
    last_c = cmos(RTC_C);
    pic_eoi(line_of(frame->vector));
}

static int is_bcd(u8 value, u8 most) { return (value & 15) < 10 && value >> 4 < 10 && (value >> 4) * 10 + (value & 15) <= most; }

static void rtc(void)
{
    report_part("rtc");
    check("register D: the battery is good", cmos(RTC_D) == 0x80);
    set_cmos(RTC_A, 0x26);
    set_cmos(RTC_B, B_24);
    cmos(RTC_C);
    check("register A keeps divider and rate", (cmos(RTC_A) & 0x7f) == 0x26);
    check("register B keeps its bits", cmos(RTC_B) == B_24);
    while (cmos(RTC_A) & 0x80)
        ;
    check("the time is one", is_bcd(cmos(0), 59) && is_bcd(cmos(2), 59) && is_bcd(cmos(4), 23) && is_bcd(cmos(7), 31) && is_bcd(cmos(8), 12));
    u8 kept = cmos(0x60);
    set_cmos(0x60, 0x5a);
    int held = cmos(0x60) == 0x5a;
    set_cmos(0x60, 0xa5);
    check("the memory keeps bytes", held && cmos(0x60) == 0xa5);
    set_cmos(0x60, kept);

    pic_init(MASTER, SLAVE, ICW4_8086);
    pic_mask(ALL & ~(1 << 2 | 1 << IRQ_RTC));
    irq_forget();
    irq_handler = answer_rtc;
    set_cmos(RTC_B, B_24 | B_PERIODIC);
    check("the periodic interrupt comes through the cascade", arrives(RTC_VECTOR, 4));
    check("register C says why", (last_c & 0xc0) == 0xc0);
    u32 seen = irq_count[RTC_VECTOR];
    while (irq_count[RTC_VECTOR] < seen + 3)
        halt();
    check("it wakes from HLT", 1);
    irq_handler = answer;                      /* register C is not read */
    seen = irq_count[RTC_VECTOR];
    arrives(RTC_VECTOR, seen + 1);
    seen = irq_count[RTC_VECTOR];
    wait_us(20000);
    let_in();
    check("until register C is read, no more", irq_count[RTC_VECTOR] == seen);
    set_cmos(RTC_B, B_24);
    cmos(RTC_C);
    check("reading clears register C", !(cmos(RTC_C) & 0x80));

    irq_forget();
    irq_handler = answer_rtc;
    set_cmos(RTC_B, B_24 | B_UPDATE);
    halt();                                    /* for a second, in which others work */
    check("the update interrupt comes", irq_count[RTC_VECTOR] == 1 && (last_c & 0x90) == 0x90);
    u8 second = cmos(0);
    halt();
    check("the second after that one is another", irq_count[RTC_VECTOR] == 2 && cmos(0) != second);
    set_cmos(RTC_B, B_24);
    set_cmos(1, 0xff);
    set_cmos(3, 0xff);
    set_cmos(5, 0xff);
    set_cmos(RTC_B, B_24 | B_ALARM);
    halt();
    check("an alarm of any time comes each second", irq_count[RTC_VECTOR] == 3 && (last_c & 0xa0) == 0xa0);
    set_cmos(RTC_B, B_24);
    cmos(RTC_C);
    pic_mask(ALL);
}

/* -- COM1 --------------------------------------------------------------------------------------------------------------- */
static u8 last_iir;
static void answer_com1(struct irq_frame *frame)
{
    last_iir = in8(IIR);
    pic_eoi(line_of(frame->vector));
}

static void com1(void)
{
    report_part("com1");
    uart_drain();
    wait_us(20000);
    out8(SCR, 0x5a);
    int kept = in8(SCR) == 0x5a;
    out8(SCR, 0xa5);
    check("the scratch register keeps a byte", kept && in8(SCR) == 0xa5);
    out8(LCR, 0x83);
    u8 low = in8(UART), high = in8(IER);
    out8(UART, 0x34);
    out8(IER, 0x12);
    check("the divisor reads back", in8(UART) == 0x34 && in8(IER) == 0x12);
    out8(UART, low);
    out8(IER, high);
    out8(LCR, 3);
    check("LCR reads back", in8(LCR) == 3);
    check("IER has four bits", (out8(IER, 0xff), in8(IER)) == 0x0f);
    out8(IER, 0);
    in8(MSR);
    out8(MCR, 0xff);
    check("MCR has five bits", in8(MCR) == 0x1f);
    check("loop-back: MSR shows MCR's outputs", (in8(MSR) & 0xf0) == 0xf0);
    out8(MCR, MCR_LOOP | 2);
    check("RTS is CTS there", (in8(MSR) & 0xf0) == 0x10);
    out8(IIR, 7);                              /* FIFOs on and clear */
    check("IIR tells of FIFOs", (in8(IIR) & 0xc1) == 0xc1);
    out8(MCR, MCR_LOOP | MCR_OUT2);
    in8(MSR);
    for (u8 n = 0; n < 3; n++) {
        out8(UART, 'a' + n);
        wait_us(5000);
    }
    check("what is sent in loop-back is received", in8(LSR) & 1);
    out8(IER, 1);
    check("and would interrupt", (in8(IIR) & 0x0f) == 4 || (in8(IIR) & 0x0f) == 0xc);
    check("in order", in8(UART) == 'a' && in8(UART) == 'b' && in8(UART) == 'c');
    check("then there is nothing", !(in8(LSR) & 1) && (in8(IIR) & 1));
    out8(IER, 0);

    pic_init(MASTER, SLAVE, ICW4_8086);
    pic_mask(ALL & ~(1 << IRQ_COM1));
    irq_forget();
    irq_handler = answer_com1;
    out8(IER, 1);
    out8(UART, 'x');
    wait_us(5000);
    let_in();
    report_value("interrupts that loop-back lets through to line 4", irq_count[COM1_VECTOR]);
    in8(UART);
    out8(IER, 0);
    out8(MCR, MCR_OUT2);
    in8(MSR);
    irq_forget();
    out8(IER, 2);
    check("transmitter empty interrupts as soon as it is asked for", arrives(COM1_VECTOR, 1));
    check("IIR says so", (last_iir & 0x0f) == 2);
    check("and takes it back by being read", in8(IIR) & 1);
    irq_forget();
    out8(UART, '.');
    check("it interrupts again after a byte", arrives(COM1_VECTOR, 1) && (last_iir & 0x0f) == 2);
    out8(IER, 0);
    out8(IIR, 0);
    check("IIR tells of no FIFOs when they are off", (in8(IIR) & 0xc0) == 0);
    pic_mask(ALL);
    out8(UART, '\n');
}

/* -- ACPI --------------------------------------------------------------------------------------------------------------- */
struct header { char signature[4]; u32 length; u8 revision, checksum; char rest[26]; } __attribute__((packed));
_Static_assert(sizeof(struct header) == 36, "an ACPI table's header");

static int sums_to_zero(const void *data, u32 bytes)
{
    u8 sum = 0;
    for (u32 n = 0; n < bytes; n++)
        sum += ((const u8 *)data)[n];
    return sum == 0;
}

static int is(const void *data, const char *signature, int count) { return memcmp(data, signature, count) == 0; }

static int good_tables;
static const struct header *find(u64 root, int width, const char *signature)
{
    const struct header *table = (void *)(word)root;
    for (u32 at = sizeof *table; at + width <= table->length; at += width) {
        u64 entry = width == 8 ? *(u64 *)((word)root + at) : *(u32 *)((word)root + at);
        const struct header *found = (void *)(word)entry;
        good_tables &= sums_to_zero(found, found->length);
        if (is(found->signature, signature, 4))
            return found;
    }
    return 0;
}

static void power_timer(u16 port)
{
    const u32 bits24 = 0xffffff;
    u32 start = in32(port), last = start, later;
    int backwards = 0;
    for (int n = 0; n < 1000; n++) {
        later = in32(port);
        backwards |= ((later - last) & bits24) > 0x800000;
        last = later;
    }
    check("the power-management timer never runs backwards", !backwards);
    start = in32(port);
    wait_us(20000);
    u32 passed = (in32(port) - start) & bits24;
    check("20 ms of the PIT are at least 71591 ticks of it", passed >= 71000 && passed < 200 * 71591);
}

static void madt(const u8 *table, u32 length)
{
    int processor = 0, ioapic = 0, timer = 0;
    for (u32 at = 44; at + 2 <= length && table[at + 1] >= 2; at += table[at + 1]) {
        processor |= table[at] == 0 && table[at + 3] == 0 && (table[at + 4] & 1);
        ioapic |= table[at] == 1 && *(u32 *)(table + at + 4) == 0xfec00000 && *(u32 *)(table + at + 8) == 0;
        timer |= table[at] == 2 && table[at + 3] == 0 && *(u32 *)(table + at + 4) == 2;
    }
    check("MADT: the local APIC is at 0xfee00000", *(u32 *)(table + 36) == 0xfee00000);
    check("MADT: there is a PIC pair", table[40] & 1);
    check("MADT: this processor", processor);
    check("MADT: an IOAPIC for the interrupts from 0 on", ioapic);
    check("MADT: the timer is at its input 2", timer);
}

static void acpi(void)
{
    const u8 *rsdp = 0;
    report_part("acpi");
    for (word at = 0xe0000; at < 0x100000 && !rsdp; at += 16)
        if (is((void *)at, "RSD PTR ", 8) && sums_to_zero((void *)at, 20))
            rsdp = (void *)at;
    check("a root pointer lies where software looks", rsdp != 0);
    if (!rsdp)
        return;
    check("its second checksum is right", rsdp[15] < 2 || sums_to_zero(rsdp, *(u32 *)(rsdp + 20)));
    u64 rsdt = *(u32 *)(rsdp + 16), xsdt = rsdp[15] >= 2 ? *(u64 *)(rsdp + 24) : 0;
    check("RSDT", is((void *)(word)rsdt, "RSDT", 4) && sums_to_zero((void *)(word)rsdt, ((struct header *)(word)rsdt)->length));
    check("XSDT, if there is one", !xsdt || (is((void *)(word)xsdt, "XSDT", 4) && sums_to_zero((void *)(word)xsdt, ((struct header *)(word)xsdt)->length)));
    good_tables = 1;
    const u8 *fadt = (void *)find(rsdt, 4, "FACP"), *apics = (void *)find(rsdt, 4, "APIC");
    if (xsdt) {
        find(xsdt, 8, "APIC");
        find(xsdt, 8, "none");
    }
    find(rsdt, 4, "none");
    check("all tables' checksums", good_tables);
    check("there are FADT and MADT", fadt && apics);
    if (!fadt || !apics)
        return;
    const struct header *dsdt = (void *)(word)*(u32 *)(fadt + 40);
    check("the FADT names a DSDT", is(dsdt, "DSDT", 4) && sums_to_zero(dsdt, dsdt->length));
    check("and a FACS", is((void *)(word)*(u32 *)(fadt + 36), "FACS", 4));
    check("SCI is line 9", *(u16 *)(fadt + 46) == 9);
    u32 command = *(u32 *)(fadt + 48), control = *(u32 *)(fadt + 64);
    if (command)
        out8(command, fadt[52]);
    for (int n = 0; n < 100 && !(in16(control) & 1); n++)
        wait_us(1000);
    check("ACPI mode is on, or comes on", in16(control) & 1);
    power_timer(*(u32 *)(fadt + 76));
    madt(apics, ((struct header *)apics)->length);
}

/* -- PCI and the keyboard controller ------------------------------------------------------------------------------------ */
static u32 pci_read(u32 bus, u32 device, u32 function, u32 at)
{
    out32(0xcf8, 0x80000000 | bus << 16 | device << 11 | function << 8 | at);
    return in32(0xcfc);
}

static void pci(void)
{
    report_part("pci");
    out32(0xcf8, 0x80001234);
    check("the address register reads back", in32(0xcf8) == 0x80001234);
    out8(0xcf8, 0);
    check("only as 32 bits", in32(0xcf8) == 0x80001234);
    check("0:0.0 is a host bridge", pci_read(0, 0, 0, 8) >> 16 == 0x0600);
    u32 identity = pci_read(0, 0, 0, 0);
    check("with an identity", identity != 0xffffffff && identity != 0);
    check("16 and 8 bits of it", in16(0xcfe) == identity >> 16 && in8(0xcfd) == (identity >> 8 & 0xff));
    check("nobody is at 0:31.7", pci_read(0, 31, 7, 0) == 0xffffffff);
    check("nobody is at 255:0.0", pci_read(255, 0, 0, 0) == 0xffffffff);
    out32(0xcf8, 0);
    check("without the enable bit nobody answers", in32(0xcfc) == 0xffffffff);
}

static int keyboard_answer(void)
{
    for (int n = 0; n < 100; n++, wait_us(1000))
        if (in8(0x64) & 1)
            return in8(0x60);
    return -1;
}

static void keyboard(void)
{
    report_part("keyboard");
    out8(0x64, 0xad);
    while (in8(0x64) & 1)
        in8(0x60);
    out8(0x64, 0xaa);
    check("the controller's self-test", keyboard_answer() == 0x55);
    out8(0x64, 0x60);
    out8(0x60, 0x14);
    out8(0x64, 0x20);
    check("its command byte reads back", keyboard_answer() == 0x14);
    check("then there is nothing", !(in8(0x64) & 1));
}

int main(void)
{
    irq_init();
    firmware();
    pic();
    spurious();
    pit();
    rtc();
    com1();
    acpi();
    pci();
    keyboard();
    return report_end("pc") ? 1 : 0;
}
