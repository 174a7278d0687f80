"""What is translated: the kernel's entry points, and where the exit path begins."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rtyper.lltypesystem import lltype

from hypervisor.kernel import loop, main, panic, svm_quick, vmx_quick


@export_symbol
def kernel_start(magic, information):
    main.kernel_start(magic, information)


@export_symbol
def k_panic(area):
    return panic.k_panic(area)


@export_symbol
def k_panic_code(code, place):
    return panic.k_panic_code(code, place)


for _function in (kernel_start, k_panic, k_panic_code):
    _function.c_name = _function.__name__
CROSSINGS = [(svm_quick.first, 'k_svm_first', []), (vmx_quick.first, 'k_vmx_first', []), (svm_quick.more, 'k_svm_more', []),
             (vmx_quick.more, 'k_vmx_more', []), (svm_quick.hand, 'k_svm_hand', []), (vmx_quick.hand, 'k_vmx_hand', []),
             (svm_quick.answered, 'k_svm_answered', [lltype.Unsigned]),
             (vmx_quick.answered, 'k_vmx_answered', [lltype.Unsigned])]        # what the assembly asks on its way
for _function, _name, _ in CROSSINGS:
    export_symbol(_function).c_name = _name

ENTRY_POINTS = [(kernel_start, [lltype.Unsigned, lltype.Unsigned]), (k_panic, [lltype.Unsigned]), (k_panic_code, [lltype.Signed, lltype.Unsigned])]
ENTRY_POINTS += [(_function, _arguments) for _function, _, _arguments in CROSSINGS]
EXIT_PATH = [loop.run_forever] + [_function for _function, _, _ in CROSSINGS]
FEW_REGISTERS = [svm_quick.first, vmx_quick.first]      # compiled apart: boot/kernel/guest.h
