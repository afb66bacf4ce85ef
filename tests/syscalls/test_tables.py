"""The tables are the ABI: complete, consistent with each other, and their parsing is total."""

import errno
import os

import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from agentix_syscalls import calls, capabilities, control, errors, records, signals, types
from agentix_syscalls.errors import CallError
from agentix_syscalls.tables import REQUIRED, Arg, Operation

OPERATIONS = (*calls.CALLS, *control.CONTROLS)


def _id(operation: Operation) -> str:
    return f"{type(operation).__name__.lower()}-{operation.name}"


@pytest.mark.parametrize("rows", [calls.CALLS, control.CONTROLS, signals.SIGNALS, records.KINDS],
                         ids=["calls", "control", "signals", "records"])
def test_numbers_and_names_are_unique_and_ordered(rows) -> None:
    numbers = [row.number for row in rows]
    assert numbers == sorted(set(numbers))
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.doc.endswith(".") or rows is records.KINDS for row in rows)


@pytest.mark.parametrize("operation", OPERATIONS, ids=_id)
def test_rows_name_only_what_exists(operation) -> None:
    assert [name for name, _ in operation.errors if name not in errors.BY_NAME] == []
    assert all(when for _, when in operation.errors)
    assert len({arg.name for arg in operation.args}) == len(operation.args)
    for arg in operation.args:
        assert arg.doc
        if not arg.required and arg.default is not None:
            assert arg.type(arg.default) == arg.default


@pytest.mark.parametrize("call", calls.CALLS, ids=_id)
def test_calls_are_complete(call) -> None:
    assert call.capability in capabilities.BY_NAME
    assert set(call.paths) <= {arg.name for arg in call.args if arg.type is types.path}
    assert {arg.name for arg in call.args if arg.type is types.path} == set(call.paths) or call.name == "CHECKPOLICY"
    assert call.support == "full" or call.support.split(": ")[0] in {"partial", "planned"}
    assert getattr(calls, f"SYS_{call.name}") == call.number
    every = {name for name, _ in calls.EVERY_CALL} - {"EINVAL", "EPERM", "EAGAIN", "EDQUOT"}
    assert {name for name, _ in call.errors}.isdisjoint(every), "errors of every call are not repeated"


def test_capabilities_of_calls_are_of_resources_that_are_built() -> None:
    used = {call.capability.split(":")[0] for call in calls.CALLS} - {capabilities.SELF.name}
    assert used == {row.name for row in capabilities.RESOURCES if row.support == "full" and row.held}
    assert len(capabilities.BY_NAME) == len(capabilities.CAPABILITIES)


@settings(max_examples=500)
@given(operation=st.sampled_from(OPERATIONS), raw=strategies.values | strategies.arguments)
def test_parse_raises_nothing_but_call_error(operation, raw) -> None:
    try:
        checked = operation.parse(raw)
    except CallError as refused:
        assert refused.number in errors.BY_NUMBER
        assert refused.message.startswith(operation.name + ": ")
    else:
        assert len(checked) == len(operation.args)
        assert REQUIRED not in checked


PAIR = Operation(1, "pair", "Two.", (Arg("a", types.uint, "number"), Arg("b", types.text, "text", "x")))


def test_defaults_are_filled_in() -> None:
    assert PAIR.parse((1,)) == [1, "x"]
    assert PAIR.parse([1, "y"]) == [1, "y"]


@pytest.mark.parametrize(("raw", "message"), [
    ((), "pair: wants 1 to 2 arguments, got 0"),
    ((1, "x", 2), "pair: wants 1 to 2 arguments, got 3"),
    (None, "pair: wants an array of arguments, got nil"),
    ({"a": 1}, "pair: wants an array of arguments, got a map"),
    (("1",), "pair: a: wants a whole number, got text"),
    ((1, 2), "pair: b: wants text, got an integer"),
])
def test_refusals_say_what_was_wrong(raw, message) -> None:
    with pytest.raises(CallError) as caught:
        PAIR.parse(raw)
    assert (caught.value.number, caught.value.message) == (errno.EINVAL, message)


def test_a_refusal_takes_the_errno_of_its_type() -> None:
    with pytest.raises(CallError) as caught:
        calls.BY_NAME["OPEN"].parse(("n" * 300,))
    assert caught.value.number == errno.ENAMETOOLONG
    with pytest.raises(CallError, match="wants 0 arguments, got 1"):
        calls.BY_NAME["GETPID"].parse((1,))


def test_required_arguments_come_first() -> None:
    with pytest.raises(AssertionError, match="required arguments come first"):
        Operation(1, "bad", "Bad.", (Arg("a", types.uint, "number", 1), Arg("b", types.uint, "number")))


@pytest.mark.parametrize("name", ["OPEN", "open", "SYS_OPEN", "sys_open"])
def test_calls_are_found_by_the_names_that_people_use(name: str) -> None:
    assert calls.find(name) is calls.BY_NAME["OPEN"]


@given(name=st.text(max_size=12))
def test_other_names_find_nothing(name: str) -> None:
    found = calls.find(name)
    assert found is None or found.name in name.upper()


def test_open_flags_are_linux_numbers() -> None:
    for name in ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE", "O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND",
                 "O_DIRECTORY", "O_NOFOLLOW"):
        assert getattr(calls, name) == getattr(os, name), name
