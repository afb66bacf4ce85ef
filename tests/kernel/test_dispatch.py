"""From a frame to a reply, in one process: what the kernel answers when it is itself at fault, short or leaving."""

import errno
import hashlib

import pytest
import trio
import trio.testing
from attrs import evolve
from sim.machine import SimMachine

from agentix_kernel import delivery, dispatch
from agentix_kernel.authority.policy.inforce import make
from agentix_kernel.dispatch import serve
from agentix_kernel.process import State
from agentix_kernel.world import LaunchError
from agentix_syscalls import calls, records, signals, wire
from agentix_syscalls.errors import CallError


async def test_a_broken_handler_is_eio_for_the_caller_and_a_fault_on_record(bench, monkeypatch):
    door = await bench.door()
    def broken(*_args):
        raise ZeroDivisionError("in a handler")
    entry = dispatch.ENTRIES[calls.SYS_GETPID]
    monkeypatch.setitem(dispatch.ENTRIES, calls.SYS_GETPID, evolve(entry, run=broken))
    assert door.call(calls.SYS_GETPID) == errno.EIO
    assert "in a handler" in bench.faults[0]
    assert "test_dispatch.py" in bench.kept(records.ERROR)[0].data[1]
    assert bench.kept(records.CALL)[-1].verdict == records.FAILED
    assert door.call(calls.SYS_RUSAGE) is None  # it goes on
    assert not door.dropped


async def test_a_broken_handler_that_waits(bench, monkeypatch):
    door = await bench.door()
    async def broken(*_args):
        raise KeyError("later")
    entry = dispatch.ENTRIES[calls.SYS_WAIT]
    monkeypatch.setitem(dispatch.ENTRIES, calls.SYS_WAIT, evolve(entry, run=lambda *_: broken()))
    serve(door.session, calls.SYS_WAIT, 0, 9, wire.pack((-1,)))
    await trio.testing.wait_all_tasks_blocked()
    assert door.replies[-1][0] == 9
    assert door.error() == errno.EIO
    assert door.session.pending == {}
    assert len(bench.faults) == 1


async def test_a_kernel_that_shuts_down_takes_no_agents(bench):
    door = await bench.door(policy=make(spawn_max=2))
    bench.kernel.shutting = True
    assert await door.finish(calls.SYS_SPAWN, "exec", ["x"]) == errno.ESHUTDOWN


async def test_no_memory_for_another_process(bench, monkeypatch):
    door = await bench.door(policy=make(spawn_max=2))
    async def launch(*_args):
        raise LaunchError(errno.ENOMEM, "clone", "Cannot allocate memory")
    monkeypatch.setattr(SimMachine, "launch", launch)
    assert await door.finish(calls.SYS_SPAWN, "exec", ["x"]) == errno.ENOMEM
    assert door.process.children == set()
    assert door.process.spawned == 0
    assert [record.verdict for record in bench.kept(records.SPAWN)][-1] == records.FAILED
    assert len(bench.kernel.table.by_id) == len(bench.kernel.registry._uids) == 1
    monkeypatch.undo()
    assert await door.finish(calls.SYS_SPAWN, "exec", ["x"]) is None  # the failed one was not counted


@pytest.mark.parametrize(("frame", "told"), [
    ({"number": 999}, errno.ENOSYS), ({"number": calls.SYS_FORK}, errno.ENOSYS), ({"flags": 4}, errno.EINVAL),
    ({"flags": 0x4000}, errno.EINVAL), ({"args": (1,)}, errno.EINVAL), ({"body": b"\x80"}, errno.EINVAL),
])
async def test_a_bad_call_is_answered(bench, frame, told):
    door = await bench.door()
    args = frame.pop("args", ())
    assert door.call(frame.pop("number", calls.SYS_GETPID), *args, **frame) == told
    assert not door.dropped
    assert door.call(calls.SYS_GETPID) is None


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x91", b"\x90\x90", b"\x91" * 40 + b"\xc0"])
async def test_a_bad_frame_faults_the_caller_alone(bench, body):
    door, other = await bench.door(), await bench.door()
    assert door.call(calls.SYS_GETPID, body=body) == errno.EPROTO
    assert door.dropped
    fault = bench.kept(records.FAULT)[-1]
    assert (fault.agent, fault.verdict) == (door.process.id, records.FAULTED)
    assert other.call(calls.SYS_GETPID) is None
    assert bench.faults == []


async def test_hello_comes_first_and_once(bench):
    process = await bench.agent()
    for order in ([calls.SYS_GETPID], [calls.SYS_HELLO, calls.SYS_HELLO]):
        door = bench.connect(process)
        told = [door.call(number, *((1,) if number == calls.SYS_HELLO else ())) for number in order]
        assert told[-1] == errno.EPROTO
        assert door.dropped
    door = bench.connect(process)
    assert door.call(calls.SYS_HELLO, 2) == errno.EPROTO


async def test_a_stopped_agent_is_answered_when_it_continues(bench):
    door = await bench.door()
    count = len(door.replies)
    delivery.send(bench.kernel, door.process, signals.SIGSTOP, 0, "test")
    await trio.testing.wait_all_tasks_blocked()
    assert door.process.state is State.STOPPED
    serve(door.session, calls.SYS_GETPID, 0, 1, wire.pack(()))
    bench.kernel.flush()
    assert len(door.replies) == count
    delivery.send(bench.kernel, door.process, signals.SIGCONT, 0, "test")
    await trio.testing.wait_all_tasks_blocked()
    door.session.resume()  # a machine without doors leaves that to us
    assert len(door.replies) == count + 1


async def test_a_doomed_agent_is_never_answered(bench):
    strict = make(mode="strict", deny=("MKDIR",))
    door = await bench.door(policy=strict)
    count = len(door.replies)
    serve(door.session, calls.SYS_MKDIR, 0, 1, wire.pack(("state/x",)))
    serve(door.session, calls.SYS_GETPID, 0, 2, wire.pack(()))
    bench.kernel.flush()
    await trio.testing.wait_all_tasks_blocked()
    assert len(door.replies) == count
    assert door.process.end.why.value == "policy"
    assert "GETPID" not in [record.data[0] for record in bench.kept(records.CALL)][1:]


async def test_user_data_of_a_call_that_waits_is_in_use(bench):
    door = await bench.door()
    serve(door.session, calls.SYS_SIGWAIT, 0, 5, wire.pack((1 << 6, None)))
    assert door.call(calls.SYS_SIGWAIT, 1 << 6, None, user_data=5) == errno.EINVAL
    door.session.close()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.kept(records.CALL)[-1].data[2] == errno.ECANCELED


async def test_as_many_agents_as_the_configuration_says(bench):
    for _ in range(3):
        await bench.agent()
    with pytest.raises(CallError, match="3 agents live already") as caught:
        await bench.agent()
    assert caught.value.number == errno.EAGAIN


async def test_as_many_tools_at_once(bench):
    door = await bench.door()
    door.process.tools = 1
    assert await door.finish(calls.SYS_EXEC, "shell.execute", {"command": "true"}) == errno.EAGAIN


async def test_as_many_calls_that_wait_at_once(bench, monkeypatch):
    monkeypatch.setattr(dispatch, "WAITS_MAX", 3)
    door = await bench.door()
    for number in range(3):
        serve(door.session, calls.SYS_SIGWAIT, 0, number, wire.pack((1 << 6, None)))
    assert await door.finish(calls.SYS_SIGWAIT, 1 << 6, None, user_data=7) == errno.EAGAIN
    door.session.close()
    await trio.testing.wait_all_tasks_blocked()
    assert door.process.waits == 0


async def test_denials_are_told_with_their_rule(bench):
    door = await bench.door(policy=make(mode="enforce", deny=("OPEN:/state",)))
    assert door.call(calls.SYS_OPEN, "state/../state/x") == errno.EPERM
    _, message, rule, remedy = door.replies[-1][2][:4]
    assert (message, rule) == ("OPEN /state/x is denied", "deny OPEN:/state")
    assert remedy == "said when it or an ancestor was spawned: only without deny OPEN:/state would it be permitted"
    assert door.call(calls.SYS_OPEN, "mem/working/x", calls.O_CREAT) is None
    denial = bench.kept(records.DENIAL)[-1]
    assert (denial.verdict, denial.rule, denial.data[2]) == (records.DENIED, "deny OPEN:/state", "/state/x")


async def test_long_arguments_are_told_by_their_size(bench):
    door = await bench.door()
    assert await door.finish(calls.SYS_EXEC, "x", {"deep": [[[[["end"]]]]], "k" * 999: "v" * 999}) == errno.ENOENT
    told = bench.kept(records.CALL)[-1].data[1][1]
    assert told["deep"] == ((("1 values",),),)
    assert told["k" * 256] == f"999 characters, sha256:{hashlib.sha256(b'v' * 999).hexdigest()}"


def test_secret_arguments_are_not_recorded_at_all():
    entry = evolve(dispatch.ENTRIES[calls.SYS_CHECKPOLICY], secret_at=(1,), bulk_at=(0,))
    assert dispatch._noted(entry, [b"short", "hunter2"]) == [5, "not recorded"]
