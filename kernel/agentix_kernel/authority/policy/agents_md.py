"""Policies from `.agents/security.md`: YAML, or YAML front matter before prose.

Its sections are kernel{version, mode}, signals, policies and observability. Each is honoured, or the file is refused by
the name of the section: nothing in it is read over. What an action means here:

    file_read, file_write     the agent's own tree
    code_execution            the tool shell.execute
    database_query, database_write, send_email     the tool of that name
    api_call                  requests over HTTP: may be denied, not allowed, until the broker enforces it
    *                         all of these that this version enforces

Modes: strict ends the agent at a violation, permissive and audit record it. Signals that are named must be ones that
this kernel delivers (it delivers all of its own, whatever is listed). `requires_approval: true` and read_only for what
is not a file are refused, as are metrics and traces; the flight recorder is always on.
"""

from typing import Any, Final

from attrs import evolve, frozen

from agentix_kernel.authority import capability as capabilities
from agentix_kernel.authority import constraints
from agentix_kernel.authority.capability import Capability
from agentix_kernel.authority.patterns import Malformed, parse
from agentix_kernel.authority.policy import reading
from agentix_kernel.authority.policy.document import Policy
from agentix_kernel.authority.policy.kinds import Boolean, Choice, Complaints, Key, Keys, Many, Text
from agentix_kernel.authority.policy.reading import BadPolicy, Complaint, Mark, Node
from agentix_kernel.authority.policy.rules import ALLOW, LIMITS, Rule, limits_of, rule
from agentix_syscalls import signals
from agentix_syscalls.capabilities import RESOURCE_BY_NAME

MODES: Final = {"strict": "strict", "permissive": "audit", "audit": "audit"}
EFFECTS: Final = ("allow", "deny")


@frozen
class Meaning:
    """One action of the format, as a capability's parts."""

    resource: str
    path: str
    action: str


ACTIONS: Final = {
    "file_read": Meaning("file", "", "read"),
    "file_write": Meaning("file", "", "write"),
    "code_execution": Meaning("tool", "shell.execute", "exec"),
    "database_query": Meaning("tool", "database_query", "exec"),
    "database_write": Meaning("tool", "database_write", "exec"),
    "send_email": Meaning("tool", "send_email", "exec"),
    "api_call": Meaning("http", "", "request"),
}
EVERY: Final = "*"


def _signal(text: str) -> str:
    if text not in signals.BY_NAME:
        raise Malformed(f"no signal {text[:64]!r}{capabilities.nearest(text, signals.BY_NAME)}", 0)
    return text


@frozen
class _Statement:
    """One item of `policies`, with where it stands."""

    keys: Keys

    def read(self, node: Node, complaints: Complaints) -> tuple[dict[str, Any], Mark] | None:
        values = self.keys.read(node, complaints)
        return (values, node.mark) if values is not None else None

    def schema(self) -> dict[str, Any]:
        return self.keys.schema()


STATEMENT: Final = Keys((
    Key("action", Choice((*ACTIONS, EVERY)), "what it is about", required=True),
    Key("effect", Choice(EFFECTS), "allow or deny", required=True),
    Key("mode", Choice(("read_only", "read_write")), "of files"),
    Key("requires_approval", Boolean(), "a person must agree"),
    Key("rate_limit", Text("a rate such as 100/hour", constraints.read_rate), "how often"),
    Key("constraints", Keys(tuple(key for key in LIMITS if key.name != "rate")), "as in capabilities"),
))
DOCUMENT: Final = Keys((
    Key("kernel", Keys((
        Key("version", Text("the version 1.0", pattern=r"1\.0", quoted=False), "of the format", required=True),
        Key("mode", Choice(tuple(MODES)), "what a violation does", required=True),
    )), "how it is enforced", required=True),
    Key("signals", Many(Text("a signal", _signal)), "signals that must be delivered"),
    Key("policies", Many(_Statement(STATEMENT)), "what is allowed and denied"),
    Key("observability", Keys((
        Key("metrics", Boolean(), "counted"), Key("traces", Boolean(), "traced"),
        Key("flight_recorder", Boolean(), "recorded"),
    )), "what is told about it"),
))


def load(raw: bytes, file: str) -> Policy:
    """Read such a file. Raises BadPolicy (EINVAL), which names the section that cannot be honoured."""
    complaints: Complaints = []
    values = DOCUMENT.read(reading.read(_front_matter(raw), file), complaints)
    if complaints or values is None:
        raise BadPolicy(complaints)
    _check_observability(values.get("observability", {}), Mark(file, 1, 1), complaints)
    rules = [one for statement, mark in values.get("policies", ()) for one in _rules(statement, mark, complaints)]
    if complaints:
        raise BadPolicy(complaints)
    return Policy("agents-security", MODES[values["kernel"]["mode"]], tuple(rules), file=file)


def _front_matter(raw: bytes) -> bytes:
    """What stands between the first two lines of `---`, if the file begins with one; else all of it."""
    lines = raw.splitlines(keepends=True)
    if lines and lines[0].rstrip() == b"---":
        end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() == b"---"), None)
        if end is not None:
            return b"".join(lines[:end])
    return raw


def _check_observability(values: dict[str, bool], mark: Mark, complaints: Complaints) -> None:
    for name in ("metrics", "traces"):
        if values.get(name):
            complaints.append(Complaint(mark, f"observability.{name}: not in this version; the flight record has all"))
    if values.get("flight_recorder") is False:
        complaints.append(Complaint(mark, "observability.flight_recorder: it cannot be turned off"))


def _rules(values: dict[str, Any], mark: Mark, complaints: Complaints) -> list[Rule]:
    """The rules of one statement, or none after a complaint."""
    action, effect, mode = values["action"], values["effect"], values.get("mode")
    wrong = _unhonoured(action, effect, mode, values)
    if wrong:
        complaints.append(Complaint(mark, f"policies: {wrong}"))
        return []
    limits = evolve(limits_of(values.get("constraints", {})), rate=values.get("rate_limit"))
    found = [rule(effect, one, mark, complaints) for one in _capabilities(action, effect, mode, limits)]
    return [one for one in found if one is not None]


def _unhonoured(action: str, effect: str, mode: str | None, values: dict[str, Any]) -> str | None:
    if values.get("requires_approval"):
        return f"{action}: requires_approval is not in this version: deny it, or allow it without"
    if mode is not None and (action not in {"file_read", "file_write", EVERY} or effect != ALLOW):
        return f"{action}: mode is of allowed files only"
    if action == "file_write" and mode == "read_only":
        return "file_write: read_only contradicts it"
    if action == EVERY and mode == "read_only" and ("rate_limit" in values or "constraints" in values):
        return "*: read_only with constraints is ambiguous: name the actions"
    return None


def _capabilities(action: str, effect: str, mode: str | None, limits: constraints.Constraints) -> list[Capability]:
    """What one action comes to. `*` allows what is enforced here; read_only leaves of it what reads files."""
    chosen = [ACTIONS[action]] if action != EVERY else _everything(effect, mode)
    if action == "file_read" and mode == "read_write":
        chosen.append(ACTIONS["file_write"])
    if effect != ALLOW:  # no agent reaches the network at all: that denial holds by itself
        chosen = [one for one in chosen if one.resource != "http"]
    return [Capability(one.resource, parse(one.path, RESOURCE_BY_NAME[one.resource].depth), frozenset({one.action}),
                       limits) for one in chosen]


def _everything(effect: str, mode: str | None) -> list[Meaning]:
    if effect == ALLOW and mode == "read_only":
        return [ACTIONS["file_read"]]
    return [ACTIONS["file_read"], ACTIONS["file_write"], Meaning("tool", "", "exec")]
