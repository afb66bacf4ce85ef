"""Signals: what people type, and what is in a set."""

import signal as linux

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentix_syscalls import signals
from agentix_syscalls.signals import SIGNALS, SignalNameError, from_user


@pytest.mark.parametrize("row", SIGNALS, ids=lambda row: row.name)
def test_every_spelling_of_a_name(row) -> None:
    short = row.name.removeprefix("SIG")
    for text in (row.name, short, short.lower(), f"-{short}", f" {row.name.lower()} "):
        assert from_user(text) is row


@pytest.mark.parametrize(("number", "name"), [
    (9, "SIGKILL"), (15, "SIGTERM"), (2, "SIGINT"), (19, "SIGSTOP"), (18, "SIGCONT"), (10, "SIGUSR1"), (12, "SIGUSR2"),
])
def test_bare_numbers_are_linux_ones(number: int, name: str) -> None:
    assert from_user(str(number)).name == name
    assert from_user(f"-{number}").name == name


@pytest.mark.parametrize("row", [row for row in SIGNALS if row.linux is not None], ids=lambda row: row.name)
def test_linux_numbers_are_linux_numbers(row) -> None:
    assert getattr(linux, row.name) == row.linux


@pytest.mark.parametrize(("number", "ours"), [(8, "SIGPOLICY"), (11, "SIGLOOP"), (13, "SIGCHLD"), (1, "SIGSTOP")])
def test_a_number_with_two_meanings_is_refused_with_both(number: int, ours: str) -> None:
    with pytest.raises(SignalNameError) as caught:
        from_user(str(number))
    assert f"{number} is {ours}" in str(caught.value)
    assert f"write {ours.removeprefix('SIG')}" in str(caught.value)


@pytest.mark.parametrize("text", ["", "-", "SIG", "HUP", "0", "64", "9x", "--9", "KILL TERM", "SIGSIGKILL"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(SignalNameError):
        from_user(text)


@given(text=st.text(max_size=10))
def test_reading_is_total(text: str) -> None:
    try:
        assert from_user(text) in SIGNALS
    except SignalNameError as refused:
        assert str(refused)


@given(numbers=st.sets(st.sampled_from([row.number for row in SIGNALS])))
def test_sets_hold_what_was_put_in(numbers: set[int]) -> None:
    mask = signals.mask_of(numbers)
    assert signals.members(mask) == sorted(numbers)
    assert mask & signals.ALL_MASK == mask


def test_bits_that_name_no_signal_are_ignored() -> None:
    assert signals.members((1 << 64) - 1) == [row.number for row in SIGNALS]
    assert signals.bit(1) == 1


def test_what_nobody_can_dodge() -> None:
    assert {signals.SIGKILL, signals.SIGPOLICY, signals.SIGTRUST} == signals.UNMASKABLE
    assert {signals.SIGPOLICY, signals.SIGTRUST} == signals.FATAL_FAMILY
    for number in signals.UNMASKABLE:
        assert signals.BY_NUMBER[number].default is signals.Default.KILL
        assert not signals.BY_NUMBER[number].forwarded


def test_only_what_has_a_linux_number_is_forwarded() -> None:
    assert all(row.linux is not None for row in SIGNALS if row.forwarded)
