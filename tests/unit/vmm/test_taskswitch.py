"""Task switches against the manual's figure of a TSS and its list of what a switch does, and any tables at all."""
import struct

from hypothesis import given, settings, strategies as st

from hypervisor.spec import cpu, exit, vcpu as spec
from hypervisor.vmm.context import FAULT
from hypervisor.vmm.emulate import DONE, UNKNOWN
from hypervisor.vmm.taskswitch import TaskSwitch
from tests.unit.vmm.rig import Rig

GDT, LDT, OLD, NEW = 0x8000, 0x8800, 0x9000, 0xa000
CODE, DATA, OLD_TSS, NEW_TSS, LDTR, USER_CODE, USER_DATA = 0x08, 0x10, 0x18, 0x20, 0x28, 0x33, 0x3b
REGISTERS = ['RAX', 'RCX', 'RDX', 'RBX', 'RSP', 'RBP', 'RSI', 'RDI']
SEGMENTS = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS']


def descriptor(base, limit, access, flags=0):
    return struct.pack('<HHBBBB', limit & 0xffff, base & 0xffff, base >> 16 & 0xff, access, flags << 4 | limit >> 16 & 15, base >> 24)


class Tasks(object):
    """An old task, a new one, flat segments for both rings."""

    def __init__(self):
        self.rig = Rig()
        self.rig.flat_32()
        self.switch = TaskSwitch(self.rig.emulator, self.rig.ram)
        self.tables = {CODE: descriptor(0, 0xfffff, 0x9b, 12), DATA: descriptor(0, 0xfffff, 0x92, 12), OLD_TSS: descriptor(OLD, 103, 0x8b),
                       NEW_TSS: descriptor(NEW, 103, 0x89), LDTR: descriptor(LDT, 15, 0x82), USER_CODE & ~7: descriptor(0, 0xfffff, 0xfb, 12),
                       USER_DATA & ~7: descriptor(0, 0xfffff, 0xf3, 12)}
        for selector, words in self.tables.items():
            self.rig.put(GDT + selector, words)
        self.rig.state.update(GDTR_BASE=GDT, GDTR_LIMIT=0x3f, TR_SELECTOR=OLD_TSS, TR_BASE=OLD, TR_LIMIT=103, TR_ATTRIBUTES=0x8b,
                              LDTR_ATTRIBUTES=spec.UNUSABLE, RFLAGS=0x403, RIP=0x1234)
        for n, name in enumerate(REGISTERS):
            self.rig.state[name] = 0x100 + n
        for name in SEGMENTS:
            self.rig.state[name + '_SELECTOR'] = CODE if name == 'CS' else DATA
        self.new = dict(CR3=0, EIP=0x5678, EFLAGS=2, LDTR=0, **dict((name, 0x200 + n) for n, name in enumerate(REGISTERS)))
        self.new.update(dict((name, CODE if name == 'CS' else DATA) for name in SEGMENTS))

    def perform(self, source, length=7, error=None, selector=NEW_TSS):
        new = self.new
        self.rig.put(NEW, struct.pack('<7I', 0x7777, 0, 0, 0, 0, 0, 0) + struct.pack('<18I', *(
            [new['CR3'], new['EIP'], new['EFLAGS']] + [new[name] for name in REGISTERS] + [new[name] for name in SEGMENTS] + [new['LDTR']])))
        flags = source | (exit.TASK_ERROR if error is not None else 0)
        self.rig.box.exit(exit.TASK_SWITCH, SELECTOR=selector, FLAGS=flags, LENGTH=length, VALUE=error or 0)
        return self.switch.perform()

    def access(self, selector):
        return self.rig.get(GDT + (selector & ~7) + 5, 1)[0]

    def word(self, at):
        return struct.unpack('<I', bytes(self.rig.get(at, 4)))[0]

    def state(self, name):
        return self.rig.box.state(name)

    def fault(self):
        return self.rig.emulator.context.vector, int(self.rig.emulator.context.error)


def test_jump_keeps_the_old_task_and_loads_the_new_one():
    tasks = Tasks()
    assert tasks.perform(exit.TASK_JMP) == DONE
    assert tasks.word(OLD + 32) == 0x1234 + 7 and tasks.word(OLD + 36) == 0x403
    assert [tasks.word(OLD + 40 + 4 * n) for n in range(8)] == [0x100 + n for n in range(8)]
    assert [tasks.word(OLD + 72 + 4 * n) for n in range(6)] == [DATA, CODE, DATA, DATA, DATA, DATA]
    assert [tasks.state(name) for name in REGISTERS] == [0x200 + n for n in range(8)]
    assert (tasks.state('RIP'), tasks.state('RFLAGS')) == (0x5678, 2)
    assert tasks.state('CR0') == cpu.CR0_PE | cpu.CR0_TS
    assert (tasks.state('TR_SELECTOR'), tasks.state('TR_BASE'), tasks.state('TR_LIMIT'), tasks.state('TR_ATTRIBUTES')) == (NEW_TSS, NEW, 103, 0x8b)
    assert (tasks.access(OLD_TSS), tasks.access(NEW_TSS)) == (0x89, 0x8b)
    assert tasks.word(NEW) == 0x7777
    assert tasks.access(DATA) == 0x93
    assert tasks.state('DS_ATTRIBUTES') == 0xc93 and tasks.state('DS_LIMIT') == 0xffffffff


def test_call_and_gate_nest():
    for source in (exit.TASK_CALL, exit.TASK_GATE):
        tasks = Tasks()
        assert tasks.perform(source) == DONE
        assert tasks.word(NEW) == OLD_TSS
        assert tasks.state('RFLAGS') == 2 | cpu.RFLAGS_NT
        assert (tasks.access(OLD_TSS), tasks.access(NEW_TSS)) == (0x8b, 0x8b)


def test_iret_frees_the_task_that_it_leaves():
    tasks = Tasks()
    tasks.rig.put(GDT + NEW_TSS, descriptor(NEW, 103, 0x8b))
    tasks.rig.state['RFLAGS'] = 2 | cpu.RFLAGS_NT
    assert tasks.perform(exit.TASK_IRET, length=1) == DONE
    assert tasks.word(OLD + 36) == 2
    assert (tasks.access(OLD_TSS), tasks.access(NEW_TSS)) == (0x89, 0x8b)
    assert tasks.word(NEW) == 0x7777


def test_error_code_is_on_the_new_stack():
    tasks = Tasks()
    tasks.new['RSP'] = 0x7000
    assert tasks.perform(exit.TASK_GATE, length=0, error=0x1d) == DONE
    assert tasks.state('RSP') == 0x6ffc and tasks.word(0x6ffc) == 0x1d
    assert tasks.word(OLD + 32) == 0x1234


def test_first_thing_that_cannot_be_loaded_is_the_new_tasks_fault():
    for changes, fault in [
            ({'CS': DATA}, (cpu.VECTOR_TS, DATA)), ({'CS': 0}, (cpu.VECTOR_TS, 0)), ({'CS': CODE | 3}, (cpu.VECTOR_TS, CODE)), ({'SS': 0}, (cpu.VECTOR_TS, 0)),
            ({'SS': CODE}, (cpu.VECTOR_TS, CODE)), ({'SS': DATA | 1}, (cpu.VECTOR_TS, DATA)), ({'SS': USER_DATA}, (cpu.VECTOR_TS, USER_DATA & ~3)), ({'DS': 0x100}, (cpu.VECTOR_TS, 0x100)),
            ({'ES': OLD_TSS}, (cpu.VECTOR_TS, OLD_TSS)), ({'LDTR': DATA}, (cpu.VECTOR_TS, DATA)), ({'LDTR': 4 | LDTR}, (cpu.VECTOR_TS, 4 | LDTR)),
            ({'FS': 4}, (cpu.VECTOR_TS, 4)), ({'CS': USER_CODE, 'SS': USER_DATA}, (cpu.VECTOR_TS, DATA)), ({'CS': DATA, 'LDTR': 0x100}, (cpu.VECTOR_TS, 0x100))]:
        tasks = Tasks()
        tasks.new.update(changes)
        assert tasks.perform(exit.TASK_JMP) == FAULT, changes
        assert tasks.fault() == fault, changes
        assert tasks.state('TR_SELECTOR') == NEW_TSS and tasks.state('RIP') == 0x5678


def test_absent_segments_have_their_own_vectors():
    for name, vector in (('CS', cpu.VECTOR_NP), ('SS', cpu.VECTOR_SS), ('GS', cpu.VECTOR_NP)):
        tasks = Tasks()
        tasks.rig.put(GDT + (USER_CODE & ~7), descriptor(0, 0xfffff, 0x1b if name == 'CS' else 0x13, 12))
        tasks.new[name] = USER_CODE & ~7
        assert tasks.perform(exit.TASK_JMP) == FAULT
        assert tasks.fault() == (vector, USER_CODE & ~7)


def test_ldt_serves_the_segments():
    tasks = Tasks()
    tasks.rig.put(LDT + 8, descriptor(0x12345678, 0xfff, 0x92, 4))
    tasks.new.update(LDTR=LDTR, FS=12)
    assert tasks.perform(exit.TASK_JMP) == DONE
    assert (tasks.state('LDTR_SELECTOR'), tasks.state('LDTR_BASE'), tasks.state('LDTR_LIMIT')) == (LDTR, LDT, 15)
    assert (tasks.state('FS_SELECTOR'), tasks.state('FS_BASE'), tasks.state('FS_LIMIT')) == (12, 0x12345678, 0xfff)
    assert tasks.rig.get(LDT + 13, 1)[0] == 0x93


def test_null_data_segments_cannot_be_used():
    tasks = Tasks()
    tasks.new.update(DS=3)
    assert tasks.perform(exit.TASK_JMP) == DONE
    assert tasks.state('DS_SELECTOR') == 3 and tasks.state('DS_ATTRIBUTES') == spec.UNUSABLE


def test_virtual_8086_segments_are_made_from_selectors():
    tasks = Tasks()
    tasks.new.update(EFLAGS=2 | cpu.RFLAGS_VM, CS=0x1000, SS=0x2000, EIP=0x10)
    assert tasks.perform(exit.TASK_JMP) == DONE
    assert (tasks.state('CS_BASE'), tasks.state('CS_LIMIT'), tasks.state('CS_ATTRIBUTES'), tasks.state('SS_BASE')) == (0x10000, 0xffff, 0xf3, 0x20000)


def test_eip_behind_the_limit_is_the_new_tasks_gp():
    tasks = Tasks()
    tasks.rig.put(GDT + CODE, descriptor(0, 0xfff, 0x9b, 4))
    assert tasks.perform(exit.TASK_JMP) == FAULT
    assert tasks.fault() == (cpu.VECTOR_GP, 0)


def test_small_tss():
    tasks = Tasks()
    tasks.rig.put(GDT + NEW_TSS, descriptor(NEW, 43, 0x81))
    tasks.rig.put(0xb000, b'')
    tasks.rig.box.exit(exit.TASK_SWITCH, SELECTOR=NEW_TSS, FLAGS=exit.TASK_JMP, LENGTH=7, VALUE=0)
    tasks.rig.put(NEW, struct.pack('<22H', *([0] * 7 + [0x5678, 2] + [0x300 + n for n in range(8)] + [DATA, CODE, DATA, DATA, 0])))
    assert tasks.switch.perform() == DONE
    assert [tasks.state(name) for name in REGISTERS] == [0x300 + n for n in range(8)]
    assert tasks.state('RIP') == 0x5678 and tasks.state('FS_ATTRIBUTES') == spec.UNUSABLE and tasks.state('TR_ATTRIBUTES') == 0x83


def test_cr3_is_loaded_where_paging_is_on_and_pae_is_not_done():
    tasks = Tasks()
    assert tasks.perform(exit.TASK_JMP) == DONE and tasks.state('CR3') == 0
    for cr4, outcome in ((cpu.CR4_PSE, DONE), (cpu.CR4_PAE, UNKNOWN)):
        tasks = Tasks()
        tasks.rig.put(0x4000, struct.pack('<I', 0xe7) if cr4 == cpu.CR4_PSE else struct.pack('<Q', 0x5001))
        tasks.rig.put(0x5000, struct.pack('<Q', 0xe7))
        tasks.rig.put(0x6000, struct.pack('<I', 0xe7))
        tasks.rig.state.update(CR0=cpu.CR0_PE | cpu.CR0_PG, CR3=0x4000, CR4=cr4)
        tasks.new['CR3'] = 0x6000
        assert tasks.perform(exit.TASK_JMP) == outcome
        assert tasks.state('CR3') == (0x6000 if outcome == DONE else 0x4000)


def test_page_fault_on_a_tss_is_the_old_tasks():
    tasks = Tasks()
    tasks.rig.put(0x4000, struct.pack('<I', 0x5007))
    tasks.rig.put(0x5000, struct.pack('<16I', *[n << 12 | (7 if n != NEW >> 12 else 6) for n in range(16)]))
    tasks.rig.state.update(CR0=cpu.CR0_PE | cpu.CR0_PG, CR3=0x4000)
    assert tasks.perform(exit.TASK_JMP) == FAULT
    assert tasks.fault() == (cpu.VECTOR_PF, 2) and tasks.state('CR2') == NEW
    assert tasks.state('TR_SELECTOR') == OLD_TSS and tasks.word(OLD + 32) == 0 and tasks.access(NEW_TSS) == 0x89


@settings(max_examples=200)
@given(junk=st.binary(min_size=64, max_size=64), tss=st.binary(min_size=104, max_size=104), source=st.integers(0, 7), selector=st.integers(0, 0xffff),
       base=st.sampled_from([GDT, 0x3ffffc, 0xffffffe0, 0x9fff8]))
def test_any_tables_end_in_a_known_outcome(junk, tss, source, selector, base):
    tasks = Tasks()
    tasks.rig.put(GDT, junk)
    tasks.rig.put(NEW, tss)
    tasks.rig.state.update(GDTR_BASE=base, GDTR_LIMIT=0xffff)
    tasks.rig.box.exit(exit.TASK_SWITCH, SELECTOR=selector, FLAGS=source, LENGTH=2, VALUE=0x1d)
    assert tasks.switch.perform() in (DONE, FAULT, UNKNOWN)
