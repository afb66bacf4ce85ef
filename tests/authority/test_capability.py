"""Capability strings, their constraints and the meters: read, printed, narrowed, counted."""

import errno

import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from agentix_kernel.authority import capability, constraints
from agentix_kernel.authority.capability import Capability
from agentix_kernel.authority.constraints import SECOND_NS, Constraints, Meter, Rate
from agentix_kernel.authority.patterns import Malformed, split
from agentix_syscalls.capabilities import RESOURCES
from agentix_syscalls.errors import CallError


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("capability://file/home/user/data/*?action=read", None),
        ("capability://http/api.example.com/*?action=request&rate=100/min", None),
        (
            "capability://shell?action=execute&timeout=30s&allowlist=ls,cat,grep",
            "capability://shell/*?action=execute&timeout=30s&allowlist=cat,grep,ls",
        ),
        ("capability://agent?action=spawn&max=3", "capability://agent/*?action=spawn&max=3"),
        ("capability://signal/self/**?action=send", "capability://signal/self/*?action=send"),
        (
            "capability://file/state/**?action=write,read&constraint=timeout:30s",
            "capability://file/state?action=read,write&timeout=30s",
        ),
        (
            "capability://file//state/?action=*&rate=60/minute&timeout=90s&max=1",
            "capability://file/state?action=read,write&timeout=90s&rate=60/min&max=1",
        ),
        ("capability://file?action=read&timeout=60000ms", "capability://file?action=read&timeout=1m"),
        ("capability://file/a%2ab%20c?action=read", "capability://file/a%2Ab%20c?action=read"),
        (
            "capability://tool?expires=2026-12-01T00:00:00Z&action=exec",
            "capability://tool/*?action=exec&expires=2026-12-01T00:00:00Z",
        ),
    ],
)
def test_a_string_is_read_and_printed_in_one_way(text, canonical) -> None:
    found = capability.parse(text)
    assert str(found) == (canonical or text)
    assert capability.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("", 0, "begins with capability://"),
        ("capability:/file?action=read", 0, "begins with"),
        ("file:/state:read", 0, "begins with"),
        ("CAPABILITY://file?action=read", 0, "begins with"),
        ("capability://", 13, "no resource ''"),
        ("capability://fiel/x?action=read", 13, "did you mean 'file'"),
        ("capability://file/x", 19, "no action"),
        ("capability://file/x?", 20, "not NAME=VALUE"),
        ("capability://file?rate=1/s", 26, "no action"),
        ("capability://file?action=", 18, "not NAME=VALUE"),
        ("capability://file?action=raed", 18, "did you mean 'read'"),
        ("capability://file?action=read,read", 18, "twice"),
        ("capability://file?action=read,", 18, "no action ''"),
        ("capability://file?action=read,*", 18, "twice"),
        ("capability://file?action=read&action=write", 30, "action is given twice"),
        ("capability://file?action=read&constraint=max:1&max=2", 47, "max is given twice"),
        ("capability://file?action=read&rat=1/s", 30, "did you mean 'rate'"),
        ("capability://file?action=read&constraint=max", 30, "not NAME=VALUE"),
        ("capability://file?action=read&", 30, "not NAME=VALUE"),
        ("capability://file?action=read&&max=1", 30, "NAME=VALUE"),
        ("capability://file?action=read&rate=0/s", 30, "not a number from 1"),
        ("capability://file?action=read&rate=5", 30, "not a rate"),
        ("capability://file?action=read&rate=5/week", 30, "rate"),
        ("capability://file?action=read&timeout=30", 30, "not a time"),
        ("capability://file?action=read&timeout=-1s", 30, "not a time"),
        ("capability://file?action=read&timeout=1e9s", 30, "not a time"),
        ("capability://file?action=read&max=1.5", 30, "not a number"),
        ("capability://file?action=read&max=٣", 30, "number"),
        ("capability://file?action=read&max=99999999999", 30, "not a number"),
        ("capability://file?action=read&allowlist=a,,b", 30, "whole names"),
        ("capability://file?action=read&allowlist=a*", 30, "whole names"),
        ("capability://file?action=read&allowlist=%2e%2e", 30, "'..'"),
        ("capability://file?action=read&expires=tomorrow", 30, "not a moment"),
        ("capability://file?action=read&expires=2026-13-01T00:00:00Z", 30, "not a moment"),
        ("capability://file?action=read&expires=2026-12-01T00:00:00+01:00", 30, "not a moment"),
        ("capability://file/../x?action=read", 18, "no place"),
        ("capability://file/%2e%2e/x?action=read", 18, "no place"),
        ("capability://file/a**?action=read", 19, "stands alone"),
        ("capability://file/a%?action=read", 18, "hexadecimal"),
        ("capability://file?action=read&max=1#x", 30, "not a number"),
        ("capability://file/x?action=read\n", 20, "no action"),
        ("capability://tool/a/b?action=exec", 18, "one name"),
        ("capability://signal/**/x?action=send", 20, "2 names"),
        ("capability://file/" + "a" * 9000, 8192, "8192"),
    ],
)
def test_every_broken_syntax_is_refused_with_what_and_where(text, at, words) -> None:
    with pytest.raises(Malformed) as caught:
        capability.parse(text)
    assert words in caught.value.message
    assert caught.value.at == at


@settings(max_examples=300)
@given(strategies.capabilities())
def test_what_is_printed_is_read_back(found) -> None:
    assert capability.parse(str(found)) == found


@given(st.text(max_size=60) | st.text("capbilityfe:/?=&*%,.0123s", max_size=60).map(lambda t: "capability://file" + t))
def test_no_text_raises_anything_else(text) -> None:
    try:
        found = capability.parse(text)
    except Malformed:
        return
    assert capability.parse(str(found)) == found


@settings(max_examples=400)
@given(
    strategies.capabilities("file"),
    strategies.capabilities("file"),
    st.sampled_from(["read", "write"]),
    strategies.objects,
)
def test_what_is_within_another_never_covers_more(one, other, action, obj) -> None:
    if one.within(other) and one.covers(action, obj):
        assert other.covers(action, obj)
    assert not one.covers(action, obj) or (action in one.actions and one.path.covers(split(obj)))


def test_capabilities_of_other_resources_are_never_within() -> None:
    for row in RESOURCES:
        one = capability.parse(f"capability://{row.name}?action=*")
        assert [
            other.name for other in RESOURCES if one.within(capability.parse(f"capability://{other.name}?action=*"))
        ] == [row.name]


def test_an_allowlist_is_of_the_last_name() -> None:
    found = capability.parse("capability://file?action=read&allowlist=ls,cat")
    assert [found.covers("read", obj) for obj in (b"ls", b"x/cat", b"lsx", b"ls/x", b"")] == [True, True, *[False] * 3]


@given(strategies.constraints(), strategies.constraints(), st.lists(st.integers(0, 30 * SECOND_NS), max_size=40))
def test_narrower_constraints_never_admit_a_use_that_the_wider_ones_refuse(one, other, waits) -> None:
    """One use after another: what the narrower meter lets through goes through the wider one as well."""
    if not one.within(other):
        return
    mine, theirs, now = Meter(one), Meter(other), 0
    for wait in waits:
        now += wait // 3
        try:
            mine.check(now, now)
        except CallError:
            continue
        mine.take(now)
        theirs.check(now, now)
        theirs.take(now)


def _tries(meter: Meter, times_ns: list[int]) -> list[int]:
    """0 for each use that was let through, else the errno."""
    found = []
    for now in times_ns:
        try:
            meter.check(now, now)
        except CallError as error:
            found.append(error.number)
        else:
            meter.take(now)
            found.append(0)
    return found


def test_a_rate_is_a_bucket_that_starts_full_and_fills_evenly() -> None:
    meter = Meter(Constraints(rate=Rate(3, "s")))
    third = -(-SECOND_NS // 3)
    assert _tries(meter, [0, 0, 0, 0, third - 1, third, 2 * third, 2 * third]) == [
        0,
        0,
        0,
        errno.EAGAIN,
        errno.EAGAIN,
        0,
        0,
        errno.EAGAIN,
    ]
    assert _tries(meter, [3600 * SECOND_NS] * 4) == [0, 0, 0, errno.EAGAIN]


def test_a_maximum_is_for_a_life_and_an_expiry_for_ever() -> None:
    assert _tries(Meter(Constraints(max=2)), [0, 1, 2 * 10**18]) == [0, 0, errno.EDQUOT]
    assert _tries(Meter(Constraints(expires_ns=5)), [0, 4, 5, 6]) == [0, 0, errno.EPERM, errno.EPERM]


def test_what_is_refused_says_when_to_try_again() -> None:
    meter = Meter(Constraints(rate=Rate(1, "min")))
    meter.take(0)
    with pytest.raises(CallError, match="at most 1/min") as caught:
        meter.check(SECOND_NS, 0)
    assert caught.value.remedy == "try again in 59000 ms"


def test_a_clock_that_goes_back_and_a_use_without_a_check_are_faults() -> None:
    meter = Meter(Constraints(rate=Rate(1, "s")))
    meter.take(SECOND_NS)
    with pytest.raises(AssertionError):
        meter.check(0, 0)
    with pytest.raises(AssertionError):
        meter.take(SECOND_NS)


def test_the_table_names_every_field() -> None:
    rows = {row.field for row in constraints.CONSTRAINTS}
    assert rows == {field.name for field in Constraints.__attrs_attrs__}


def test_a_capability_is_a_value() -> None:
    one, other = (capability.parse("capability://file/a?action=read") for _ in range(2))
    assert one == other
    assert len({one, other}) == 1
    assert isinstance(one, Capability)
