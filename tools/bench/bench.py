"""`make bench`: what operations cost a guest on the three emulated processors, in instructions, against tests/bench/budget.toml.

    .env/bin/python3 tools/bench/bench.py [--on PROCESSOR]... [--quick] [--compare FILE] [--set-limits]

Writes build/bench/bench.json and build/bench/bench.svg. Exit status: 0 all within their limits; 1 not, and which; 69 a box did not end well.
"""
import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

from bulkhead.facts import BUILD, shown  # noqa: E402
from bulkhead.mistake import Trouble  # noqa: E402

import budget  # noqa: E402
import document  # noqa: E402
import figures  # noqa: E402
import measure  # noqa: E402
import plot  # noqa: E402
import table  # noqa: E402
from boxes import PROCESSORS  # noqa: E402

FOLDER = BUILD / 'bench'
NO_START = 69
AT_ONCE = 2             # emulators; what they count does not depend on who runs beside them


def measured(names, quick):
    """{'rows': {processor: {row: {'minimum', 'median'}}}, 'figures': {name: number}}"""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        whole_box = None if quick else pool.submit(figures.all_of_them)
        rows = dict(zip(names, pool.map(rows_quick if quick else rows_all, [PROCESSORS[name] for name in names])))
        return {'rows': rows, 'figures': {} if quick else whole_box.result()}


def rows_quick(processor):
    table.say('%s ...' % processor.title)
    return measure.operations(processor)


def rows_all(processor):
    rows = rows_quick(processor)
    rows['switch'] = measure.switch(processor)
    rows['ipi'] = measure.ipi(processor, 1)
    if processor.counts_cores:
        rows['ipi_other_core'] = measure.ipi(processor, 2)
    rows['start'] = measure.single(figures.start(processor))
    return rows


def main():
    parser = argparse.ArgumentParser(description='Measure what operations cost a guest, in instructions.')
    parser.add_argument('--on', choices=PROCESSORS, action='append', help='only this emulated processor; may be repeated')
    parser.add_argument('--quick', action='store_true', help='only the rows that one run of the bench guest measures')
    parser.add_argument('--compare', type=Path, metavar='FILE', help='show what has changed since this bench.json')
    parser.add_argument('--set-limits', action='store_true', help='write today\'s numbers as limits into %s and into %s' % (shown(budget.FILE), shown(document.FILE)))
    arguments = parser.parse_args()
    try:
        return report(measured(arguments.on or list(PROCESSORS), arguments.quick), arguments)
    except Trouble as trouble:
        table.say(str(trouble))
        return NO_START


def report(found, arguments):
    before = json.loads(arguments.compare.read_text()) if arguments.compare else None
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / 'bench.json').write_text(json.dumps(found, indent=1, sort_keys=True) + '\n')
    if arguments.set_limits:
        budget.set_limits(found)
    plan = budget.load()
    if arguments.set_limits:
        document.write(found, plan)
    (FOLDER / 'bench.svg').write_text(plot.svg(found, plan))
    table.show(found, plan, before)
    faults = budget.faults(found, plan)
    for fault in faults:
        table.say(fault)
    table.say('written: %s, %s' % (shown(FOLDER / 'bench.json'), shown(FOLDER / 'bench.svg')))
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
