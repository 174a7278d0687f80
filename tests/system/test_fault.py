"""A fault of the kernel: one screen with a code, its sentence and the registers, then the box stands still.

The faults are planted: a copy of the kernel in which the first instructions of bh_task_run are other ones.
"""
import pytest
from elftools.elf.elffile import ELFFile

from tests.system.box import config, run_box, vm

FAULT = 70
MARK = 0x5eed


def patched(code):
    """An edit of the laid-out box that overwrites the start of bh_task_run in kernel.elf."""
    def edit(folder):
        path = folder / 'kernel.elf'
        with open(path, 'rb') as file:
            elf = ELFFile(file)
            value = elf.get_section_by_name('.symtab').get_symbol_by_name('bh_task_run')[0]['st_value']
            offset = next(iter(elf.address_offsets(value)))
        data = bytearray(path.read_bytes())
        data[offset:offset + len(code)] = code
        path.write_bytes(data)
    return edit


MARK_RBX = b'\x48\xc7\xc3' + MARK.to_bytes(4, 'little')                     # mov $MARK, %rbx


@pytest.mark.parametrize('code, sentence', [
    (MARK_RBX + b'\x0f\x0b', '#UD (invalid opcode)'),
    (MARK_RBX + b'\x31\xc0\x48\x8b\x00', '#PF (page fault)'),                       # xor %eax, %eax; mov (%rax), %rax
    (MARK_RBX + b'\x31\xc9\x31\xd2\x31\xc0\xf7\xf1', '#DE (divide error)'),         # div %ecx by zero
    (MARK_RBX + b'\x48\xc7\xc4\x00\x10\x00\x00\x50', '#DF (double fault'),          # mov $0x1000, %rsp; push: no stack left
    (MARK_RBX + b'\x0f\x57\xc0', '#NM (FPU used in the kernel)'),                   # xorps %xmm0, %xmm0
], ids=['UD', 'PF', 'DE', 'DF', 'NM'])
def test_a_fault_of_the_kernel_is_one_screen(machine, code, sentence):
    result = run_box(config(vm('a', 'hello')), machine, edit=patched(code))
    assert any(line.startswith('kernel fault: ' + sentence) for line in result.own), result
    assert 'RBX   %016x' % MARK in result.output
    for register in ('RIP', 'RSP', 'RFLAGS', 'CR2', 'CR3', 'R15'):
        assert register in result.output
    assert result.own[-1] == 'the box has stopped' and result.status == FAULT


def test_running_into_the_guard_page_is_a_double_fault(machine):
    """push in a loop: the stack ends at its guard page, and the fault is told on another stack."""
    result = run_box(config(vm('a', 'hello')), machine, edit=patched(MARK_RBX + b'\x50\xeb\xfd'))
    assert any(line.startswith('kernel fault: #DF') for line in result.own), result
    assert result.status == FAULT
