"""The interrupt lines of the board: a device sets its line, the PIC pair and the IOAPIC see it.

Lines 0 to 15 are the ISA interrupts, 16 to 23 inputs of the IOAPIC alone. The timer's line 0 is the IOAPIC's input 2, as the
MADT says (acpi.py); nobody has line 2, which is the PIC's cascade.
"""
TIMER, KEYBOARD, CASCADE, COM1, RTC, SCI = 0, 1, 2, 4, 8, 9
ISA = 16
COUNT = 24
TIMER_INPUT = 2                 # of the IOAPIC


class Lines(object):
    def __init__(self, pic, ioapic):
        self.pic = pic
        self.ioapic = ioapic
        self.active = [False] * COUNT

    def set(self, line, active):
        """line: 0 to 23. Nothing happens where nothing changes."""
        if line < 0 or line >= COUNT or line == CASCADE or self.active[line] == active:
            return
        self.active[line] = active
        if line < ISA:
            self.pic.set_line(line, active)
        self.ioapic.set_input(TIMER_INPUT if line == TIMER else line, active)

    def pulse(self, line):
        """An edge: inactive, then active, and it stays so."""
        self.set(line, False)
        self.set(line, True)

    def clear(self):
        """All lines inactive. PIC and IOAPIC are cleared by themselves."""
        for n in range(COUNT):
            self.active[n] = False
