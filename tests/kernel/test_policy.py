"""The minimal policy: rules by whole names, narrowing only, one clear error for each bad rule."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentix_kernel.policy import Policy, parse_rule
from agentix_syscalls.errors import CallError


@pytest.mark.parametrize(("rule", "path", "covered"), [
    ("OPEN", b"/anything", True),
    ("OPEN:/state", b"/state", True),
    ("OPEN:/state", b"/state/x/y", True),
    ("OPEN:/state", b"/statement", False),
    ("OPEN:/state/", b"/state/x", True),
    ("OPEN:/", b"/mem", True),
    ("open:/state//x", b"/state/x/z", True),
    ("SYS_OPEN:/a", b"/b", False),
])
def test_rules_compare_whole_names(rule, path, covered):
    policy = Policy("enforce", (parse_rule(rule),))
    assert policy.decide("OPEN", path).allowed is not covered


@pytest.mark.parametrize("text", ["", "NOPE", "OPEN:relative", "OPEN:/a/../b", "GETPID:/x", ":", "OPEN:"])
def test_a_bad_rule_is_refused_by_name(text):
    with pytest.raises(CallError) as caught:
        parse_rule(text)
    assert caught.value.number == errno.EINVAL
    assert repr(text) in caught.value.message


def test_a_child_is_never_softer():
    parent = Policy("strict", (parse_rule("WRITE:/state"),), 2)
    child = parent.narrowed(None, (parse_rule("UNLINK"),), None)
    assert child.mode == "strict"
    assert child.spawn_max == 0
    assert {rule.text for rule in child.rules} == {"WRITE:/state", "UNLINK"}
    for mode in ("enforce", "audit"):
        with pytest.raises(CallError, match="softer"):
            parent.narrowed(mode, (), None)
    with pytest.raises(CallError, match="over the parent's"):
        parent.narrowed(None, (), 3)


NAMES = st.lists(st.sampled_from([b"a", b"b", b"ab", b"c"]), max_size=4)


@given(NAMES, NAMES)
def test_prefix_means_the_same_as_a_walk(prefix, path):
    rule = parse_rule("OPEN:/" + b"/".join(prefix).decode())
    assert rule.covers(b"/" + b"/".join(path)) is (path[:len(prefix)] == prefix)


def test_a_rename_does_not_carry_off_what_a_rule_names():
    policy = Policy("enforce", (parse_rule("READ:/state/secret/key"),))
    assert policy.guards("RENAME")
    for path in (b"/state", b"/state/secret", b"/state/secret/key"):
        assert not policy.decide("RENAME", path).allowed, path
    for path in (b"/state/secret/other", b"/state/sec", b"/mem"):
        assert policy.decide("RENAME", path).allowed, path
    assert not Policy("enforce", (parse_rule("UNLINK"),)).guards("RENAME")
