"""NMIs as other cores' doorbells. The double is `fake`, which tests ring by `fake.arrive()`.

An NMI in ring 0 or ring 3 becomes an interrupt, VECTOR_DOORBELL, of this core's own. While they are held, which is while the local APIC is
lent to a guest, they are only noted, and no guest is entered any more until they are released.
"""
from rpython.rlib.rarithmetic import r_uint
from rpython.rtyper.lltypesystem import lltype, rffi
from rpython.translator.tool.cbuild import ExternalCompilationInfo

_ECI = ExternalCompilationInfo(includes=['hw/nmi.h'])


class FakeNmi(object):
    def __init__(self):
        self.reset()

    def reset(self):
        self.listening = False
        self.held = False
        self.noted = False
        self.count = 0
        self.blocked = False        # by an exit, until `unblock`
        self.interrupt = None       # called where an NMI becomes an interrupt

    def arrive(self):
        """An NMI comes while the kernel or a task runs."""
        assert self.listening and not self.blocked
        self.count += 1
        if self.held:
            self.noted = True
        else:
            self.interrupt()


fake = FakeNmi()


def _fake_listen():
    fake.listening = True


def _fake_hold():
    assert not fake.held
    fake.held, fake.noted = True, False


def _fake_release():
    assert fake.held
    noted = fake.noted
    fake.held = fake.noted = False
    return r_uint(noted)


def _fake_unblock():
    fake.blocked = False


def _external(name, result, double):
    return rffi.llexternal('bh_nmi_' + name, [], result, compilation_info=_ECI, _nowrapper=True, _callable=double)


# listen(): from now on, for good, NMIs are doorbells.  hold(), release(): whether one has come meanwhile.  unblock(): after an exit for one.
# count(): how many have come, but for those that were exits.
count = _external('count', lltype.Unsigned, lambda: r_uint(fake.count))
listen = _external('listen', lltype.Void, _fake_listen)
hold = _external('hold', lltype.Void, _fake_hold)
release = _external('release', lltype.Unsigned, _fake_release)
unblock = _external('unblock', lltype.Void, _fake_unblock)
