"""Freezing, killing and dying: of agents, of what made them, of the kernel itself."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import trio
from emulation import WAIT_S

from agentix_kernel.cgroups import detect
from agentix_kernel.confine import messages
from agentix_kernel.confine.attendant import Attendant
from agentix_kernel.confine.sandbox import LinuxSandbox
from agentix_kernel.confine.zygotes import Profile
from agentix_kernel.world import KILL_DEADLINE_S, Confined, Ended, LaunchError, Limits, Watch

PROFILE = Profile((), own_netns=False)
SLEEPER = "import signal; print('in', flush=True)\nwhile True: signal.pause()"
IGNORING = """
import signal
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
"""
COUNTERS = """
import os, time
for number in range(9):
    if os.fork() == 0: break
else: number = 9
file = os.open(f'/tmp/{number}', os.O_CREAT | os.O_WRONLY)
os.write(1, b'.')
count = 0
while True:
    count += 1
    os.pwrite(file, b'%d' % count, 0)
"""
WORKLOADS = {
    "sleeper": SLEEPER,
    "ten processes": "import os\nfor _ in range(3): os.fork()\n" + SLEEPER,
    "busy": "print('in', flush=True)\nwhile True: pass",
    "ignores and blocks all signals": (
        IGNORING + "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n" + SLEEPER),
    "double-fork daemons": IGNORING + "import os\nfor _ in range(6):\n if os.fork() == 0:\n  os.setsid()\n"
                                      "  if os.fork(): os._exit(0)\n  break\n" + SLEEPER,
    "fork bomb": "import os\nprint('in', flush=True)\nwhile True:\n try: os.fork()\n except OSError: pass\n",
    "pid hopper": "import os\nprint('in', flush=True)\nwhile True:\n if os.fork(): os._exit(0)\n",
}


async def until(condition) -> None:
    """Bounded retry for what the kernel tells no descriptor of."""
    with trio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110 - nobody can set an event for it
            await trio.sleep(0.005)


def alive(pid: int) -> bool:
    """Alive, a zombie is not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
@pytest.mark.parametrize("workload", WORKLOADS)
async def test_kill_is_proven(lab, workload, frozen):
    running = await lab.launch(WORKLOADS[workload], limits=Limits(pids=32, cpus=0.5))
    if workload != "pid hopper":  # whose main process is gone at once, and all with it
        assert await running.line() == "in"
    sandbox = running.sandbox
    if frozen:
        await sandbox.freeze()
    inside = sandbox.pids()
    started = time.monotonic()
    assert await sandbox.kill()
    assert time.monotonic() - started < KILL_DEADLINE_S
    assert not sandbox.group.populated()
    assert sandbox.pids() == []
    assert not any(alive(pid) for pid in inside)
    ended = await sandbox.wait()
    assert ended in ((Ended(None, 9), Ended(0, None)) if workload == "pid hopper" else (Ended(None, 9),))
    assert await sandbox.kill()
    assert not sandbox.signal(0)


async def test_frozen_dies_without_executing_more(lab):
    """It would write its last words within microseconds of a thaw."""
    running = await lab.launch("import os\nprint('in', flush=True)\nwhile True: os.write(1, b'x')")
    assert await running.line() == "in"
    await running.sandbox.freeze()
    with trio.move_on_after(0.05):
        while True:
            await running.pipe.receive_some()
    assert await running.sandbox.kill()
    assert await running.rest() == ""


async def test_kill_from_several_tasks(lab):
    running = await lab.launch(SLEEPER)
    results = []

    async def kill() -> None:
        results.append(await running.sandbox.kill())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(kill)
    assert results == [True] * 3


async def test_what_the_kernel_must_do_before_a_kill_is_called_and_repeated(open_lab):
    """So that the tree answers that agent's waiting requests: one that waits for an answer does not die."""
    calls = []
    async with open_lab(before_kill=calls.append) as lab:
        running = await lab.launch(SLEEPER)
        assert await running.sandbox.kill()
    assert calls[:1] == [running.sandbox.what.uid]


async def test_kill_that_cannot_be_proven_says_so(lab, monkeypatch):
    monkeypatch.setattr("agentix_kernel.confine.sandbox.KILL_DEADLINE_S", 0.2)
    running = await lab.launch(SLEEPER)
    group = running.sandbox.group

    class Stuck:
        def __getattr__(self, name):
            return getattr(group, name)

        async def emptied(self) -> None:
            await trio.sleep_forever()

    running.sandbox.group = Stuck()
    assert not await running.sandbox.kill()
    running.sandbox.group = group
    assert await running.sandbox.kill()


async def test_main_process_ends_and_takes_all_along(lab):
    running = await lab.launch(IGNORING + """
import os
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        signal.pause()
""")
    assert await running.sandbox.wait() == Ended(0, None)
    with trio.fail_after(WAIT_S):
        await running.sandbox.group.emptied()


@pytest.mark.parametrize("cpus", [1.0, None])
async def test_freeze_stops_all_and_thaw_continues(lab, cpus):
    running = await lab.launch(COUNTERS, limits=Limits(cpus=cpus))
    for _ in range(10):
        await running.pipe.receive_some(1)
    root = f"/proc/{running.sandbox.pid}/root/tmp"

    def counts() -> list[str]:
        return [pathlib.Path(root, str(number)).read_text() for number in range(10)]

    await until(lambda: all(counts()))
    await running.sandbox.freeze()
    before = counts()
    await trio.sleep(0.1)
    assert counts() == before
    await running.sandbox.thaw()
    await until(lambda: all(now != then for now, then in zip(counts(), before, strict=True)))


async def test_out_of_memory_is_told(lab):
    running = await lab.launch("data = []\nwhile True: data.append(bytearray(b'x' * (1 << 20)))",
                               limits=Limits(memory_bytes=48 << 20))
    with trio.fail_after(WAIT_S):
        await running.memory.wait()
        assert await running.sandbox.wait() == Ended(None, 9)
    assert running.sandbox.usage().oom_kills >= 1


async def test_out_of_memory_of_a_child_is_told_too(lab):
    hog = "import os\nif os.fork() == 0:\n data = []\n while True: data.append(bytearray(b'x' * (1 << 20)))\n"
    running = await lab.launch(hog + SLEEPER, limits=Limits(memory_bytes=48 << 20))
    with trio.fail_after(WAIT_S):
        await running.memory.wait()
    assert await running.sandbox.kill()


async def test_pids_are_limited_and_counted(lab):
    result = await lab.run("import os\ntry:\n while True:\n  if os.fork() == 0: __import__('signal').pause()\n"
                           "except OSError as error: print(error.errno)", limits=Limits(pids=16))
    assert result.text == "11\n"


async def test_tool_lives_under_its_callers_limits_and_is_killed_alone(lab):
    caller = await lab.launch(SLEEPER, tag="71.1")
    tool = await lab.launch(SLEEPER, tag="71.1.tool", parent="71.1")
    assert set(tool.sandbox.pids()) < set(caller.sandbox.pids())
    assert await tool.sandbox.kill()
    await tool.sandbox.aclose()
    assert alive(caller.sandbox.pid)
    with pytest.raises(LaunchError) as caught:
        await lab.launch(SLEEPER, parent="no.1")
    assert caught.value.stage == "cgroup"


async def test_nothing_is_left_after_aclose(lab):
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        running = await lab.launch(SLEEPER)
        await running.line()
        assert await running.sandbox.kill()
        await running.sandbox.aclose()
        await running.sandbox.aclose()
        await running.pipe.aclose()
        assert running.sandbox.usage().cpu_us > 0
    lab.running.clear()
    now = len(os.listdir("/proc/self/fd"))
    assert now <= fds + 2  # the zygote's channel and pidfd, made at the first launch


def unreaped() -> bool:
    """Whether a child of ours has ended and nobody has waited for it."""
    return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


async def test_cancelled_launch_leaves_nothing(lab):
    await lab.run("pass")
    for checkpoints in range(12):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                async def cancel_soon(count: int = checkpoints) -> None:
                    for _ in range(count):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel_soon)
                await lab.launch(SLEEPER, tag=f"c{checkpoints}.1")
                break
    assert not unreaped()
    assert (await lab.run("print('fine')")).text == "fine\n"
    left = {tag.removeprefix("agentix") for tag in lab.cgroups.sweep()}
    assert not {tag for tag in left if tag.startswith("c") and tag != lab.running[-1].sandbox.what.tag} - {
        running.sandbox.what.tag for running in lab.running}


async def test_zygote_killed_agents_live_and_next_launch_works(lab):
    running = await lab.launch("import signal; signal.signal(10, lambda *_: print('alive'))\n"
                               "print('in', flush=True); signal.pause()")
    assert await running.line() == "in"
    [zygote] = lab.sandboxes.zygotes.pids.values()
    os.kill(zygote, signal.SIGKILL)
    for _ in range(2):
        assert (await lab.run("print('next')")).text == "next\n"
    assert zygote not in lab.sandboxes.zygotes.pids.values()
    assert running.sandbox.signal(10)
    assert await running.line() == "alive"
    assert await running.sandbox.wait() == Ended(0, None)


async def test_zygote_stopped_then_killed_with_a_launch_in_its_queue(lab):
    await lab.run("pass")
    [zygote] = lab.sandboxes.zygotes.pids.values()
    os.kill(zygote, signal.SIGSTOP)
    texts = []

    async def launch() -> None:
        texts.append((await lab.run("print('next')")).text)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(launch)
        await trio.testing.wait_all_tasks_blocked(0.05)
        os.kill(zygote, signal.SIGKILL)
    assert texts == ["next\n"]


async def test_spawner_killed_and_zygote_too(lab, tmp_path):
    running = await lab.launch(SLEEPER)
    os.kill(lab.sandboxes.zygotes.spawner_pid, signal.SIGKILL)
    assert (await lab.run("print('by the zygote')")).text == "by the zygote\n"
    [zygote] = lab.sandboxes.zygotes.pids.values()
    os.kill(zygote, signal.SIGKILL)
    assert (await lab.run("print('by new ones')")).text == "by new ones\n"
    assert alive(running.sandbox.pid)


async def test_a_zygote_that_is_reaped_while_a_launch_looks_it_up_is_made_again(lab):
    texts = []

    async def launch() -> None:
        texts.append((await lab.run("print('here')")).text)

    def lose() -> None:
        for profile, pid in list(lab.sandboxes.zygotes.pids.items()):
            lab.sandboxes.zygotes.forget(profile, lab.sandboxes.zygotes._zygotes[profile])
            os.kill(pid, signal.SIGKILL)

    await launch()
    for steps in range(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(launch)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            lose()
    assert texts == ["here\n"] * 6


async def test_preload_that_is_missing_is_said_clearly(open_lab):
    async with open_lab() as lab:
        lab.sandboxes.preload = ("agentix.init", "no_such_preload")
        with pytest.raises(LaunchError, match="no_such_preload") as caught:
            await lab.launch("pass")
        assert caught.value.stage == "zygote"


DAEMON = """
import os, sys, trio
from agentix_kernel.cgroups import detect
from agentix_kernel.confine.sandboxes import LinuxSandboxes
from agentix_kernel.world import Confined, Watch

async def main():
    sandboxes = LinuxSandboxes(detect(sys.argv[1]), preload=('agentix.init',))
    sandboxes.start_spawner()
    async with trio.open_nursery() as nursery:
        await nursery.start(sandboxes.run)
        for number, source in enumerate(sys.argv[2:]):
            sandbox = await sandboxes.launch(Confined(tag=f'{number}.1', uid=1_998_000 + number, kind='script',
                argv=('/a.py',), source=source.encode(), cwd='/tmp'), Watch(denied=print, out_of_memory=print))
        sandboxes.expect('9.1')
        while sandboxes.spare.sandbox is None or not sandboxes.spare.sandbox.init_pid:
            await trio.sleep(0.005)
        for pids in (sandboxes.spare.sandbox.pids(), sandbox.pids(), sandboxes.zygotes.pids.values(),
                     [sandboxes.zygotes.spawner_pid]):
            print(*pids)
        print(flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_kernel_killed_takes_agents_spare_spawner_and_zygotes_along():
    name = f"agentix-confine-{os.getpid()}-daemon"
    sources = (SLEEPER, WORKLOADS["ignores and blocks all signals"], WORKLOADS["double-fork daemons"])
    daemon = subprocess.Popen([  # noqa: ASYNC220 - nothing else runs here
        sys.executable, "-c", DAEMON, name, *sources], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    try:
        pids = [int(pid) for line in iter(daemon.stdout.readline, "\n") for pid in line.split()]
        assert len(pids) >= 5
        assert all(map(alive, pids))
        daemon.kill()
        daemon.wait()
        await until(lambda: not any(map(alive, pids)))
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()
        cgroups = detect(name)
        cgroups.sweep()
        cgroups.close()


@pytest.mark.parametrize("line", [b"agent", b"born x", b"ended never", b"error x y", b"\xff\xfe", b"ready set go"])
async def test_nonsense_on_a_leash_fails_that_launch_only(lab, line):
    watch = Watch(denied=lambda _: None, out_of_memory=lambda: None)
    group = lab.cgroups.create("nonsense.1", Limits())
    ours, theirs = messages.pair()
    what = Confined(tag="nonsense.1", uid=1_997_000, kind="script", argv=("/a.py",), source=b"")
    sandbox = LinuxSandbox(group, (PROFILE, ours), ours, Attendant(), {}, lambda _: None)
    sandbox.attend()
    assert sandbox.order(what, watch, {"env": {}, "cwd": "/"}, [])
    with theirs:
        theirs.send(line)
        sandbox._on_leash(0)
        with pytest.raises(LaunchError) as caught:
            await sandbox.started(1.0)
    assert caught.value.stage == "leash"
    sandbox._on_leash(0)
    await sandbox.abort()
    assert (await lab.run("print('fine')")).text == "fine\n"


async def test_descriptors_used_up_is_a_launch_error(lab, monkeypatch):
    await lab.run("pass")

    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("agentix_kernel.confine.messages.pair", refuse)
    with pytest.raises(LaunchError) as caught:
        await lab.launch("pass", tag="full.1")
    assert caught.value.number == errno.EMFILE
    monkeypatch.undo()
    assert (await lab.run("print('fine')", tag="full.1")).text == "fine\n"  # the group is gone, too
