"""What the managers of two cores say to each other: the first core's, which has the ports, and that of a core that was started.

A message is a header and LENGTH bytes. Numbers are little-endian. `VM` is the index of a VM record in the configuration.
"""
from hypervisor.spec import exit
from hypervisor.spec.record import offsets
from hypervisor.spec.vcpu import RING_BYTES

HEADER = offsets([('KIND', 1), ('VM', 1), ('LENGTH', 2)])
MOST_BYTES = RING_BYTES         # of a message, without its header

# KIND. To the started core's manager:
BEGIN = 1                       # WALL: create your VMs, but for those that need a core that does not run
KEYS = 2                        # what was typed; the next KEYS for this VM comes after its TAKEN
# To the first core's manager:
OUTPUT = 3                      # what a VM's console said
TAKEN = 4                       # a word: how many of the last KEYS the VM has taken; the others are to be sent again
ENDED = 5                       # END: nothing more comes from this VM
REFUSED = 6                     # a word: why the configuration was refused; nothing more comes at all
KINDS = 7

WALL = offsets(['SECONDS', 'TSC', 'CORES'])      # CORES: bit n for core n, if it runs
END = offsets(['HOW', 'DETAIL', 'STARTED', 'ENDED', 'TICKS', 'VMM_TICKS',       # STARTED, ENDED: of the TSC
               ('EXITS', 8 * exit.COUNT)])
assert END['END'] <= MOST_BYTES
