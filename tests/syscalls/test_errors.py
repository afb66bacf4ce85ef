"""The error taxonomy and the reason that travels with an error."""

import errno

import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from agentix_syscalls import errors, wire
from agentix_syscalls.errors import CallError, Reason


def test_each_error_stands_once() -> None:
    assert len(errors.BY_NUMBER) == len(errors.ERRORS) == len(errors.BY_NAME)


reasons = st.builds(Reason, st.sampled_from(sorted(errors.BY_NUMBER)), st.text(), st.text(), st.text(),
                    st.integers(0, 1 << 63))


@given(reason=reasons)
def test_a_reason_survives_the_wire(reason: Reason) -> None:
    body = wire.decode(wire.pack(reason.to_wire()))
    assert Reason.from_wire(body) == reason
    assert body[5:] == (reason.row.category.value, reason.row.severity.value, reason.row.retryable, reason.enforcer)


@given(body=strategies.values | strategies.arguments)
def test_a_bad_reply_is_a_value_error(body: object) -> None:
    try:
        read = Reason.from_wire(body)
    except ValueError as error:
        assert str(error).startswith("an error reply ")
    else:
        assert isinstance(read.message, str)


@pytest.mark.parametrize("body", [None, (), (1, "m", "r", "x"), ("1", "m", "r", "x", 0), (1, b"m", "r", "x", 0)],
                         ids=["nil", "empty", "short", "number", "message"])
def test_bad_replies(body: object) -> None:
    with pytest.raises(ValueError, match="an error reply"):
        Reason.from_wire(body)


def test_an_error_outside_the_taxonomy_counts_as_the_kernels_fault() -> None:
    assert Reason(errno.ENOTBLK, "m").row is errors.BY_NAME["EIO"]


def test_a_call_error_becomes_its_reason() -> None:
    error = CallError(errno.EPERM, "no", rule="deny OPEN", remedy="ask", enforcer="mount")
    assert error.reason(7) == Reason(errno.EPERM, "no", "deny OPEN", "ask", 7, "mount")
    assert Reason.from_wire(error.reason(7).to_wire()) == error.reason(7)
    assert Reason.from_wire(error.reason(7).to_wire()[:8]).enforcer == ""
    assert error.args == (errno.EPERM, "no")
