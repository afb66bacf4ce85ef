"""Many agents alive at once: how long it takes to get there, what they cost, and how the kernel answers meanwhile.

Each is a Python agent that is connected and waits for a signal; on SIGUSR2 it makes a call and waits again. With all
of them there: further spawns, one at a time (then removed); `agentctl ps`, as a person types it; one SIGUSR2 to each,
until the last has answered; then SIGKILL to each, until the kernel says of each that nothing is left.

Memory is agentd's own (private pages of its process), from before the first agent to the last, divided by their number;
what agents and inits use is their own and shown beside it. A peer in the same run: as many `sleep` processes, started
and killed by a shell's means, without anything around them.
"""

import os
import subprocess
import sys
import time
from typing import Final

import click
from attrs import define, field
from harness.command import command
from harness.figures import median, p99
from harness.kernel import PrivateKernel, private_kernel
from harness.processes import private_bytes, status_of, wait_until
from harness.report import Goal, Report, number

from agentix_syscalls.errors import CallError
from agentix_syscalls.signals import SIGKILL, SIGUSR2

AGENTS: Final = 1000
QUICK_AGENTS: Final = 200
WHILE_THERE: Final = 50
ANSWERS_S: Final = 120.0
IDLE: Final = """
from agentix import libc
libc.sigprocmask(libc.SIG_BLOCK, {libc.SIGUSR2})
while True:
    libc.sigwait({libc.SIGUSR2})
    libc.getpid()
"""
CALLS_TO_WAIT: Final = 3
"""Of an agent until it waits: HELLO, SIGPROCMASK and SIGWAIT."""
CALLS_AN_ANSWER: Final = 2
"""GETPID, and SIGWAIT again."""
CONFIG: Final = "agents_max = 5000\nlog_bytes = 65536\n"


@define
class Found:
    """Seconds, unless the name says otherwise."""

    agents: int
    spawn_all_s: float = 0
    spawn_ms: list[float] = field(factory=list[float])
    """One more at a time, with all of them there."""
    agentd_bytes: float = 0
    """Private memory, for each agent."""
    agent_bytes: float = 0
    ps_s: float = 0
    signal_s: float = 0
    gone_s: float = 0
    bare_spawn_s: float = 0
    bare_gone_s: float = 0


def measure(quick: bool) -> Report:
    found = Found(QUICK_AGENTS if quick else AGENTS)
    _bare(found)
    with private_kernel(CONFIG) as kernel:
        _one(kernel)  # what is made once is not counted for each
        before = private_bytes(kernel.pid)
        begin = time.monotonic()
        ids = [kernel.script(IDLE, "idle")["id"] for _ in range(found.agents)]
        found.spawn_all_s = time.monotonic() - begin
        _all_wait(kernel, found.agents)
        found.agentd_bytes = (private_bytes(kernel.pid) - before) / found.agents
        found.agent_bytes = median([float(_own_bytes(kernel, agent)) for agent in ids[:: len(ids) // 20]])
        found.spawn_ms = [_one(kernel) for _ in range(WHILE_THERE)]
        found.ps_s = _ps(kernel, found.agents)
        found.signal_s = _answer(kernel, ids)
        found.gone_s = _end(kernel, ids)
    return _report(found)


def _bare(found: Found) -> None:
    begin = time.monotonic()
    sleepers = [subprocess.Popen(["/bin/sleep", "infinity"]) for _ in range(found.agents)]
    found.bare_spawn_s = time.monotonic() - begin
    begin = time.monotonic()
    for sleeper in sleepers:
        sleeper.kill()
    for sleeper in sleepers:
        sleeper.wait()
    found.bare_gone_s = time.monotonic() - begin


def _one(kernel: PrivateKernel) -> float:
    """Spawn one more and take it away; the milliseconds until it ran."""
    begin = time.monotonic_ns()
    agent = kernel.script(IDLE, "one")["id"]
    took_ms = (time.monotonic_ns() - begin) / 1e6
    kernel.signal(agent, SIGKILL)
    kernel.wait(agent)
    kernel.remove(agent)
    return took_ms


def _all_wait(kernel: PrivateKernel, count: int) -> None:
    """Each has connected, and made the call in which it waits."""
    wait_until(lambda: _calls(kernel, count) >= CALLS_TO_WAIT, "all agents wait for a signal", ANSWERS_S)


def _calls(kernel: PrivateKernel, count: int) -> int:
    """Of the one that made the fewest."""
    rows = kernel.client.call("ps", False)
    if len(rows) < count:
        ended = [row["detail"] for row in kernel.client.call("ps", True) if row["status"] is not None]
        raise click.ClickException(f"{len(ended)} of {count} agents have ended; the first one: {ended[0]}")
    return min(row["calls"] for row in rows)


def _own_bytes(kernel: PrivateKernel, agent: int) -> int:
    """Private memory of the agent and its init."""
    pid: int = kernel.client.call("inspect", agent)["pid"]
    return private_bytes(pid) + private_bytes(int(status_of(pid)["PPid"]))


def _ps(kernel: PrivateKernel, count: int) -> float:
    """Seconds, best of five, as a command."""
    argv = [f"{os.path.dirname(sys.executable)}/agentctl", "--prefix", kernel.prefix, "ps"]
    times: list[float] = []
    for _ in range(5):
        begin = time.monotonic()
        shown = subprocess.run(argv, check=True, capture_output=True).stdout
        times.append(time.monotonic() - begin)
        if shown.count(b"\n") != count + 1:
            raise click.ClickException(f"agentctl ps shows {shown.count(bytes([10])) - 1} agents of {count}")
    return min(times)


def _answer(kernel: PrivateKernel, ids: list[int]) -> float:
    """One signal to each, until each has answered and waits again."""
    before = _calls(kernel, len(ids))
    begin = time.monotonic()
    _checked(kernel.client.calls("signal", [(agent, SIGUSR2, False) for agent in ids]))
    wait_until(lambda: _calls(kernel, len(ids)) >= before + CALLS_AN_ANSWER, "all agents have answered", ANSWERS_S)
    return time.monotonic() - begin


def _end(kernel: PrivateKernel, ids: list[int]) -> float:
    begin = time.monotonic()
    _checked(kernel.client.calls("signal", [(agent, SIGKILL, False) for agent in ids]))
    _checked(kernel.client.calls("wait", [(agent, None) for agent in ids]))
    took_s = time.monotonic() - begin
    _checked(kernel.client.calls("rm", [(agent,) for agent in ids]))
    if kernel.client.call("ps", True):
        raise click.ClickException("agents are left that were killed and removed")
    return took_s


def _checked(results: list[object]) -> None:
    for result in results:
        if isinstance(result, CallError):
            raise result


def _report(found: Found) -> Report:
    report = Report("density")
    kb = found.agentd_bytes / 1000
    report.figures |= {
        "agents_number": found.agents, "spawn_all_s": found.spawn_all_s, "bare_spawn_all_s": found.bare_spawn_s,
        "agentd_an_agent_kb": kb, "agent_and_init_mb": found.agent_bytes / 1e6, "ps_s": found.ps_s,
        "signal_all_s": found.signal_s, "gone_all_s": found.gone_s, "bare_gone_all_s": found.bare_gone_s}
    report.add_samples("spawn_while_there", found.spawn_ms, "ms")
    report.tables.append((f"{found.agents} idle Python agents at once", [
        ["", "agents", "bare processes"],
        ["all there, s", number(found.spawn_all_s), number(found.bare_spawn_s)],
        ["one more while they are there, ms: median", number(median(found.spawn_ms)), ""],
        ["one more while they are there, ms: p99", number(p99(found.spawn_ms)), ""],
        ["agentd's memory for each, KB", number(kb), ""],
        ["its own memory and its init's, MB", number(found.agent_bytes / 1e6), ""],
        ["agentctl ps, s", number(found.ps_s), ""],
        ["one signal to each, until all have answered, s", number(found.signal_s), ""],
        ["SIGKILL to each, until all are gone, s", number(found.gone_s), number(found.bare_gone_s)],
    ]))
    report.goals += [
        Goal("agentd's memory for each, KB", kb, "<=", 100),
        Goal("agentctl ps, s", found.ps_s, "<=", 0.3),
        Goal("a signal to all, answered, s", found.signal_s, "<=", 1),
        Goal("all gone, s", found.gone_s, "<=", 5),
    ]
    return report


main = command(measure, __doc__)
