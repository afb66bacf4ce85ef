"""Conditions as they come from outside: checked by the table, and refused with the nearest word."""

import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from agentix_syscalls import question, types


def test_a_whole_question_is_checked_value_by_value():
    asked = {"agents": [0, "scout"], "kinds": ("denial",), "phases": ["outcome"], "verdicts": ["denied"],
             "calls": ["SYS_OPEN", "ptrace"], "rule": "bot", "correlation": 3, "since_ns": 1, "until_ns": types.I63_MAX}
    assert question.where(asked) == {**asked, "agents": (0, "scout"), "phases": ("outcome",), "verdicts": ("denied",),
                                     "calls": ("open", "ptrace")}
    assert set(asked) == set(question.BY_KEY)
    assert question.where({}) == {}


@pytest.mark.parametrize(("asked", "said"), [
    ({"kind": ["denial"]}, "'kind' is no condition; the nearest is 'kinds'"),
    ({"kinds": ["spwan"]}, "'spwan' is no kind of record; the nearest is 'spawn'"),
    ({"verdicts": ["zzz"]}, "'zzz' is no verdict; there are none, allowed, denied"),
    ({"kinds": "denial"}, "kinds: wants an array, got text"), ({"kinds": []}, "kinds: wants 1 to 256 values, got 0"),
    ({"agents": [0] * 257}, "got 257"), ({"agents": [True]}, "wants text"), ({"agents": [-1]}, "from 0"),
    ({"since_ns": 1 << 63}, "from 0 to"), ({"rule": "a\0"}, "NUL"), ({"x" * 9999: 1}, "is no condition"),
    ([], "wants a map"),
])
def test_what_is_refused(asked, said):
    with pytest.raises(types.BadArgument) as refused:
        question.where(asked)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 1000


@given(strategies.values | st.dictionaries(st.sampled_from(sorted(question.BY_KEY)), strategies.values))
def test_nothing_that_msgpack_carries_does_more_than_be_refused(asked):
    try:
        checked = question.where(asked)
    except types.BadArgument:
        return
    assert question.where(checked) == checked
