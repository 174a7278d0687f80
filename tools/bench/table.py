"""The bench's table for people."""
import sys

from rich import box as borders
from rich.console import Console
from rich.table import Table
from rich.text import Text

import budget
from boxes import PROCESSORS

WIDTH = 150                     # where there is no terminal

out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)
MET, WITHIN, OVER, DIM = 'green', 'yellow', 'bold red', 'dim'


def say(text):
    err.print(Text('bench: ' + text))


def show(found, plan, before=None):
    """Rows with a column for each processor, then the figures. before: an earlier `found`, to compare with."""
    out.print(rows_table(found, plan, before))
    if found['figures']:
        out.print(figures_table(found, plan, before))


def rows_table(found, plan, before):
    table = Table(title='instructions per operation, minimum of 1000', box=borders.SIMPLE_HEAD, title_justify='left')
    table.add_column('operation')
    table.add_column('row', style=DIM)
    for name in found['rows']:
        table.add_column(PROCESSORS[name].title, justify='right')
    table.add_column('goal', justify='right')
    table.add_column('')
    for name, row in plan.row.items():
        numbers = {processor: rows[name]['minimum'] for processor, rows in found['rows'].items() if name in rows}
        if numbers:
            cells = [cell(numbers.get(processor), row, plan.limit.get(processor, {}).get(name), old(before, 'rows', processor, name))
                     for processor in found['rows']]
            table.add_row(row['about'], name, *cells, number_text(row.get('goal')), remark(max(numbers.values()), row))
        elif 'pending' in row:
            table.add_row(row['about'], name, *[''] * len(found['rows']), number_text(row.get('goal')), 'not yet: ' + row['pending'], style=DIM)
    return table


def figures_table(found, plan, before):
    table = Table(title='the whole box', box=borders.SIMPLE_HEAD, title_justify='left')
    for title, justify in (('figure', 'left'), ('row', 'left'), ('today', 'right'), ('goal', 'right'), ('', 'left')):
        table.add_column(title, justify=justify)
    for name, number in found['figures'].items():
        row = plan.figure.get(name, {'about': name})
        limit = plan.limit.get(budget.EVERYWHERE, {}).get(name)
        table.add_row(row['about'], Text(name, DIM), cell(number, row, limit, old(before, 'figures', name)), number_text(row.get('goal')), remark(number, row))
    return table


def old(before, kind, *keys):
    """The same number in an earlier result, or None."""
    value = (before or {}).get(kind, {})
    for key in keys:
        value = value.get(key, {})
    value = value.get('minimum') if isinstance(value, dict) else value
    return value


def cell(number, row, limit, earlier):
    if number is None:
        return ''
    goal = row.get('goal')
    style = '' if goal is None else OVER if limit is None or number > limit else MET if number <= goal else WITHIN
    text = Text(number_text(number), style)
    if earlier is not None and earlier != number:
        text.append(' (%+d)' % (number - earlier), 'bold')
    return text


def remark(number, row):
    goal = row.get('goal')
    if goal is None:
        return ''
    return 'met' if number <= goal else '%.1f x its goal' % (number / goal)


def number_text(number):
    return '' if number is None else '{:,}'.format(number)
