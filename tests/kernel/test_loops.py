"""Loops: the same call answered alike again and again is told once; whoever gets on with something is left alone."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentix_kernel.authority.policy.inforce import Source, make
from agentix_kernel.process import Why
from agentix_kernel.repeats import KINDS_MAX, Repeats
from agentix_syscalls import calls, records, signals

HANDLED = (signals.SIGLOOP, calls.SIG_HANDLE)
READ, WRITE = calls.O_RDONLY, calls.O_WRONLY | calls.O_CREAT


def of(loops, mode="enforce"):
    text = f"version: 1\nname: l\nmode: {mode}\nallow:\n  - {{file: /, action: [read, write]}}\n{loops}"
    return make(Source("l.yaml", text.encode()))


@pytest.fixture
async def door(bench):
    """Of an agent that handles SIGLOOP, for which four alike in 10 s are a loop."""
    made = await bench.door(policy=of("loops: {calls: 4, window: 10s}\n"))
    made.call(calls.SYS_SIGACTION, *HANDLED)
    return made


def told(bench):
    return [record for record in bench.kept(records.SIGNAL) if record.data[0] == "SIGLOOP"]


async def test_a_call_that_fails_alike_is_told_once_with_the_call(bench, door):
    results = [door.call(calls.SYS_OPEN, b"mem/working/none") for _ in range(10)]
    assert results == [errno.ENOENT] * 10, "only the signal comes: nothing is refused"
    [loop] = told(bench)
    assert loop.data[2].startswith("4 times in ")
    assert " s: OPEN(mem/working/none, 0, 420), /agent/1/mem/working/none: " in loop.data[2]
    assert loop.rule == "l.yaml: loops: 4 in 10s"


async def test_without_a_handler_it_ends_the_agent(bench):
    door = await bench.door(policy=of("loops: {calls: 2, window: 1s}\n"))
    for _ in range(2):
        door.call(calls.SYS_STAT, b"mem")
    assert (door.process.doom.why, door.process.doom.signal) == (Why.LOOP, "SIGLOOP")
    assert "STAT(mem, 0), the same answer" in door.process.doom.detail


async def test_another_call_in_between_hides_nothing(bench, door):
    for number in range(4):
        door.call(calls.SYS_STAT, b"mem")
        door.call(calls.SYS_OPEN, b"mem/working/%d" % number)
    assert len(told(bench)) == 1


async def test_answers_that_differ_are_no_loop(bench, door):
    fd = 0
    for number in range(8):
        door.call(calls.SYS_OPEN, b"mem/working/log", WRITE)
        fd = door.replies[-1][2]
        door.call(calls.SYS_WRITE, fd, b"x", number)  # the size that STAT tells grows
        door.call(calls.SYS_CLOSE, fd)
        door.call(calls.SYS_STAT, b"mem/working/log")
    assert told(bench) == []


@pytest.mark.parametrize("frame", [
    (calls.SYS_GETPID,), (calls.SYS_CHECKPOLICY, "READ", b"mem"), (calls.SYS_RUSAGE,),
    (calls.SYS_SIGPROCMASK, calls.SIG_BLOCK, 2), (calls.SYS_OPEN, b"mem/working"),
])
async def test_what_gets_on_or_is_asked_before_each_step_is_no_loop(bench, door, frame):
    assert [door.call(*frame) for _ in range(12)] == [None] * 12
    assert told(bench) == []


async def test_reading_the_same_from_a_file_and_waiting_in_vain_are_no_loop(bench, door):
    door.call(calls.SYS_OPEN, b"mem/working/log", WRITE)
    door.call(calls.SYS_OPEN, b"mem/working/log", READ)
    fd = door.replies[-1][2]
    assert [door.call(calls.SYS_READ, fd, 10) for _ in range(12)] == [None] * 12
    assert [await door.finish(calls.SYS_SIGWAIT, 1, 0) for _ in range(6)] == [errno.EAGAIN] * 6
    assert told(bench) == []


async def test_what_is_slow_enough_is_no_loop(bench, door, mock_clock):
    for _ in range(30):
        door.call(calls.SYS_STAT, b"mem")
        mock_clock.jump(3.4)
    assert told(bench) == []


async def test_a_loop_that_ended_and_came_again_is_told_again(bench, door, mock_clock):
    for _ in range(3):
        for _ in range(7):  # two windows of the same loop
            for _ in range(5):
                door.call(calls.SYS_STAT, b"mem")
            mock_clock.jump(3)
        mock_clock.jump(11)
        door.call(calls.SYS_STAT, b"mem")  # alone in its window: the loop is over
        mock_clock.jump(11)
    assert len(told(bench)) == 3


@pytest.mark.parametrize(("tool", "alike"), [("shell.execute", "the same answer"), ("none", "EXEC: no tool is named")])
async def test_tools_that_answer_or_fail_alike_are_a_loop(bench, tool, alike):
    door = await bench.door(policy=of("  - {tool: '*'}\nloops: {calls: 3, window: 1h}\n"))
    door.call(calls.SYS_SIGACTION, *HANDLED)
    for _ in range(3):
        await door.finish(calls.SYS_EXEC, tool, {"command": "true"})
    [loop] = told(bench)
    assert f"EXEC({tool}, {{'command': 'true'}}, None), {alike}" in loop.data[2]


async def test_what_may_not_be_recorded_is_not_told(bench, door):
    for _ in range(4):
        door.call(calls.SYS_WRITE, 99, b"password")
    [loop] = told(bench)
    assert "WRITE(99, 8, -1)" in loop.data[2]


async def test_audit_records_and_sends_nothing(bench):
    door = await bench.door(policy=of("loops: {calls: 2, window: 1s}\n", mode="audit"))
    for _ in range(3):
        assert door.call(calls.SYS_STAT, b"mem") is None
    assert told(bench) == []
    [limit] = bench.kept(records.LIMIT)
    assert (limit.data[0], limit.verdict, limit.rule) == ("loop", records.AUDITED, "l.yaml: loops: 2 in 1s")


@pytest.mark.parametrize(("loops", "found"), [("loops: off\n", False), ("", True)])
async def test_off_is_off_and_nothing_said_is_as_the_configuration_says(bench, loops, found):
    door = await bench.door(policy=of(loops))
    for _ in range(bench.kernel.config.loop_calls):
        door.call(calls.SYS_STAT, b"mem")
    assert (door.process.doom is not None) is found
    assert [loop.rule for loop in told(bench)] == ["agentd.toml: loops: 10000 in 10s"] * found


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(2, 6), st.integers(1, 60))
def test_a_burst_within_a_window_is_found_and_nothing_slower_ever_is(pauses, calls_, window):
    repeats, now, times = Repeats(), 0, list[int]()
    for pause in pauses:
        now += pause
        times.append(now)
        found = repeats.add(1, now, calls_, window)
        if found is not None:
            assert now - times[-calls_] <= window
    assert all(kind.count < calls_ or kind.told for kind in repeats.kinds.values())


def test_what_is_remembered_is_bounded():
    repeats = Repeats()
    for kind in range(5 * KINDS_MAX):
        repeats.add(kind, 0, 3, 10)
        assert len(repeats.kinds) <= KINDS_MAX
