"""What is translated: the manager, a ring-3 program with one entry point that does not return."""
from rpython.rtyper.lltypesystem import lltype

from hypervisor.manager.main import task_main

ENTRY_POINTS = [(task_main, [lltype.Unsigned])]
EXIT_PATH = [task_main]             # everything is prebuilt at import time, so the whole program neither allocates nor raises
