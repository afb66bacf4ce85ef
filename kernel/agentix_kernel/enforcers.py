"""Which part of a policy is held by which enforcer: one document, compiled into several."""

from collections.abc import Iterator
from typing import Any, Final

from attrs import asdict, frozen

from agentix_kernel.authority.patterns import name_covers
from agentix_kernel.authority.policy.document import BOUNDS
from agentix_kernel.authority.policy.inforce import ASKS, InForce
from agentix_kernel.authority.policy.reading import Mark
from agentix_kernel.authority.policy.rules import Rule
from agentix_kernel.confine.syscalls_table import ROWS, Action

_LIMITED: Final = {"memory": ("cgroup", "memory"), "cpus": ("cgroup", "cpu"), "pids": ("cgroup", "pids"),
                   "timeout": ("clock", "SIGKILL, counted from its begin")}
_BESIDE: Final = {"EXEC": "tools", "SIGNAL": "signals"}
"""Where a call is judged beside dispatch, when it is about no path: those are judged at the mount as well."""


@frozen
class Part:
    """One line. `part`: allow, deny, limits, binds, budgets, loops, or always for what holds under every policy."""

    part: str
    what: str
    file: str
    line: int
    enforcers: tuple[str, ...]
    how: str


def rows(policy: InForce) -> list[dict[str, Any]]:
    """Parts of a policy in force, as they travel."""
    return [asdict(one) for one in (*_document(policy), *_always())]


def _document(policy: InForce) -> Iterator[Part]:
    for rule in policy.policy.rules:
        asked = list(_calls(rule))
        yield _part(rule.effect, rule.text.partition(" ")[2], rule.mark, _judges(asked),
                    f"asked by {', '.join(asked)}" if asked else "no call of this version asks it")
    document = policy.document
    for key, name in BOUNDS:
        value = getattr(document.limits, name)
        if value is not None:
            enforcer, how = _LIMITED[key]
            yield _part("limits", f"{key} {value:.12g}", document.limits.marks[name], (enforcer,), how)
    for bind in document.binds:
        how = "an idmapped mount" if bind.writable else "a read-only mount"
        yield _part("binds", str(bind), bind.mark, ("mount namespace", "Landlock"), f"{how}, from its next life on")
    for name, limits in document.budgets:
        yield _part("budgets", f"{name} {limits.written()[0][1]}", Mark(document.file, 0, 0), ("dispatch",),
                    "counted; SIGBUDGET when it is spent")
    if document.loops is not None:
        yield _part("loops", str(document.loops), Mark(document.file, 0, 0), ("dispatch",), "SIGLOOP")


def _part(part: str, what: str, mark: Mark, enforcers: tuple[str, ...], how: str) -> Part:
    return Part(part, what, mark.file, mark.line, enforcers, how)


def _calls(rule: Rule) -> Iterator[str]:
    """Names of the calls that ask for what a rule is about."""
    found = rule.capability
    for name, ask in ASKS.items():
        if found.resource == "call":
            first = found.path.names[0]
            if not first or name_covers(first, name.encode()):
                yield name
        elif (ask.resource == found.resource and ask.action in found.actions) or (
                name == "SPAWN" and found.resource == "agent" and "spawn" in found.actions):
            yield name


def _judges(asked: list[str]) -> tuple[str, ...]:
    if not asked:
        return ()
    mount = ("mount",) if any(ASKS[name].path for name in asked) else ()
    return ("dispatch", *mount, *(_BESIDE[name] for name in asked if name in _BESIDE))


def _always() -> Iterator[Part]:
    """What holds whatever the policy says."""
    refused = {row.name for row in ROWS if row.action in {Action.REFUSE, Action.FATAL}}
    fatal = {row.name for row in ROWS if row.action is Action.FATAL}
    for what, enforcer, how in (
            ("files of the host", "mount namespace", "a read-only root with what is mounted into it, and no more"),
            ("changes of files", "Landlock", "only in /tmp, its own tree, and folders bound rw; no TCP"),
            ("other processes", "pid namespace", "they are not there"),
            ("the network", "network namespace", "none but its own loopback"),
            ("rights", "uid, no capabilities, no_new_privs", "a uid of its own, and nothing gives it another"),
            ("Linux calls", "seccomp", f"{len(refused)} are refused and recorded, {len(fatal)} of them end the agent")):
        yield Part("always", what, "", 0, (enforcer,), how)
