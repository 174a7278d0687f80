"""A VMM that reaches for what is not its own: trespass=N of table.py."""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.spec import layout
from hypervisor.spec.program import HEADER_BYTES
from hypervisor.vmm import ram, space
from tests.hostile.vmms import common, hw, table

ONE = r_uint(1)
RET = r_uint(0xc3)
READS = {0: layout.KERNEL_BASE, 1: layout.ARENA_BASE, 2: layout.DEVICE_BASE, 3: 0x50000000, 4: 0, 7: 0x800000000000, 8: 0x100000,
         9: 0xfffffffffffffff8}
WRITES = {5: layout.BOOT_PAGE, 6: layout.TASK_BASE + HEADER_BYTES, 13: 0x1000000000}
assert r_uint(WRITES[13]) == space.IMAGE
VARIANTS = len(table.VARIANTS['trespasser'])
READ_AT = [r_uint(READS.get(n, 0)) for n in range(VARIANTS)]
WRITE_AT = [r_uint(WRITES.get(n, 0)) for n in range(VARIANTS)]
READ, WRITE = 1, 2
WHAT = [READ if n in READS else WRITE if n in WRITES else 0 for n in range(VARIANTS)]


def trespass(which):
    if which == 10:
        memory.store8(r_uint(layout.TASK_PAGE), RET)
        hw.call_address(r_uint(layout.TASK_PAGE))
    elif which == 11:
        common.boot_guest()
        memory.store8(ram.BASE, RET)
        hw.call_address(ram.BASE)
    elif which == 12:
        hw.overrun_stack()
    elif WHAT[which] == READ:
        memory.load64(READ_AT[which])
    else:
        common.boot_guest()
        memory.store8(WRITE_AT[which], ONE)


def run(which):
    trespass(which % VARIANTS)
    common.survived(which)
