"""One decision of a policy of a hundred rules, in process: answered before, and asked for the first time.

Seventy folders and ten names with a star in the agent's tree, allowed or denied, and twenty tools. Each decision is
timed by itself, and the median of what reading the clock takes is taken off. First-time questions are of names that
were never asked about; the rules were met before. RUN are asked in a row, a fifth of them about names with a
star; HOT different ones of those that were answered before.

Cedar (cedarpy) decides the rules on folders, its policies parsed beforehand, between our rounds. Its answers are
compared with ours before anything is measured.
"""

import importlib.util
import itertools
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Final

from harness.command import command
from harness.figures import median, p99
from harness.report import Goal, Report, number

from agentix_kernel.authority.policy import document
from agentix_kernel.authority.policy.compiled import Compiled

FOLDERS: Final = 70
STARS: Final = 10
TOOLS: Final = 20
RUN: Final = 1000
HOT: Final = 50
CACHED_GOAL_US: Final = 0.2
UNCACHED_GOAL_US: Final = 1.0

Request = tuple[str, str, bytes]


def rules() -> list[tuple[str, str]]:
    """Effects and rules as YAML: a hundred."""
    found = [("deny" if n % 3 == 0 else "allow", f"{{file: /state/folder{n % 10}/part{n}, action: [read, write]}}")
             for n in range(FOLDERS)]
    found += [("deny" if n % 2 else "allow", f"{{file: '/mem/kind{n}-*', action: read}}") for n in range(STARS)]
    return found + [("allow", f"{{tool: tool{n}}}") for n in range(TOOLS)]


def policy() -> Compiled:
    lines = ["version: 1", "name: hundred", "mode: enforce"]
    for effect in ("allow", "deny"):
        lines += [f"{effect}:", *(f"  - {text}" for kind, text in rules() if kind == effect)]
    return Compiled(document.load("\n".join(lines).encode(), "hundred.yaml"))


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
    for effect, text in rules():
        path = text.split(",")[0].removeprefix("{file: ").strip("'")
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
    return _report({key: [(one - clock) / 1000 for one in times] for key, times in known.items()})


def _report(known: dict[str, list[float]]) -> Report:
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
    return report


main = command(measure, __doc__)
