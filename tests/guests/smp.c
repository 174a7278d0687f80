/* smp: a second processor: INIT and STARTUP, interrupts between the two, NMI, shared memory.
 *
 * Each line of the report is one promise of a manual; it is the same on a bare PC with two processors and under a hypervisor.
 * Sources: Intel SDM Vol. 3A, "Multiple-Processor Management", "Advanced Programmable Interrupt Controller (APIC)".
 */
#include "runtime.h"
#include "board.h"
#include "irq.h"
#include "report.h"

enum { ID = 0x20, EOI = 0xb0, LDR = 0xd0, SPURIOUS = 0xf0, ICR = 0x300, ICR_HIGH = 0x310,
       FIXED = 0, LOWEST = 1 << 8, NMI = 4 << 8, INIT = 5 << 8, STARTUP = 6 << 8, LOGICAL = 1 << 11, ASSERT = 1 << 14, LEVEL = 1 << 15,
       SELF = 1 << 18, ALL = 2 << 18, OTHERS = 3 << 18, MSR_APIC_BASE = 0x1b, BSP = 1 << 8,
       PLAIN = 0x41, PING = 0x42, PONG = 0x43, CPUS = 2, PATIENCE = 20000, ADDITIONS = 200000 };
enum command { OPEN, SHUT, DEAF, HALT, ADD };

/* What smp_start.S leaves and finds. */
static volatile struct { u32 cs, flags, cr0, efer, edx, starts, unused[2]; u8 gdt[16]; u32 cr3; } *const mailbox = (void *)0x7000;
static u8 *const page = (u8 *)0x8000, *const other_page = (u8 *)0x9000;
extern u8 smp_start[], smp_start_end[];

static struct { u16 limit; u64 base; } __attribute__((packed)) idt;
static volatile u32 came[CPUS][256], turns, woken, sum, id, cpuid_id, base_low, loaded_idt;
static volatile enum command command, doing;

static u32 apic(u32 at) { return *(volatile u32 *)(0xfee00000ul + at); }
static void set_apic(u32 at, u32 value) { *(volatile u32 *)(0xfee00000ul + at) = value; }

static void send_to(u32 destination, u32 what)
{
    set_apic(ICR_HIGH, destination << 24);
    set_apic(ICR, what);
}

static void arrived(struct irq_frame *frame)
{
    u32 me = apic(ID) >> 24 & 1;
    came[me][frame->vector]++;
    if (frame->vector == PING)
        send_to(0, ASSERT | PONG);
    if (frame->vector != 2)
        set_apic(EOI, 0);
}

/* Wait for a word to reach a value, with interrupts open; 1 when it has. */
static int reaches(volatile u32 *what, u32 value)
{
    for (u32 n = 0; n < PATIENCE && *what < value; n++) {
        let_in();
        wait_us(100);
    }
    return *what >= value;
}

/* Tell the second processor what to do, and wait until it does. */
static void order(enum command what)
{
    command = what;
    for (u32 n = 0; n < PATIENCE && doing != what; n++)
        wait_us(100);
    wait_us(20000);
}

static int stands(volatile u32 *what)
{
    u32 before = *what;
    for (int n = 0; n < 3; n++)
        wait_us(5000);
    return *what == before;
}

/* The second processor, from smp_start.S. */
void smp_main(void);
void smp_main(void)
{
    asm volatile("lidt %0" :: "m"(idt));
    set_apic(SPURIOUS, 0x1ff);
    set_apic(LDR, 2u << 24);
    id = apic(ID) >> 24;
    cpuid_id = cpuid(1, 0).ebx >> 24;
    base_low = rdmsr(MSR_APIC_BASE);
    loaded_idt = 1;
    for (;;) {
        turns++;
        switch (command) {
        case DEAF:
            turns = 0;
            doing = DEAF;
            asm volatile("cli; hlt");
            command = SHUT;
            woken++;
            break;
        case HALT:
            doing = HALT;
            halt();
            break;
        case ADD:
            for (u32 n = 0; n < ADDITIONS; n++)
                asm volatile("lock incl %0" : "+m"(sum));
            command = OPEN;
            break;
        case OPEN:
            doing = OPEN;
            let_in();
            break;
        case SHUT:
            doing = SHUT;
            break;
        }
    }
}

static void prepare(void)
{
    asm volatile("sgdt %0" : "=m"(*(u8 (*)[10])mailbox->gdt));
    asm volatile("sidt %0" : "=m"(idt));
    mailbox->cr3 = read_cr3();
    mailbox->starts = 0;
    memcpy(page, smp_start, smp_start_end - smp_start);
    memcpy(other_page, smp_start, smp_start_end - smp_start);
    pic_init(0x30, 0x38, ICW4_8086);
    pic_mask(0xffff);
    irq_handler = arrived;
    set_apic(SPURIOUS, 0x1ff);
    set_apic(LDR, 1u << 24);
}

static void startup(void)
{
    report_part("startup");
    check("the first processor is the boot processor", rdmsr(MSR_APIC_BASE) & BSP && apic(ID) >> 24 == 0);
    check("the other one waits", stands(&mailbox->starts) && mailbox->starts == 0);
    send_to(1, ASSERT | PLAIN);
    check("it waits for no interrupt", stands(&mailbox->starts) && mailbox->starts == 0);
    send_to(1, INIT | ASSERT | LEVEL);
    send_to(1, INIT | LEVEL);
    check("nor does INIT start it", stands(&mailbox->starts) && mailbox->starts == 0);
    send_to(1, STARTUP | ASSERT | 8);
    check("STARTUP does", reaches(&mailbox->starts, 1));
    check("it reaches 64-bit mode", reaches(&loaded_idt, 1));
    check("it began in the page of the vector", (mailbox->cs & 0xffff) == 0x800);
    check("with FLAGS 2", (mailbox->flags & 0xffff) == 2);
    check("in real mode, without paging", (mailbox->cr0 & 0x80000011) == 0x10);
    check("with EFER 0", mailbox->efer == 0);
    check("a family in EDX", mailbox->edx >> 8 & 15);
    check("its APIC ID is 1", id == 1);
    check("CPUID says so", cpuid_id == 1);
    check("it is no boot processor", !(base_low & BSP) && base_low & 1 << 11);
    send_to(1, STARTUP | ASSERT | 8);
    check("another STARTUP finds no one who waits", stands(&mailbox->starts) && mailbox->starts == 1);
    check("CPUID counts two", cpuid(1, 0).edx >> 28 & 1 && (cpuid(1, 0).ebx >> 16 & 0xff) >= 2);
}

static void interrupts(void)
{
    report_part("ipi");
    send_to(1, ASSERT | PLAIN);
    check("an interrupt reaches the one that its ID names", reaches(&came[1][PLAIN], 1));
    check("and no other", stands(&came[0][PLAIN]) && came[0][PLAIN] == 0 && came[1][PLAIN] == 1);
    send_to(0, ASSERT | SELF | PLAIN);
    check("one to itself", reaches(&came[0][PLAIN], 1) && came[1][PLAIN] == 1);
    send_to(0, ASSERT | OTHERS | PLAIN);
    check("one to all others", reaches(&came[1][PLAIN], 2) && came[0][PLAIN] == 1);
    send_to(0, ASSERT | ALL | PLAIN);
    check("one to all", reaches(&came[1][PLAIN], 3) && reaches(&came[0][PLAIN], 2));
    send_to(0xff, ASSERT | PLAIN);
    check("one to the broadcast ID", reaches(&came[1][PLAIN], 4) && reaches(&came[0][PLAIN], 3));
    send_to(2, ASSERT | LOGICAL | PLAIN);
    check("a logical one to the second", reaches(&came[1][PLAIN], 5) && came[0][PLAIN] == 3);
    send_to(3, ASSERT | LOGICAL | PLAIN);
    check("a logical one to both", reaches(&came[1][PLAIN], 6) && reaches(&came[0][PLAIN], 4));
    send_to(3, ASSERT | LOGICAL | LOWEST | PLAIN);
    for (int n = 0; n < 100; n++) {
        let_in();
        wait_us(100);
    }
    check("one of lowest priority to one of both", came[0][PLAIN] + came[1][PLAIN] == 11);
    u32 answered = 0;
    for (u32 n = 0; n < 50; n++) {
        send_to(1, ASSERT | PING);
        answered += reaches(&came[0][PONG], n + 1);
    }
    check("50 interrupts there and back", answered == 50);
    order(SHUT);
    u32 before = came[1][PLAIN];
    send_to(1, ASSERT | PLAIN);
    check("one that is shut out waits", stands(&came[1][PLAIN]) && came[1][PLAIN] == before);
    command = OPEN;
    check("and comes when the flag is set", reaches(&came[1][PLAIN], before + 1));
    order(HALT);
    check("HLT stops it", stands(&turns));
    send_to(1, ASSERT | PLAIN);
    check("an interrupt wakes it", reaches(&came[1][PLAIN], before + 2));
    command = DEAF;
    send_to(1, ASSERT | PLAIN);         /* it still halts with the flag */
    order(DEAF);
    check("HLT without the flag sleeps on", stands(&turns) && woken == 0);
    send_to(1, ASSERT | PLAIN);
    check("whatever interrupt comes", stands(&turns) && woken == 0);
    send_to(1, NMI | ASSERT);
    check("until an NMI", reaches(&woken, 1) && reaches(&came[1][2], 1));
    command = OPEN;
}

static void memory(void)
{
    report_part("memory");
    command = ADD;
    for (u32 n = 0; n < ADDITIONS; n++)
        asm volatile("lock incl %0" : "+m"(sum));
    for (u32 n = 0; n < PATIENCE && command == ADD; n++)
        wait_us(1000);
    check("locked additions of both add up", sum == 2 * ADDITIONS);
}

static void again(void)
{
    report_part("init");
    order(SHUT);
    u32 before = came[1][PLAIN];
    send_to(1, ASSERT | PLAIN);
    send_to(1, INIT | ASSERT | LEVEL);
    send_to(1, INIT | LEVEL);
    wait_us(10000);
    check("INIT stops a processor that runs", stands(&turns));
    loaded_idt = 0;
    command = OPEN;
    send_to(1, STARTUP | ASSERT | 9);
    check("STARTUP starts it again", reaches(&mailbox->starts, 2) && reaches(&loaded_idt, 1));
    check("in another page", (mailbox->cs & 0xffff) == 0x900);
    check("out of 64-bit mode", (mailbox->cr0 & 0x80000001) == 0 && mailbox->efer == 0);
    check("what was pending is forgotten", stands(&came[1][PLAIN]) && came[1][PLAIN] == before);
    send_to(1, ASSERT | PLAIN);
    check("and it takes interrupts", reaches(&came[1][PLAIN], before + 1));
    order(DEAF);
    send_to(1, INIT | ASSERT | LEVEL);
    wait_us(10000);
    loaded_idt = 0;
    command = OPEN;
    send_to(1, STARTUP | ASSERT | 8);
    check("INIT ends a HLT without the flag", reaches(&loaded_idt, 1) && mailbox->starts == 3);
}

int main(void)
{
    irq_init();
    prepare();
    startup();
    interrupts();
    memory();
    again();
    return report_end("smp") ? 1 : 0;
}
