"""How a VM ended: the codes that STOP and INSPECT use, and the words for people.

`who` may say it: 'vmm' codes are accepted from a compartment's own task, all others are the kernel's or the manager's.
"""

TABLE = [
    # code, name, who, words; %d / %x stand for the detail
    (0, 'NONE', 'kernel', 'running'),
    (1, 'EXITED', 'vmm', 'exited with status %d'),
    (2, 'POWERED_OFF', 'vmm', 'powered off'),
    (3, 'HALTED', 'vmm', 'halted with nothing left to wake it'),
    (4, 'TRIPLE_FAULT', 'vmm', 'shut down by a triple fault'),
    (5, 'RESET', 'vmm', 'asked for a reset, more often than it may'),
    (6, 'BAD_IMAGE', 'vmm', 'its image cannot be booted'),
    (7, 'UNSUPPORTED', 'vmm', 'used something that its platform does not have, at rip 0x%x'),
    (8, 'VMM_GAVE_UP', 'vmm', 'its VMM gave up, code %d'),
    (9, 'PANICKED', 'vmm', 'its operating system panicked'),
    (16, 'VMM_FAULT', 'kernel', 'its VMM caused a fault at 0x%x'),
    (17, 'VMM_SILENT', 'kernel', 'its VMM did not answer in time'),
    (18, 'VMM_BAD_ANSWER', 'kernel', 'its VMM gave an answer that breaks rule %d'),
    (19, 'ENTRY_FAILED', 'kernel', 'the processor refused to enter the guest, rule %d'),
    (20, 'EXIT_UNKNOWN', 'kernel', 'an exit that nobody knows, vendor code 0x%x'),
    (21, 'KERNEL_LIMIT', 'kernel', 'the guest did what this kernel does not support, at rip 0x%x'),
    (22, 'CORE_STOPPED', 'kernel', 'its core %d stopped'),
    (24, 'DESTROYED', 'manager', 'destroyed by the manager'),
    (25, 'NOT_STARTED', 'manager', 'could not be started, status %d'),
    (26, 'TIME_LIMIT', 'manager', 'used up its time limit of %d ms'),
]
for _code, _name, _who, _words in TABLE:
    globals()[_name] = _code
MANAGER_MAY_SAY = [code for code, _, who, _ in TABLE if who == 'manager']
VMM_MAY_SAY = [code for code, _, who, _ in TABLE if who == 'vmm']
WORDS = dict((code, words) for code, _, _, words in TABLE)
C_CONSTANTS = {'ENDING_VMM_GAVE_UP': VMM_GAVE_UP}
