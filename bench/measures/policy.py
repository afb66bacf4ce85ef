"""One decision of a policy of a hundred rules, in process: answered before, and asked for the first time; and what
CHECKPOLICY costs an agent of that policy beside a call that does nothing.

Seventy folders and ten names with a star in the agent's tree, allowed or denied, and twenty tools. Each decision is
timed by itself, and the median of what reading the clock takes is taken off. First-time questions are of names that
were never asked about; the rules were met before. RUN are asked in a row, a fifth of them about names with a
star; HOT different ones of those that were answered before.

Round trips are a C client's, as an agent's, with a private kernel: CHECKPOLICY of a path, and GETPID, in turn, round
after round. The ratio is the median of the rounds' ratios of their medians.

Living agents get the same policy in one request: see narrowing.py.

Cedar (cedarpy) decides the rules on folders, its policies parsed beforehand, between our rounds. Its answers are
compared with ours before anything is measured.
"""

import importlib.util
import itertools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Final

from harness.command import command
from harness.figures import median, median_ratio, p99
from harness.kernel import private_kernel
from harness.native import build
from harness.report import Goal, Report, number

from agentix_kernel.authority.policy import document
from agentix_kernel.authority.policy.compiled import Compiled
from measures.narrowing import Narrowed, narrow

FOLDERS: Final = 70
STARS: Final = 10
TOOLS: Final = 20
RUN: Final = 1000
HOT: Final = 50
CACHED_GOAL_US: Final = 0.2
UNCACHED_GOAL_US: Final = 1.0
ROUND_TRIP_GOAL: Final = 1.15
WINDOW_MS: Final = 20
NARROWED: Final = 500
QUICK_NARROWED: Final = 100
NARROWED_GOAL_S: Final = 1.0
"""For NARROWED agents; a quick run takes its part of it."""

Request = tuple[str, str, bytes]


def rules() -> list[tuple[str, str]]:
    """Effects and rules as YAML: a hundred."""
    found = [("deny" if n % 3 == 0 else "allow", f"{{file: /state/folder{n % 10}/part{n}, action: [read, write]}}")
             for n in range(FOLDERS)]
    found += [("deny" if n % 2 else "allow", f"{{file: '/mem/kind{n}-*', action: read}}") for n in range(STARS)]
    return found + [("allow", f"{{tool: tool{n}}}") for n in range(TOOLS)]


def text() -> bytes:
    lines = ["version: 1", "name: hundred", "mode: enforce"]
    for effect in ("allow", "deny"):
        lines += [f"{effect}:", *(f"  - {rule}" for kind, rule in rules() if kind == effect)]
    return "\n".join(lines).encode()


def policy() -> Compiled:
    return Compiled(document.load(text(), "hundred.yaml"))


def round_trips(rounds: int, duration_ms: int) -> dict[str, list[float]]:
    """Medians in microseconds of each round, by what was called."""
    found: dict[str, list[float]] = {"check": [], "noop": []}
    with tempfile.TemporaryDirectory(prefix="agentix-bench-") as folder, private_kernel() as kernel:
        load = build("load", folder)
        agent = kernel.spawn("exec", ["/bin/sleep", "infinity"], policy=["hundred.yaml", text()], cwd="/tmp")
        os.mkdir(f"{kernel.prefix}/agent/{agent['id']}/state/folder1")
        for _ in range(rounds):
            for operation, medians in found.items():
                done = subprocess.run([load, operation, str(duration_ms), str(WINDOW_MS), str(kernel.pid),
                                       kernel.socket_target(agent)], check=True, stdout=subprocess.PIPE)
                medians.append(json.loads(done.stdout)["p50_ns"] / 1000)
    return found


def requests(turn: str, count: int) -> list[Request]:
    """Questions about the rules' folders, names with stars, tools and what no rule is about, in turn."""
    found: list[Request] = []
    for n in range(count):
        kinds: tuple[Request, ...] = (
            ("file", "read", f"/state/folder{n % 10}/part{n % FOLDERS}/{turn}{n}".encode()),
            ("file", "write", f"/state/folder{n % 10}/part{n % FOLDERS}/{turn}/{n}".encode()),
            ("tool", "exec", f"tool{n % TOOLS}".encode() if turn == "same" else f"{turn}{n}".encode()),
            ("file", "read", f"/mem/kind{n % STARS}-{turn}{n}".encode()),
            ("file", "read", f"/proc/{turn}{n}".encode()))
        found.append(kinds[n % len(kinds)])
    return found


def timed(decide: Callable[[str, str, bytes], Any], asked: Sequence[Request]) -> list[float]:
    """Nanoseconds of each, the clock's own in it."""
    clock, times = time.perf_counter_ns, list[float]()
    for resource, action, obj in asked:
        begin = clock()
        decide(resource, action, obj)
        times.append(clock() - begin)
    return times


def clock_ns() -> float:
    """What is measured when nothing is done."""
    clock, times = time.perf_counter_ns, list[float]()
    for _ in range(10_000):
        begin = clock()
        times.append(clock() - begin)
    return median(times)


def cedar() -> Callable[[str, str, bytes], bool] | None:
    """The rules on folders as Cedar has them, and one decision; None where cedarpy is not installed."""
    if not importlib.util.find_spec("cedarpy"):
        return None
    import cedarpy

    texts = []
    for effect, rule in rules():
        path = rule.split(",")[0].removeprefix("{file: ").strip("'")
        if path.startswith("/state"):
            texts.append(f'{"permit" if effect == "allow" else "forbid"}(principal, action, resource) when '
                         f'{{ context.path == "{path}" || context.path like "{path}/*" }};')
    source, entities = cedarpy.PolicySet.from_str("\n".join(texts)), cedarpy.Entities.from_json_str("[]")

    def decide(resource: str, action: str, obj: bytes) -> bool:
        asked = {"principal": 'Agent::"1"', "action": f'Action::"{action}"', "resource": f'Kind::"{resource}"',
                 "context": {"path": obj.decode()}}
        return bool(cedarpy.is_authorized(asked, source, entities).allowed)
    return decide


def measure(quick: bool) -> Report:
    trips = round_trips(*((8, 200) if quick else (30, 300)))
    narrowed = narrow(QUICK_NARROWED if quick else NARROWED, text())
    rounds = 20 if quick else 200
    loaded, peer = policy(), cedar()
    same = requests("same", HOT) * (RUN // HOT)
    known: dict[str, list[float]] = {"cached": [], "uncached": []}
    files = [one for one in same[:HOT] if one[2].startswith(b"/state")] if peer else []
    for asked in files:
        assert peer
        assert loaded.decide(*asked).allowed == peer(*asked), asked
    fresh = (requests(f"round{turn}-", RUN) for turn in itertools.count())
    for _ in range(5):
        timed(loaded.decide, next(fresh))
    for turn in range(rounds):
        timed(loaded.decide, same)  # so that they are remembered
        known["cached"] += timed(loaded.decide, same)
        known["uncached"] += timed(loaded.decide, next(fresh))
        if peer and turn % 10 == 0:
            known.setdefault("cedar", []).extend(timed(peer, files))
    clock = clock_ns()
    report = _report({key: [(one - clock) / 1000 for one in times] for key, times in known.items()}, trips)
    _report_narrowed(report, narrowed)
    return report


def _report(known: dict[str, list[float]], trips: dict[str, list[float]]) -> Report:
    report = Report("policy")
    for name, samples in known.items():
        report.add_samples(name, samples, "us")
    titles = {"cached": "answered before", "uncached": "asked for the first time", "cedar": "Cedar"}
    rows = [["one decision, us", "samples", "median", "p99", "max"]]
    rows += [[titles[name], str(len(samples)), *(number(pick(samples)) for pick in (median, p99, max))]
             for name, samples in known.items()]
    if "cedar" in known:
        for name in ("cached", "uncached"):
            report.figures[f"{name}_ratio_to_cedar"] = median(known[name]) / median(known["cedar"])
        report.notes.append(f"Cedar is cedarpy {metadata.version('cedarpy')}; it decides the rules on folders only.")
    else:
        report.notes.append("Cedar, to compare with, is not installed: pip install cedarpy")
    report.tables.append(("a hundred rules", rows))
    report.goals.append(Goal("answered before: p99 us", p99(known["cached"]), "<=", CACHED_GOAL_US))
    report.goals.append(Goal("asked for the first time: p99 us", p99(known["uncached"]), "<=", UNCACHED_GOAL_US))
    _report_trips(report, trips)
    return report


def _report_trips(report: Report, trips: dict[str, list[float]]) -> None:
    ratio = median_ratio(trips["check"], trips["noop"])
    for name, medians in trips.items():
        report.figures[f"round_trip_{name}_p50_us"] = median(medians)
    report.figures["round_trip_ratio_to_noop"] = ratio
    report.tables.append(("round trips of an agent", [
        ["call", "rounds", "p50 us", "ratio"],
        ["CHECKPOLICY", str(len(trips["check"])), number(median(trips["check"])), number(ratio)],
        ["GETPID", str(len(trips["noop"])), number(median(trips["noop"])), ""]]))
    report.goals.append(Goal("CHECKPOLICY: round trip, ratio to GETPID", ratio, "<=", ROUND_TRIP_GOAL))


def _report_narrowed(report: Report, narrowed: Narrowed) -> None:
    report.figures["narrowed_agents_number"] = narrowed.agents
    report.figures["narrowing_s"] = narrowed.seconds
    report.tables.append(("another policy for living agents, in one request", [
        ["agents", "s", "ms an agent"],
        [str(narrowed.agents), number(narrowed.seconds), number(narrowed.seconds / narrowed.agents * 1000)]]))
    report.goals.append(Goal(f"narrowing {narrowed.agents} living agents: s", narrowed.seconds, "<=",
                             NARROWED_GOAL_S * narrowed.agents / NARROWED))


main = command(measure, __doc__)
