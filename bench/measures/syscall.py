"""System calls through the kernel, beside a C server that answers the same frames and does nothing else.

A no-op (GETPID), a READ and a WRITE of 4 KiB, by 1, 16 and 100 agents; one call under way for each. One C program
drives both servers alike, in turn, round after round. Latencies are medians over the rounds, and their ratios are
taken within a round; throughput is the best window of 20 ms that each side had. Each call is checked against the
policy, recorded in the journal and served by the tree; the C server only echoes: its figures are the machine's floor.

A wake-up across processors costs more than the call itself, so each row says in what share of a round's samples the
scheduler had client and server on one processor. Nothing is pinned: real agents are not.

Where the time goes: run `bench/syscall` in one shell and `perf record -g -p PID` (or `py-spy record -p PID`) on the
agentd that it started in another; `strace -c -p PID` counts its Linux system calls.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen
from harness.command import command
from harness.figures import median, median_ratio
from harness.kernel import PrivateKernel, private_kernel
from harness.native import build, echo_server
from harness.report import Goal, Report, number

OPERATIONS: Final = ("noop", "read", "write")
AGENTS: Final = (1, 16, 100)
WINDOW_MS: Final = 20
P50_GOALS: Final = {"noop": 4.0, "read": 6.0, "write": 6.0}
THROUGHPUT_GOAL: Final = 0.3
THROUGHPUT_AGENTS: Final = 16


@frozen
class Round:
    """What native/load.c prints."""

    operations: int
    p50_ns: int
    p99_ns: int
    best_ops_s: float
    mean_ops_s: float
    same_core: float


@define
class Series:
    """The rounds of one operation at one number of agents: the kernel's and the C server's, in pairs."""

    operation: str
    agents: int
    kernel: list[Round] = field(factory=list[Round])
    echo: list[Round] = field(factory=list[Round])

    @property
    def name(self) -> str:
        return f"{self.operation}_{self.agents}_agents"

    def p50_ratio(self) -> float:
        return median_ratio([r.p50_ns for r in self.kernel], [r.p50_ns for r in self.echo])

    def throughput_ratio(self) -> float:
        return best(self.kernel) / best(self.echo)


def best(rounds: Sequence[Round]) -> float:
    return max(r.best_ops_s for r in rounds)


@frozen
class Bench:
    """The two servers and the client. `targets` are SOCKET:UID of the agents."""

    load: str
    duration_ms: int
    kernel_pid: int
    targets: list[str]
    echo_pid: int
    echo_target: str

    def play(self, series: Series) -> None:
        """One round on each."""
        count = series.agents
        series.kernel.append(self._run(series.operation, self.kernel_pid, self.targets[:count]))
        series.echo.append(self._run(series.operation, self.echo_pid, [self.echo_target] * count))

    def _run(self, operation: str, pid: int, targets: list[str]) -> Round:
        argv = [self.load, operation, str(self.duration_ms), str(WINDOW_MS), str(pid), *targets]
        done = subprocess.run(argv, check=True, stdout=subprocess.PIPE)
        return Round(**json.loads(done.stdout))


def measure(quick: bool) -> Report:
    rounds, duration_ms = (4, 150) if quick else (12, 500)
    every = [Series(operation, agents) for agents in AGENTS for operation in OPERATIONS]
    with tempfile.TemporaryDirectory(prefix="agentix-bench-") as folder, private_kernel() as kernel:
        load, echo = build("load", folder), build("echo", folder)
        targets = _sleepers(kernel, max(AGENTS))
        with echo_server(echo, f"{folder}/echo.sock") as echo_pid:
            bench = Bench(load, duration_ms, kernel.pid, targets, echo_pid, f"{folder}/echo.sock:0")
            for _ in range(rounds):
                for series in every:
                    bench.play(series)
    return _report(every)


def _sleepers(kernel: PrivateKernel, count: int) -> list[str]:
    """Agents that do nothing: the client makes their calls, with their uids, on their sockets."""
    return [kernel.socket_target(kernel.spawn("exec", ["/bin/sleep", "infinity"])) for _ in range(count)]


def _report(every: list[Series]) -> Report:
    report = Report("syscall")
    rows = [["operation", "agents", "p50 us", "C", "ratio", "p99 us", "C", "calls/s", "C", "ratio", "same core", "C"]]
    for series in every:
        rows.append(_row(series))
        for who, rounds in (("", series.kernel), ("c_", series.echo)):
            report.figures |= {
                f"{who}{series.name}_p50_us": median([r.p50_ns / 1000 for r in rounds]),
                f"{who}{series.name}_p99_us": median([r.p99_ns / 1000 for r in rounds]),
                f"{who}{series.name}_best_ops_s": best(rounds),
                f"{who}{series.name}_same_core_share": median([r.same_core for r in rounds]),
            }
        report.figures[f"{series.name}_p50_ratio_to_c"] = series.p50_ratio()
        report.figures[f"{series.name}_throughput_ratio_to_c"] = series.throughput_ratio()
    report.tables.append(("one call under way for each agent; C: the echo server", rows))
    report.goals = _goals(every)
    return report


def _row(series: Series) -> list[str]:
    cells = [series.operation, str(series.agents)]
    ours, theirs = series.kernel, series.echo
    for pick in ("p50_ns", "p99_ns"):
        cells += [number(median([getattr(r, pick) / 1000 for r in rounds])) for rounds in (ours, theirs)]
        if pick == "p50_ns":
            cells.append(number(series.p50_ratio()))
    cells += [number(best(ours)), number(best(theirs)), number(series.throughput_ratio())]
    return cells + [f"{median([r.same_core for r in rounds]):.0%}" for rounds in (ours, theirs)]


def _goals(every: list[Series]) -> list[Goal]:
    goals = [Goal(f"{series.operation}: p50 at one agent, ratio to C", series.p50_ratio(), "<=",
                  P50_GOALS[series.operation]) for series in every if series.agents == 1]
    goals += [Goal(f"{series.operation}: calls a second at {THROUGHPUT_AGENTS} agents, ratio to C",
                   series.throughput_ratio(), ">=", THROUGHPUT_GOAL)
              for series in every if series.agents == THROUGHPUT_AGENTS]
    return goals


main = command(measure, __doc__)
