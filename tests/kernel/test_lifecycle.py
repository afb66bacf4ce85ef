"""Edges of agents' lives on a simulated machine: ends that meet each other, and stops that meet ends."""

import trio
import trio.testing

from agentix_kernel import delivery, lifecycle
from agentix_kernel.authority.policy.inforce import make
from agentix_kernel.process import End, State, Why
from agentix_kernel.world import Ended
from agentix_syscalls import records, signals


async def settle():
    await trio.testing.wait_all_tasks_blocked()


async def test_the_first_end_that_is_decided_is_the_one_told(bench):
    process = await bench.agent()
    lifecycle.doom(bench.kernel, process, End(Why.POLICY, signal="SIGPOLICY", rule="deny X"))
    delivery.send(bench.kernel, process, signals.SIGKILL, 0, "late")
    process.sandbox.finish(Ended(0, None))
    await settle()
    assert (process.end.why, process.end.rule, process.state) == (Why.POLICY, "deny X", State.DEAD)
    assert [record.data[2] for record in bench.kept(records.EXIT)] == ["policy"]


async def test_stop_and_kill_at_once(bench):
    process = await bench.agent()
    for number in (signals.SIGSTOP, signals.SIGKILL, signals.SIGCONT):
        delivery.send(bench.kernel, process, number, 0, "test")
    await settle()
    assert (process.state, process.end.why) == (State.DEAD, Why.KILLED)
    assert bench.machine.live == set()
    assert bench.faults == []


async def test_stops_and_continues_end_as_the_last_one_says(bench):
    process = await bench.agent()
    for number in (signals.SIGSTOP, signals.SIGCONT) * 3:
        delivery.send(bench.kernel, process, number, 0, "test")
    await settle()
    assert (process.state, process.held, process.sandbox.frozen) == (State.RUNNING, False, False)
    delivery.send(bench.kernel, process, signals.SIGSTOP, 0, "test")
    await settle()
    assert (process.state, process.held, process.sandbox.frozen) == (State.STOPPED, True, True)


async def test_a_parent_that_ends_leaves_orphans_and_buries_zombies(bench):
    parent = await bench.agent(policy=make(spawn_max=2))
    living, zombie = await bench.agent(parent=parent), await bench.agent(parent=parent)
    lifecycle.doom(bench.kernel, zombie, End(Why.KILLED, signal="SIGKILL"))
    await settle()
    assert zombie.state is State.ZOMBIE
    lifecycle.doom(bench.kernel, parent, End(Why.KILLED, signal="SIGKILL"))
    await settle()
    assert (living.state, living.parent, zombie.state) == (State.RUNNING, 0, State.DEAD)
    assert parent.children == set()


async def test_what_is_forgotten_gives_its_name_and_uid_back(bench):
    process = await bench.agent(name="one")
    lifecycle.doom(bench.kernel, process, End(Why.KILLED, signal="SIGKILL"))
    await settle()
    lifecycle.forget(bench.kernel, process)
    assert bench.kernel.registry._uids == set()
    assert not bench.kernel.tree.has(process.id)
    again = await bench.agent(name="one")
    assert again.id > process.id


async def test_who_asked_for_an_agent_may_go_away(bench):
    """A half-made agent never stays: it is made whole, or not at all."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await bench.agent()
    await settle()
    process, = bench.kernel.table.by_id.values()
    assert process.state is State.RUNNING
    assert [record.phase for record in bench.kept(records.SPAWN)] == [records.INTENT, records.OUTCOME]


async def test_a_stop_of_an_agent_that_is_being_made(bench, monkeypatch):
    launch = type(bench.machine).launch
    async def slow(machine, what, watch):
        delivery.send(bench.kernel, bench.kernel.table.by_id[1], signals.SIGSTOP, 0, "test")
        await settle()
        return await launch(machine, what, watch)
    monkeypatch.setattr(type(bench.machine), "launch", slow)
    process = await bench.agent()
    await settle()
    assert (process.state, process.sandbox.frozen) == (State.STOPPED, True)
    delivery.send(bench.kernel, process, signals.SIGCONT, 0, "test")
    await settle()
    assert (process.state, process.held, process.sandbox.frozen) == (State.RUNNING, False, False)
