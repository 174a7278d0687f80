"""Messages over a stream that takes and gives what it likes."""
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hypervisor.manager import post as module
from hypervisor.manager.post import NOTHING, Post
from hypervisor.spec import call, link, status, vcpu
from rpython.rlib.rarithmetic import r_uint
from tests.unit.fake_kernel import FakeKernel, quick

MOST = link.MOST_BYTES
KIND = st.integers(1, link.KINDS - 1)
MESSAGES = st.lists(st.tuples(KIND, st.integers(0, 255), st.one_of(st.binary(max_size=40), st.sampled_from([b'', b'x' * MOST, b'yz' * 700]))),
                    max_size=8)


class Wire(FakeKernel):
    """The link to core 1 as a queue; the script says how many bytes each call moves, of those in one direction."""

    def __init__(self, moves):
        FakeKernel.__init__(self, ['m'])
        self.data, self.moves, self.count = bytearray(), moves, {'send': 0, 'receive': 0}
        self.boot_manager()

    def most(self, direction):
        self.count[direction] += 1
        return self.moves[self.count[direction] % len(self.moves)] if self.moves else MOST

    def do_ring_send(self, slot, count):
        assert slot == call.SLOT_LINK + 1 and 0 < count <= vcpu.RING_BYTES
        taken = min(count, self.most('send'))
        self.data += self.memory.read(0x70001000, taken)
        return status.OK, taken

    def do_ring_receive(self, slot):
        assert slot == call.SLOT_LINK + 1
        out = bytes(self.data[:min(self.most('receive'), vcpu.RING_BYTES)])
        del self.data[:len(out)]
        self.page_write(out)
        return status.OK, len(out)


@pytest.fixture(autouse=True)
def quickly():
    with quick():
        yield


def send(post, kind, vm, data):
    post.begin(kind, vm, len(data))
    for byte in bytearray(data):
        post.put(byte)


def read(post):
    return post.kind, post.vm, bytes(bytearray(post.byte(n) for n in range(post.length)))


@settings(max_examples=30)
@example(messages=[(1, 0, '')], moves=[0, 1])
@given(messages=MESSAGES, moves=st.lists(st.integers(0, MOST), max_size=6).filter(lambda moves: not moves or any(moves)))
def test_what_goes_in_comes_out_whatever_the_link_takes_at_a_time(messages, moves):
    wire = Wire(moves)
    sender, receiver, out = Post(1), Post(1), []
    left = list(messages)
    for _ in range(100000):
        if left and sender.has_room(len(left[0][2])):
            send(sender, *left.pop(0))
        sender.pump()
        if receiver.next() != NOTHING:
            out.append(read(receiver))
        if len(out) == len(messages):
            break
    assert out == messages and not receiver.broken and not sender.out_count


@settings(max_examples=40)
@given(messages=MESSAGES, junk=st.lists(st.tuples(st.integers(0, 9000), st.binary(min_size=1, max_size=6)), max_size=3),
       cut=st.integers(0, 9000), moves=st.lists(st.integers(1, MOST), max_size=3))
def test_a_damaged_stream_ends_broken_or_in_messages_that_could_be(messages, junk, cut, moves):
    wire = Wire(moves)
    stream = bytearray(b''.join(struct.pack('<BBH', kind, vm, len(data)) + data for kind, vm, data in messages))
    for at, data in junk:
        stream[at:at + len(data)] = data
    wire.data = stream[:cut]
    post = Post(1)
    for _ in range(20000):
        kind = post.next()
        if kind == NOTHING:
            if post.broken or not wire.data:
                break
            continue
        assert 0 < kind < link.KINDS and 0 <= post.vm <= 255 and 0 <= post.length <= MOST
        assert 0 <= post.into_count <= len(post.into)
        post.word(0)
        assert post.byte(post.length) == 0 and post.word(MOST + 5000) == 0
    else:
        assert False, 'it does not end'
    if post.broken:
        left = len(wire.data)
        assert post.next() == NOTHING and len(wire.data) == left, 'nothing more is read'


@pytest.mark.parametrize('header, broken', [
    ((0, 0, 0), True), ((link.KINDS, 0, 0), True), ((255, 0, 0), True), ((1, 0, MOST + 1), True), ((1, 0, 0xffff), True), ((1, 0, MOST), False),
    ((6, 255, 0), False)])
def test_header_that_cannot_be_breaks_the_stream(header, broken):
    wire = Wire([])
    wire.data = bytearray(struct.pack('<BBH', *header))
    post = Post(1)
    post.next()
    assert post.broken == broken
    post.start()
    assert not post.broken and post.next() == NOTHING


@pytest.mark.parametrize('answer', [(status.BAD_SLOT, 5), (status.OK, MOST + 1), (status.OK, 1 << 63), (status.OK, (1 << 64) - 1)])
def test_answers_of_the_kernel_that_cannot_be_are_not_followed(answer):
    wire = Wire([])
    wire.do_ring_send = lambda slot, count: answer
    wire.do_ring_receive = lambda slot: answer
    post = Post(1)
    send(post, 1, 0, b'abc')
    post.pump()
    assert post.out_count == 7
    assert post.next() == NOTHING and post.into_count == 0


def test_what_there_is_no_room_for_is_known_before():
    Wire([])
    post = Post(1)
    while post.has_room(100):
        send(post, 3, 0, b'x' * 100)
    assert module.BUFFER_BYTES - 104 < post.out_count <= module.BUFFER_BYTES
    post.put(1)
    assert post.out_count <= module.BUFFER_BYTES


def test_words_are_little_endian():
    wire = Wire([])
    post = Post(1)
    post.begin(4, 7, 8)
    post.put_word(r_uint(0x1122334455667788))
    post.pump()
    assert bytes(wire.data) == b'\4\7\x08\0' + b'\x88\x77\x66\x55\x44\x33\x22\x11'
    assert Post(1).next() == 4
