"""The sandbox that is prepared ahead: used when it fits, never missed, and never left behind."""

import errno
import os
import signal

import pytest
import trio
import trio.testing
from emulation import WAIT_S

from agentix_kernel.confine.sandbox import LinuxSandbox
from agentix_kernel.world import Ended, LaunchError, Limits

SLEEPER = "import signal; print('in', flush=True)\nwhile True: signal.pause()"


async def until(condition) -> None:
    """Bounded retry for what the kernel tells no descriptor of."""
    with trio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110 - nobody can set an event for it
            await trio.sleep(0.005)


def gone(pid: int) -> bool:
    """Reaped, too."""
    return not os.path.exists(f"/proc/{pid}")


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def groups(lab, tag: str) -> list[str]:
    """The cgroups of a tag that are there."""
    return [path for folder in lab.cgroups.directories if os.path.exists(path := f"{folder}/{tag}")]


async def spare(lab, tag: str) -> LinuxSandbox:
    """The spare of that tag, waiting for its order."""
    lab.sandboxes.expect(tag)
    await until(lambda: (made := lab.sandboxes.spare.sandbox) and made.group.tag == tag and made.init_pid)
    made = lab.sandboxes.spare.sandbox
    await until(lambda: _state(made.init_pid) == "S")
    return made


async def test_launch_takes_the_spare_with_its_own_limits_and_names(lab):
    made = await spare(lab, "901.1")
    running = await lab.launch(
        "import os; print(os.getuid(), os.uname().nodename, os.getpid(), os.statvfs('/tmp').f_blocks * 4096)\n"
        + SLEEPER, tag="901.1", hostname="lighthouse", limits=Limits(memory_bytes=64 << 20, pids=9, cpus=0.5))
    assert running.sandbox is made
    assert await running.line() == f"{running.sandbox.what.uid} lighthouse 2 {32 << 20}"
    assert await running.line() == "in"
    rows = await trio.to_thread.run_sync(lab.sandboxes.verify, running.sandbox)
    assert {row["state"] for row in rows if row["layer"] != "user namespace"} <= {"on"}, rows
    assert lab.sandboxes.spare.sandbox is None


async def test_spare_holds_nothing_but_its_leash_and_its_cgroups(lab):
    made = await spare(lab, "902.1")
    links = {os.readlink(f"/proc/{made.init_pid}/fd/{fd}") for fd in os.listdir(f"/proc/{made.init_pid}/fd")}
    assert {link.partition(":")[0] if link.startswith("socket:") else os.path.basename(link) for link in links} <= {
        "socket", "null", "tasks", "902.1"}
    assert made.pids() == [made.init_pid]
    status = await trio.Path(f"/proc/{made.init_pid}/status").read_text()
    assert f"NSpid:\t{made.init_pid}\t1\n" in status
    for name in ("mnt", "pid", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{made.init_pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")


async def test_spare_of_another_tag_is_left_alone_then_given_up(lab):
    made = await spare(lab, "903.1")
    running = await lab.launch(SLEEPER, tag="905.1")
    assert running.sandbox is not made
    assert lab.sandboxes.spare.sandbox is made
    await spare(lab, "906.1")
    assert gone(made.init_pid)
    assert groups(lab, "903.1") == []
    assert groups(lab, "906.1") != []


async def test_same_hint_again_changes_nothing(lab):
    made = await spare(lab, "907.1")
    lab.sandboxes.expect("907.1")
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert lab.sandboxes.spare.sandbox is made


async def test_tool_does_not_take_the_spare(lab):
    await lab.launch(SLEEPER, tag="908.1")
    made = await spare(lab, "908.1-tool")
    tool = await lab.launch(SLEEPER, tag="908.1-tool", parent="908.1")
    assert tool.sandbox is not made
    assert gone(made.init_pid)


async def test_spare_of_another_profile_is_not_used(lab):
    made = await spare(lab, "909.1")
    lab.sandboxes.preload = ("agentix.init", "calendar")
    result = await lab.run("import sys; print('calendar' in sys.modules)", tag="909.1")
    assert result.text == "True\n"
    assert gone(made.init_pid)


async def test_killed_spare_is_replaced_by_the_launch(lab):
    made = await spare(lab, "910.1")
    os.kill(made.init_pid, signal.SIGKILL)
    os.waitid(os.P_PID, made.init_pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - dead, and nobody was told yet
    assert (await lab.run("print('fine')", tag="910.1")).text == "fine\n"
    made = await spare(lab, "911.1")
    os.kill(made.init_pid, signal.SIGKILL)
    await until(lambda: gone(made.init_pid))
    assert (await lab.run("print('fine')", tag="911.1")).text == "fine\n"


async def test_launch_while_the_spare_is_being_made(lab):
    await lab.run("pass")
    [zygote] = lab.sandboxes.zygotes.pids.values()
    for tag, number in (("912.1", signal.SIGCONT), ("913.1", signal.SIGKILL)):
        os.kill(zygote, signal.SIGSTOP)
        lab.sandboxes.expect(tag)
        await until(lambda: groups(lab, tag))  # noqa: B023 - called at once
        ends = []

        async def launch(tag: str = tag, ends: list[Ended] = ends) -> None:
            ends.append((await lab.run("pass", tag=tag)).ended)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(launch)
            await trio.testing.wait_all_tasks_blocked(0.02)
            os.kill(zygote, number)
        assert ends == [Ended(0, None)]


async def test_launches_in_a_row_each_with_a_hint(lab):
    for number in range(920, 940):
        lab.sandboxes.expect(f"{number}.1")
        if number % 3:
            await trio.sleep(0.003 * (number % 3))  # before, while and after it is made
        assert (await lab.run("print('x')", tag=f"{number}.1")).text == "x\n"


async def test_failed_launch_of_a_spare_leaves_nothing(lab):
    made = await spare(lab, "914.1")
    with pytest.raises(LaunchError) as caught:
        await lab.launch(kind="exec", argv=("no-such-program",), tag="914.1")
    assert (caught.value.number, caught.value.stage) == (errno.ENOENT, "exec")
    assert gone(made.init_pid)
    assert groups(lab, "914.1") == []
    made = await spare(lab, "915.1")
    with pytest.raises(LaunchError) as caught:
        await lab.launch("pass", tag="915.1", cwd="/nowhere")
    assert caught.value.stage == "cwd"
    assert gone(made.init_pid)
    assert groups(lab, "915.1") == []


async def test_cancelled_launch_of_a_spare_leaves_nothing(lab):
    for checkpoints in range(6):
        made = await spare(lab, f"c{checkpoints}.1")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                async def cancel_soon(count: int = checkpoints) -> None:
                    for _ in range(count):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel_soon)
                await lab.launch(SLEEPER, tag=f"c{checkpoints}.1")
                nursery.cancel_scope.cancel()
                break
        await spare(lab, f"after-{checkpoints}.1")
        assert gone(made.init_pid)
        assert groups(lab, f"c{checkpoints}.1") == []


async def test_end_of_the_leash_ends_the_spare(lab):
    made = await spare(lab, "916.1")
    assert made.waiting
    made._attendant.drop(made._leash.fileno())
    made._leash.close()
    await until(lambda: gone(made.init_pid))
    assert made.ended == Ended(0, None)


@pytest.mark.parametrize("closed_first", [False, True])
async def test_no_spare_is_left_at_the_end(open_lab, closed_first):
    async with open_lab() as lab:
        made = await spare(lab, "917.1")
        if closed_first:
            await lab.sandboxes.aclose()
            assert gone(made.init_pid)
            lab.sandboxes.expect("918.1")
            await trio.sleep(0.02)  # longer than it waits before it makes one
            assert groups(lab, "918.1") == []
    assert gone(made.init_pid)
    assert not any(map(os.path.exists, lab.cgroups.directories))


async def test_spare_that_cannot_be_made_is_the_launchs_to_tell(lab):
    lab.sandboxes.preload = ("agentix.init", "no_such_preload")
    lab.sandboxes.expect("919.1")
    with pytest.raises(LaunchError, match="no_such_preload"):
        await lab.launch("pass", tag="919.1")
    lab.sandboxes.preload = ("agentix.init",)
    assert (await lab.run("print('fine')", tag="919.1")).text == "fine\n"
