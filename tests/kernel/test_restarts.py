"""Restart policies and operators' restarts, on a simulated machine: one life after the other, and never one too many.

Tests take autojump_clock, where time is simulated: none waits for a delay.
"""

import errno
import os

import pytest
import trio

from agentix_kernel import delivery, lifecycle, rebirth, restarts
from agentix_kernel.authority.policy.inforce import make
from agentix_kernel.process import Command, End, State, Why
from agentix_kernel.world import Bind, Ended, LaunchError, Limits
from agentix_syscalls import calls, records, signals
from agentix_syscalls.errors import CallError
from agentix_syscalls.spawn import Restart

ALWAYS, ON_FAILURE = Restart("always"), Restart("on-failure")


async def spawn(bench, restart, binds=(), **policy):
    process, _ = await lifecycle.spawn(bench.kernel, Command("exec", ("agent",), binds=binds), Limits(),
                                       make(**policy), None, None, restart)
    return process


async def ended(bench, process, code=3):
    """Its program ends; the life that the table has then."""
    process.sandbox.finish(Ended(code, None))
    await process.over.wait()
    return bench.kernel.table.get(process.id)


async def begun(process):
    while process.state is State.READY:
        await process.changed.park()
    return process


async def again(bench, process, code=3):
    return await begun(await ended(bench, process, code))


def send(bench, process, number):
    delivery.send(bench.kernel, process, number, 0, "test")


def by_operator(bench, process, number):
    rebirth.dismiss(bench.kernel, process, number)
    send(bench, process, number)


def a_bind():
    fd = os.open("/", os.O_PATH)
    return Bind(fd, "/data", False, "/")


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("end", "failure"), [
    (End(Why.EXIT, code=0), False), (End(Why.EXIT, code=1), True), (End(Why.SIGNAL, signal="SIGSEGV"), True),
    (End(Why.SIGNAL, signal="SIGKILL"), True), (End(Why.SIGNAL, signal="SIGTERM"), False),
    (End(Why.SIGNAL, signal="SIGPIPE"), False), (End(Why.MEMORY, signal="SIGKILL"), True),
    (End(Why.TIMEOUT, signal="SIGKILL"), True), (End(Why.LOOP, signal="SIGLOOP"), True),
])
async def test_what_a_failure_is(bench, autojump_clock, end, failure):
    assert restarts.failed(end) is failure
    for policy, wanted in ((ON_FAILURE, failure), (ALWAYS, True), (Restart(), False)):
        process = await spawn(bench, policy)
        assert (rebirth.delay(bench.kernel, process, end) is not None) is wanted
        by_operator(bench, process, signals.SIGKILL)
        await process.gone.wait()


@pytest.mark.parametrize("why", [Why.POLICY, Why.TRUST, Why.BUDGET, Why.UNKILLABLE, Why.SHUTDOWN])
async def test_ends_that_no_policy_restarts(bench, autojump_clock, why):
    process = await spawn(bench, ALWAYS)
    assert rebirth.delay(bench.kernel, process, End(why, signal="SIGKILL")) is None


async def test_a_next_life_is_the_same_agent_with_nothing_of_the_last_one(bench, autojump_clock):
    first = await spawn(bench, ALWAYS)
    door = bench.connect(first).greet()
    door.call(calls.SYS_SIGACTION, signals.SIGTERM, calls.SIG_IGN)
    door.call(calls.SYS_OPEN, "mem/working/x", calls.O_RDWR | calls.O_CREAT)
    waiting = await ended(bench, first)
    assert (first.state, waiting.state, waiting.waking is not None) == (State.DEAD, State.READY, True)
    second = await begun(waiting)
    assert (second.id, second.uid, second.name, second.life) == (first.id, first.uid, first.name, 2)
    assert (second.state, second.calls, second.handles, second.sessions) == (State.RUNNING, 0, {}, set())
    assert second.signals.dispositions == {}
    assert second.log is first.log
    assert bench.kernel.tree.exists(first.id, b"mem/working/x")
    assert not second.gone.is_set()
    assert bench.kernel.table.by_uid[first.uid] is bench.kernel.table.by_name[first.name] is second
    assert door.session.closed
    restart, = bench.kept(records.RESTART)
    assert (restart.life, restart.data) == (1, ("exited with 3", 0.1, 2))
    assert [record.life for record in bench.kept(records.SPAWN)] == [1, 1, 2, 2]


async def test_the_back_off_doubles_then_the_start_limit_ends_it(bench, autojump_clock):
    process = await spawn(bench, ON_FAILURE)
    for _ in range(4):
        process = await again(bench, process)
    last = await ended(bench, process)
    assert last is process
    assert [record.data[1] for record in bench.kept(records.RESTART)] == [0.1, 0.2, 0.4, 0.8]
    assert (last.state, last.gone.is_set(), last.end.code) == (State.DEAD, True, 3)
    assert restarts.told(last, 0) == "not restarted: started 5 times in 10 s"


async def test_the_back_off_has_a_greatest_delay_and_begins_anew_after_a_long_life(bench, autojump_clock):
    process = await spawn(bench, ON_FAILURE)
    for _ in range(12):
        await trio.sleep(9.9)
        process = await again(bench, process)
    await trio.sleep(10)
    await again(bench, process)
    delays = [record.data[1] for record in bench.kept(records.RESTART)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0, 0.1]


async def test_a_greatest_number_of_restarts(bench, autojump_clock):
    process = await spawn(bench, Restart("always", 2))
    for _ in range(2):
        process = await again(bench, process, 0)
    process = await ended(bench, process, 0)
    assert (process.life, process.state, process.end.code) == (3, State.DEAD, 0)
    assert restarts.told(process, 0) == "not restarted: restarted 2 times, the most its policy allows"


@pytest.mark.parametrize("number", [signals.SIGTERM, signals.SIGKILL, signals.SIGINT])
async def test_what_an_operator_ends_stays_ended(bench, autojump_clock, number):
    process = await spawn(bench, ALWAYS)
    by_operator(bench, process, number)
    process.sandbox.finish(Ended(None, 2))  # unless it was killed before
    await process.gone.wait()
    assert (bench.kernel.table.get(process.id), process.state) == (process, State.DEAD)
    assert bench.kept(records.RESTART) == []


async def test_an_agent_that_kills_itself_is_restarted(bench, autojump_clock):
    process = await spawn(bench, ON_FAILURE)
    bench.connect(process).greet().call(calls.SYS_SIGNAL, process.id, signals.SIGKILL)
    await process.over.wait()
    assert (await begun(bench.kernel.table.get(process.id))).life == 2


@pytest.mark.parametrize("number", [signals.SIGTERM, signals.SIGKILL, signals.SIGUSR1, signals.SIGPOLICY])
async def test_what_waits_for_its_restart_can_be_ended(bench, autojump_clock, number):
    waiting = await ended(bench, await spawn(bench, ALWAYS))
    by_operator(bench, waiting, number)
    await waiting.gone.wait()
    assert (waiting.state, waiting.sandbox, waiting.life) == (State.DEAD, None, 2)
    assert waiting.end.signal == signals.BY_NUMBER[number].name
    await trio.sleep(100)
    assert bench.kernel.table.get(waiting.id) is waiting


@pytest.mark.parametrize("number", [signals.SIGSTOP, signals.SIGCONT, signals.SIGCHLD])
async def test_other_signals_do_not_reach_what_waits(bench, autojump_clock, number):
    waiting = await ended(bench, await spawn(bench, ALWAYS))
    with pytest.raises(CallError, match="waits for its restart") as caught:
        send(bench, waiting, number)
    assert caught.value.number == errno.EAGAIN
    assert (await begun(waiting)).state is State.RUNNING


async def test_a_late_kill_of_one_life_does_not_reach_the_next(bench, autojump_clock):
    first = await spawn(bench, ALWAYS)
    send(bench, first, signals.SIGTERM)  # its program is deaf: the kill is due in a second
    second = await again(bench, first)
    await trio.sleep(5)
    assert second.state is State.RUNNING
    assert first.doom.code == 3


async def test_a_shutdown_ends_what_waits(bench, autojump_clock):
    waiting = await ended(bench, await spawn(bench, ALWAYS))
    bench.kernel.stop("test")
    await waiting.gone.wait()
    assert (waiting.end.why, waiting.lives.wanted) == (Why.SHUTDOWN, True)


async def test_nothing_is_restarted_in_a_shutdown(bench, autojump_clock):
    process = await spawn(bench, ALWAYS)
    bench.kernel.stop("test")
    await process.gone.wait()
    assert (process.state, bench.kept(records.RESTART)) == (State.DEAD, [])


async def test_what_a_life_spawned_ends_with_its_restart(bench, autojump_clock):
    """Orphans, too: a chain of them would outlast any number of lives."""
    first = await spawn(bench, ALWAYS, spawn_max=2)
    child = await bench.agent(policy=make(spawn_max=1), parent=first)
    orphan = await bench.agent(parent=child)
    lifecycle.doom(bench.kernel, child, End(Why.KILLED, signal="SIGKILL"))
    await child.over.wait()
    assert orphan.parent == 0
    second = await again(bench, first)
    await orphan.gone.wait()
    assert "is restarted" in orphan.end.detail
    assert (second.children, second.spawned, child.state) == (set(), 0, State.DEAD)


async def test_binds_stay_open_until_the_last_life_is_over(bench, autojump_clock):
    bind = a_bind()
    process = await again(bench, await spawn(bench, ALWAYS, (bind,)))
    assert process.sandbox.what.binds == (bind,)
    by_operator(bench, process, signals.SIGKILL)
    await process.gone.wait()
    assert not is_open(bind.source_fd)


async def test_a_life_that_cannot_be_launched_counts_as_failed(bench, autojump_clock, monkeypatch):
    process = await spawn(bench, ON_FAILURE)

    async def fails(machine, what, watch):
        del machine, what, watch
        await trio.lowlevel.checkpoint()
        raise LaunchError(errno.ENOMEM, "clone", "no memory")

    monkeypatch.setattr(type(bench.machine), "launch", fails)
    process.sandbox.finish(Ended(1, None))
    await process.gone.wait()
    last = bench.kernel.table.get(process.id)
    assert (last.life, last.state, last.end.detail) == (5, State.DEAD, "could not be launched: clone: no memory")
    assert bench.machine.live == set()


# --- operators -----------------------------------------------------------------------------------------------------

async def test_a_restart_of_a_living_agent(bench, autojump_clock):
    old, new = a_bind(), a_bind()
    first = await spawn(bench, Restart(), (old,))
    send(bench, first, signals.SIGSTOP)
    second = await rebirth.restart(bench.kernel, first, (new,))
    assert (second.life, second.state, second.sandbox.what.binds) == (2, State.RUNNING, (new,))
    assert (first.end.why, first.end.detail) == (Why.KILLED, "did not end within 1 s of SIGTERM")
    assert (is_open(old.source_fd), is_open(new.source_fd)) == (False, True)
    assert not second.gone.is_set()
    by_operator(bench, second, signals.SIGKILL)
    await first.gone.wait()
    assert bench.kernel.table.get(first.id) is second


async def test_a_restart_of_one_that_handles_sigterm_and_stays(bench, autojump_clock):
    process = await spawn(bench, Restart())
    bench.connect(process).greet().call(calls.SYS_SIGACTION, signals.SIGTERM, calls.SIG_IGN)
    assert (await rebirth.restart(bench.kernel, process, ())).life == 2
    assert process.end.detail == "did not end in time to be restarted"


@pytest.mark.parametrize("number", [signals.SIGKILL, signals.SIGPOLICY])
async def test_a_restart_of_a_dead_agent(bench, autojump_clock, number):
    process = await spawn(bench, ON_FAILURE)
    by_operator(bench, process, number)
    await process.gone.wait()
    second = await rebirth.restart(bench.kernel, process, ())
    assert (second.life, second.state, second.gone.is_set()) == (2, State.RUNNING, False)
    assert (await again(bench, second)).life == 3, "its policy holds again"


async def test_a_restart_of_what_waits_comes_at_once_and_counts_anew(bench, autojump_clock):
    process = await spawn(bench, ON_FAILURE)
    for _ in range(3):
        process = await again(bench, process)
    waiting = await ended(bench, process)
    begin = trio.current_time()
    assert await rebirth.restart(bench.kernel, waiting, ()) is waiting
    assert (trio.current_time(), waiting.state, waiting.lives.restarts) == (begin, State.RUNNING, 0)


async def test_two_restarts_at_once(bench, autojump_clock):
    process = await spawn(bench, Restart())
    bind = a_bind()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rebirth.restart, bench.kernel, process, ())
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(CallError, match="is being restarted"):
            await rebirth.restart(bench.kernel, process, (bind,))
    assert not is_open(bind.source_fd)
    assert bench.kernel.table.get(process.id).life == 2


async def test_what_breaks_its_policy_while_it_is_asked_to_end_is_not_restarted(bench, autojump_clock):
    process, bind = await spawn(bench, ALWAYS), a_bind()
    async with trio.open_nursery() as nursery:
        async def restart():
            with pytest.raises(CallError, match="is not restarted: SIGPOLICY") as caught:
                await rebirth.restart(bench.kernel, process, (bind,))
            assert caught.value.number == errno.ECANCELED
        nursery.start_soon(restart)
        await trio.testing.wait_all_tasks_blocked(0.01)
        send(bench, process, signals.SIGPOLICY)
    assert (process.state, is_open(bind.source_fd)) == (State.DEAD, False)
    assert bench.kernel.table.get(process.id) is process
    assert (await rebirth.restart(bench.kernel, process, ())).life == 2


async def test_a_restart_of_what_is_just_ending(bench, autojump_clock):
    process = await spawn(bench, Restart())
    lifecycle.doom(bench.kernel, process, End(Why.KILLED, signal="SIGKILL"))
    second = await rebirth.restart(bench.kernel, process, ())
    assert (process.gone.is_set(), second.gone.is_set(), second.state) == (True, False, State.RUNNING)


async def test_who_asked_for_a_restart_may_go_away(bench, autojump_clock):
    process, bind = await spawn(bench, Restart()), a_bind()
    with trio.move_on_after(0.5):
        await rebirth.restart(bench.kernel, process, (bind,))
    assert process.state is State.RUNNING
    await process.over.wait()
    second = await begun(bench.kernel.table.get(process.id))
    assert (second.life, second.sandbox.what.binds, is_open(bind.source_fd)) == (2, (bind,), True)


async def test_a_restart_in_a_shutdown_is_refused(bench, autojump_clock):
    process, bind = await spawn(bench, ALWAYS), a_bind()
    bench.kernel.shutting = True
    with pytest.raises(CallError) as caught:
        await rebirth.restart(bench.kernel, process, (bind,))
    assert (caught.value.number, is_open(bind.source_fd)) == (errno.ESHUTDOWN, False)


async def test_a_zombie_is_its_parents(bench, autojump_clock):
    parent = await bench.agent(policy=make(spawn_max=1))
    child = await bench.agent(parent=parent)
    send(bench, child, signals.SIGKILL)
    await child.gone.wait()
    with pytest.raises(CallError, match="has not waited for it") as caught:
        await rebirth.restart(bench.kernel, child, ())
    assert caught.value.number == errno.EBUSY


async def test_a_restarted_child_stays_its_parents(bench, autojump_clock):
    parent = await bench.agent(policy=make(spawn_max=1))
    child = await bench.agent(parent=parent)
    second = await rebirth.restart(bench.kernel, child, ())
    assert (second.parent, parent.children) == (parent.id, {second.id})
    send(bench, second, signals.SIGKILL)
    await second.gone.wait()
    assert second.state is State.ZOMBIE


async def test_as_many_agents_as_there_may_be(bench, autojump_clock):
    process = await spawn(bench, Restart())
    by_operator(bench, process, signals.SIGKILL)
    await process.gone.wait()
    for _ in range(3):
        await bench.agent()
    with pytest.raises(CallError, match="restart: 3 agents live already") as caught:
        await rebirth.restart(bench.kernel, process, ())
    assert caught.value.number == errno.EAGAIN


async def test_a_restart_that_cannot_be_launched_says_so(bench, autojump_clock, monkeypatch):
    process = await spawn(bench, Restart())

    async def fails(machine, what, watch):
        del machine, what, watch
        await trio.lowlevel.checkpoint()
        raise LaunchError(errno.ENOENT, "exec", "no such file")

    monkeypatch.setattr(type(bench.machine), "launch", fails)
    with pytest.raises(CallError, match="could not be launched: exec: no such file"):
        await rebirth.restart(bench.kernel, process, ())
    assert bench.kernel.table.get(process.id).state is State.DEAD
