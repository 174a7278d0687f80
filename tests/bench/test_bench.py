"""The bench keeps its budget, says so when it does not, and measures the same twice."""
import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'bench'))

import bench  # noqa: E402
import budget  # noqa: E402
import document  # noqa: E402
import exitpath  # noqa: E402
import measure  # noqa: E402
import paths  # noqa: E402
import peers  # noqa: E402
import plot  # noqa: E402
from boxes import PROCESSORS  # noqa: E402
from bulkhead.mistake import Trouble  # noqa: E402


@pytest.fixture(scope='module')
def found():
    """What `make bench` measures, once."""
    return bench.measured(PROCESSORS, quick=False)


@pytest.fixture
def rows(found):
    return found['rows']


@pytest.mark.parametrize('processor', PROCESSORS)
def test_no_row_is_over_its_limit(rows, processor):
    assert budget.faults({'rows': {processor: rows[processor]}, 'figures': {}}, budget.load()) == []


def test_no_figure_is_over_its_limit(found):
    assert found['figures'] and budget.faults({'rows': {}, 'figures': found['figures']}, budget.load()) == []


def test_two_runs_measure_the_same(rows):
    again = measure.operations(PROCESSORS['qemu-svm'])
    assert again == {row: rows['qemu-svm'][row] for row in again}


@pytest.mark.parametrize('row', ['cpuid', 'in_uart_lsr'])
def test_the_profile_holds_each_instruction_that_the_bench_counts(rows, row):
    assert len(paths.capture(PROCESSORS['qemu-svm'], row)) == rows['qemu-svm'][row]['minimum']


def test_the_profile_of_a_late_timer_is_nearly_what_the_bench_measures_around_it(rows):
    """The guest's own instructions, and a timer that counts in coarser steps than the TSC, are not in it."""
    assert 0 <= rows['qemu-svm']['hlt']['minimum'] - len(paths.capture(PROCESSORS['qemu-svm'], 'hlt')) < 40


def test_operations_that_need_no_exit_have_none(rows):
    assert {rows[processor][row]['minimum'] for processor in rows for row in ('nop', 'mov_cr3', 'mov_cr4', 'invlpg')} == {1}


# The checks themselves.

PLAN = budget.Budget(row={'cpuid': {'about': 'CPUID', 'goal': 45, 'exit': 'cpuid'}, 'later': {'about': 'later', 'pending': 'no device'}}, figure={'lines': {'about': 'lines'}},
                     limit={'qemu-svm': {'cpuid': 50}})


def measured(**rows):
    return {'rows': {'qemu-svm': {name: measure.single(number) for name, number in rows.items()}}, 'figures': {}}


def test_a_row_over_its_limit_is_named():
    assert budget.faults(measured(cpuid=50), PLAN) == []
    assert budget.faults(measured(cpuid=51), PLAN) == ['OVER BUDGET: cpuid on qemu-svm is 51, its limit is 50']


def test_rows_without_place_limit_or_means_are_named():
    assert 'no place' in budget.faults(measured(other=1), PLAN)[0]
    assert 'cannot be measured: no device' in budget.faults(measured(later=1), PLAN)[0]
    assert 'no limit' in budget.faults({'rows': {'bochs-vmx': {'cpuid': measure.single(1)}}, 'figures': {}}, PLAN)[0]
    assert budget.faults({'rows': {}, 'figures': {'lines': 7}}, PLAN) == []         # it has no goal


def test_a_figure_over_its_limit_is_named():
    plan = budget.Budget({}, {'text': {'about': 'bytes', 'goal': 5}}, {budget.EVERYWHERE: {'text': 8}})
    assert budget.faults({'rows': {}, 'figures': {'text': 9}}, plan) == ['OVER BUDGET: text is 9, its limit is 8']


def test_limits_are_written_and_the_text_above_them_stays(tmp_path):
    file = Path(shutil.copy(budget.FILE, tmp_path))
    before = file.read_text()
    budget.set_limits(measured(cpuid=100), file)
    assert file.read_text().startswith(before.partition(budget.ENFORCED)[0])
    after, original = budget.load(file), budget.load()
    assert after.limit['qemu-svm']['cpuid'] == 105
    assert after.limit['bochs-vmx'] == original.limit['bochs-vmx'] and after.row == original.row


def test_the_page_gets_all_numbers_or_none(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('before\n' + document.BEGIN + 'old\n' + document.END + '\nafter\n')
    whole = {'rows': {name: {'cpuid': measure.single(1234)} for name in PROCESSORS}, 'figures': {'text': 5}}
    plan = budget.Budget(PLAN.row, {'text': {'about': 'bytes'}}, {})
    document.write(whole, plan, page)
    assert '| CPUID | cpuid | 1,234 | 1,234 | 1,234 | 45 |' in page.read_text() and 'old' not in page.read_text()
    assert page.read_text().startswith('before\n') and page.read_text().endswith('\nafter\n')
    with pytest.raises(Trouble, match='all processors'):
        document.write(measured(cpuid=1), plan, page)


def table(**counts):
    text = ', '.join('%s %d' % item for item in counts.items())
    return 'bulkhead: bench  exited with status 0            9  %s\n' % text


def test_a_row_whose_exits_did_not_happen_is_refused():
    measure.check_exits({'cpuid': {}}, table(interrupt=1, cpuid=1001), PLAN, 'qemu-svm')
    for count in (999, 1100):
        with pytest.raises(Trouble, match='exits of kind cpuid'):
            measure.check_exits({'cpuid': {}}, table(cpuid=count), PLAN, 'qemu-svm')


def test_a_row_can_have_other_exits_on_one_processor():
    plan = budget.Budget({'eoi': {'exits': {'wrmsr': 2}, 'exits_on': {'bochs-vmx': {'wrmsr': 1}}}}, {}, {})
    for processor, count in (('qemu-svm', 2000), ('bochs-vmx', 1000)):
        measure.check_exits({'eoi': {}}, table(wrmsr=count), plan, processor)
        with pytest.raises(Trouble, match='exits of kind wrmsr'):
            measure.check_exits({'eoi': {}}, table(wrmsr=3000 - count), plan, processor)


def test_a_switch_is_counted_from_one_vm_to_the_next():
    left = [(100, 'a'), (900, 'b'), (5000, 'a'), (6000, 'a')]
    back = [(130, 'b'), (940, 'a'), (5500, 'a')]
    assert list(measure.switches(left, back)) == [30, 40]


def test_a_trace_is_cut_at_the_operation():
    kernel, vmm = 0xffffffff80101000, 0x401000
    once = [0x1000, 0x1002, kernel, vmm, kernel + 4, 0x1004]
    assert paths.split(once + once, 0x1000, 0x1002, 0x1004) == [[0x1002, kernel, vmm, kernel + 4]] * 2
    without_exit = [0x1000, kernel, vmm, kernel + 4, 0x1004]        # Bochs does not show what ends in an exit
    assert paths.split(without_exit, 0x1000, 0x1002, 0x1004) == [[0x1002, kernel, vmm, kernel + 4]]
    assert paths.split([0, kernel, vmm, 0, kernel], 0x1000, 0x1002, 0x1004) == [[0x1002, kernel, vmm], [0x1002, kernel]]


def test_functions_are_added_up():
    places = [paths.Place('kernel', name) for name in 'aabba']
    assert exitpath.by_function(places) == [('kernel', 'a', 3, 2), ('kernel', 'b', 2, 1)]
    assert exitpath.folded(places) == 'kernel;a 2\nkernel;b 2\nkernel;a 1\n'


def test_the_bytes_of_a_source_file_are_those_of_its_instructions(tmp_path):
    """Neither what the linker fills with nor what lies between two sections is anybody's."""
    class Program(object):
        places = {0x1000: paths.Place('kernel', 'a', 'ret', '/x/one.py', 1), 0x1001: paths.Place('kernel', 'a', 'int3', '/x/one.py', 1),
                  0x1002: paths.Place('kernel', 'b', 'mov', '/x/two.py', 1), 0x1005: paths.Place('kernel', 'b', 'ret', '/x/one.py', 2),
                  0x2000: paths.Place('kernel', 'c', 'mov'), 0x2007: paths.Place('kernel', 'c', 'ret')}
    assert exitpath.by_file(Program) == [('no line known', 8), ('/x/two.py', 3), ('/x/one.py', 1)]



def test_the_plot_has_a_bar_for_each_row():
    assert plot.svg(measured(cpuid=100), PLAN).count('fill="%s"' % plot.COLOURS['qemu-svm']) == 2      # and the legend's


def test_the_comparison_reads_an_older_result(tmp_path):
    import table as shown
    older = json.loads(json.dumps(measured(cpuid=100)))
    assert shown.old(older, 'rows', 'qemu-svm', 'cpuid') == 100
    assert shown.old(older, 'rows', 'bochs-svm', 'cpuid') is None
    assert str(shown.cell(90, PLAN.row['cpuid'], 95, 100)) == '90 (-10)'


def test_the_command_fails_with_the_row(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(bench, 'FOLDER', tmp_path)
    monkeypatch.setattr(bench, 'measured', lambda names, quick: measured(cpuid=10 ** 6))
    monkeypatch.setattr(sys, 'argv', ['bench'])
    assert bench.main() == 1
    assert 'OVER BUDGET: cpuid' in capfd.readouterr().err
    assert json.loads((tmp_path / 'bench.json').read_text()) == measured(cpuid=10 ** 6)


# Beside others.

SAID = '[bench] bench: nop minimum 1 median 1 maximum 9 empty 5\n[bench] bench: cpuid minimum 5794 median 5795 maximum 8699 empty 5\n%s'


def test_rows_of_a_peer_count_the_instruction_that_exits_where_there_was_one():
    assert peers.rows_in(SAID % '[bench] bench: 2 rows, tsc 7\n', 'X', PROCESSORS['qemu-svm']) == {'nop': {'minimum': 1, 'median': 1}, 'cpuid': {'minimum': 5795, 'median': 5796}}


@pytest.mark.parametrize('end', ['', '[bench] bench: 3 rows, tsc 7\n', 'peers: no KVM\n'])
def test_a_peer_whose_guest_did_not_end_gives_no_rows(end):
    with pytest.raises(Trouble, match='did not come to its end on X'):
        peers.rows_in(SAID % end, 'X', PROCESSORS['qemu-svm'])


def test_a_row_that_a_peer_does_not_have_says_so():
    both = {'ours': {'nop': measure.single(1), 'cpuid': measure.single(77)}, 'xen': {'nop': measure.single(1)}}
    table = list(peers.lines({'rows': {'qemu-svm': both}, 'versions': {'xen': '4.17'}}))
    assert table[1].endswith('| Bulkhead | Xen 4.17 |\n') and [line for line in table if '| cpuid |' in line] == ['| CPUID | cpuid | 77 | none |\n']
