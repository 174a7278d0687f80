"""The table of docs/performance.md, as the bench has found it."""
from bulkhead.facts import ROOT
from bulkhead.mistake import Trouble

from boxes import PROCESSORS
from table import number_text

FILE = ROOT / 'docs' / 'performance.md'
BEGIN, END = '<!-- numbers: written by tools/bench/bench.py --set-limits -->\n', '<!-- end -->'


def write(found, plan, file=FILE):
    """Replace the page's table. Only a whole result is written: raises Trouble for parts."""
    if list(found['rows']) != list(PROCESSORS) or not found['figures']:
        raise Trouble('the page needs all processors and figures: leave --on and --quick away')
    text = file.read_text('utf-8')
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise Trouble('%s has lost the marks around its numbers' % file.name)
    file.write_text(head + begin + numbers(found, plan) + end + tail)


def numbers(found, plan):
    rows = [line('operation', 'row', *(PROCESSORS[name].title for name in found['rows']), 'goal'), '|---' * (3 + len(found['rows'])) + '|\n']
    for name, row in plan.row.items():
        if 'pending' not in row:
            cells = [number_text(found['rows'][processor].get(name, {}).get('minimum')) for processor in found['rows']]
            rows.append(line(row['about'], name, *cells, number_text(row.get('goal'))))
    later = ['%s (%s)' % (row['about'], row['pending']) for row in plan.row.values() if 'pending' in row]
    figures = [line('the whole box', 'row', 'today', 'goal'), '|---' * 4 + '|\n']
    figures += [line(row['about'], name, number_text(found['figures'][name]), number_text(row.get('goal'))) for name, row in plan.figure.items()]
    return ''.join(rows) + '\nNot yet: ' + '; '.join(later) + '.\n\n' + ''.join(figures)


def line(*cells):
    return '| ' + ' | '.join(cells) + ' |\n'
