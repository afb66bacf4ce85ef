"""From SIGKILL to proven dead, beside a bare kill of the same workload in a cgroup without a kernel of agents.

Four workloads, turn by turn: one sleeper; ten of them; a fork bomb at 64 processes; a reader blocked in a file of the
mounted tree whose answer does not come (alive until the file server gives up its request, so a bare kill never
succeeds, and there is nothing to compare with). An agent is killed through the control socket: the clock stops when
`wait` has said that nothing is left, by when two records are on stable storage. The bare kill is one write to
cgroup.kill (or a loop of signals where Linux has none) and a wait for the cgroup's event.

After every round /proc is searched for processes of the agent's uid. One that was left would end the benchmark.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import click
import trio
from attrs import define, field, frozen
from harness import cage
from harness.command import command
from harness.figures import median, p99
from harness.kernel import PrivateKernel, private_kernel
from harness.processes import name_of, of_uid, wait_until, waits_for
from harness.report import Goal, Report, number

from agentix_kernel.cgroups import Cgroups
from agentix_kernel.world import Limits
from agentix_syscalls.signals import SIGKILL

PIDS_MAX: Final = 64
LIMITS: Final = Limits(pids=PIDS_MAX)
BARE_FACTOR: Final = 2.0
SLEEPER: Final = ["/bin/sleep", "infinity"]
TEN: Final = ["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep infinity & done; exec sleep infinity"]
READER: Final = ["/bin/cat", "/agent/self/proc/wait"]
BLOCKED_IN_FUSE: Final = "request_wait_answer"

BOMB_TEXT: Final = """
import os
rights = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff:")]
assert int(rights[0], 16) == 0 and os.geteuid() != 0, "not confined: it has capabilities"
assert os.readlink("/proc/self/ns/mnt") != os.environ["HOST_MNT"], "not confined: it is in the host's mount namespace"
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


@frozen
class Workload:
    """`complete` says whether the processes of a uid are all there; `bare` whether a bare kill of it succeeds."""

    name: str
    title: str
    argv: list[str]
    complete: Callable[[int], bool]
    goal_ms: float
    bare: bool = True


def _sleeping(count: int) -> Callable[[int], bool]:
    return lambda uid: sum(name_of(pid) == "sleep" for pid in of_uid(uid)) == count


def _bombed(uid: int) -> bool:
    return len(of_uid(uid)) >= PIDS_MAX - 4  # some are always between two forks, or not told of by /proc yet


def _blocked(uid: int) -> bool:
    return any(name_of(pid) == "cat" and waits_for(pid) == BLOCKED_IN_FUSE for pid in of_uid(uid))


WORKLOADS: Final = (
    Workload("sleeper", "a sleeper", SLEEPER, _sleeping(1), 10),
    Workload("ten", "ten processes", TEN, _sleeping(10), 25),
    Workload("bomb", f"a fork bomb at {PIDS_MAX}", [sys.executable, "-I", "-S", "-c", BOMB_TEXT], _bombed, 300),
    Workload("fuse", "a reader blocked in FUSE", READER, _blocked, 50, bare=False),
)
QUICK_ROUNDS: Final = {"sleeper": 15, "ten": 10, "bomb": 4, "fuse": 10}
ROUNDS: Final = 100


@define
class Times:
    """Milliseconds until proven dead, one for each round; `bare` is empty where there is no bare kill."""

    agent: list[float] = field(factory=list[float])
    bare: list[float] = field(factory=list[float])


def measure(quick: bool) -> Report:
    times = {workload.name: Times() for workload in WORKLOADS}
    rounds = QUICK_ROUNDS if quick else dict.fromkeys(QUICK_ROUNDS, ROUNDS)
    with private_kernel() as kernel, cage.own_cgroups() as cgroups:
        if "pids" in cgroups.missing:
            raise click.ClickException("no pids cgroup on this machine: a fork bomb would not be bounded")
        for turn in range(max(rounds.values())):
            for workload in WORKLOADS:
                if turn < rounds[workload.name]:
                    times[workload.name].agent.append(_kill_agent(kernel, workload))
                    if workload.bare:
                        times[workload.name].bare.append(_kill_bare(cgroups, workload, turn))
    return _report(times)


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOST_MNT": os.readlink("/proc/self/ns/mnt")}


def _kill_agent(kernel: PrivateKernel, workload: Workload) -> float:
    agent = kernel.spawn("exec", workload.argv, pids=PIDS_MAX, env=_environment())
    wait_until(lambda: workload.complete(agent["uid"]), f"{workload.title} runs as an agent")
    begin = time.monotonic_ns()
    kernel.signal(agent["id"], SIGKILL)
    ended: dict[str, Any] = kernel.wait(agent["id"])
    took_ms = (time.monotonic_ns() - begin) / 1e6
    _nothing_left(workload, agent["uid"])
    if ended["signal"] != "SIGKILL":
        raise click.ClickException(f"{workload.title}: ended before it was killed: {ended['detail']}")
    kernel.remove(agent["id"])
    return took_ms


def _kill_bare(cgroups: Cgroups, workload: Workload, turn: int) -> float:
    uid = cage.own_uid()
    with cage.caged(cgroups, f"{workload.name}.{turn}", workload.argv, _environment(), uid, LIMITS) as group:
        wait_until(lambda: workload.complete(uid), f"{workload.title} runs in a cage")
        took_ms = trio.run(_timed_kill, group)  # pyright: ignore[reportUnknownMemberType] - trio's types
    _nothing_left(workload, uid)
    return took_ms


async def _timed_kill(group: Any) -> float:
    begin = time.monotonic_ns()
    await cage.kill(group)
    return (time.monotonic_ns() - begin) / 1e6


def _nothing_left(workload: Workload, uid: int) -> None:
    left = of_uid(uid)
    if left:
        raise click.ClickException(f"{workload.title}: said to be dead, and these processes live: {left}")


def _report(times: dict[str, Times]) -> Report:
    report = Report("kill")
    rows = [["until proven dead, ms", "rounds", "median", "p99", "max", "bare median", "p99", "max"]]
    for workload in WORKLOADS:
        ours, bare = times[workload.name].agent, times[workload.name].bare
        report.add_samples(workload.name, ours, "ms")
        if bare:
            report.add_samples(f"bare_{workload.name}", bare, "ms")
        cells = [workload.title, str(len(ours))]
        cells += [number(pick(ours)) for pick in (median, p99, max)]
        rows.append(cells + [number(pick(bare)) if bare else "never" for pick in (median, p99, max)])
        wanted = max(workload.goal_ms, BARE_FACTOR * median(bare) if bare else 0)
        report.goals.append(Goal(f"{workload.title}: median ms, {workload.goal_ms:g} or {BARE_FACTOR:g} times bare",
                                 median(ours), "<=", wanted))
    report.tables.append(("agents and bare cgroups, turn by turn; nothing was left after any round", rows))
    return report


main = command(measure, __doc__)
