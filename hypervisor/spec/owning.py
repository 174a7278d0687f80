"""Whether a core gives its local APIC to the only vCPU that lives there; the first core never does."""

TABLE = [
    # number, name, what the manager says about it
    (0, 'POSSIBLE', ''),
    (1, 'NO_X2APIC', 'the processor has no x2APIC mode'),
    (2, 'NO_VENDOR', 'that takes VMX'),
    (3, 'NO_PREEMPTION_TIMER', 'VMX has no preemption timer here'),
]
for _number, _name, _ in TABLE:
    globals()[_name] = _number
SENTENCES = [sentence for _, _, sentence in TABLE]
