"""The conformance suite: every kind of cgroups, with real processes."""

import errno
import os
import select
import signal
import time
from pathlib import Path

import pytest
import trio
import trio.testing
from emulation import WAIT_S

from agentix_kernel.cgroups import detect
from agentix_kernel.world import Limits

FREE = Limits(memory_bytes=None, cpus=None, pids=None)
DEADLINE_S = WAIT_S

SAY_READY = "echo ready\n"
DAEMON = "(setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & wait; sleep 1000' &);"
WORKLOADS = {
    "sleeper": f"{SAY_READY} sleep 1000",
    "ten": f"for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; {SAY_READY} wait",
    "busy": f"{SAY_READY} while :; do :; done",
    "deaf": f"trap '' HUP INT TERM QUIT USR1 USR2; {SAY_READY} while :; do sleep 1000; done",
    "daemons": f"{DAEMON} {DAEMON} {DAEMON} {SAY_READY}",
    "hopper": f"hop() {{ (hop) & exit 0; }}; {SAY_READY} hop",
}
FORK_BOMB = f"{SAY_READY} bomb() {{ bomb 2>/dev/null & bomb 2>/dev/null & }}; bomb; while :; do bomb 2>/dev/null; done"


def ready(process):
    assert process.stdout.readline() == b"ready\n"


def until(condition):
    """A bounded retry, for what the kernel does not tell."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.002)


def read(cgroups, group, *names):
    """The first of these files that is there: v1 and v2 have different names."""
    for directory in cgroups.directories:
        for name in names:
            path = Path(directory, group.path, name)
            if path.exists():
                return path.read_text().strip()
    raise AssertionError(names)


def directories_of(cgroups, path):
    return [found for directory in cgroups.directories if (found := Path(directory, path)).exists()]


async def kill(group):
    group.lift_cpu()
    group.send_kill()
    with trio.fail_after(DEADLINE_S):
        await group.emptied()


def answers(process, timeout_s):
    """Whether `cat` gives back a line."""
    process.stdin.write(b"ping\n")
    return bool(select.select([process.stdout], [], [], timeout_s)[0]) and process.stdout.read(5) == b"ping\n"


def test_nothing_is_missing_here(cgroups, kind):
    assert cgroups.kind == kind
    assert cgroups.missing == ()


def test_limits_are_those_of_the_kernel(cgroups):
    group = cgroups.create("1.1", Limits(memory_bytes=64 << 20, cpus=0.5, pids=17))
    assert int(read(cgroups, group, "memory.max", "memory.limit_in_bytes")) == 64 << 20
    assert read(cgroups, group, "cpu.max", "cpu.cfs_quota_us").split()[0] == "50000"
    assert read(cgroups, group, "pids.max") == "17"
    if cgroups.kind == "v2":
        assert read(cgroups, group, "memory.oom.group") == "1"
    group.lift_cpu()
    assert read(cgroups, group, "cpu.max", "cpu.cfs_quota_us").split()[0] in ("max", "-1")


def test_no_way_out_into_swap(cgroups):
    group = cgroups.create("1.1", Limits(memory_bytes=64 << 20))
    names = ("memory.swap.max", "memory.memsw.limit_in_bytes")
    files = [Path(directory, group.path, name) for directory in cgroups.directories for name in names]
    there = [path.read_text().strip() for path in files if path.exists()]
    if not there:
        pytest.skip("this kernel does not account swap")
    assert there in (["0"], [str(64 << 20)])


def test_limits_change_both_ways(cgroups):
    group = cgroups.create("1.1", Limits())
    for mib, pids in ((1024, 100), (64, 3), (2048, None), (None, 5), (32, 6)):
        group.set_limits(Limits(memory_bytes=mib and mib << 20, pids=pids, cpus=None))
        memory = read(cgroups, group, "memory.max", "memory.limit_in_bytes")
        assert memory == str(mib << 20) if mib else memory == "max" or int(memory) > 1 << 60
        assert read(cgroups, group, "pids.max") == str(pids or "max")
        assert read(cgroups, group, "cpu.max", "cpu.cfs_quota_us").split()[0] in ("max", "-1")


def test_a_tag_is_used_once(cgroups):
    group = cgroups.create("1.1", Limits(pids=9))
    with pytest.raises(FileExistsError):
        cgroups.create("1.1", Limits(pids=10))
    assert read(cgroups, group, "pids.max") == "9"


@pytest.mark.parametrize("tag", ["", ".", "..", "../x", "a/b", "-x", "x" * 101, "a\n"])
def test_a_tag_is_a_plain_name(cgroups, tag):
    with pytest.raises(OSError, match="not a name") as error:
        cgroups.create(tag, Limits())
    assert error.value.errno == errno.EINVAL


def test_a_failed_create_leaves_nothing(cgroups):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError):
        cgroups.create("1.1", Limits(pids=-5))
    assert directories_of(cgroups, "1.1") == []
    assert os.listdir("/proc/self/fd") == before


def test_descriptors_are_given_back(cgroups):
    before = os.listdir("/proc/self/fd")
    group = cgroups.create("1.1", Limits())
    child = cgroups.create("t1", Limits(), parent=group)
    assert len(os.listdir("/proc/self/fd")) > len(before)
    assert all(not os.get_inheritable(fd) for fd in (*group.tasks_fds, *child.tasks_fds))
    for made in (child, group, group):
        made.close()
    assert os.listdir("/proc/self/fd") == before
    assert group.cgroup_fd == group.oom_fd == -1


@pytest.mark.parametrize("workload", WORKLOADS)
async def test_kill_leaves_nothing(cgroups, start, workload):
    group = cgroups.create("1.1", Limits(cpus=0.5))
    ready(start(group, WORKLOADS[workload]))
    assert group.populated()
    await kill(group)
    assert not group.populated()
    assert group.pids() == []
    group.remove()
    assert directories_of(cgroups, "1.1") == []


async def test_kill_of_a_fork_bomb(cgroups, start):
    group = cgroups.create("1.1", Limits(pids=32, cpus=0.3))
    ready(start(group, FORK_BOMB))
    until(lambda: group.usage().pids_refused > 0)
    await kill(group)
    assert group.pids() == []
    group.remove()


async def test_kill_of_the_frozen(cgroups, start):
    group = cgroups.create("1.1", FREE)
    process = start(group, WORKLOADS["ten"])
    ready(process)
    await group.freeze()
    await kill(group)
    assert process.wait() == -signal.SIGKILL
    group.remove()


async def test_freeze_stops_all_and_thaw_continues(cgroups, start):
    group = cgroups.create("1.1", FREE)
    cats = [start(group, "exec cat") for _ in range(10)]
    assert all(answers(cat, DEADLINE_S) for cat in cats)
    with trio.fail_after(DEADLINE_S):
        await group.freeze()
    assert not any(answers(cat, 0.01) for cat in cats)
    assert group.populated()
    await group.thaw()
    assert all(select.select([cat.stdout], [], [], DEADLINE_S)[0] for cat in cats)


async def test_frozen_means_no_cpu_time(cgroups, start):
    group = cgroups.create("1.1", FREE)
    process = start(group, WORKLOADS["busy"])
    ready(process)
    with trio.fail_after(DEADLINE_S):
        await group.freeze()
    spent = Path(f"/proc/{process.pid}/schedstat").read_text
    until(lambda: spent() == spent())  # it may still be on its way off the processor
    at_rest, watched = spent(), time.monotonic() + 0.05
    while time.monotonic() < watched:
        assert spent() == at_rest
    await group.thaw()
    until(lambda: spent() != at_rest)


async def test_freeze_of_an_empty_group(cgroups, start):
    group = cgroups.create("1.1", FREE)
    with trio.fail_after(DEADLINE_S):
        await group.freeze()
    cat = start(group, "exec cat")
    assert not answers(cat, 0.05)
    await group.thaw()
    assert select.select([cat.stdout], [], [], DEADLINE_S)[0]


async def test_thaw_ends_a_freeze_under_way(cgroups, start):
    group = cgroups.create("1.1", FREE)
    ready(start(group, WORKLOADS["busy"]))
    with trio.fail_after(DEADLINE_S):
        for _ in range(10):  # which of the two tasks runs first is trio's to choose
            async with trio.open_nursery() as nursery:
                nursery.start_soon(group.freeze)
                while read(cgroups, group, "cgroup.freeze", "freezer.state") in ("0", "THAWED"):
                    await trio.lowlevel.checkpoint()
                await group.thaw()
    assert group.populated()


async def test_several_tasks_wait_at_once(cgroups, start):
    group = cgroups.create("1.1", FREE)
    ready(start(group, WORKLOADS["ten"]))
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(group.emptied)
            await trio.testing.wait_all_tasks_blocked()
            group.send_kill()


async def test_emptied_waits_for_the_last(cgroups, start):
    group = cgroups.create("1.1", FREE)
    cat = start(group, "exec cat")
    with trio.move_on_after(0.05) as waited:
        await group.emptied()
    assert waited.cancelled_caught
    cat.stdin.close()
    with trio.fail_after(DEADLINE_S):
        await group.emptied()


async def test_what_is_gone_is_empty(cgroups):
    group = cgroups.create("1.1", Limits())
    group.close()
    group.remove()
    group.remove()
    with trio.fail_after(DEADLINE_S):
        await group.freeze()
        await group.thaw()
        await group.emptied()
    group.lift_cpu()
    group.send_kill()
    assert not group.populated()
    assert group.pids() == []
    assert group.usage().processes == group.usage().memory_bytes == 0


def test_what_lives_is_not_removed(cgroups, start):
    group = cgroups.create("1.1", FREE)
    process = start(group, "exec cat")
    with pytest.raises(OSError) as error:
        group.remove()
    assert error.value.errno == errno.EBUSY
    assert answers(process, DEADLINE_S)


async def test_a_child_is_killed_alone(cgroups, start):
    group = cgroups.create("1.1", Limits())
    child = cgroups.create("t1", Limits(), parent=group)
    cat = start(group, "exec cat")
    ready(tool := start(child, WORKLOADS["ten"]))
    assert tool.pid in group.pids()
    assert cat.pid not in child.pids()
    await kill(child)
    child.remove()
    child.close()
    assert answers(cat, DEADLINE_S)
    assert group.pids() == [cat.pid]


async def test_a_child_is_frozen_alone_and_dies_with_its_parent(cgroups, start):
    group = cgroups.create("1.1", Limits())
    child = cgroups.create("t1", Limits(), parent=group)
    cat, tool = start(group, "exec cat"), start(child, "exec cat")
    with trio.fail_after(DEADLINE_S):
        await child.freeze()
    assert answers(cat, DEADLINE_S)
    assert not answers(tool, 0.05)
    await child.thaw()
    await kill(group)
    assert tool.wait() == cat.wait() == -signal.SIGKILL
    group.remove()
    assert directories_of(cgroups, "1.1") == []


async def test_freezing_a_parent_freezes_its_children(cgroups, start):
    group = cgroups.create("1.1", Limits())
    tool = start(cgroups.create("t1", Limits(), parent=group), "exec cat")
    assert answers(tool, DEADLINE_S)
    with trio.fail_after(DEADLINE_S):
        await group.freeze()
    assert not answers(tool, 0.05)


def test_a_child_lives_under_its_parents_limits(cgroups, start):
    group = cgroups.create("1.1", Limits(pids=4))
    child = cgroups.create("t1", Limits(pids=1000), parent=group)
    assert child.oom_fd == -1
    ready(start(child, "(for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done) 2>/dev/null; echo ready"))
    until(lambda: group.usage().pids_refused > 0)
    assert len(group.pids()) <= 4


def test_usage_counts(cgroups, start):
    group = cgroups.create("1.1", FREE)
    assert group.usage().processes == 0
    ready(start(group, WORKLOADS["ten"]))
    start(group, WORKLOADS["busy"])
    until(lambda: group.usage().cpu_us > 20_000)
    usage = group.usage()
    assert usage.processes == 11
    assert 0 < usage.memory_bytes <= usage.memory_peak_bytes
    assert usage.oom_kills == usage.pids_refused == 0


def test_cpu_quota_bounds(cgroups, start):
    group = cgroups.create("1.1", Limits(cpus=0.05))
    start(group, WORKLOADS["busy"])
    until(lambda: "nr_throttled 0" not in read_cpu_stat(cgroups, group))


def read_cpu_stat(cgroups, group):
    stats = [Path(d, group.path, "cpu.stat") for d in cgroups.directories]
    return next(text for path in stats if path.exists() and "nr_throttled" in (text := path.read_text()))


async def test_out_of_memory_is_told(cgroups, start):
    group = cgroups.create("1.1", Limits(memory_bytes=24 << 20))
    assert not select.select([group.oom_fd], [], [], 0)[0]
    hog = start(group, "x=0123456789abcdef; while :; do x=$x$x; done")
    with trio.fail_after(DEADLINE_S):
        while group.usage().oom_kills == 0:  # as its owner does: v1 tells before the killer has acted
            await trio.lowlevel.wait_readable(group.oom_fd)
    assert hog.wait() == -signal.SIGKILL
    with trio.fail_after(DEADLINE_S):
        await group.emptied()
    until(lambda: group.usage().oom_kills and not select.select([group.oom_fd], [], [], 0)[0])


def test_sweep_kills_and_removes_what_a_dead_kernel_left(kind, root_name, cgroups, start):
    left = [cgroups.create(f"{n}.1", Limits()) for n in range(4)]
    tool = cgroups.create("t1", Limits(), parent=left[1])
    ready(start(left[0], WORKLOADS["deaf"]))
    ready(start(tool, WORKLOADS["ten"]))
    ready(start(left[2], WORKLOADS["hopper"]))
    trio.run(left[0].freeze)
    again = detect(root_name, prefer=kind)
    assert again.sweep() == ["0.1", "1.1", "2.1", "3.1"]
    assert not any(group.populated() for group in left)
    assert [directories_of(cgroups, group.path) for group in left] == [[]] * 4
    assert again.sweep() == []
    again.close()


def test_sweep_finds_what_joined_only_some_hierarchies(cgroups, start):
    group = cgroups.create("1.1", Limits())
    process = start(group, "exec cat")
    if group.cgroup_fd >= 0:  # out of the tree that kills, still in those that limit
        Path(cgroups.directories[-1], "cgroup.procs" if cgroups.kind == "hybrid" else "1.1/cgroup.procs").write_text(
            str(process.pid)
        )
    assert cgroups.sweep() == ["1.1"]
    assert process.wait() == -signal.SIGKILL


def test_close_keeps_what_is_in_use(kind, root_name, cgroups):
    cgroups.create("1.1", Limits())
    again = detect(root_name, prefer=kind)
    again.close()
    assert len(directories_of(cgroups, "1.1")) == len(cgroups.directories)
