"""The emulator where no native run can tell: other modes, faults, the stack, strings, memory that is not there."""
from hypothesis import given, settings, strategies as st

from hypervisor.hw import task
from hypervisor.spec import cpu
from hypervisor.vmm import emulate, strings
from tests.unit.vmm.rig import CODE, GPR, Rig

NOWHERE = 0xd0000000


def rig_32(**state):
    rig = Rig()
    rig.flat_32()
    rig.state.update(state)
    return rig


def run(rig, text, outcome=emulate.DONE):
    code = bytearray.fromhex(text.decode() if isinstance(text, bytes) else text)
    assert rig.run(code) == outcome
    return rig


def test_reads_beyond_the_memory_are_ones_and_writes_vanish():
    rig = run(rig_32(RBX=NOWHERE, RAX=0x11223344), '8b 03')
    assert rig.box.state('RAX') == 0xffffffff and rig.box.state('RIP') == 0x9002
    rig = run(rig_32(RBX=0x3ffffe, RAX=0x11223344), '87 03')           # half in, half out
    assert rig.box.state('RAX') == 0xffff0000 and rig.get(0x3ffffe, 2) == b'\x44\x33'
    rig = run(rig_32(RBX=0x9fffe, RAX=0x11223344), '89 03')
    assert rig.get(0x9fffe, 2) == b'\x44\x33' and rig.get(0xa0000, 2) == b'\0\0'


def test_real_mode_addresses_wrap_and_limits_hold():
    rig = Rig()
    rig.real_mode()
    rig.state.update(DS_BASE=0xb8000, DS_SELECTOR=0xb800, RBX=0xfff0, RSI=0x20, RAX=0x41)
    run(rig, '88 00')                                                  # mov [bx+si], al: offset 0x10
    rig.state.update(RBX=0xffff, RSI=0)
    run(rig, '89 00', emulate.FAULT)                                   # a word at 0xffff
    assert rig.emulator.context.vector == cpu.VECTOR_GP
    rig.state.update(RBP=0xffff, SS_BASE=0xb8000)
    run(rig, '89 46 00', emulate.FAULT)
    assert rig.emulator.context.vector == cpu.VECTOR_SS


def test_segment_bases_count():
    rig = Rig()
    rig.real_mode()
    rig.state.update(DS_BASE=0x20000, SS_BASE=0x30000, ES_BASE=0x40000, RBX=0x10, RBP=0x10, RAX=0x41)
    run(rig, '88 07')                                                  # DS:BX
    run(rig, '88 46 01')                                               # SS:BP + 1
    run(rig, '26 88 07')
    assert rig.get(0x20010, 1) == rig.get(0x30011, 1) == rig.get(0x40010, 1) == b'A'
    rig = Rig()
    rig.long_mode()
    rig.map_page(0x20000, 0x20000)
    rig.state.update(DS_BASE=0x5000, GS_BASE=0x20000, RBX=0x10, RAX=0x41)
    run(rig, '65 88 03')                                               # GS counts in 64-bit mode, DS does not
    rig.state.update(RBX=0x20011)
    run(rig, '88 03')
    assert rig.get(0x20010, 2) == b'AA'


def test_an_instruction_may_lie_in_two_frames():
    rig = Rig()
    rig.long_mode()
    rig.map_page(CODE + 0x1000, 0x30000)
    rig.map_page(0x20000, 0x20000)
    rig.state.update(RIP=CODE + 0xffd, RBX=0x20000)
    rig.put(0x9ffd, b'\xc7\x03\x11')                                  # mov dword [rbx], 0x44332211
    rig.put(0x30000, b'\x22\x33\x44')
    assert rig.emulate() == emulate.DONE
    assert rig.get(0x20000, 4) == b'\x11\x22\x33\x44' and rig.box.state('RIP') == CODE + 0x1003


def test_segment_rights_are_checked_in_protected_mode():
    for attributes, access in ((0xc91, '89 03'), (0xc99, '8b 03'), (0x10c93, '8b 03'), (0xc9b, '89 03')):
        rig = rig_32(RBX=NOWHERE, DS_ATTRIBUTES=attributes if attributes < 0x10000 else 0x1c93)
        run(rig, access, emulate.FAULT)
        assert rig.emulator.context.vector == cpu.VECTOR_GP
    run(rig_32(RBX=0xfff, DS_ATTRIBUTES=0xc97, DS_LIMIT=0xfff), '8b 03', emulate.FAULT)      # expand-down: above the limit only
    run(rig_32(RBX=NOWHERE, DS_ATTRIBUTES=0xc97, DS_LIMIT=0xfff), '8b 03')


def test_not_canonical_is_a_general_protection_fault():
    rig = Rig()
    rig.long_mode()
    rig.state.update(RBX=0x7ffffffffffd, RBP=0x800000000000)
    run(rig, '8b 03', emulate.FAULT)
    assert rig.emulator.context.vector == cpu.VECTOR_GP
    run(rig, '8b 45 00', emulate.FAULT)
    assert rig.emulator.context.vector == cpu.VECTOR_SS


def test_page_faults_of_operand_and_code():
    rig = Rig()
    rig.long_mode()
    rig.state.update(RBX=0x123456789, RCX=5)
    run(rig, '89 03', emulate.FAULT)
    assert (rig.emulator.context.vector, rig.emulator.context.error, rig.box.state('CR2')) == (cpu.VECTOR_PF, 2, 0x123456789)
    rig.state['RIP'] = CODE + 0xffe                                    # mov [rbx], imm32 goes on in the next page
    rig.put(0x9ffe, b'\xc7\x03')
    assert rig.emulate() == emulate.FAULT
    assert rig.box.state('CR2') == CODE + 0x1000 and int(rig.emulator.context.error) == 0x10
    rig.put(0x9ffe, b'\xf3\x90')                                       # one that ends there: not of ours, but whole
    assert rig.emulate() == emulate.UNKNOWN


def test_code_beyond_the_memory():
    rig = rig_32(RIP=NOWHERE)
    assert rig.emulate() == emulate.NO_CODE


def test_code_at_the_very_end_of_the_memory():
    rig = rig_32(RIP=0x3ffffe, RBX=0x20000, RAX=0x41)
    rig.put(0x3ffffe, b'\x88\x03')
    assert rig.emulate() == emulate.DONE and rig.get(0x20000, 1) == b'A'
    rig.put(0x3ffffe, b'\xc6\x03')
    assert rig.emulate() == emulate.NO_CODE


def test_too_long_an_instruction_is_a_general_protection_fault():
    run(rig_32(RBX=NOWHERE), '66 ' * 15 + '8b 03', emulate.FAULT)


def test_stack_widths():
    rig = rig_32(RSP=0x8000, RBX=0x77)
    run(rig, '53')
    assert rig.box.state('RSP') == 0x7ffc and rig.get(0x7ffc, 4) == b'\x77\0\0\0'
    rig = rig_32(RSP=0x12340000, SS_ATTRIBUTES=0x93, SS_LIMIT=0xffff)
    run(rig, '53')
    assert rig.box.state('RSP') == 0x1234fffc
    rig = rig_32(RSP=0x8000)
    run(rig, '8f 04 24')                                               # pop [esp]: the address after the pop
    assert rig.box.state('RSP') == 0x8004
    rig = rig_32(RSP=0x8000, DS_ATTRIBUTES=0xc91)
    run(rig, '8f 03', emulate.FAULT)
    assert rig.box.state('RSP') == 0x8000


def test_repeated_strings_go_on_where_they_stopped():
    rig = rig_32(RDI=NOWHERE, RCX=5000, RAX=1)
    run(rig, 'f3 ab')
    assert rig.box.state('RIP') == 0x9000 and rig.box.state('RCX') == 5000 - strings.UNITS
    assert rig.box.state('RDI') == NOWHERE + 4 * strings.UNITS
    rig.state.update(RCX=rig.box.state('RCX'), RDI=rig.box.state('RDI'))
    run(rig, 'f3 ab')
    assert rig.box.state('RIP') == 0x9002 and rig.box.state('RCX') == 0 and rig.box.state('RDI') == NOWHERE + 20000


def test_strings_move_from_nowhere_to_memory():
    rig = run(rig_32(RSI=NOWHERE, RDI=0x20000, RCX=3), 'f3 a5')
    assert rig.get(0x20000, 13) == b'\xff' * 12 + b'\0'
    rig = rig_32(RSI=NOWHERE, RDI=0x20008, RCX=3, RFLAGS=2 | cpu.RFLAGS_DF)
    run(rig, 'f3 a5')
    assert rig.get(0x20000, 12) == b'\xff' * 12 and rig.box.state('RDI') == 0x1fffc


def test_scan_and_compare_stop_at_the_first_difference():
    rig = rig_32(RDI=0x20000, RCX=10, RAX=0xff)
    rig.put(0x20000, b'\xff\xff\x00\xff')
    run(rig, 'f3 ae')
    assert rig.box.state('RCX') == 7 and rig.box.state('RDI') == 0x20003 and not rig.box.state('RFLAGS') & cpu.RFLAGS_ZF
    rig = rig_32(RSI=0x20000, RDI=NOWHERE, RCX=10)
    rig.put(0x20000, b'\x00\x01\xff')
    run(rig, 'f2 a6')
    assert rig.box.state('RCX') == 7 and rig.box.state('RFLAGS') & cpu.RFLAGS_ZF


def test_a_fault_in_the_middle_keeps_the_progress():
    rig = rig_32(RDI=NOWHERE, RCX=10, ES_LIMIT=NOWHERE + 7)
    run(rig, 'f3 ab', emulate.FAULT)
    assert rig.box.state('RCX') == 8 and rig.box.state('RDI') == NOWHERE + 8


def test_string_io():
    rig = rig_32(RSI=0x20000, RCX=3, RDX=0x77)
    rig.put(0x20000, b'abc')
    run(rig, 'f3 6e')
    assert rig.port.written == [(1, 97), (1, 98), (1, 99)] and rig.box.state('RSI') == 0x20003 and rig.box.state('RCX') == 0
    rig = rig_32(RDI=0x20000, RCX=2, RDX=0x77)
    run(rig, 'f3 6d')
    assert rig.get(0x20000, 8) == b'\1\0\0\0\2\0\0\0'
    rig = rig_32(RDI=NOWHERE, RDX=0x77, ES_ATTRIBUTES=0xc91)
    run(rig, '6c', emulate.FAULT)
    assert rig.port.counter == 0                                       # the device was not asked


def test_what_is_not_known_changes_nothing():
    for text in ('0f 6f 03', 'd8 03', 'f7 23', 'ff 13', '0f 01 13', '62 f1 7c 48 10 03', 'c5 f8 58 03', 'c5 f8 90 03', 'c4 e2 60 f2 03', '0f 0b', 'c4 e2 79 13 03',
                 '0f c7 33', '8e 1b', '8c 33', 'c7 0b 00 00 00 00', '0f 38 f0 03'):
        rig = rig_32(RBX=NOWHERE)
        before = dict(rig.state)
        run(rig, text, emulate.UNKNOWN)
        assert rig.box.state('RIP') == before['RIP'] and rig.registers() == [before.get(name, 0) for name in GPR], text


class Cache(object):
    rig = None


def shared_rig():
    if Cache.rig is None or task.fake.kernel is not Cache.rig.box:
        Cache.rig = Rig()
    return Cache.rig


@settings(max_examples=300)
@given(st.binary(min_size=15, max_size=15), st.sampled_from(['real', 'flat', 'long']),
       st.lists(st.sampled_from([0, 1, 0x20000, 0x9ffff, 0x3ffffd, 0x400000, NOWHERE, 0xffffffff, (1 << 64) - 1, 1 << 47]),
                min_size=16, max_size=16),
       st.sampled_from([2, 0x402, 0x8d7]))
def test_any_bytes_end_in_a_known_outcome(code, mode, registers, flags):
    """Nothing raises, loops or leaves the memory: the fake memory faults where the VMM would."""
    rig = shared_rig()
    if mode == 'real':
        rig.real_mode()
        rig.state.update(EFER=0, CR4=0)
    elif mode == 'flat':
        rig.flat_32()
        rig.state.update(CR0=cpu.CR0_PE, EFER=0, CR4=0)
    else:
        rig.long_mode()
    rig.state.update(zip(GPR, registers))
    rig.state['RFLAGS'] = flags
    rig.state['RCX'] &= 0xff
    outcome = rig.run(code)
    assert outcome in (emulate.DONE, emulate.FAULT, emulate.NO_CODE, emulate.UNKNOWN)
    if outcome == emulate.FAULT:
        assert rig.emulator.context.vector in (cpu.VECTOR_GP, cpu.VECTOR_SS, cpu.VECTOR_PF)
