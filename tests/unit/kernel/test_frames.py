"""The owner table, a run of frames at a time, against a list."""
from hypothesis import given, settings, strategies as st
from rpython.rlib.rarithmetic import r_uint

from hypervisor.hw import memory
from hypervisor.kernel.frames import NOBODY, Frames

TABLE = 0x7000
FRAMES = 37
OWNERS = [2, 3, 255]
AROUND = b'\x02\x02' * 32               # what lies around the table could be frames' entries, and is not
runs = st.tuples(st.integers(0, FRAMES + 5), st.integers(0, 30))
steps = st.lists(st.one_of(st.tuples(st.just('own'), runs, st.sampled_from(OWNERS)), st.tuples(st.just('use'), runs, st.sampled_from(OWNERS)),
                           st.tuples(st.just('fill'), runs, st.sampled_from(OWNERS)), st.tuples(st.just('unuse'), runs, st.just(0))), max_size=12)


@settings(max_examples=200)
@given(steps)
def test_runs_of_frames_are_owned_and_used_as_each_of_them(steps):
    memory.reset_fake()
    memory.fake.map(TABLE - 0x1000, 0x3000)
    for place in (TABLE - 64, TABLE + 2 * FRAMES):
        memory.fake.write(place, AROUND)
    frames = Frames()
    frames.open(r_uint(TABLE), r_uint(FRAMES))
    model = [(NOBODY, 0)] * FRAMES
    for what, (first, count), owner in steps:
        inside = range(first, min(first + count, FRAMES))
        if what == 'own':
            frames.set_owners(r_uint(first), r_uint(first + count), owner)
            for n in inside:
                model[n] = (owner, 0)
        elif what == 'unuse':
            frames.unuse_all(r_uint(first), r_uint(count))
            for n in inside:
                model[n] = (model[n][0], max(0, model[n][1] - 1))
        for _ in range({'use': 1, 'fill': 256}.get(what, 0)):
            done = 0
            for n in inside:
                if model[n][0] != owner or model[n][1] == 255:
                    break
                model[n] = (owner, model[n][1] + 1)
                done += 1
            assert frames.use_all(r_uint(first), r_uint(count), owner) == done
        assert [(frames.owner(r_uint(n)), frames.uses(r_uint(n))) for n in range(FRAMES + 9)] == model + [(NOBODY, 0)] * 9
        assert [memory.fake.read(place, 64) for place in (TABLE - 64, TABLE + 2 * FRAMES)] == [AROUND, AROUND]
