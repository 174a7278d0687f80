"""tests/bench/budget.toml: goals and limits, and what breaks them."""
import tomllib
from dataclasses import dataclass

from bulkhead.facts import ROOT
from bulkhead.mistake import Trouble

FILE = ROOT / 'tests' / 'bench' / 'budget.toml'
ENFORCED = '# Enforced.\n'              # from here on the file is written by set_limits()
SLACK = 1.05                            # other code in the same program moves the compiler's choices by 2 or 3 %
EVERYWHERE = 'box'                      # where the limits of figures stand


@dataclass
class Budget:
    """row, figure: {name: table}; limit: {processor or EVERYWHERE: {name: number}}"""
    row: dict
    figure: dict
    limit: dict

    def exit_of(self, name):
        return self.row.get(name, {}).get('exit')

    def exits_of(self, name, processor):
        """{kind: count} of one sample on that processor, by its name."""
        row = self.row.get(name, {})
        if processor in row.get('exits_on', {}):
            return row['exits_on'][processor]
        return row.get('exits') or ({row['exit']: 1} if 'exit' in row else {})

    def pending(self):
        return {name: row['pending'] for name, row in self.row.items() if 'pending' in row}


def load(file=None):
    read = tomllib.loads((file or FILE).read_text('utf-8'))
    plan = Budget(read.get('row', {}), read.get('figure', {}), read.get('limit', {}))
    unknown = [name for limits in plan.limit.values() for name in limits if name not in plan.row and name not in plan.figure]
    if unknown:
        raise Trouble('%s has a limit for %s, which is no row and no figure' % (FILE.name, unknown[0]))
    return plan


def faults(found, plan):
    """Sentences: rows over their limit, rows that nobody has planned."""
    sentences = []
    for processor, rows in found['rows'].items():
        for name, numbers in rows.items():
            sentences += fault(name, numbers['minimum'], plan.row.get(name), plan.limit.get(processor, {}), ' on ' + processor)
    for name, number in found['figures'].items():
        sentences += fault(name, number, plan.figure.get(name), plan.limit.get(EVERYWHERE, {}), '')
    return sentences


def fault(name, number, planned, limits, where):
    if planned is None:
        return ['%s%s is %d and has no place in the budget' % (name, where, number)]
    if 'pending' in planned:
        return ['%s%s is %d, but the budget says that it cannot be measured: %s' % (name, where, number, planned['pending'])]
    if name not in limits and 'goal' in planned:
        return ['%s%s is %d and has no limit' % (name, where, number)]
    if number > limits.get(name, number):
        return ['OVER BUDGET: %s%s is %d, its limit is %d' % (name, where, number, limits[name])]
    return []


def set_limits(found, file=None):
    """Write what was found, and a little more, as the limits. Limits of what was not measured now stay."""
    file = file or FILE
    limits = load(file).limit
    for processor, rows in found['rows'].items():
        limits.setdefault(processor, {}).update((name, slack(numbers['minimum'])) for name, numbers in rows.items())
    if found['figures']:
        figures = load(file).figure
        limits[EVERYWHERE] = {name: slack(number) for name, number in found['figures'].items() if 'goal' in figures[name]}
    head = file.read_text('utf-8').partition(ENFORCED)[0]
    tables = ['[limit.%s]\n%s' % (where, ''.join('%s = %d\n' % item for item in numbers.items())) for where, numbers in limits.items()]
    file.write_text(head + ENFORCED + '\n' + '\n'.join(tables))


def slack(number):
    return int(number * SLACK)
