"""The kernel image in memory: what the linker script knows. Addresses are virtual;
physical = virtual - KERNEL_BASE, on the first core. IMAGE_END and TRAMPOLINE_* are physical."""
from rpython.rlib.rarithmetic import r_uint
from rpython.rtyper.lltypesystem import lltype, rffi
from rpython.translator.tool.cbuild import ExternalCompilationInfo

_ECI = ExternalCompilationInfo(includes=['hw/cpu.h'])

# The order of boot/kernel/symbol.c
TEXT_START, ENTRY_TEXT_START, ENTRY_TEXT_END, TEXT_END, RODATA_END, DATA_START, ENTRY_DATA_START, ENTRY_DATA_END, DATA_END, \
    IMAGE_END, KERNEL_STACK_GUARD, PANIC_STACK_GUARD, TRAMPOLINE_START, TRAMPOLINE_END, CORE_RECORD, CORE_PRIVATE = range(16)

_BASE = 0xffffffff80100000
fake = {TEXT_START: _BASE + 0x1000, ENTRY_TEXT_START: _BASE + 0x1000, ENTRY_TEXT_END: _BASE + 0x3000, TEXT_END: _BASE + 0x9000,
        RODATA_END: _BASE + 0xc000, DATA_START: _BASE + 0xc000, ENTRY_DATA_START: _BASE + 0xc000, ENTRY_DATA_END: _BASE + 0xe000,
        DATA_END: _BASE + 0x20000, IMAGE_END: 0x130000, KERNEL_STACK_GUARD: _BASE + 0x18000, PANIC_STACK_GUARD: _BASE + 0x1d000,
        TRAMPOLINE_START: 0x100100, TRAMPOLINE_END: 0x100140, CORE_RECORD: _BASE + 0xe000, CORE_PRIVATE: _BASE + 0xe008}
fake_root = [0]


def _fake_set_root(root):
    fake_root[0] = int(root)


symbol = rffi.llexternal('bh_symbol', [lltype.Unsigned], lltype.Unsigned, compilation_info=_ECI, _nowrapper=True,
                         _callable=lambda which: r_uint(fake[int(which)]))
# set_kernel_root(hpa): loads CR3, and lets every entry from ring 3 load the same.
set_kernel_root = rffi.llexternal('bh_set_kernel_root', [lltype.Unsigned], lltype.Void, compilation_info=_ECI,
                                  _nowrapper=True, _callable=_fake_set_root)
