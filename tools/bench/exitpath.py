"""`make profile KIND=cpuid`: which instructions one operation of a guest costs, by function, in order, and one by one, with the lines of our source.

    .env/bin/python3 tools/bench/exitpath.py [KIND...] [--on qemu-svm|bochs-vmx|bochs-svm] [--listing]

KIND is a row of the bench (`hlt` and `switch`: on QEMU), or `start`: the way to the guest's first instruction. `text`: how many bytes of code
each source file has become, in ring 0 and in the VMM. What is counted are the hypervisor's instructions and the operation itself: the bench's own number.
"""
import argparse
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

from bulkhead.facts import BUILD, shown  # noqa: E402
from bulkhead.mistake import Trouble  # noqa: E402

import paths  # noqa: E402
from boxes import PROCESSORS  # noqa: E402

LONGEST_INSTRUCTION, FILLING = 15, 'int3'


def by_function(places):
    """[(part, function, instructions, times entered)], the most expensive first."""
    totals = {}
    for (part, function), run in groupby(places, key=lambda place: (place.part, place.function)):
        count, entered = totals.get((part, function), (0, 0))
        totals[part, function] = count + len(list(run)), entered + 1
    return sorted(((part, function, count, entered) for (part, function), (count, entered) in totals.items()),
                  key=lambda row: -row[2])


def steps(places):
    """[(part, function, instructions)] in the order of execution."""
    return [(part, function, len(list(run))) for (part, function), run in groupby(places, key=lambda place: (place.part, place.function))]


def folded(places):
    """The same as text of one line per step, part and function: what flame-graph programs read."""
    return ''.join('%s;%s %d\n' % step for step in steps(places))


def listing(places):
    """Each instruction with its number, function and line of the source."""
    lines, function = [], None
    for number, place in enumerate(places, 1):
        if (place.part, place.function) != function:
            function = place.part, place.function
            lines.append('%s %s' % function)
        where = '%s:%d' % (Path(place.file).name, place.line) if place.file else ''
        lines.append('  %5d  %-60s %s' % (number, place.text, where))
    return '\n'.join(lines)


def report(title, places, with_listing):
    parts = {part: sum(place.part == part for place in places) for part in (paths.GUEST_PART, paths.KERNEL_PART, paths.VMM_PART)}
    lines = ['%s: %d instructions (%s)' % (title, len(places), ', '.join('%s %d' % item for item in parts.items())), '',
             '  by function, and how often it was entered or come back to']
    lines += ['  %5d  %3d x  %-6s %s' % (count, entered, part, function) for part, function, count, entered in by_function(places)]
    lines += ['', '  in order']
    lines += ['  %5d  %-6s %s' % (count, part, function) for part, function, count in steps(places)]
    if with_listing:
        lines += ['', '  one by one', listing(places)]
    return '\n'.join(lines) + '\n'


def start(processor):
    """The report of the whole start, by function."""
    rows = paths.count_start(processor)
    total = sum(count for _, _, count in rows)
    lines = ['from the kernel\'s first instruction to a guest\'s first on %s: %d instructions' % (processor.title, total), '']
    lines += ['  %9d  %-6s %s' % (count, part, function) for part, function, count in rows if count > total // 10000]
    return '\n'.join(lines) + '\n'


def profile(processor, row, with_listing):
    """Writes build/bench/profile-ROW-PROCESSOR.txt (with the listing) and .folded. Returns the report."""
    if row == 'start':
        return start(processor)
    if row == 'text':
        return text_report()
    places = paths.places_of(paths.capture(processor, row))
    folder = BUILD / 'bench'
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ('profile-%s-%s.txt' % (row, processor.name))
    title = '%s on %s' % (row, processor.title)
    file.write_text(report(title, places, True))
    file.with_suffix('.folded').write_text(folded(places))
    return report(title, places, with_listing) + '\n  all instructions: %s\n' % shown(file)


def by_file(program):
    """[(file, bytes of code)] of a paths.Program, the largest first. What a header of boot/hw has become is counted there."""
    addresses = sorted(program.places)
    sizes = Counter()
    for address, following in zip(addresses, addresses[1:] + [addresses[-1] + 1]):
        # What is longer than an instruction lies between sections, and the linker fills with INT3.
        if following - address <= LONGEST_INSTRUCTION and program.places[address].text != FILLING:
            sizes[shown(Path(program.places[address].file)) if program.places[address].file else 'no line known'] += following - address
    return sizes.most_common()


def text_report():
    lines = []
    for part, program in paths.programs().items():
        if part != paths.GUEST_PART:
            files = by_file(program)
            lines += ['%s: %d bytes of code' % (part, sum(size for _, size in files))]
            lines += ['  %6d  %s' % (size, file) for file, size in files] + ['']
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description='Attribute the instructions of one exit to functions.')
    parser.add_argument('kinds', nargs='*', default=['cpuid'], metavar='KIND', help='rows of the bench: %s' % ', '.join(paths.rows_of()))
    parser.add_argument('--on', choices=PROCESSORS, action='append', help='which emulated processor (default: qemu-svm)')
    parser.add_argument('--listing', action='store_true', help='print each instruction as well')
    arguments = parser.parse_args()
    try:
        for kind in arguments.kinds:
            for name in arguments.on or ['qemu-svm']:
                print(profile(PROCESSORS[name], kind, arguments.listing))
    except Trouble as trouble:
        sys.exit('profile: %s' % trouble)


if __name__ == '__main__':
    main()
