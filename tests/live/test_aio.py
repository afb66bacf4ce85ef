"""An agent of agentix.aio in a real sandbox: calls side by side, cancellation that reaches the kernel, signals."""

import errno
import json

import pytest

SCRIPT = """
import json
import trio
from agentix import aio

found = {}

async def side_by_side():
    fd = await aio.open("state/many", aio.O_RDWR | aio.O_CREAT)
    async with trio.open_nursery() as nursery:
        for at in range(100):
            nursery.start_soon(aio.pwrite, fd, b"%03d" % at, 3 * at)
    found["many"] = (await aio.pread(fd, 300, 0)).decode()
    big = await aio.open("mem/working/big", aio.O_RDWR | aio.O_CREAT)
    async with trio.open_nursery() as nursery:
        for at in range(8):
            nursery.start_soon(aio.pwrite, big, bytes([at]) * 1_000_000, at * 1_000_000)
            nursery.start_soon(aio.pread, big, 1 << 20, 0)
    found["big"] = [len(await aio.pread(big, 1 << 20, 0)), (await aio.stat("mem/working/big")).st_size]
    file = await aio.openfile("state/text", "w")
    await file.write("text")
    await file.aclose()
    found["text"] = (await aio.stat("state/text")).st_size

async def processes():
    return (await aio.getrusage()).processes

async def cancel(call, *args, begun=None):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, *args)
        await trio.testing.wait_all_tasks_blocked()
        await aio.getpid()  # served after the call
        while begun and not await begun():
            pass
        nursery.cancel_scope.cancel()

async def tool():  # first: processes() counts threads, and openfile leaves one behind for a while
    alone = await processes()
    async def runs():
        return await processes() >= alone + 2  # the tool and its init
    await cancel(aio.exec_tool, "shell.execute", {"command": "sleep infinity"}, begun=runs)
    found["left of the tool"] = await processes() - alone

async def wait():
    child = await aio.spawn(exec="/bin/sleep", args=["infinity"])
    await cancel(aio.waitpid, child)
    await aio.kill(child, "KILL")
    ended = await aio.waitpid(child)
    found["wait"] = [ended.agent == child, ended.signal]

async def spawn():
    ids, before = [], (await aio.sysinfo())["agents"]
    async def spawns():
        ids.append(await aio.spawn(exec="/bin/sleep", args=["infinity"]))
    async def begun():
        return (await aio.sysinfo())["agents"] > before
    await cancel(spawns, begun=begun)
    await aio.kill(ids[0], "KILL")
    found["spawned"] = [(await aio.wait()).agent == ids[0], len(ids)]

async def signals():
    async with aio.open_signal_receiver("TERM", "USR2") as received:
        print("receiving", flush=True)
        found["signals"] = [(await anext(received))[0].name for _ in range(2)]
        found["sender"] = (await aio.sigtimedwait(["USR2"], 0), (await aio.sigprocmask(aio.SIG_BLOCK, [])) != set())
    found["mask"] = list(await aio.sigprocmask(aio.SIG_BLOCK, []))

async def main():
    for part in (tool, side_by_side, wait, spawn, signals):
        await part()
    print(json.dumps(found), flush=True)

import trio.testing
trio.run(main)
"""


@pytest.fixture(scope="module")
def agent(kernel, scripts):
    agent = kernel.spawn("--name", "aio", "--spawn-max", "4", scripts(SCRIPT))
    kernel.until_logged(agent, "receiving")
    kernel.ctl("kill", "-s", "USR2", agent, check=0)
    kernel.ctl("kill", agent, check=0)
    kernel.ctl("wait", agent, check=0)
    return agent


@pytest.fixture(scope="module")
def found(kernel, agent):
    return json.loads(kernel.ctl("logs", agent, check=0).stdout.splitlines()[-1])


def test_calls_side_by_side(found):
    assert found["many"] == "".join(f"{at:03}" for at in range(100))
    assert found["big"] == [1 << 20, 8_000_000]
    assert found["text"] == 4


def test_a_cancelled_tool_is_gone_when_its_task_goes_on(kernel, agent, found):
    assert found["left of the tool"] == 0
    assert "given up" in kernel.record(agent, "tool")[-1]["data"]["detail"]


def test_cancelled_calls_are_on_record(kernel, agent, found):
    calls = [row["data"] for row in kernel.record(agent, "call")]
    assert {row["call"] for row in calls if row["errno"] == errno.ECANCELED} == {"EXEC", "WAIT"}
    assert sum(row["call"] == "CANCEL" for row in calls) >= 2


def test_a_cancelled_wait_leaves_the_child_to_the_next(found):
    assert found["wait"] == [True, "SIGKILL"]


def test_a_cancelled_spawn_that_was_made_is_told(found):
    assert found["spawned"] == [True, 1]


def test_signals_of_the_operator(found):
    assert sorted(found["signals"]) == ["SIGTERM", "SIGUSR2"]
    assert found["sender"] == [None, True]
    assert found["mask"] == []
