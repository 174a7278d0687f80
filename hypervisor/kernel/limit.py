"""How many of each thing the kernel can hold: every object exists from the start, so these bound its memory and its loops."""

from hypervisor.spec import call, pages, share

COMPARTMENTS = 9            # the manager and eight VMs
VCPUS = call.VCPUS          # of all VMs
VCPUS_PER_VM = call.VCPUS_PER_VM
RINGS = 32
RING_CAPACITY = 4096        # bytes in a ring
PAGES_PER_COMPARTMENT = pages.MOST      # of the kernel's, that one compartment may hold: its tables, VMCBs, message pages
PERIOD_MICROSECONDS = share.PERIOD_MICROSECONDS
SLICE_MICROSECONDS = 5000  # at most, of what nobody is promised, while others want the processor too
TURN_MICROSECONDS = 1000    # of a vCPU in its VM's slice, while others of the VM want the processor too; of a VM, while others wake
ALONE_MICROSECONDS = 1000000    # how far ahead the core's timer is set at most
SHORTEST_MICROSECONDS = 10  # how far ahead the core's timer is set at least
SILENCE_MICROSECONDS = 1000000  # what a VMM may take to answer an exit
