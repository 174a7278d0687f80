"""RPython functions around the kernel's, for test_kernel_native.py: plain numbers in, plain numbers out."""
from rpython.rlib.rarithmetic import intmask, r_uint

from hypervisor.hw import memory
from hypervisor.kernel import answer, mapping, paging, state
from hypervisor.kernel.arena import arena
from hypervisor.kernel.frames import frames
from hypervisor.kernel.inventory import up
from hypervisor.kernel.multiboot import loader
from hypervisor.kernel.ring import Ring

R0 = r_uint(0)
PAGES = 64
FRAMES = 4096


def control_rule(cr0, cr3, cr4, efer):
    return state.control_rule(cr0, cr3, cr4, efer)


def canonical(address):
    return state.canonical(address)


def merged(register, value, size):
    return answer.merged(register, value, size)


def space_status(address, count, rights):
    return mapping.space_status(address, count, rights)


def rights_status(rights):
    return mapping.rights_status(rights)


def rounded(value, step):
    return up(value, step)


class Lab(object):
    """Prebuilt, as the kernel's own objects are."""

    def __init__(self):
        self.space = paging.Space()
        self.owner = arena
        self.ring = Ring()


lab = Lab()


def page_tables(base, seed, steps):
    """Maps and unmaps by a little generator of pseudo-random numbers in memory at `base`; a checksum over all answers and over the tables,
    with addresses taken relative to base."""
    arena.set_pages(base, r_uint(PAGES * 4096))
    arena.delta = R0
    lab.space.open(lab.owner, paging.TASK_TABLE)
    checksum = R0
    n = 0
    while n < steps:
        seed = seed * r_uint(6364136223846793005) + r_uint(1442695040888963407)
        at = ((seed >> 33) & 3) << 39 | ((seed >> 36) & 1) << 30 | ((seed >> 40) & 3) << 21 | ((seed >> 44) & 7) << 12
        what = intmask(seed >> 60)
        if what < 8:
            result = r_uint(lab.space.map(lab.owner, at, (seed >> 20) << 12 & paging.ADDRESS_MASK, paging.task_leaf(what & 7, False), 0))
        elif what < 10:
            at = at & ~paging.NOT_LARGE_ALIGNED
            result = r_uint(lab.space.map(lab.owner, at, (seed >> 20) << 21 & paging.ADDRESS_MASK, paging.task_leaf(what & 7, True), 1))
        elif lab.space.large_at(at):
            result = lab.space.unmap_large(at)
        elif lab.space.table_at(at):
            result = lab.space.unmap(at)
        else:
            result = r_uint(77)
        checksum = (checksum << 5 | checksum >> 59) ^ result
        n += 1
    return checksum ^ sum_of(base, r_uint(PAGES * 4096))


def sum_of(base, size):
    """Over the words at base; what points into them counts by its distance."""
    total = R0
    offset = R0
    while offset < size:
        word = memory.load64(base + offset)
        address = word & paging.ADDRESS_MASK
        if base <= address and address < base + size:
            word = word - base
        total = (total << 7 | total >> 57) ^ word
        offset += 8
    return total


def owners(base, seed, steps):
    """The owner table by the same means: frames inside and beyond it."""
    memory.clear(base, r_uint(FRAMES * 2))
    frames.open(base, r_uint(FRAMES))
    checksum = R0
    n = 0
    while n < steps:
        seed = seed * r_uint(6364136223846793005) + r_uint(1442695040888963407)
        frame = (seed >> 30) % r_uint(FRAMES + 8)
        what = intmask(seed >> 62)
        result = frames.owner(frame) * 256 + frames.uses(frame)
        count = (seed >> 40) & 15
        if what == 0:
            frames.set_owners(frame, frame + count, intmask(seed >> 50) & 1)
        elif what == 1:
            k = 0
            while k < 300:
                result += intmask(frames.use_all(frame, count, 1))
                k += 1
        elif what == 2:
            result += intmask(frames.use_all(frame, count, intmask(seed >> 50) & 1))
        else:
            frames.unuse_all(frame, count)
        checksum = (checksum << 5 | checksum >> 59) ^ r_uint(result)
        n += 1
    return checksum ^ sum_of(base, r_uint(FRAMES * 2))


def ring(base, seed, steps):
    """Bytes go round and come out in order: base is a page for the ring, two for what goes in and comes out."""
    one = lab.ring
    one.open(None, 0, None, 0)
    one.buffer = base
    n = R0
    while n < r_uint(4096):
        memory.store8(base + 4096 + n, (n * 7 + 3) & 0xff)
        n += 1
    checksum = R0
    k = 0
    while k < steps:
        seed = seed * r_uint(6364136223846793005) + r_uint(1442695040888963407)
        count = (seed >> 40) % r_uint(2049)
        if seed >> 63 != R0:
            result = one.put(base + 4096 + count % 1000, count)
        else:
            result = one.get(base + 8192, count)
            checksum ^= sum_of(base + 8192, r_uint(2048))
        checksum = (checksum << 5 | checksum >> 59) ^ result
        k += 1
    return checksum


def loaded(magic, information, which):
    """What the loader reads: `which` walks through all results."""
    loader.range_count = 0
    loader.other_count = 0
    loader.module_count = 0
    loader.refusal = 0
    code = loader.read(magic, information)
    if which == 0:
        return r_uint(code)
    if which == 1:
        return r_uint(loader.range_count * 100 + loader.module_count)
    total = R0
    n = 0
    while n < loader.range_count:
        total = total * r_uint(31) + loader.range_start[n]
        total = total * r_uint(31) + loader.range_end[n]
        n += 1
    n = 0
    while n < loader.module_count:
        total = total * r_uint(31) + loader.module_start[n]
        total = total * r_uint(31) + loader.module_end[n]
        n += 1
    return total
