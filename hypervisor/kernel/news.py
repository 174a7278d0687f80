"""What the kernels of other cores have still to be told about a VM: marks, set wherever something happens, which the loop has wire.py send.

A mark stays until its message has found room, so nothing is lost; what has happened twice by then is told once.
"""

# Of a vCPU
ANSWER, ASK, RAISE = 1, 2, 4            # to the core that it lives on: from its VMM, or an interrupt from anybody
EXIT, RESULT, ADDRESS = 8, 16, 32       # of one that lives here, to its VMM or, the last, to all cores of its VM
# Of a compartment
OFFER, STOP = 1, 2                      # to the cores in `to_offer` and `to_stop`
JOINED, ENDED, STOPPED = 4, 8, 16       # of a branch, to its home


class News(object):
    """any: somebody has a mark."""

    def __init__(self):
        self.any = False

    def of_vcpu(self, vcpu, mark):
        vcpu.news |= mark
        self.any = True

    def of_compartment(self, compartment, mark):
        compartment.news |= mark
        self.any = True

    def of_address(self, vcpu):
        """What its local APIC answers to may have changed: the other cores of its VM find its interrupts' targets by it."""
        others = vcpu.compartment.others
        if others != 0:
            vcpu.untold = others
            self.of_vcpu(vcpu, ADDRESS)


news = News()
