"""The codec against bytes from anybody: what is a frame is read whole, what is not is the sender's fault."""

import functools
import math
import operator
import struct

import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from agentix_syscalls import wire
from agentix_syscalls.wire import Reader, WireError


def _same(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return type(left) is type(right) and left == right


@given(value=strategies.values)
def test_what_was_packed_comes_back(value: object) -> None:
    assert _same(wire.decode(wire.pack(value)), value)


@given(body=strategies.bodies)
def test_decode_raises_nothing_but_wire_error(body: bytes) -> None:
    try:
        wire.decode(body)
    except WireError as error:
        assert str(error)


@pytest.mark.parametrize("body", [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\xc1", id="the byte that msgpack never uses"),
    pytest.param(b"\x01\x02", id="two values"),
    pytest.param(b"\x92\x01", id="an array that ends early"),
    pytest.param(b"\xa5abc", id="text that ends early"),
    pytest.param(b"\xa2\xff\xfe", id="text that is not UTF-8"),
    pytest.param(b"\xdd\xff\xff\xff\xff", id="an array of four billion"),
    pytest.param(b"\xdf\xff\xff\xff\xff", id="a map of four billion"),
    pytest.param(b"\xc6\xff\xff\xff\xff", id="four gigabytes of bytes"),
    pytest.param(b"\xdb\xff\xff\xff\xff", id="four gigabytes of text"),
    pytest.param(b"\xc9\xff\xff\xff\xff\x01", id="four gigabytes of extension"),
    pytest.param(b"\xd4\x01\x00", id="an extension"),
    pytest.param(b"\xd6\xff\x00\x00\x00\x00", id="a timestamp"),
    pytest.param(b"\x81\x01\x02", id="a number as a key"),
    pytest.param(b"\x81\x90\x02", id="an array as a key"),
    pytest.param(b"\x81\xc0\x02", id="nil as a key"),
    pytest.param(b"\x91" * 2000 + b"\xc0", id="two thousand arrays in each other"),
    pytest.param(b"\x81\xa1a" * 2000 + b"\xc0", id="two thousand maps in each other"),
])
def test_not_a_body(body: bytes) -> None:
    with pytest.raises(WireError, match="body is not msgpack"):
        wire.decode(body)


@pytest.mark.parametrize("head", [b"\x91", b"\x81\xa1a"], ids=["arrays", "maps"])
def test_depth_is_bounded(head: bytes) -> None:
    wire.decode(head * wire.DEPTH_MAX + b"\xc0")
    with pytest.raises(WireError, match="nested more than 16 deep"):
        wire.decode(head * (wire.DEPTH_MAX + 1) + b"\xc0")


def test_a_failed_pack_leaves_nothing_behind() -> None:
    with pytest.raises(TypeError):
        wire.pack([1, 2, object()])
    assert wire.pack([3]) == b"\x91\x03"


def test_the_header_is_fixed() -> None:
    """Length, operation, flags, user data: little-endian, 16 bytes, for ever."""
    assert wire.HEADER_BYTES == 16
    assert wire.frame(0x0102, 0x0304, 0x05060708, b"ab") == bytes.fromhex("02000000 0201 0403 0807060500000000") + b"ab"
    assert wire.request(3, 9, (1, b"x"), flags=2) == wire.frame(3, 2, 9, b"\x92\x01\xc4\x01x")


def test_flags_do_not_overlap() -> None:
    flags = [wire.F_PRIORITY, wire.F_BATCH, wire.F_DURABLE, wire.F_LINK, wire.F_MORE, wire.F_REPLY, wire.F_ERROR]
    assert sum(flags) == functools.reduce(operator.or_, flags)
    assert all(0 < flag <= 0xFFFF for flag in flags)


frames = st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, (1 << 64) - 1),
                   st.binary(max_size=40))


@given(sent=st.lists(frames, max_size=6), cuts=st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_a_stream_is_cut_into_the_frames_that_were_sent(sent: list, cuts: list[int]) -> None:
    """However the bytes are split on the way."""
    stream = b"".join(wire.frame(*frame) for frame in sent)
    reader, got, at, turn = Reader(), [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        reader.feed(stream[at:at + step])
        at, turn = at + step, turn + 1
        while (frame := reader.next()) is not None:
            got.append(frame)
    assert got == sent
    assert reader.next() is None


@given(noise=st.binary(max_size=300))
def test_noise_is_frames_or_too_long_or_not_yet_whole(noise: bytes) -> None:
    reader = Reader(body_max_bytes=64)
    reader.feed(noise)
    eaten = 0
    try:
        while (frame := reader.next()) is not None:
            assert len(frame[3]) <= 64
            eaten += wire.HEADER_BYTES + len(frame[3])
    except WireError:
        assert struct.unpack_from("<I", noise, eaten)[0] > 64
    assert eaten <= len(noise)


def test_a_body_over_the_cap_is_refused_before_it_is_there() -> None:
    reader = Reader()
    reader.feed(wire.HEADER.pack(wire.BODY_MAX_BYTES + 1, 4, 0, 1))
    with pytest.raises(WireError, match="over the cap"):
        reader.next()
    control = Reader(wire.CONTROL_BODY_MAX_BYTES)
    control.feed(wire.HEADER.pack(wire.BODY_MAX_BYTES + 1, 4, 0, 1))
    assert control.next() is None


def test_what_was_read_is_a_copy() -> None:
    reader = Reader()
    reader.feed(wire.frame(1, 0, 7, b"body") + b"\0")
    frame = reader.next()
    reader.feed(b"\xff" * 64)
    assert frame == (1, 0, 7, b"body")
    assert type(frame[3]) is bytes
