"""What the kernel publishes for an auditor who looks at its memory from outside (tests/system/test_audit.py).

The symbol `published_roots` in the kernel image: one record of three 64-bit words per root in use, zeros where there is none.
Nothing in the kernel reads it.
"""
from hypervisor.spec.record import offsets

RECORD = offsets(['KIND', 'COMPARTMENT', 'ROOT'])
KIND_NONE, KIND_KERNEL, KIND_TASK, KIND_NESTED, KIND_CORE = range(5)     # CORE: number and private memory of a core that was started
RECORDS = 32

C_CONSTANTS = {'AUDIT_RECORDS': RECORDS}
