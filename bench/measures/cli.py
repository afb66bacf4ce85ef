"""How soon the shell answers: agentctl ps with ten agents, agentctl --help, and the import of agentix.libc.

Round by round each command is run to its end, output thrown away, beside python -c 'import click' (what any command
in this language on that library costs) and a bare python -c ''. The time is from before its start to its end as its
parent sees it. Imports are timed inside of a new interpreter each, the statement alone: agentix.libc beside json,
socket and msgpack. Ratios are taken within a round.

Where the time goes: python -X importtime -c 'import agentix.libc', or -m agentix.agentctl ps.
"""

import os
import subprocess
import sys
import time
from typing import Final

import click
from harness.command import command
from harness.figures import median, median_ratio, p99
from harness.kernel import PrivateKernel, private_kernel
from harness.report import Goal, Report, number

AGENTS: Final = 10
WARM_UP: Final = 1
PEER: Final = "click"
"""Both commands are held against its import."""
IMPORT_PEERS: Final = "json, socket, msgpack"

COMMAND_GOAL: Final = 2.5
IMPORT_GOAL: Final = 2.0
IMPORT_MS_GOAL: Final = 30.0


def measure(quick: bool) -> Report:
    with private_kernel() as kernel:
        for _ in range(AGENTS):
            kernel.spawn("exec", ["/bin/sleep", "infinity"])
        times = _rounds(kernel, 6 if quick else 40)
    return _report(times)


def _rounds(kernel: PrivateKernel, rounds: int) -> dict[str, list[float]]:
    """Milliseconds by what was run, one for each round."""
    agentctl = f"{os.path.dirname(sys.executable)}/agentctl"
    commands = {
        "ps": [agentctl, "--prefix", kernel.prefix, "ps"], "help": [agentctl, "--help"],
        "click": [sys.executable, "-c", f"import {PEER}"], "python": [sys.executable, "-c", ""],
    }
    imports = {"libc": "agentix.libc", "imports": IMPORT_PEERS}
    times: dict[str, list[float]] = {name: [] for name in (*commands, *imports)}
    for at in range(WARM_UP + rounds):
        found = {name: _run_ms(argv) for name, argv in commands.items()}
        found |= {name: _import_ms(modules) for name, modules in imports.items()}
        if at >= WARM_UP:
            for name, ms in found.items():
                times[name].append(ms)
    return times


def _run_ms(argv: list[str]) -> float:
    begin = time.monotonic_ns()
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    took_ms = (time.monotonic_ns() - begin) / 1e6
    if done.returncode or done.stderr:
        raise click.ClickException(f"{' '.join(argv)}: status {done.returncode}: {done.stderr}")
    return took_ms


def _import_ms(modules: str) -> float:
    code = f"import time; begin = time.monotonic_ns()\nimport {modules}\nprint(time.monotonic_ns() - begin)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1e6


def _report(times: dict[str, list[float]]) -> Report:
    report = Report("cli")
    _tell(report, times, f"until it has ended, ms; {AGENTS} agents", "click", (
        ("ps", "agentctl ps"), ("help", "agentctl --help"), ("click", f"python -c 'import {PEER}'"),
        ("python", "python -c ''")))
    _tell(report, times, "the import statement alone, ms", "imports", (
        ("libc", "import agentix.libc"), ("imports", f"import {IMPORT_PEERS}")))
    ps, shown, libc = (median_ratio(times[name], times[peer])
                       for name, peer in (("ps", "click"), ("help", "click"), ("libc", "imports")))
    report.figures |= {"ps_median_ratio_to_click": ps, "help_median_ratio_to_click": shown,
                       "libc_median_ratio_to_imports": libc}
    report.goals = [
        Goal(f"agentctl ps, {AGENTS} agents: median, ratio to importing {PEER}", ps, "<=", COMMAND_GOAL),
        Goal(f"agentctl --help: median, ratio to importing {PEER}", shown, "<=", COMMAND_GOAL),
        Goal(f"import agentix.libc: median, ratio to {IMPORT_PEERS}", libc, "<=", IMPORT_GOAL),
        Goal("import agentix.libc: median ms", median(times["libc"]), "<=", IMPORT_MS_GOAL),
    ]
    return report


def _tell(report: Report, times: dict[str, list[float]], title: str, peer: str,
          rows: tuple[tuple[str, str], ...]) -> None:
    table = [[title, "median", "p99", "max", f"to {PEER if peer == 'click' else IMPORT_PEERS}"]]
    for name, told in rows:
        samples = times[name]
        report.add_samples(name, samples, "ms")
        ratio = median_ratio(samples, times[peer])
        table.append([told, number(median(samples)), number(p99(samples)), number(max(samples)), f"{ratio:.2f}"])
    report.tables.append((f"{len(times[peer])} rounds, interleaved; one interpreter for all", table))


main = command(measure, __doc__)
