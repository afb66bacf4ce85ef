"""The policy document: its keys, in one table, and what is read from it.

Default deny; deny beats allow. Whatever is wrong with a document refuses the whole of it: a malformed policy never
means less of a policy.
"""

import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, Final

from attrs import field, frozen

from agentix_kernel.authority import constraints
from agentix_kernel.authority.constraints import Constraints
from agentix_kernel.authority.patterns import Malformed
from agentix_kernel.authority.policy import reading
from agentix_kernel.authority.policy.kinds import (
    NUMBER,
    SIZE,
    Choice,
    Complaints,
    Else,
    Integer,
    Key,
    Keys,
    Kind,
    Many,
    Text,
    read_size,
)
from agentix_kernel.authority.policy.reading import NOWHERE, BadPolicy, Complaint, Mark, Node
from agentix_kernel.authority.policy.rules import ALLOW, DENY, Rule, RuleKind
from agentix_syscalls import spawn, types

VERSION: Final = 1
SHIPPED: Final = spawn.POLICIES
SCHEMA_FILE: Final = "policy.schema.json"


@frozen
class Bounds:
    """Limits that a policy sets; None: it says nothing. `marks`: where each is written, by its name here."""

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    timeout_s: float | None = None
    marks: Mapping[str, Mark] = field(factory=dict[str, Mark], eq=False)


BOUNDS: Final = (("memory", "memory_bytes"), ("cpus", "cpus"), ("pids", "pids"), ("timeout", "timeout_s"))
"""What a limit is called in a document, and in Bounds and everywhere else."""


@frozen
class BindRule:
    """A host folder or file to show inside, as the policy asks for it, and where it does."""

    host: str
    at: str
    writable: bool
    mark: Mark = field(default=NOWHERE, eq=False)

    def __str__(self) -> str:
        return f"{self.host} at {self.at} {'rw' if self.writable else 'ro'}"


@frozen
class Loops:
    """How often the same call, answered alike, is a loop; `calls` 0: never."""

    calls: int
    window_ns: int

    def __str__(self) -> str:
        return f"{self.calls} in {constraints.show_duration(self.window_ns)}" if self.calls else "off"


NO_LOOPS: Final = Loops(0, 0)


@frozen
class Policy:
    """A document that was read. `rules` are in the file's order, `budgets` what each counted thing may come to."""

    name: str
    mode: str
    rules: tuple[Rule, ...]
    limits: Bounds = Bounds()
    binds: tuple[BindRule, ...] = ()
    budgets: tuple[tuple[str, Constraints], ...] = ()
    loops: Loops | None = None
    file: str = ""


@frozen
class Marked:
    """Another kind, read to its value and the place where that stands."""

    of: Kind

    def read(self, node: Node, complaints: Complaints) -> tuple[Any, Mark] | None:
        value = self.of.read(node, complaints)
        return (value, node.mark) if value is not None else None

    def schema(self) -> dict[str, Any]:
        return self.of.schema()


def _name(text: str) -> str:
    if not spawn.NAME_RE.match(text):
        raise Malformed(f"{text[:64]!r} is not a name: a letter, then up to 62 letters, digits, '.', '_' or '-'", 0)
    return text


def _absolute(text: str) -> str:
    parts = text.split("/")
    if not text.startswith("/") or ".." in parts or "." in parts or "\0" in text or len(text) > 4095:
        raise Malformed("wants an absolute path, without '.' and '..'", 0)
    return "/" + "/".join(part for part in parts if part)


def _limit(kind: Callable[[Any], Any], read: Callable[[str], Any]) -> Callable[[str], Any]:
    """What is read, within what a spawn takes."""
    def both(text: str) -> Any:
        try:
            return kind(read(text))
        except types.BadArgument as error:
            raise Malformed(str(error), 0) from None
    return both


def _budget(text: str) -> Constraints:
    if "/" in text:
        return Constraints(rate=constraints.read_rate(text))
    return Constraints(max=constraints.read_count(text))


def _seconds(text: str) -> float:
    return constraints.read_duration(text) / constraints.SECOND_NS


_BUDGET: Final[Kind] = Text("a number for its life, or a rate such as 100/min", _budget, quoted=False)
_HOST: Final = Text("an absolute path", _absolute, "/.*")

LIMITS: Final = Keys((
    Key("memory", Marked(Text("a size such as 512M", _limit(spawn.memory, read_size), SIZE, quoted=False)),
        "memory at most"),
    Key("cpus", Marked(Text("a number such as 0.5", _limit(types.positive, float), NUMBER, quoted=False)),
        "processors at most"),
    Key("pids", Marked(Integer(3, 4_000_000)), "processes and threads at most"),
    Key("timeout", Marked(Text("a time such as 30s", _seconds)), "it is killed after so long"),
))
BIND: Final = Keys((
    Key("host", _HOST, "folder or file of the host", required=True),
    Key("at", _HOST, "where it is shown inside", required=True),
    Key("mode", Choice(("ro", "rw")), "ro: only to read; rw: to read and write", required=True),
))
LOOPS: Final = Keys((
    Key("calls", Integer(2), "the same call so often, answered alike each time", required=True),
    Key("window", Text("a time such as 30s", constraints.read_duration), "in so long", required=True),
))
BUDGETS: Final = Keys((
    Key("calls", _BUDGET, "system calls"),
    Key("tools", _BUDGET, "runs of tools"),
    Key("children", _BUDGET, "agents spawned"),
    Key("denials", _BUDGET, "attempts that were denied"),
))
DOCUMENT: Final = Keys((
    Key("version", Integer(VERSION, VERSION), "of this format: 1", required=True),
    Key("name", Text("a name", _name, r"[A-Za-z][A-Za-z0-9._-]{0,62}"), "of the policy, to show", required=True),
    Key("mode", Choice(spawn.MODES), "what a violation does: strict kills, enforce refuses, audit records",
        required=True),
    Key("limits", LIMITS, "what the agent may use"),
    Key("binds", Many(Marked(BIND)), "what of the host it sees"),
    Key("allow", Many(RuleKind(ALLOW)), "what it may; anything else it may not"),
    Key("deny", Many(RuleKind(DENY)), "what it may not, whatever it holds"),
    Key("budgets", BUDGETS, "what it may come to before SIGBUDGET"),
    Key("loops", Else("off", NO_LOOPS, LOOPS), "what is a loop and brings SIGLOOP; off: nothing is"),
))


def load(raw: bytes, file: str) -> Policy:
    """Read a document. `file` is how complaints and rules call it. Raises BadPolicy (EINVAL) with all that is wrong."""
    complaints: Complaints = []
    values = DOCUMENT.read(reading.read(raw, file), complaints)
    if complaints or values is None:
        raise BadPolicy(complaints)
    policy = _policy(values, file)
    _check(policy, complaints)
    if complaints:
        raise BadPolicy(complaints)
    return policy


def shipped_text(name: str) -> bytes:
    """Of one of SHIPPED, as this version has it."""
    return (resources.files("agentix_kernel.authority.policy") / "shipped" / f"{name}.yaml").read_bytes()


def load_shipped(name: str) -> Policy:
    return load(shipped_text(name), f"{name}.yaml")


def _policy(values: dict[str, Any], file: str) -> Policy:
    limits, loops = values.get("limits", {}), values.get("loops")
    return Policy(
        values["name"], values["mode"],
        tuple(sorted((*values.get("allow", ()), *values.get("deny", ())), key=lambda one: (one.mark.line,
                                                                                          one.mark.column))),
        Bounds(**{name: limits[key][0] for key, name in BOUNDS if key in limits},
               marks={name: limits[key][1] for key, name in BOUNDS if key in limits}),
        tuple(BindRule(one["host"], one["at"], one["mode"] == "rw", mark) for one, mark in values.get("binds", ())),
        tuple(values.get("budgets", {}).items()),
        loops if loops is None or loops is NO_LOOPS else Loops(loops["calls"], loops["window"]), file)


def _check(policy: Policy, complaints: Complaints) -> None:
    """Rules that say nothing: written twice, or allowed what is denied altogether."""
    seen: dict[tuple[str, object], Rule] = {}
    denials = [rule for rule in policy.rules if rule.effect == DENY]
    for rule in policy.rules:
        first = seen.setdefault((rule.effect, rule.capability), rule)
        if first is not rule:
            complaints.append(Complaint(rule.mark, f"the same rule as at {first.mark}"))
        over = next((no for no in denials if rule.effect == ALLOW and rule.capability.within(no.capability)), None)
        if over is not None:
            complaints.append(Complaint(rule.mark, f"never applies: all of it is denied at {over.mark}"))
    for number, bind in enumerate(policy.binds):
        other = next((one for one in policy.binds[:number] if _overlap(one.at, bind.at)), None)
        if other is not None:
            complaints.append(Complaint(bind.mark, f"{bind.at} overlaps {other.at}, which is bound at {other.mark}"))


def _overlap(one: str, other: str) -> bool:
    """Whether one path is, or is below, the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def schema() -> dict[str, Any]:
    """The JSON Schema of a document, as it is published beside this module."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Agentix policy", **DOCUMENT.schema()}


def schema_text() -> str:
    return json.dumps(schema(), indent=2) + "\n"
