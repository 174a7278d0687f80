"""Hypercalls: VMCALL or VMMCALL with a number in RAX and arguments in RBX, RCX, RDX, RSI; the answer comes in RAX.

Numbers and errors are KVM's, whose CPUID signature guests see. Outside of 64-bit code all of them have 32 bits.
Source: Linux, Documentation/virt/kvm/x86/hypercalls.rst; include/uapi/linux/kvm_para.h.
"""
NOTHING = 0             # ours: answers 0
SEND_IPI = 10           # RBX, RCX: the bitmap's lower and upper half; RDX: the APIC ID of its bit 0; RSI: ICR. Answers how many took it
PERMISSION = -1         # KVM_EPERM: only ring 0 may ask
INVALID = -22           # KVM_EINVAL
UNKNOWN = -1000         # KVM_ENOSYS
