"""An auditor's own page-table walker: from the processors' manuals, sharing no code with the kernel.

Walks four-level tables in a dump of physical memory and says which frames are reachable, by whom and how.
Sources: AMD64 APM Vol. 2, "Page Translation and Protection"; Intel SDM Vol. 3C, "EPT Translation Mechanism".
"""
from dataclasses import dataclass

ADDRESS = 0x000ffffffffff000
KERNEL, TASK, NESTED = 1, 2, 3          # kinds of root, as hypervisor/spec/audit.py numbers them


@dataclass(frozen=True)
class Root:
    kind: int
    compartment: int
    address: int


@dataclass(frozen=True)
class Mapping:
    """A leaf: `frames` 4-KiB frames from `frame` on. supervisor: ring 0 may use it, ring 3 may not."""
    virtual: int
    frame: int
    frames: int
    writable: bool
    executable: bool
    supervisor: bool


def present(entry, ept):
    return entry & 7 if ept else entry & 1


def leaves(memory, root, ept):
    """All mappings below `root`. memory.word(address) -> 64 bits. Also yields the table frames as Table."""
    yield from _walk(memory, root & ADDRESS, 3, 0, (True, True, not ept), ept)


def _walk(memory, table, level, virtual, above, ept):
    for index in range(512):
        entry = memory.word(table + 8 * index)
        if not present(entry, ept):
            continue
        if ept:
            writable, executable, user = bool(entry & 2), bool(entry & 4), False
        else:
            writable, executable, user = bool(entry & 2), not entry >> 63, bool(entry & 4)
        rights = (above[0] and writable, above[1] and executable, above[2] and user)
        address = virtual | index << (12 + 9 * level)
        if level == 0 or entry & 0x80:
            size = 1 << (9 * level)
            frame = (entry & ADDRESS) >> 12 & ~(size - 1)
            yield Mapping(canonical(address), frame, size, rights[0], rights[1], not ept and not rights[2])
        else:
            yield from _walk(memory, entry & ADDRESS, level - 1, address, rights, ept)


def audit_cores(memory, cores, ept, text_frames, device_frame, link_frames):
    """Every way in which the roots of several cores break the promise that these share nothing, as sentences.

    cores: {number: its roots}. text_frames: of the image, for all to read. link_frames: the pages through which cores talk.
    """
    faults, kernel, held = [], {}, {}
    for number, roots in cores.items():
        kernel[number], held[number] = {}, set()
        for root in roots:
            for mapping in leaves(memory, root.address, ept and root.kind == NESTED):
                for frame in range(mapping.frame, mapping.frame + mapping.frames):
                    if root.kind == KERNEL:
                        kernel[number].setdefault(frame, []).append(mapping)
                    else:
                        held[number].add(frame)
    for one in cores:
        for other in cores:
            if one == other:
                continue
            for frame in set(kernel[one]) & set(kernel[other]):
                both = kernel[one][frame] + kernel[other][frame]
                if frame in text_frames:
                    if any(mapping.writable for mapping in both):
                        faults.append('frame %#x of the image is shared by cores %d and %d and can be written' % (frame, one, other))
                elif frame in link_frames:
                    if sum(mapping.writable for mapping in both) > 1:
                        faults.append('link page %#x has two writers, cores %d and %d' % (frame, one, other))
                elif frame != device_frame:
                    faults.append('frame %#x is in the kernel roots of cores %d and %d' % (frame, one, other))
            for frame in held[one] & (held[other] | set(kernel[other])) - text_frames:
                faults.append('frame %#x of a compartment of core %d is reachable on core %d' % (frame, one, other))
    return faults, kernel


def canonical(address):
    return address | 0xffff << 48 if address >> 47 else address


def tables(memory, root, ept):
    """The frames that hold the tables themselves."""
    found, todo = set(), [(root & ADDRESS, 3)]
    while todo:
        table, level = todo.pop()
        found.add(table >> 12)
        if level == 0:
            continue
        for index in range(512):
            entry = memory.word(table + 8 * index)
            if present(entry, ept) and not entry & 0x80:
                todo.append((entry & ADDRESS, level - 1))
    return found


def audit(memory, roots, ept, entry_frames):
    """Every way in which the roots break a promise, as sentences. An empty list is a clean box.

    entry_frames: the frames of the kernel that every task's root maps for entering the kernel.
    """
    faults = []
    reach = {root: list(leaves(memory, root.address, ept and root.kind == NESTED)) for root in roots}
    held = {}                           # frame -> {compartment: rights}, for what a compartment's own roots reach
    kernel = {}                         # frame -> mapping, for what ring 0 reaches
    for root, mappings in reach.items():
        for mapping in mappings:
            for frame in range(mapping.frame, mapping.frame + mapping.frames):
                if root.kind == KERNEL:
                    kernel[frame] = mapping
                elif mapping.supervisor and root.kind == TASK:
                    if frame not in entry_frames:
                        faults.append('task root of %d maps frame %#x for ring 0 beside the entry pages' % (root.compartment, frame))
                else:
                    held.setdefault(frame, {}).setdefault(root.compartment, set()).add(root.kind)
            if mapping.writable and mapping.executable and root.kind != NESTED:
                faults.append('%s maps %#x writable and executable' % (root, mapping.virtual))
    for frame, owners in held.items():
        if len(owners) > 1:
            faults.append('frame %#x is reachable by compartments %s' % (frame, sorted(owners)))
        if frame in kernel:
            kinds = set.union(*owners.values())
            if NESTED in kinds:
                faults.append('frame %#x of a guest of %s is mapped in ring 0' % (frame, sorted(owners)))
    shared = {frame: next(iter(owners)) for frame, owners in held.items() if frame in kernel}
    table_frames = set()
    for root in roots:
        table_frames |= tables(memory, root.address, ept and root.kind == NESTED)
    for frame in table_frames & set(held):
        faults.append('frame %#x holds a page table and is reachable by %s' % (frame, sorted(held[frame])))
    return faults, shared, held, kernel
