"""The local APIC's registers and the legacy interrupt controllers' ports.

Sources: Intel SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)"; Intel 8259A data sheet; Intel 8254 data sheet.
"""
APIC_BASE_ENABLE = 1 << 11
APIC_BASE_X2APIC = 1 << 10
LEAF_1_ECX_X2APIC, LEAF_1_ECX_DEADLINE = 1 << 21, 1 << 24      # CPUID: x2APIC mode, IA32_TSC_DEADLINE

REGISTERS = 0x400               # bytes of the xAPIC page that have some, 16 bytes apart
ESR_OFFSET = 0x280
ID, VERSION, TPR, EOI, SPURIOUS, TIMER, LINT0, LINT1, ERROR, INITIAL_COUNT, CURRENT_COUNT, DIVIDE = \
    0x20, 0x30, 0x80, 0xb0, 0xf0, 0x320, 0x350, 0x360, 0x370, 0x380, 0x390, 0x3e0

APR, PPR, REMOTE_READ, LDR, DFR = 0x90, 0xa0, 0xc0, 0xd0, 0xe0
ISR, TMR, IRR = 0x100, 0x180, 0x200             # eight registers each, 16 bytes apart
CMCI, ICR_LOW, ICR_HIGH, THERMAL, PERFORMANCE, SELF_IPI = 0x2f0, 0x300, 0x310, 0x330, 0x340, 0x3f0
VERSION_VALUE = 0x00050014                      # six LVT entries, an integrated APIC

# Delivery modes (ICR bits 10:8, LVT bits 10:8)
FIXED, LOWEST, SMI, NMI, INIT, STARTUP, EXTINT = 0, 1, 2, 4, 5, 6, 7
MODE_SHIFT = 8
LVT_PENDING = 1 << 12
LVT_MODE_ONE_SHOT, LVT_MODE_PERIODIC, LVT_MODE_DEADLINE = 0, 1, 2       # bits 18:17 of the timer's LVT
ESR_ILLEGAL_SENT, ESR_ILLEGAL_RECEIVED, ESR_ILLEGAL_REGISTER = 1 << 5, 1 << 6, 1 << 7
# ICR: bits 7:0 vector, 10:8 mode, 11 logical, 14 assert, 15 level, 19:18 shorthand
ICR_LOGICAL, ICR_ASSERT, ICR_LEVEL = 1 << 11, 1 << 14, 1 << 15
ICR_SHORTHAND_SHIFT = 18
SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS = 0, 1, 2, 3

# The guest's timer counts one for every 2^TIMER_SHIFT TSC ticks, before its divider.
TIMER_SHIFT = 4
APIC_BASE_BSP = 1 << 8
APIC_BASE_RESET = 0xfee00000

SPURIOUS_ENABLE = 1 << 8
MASKED = 1 << 16
DIVIDE_BY_1 = 0xb

PIC1_COMMAND, PIC1_DATA, PIC2_COMMAND, PIC2_DATA = 0x20, 0x21, 0xa0, 0xa1
PIC_VECTOR = 0x20               # where the PIC's sixteen lines come in; those that nobody has asked for are masked
PIC_END = 0x60                  # OCW2: a specific end of interrupt; the line in bits 2:0
PIT_CHANNEL2, PIT_COMMAND, PIT_GATE = 0x42, 0x43, 0x61
PIT_HZ = 1193182
