"""Small exit paths, lawful and unlawful: one function each, for the proofs of tools/build/proofs.py.

A test names the line it expects by the comment at its end.
"""
from rpython.rlib.objectmodel import specialize
from rpython.rlib.rarithmetic import ovfcheck
from rpython.rtyper.lltypesystem import lltype, rffi


class Refused(Exception):
    pass


class RefusedTwice(Refused):
    pass


class Box(object):
    def __init__(self, value):
        self.value = value


class World(object):
    def __init__(self):
        self.items = [1, 2, 3]
        self.names = {1: 2}
        self.box = None
        self.devices = [Quiet(), Greedy(), Rude(), Quiet()]
        self.handlers = [make_handler(k)() for k in range(1, 8)] + [Unlawful()]


class Device(object):
    def read(self, n):
        raise NotImplementedError

    def write(self, n):
        return n

    def poke(self, n):
        return n


class Quiet(Device):
    def read(self, n):
        return n


class Greedy(Device):
    def read(self, n):
        world.box = Box(n)          # LINE family allocates
        return n


class Rude(Device):
    def write(self, n):
        if n > 5:
            raise REFUSED           # LINE family raises
        return n

    def poke(self, n):
        return world.devices[n & 1].poke(n - 1)     # LINE family recurses


# A family too large for a switch: its calls go through a table (operation indirect_call).

class Handler(object):
    def serve(self, n):
        return n

    def check(self, n):
        return n

    def again(self, n):
        return n


def make_handler(k):
    class Plain(Handler):
        def serve(self, n):
            return n + k

        def check(self, n):
            return n ^ k

        def again(self, n):
            return n - k
    return Plain


class Unlawful(Handler):
    def serve(self, n):
        world.box = Box(n)          # LINE table allocates
        return n

    def check(self, n):
        if n > 5:
            raise REFUSED           # LINE table raises
        return n

    def again(self, n):
        return world.handlers[n & 7].again(n - 1)   # LINE table recurses


REFUSED = Refused()
REFUSED_TWICE = RefusedTwice()
world = World()


# -- lawful

def counts(n):
    total = 0
    while n > 0:
        total += n
        n -= 1
    return total


def asserts(n):
    assert n > 0
    return n


def indexes_and_handles(n):
    try:
        return world.items[n]
    except IndexError:
        return -1


def raises_and_handles(n):
    try:
        return raising_helper(n)
    except Refused:
        return -1


def overflows_and_handles(n):
    try:
        return ovfcheck(n + 1)
    except OverflowError:
        return -1


# -- unlawful: allocation

def appends(n):
    world.items.append(n)           # LINE appends
    return n


def makes_object(n):
    world.box = Box(n)              # LINE makes_object
    return n


def formats(n):
    return len("%d" % n)            # LINE formats


def calls_family(n):
    return world.devices[n].read(n)     # LINE calls_family


def calls_through_table(n):
    return world.handlers[n & 7].serve(n)


def hides_in_helper(n):
    return through(n)               # LINE hides_in_helper


def through(n):
    return allocating_helper(n)


def allocating_helper(n):
    world.box = Box(n)              # LINE allocating_helper
    return n + 1


through._dont_inline_ = allocating_helper._dont_inline_ = True


def mallocs_raw(n):
    block = lltype.malloc(rffi.CArray(lltype.Signed), n, flavor='raw')     # LINE mallocs_raw
    return rffi.cast(lltype.Signed, block)


# -- unlawful: exceptions

def raising_helper(n):
    if n > 3:
        raise REFUSED               # LINE raising_helper
    return n


raising_helper._dont_inline_ = True


def raises(n):
    return raising_helper(n)        # LINE raises


def handles_only_the_subclass(n):
    try:
        return raising_helper(n)
    except RefusedTwice:
        return -1


def raises_again(n):
    try:
        return raising_helper(n)
    except Refused:
        world.items[0] = n
        raise


def raises_from_family(n):
    return world.devices[n].write(n)


def raises_through_table(n):
    return world.handlers[n & 7].check(n)


def looks_up(n):
    return world.names[n]


def overflows(n):
    return ovfcheck(n * 3)          # LINE overflows


# -- unlawful: recursion, floats

def recurses(n):
    if n == 0:
        return 0
    return 1 + recurses(n - 1)      # LINE recurses


def recurses_in_family(n):
    return world.devices[n].poke(n)


def recurses_through_table(n):
    return world.handlers[n & 7].again(n)


def computes_half(n):
    return int(n * 0.5)             # LINE computes_half


KEPT = [3, 1, 2]


def reads_list(n):
    n += 1
    return KEPT[n]                  # LINE reads_list
