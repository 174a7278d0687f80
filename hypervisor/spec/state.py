"""Numbers for a vCPU's state fields, so that the vendor files can keep one table from field to VMCB offset or VMCS encoding.

FIELDS is the order of the vCPU page's state part without the general registers other than RSP; those lie in the
register area.
"""
from hypervisor.spec.vcpu import GROUP_FIELDS, GROUP_GPR

FIELDS = ['RSP'] + [name for group, names in GROUP_FIELDS if group != GROUP_GPR for name in names]
COUNT = len(FIELDS)
for _index, _name in enumerate(FIELDS):
    globals()[_name] = _index
