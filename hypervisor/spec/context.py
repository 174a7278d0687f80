"""The register area of a context: what the assembly saves and loads around a run.

The sixteen general registers in the order of instruction encodings (hypervisor/spec/vcpu.py), then what a task needs
besides; a vCPU has those in its VMCB or VMCS (and its RSP too; CR2 is here where the vendor keeps it nowhere else).

A vCPU's private page in the arena holds its register area, its CPUID table, an entry of that as the quick path has changed it, and the FPU
state that it left.
"""
from hypervisor.spec.record import offsets
from hypervisor.spec.vcpu import CPUID_ASK, CPUID_CLASSES, CPUID_TABLE, GPR

AREA = offsets(GPR + ['RIP', 'RFLAGS', 'ERROR', 'CR2'])
# Behind it, of a vCPU: how the crossings enter its VMM, where an exit goes straight there (hypervisor/kernel/straight.py).
VMM = offsets(['AREA',              # hva of the task's register area
               'ROOT',              # of its page tables
               'REASONS'],          # what its VCPU_RUN answers in RDX
              AREA['END'])
PANIC = offsets(GPR + ['RIP', 'RFLAGS', 'ERROR', 'VECTOR', 'CS', 'SS', 'CR0', 'CR2', 'CR3', 'CR4'])

PRIVATE_AREA = 0               # in a vCPU's private page
PRIVATE_CPUID = 256             # as in the vCPU page from CPUID_TABLE on
PRIVATE_ENTRY = 2336            # EAX, EBX, ECX, EDX
PRIVATE_FPU = 2560              # XSAVE area, 64-byte aligned; x87, SSE and AVX need 832 bytes
assert PRIVATE_CPUID + CPUID_ASK + 4 * len(CPUID_CLASSES) - CPUID_TABLE <= PRIVATE_ENTRY <= PRIVATE_FPU - 16

# What a vendor's quick path (hypervisor/kernel/quick.py) tells the assembly, and that the loop: the exit is the loop's; finished, and the
# guest goes on; finished, and the loop looks before the next entry. 1 and 2 are VMX instructions that failed (hypervisor/hw/vmx.py). MORE: ask
# the second half of the quick path. HAND: it is the VMM's, ask the straight path (straight.py), when the guest's registers are all kept. TASK:
# run the VMM; and to the loop: it has run, and has something that the loop has to see to.
# What is above AGAIN, which is the greatest, is an address of the arena's: finished, and the guest goes on with EAX, EBX, ECX and EDX from there.
QUICK_LEAVE, QUICK_DONE, QUICK_HAND, QUICK_TASK, QUICK_MORE, QUICK_AGAIN = 0, 3, 4, 5, 6, 7
ENTRY = dict(EAX=0, EBX=4, ECX=8, EDX=12)

SELECTOR_KERNEL_CODE, SELECTOR_KERNEL_DATA, SELECTOR_TASK_CODE, SELECTOR_TASK_DATA, SELECTOR_TSS = 0x08, 0x10, 0x1b, 0x23, 0x28

# VMX, where exits go: the quick path is asked; it is, and each entry looks whether an NMI was noted while the local APIC is lent; nobody is.
EXIT_ASKS, EXIT_LENT, EXIT_LEAVES = range(3)

C_CONSTANTS = {'KERNEL_CS': SELECTOR_KERNEL_CODE, 'KERNEL_DS': SELECTOR_KERNEL_DATA, 'TASK_CS': SELECTOR_TASK_CODE,
               'TASK_DS': SELECTOR_TASK_DATA, 'TSS_SELECTOR': SELECTOR_TSS, 'QUICK_LEAVE': QUICK_LEAVE, 'QUICK_DONE': QUICK_DONE,
               'QUICK_HAND': QUICK_HAND, 'QUICK_TASK': QUICK_TASK, 'QUICK_MORE': QUICK_MORE, 'QUICK_AGAIN': QUICK_AGAIN,
               'EXIT_ASKS': EXIT_ASKS, 'EXIT_LENT': EXIT_LENT, 'VMM_AREA': VMM['AREA'], 'VMM_ROOT': VMM['ROOT'], 'VMM_REASONS': VMM['REASONS']}
for _name, _offset in AREA.items():
    C_CONSTANTS['AREA_' + _name] = _offset
for _name, _offset in ENTRY.items():
    C_CONSTANTS['ENTRY_' + _name] = _offset
for _name, _offset in PANIC.items():
    C_CONSTANTS['PANIC_' + _name] = _offset
