"""Types of arguments: every value that an agent may send is either read or refused with a sentence."""

import errno
import itertools
import math

import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from agentix_syscalls import types
from agentix_syscalls.types import BadArgument

READERS = [types.uint, types.integer, types.mask, types.user_data, types.boolean, types.data, types.text, types.path,
           types.seconds, types.positive, types.argv, types.texts, types.environ, types.mapping, types.anything,
           types.optional(types.uint), types.optional(types.path)]


@given(value=strategies.values)
def test_readers_refuse_only_with_a_sentence(value: object) -> None:
    for read in READERS:
        try:
            read(value)
        except BadArgument as bad:
            assert str(bad)
            assert hasattr(errno, bad.errno_name)


@pytest.mark.parametrize(("read", "value"), [
    (types.uint, 0), (types.uint, types.I63_MAX), (types.integer, -types.I63_MAX), (types.integer, types.I63_MAX),
    (types.mask, types.U64_MAX), (types.user_data, types.U64_MAX), (types.boolean, True),
    (types.data, b""), (types.text, ""),
    (types.text, "x" * types.TEXT_MAX_BYTES), (types.anything, {1: 2}), (types.mapping, {"a": 1}),
], ids=itertools.count())
def test_accepted_as_it_is(read, value) -> None:
    assert read(value) == value


@pytest.mark.parametrize(("read", "value"), [
    (types.uint, -1), (types.uint, types.I63_MAX + 1), (types.uint, True), (types.uint, 1.0), (types.uint, "1"),
    (types.integer, -types.I63_MAX - 1), (types.integer, types.I63_MAX + 1), (types.integer, None),
    (types.mask, -1), (types.mask, types.U64_MAX + 1), (types.mask, True), (types.user_data, -1),
    (types.user_data, types.U64_MAX + 1), (types.user_data, True), (types.user_data, "1"),
    (types.boolean, 1), (types.data, "text"), (types.data, bytearray(b"x")),
    (types.text, b"bytes"), (types.text, "a\0b"), (types.path, 3), (types.path, "a\0b"),
    (types.seconds, -1), (types.seconds, math.inf), (types.seconds, math.nan), (types.seconds, True),
    (types.seconds, "1"), (types.positive, 0), (types.positive, -0.0), (types.positive, math.inf),
    (types.positive, None), (types.positive, False), (types.argv, ()), (types.argv, "ls"), (types.argv, ("ls", b"-l")),
    (types.argv, ("a\0b",)), (types.texts, "a"), (types.texts, ("a", 1)), (types.environ, ()),
    (types.environ, {"": "x"}), (types.environ, {"A=B": "x"}), (types.environ, {"A\0": "x"}), (types.environ, {1: "x"}),
    (types.environ, {"A": 1}), (types.environ, {"A": "a\0b"}), (types.mapping, ()), (types.mapping, {1: 2}),
], ids=itertools.count())
def test_refused(read, value) -> None:
    with pytest.raises(BadArgument) as caught:
        read(value)
    assert caught.value.errno_name == "EINVAL"


@pytest.mark.parametrize(("read", "value", "name"), [
    (types.text, "x" * (types.TEXT_MAX_BYTES + 1), "E2BIG"),
    (types.text, "\N{EURO SIGN}" * (types.TEXT_MAX_BYTES // 3 + 1), "E2BIG"),
    (types.path, "", "ENOENT"), (types.path, b"", "ENOENT"),
    (types.path, "n" * 256, "ENAMETOOLONG"), (types.path, "a/" + "n" * 256 + "/b", "ENAMETOOLONG"),
    (types.path, "a/" * 2048, "ENAMETOOLONG"),
    (types.argv, ("x",) * (types.ARGV_MAX + 1), "E2BIG"), (types.argv, ("x" * (types.ARGV_MAX_BYTES + 1),), "E2BIG"),
    (types.argv, ("x" * types.ARGV_MAX_BYTES,), "E2BIG"), (types.argv, ("x" * 1000,) * 132, "E2BIG"),
], ids=itertools.count())
def test_refused_with_an_errno_of_its_own(read, value, name) -> None:
    with pytest.raises(BadArgument) as caught:
        read(value)
    assert caught.value.errno_name == name


def test_path_limits_are_met_exactly() -> None:
    longest = "/".join(["n" * 255] * 15 + ["m" * 255])
    assert len(longest) == types.PATH_MAX_BYTES
    assert types.path(longest) == longest.encode()
    assert types.path("\N{EURO SIGN}" * 85) == b"\xe2\x82\xac" * 85
    assert types.path(b"\xff not UTF-8") == b"\xff not UTF-8"


@given(raw=st.binary(max_size=600) | st.text(max_size=300))
def test_paths_that_pass_are_walkable(raw: bytes | str) -> None:
    try:
        read = types.path(raw)
    except BadArgument:
        return
    assert read
    assert b"\0" not in read
    assert all(len(name) <= types.NAME_MAX_BYTES for name in read.split(b"/"))


@pytest.mark.parametrize("raw", ["\ud800", "a/\udfff"], ids=["first", "last"])
@pytest.mark.parametrize("read", [types.path, types.text, lambda raw: types.argv([raw]),
                                  lambda raw: types.environ({raw: ""})],
                         ids=["path", "text", "argv", "environ"])
def test_lone_surrogates_are_refused(read, raw) -> None:
    """Msgpack lets none through; a caller inside the kernel might."""
    with pytest.raises(BadArgument):
        read(raw)


def test_durations() -> None:
    assert types.seconds(None) is None
    assert types.seconds(0) == 0.0
    assert type(types.seconds(3)) is float
    assert types.positive(0.5) == 0.5


def test_collections_become_what_the_kernel_keeps() -> None:
    assert types.argv(["a", ""]) == ("a", "")
    assert types.texts([]) == ()
    assert types.environ({"A": "", "b": "x=y"}) == {"A": "", "b": "x=y"}


def test_optional_says_its_name() -> None:
    read = types.optional(types.uint)
    assert read(None) is None
    assert read(1) == 1
    assert read.__name__ == "uint or nil"
    with pytest.raises(BadArgument):
        read("1")


def test_kinds_are_named_as_msgpack_names_them() -> None:
    values = {"nil": None, "text": "", "bytes": b"", "an integer": 1, "a float": 1.0, "a boolean": True,
              "an array": (), "a map": {}, "object": object()}
    assert {types.kind(value): value for value in values.values()} == values
    assert types.kind([]) == "an array"
