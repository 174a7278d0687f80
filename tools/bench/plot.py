"""The bench as a picture: bars on a logarithmic scale, with a line at each goal. A few lines of SVG, no library."""
import math
from html import escape

from boxes import PROCESSORS

COLOURS = {'qemu-svm': '#4477aa', 'bochs-vmx': '#228833', 'bochs-svm': '#ccbb44'}
GOAL = '#cc3311'
LABELS, SCALE, BAR, SPACE, TOP = 300, 480, 7, 8, 40       # pixels
DECADES = 4                                             # 1 to 10,000 instructions


def svg(found, plan):
    """Rows that need more than ten decades' worth of place (the start) are left out."""
    names = [name for name in plan.row if any(name in rows and rows[name]['minimum'] < 10 ** DECADES for rows in found['rows'].values())]
    height = BAR * len(found['rows']) + SPACE
    parts = legend(found) + [text(LABELS + at(10 ** n), TOP - 6, '{:,}'.format(10 ** n), 'middle') for n in range(DECADES + 1)]
    for number, name in enumerate(names):
        top = TOP + number * height
        parts += row(plan.row[name], {processor: rows.get(name) for processor, rows in found['rows'].items()}, top)
    size = 'width="%d" height="%d"' % (LABELS + SCALE + 60, TOP + height * len(names) + 10)
    return '<svg xmlns="http://www.w3.org/2000/svg" %s font-family="sans-serif" font-size="11">\n' \
           '<rect width="100%%" height="100%%" fill="white"/>\n%s\n</svg>\n' % (size, '\n'.join(parts))


def legend(found):
    parts, left = [], LABELS
    for name in found['rows']:
        parts += [bar(left, 6, 10, COLOURS[name]), text(left + 14, 14, PROCESSORS[name].title)]
        left += 150
    return parts + [bar(left, 6, 3, GOAL), text(left + 8, 14, 'goal')]


def row(planned, numbers, top):
    parts = [text(LABELS - 8, top + BAR * len(numbers) / 2 + 4, planned['about'], 'end')]
    for index, (processor, found) in enumerate(numbers.items()):
        if found:
            parts.append(bar(LABELS, top + index * BAR, max(2, at(found['minimum'])), COLOURS[processor]))
            parts.append(text(LABELS + at(found['minimum']) + 4, top + index * BAR + BAR, str(found['minimum']), size=8))
    if planned.get('goal', 0) > 0:
        parts.append('<rect x="%.1f" y="%d" width="2" height="%d" fill="%s"/>' % (LABELS + at(planned['goal']), top - 2, BAR * len(numbers) + 4, GOAL))
    return parts


def at(number):
    return SCALE * math.log10(max(1, number)) / DECADES


def bar(left, top, width, colour):
    return '<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>' % (left, top, width, BAR - 1, colour)


def text(left, base, words, anchor='start', size=11):
    return '<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d">%s</text>' % (left, base, anchor, size, escape(words))
