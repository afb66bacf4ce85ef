"""Signals of one agent as a pure machine: dispositions, mask, pending; what each makes the kernel do."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentix_kernel.signals import Deed, SignalState
from agentix_syscalls import calls
from agentix_syscalls.errors import CallError
from agentix_syscalls.signals import (
    ALL_MASK,
    SIGCHLD,
    SIGCONT,
    SIGINT,
    SIGKILL,
    SIGLOOP,
    SIGNALS,
    SIGPOLICY,
    SIGSTOP,
    SIGTERM,
    SIGTRUST,
    SIGUSR1,
    bit,
)

UNSTOPPABLE = [SIGKILL, SIGPOLICY, SIGTRUST]


@pytest.mark.parametrize("number", UNSTOPPABLE)
def test_what_kills_cannot_be_caught_ignored_or_masked(number):
    state = SignalState()
    for disposition in (calls.SIG_IGN, calls.SIG_HANDLE):
        with pytest.raises(CallError) as caught:
            state.act(number, disposition)
        assert caught.value.number == errno.EINVAL
    state.procmask(calls.SIG_SETMASK, (1 << 64) - 1)
    assert not state.mask & bit(number)
    assert state.post(number, 0, "") is Deed.KILL


def test_a_handler_gets_the_doorbell_and_a_mask_defers_it():
    state = SignalState()
    state.act(SIGTERM, calls.SIG_HANDLE)
    state.procmask(calls.SIG_BLOCK, bit(SIGTERM))
    assert state.post(SIGTERM, 7, "why") is Deed.PENDING
    assert state.take_deliverable(ALL_MASK) is None
    _, deeds = state.procmask(calls.SIG_UNBLOCK, bit(SIGTERM))
    assert [deed for deed, _ in deeds] == [Deed.DOORBELL]
    taken = state.take_deliverable(ALL_MASK)
    assert taken is not None
    assert (taken.number, taken.sender, taken.why) == (SIGTERM, 7, "why")
    assert state.post(SIGTERM, 0, "") is Deed.DOORBELL


def test_defaults():
    state = SignalState()
    assert state.post(SIGINT, 0, "") is Deed.FORWARD
    assert state.post(SIGUSR1, 0, "") is Deed.FORWARD
    assert state.post(SIGLOOP, 0, "") is Deed.END
    assert state.post(SIGCHLD, 0, "") is Deed.NOTHING
    assert state.pending == {}


def test_a_masked_default_is_acted_on_when_unmasked():
    state = SignalState()
    state.procmask(calls.SIG_BLOCK, bit(SIGTERM) | bit(SIGCHLD))
    assert state.post(SIGTERM, 0, "") is Deed.PENDING
    assert state.post(SIGCHLD, 0, "") is Deed.PENDING  # so that SIGWAIT can take it
    _, deeds = state.procmask(calls.SIG_SETMASK, 0)
    assert [deed for deed, _ in deeds] == [Deed.FORWARD, Deed.NOTHING]
    assert state.pending == {}


def test_sigwait_takes_what_is_masked_and_the_first_of_a_number_stays():
    state = SignalState(mask=bit(SIGUSR1))
    state.post(SIGUSR1, 1, "first")
    state.post(SIGUSR1, 2, "second")
    taken = state.take(bit(SIGUSR1))
    assert taken is not None
    assert taken.why == "first"
    assert state.take(bit(SIGUSR1)) is None


def test_ignoring_discards_what_waits():
    state = SignalState(mask=bit(SIGTERM))
    state.post(SIGTERM, 0, "")
    state.act(SIGTERM, calls.SIG_IGN)
    state.procmask(calls.SIG_SETMASK, 0)
    assert state.pending == {}
    assert state.post(SIGTERM, 0, "") is Deed.NOTHING


def test_stop_may_be_deferred_and_continue_always_continues():
    state = SignalState(mask=bit(SIGSTOP) | bit(SIGCONT))
    assert state.post(SIGSTOP, 0, "") is Deed.DEFER_STOP
    assert state.post(SIGCONT, 0, "") is Deed.CONTINUE
    assert SIGSTOP not in state.pending
    assert state.post(SIGSTOP, 0, "") is Deed.DEFER_STOP
    _, deeds = state.procmask(calls.SIG_UNBLOCK, bit(SIGSTOP))
    assert [deed for deed, _ in deeds] == [Deed.STOP]
    state.act(SIGCONT, calls.SIG_IGN)
    assert state.post(SIGCONT, 0, "") is Deed.CONTINUE


@given(st.lists(st.one_of(
    st.tuples(st.just("post"), st.sampled_from([s.number for s in SIGNALS])),
    st.tuples(st.just("mask"), st.integers(0, ALL_MASK)),
    st.tuples(st.just("act"), st.sampled_from([SIGTERM, SIGINT, SIGUSR1, SIGCHLD, SIGCONT, SIGLOOP])),
    st.tuples(st.just("take"), st.integers(0, ALL_MASK)),
), max_size=40), st.randoms())
def test_nothing_deliverable_is_ever_left_without_a_doorbell(steps, rng):
    """What a handler is due for was announced since it became due; the queue never holds two of a number."""
    state, rung = SignalState(), set()
    for what, value in steps:
        deeds = []
        if what == "post":
            deed = state.post(value, 0, "")
            deeds = [(deed, value)]
        elif what == "mask":
            deeds = [(d, p.number) for d, p in state.procmask(calls.SIG_SETMASK, value)[1]]
        elif what == "act":
            deeds = [(d, p.number) for d, p in state.act(value, rng.choice([0, 1, 2]))[1]]
        elif (taken := state.take(value)) is not None:
            rung.discard(taken.number)
        rung |= {number for deed, number in deeds
                 if deed is Deed.DOORBELL or (deed is Deed.CONTINUE and number in state.pending)}
        due = {n for n in state.pending if state.dispositions.get(n) == calls.SIG_HANDLE and not state.mask & bit(n)}
        assert due <= rung
