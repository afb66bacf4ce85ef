"""The policy document: its keys, in one table, and what is read from it.

Default deny; deny beats allow. Whatever is wrong with a document refuses the whole of it: a malformed policy never
means less of a policy.
"""

import json
from collections.abc import Callable
from importlib import resources
from typing import Any, Final

from attrs import frozen

from agentix_kernel.authority import constraints
from agentix_kernel.authority.constraints import Constraints
from agentix_kernel.authority.patterns import Malformed
from agentix_kernel.authority.policy import reading
from agentix_kernel.authority.policy.kinds import (
    NUMBER,
    SIZE,
    Choice,
    Complaints,
    Integer,
    Key,
    Keys,
    Kind,
    Many,
    Text,
    read_size,
)
from agentix_kernel.authority.policy.reading import BadPolicy, Complaint
from agentix_kernel.authority.policy.rules import ALLOW, DENY, Rule, RuleKind
from agentix_syscalls import spawn, types

VERSION: Final = 1
SHIPPED: Final = spawn.POLICIES
SCHEMA_FILE: Final = "policy.schema.json"


@frozen
class Bounds:
    """Limits that a policy sets; None: it says nothing."""

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    timeout_s: float | None = None


@frozen
class BindRule:
    """A host folder or file to show inside, as the policy asks for it."""

    host: str
    at: str
    writable: bool


@frozen
class Policy:
    """A document that was read. `rules` are in the file's order, `budgets` what each counted thing may come to."""

    name: str
    mode: str
    rules: tuple[Rule, ...]
    limits: Bounds = Bounds()
    binds: tuple[BindRule, ...] = ()
    budgets: tuple[tuple[str, Constraints], ...] = ()
    file: str = ""


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
    Key("memory", Text("a size such as 512M", _limit(spawn.memory, read_size), SIZE, quoted=False),
        "memory at most"),
    Key("cpus", Text("a number such as 0.5", _limit(types.positive, float), NUMBER, quoted=False),
        "processors at most"),
    Key("pids", Integer(3, 4_000_000), "processes and threads at most"),
    Key("timeout", Text("a time such as 30s", _seconds), "it is killed after so long"),
))
BIND: Final = Keys((
    Key("host", _HOST, "folder or file of the host", required=True),
    Key("at", _HOST, "where it is shown inside", required=True),
    Key("mode", Choice(("ro", "rw")), "ro: only to read; rw: to read and write", required=True),
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
    Key("binds", Many(BIND), "what of the host it sees"),
    Key("allow", Many(RuleKind(ALLOW)), "what it may; anything else it may not"),
    Key("deny", Many(RuleKind(DENY)), "what it may not, whatever it holds"),
    Key("budgets", BUDGETS, "what it may come to before SIGBUDGET"),
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


def load_shipped(name: str) -> Policy:
    """One of SHIPPED."""
    file = resources.files("agentix_kernel.authority.policy") / "shipped" / f"{name}.yaml"
    return load(file.read_bytes(), f"{name}.yaml")


def _policy(values: dict[str, Any], file: str) -> Policy:
    limits = values.get("limits", {})
    return Policy(
        values["name"], values["mode"],
        tuple(sorted((*values.get("allow", ()), *values.get("deny", ())), key=lambda one: (one.mark.line,
                                                                                          one.mark.column))),
        Bounds(limits.get("memory"), limits.get("cpus"), limits.get("pids"), limits.get("timeout")),
        tuple(BindRule(one["host"], one["at"], one["mode"] == "rw") for one in values.get("binds", ())),
        tuple(values.get("budgets", {}).items()), file)


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
    places = [bind.at for bind in policy.binds]
    complaints += [Complaint(reading.Mark(policy.file, 1, 1), f"two binds are shown at {at}")
                   for at in sorted(set(places)) if places.count(at) > 1]


def schema() -> dict[str, Any]:
    """The JSON Schema of a document, as it is published beside this module."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Agentix policy", **DOCUMENT.schema()}


def schema_text() -> str:
    return json.dumps(schema(), indent=2) + "\n"
