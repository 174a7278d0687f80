"""Where things lie in the address spaces. One map for the kernel, one for every task.

Kernel root (supervisor pages only)
    KERNEL_BASE   image: .text and .rodata read-only, .data/.bss/stacks private to the core, guard pages
    ARENA_BASE    window to the kernel's own memory, each page at the distance ARENA_BASE from where it lies: owner table, arena, the
                  compartments' runs (page tables, VMCBs/VMCSs, message pages)
    DEVICE_BASE   the local APIC's page
    LINK_BASE     the pages through which cores talk (hypervisor/spec/core.py), those that this core writes or reads
Task root
    user half     image, stack, boot page, message pages, whatever the task maps
    kernel half   the entry pages only: what the processor needs to get from ring 3 into the kernel root
"""

PAGE = 4096
LARGE_PAGE = 0x200000

KERNEL_BASE = 0xffffffff80000000
ARENA_BASE = 0xffff800000000000
ARENA_END = 0xffffc00000000000
DEVICE_BASE = 0xffffffffe0000000
LINK_BASE = 0xfffffffff0000000

ARENA_BYTES = 128 * PAGE            # what a core's kernel keeps for itself and its manager (spec/pages.py)

# Tasks. Everything below TASK_END, except page 0, is the task's to map.
TASK_BASE = 0x400000                # link address of every program
BOOT_PAGE = 0x70000000              # what the creator tells the task (hypervisor/spec/boot.py); read-only
TASK_PAGE = 0x70001000              # shared with the kernel: ring data
VCPU_PAGE = 0x70002000              # shared with the kernel: one page per vCPU, 4096 bytes apart
STACK_TOP = 0x70100000              # the stack grows down from here; the page below its last is never mapped
STACK_PAGES = 16
TASK_END = 0x7fff00000000

C_CONSTANTS = {
    'PAGE_BYTES': PAGE,
    'KERNEL_BASE': KERNEL_BASE,
    'ARENA_BASE': ARENA_BASE,
    'TASK_BASE': TASK_BASE,
    'BOOT_PAGE': BOOT_PAGE,
    'TASK_PAGE': TASK_PAGE,
    'STACK_TOP': STACK_TOP,
}
