"""The local APIC's registers and the legacy interrupt controllers' ports.

Sources: Intel SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)"; Intel 8259A data sheet; Intel 8254 data sheet.
"""
APIC_BASE_ENABLE = 1 << 11
APIC_BASE_X2APIC = 1 << 10

ID, VERSION, TPR, EOI, SPURIOUS, TIMER, LINT0, LINT1, ERROR, INITIAL_COUNT, CURRENT_COUNT, DIVIDE = \
    0x20, 0x30, 0x80, 0xb0, 0xf0, 0x320, 0x350, 0x360, 0x370, 0x380, 0x390, 0x3e0

SPURIOUS_ENABLE = 1 << 8
MASKED = 1 << 16
DIVIDE_BY_1 = 0xb

PIC1_COMMAND, PIC1_DATA, PIC2_COMMAND, PIC2_DATA = 0x20, 0x21, 0xa0, 0xa1
PIC_VECTOR = 0x20               # where the PIC's sixteen lines would come in; all are masked
PIT_CHANNEL2, PIT_COMMAND, PIT_GATE = 0x42, 0x43, 0x61
PIT_HZ = 1193182
