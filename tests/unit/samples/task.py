"""The smallest task program: allocates while it starts, then counts to a limit without allocating."""
from rpython.rlib.entrypoint import export_symbol
from rpython.rtyper.lltypesystem import lltype


class Counter(object):
    def __init__(self, limit):
        self.limit = limit
        self.value = 0

    def step(self):
        if self.value >= self.limit:
            return False
        self.value += 1
        return True


class World(object):
    counter = None


world = World()


def t_boot(limit):
    world.counter = Counter(limit)
    return 0


def t_run():
    counter = world.counter
    assert counter is not None
    while counter.step():
        pass
    return counter.value


t_boot.c_name = 't_boot'
t_run.c_name = 't_run'
export_symbol(t_boot)
export_symbol(t_run)

ENTRY_POINTS = [(t_boot, [lltype.Signed]), (t_run, [])]
EXIT_PATH = [t_run]
