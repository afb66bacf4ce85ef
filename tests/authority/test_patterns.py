"""Patterns: what they cover, when one lies within another, and that text comes back."""

import pytest
import strategies
from hypothesis import given, settings

from agentix_kernel.authority import patterns
from agentix_kernel.authority.patterns import Malformed, split

COVERS = [
    ("/state", "/state", True),
    ("/state", "/state/a/b", True),
    ("/state", "/statex", False),
    ("/state", "/", False),
    ("/", "/", True),
    ("/", "/a/b", True),
    ("", "x", True),
    ("/state/**", "/state", True),
    ("/state/", "/state/x", True),
    ("/state/*", "/state/a", True),
    ("/state/*", "/state", False),
    ("/state/*", "/state/a/b", False),
    ("/state/*.txt", "/state/.txt", True),
    ("/state/*.txt", "/state/a.txt", True),
    ("/state/*.txt", "/state/a.tx", False),
    ("/a/**/b", "/a/b", True),
    ("/a/**/b", "/a/x/y/b", True),
    ("/a/**/b", "/a/x/y/b/c", True),
    ("/a/**/b", "/a/x", False),
    ("/**/key*", "/x/y/key1", True),
    ("/**/key*", "/x/key1/y", False),
    ("a*b*c", "abc", True),
    ("a*b*c", "acb", False),
    ("aa*aa", "aaa", False),
    ("a%2Ab", "a*b", True),
    ("a%2Ab", "axb", False),
    ("/caf%C3%A9", "/café", True),
    ("*", "a", True),
    ("*", "a/b", False),
    ("**", "a/b", True),
]


@pytest.mark.parametrize(("pattern", "path", "covered"), COVERS)
def test_what_a_pattern_covers(pattern, path, covered) -> None:
    assert patterns.parse(pattern).covers(split(path.encode())) is covered


@pytest.mark.parametrize(
    ("one", "other", "within"),
    [
        ("/state/a", "/state", True),
        ("/state", "/state/a", False),
        ("/state/*", "/state", True),
        ("/state/*", "/**", True),
        ("/state", "/state/*", False),
        ("a*", "*", True),
        ("*", "a*", False),
        ("ab*cd", "a*d", True),
        ("a*d", "ab*cd", False),
        ("**", "*", False),
        ("*", "**", True),
        ("/a/**/b", "/a", True),
        ("/a/x/**/b", "/a/**/b", True),
        ("/**/b", "/b", False),
        ("a*a", "aa*", False),
        ("a*a*", "a*", True),
        ("x/*/**", "x/*/**", True),
        ("x/*", "x/*/**", True),
    ],
)
def test_when_one_is_within_the_other(one, other, within) -> None:
    assert patterns.parse(one).within(patterns.parse(other)) is within


def test_what_differs_at_its_begin_is_compared_no_further(monkeypatch) -> None:
    compared, within = [], patterns.name_within
    monkeypatch.setattr(patterns, "name_within", lambda *names: compared.append(names) or within(*names))
    one, other = (patterns.parse(f"{begin}/" + "/".join(["*a*"] * 60)) for begin in ("mem", "state"))
    assert not one.within(other)
    assert compared == [((b"mem",), (b"state",))]


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("/state", "/state/a", True),
        ("/state", "/mem", False),
        ("a*", "*b", True),
        ("a*", "b*", False),
        ("*a", "*b", False),
        ("/x/*/y", "/x/**", True),
        ("/**/k", "/state/*", True),
        ("a*b", "axxc", False),
        ("a*b", "axxb", True),
    ],
)
def test_when_two_meet(one, other, meet) -> None:
    assert patterns.parse(one).meets(patterns.parse(other)) is meet
    assert patterns.parse(other).meets(patterns.parse(one)) is meet


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("/a/../b", 3, "no place"),
        ("/a/./b", 3, "no place"),
        ("/a**", 2, "stands alone"),
        ("/a%2Fb", 1, "no '/'"),
        ("/a%00", 1, "NUL"),
        ("/a%", 1, "hexadecimal"),
        ("/a%zz", 1, "hexadecimal"),
        ("/" + "a" * 5000, 4095, "4095 bytes"),
        ("/" + "*a" * 9, 1, "8 stars"),
        ("/a" * 65, 0, "64 names"),
        ("**/a/" * 9, 0, "8 times"),
        ("%2e%2e/x", 0, "no place"),
        ("a\0", 0, "NUL"),
    ],
)
def test_broken_patterns_are_refused_with_what_and_where(text, at, words) -> None:
    with pytest.raises(Malformed, match=words.replace("*", r"\*")) as caught:
        patterns.parse(text)
    assert caught.value.at == at


@given(strategies.patterns())
def test_what_is_printed_is_read_back(pattern) -> None:
    assert patterns.parse(str(pattern)) == pattern
    assert patterns.parse(str(pattern.below())) == pattern.below()


@settings(max_examples=400)
@given(strategies.patterns(), strategies.patterns(), strategies.objects)
def test_within_and_meets_are_never_wrong(one, other, obj) -> None:
    names = split(obj)
    if one.covers(names) and other.covers(names):
        assert one.meets(other)
    if one.within(other) and one.covers(names):
        assert other.covers(names)
    assert not one.covers(names) or one.below().covers((*names, b"x"))


@given(strategies.patterns())
def test_a_pattern_is_within_itself_and_everything(pattern) -> None:
    assert pattern.within(pattern)
    assert pattern.within(patterns.parse("**"))
    assert pattern.within(pattern.below())


def test_a_long_object_and_a_mean_pattern_are_quick() -> None:
    """Would not end in a lifetime with a matcher that goes back."""
    mean = patterns.parse("/".join(["**/" + "a*" * 7 + "b"] * 8))
    assert not mean.covers(split(b"/".join([b"a" * 200] * 20)))
    assert not patterns.name_covers(mean.names[1], b"a" * 100_000)
