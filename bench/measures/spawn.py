"""From asking for a child to its first statement, fully confined, beside bwrap and beside a bare exec of Python.

An agent in its sandbox calls libc.spawn; its child's first statement prints CLOCK_MONOTONIC, which is one clock for
all namespaces. Before and after it, round by round, the same interpreter is started by bwrap in fresh namespaces
(python -I -S, nothing imported), and started bare to import what an agent's runtime needs: the fixed set trio, attrs
and msgpack, and what agents do find imported, agentix.libc.
The kernel's figure includes what the others do not have: cgroups with limits, a uid, Landlock, seccomp, the agent's
file tree and a record on stable storage. `answered` is when libc.spawn has returned, which waits for that record.

Memory: pages that are private to a process (smaps_rollup), median of some idle Python agents that have used libc; and
what the Linux kernel itself holds for an agent (slab, page tables, stacks), from its memory cgroup.
"""

import os
import shutil
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import click
from attrs import define, field
from harness.command import command
from harness.figures import median, median_ratio, p99
from harness.kernel import PrivateKernel, private_kernel
from harness.processes import kernel_bytes, of_uid, private_bytes, status_of, wait_until
from harness.report import Goal, Report, number

from agentix.control import Client, socket_path
from agentix_syscalls.signals import SIGKILL, SIGUSR1

WARM_UP: Final = 3
IDLE_AGENTS: Final = 8
IMPORTS: Final = "trio, attrs, msgpack"
ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
TELL_TIME: Final = "import time; print(time.monotonic_ns())"
BWRAP: Final = ("--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc")

BWRAP_GOAL: Final = 0.5
BWRAP_FLOOR: Final = 0.65
IMPORTS_GOAL: Final = 0.1
MAIN_MB_GOAL: Final = 4.0
AGENT_MB_GOAL: Final = 6.0
MB: Final = 1e6

PARENT: Final = """
import time
from agentix import libc

with open("/tmp/child.py", "w") as child:
    child.write("print(__import__('time').monotonic_ns())")
libc.sigprocmask(libc.SIG_BLOCK, [libc.SIGUSR1])
print("ready", flush=True)
while True:
    libc.sigwait([libc.SIGUSR1])
    asked = time.monotonic_ns()
    child = libc.spawn("/tmp/child.py")
    answered = time.monotonic_ns()
    ended = libc.waitpid(child)
    print(child, asked, answered, ended.code, flush=True)
"""

IDLER: Final = """
from agentix import libc
libc.sigprocmask(libc.SIG_BLOCK, [libc.SIGUSR1])
print("ready", flush=True)
libc.sigwait([libc.SIGUSR1])
"""


@define
class Times:
    """Milliseconds, one of each for every round."""

    agent: list[float] = field(factory=list[float])
    answered: list[float] = field(factory=list[float])
    bwrap: list[float] = field(factory=list[float])
    imports: list[float] = field(factory=list[float])
    libc: list[float] = field(factory=list[float])


@define
class Memory:
    """Bytes, one of each for every idle agent. `kernel` is empty where the memory cgroup does not tell."""

    main: list[float] = field(factory=list[float])
    init: list[float] = field(factory=list[float])
    kernel: list[float] = field(factory=list[float])

    def both(self) -> list[float]:
        return [main + init for main, init in zip(self.main, self.init, strict=True)]


def measure(quick: bool) -> Report:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise click.ClickException("no bwrap to compare with; apt-get install bubblewrap")
    times = Times()
    with private_kernel() as kernel:
        with _parent(kernel, WARM_UP + (25 if quick else 100)) as spawns:
            for at, (asked_ns, born_ns, answered_ns) in enumerate(spawns):
                if at < WARM_UP:
                    continue
                times.agent.append((born_ns - asked_ns) / 1e6)
                times.answered.append((answered_ns - asked_ns) / 1e6)
                times.bwrap.append(_started_ms([bwrap, *BWRAP, sys.executable, "-I", "-S", "-c", TELL_TIME]))
                times.imports.append(_started_ms([sys.executable, "-c", f"import {IMPORTS}; {TELL_TIME}"]))
                times.libc.append(_started_ms([sys.executable, "-c", f"import agentix.libc; {TELL_TIME}"]))
        memory = _memory(kernel)
    return _report(times, memory)


@contextmanager
def _parent(kernel: PrivateKernel, rounds: int) -> Generator[Iterator[tuple[int, int, int]]]:
    """An agent that spawns one child for every item that is taken."""
    agent = kernel.script(PARENT, "parent", spawn_max=rounds)["id"]
    with Client(socket_path(kernel.prefix)) as follower:
        yield _spawns(kernel, agent, _lines(follower, agent), rounds)
    kernel.signal(agent, SIGKILL)
    kernel.wait(agent)


def _spawns(kernel: PrivateKernel, agent: int, lines: Iterator[str], rounds: int) -> Iterator[tuple[int, int, int]]:
    """(asked, born, answered) in nanoseconds, `rounds` times. Raises ClickException when an agent fails."""
    _expect(next(lines, "nothing") == "ready", "the parent agent started", kernel, agent)
    for _ in range(rounds):
        kernel.signal(agent, SIGUSR1)
        words = next(lines, "").split()
        _expect(len(words) == 4 and words[3] == "0", "a child was spawned and exited with 0", kernel, agent)
        child, asked_ns, answered_ns = map(int, words[:3])
        kernel.wait(child)
        born_ns = int(kernel.output(child))
        kernel.remove(child)
        yield asked_ns, born_ns, answered_ns


def _lines(client: Client, agent: int) -> Iterator[str]:
    """Whole lines of an agent's output as they come."""
    begun = ""
    for _, data, _ in client.stream("logs", agent, True, None):
        *whole, begun = (begun + data.decode()).split("\n")
        yield from whole


def _expect(condition: bool, what: str, kernel: PrivateKernel, agent: int) -> None:
    if not condition:
        raise click.ClickException(f"not so: {what}. The agent's output:\n{kernel.output(agent)}")


def _started_ms(argv: list[str]) -> float:
    """Run a program that prints CLOCK_MONOTONIC; milliseconds from before its start to what it printed."""
    reader, writer = os.pipe()
    asked_ns = time.monotonic_ns()
    pid = os.posix_spawn(argv[0], argv, ENVIRONMENT, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)])
    os.close(writer)
    with open(reader, "rb") as output:
        printed = output.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise click.ClickException(f"{argv[0]}: exit status {status}")
    return (int(printed) - asked_ns) / 1e6


def _memory(kernel: PrivateKernel) -> Memory:
    agents = [kernel.script(IDLER, "idler") for _ in range(IDLE_AGENTS)]
    for agent in agents:
        wait_until(partial(_is_ready, kernel, agent["id"]), "an idle agent is ready")
    memory = Memory()
    for agent in agents:
        pids = {status_of(pid)["NSpid"].split()[-1]: pid for pid in of_uid(agent["uid"])}
        memory.init.append(float(private_bytes(pids["1"])))
        memory.main.append(float(private_bytes(pids["2"])))
        held = kernel_bytes(pids["2"])
        if held is not None:
            memory.kernel.append(float(held))
    return memory


def _is_ready(kernel: PrivateKernel, agent: int) -> bool:
    return kernel.output(agent) == "ready\n"


def _report(times: Times, memory: Memory) -> Report:
    report = Report("spawn")
    rows = [["to the first statement, ms", "median", "p99", "max", "agent's median is"]]
    for name, title, samples in (
            ("agent", "agent: spawned, confined", times.agent),
            ("answered", "agent: libc.spawn has returned", times.answered),
            ("bwrap", "bwrap, python -I -S", times.bwrap), ("imports", f"python, import {IMPORTS}", times.imports),
            ("libc", "python, import agentix.libc", times.libc)):
        report.add_samples(name, samples, "ms")
        ratio = median_ratio(times.agent, samples)
        rows.append([title, number(median(samples)), number(p99(samples)), number(max(samples)), f"{ratio:.2f} of it"])
    report.tables.append((f"{len(times.agent)} rounds, interleaved; one interpreter for all", rows))
    _report_memory(report, memory)
    to_bwrap, to_imports = median_ratio(times.agent, times.bwrap), median_ratio(times.agent, times.imports)
    report.figures |= {"agent_median_ratio_to_bwrap": to_bwrap, "agent_median_ratio_to_imports": to_imports}
    report.goals = [
        Goal("spawn: median, ratio to bwrap", to_bwrap, "<=", BWRAP_GOAL),
        Goal("spawn: median, ratio to bwrap, floor", to_bwrap, "<=", BWRAP_FLOOR),
        Goal(f"spawn: median, ratio to python importing {IMPORTS}", to_imports, "<=", IMPORTS_GOAL),
        Goal("idle agent: private MB of its process", median(memory.main) / MB, "<=", MAIN_MB_GOAL),
        Goal("idle agent: private MB with its init", median(memory.both()) / MB, "<=", AGENT_MB_GOAL),
    ]
    return report


def _report_memory(report: Report, memory: Memory) -> None:
    rows = [["memory of an idle agent, MB", "median", "max"]]
    for name, title, samples in (
            ("main", "its process, private", memory.main), ("init", "its init, private", memory.init),
            ("both", "together, private", memory.both()), ("kernel", "held by Linux for it", memory.kernel)):
        if samples:
            report.figures[f"memory_{name}_median_mb"] = median(samples) / MB
            rows.append([title, number(median(samples) / MB), number(max(samples) / MB)])
    if not memory.kernel:
        report.notes.append("what Linux holds for an agent is not told by the memory cgroup of this machine")
    report.tables.append((f"{len(memory.main)} agents, idle, libc in use", rows))


main = command(measure, __doc__)
