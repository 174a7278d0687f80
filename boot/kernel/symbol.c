/* What the linker script and the assembly know, for RPython: see hypervisor/hw/image.py for the order. */
#include "hw/cpu.h"

extern char text_start[], entry_text_start[], entry_text_end[], text_end[], rodata_end[], data_start[], entry_data_start[],
    entry_data_end[], data_end[], image_end[], kernel_stack_guard[], panic_stack_guard[],
    trampoline_start[], trampoline_end[], core_record[], core_private[];
extern bh_word kernel_root;

bh_word bh_symbol(bh_word which)
{
    static char *const table[] = {text_start, entry_text_start, entry_text_end, text_end, rodata_end, data_start,
                                  entry_data_start, entry_data_end, data_end, image_end, kernel_stack_guard, panic_stack_guard,
                                  trampoline_start, trampoline_end, core_record, core_private};
    return which < sizeof table / sizeof table[0] ? (bh_word)table[which] : 0;
}

/* Every entry from ring 3 loads this root first. */
void bh_set_kernel_root(bh_word root)
{
    kernel_root = root;
    bh_write_cr3(root);
}
