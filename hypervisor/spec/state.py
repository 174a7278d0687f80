"""Numbers for a vCPU's state fields, so that the vendor files can keep one table from field to VMCB offset or VMCS encoding.

FIELDS is the order of the vCPU page's state part without the general registers other than RSP, which lie in the register area,
and without the vector registers and PKRU, which are the processor's or lie in what the kernel keeps.
"""
from hypervisor.spec.vcpu import GROUP_FIELDS, GROUP_GPR, GROUP_KEYS, GROUP_VECTOR, STATE

ELSEWHERE = [GROUP_GPR, GROUP_VECTOR, GROUP_KEYS]
FIELDS = ['RSP'] + [name for group, names in GROUP_FIELDS if group not in ELSEWHERE for name in names]
COUNT = len(FIELDS)
for _index, _name in enumerate(FIELDS):
    globals()[_name] = _index

# Per group: [(field, offset in the vCPU page)], for what writes whole groups. RSP belongs to the general registers.
GROUPED = [(GROUP_GPR, [(0, STATE['RSP'])])] + [(group, [(FIELDS.index(name), STATE[name]) for name in names])
                                                for group, names in GROUP_FIELDS if group not in ELSEWHERE]
