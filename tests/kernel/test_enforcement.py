"""Another policy for an agent that lives: what it has open and what it has begun is asked again, at once."""

import errno

import pytest
from trio.testing import wait_all_tasks_blocked

from agentix_kernel.authority.policy.inforce import Source, make
from agentix_kernel.enforcement import Stays, put
from agentix_kernel.world import Ended
from agentix_syscalls import calls, records, wire

RW = calls.O_RDWR | calls.O_CREAT
HEAD = "version: 1\nname: tried\nmode: {}\nallow:\n"


def of(*rules, mode="enforce", deny=()):
    text = HEAD.format(mode) + "".join(f"  - {rule}\n" for rule in rules)
    return make(Source("tried.yaml", text.encode()), deny=deny)


ALL = "{file: /, action: [read, write]}"
READS = "{file: /, action: read}"


def opened(door, path, flags=RW):
    assert door.call(calls.SYS_OPEN, path, flags) is None
    return door.replies[-1][2]


async def test_what_is_open_is_asked_again_for_what_it_is_open_for(bench):
    door = await bench.door(policy=of(ALL))
    both, other = opened(door, "state/x"), opened(door, "mem/working/y")
    assert door.call(calls.SYS_WRITE, both, b"kept") is None
    told = put(bench.kernel, door.process, of(ALL, deny=("READ:/state",)))
    assert told == Stays(closed=("/agent/1/state/x",))
    assert door.call(calls.SYS_READ, both, 9, 0) == errno.EPERM
    assert door.replies[-1][2][1:3] == ("no more: READ /state/x is denied", "deny READ:/state")
    assert door.call(calls.SYS_WRITE, both, b"more", 4) is None
    assert door.call(calls.SYS_WRITE, other, b"free") is None
    assert put(bench.kernel, door.process, of(READS)).closed == (
        "/agent/1/mem/working/y", "/agent/1/state/x")
    for handle in (both, other):
        assert door.call(calls.SYS_WRITE, handle, b"x") == errno.EPERM
    assert door.call(calls.SYS_READ, other, 9, 0) is None
    assert put(bench.kernel, door.process, of(ALL)).closed == ()
    assert door.call(calls.SYS_READ, both, 9, 0) == errno.EPERM, "what was taken back is opened anew"
    assert door.call(calls.SYS_READ, opened(door, "state/x"), 9, 0) is None
    assert door.replies[-1][2] == b"keptmore"


@pytest.mark.parametrize("flags", [calls.O_RDONLY, calls.O_DIRECTORY])
async def test_strict_does_not_kill_for_what_was_opened_when_it_was_allowed(bench, flags):
    door = await bench.door(policy=of(ALL, mode="strict"))
    handle = opened(door, "state", flags)
    assert put(bench.kernel, door.process, of("{file: /mem, action: read}", mode="strict")).closed == (
        "/agent/1/state",)
    assert door.call(calls.SYS_READ, handle, 9) == errno.EPERM
    assert door.call(calls.SYS_SEEK, handle, 0, 2) == errno.EPERM
    assert (door.process.doom, door.process.denials) == (None, 0)
    door.call(calls.SYS_OPEN, "state")
    assert door.process.doom is not None, "to open it again breaks the policy"


async def test_a_file_is_asked_by_its_names_of_now_and_without_one_by_its_last(bench):
    door = await bench.door(policy=of(ALL))
    moved, gone, lost = (opened(door, f"state/{name}") for name in ("moved", "gone", "lost"))
    assert door.call(calls.SYS_RENAME, "state/moved", "state/away") is None
    assert door.call(calls.SYS_UNLINK, "state/gone") is None
    put(bench.kernel, door.process, of(ALL, deny=("READ:/state/away", "READ:/state/gone")))
    assert [door.call(calls.SYS_READ, handle, 1, 0) for handle in (moved, gone, lost)] == [errno.EPERM, errno.EPERM,
                                                                                         None]


async def test_audit_takes_nothing_back(bench):
    door = await bench.door(policy=of(ALL))
    handle = opened(door, "state/x")
    assert put(bench.kernel, door.process, of(READS, mode="audit")) == Stays()
    assert door.call(calls.SYS_WRITE, handle, b"x") is None


async def test_calls_that_wait_end_with_the_rule(bench):
    door = await bench.door(policy=of(ALL, "capability://agent/child?action=wait", "{spawn: '*', max: 2}"))
    await bench.agent(policy=door.process.policy.narrowed(None, (), None), parent=door.process)
    assert await door.finish(calls.SYS_SIGWAIT, 1 << 6, None, user_data=7) is None
    assert await door.finish(calls.SYS_WAIT, -1, 0, None, user_data=8) is None
    assert [reply[0] for reply in door.replies] == [1], "both wait"
    told = put(bench.kernel, door.process, of(ALL))
    assert (told.ended, told.children) == (("WAIT",), (2,))
    await wait_all_tasks_blocked()
    user_data, flags, reason = door.replies[-1]
    assert (user_data, flags & wire.F_ERROR, reason[0], reason[2]) == (
        8, wire.F_ERROR, errno.EPERM, "tried.yaml: default deny")
    assert [row.data[2] for row in bench.kept(records.CALL) if row.data[0] == "WAIT"] == [errno.EPERM]
    assert list(door.session.pending) == [7], "SIGWAIT needs nothing"


async def test_a_tool_under_way_is_killed_when_it_is_not_allowed_any_more(bench, monkeypatch):
    monkeypatch.setattr(type(bench.machine), "_tool", lambda machine, sandbox: sandbox.wait())
    door = await bench.door(policy=of(ALL, "{tool: '*'}"))
    assert await door.finish(calls.SYS_EXEC, "shell.execute", {"command": "sleep 9"}, user_data=9) is None
    tools = [sandbox for sandbox in bench.machine.live if sandbox.what.hostname == "tool"]
    assert [tool.ended for tool in tools] == [None]
    assert put(bench.kernel, door.process, of(ALL)).ended == ("EXEC",)
    await wait_all_tasks_blocked()
    assert (door.replies[-1][0], door.error()) == (9, errno.EPERM)
    assert [(tool.ended, tool.closed) for tool in tools] == [(Ended(None, 9), True)]
