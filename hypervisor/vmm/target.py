"""What is translated to become the VMM."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rtyper.lltypesystem import lltype

from hypervisor.vmm import main

main.task_main.c_name = 'task_main'
export_symbol(main.task_main)

ENTRY_POINTS = [(main.task_main, [lltype.Unsigned])]
EXIT_PATH = [main.run]
