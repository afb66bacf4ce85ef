"""CANCEL: what waits is given up in the kernel, answers, and takes with it what it had begun, or loses nothing."""

import errno

import pytest
import trio
import trio.testing
from sim.machine import SimMachine

from agentix_kernel import delivery
from agentix_kernel.authority.policy.inforce import make
from agentix_kernel.dispatch import serve
from agentix_syscalls import calls, records, signals, wire

USR2 = 1 << (signals.SIGUSR2 - 1)
WAITING = 7


def begin(door, number, *args, user_data=WAITING):
    """Serve a call that waits; its answer is looked for later."""
    serve(door.session, number, 0, user_data, wire.pack(args))
    door.kernel.flush()


def answers(door, user_data=WAITING):
    return [body[0] if flags & wire.F_ERROR else body for found, flags, body in door.replies if found == user_data]


async def cancelled(door, user_data=WAITING):
    """CANCEL's own answer, and what became of the call."""
    own = door.call(calls.SYS_CANCEL, user_data)
    await trio.testing.wait_all_tasks_blocked()
    return own, answers(door, user_data)


@pytest.mark.parametrize(("number", "args"), [
    (calls.SYS_SIGWAIT, (USR2, None)), (calls.SYS_SIGWAIT, (USR2, 60.0)), (calls.SYS_WAIT, (-1, 0, None)),
])
async def test_a_call_that_waits_is_cancelled(bench, number, args):
    door = await bench.door(policy=make(spawn_max=1))
    await bench.agent(parent=door.process)
    begin(door, number, *args)
    await trio.testing.wait_all_tasks_blocked()
    assert answers(door) == []
    assert await cancelled(door) == (None, [errno.ECANCELED])
    assert (door.process.waits, door.session.pending) == (0, {})
    cancel, given_up = bench.kept(records.CALL)[-2:]
    assert (cancel.data[0], cancel.data[1], cancel.verdict) == ("CANCEL", (WAITING,), records.ALLOWED)
    assert (given_up.data[2:], given_up.verdict) == (
        (errno.ECANCELED, f"{calls.BY_NUMBER[number].name}: cancelled"), records.FAILED)
    assert await cancelled(door) == (errno.ESRCH, [errno.ECANCELED])  # it waits no more, and is not answered twice
    assert bench.faults == []


async def test_others_go_on_waiting(bench):
    door = await bench.door()
    for user_data in (5, 6):
        begin(door, calls.SYS_SIGWAIT, USR2, None, user_data=user_data)
    assert await cancelled(door, 5) == (None, [errno.ECANCELED])
    assert answers(door, 6) == []
    door.process.signals.mask = USR2
    delivery.send(bench.kernel, door.process, signals.SIGUSR2, 0, "test")
    await trio.testing.wait_all_tasks_blocked()
    assert answers(door, 6) == [(signals.SIGUSR2, 0, "test")]


async def test_a_signal_that_was_taken_is_not_lost(bench):
    """Both in one tick: the result, or ECANCELED with the signal still pending."""
    door = await bench.door()
    door.process.signals.mask = USR2
    begin(door, calls.SYS_SIGWAIT, USR2, None)
    await trio.testing.wait_all_tasks_blocked()
    delivery.send(bench.kernel, door.process, signals.SIGUSR2, 0, "first")
    assert await cancelled(door) == (None, [(signals.SIGUSR2, 0, "first")])
    begin(door, calls.SYS_SIGWAIT, USR2, None)
    await trio.testing.wait_all_tasks_blocked()
    assert door.call(calls.SYS_CANCEL, WAITING) is None
    delivery.send(bench.kernel, door.process, signals.SIGUSR2, 0, "second")
    await trio.testing.wait_all_tasks_blocked()
    assert answers(door)[1:] == [errno.ECANCELED]
    assert door.process.signals.pending[signals.SIGUSR2].why == "second"


@pytest.mark.parametrize("user_data", [0, 1, 99, (1 << 64) - 1])
async def test_cancelling_what_does_not_wait(bench, user_data):
    door = await bench.door()
    assert door.call(calls.SYS_CANCEL, user_data) == errno.ESRCH


@pytest.mark.parametrize("user_data", [-1, 1 << 64, "5", None, True])
async def test_user_data_is_a_number_of_64_bits(bench, user_data):
    door = await bench.door()
    assert door.call(calls.SYS_CANCEL, body=wire.pack([user_data]) if user_data != 1 << 64 else b"\x91\xc0") \
        == errno.EINVAL


async def test_only_calls_of_the_own_connection(bench):
    process = await bench.agent()
    door, same_agent, stranger = bench.connect(process).greet(), bench.connect(process).greet(), await bench.door()
    begin(door, calls.SYS_SIGWAIT, USR2, None)
    await trio.testing.wait_all_tasks_blocked()
    assert same_agent.call(calls.SYS_CANCEL, WAITING) == errno.ESRCH
    assert stranger.call(calls.SYS_CANCEL, WAITING) == errno.ESRCH
    await trio.testing.wait_all_tasks_blocked()
    assert answers(door) == []


async def test_a_rule_may_deny_it(bench):
    door = await bench.door(policy=make(mode="enforce", deny=("CANCEL",)))
    begin(door, calls.SYS_SIGWAIT, USR2, None)
    assert await cancelled(door) == (errno.EPERM, [])


async def test_a_cancelled_tool_is_killed(bench, monkeypatch):
    door = await bench.door()
    async def endless(_machine, sandbox):
        await sandbox.over.wait()
    monkeypatch.setattr(SimMachine, "_tool", endless)
    begin(door, calls.SYS_EXEC, "shell.execute", {"command": "sleep infinity"})
    await trio.testing.wait_all_tasks_blocked()
    tool, = (sandbox for sandbox in bench.machine.live if sandbox.what.hostname == "tool")
    assert await cancelled(door) == (None, [errno.ECANCELED])
    assert (tool.killed, tool.closed, door.process.tools) == (True, True, 0)
    intent, outcome = bench.kept(records.TOOL)
    assert (intent.correlation, outcome.verdict) == (outcome.correlation, records.FAILED)
    assert "given up" in outcome.data[2]
    assert len(bench.kernel.registry._uids) == 1


async def test_a_spawn_that_has_begun_is_finished_and_told(bench, monkeypatch):
    """Its agent is there: the caller hears its id, or it would have a child that it knows nothing of."""
    door = await bench.door(policy=make(spawn_max=2))
    at_work, go_on = trio.Event(), trio.Event()
    launch = SimMachine.launch

    async def slow(machine, what, watch):
        at_work.set()
        await go_on.wait()
        return await launch(machine, what, watch)
    monkeypatch.setattr(SimMachine, "launch", slow)
    begin(door, calls.SYS_SPAWN, "exec", ["child"])
    await at_work.wait()
    assert await cancelled(door) == (None, [])
    go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    child, = door.process.children
    assert answers(door) == [child]


async def test_a_spawn_that_has_not_begun_makes_no_agent(bench):
    door = await bench.door(policy=make(spawn_max=2))
    begin(door, calls.SYS_SPAWN, "exec", ["child"])
    assert await cancelled(door) == (None, [errno.ECANCELED])
    assert (door.process.children, door.process.spawned) == (set(), 0)
    assert len(bench.kernel.table.by_id) == 1


async def test_a_cancelled_call_of_a_stopped_agent_answers_when_it_continues(bench):
    door = await bench.door()
    begin(door, calls.SYS_SIGWAIT, USR2, None)
    await trio.testing.wait_all_tasks_blocked()
    serve(door.session, calls.SYS_CANCEL, 0, 1, wire.pack((WAITING,)))
    delivery.send(bench.kernel, door.process, signals.SIGSTOP, 0, "test")
    await trio.testing.wait_all_tasks_blocked()
    assert answers(door) == []
    delivery.send(bench.kernel, door.process, signals.SIGCONT, 0, "test")
    await trio.testing.wait_all_tasks_blocked()
    door.session.resume()  # a machine without doors leaves that to us
    assert answers(door) == [errno.ECANCELED]
