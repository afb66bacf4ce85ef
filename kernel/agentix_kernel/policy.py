"""The minimal policy: denied calls, a mode, and how many agents may be spawned. Default deny is in the structure.

A rule is `CALL` or `CALL:/path`: the path is of the agent's own tree (`/state`, `/mem/working/x`), compared by
whole names after `.`, `..` and links were resolved, never by the characters that the agent wrote.
"""

import errno
from typing import Final

from attrs import field, frozen

from agentix_syscalls import calls
from agentix_syscalls.errors import CallError
from agentix_syscalls.spawn import MODES

STRICT, ENFORCE, AUDIT = MODES
DEFAULT_MODE: Final = ENFORCE


@frozen
class Rule:
    """One denial. `text` is how it was written and how it is shown."""

    call: str
    prefix: tuple[bytes, ...]
    text: str

    def covers(self, path: bytes | None) -> bool:
        """Whether the rule is about this path (canonical); a rule without a path covers everything."""
        if not self.prefix:
            return True
        if path is None:
            return False
        parts = _parts(path)
        return parts[:len(self.prefix)] == self.prefix


@frozen
class Decision:
    allowed: bool
    rule: str = ""
    message: str = ""


ALLOW: Final = Decision(allowed=True)


def _parts(path: bytes) -> tuple[bytes, ...]:
    return tuple(part for part in path.split(b"/") if part and part != b".")


def parse_rule(text: str) -> Rule:
    """Read `CALL` or `CALL:/path`. Raises CallError(EINVAL) that says what is wrong with it."""
    name, colon, path = text.partition(":")
    call = calls.find(name)
    if call is None:
        raise CallError(errno.EINVAL, f"deny {text!r}: no system call is named {name!r}",
                        remedy="agentctl syscalls lists them")
    raw = path.encode("utf-8", "surrogateescape")
    if colon and (not raw.startswith(b"/") or b".." in raw.split(b"/")):
        raise CallError(errno.EINVAL, f"deny {text!r}: the path must start with '/' (the root of the agent's tree) "
                        "and have no '..'")
    if colon and not (call.paths or call.name in {"READ", "WRITE"}):
        raise CallError(errno.EINVAL, f"deny {text!r}: {call.name} is not about a path")
    return Rule(call.name, _parts(raw), text)


@frozen
class Policy:
    """What is denied, and what a violation does."""

    mode: str = DEFAULT_MODE
    rules: tuple[Rule, ...] = ()
    spawn_max: int = 0
    _by_call: dict[str, tuple[Rule, ...]] = field(init=False, repr=False, eq=False)
    _paths: bool = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        names = {rule.call for rule in self.rules}
        table = {name: tuple(rule for rule in self.rules if rule.call == name) for name in names}
        object.__setattr__(self, "_by_call", table)
        object.__setattr__(self, "_paths", any(rule.prefix for rule in self.rules))

    def guards(self, call: str) -> bool:
        """Whether any rule may be about the call: most calls end here."""
        return call in self._by_call or (call == "RENAME" and self._paths)

    def decide(self, call: str, path: bytes | None = None) -> Decision:
        """What the rules say of a call about a canonical path. The mode is the caller's business."""
        for rule in self._by_call.get(call, ()):
            if rule.covers(path):
                what = f"{call} {path.decode('utf-8', 'replace')}" if path is not None else call
                return Decision(allowed=False, rule=f"deny {rule.text}", message=f"{what} is denied")
        return self._decide_move(path) if call == "RENAME" and path is not None else ALLOW

    def _decide_move(self, path: bytes) -> Decision:
        """A rename may neither carry off what a rule names by its path, nor move anything out of a folder that a rule
        names or into it: it would be out of the rule's reach, or come there past it.
        """
        parts = _parts(path)
        for rule in self.rules:
            common = min(len(rule.prefix), len(parts))
            if rule.prefix and rule.prefix[:common] == parts[:common]:
                shown = path.decode("utf-8", "replace")
                return Decision(allowed=False, rule=f"deny {rule.text}",
                                message=f"RENAME {shown} would move what the rule is about")
        return ALLOW

    def narrowed(self, mode: str | None, rules: tuple[Rule, ...], spawn_max: int | None) -> "Policy":
        """A child's policy: all of this one's rules and more, never a softer mode, never more children."""
        strictness = {STRICT: 2, ENFORCE: 1, AUDIT: 0}
        wanted = mode or self.mode
        if strictness[wanted] < strictness[self.mode]:
            raise CallError(errno.EPERM, f"spawn: mode {wanted} is softer than the parent's {self.mode}",
                            rule="a child has at most what its parent has")
        count = 0 if spawn_max is None else spawn_max
        if count > self.spawn_max:
            raise CallError(errno.EPERM, f"spawn: spawn_max {count} is over the parent's {self.spawn_max}",
                            rule="a child has at most what its parent has")
        return Policy(wanted, self.rules + rules, count)

    def describe(self) -> str:
        """The text of policy/effective."""
        lines = [f"Mode:\t{self.mode}", f"SpawnMax:\t{self.spawn_max}", "Signals:\titself and own children"]
        lines += [f"Deny:\t{rule.text}" for rule in self.rules]
        return "\n".join(lines) + "\n"
