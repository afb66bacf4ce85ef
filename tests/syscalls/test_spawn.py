"""Options of a spawn: read, bounded and refused by name."""

import errno

import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from agentix_syscalls import errors, spawn
from agentix_syscalls.errors import CallError
from agentix_syscalls.spawn import parse_options

GOOD = {
    "name": "worker-1.a_b", "source": b"pass", "env": {"A": "b"}, "cwd": "/tmp", "memory_bytes": 16 << 20, "cpus": 0.5,
    "pids": 3, "timeout_s": 1, "deny": ("OPEN:/secret",), "mode": "strict", "spawn_max": 0,
    "capabilities": ("capability://file/state?action=read",),
}


def test_every_option_is_read() -> None:
    assert parse_options(GOOD, by_agent=True) == GOOD
    assert set(spawn.BY_NAME) - set(GOOD) == {"binds", "stdin", "terminal", "profile", "runtime", "restart", "policy"}
    assert parse_options({}, by_agent=False) == {}


@pytest.mark.parametrize(("key", "value"), [
    ("name", ""), ("name", "1abc"), ("name", "a/b"), ("name", "a" * 64), ("name", "a\n"), ("name", b"abc"),
    ("cwd", "relative"), ("memory_bytes", (16 << 20) - 1), ("memory_bytes", 1.5), ("cpus", 0), ("cpus", "1"),
    ("pids", 2), ("pids", 4_000_001), ("timeout_s", 0), ("timeout_s", None), ("deny", "OPEN"), ("mode", "lax"),
    ("spawn_max", -1), ("env", {"A": 1}), ("source", "text"),
])
def test_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(CallError, match=f"spawn: {key}: ") as caught:
        parse_options({key: value}, by_agent=False)
    assert caught.value.number == errno.EINVAL


def test_unknown_options_are_refused_with_the_known_ones() -> None:
    with pytest.raises(CallError) as caught:
        parse_options({"root": True}, by_agent=False)
    assert caught.value.number == errno.EINVAL
    assert "memory_bytes" in caught.value.remedy


@pytest.mark.parametrize(("key", "value"), [("binds", []), ("profile", "small"), ("runtime", "default")])
def test_agents_may_not_ask_for(key: str, value: object) -> None:
    with pytest.raises(CallError) as caught:
        parse_options({key: value}, by_agent=True)
    assert caught.value.number == errno.EPERM
    assert parse_options({key: value}, by_agent=False) == {key: value}


def test_names_are_bounded_exactly() -> None:
    assert parse_options({"name": "a" * 63}, by_agent=True) == {"name": "a" * 63}


@given(raw=st.dictionaries(st.sampled_from(sorted(spawn.BY_NAME)) | st.text(max_size=8), strategies.values, max_size=4),
       by_agent=st.booleans())
def test_parsing_is_total(raw: dict[str, object], by_agent: bool) -> None:
    try:
        checked = parse_options(raw, by_agent=by_agent)
    except CallError as refused:
        assert refused.number in errors.BY_NUMBER
        assert refused.message.startswith("spawn: ")
    else:
        assert checked.keys() == raw.keys() <= spawn.BY_NAME.keys()


def test_everything_that_limits_is_inherited() -> None:
    """A child never has more than its parent: each option that bounds or widens is marked."""
    free = {option.name for option in spawn.OPTIONS if not option.inherited}
    free_to_operators = {"stdin", "terminal", "profile", "restart"}
    assert free == {"name", "source", "env", "cwd"} | free_to_operators


@pytest.mark.parametrize("value", [[0, 80], [24, 4097], [24], "24x80", None, [24.5, 80], [24, 80, 1]])
def test_a_terminal_has_two_sides(value: object) -> None:
    assert parse_options({"terminal": [24, 80]}, by_agent=False) == {"terminal": (24, 80)}
    with pytest.raises(CallError, match="terminal: "):
        parse_options({"terminal": value}, by_agent=False)


@pytest.mark.parametrize(("text", "policy", "most"), [
    ("never", "never", None), ("always", "always", None), ("on-failure:5", "on-failure", 5), ("always:1", "always", 1),
])
def test_a_restart_policy(text: str, policy: str, most: int | None) -> None:
    found = spawn.restart(text)
    assert (found.policy, found.most, str(found)) == (policy, most, text)


@pytest.mark.parametrize("value", ["", "sometimes", "always:", "always:0", "on-failure:-1", "never:3", "always:1:2",
                                   "always:9999999999", 5])
def test_what_is_no_restart_policy(value: object) -> None:
    with pytest.raises(CallError, match="spawn: restart: "):
        parse_options({"restart": value}, by_agent=False)


@pytest.mark.parametrize(("key", "value"), [("stdin", True), ("terminal", [24, 80]), ("restart", "always")])
def test_no_agent_opens_what_operators_feed(key: str, value: object) -> None:
    with pytest.raises(CallError) as refused:
        parse_options({key: value}, by_agent=True)
    assert refused.value.number == errno.EPERM
