"""Switches the box off, with a status where the emulator can pass one on.   Source: docs/abi.md, "What the box prints".

Each way is tried in turn; what a machine does not have ignores the write.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.lib import call
from hypervisor.spec import status

QEMU_EXIT = 0x501                   # isa-debug-exit: QEMU ends with status 2 * N + 1
BOCHS_SHUTDOWN = 0x8900             # the word, byte by byte
BOCHS_WORD = 'Shutdown'
ACPI_QEMU, ACPI_OLD = 0x604, 0xb004     # PM1a_CNT
SLEEP_ENABLE = 0x2000


def power_off(number):
    """Does not return, unless waiting for ever fails. number: 0 to 255."""
    call.port_out(QEMU_EXIT, 1, r_uint(number))
    for n in range(len(BOCHS_WORD)):
        call.port_out(BOCHS_SHUTDOWN, 1, r_uint(ord(BOCHS_WORD[n])))
    call.port_out(ACPI_QEMU, 2, r_uint(SLEEP_ENABLE))
    call.port_out(ACPI_OLD, 2, r_uint(SLEEP_ENABLE))
    while call.wait(r_uint(0)) == status.OK:
        pass
