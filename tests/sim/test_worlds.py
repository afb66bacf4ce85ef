"""Whole kernels in one process: random agents, calls, signals, stops, kills and crashes, replayed by a seed.

Invariants of each world: nothing reaches a stopped or ended agent (machine.Violation); every acknowledged call is in
the journal after kill -9, every acknowledged durable one after a loss of power; the chain verifies; at the end no uid,
sandbox, waiting call, handle or task is left.
"""

import os

import pytest
from sim.worlds import run_world

from agentix_kernel import dispatch, lifecycle, rebirth
from agentix_kernel.process import Why

WORLDS = int(os.environ.get("AGENTIX_WORLDS", "50"))


@pytest.mark.parametrize("seed", range(WORLDS))
def test_world(seed):
    told = run_world(seed)
    assert told.problems == []


def test_a_seed_replays_a_world():
    first, second = run_world(7), run_world(7)
    assert first.trace == second.trace
    assert len(first.trace) > 50


def test_worlds_see_what_they_are_for():
    """A simulation that never stops, kills, denies or crashes would prove nothing."""
    seen = set()
    for seed in range(20):
        seen |= run_world(seed).seen
    assert {"stopped", "killed", "denied", "crash", "power", "shutdown", "spawn", "exit", "policy", "restart",
            "restarted by the operator", "restart refused", "signal refused"} <= seen


def answers_anybody(session, data):
    if not session.closed:
        session.send_now(data)


def records_half(kernel, process, entry, args, verdict, number=0, message="", rule=""):
    if process.calls % 2:
        return kernel.journal.published
    return original_note(kernel, process, entry, args, verdict, number, message, rule)


def forgets_children(kernel, process, end):
    children = set(process.children)
    original_close(kernel, process, end)
    process.children |= children


def restarts_whatever_it_did(kernel, process, end):
    return 0.1 if end.why is Why.POLICY and not kernel.shutting else original_delay(kernel, process, end)


original_note, original_close, original_delay = dispatch._note, lifecycle._close_accounts, rebirth.delay


@pytest.mark.parametrize(("room", "name", "bug"), [
    (dispatch.Session, "send", answers_anybody),
    (dispatch, "_note", records_half),
    (lifecycle, "_close_accounts", forgets_children), (rebirth, "delay", restarts_whatever_it_did),
], ids=["answers the stopped and the doomed", "answers what it did not record", "leaks a family",
        "restarts what broke its policy"])
def test_a_planted_bug_is_caught(monkeypatch, room, name, bug):
    monkeypatch.setattr(room, name, bug)
    assert [seed for seed in range(60) if run_world(seed).problems], "no world noticed"
