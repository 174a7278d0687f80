"""What a processor vendor's file must do. Vendor words end behind this interface.

One instance of Svm or Vmx is chosen at boot and never changes. Methods that run between an exit and the next entry
allocate nothing and raise nothing. Nothing here is ever run: what stands in these bodies only gives the types, because an
exception in them would count as one that the exit path may raise.
"""
from rpython.rlib.rarithmetic import r_uint

from hypervisor.spec import owning, status

PROBE_OK = 0
R0 = r_uint(0)


class Vendor(object):
    """The operations on a processor's virtualisation extension, and on vCPUs made with it."""

    def probe(self):
        """Is everything there that Bulkhead needs? Returns PROBE_OK, or a number of hypervisor/spec/refusal.py."""
        return PROBE_OK

    def enable(self):
        """Turn the extension on, on this core, after the kernel root is loaded. Returns PROBE_OK or a refusal."""
        return PROBE_OK

    def leaf_bits(self, rights, large):
        """The low and high bits of a nested page-table entry that maps a page with `rights` (spec.call READ..)."""
        return R0

    def table_bits(self):
        """The bits of a nested page-table entry that points to a table."""
        return R0

    def create(self, vcpu):
        """Make the control block of a vCPU, in the architectural reset state. Returns a status (OK or NO_MEMORY).

        vcpu.compartment.nested.root is the nested root, vcpu.compartment.tag the ASID or VPID (1 to MAX_COMPARTMENTS).
        Pages come from vcpu.compartment.take_page() (hpa, zeroed; 0: none left); arena.hva(hpa) is their address.
        """
        return status.OK

    def run(self, vcpu):
        """Enter the guest; return when it has exited. True: with the exit decoded in the vcpu's exit_* fields. False: the quick path
        (quick.py) has finished it, or the straight path (straight.py) has handed it to the VMM, and `back` says whether that has something
        for the loop. Exits that they finish alone do not come here.

        Everything of the guest that the extension itself does not switch and that the kernel or a task would change is in the
        register area (vcpu.area) or stays live until `switch`. If vcpu.flush is set, the guest's nested TLB entries are
        dropped first and the flag is cleared. An interrupt that was being delivered when the exit came is
        delivered again at the next entry.
        """
        return True

    def advance(self, vcpu):
        """Step over the instruction of the exit (exit_length bytes), and end an interrupt shadow."""

    def trace(self, vcpu):
        """An instruction was executed for the guest: RF falls, and with TF set its trap comes. `advance` does this itself."""

    def break_behind(self, vcpu, hits):
        """#DB as the trap of the instruction just stepped over. hits: B0 to B3 of DR6."""

    def get(self, vcpu, field):
        """A state field (hypervisor/spec/state.py), as in the vCPU page. Unsigned."""
        return R0

    def write_state(self, vcpu, groups):
        """Write the state fields of these groups to the vCPU page, as get(vcpu, field) gives them."""

    def rip(self, vcpu):
        """As get(vcpu, RIP), for the exits that hand it on."""
        return R0

    def set(self, vcpu, field, value):
        """Set a state field. The caller has checked CR0, CR4 and EFER (kernel/answer.py); what the processor must have
        besides (EFER.SVME, CR4.VMXE, ...) is added here and taken away again by `get`."""

    def set_flow(self, vcpu, rip, rflags):
        """Set both as `set` does. Whoever moves RIP has executed an instruction: an interrupt shadow ends."""

    def inject(self, vcpu, vector, error):
        """Queue exception `vector` (with `error` where the vector has one) for the next entry."""

    def interruptible(self, vcpu):
        """Would the guest take an external interrupt at the next entry (RFLAGS.IF, no shadow)?"""
        return False

    def interrupt(self, vcpu, vector):
        """Queue an external interrupt for the next entry. The caller has asked `interruptible`."""

    def nmi_possible(self, vcpu):
        """Would the guest take an NMI at the next entry?"""
        return False

    def deliver_nmi(self, vcpu):
        """Queue an NMI for the next entry."""

    def open_nmi_window(self, vcpu):
        """Exit with kind WINDOW as soon as the guest can take an NMI. The caller has asked `nmi_possible`, in vain."""

    def open_window(self, vcpu):
        """Exit with kind WINDOW as soon as the guest can take an external interrupt."""

    def forget_events(self, vcpu):
        """INIT: nothing is to be delivered, no window is open, nothing is blocked, DR7 is as after a reset."""

    def set_task_priority(self, vcpu, held):
        """The guest's TPR may have changed. held: it alone holds a request back, and the guest must exit when it writes CR8."""

    def close_window(self, vcpu):
        """Take that wish back."""

    def switch(self, old, new):
        """Another vCPU will run on this core: keep for `old` (may be None) and load for `new` what `run` leaves live."""

    def explain(self, vcpu):
        """After ENTRY_FAILED: the number of the broken rule in hypervisor/spec/entry.py, 0 if no rule tells."""
        return 0

    def control(self, vcpu):
        """Finish a CONTROL exit. Returns True when done and stepped over, False when the guest shall get #GP(0)."""
        return False

    def release(self, vcpu):
        """The vCPU will never run again and its pages are about to be freed: forget what still points to them."""

    def can_lend(self):
        """Could a guest have the core's local APIC (owned.py)? A number of hypervisor/spec/owning.py."""
        return owning.NO_VENDOR

    def lend(self, vcpu, ticks, deadlines):
        """From the next entry on interrupts go to the guest, which reaches EOI, TPR and PPR, and TSC_DEADLINE too if `deadlines`. It exits
        after that many TSC ticks, or before."""

    def take_back(self, vcpu):
        """The other way."""

    def set_pat(self, vcpu, value):
        """Set the guest's PAT (value already checked) and keep it in vcpu.pat."""
