"""What a policy says, slow and obvious, from its text: written apart from the compiled decisions.

It works on what PyYAML's own safe loader gives and on strings; it shares no code with the kernel. Capability
strings are read as generate.py writes them, without escapes.
"""

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import yaml

HELD = {"file", "agent", "signal", "tool", "ipc"}


def name_matches(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(name_matches(pattern[1:], name[skip:]) for skip in range(len(name) + 1))
    return bool(name) and pattern[0] == name[0] and name_matches(pattern[1:], name[1:])


def names_match(pattern: list[str], names: list[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(names_match(pattern[1:], names[skip:]) for skip in range(len(names) + 1))
    return bool(names) and name_matches(pattern[0], names[0]) and names_match(pattern[1:], names[1:])


def path_matches(path: str, obj: str, *, deny: bool) -> bool:
    pattern = [part for part in path.split("/") if part]
    names = [part for part in obj.split("/") if part]
    below = deny or not pattern or "*" not in pattern[-1]
    return any(
        names_match(pattern, names[:length]) for length in range(len(names) + 1) if below or length == len(names)
    )


def rule_parts(rule: Any) -> tuple[str, str, list[str], list[str] | None]:
    """Resource, path, actions and allowlist of one rule."""
    if isinstance(rule, str):
        place, query = rule.removeprefix("capability://").split("?")
        resource, _, path = place.partition("/")
        fields = dict(part.split("=") for part in query.split("&"))
        return resource, path, fields["action"].split(","), _split(fields.get("allowlist"))
    actions = rule.get("action", [])
    actions = [actions] if isinstance(actions, str) else actions
    if "file" in rule:
        parts = "file", rule["file"], actions
    elif "tool" in rule:
        parts = "tool", rule["tool"], ["exec"]
    elif "spawn" in rule:
        parts = "agent", rule["spawn"], ["spawn"]
    elif "signal" in rule:
        parts = "signal", rule["to"] + "/" + rule["signal"], ["send"]
    elif "ipc" in rule:
        parts = "ipc", rule["ipc"] + "/" + rule.get("channel", ""), actions
    else:
        parts = "call", rule["call"] + "/" + rule.get("path", ""), ["make"]
    return *parts, _split(rule.get("allowlist"))


def _split(text: str | None) -> list[str] | None:
    return None if text is None else text.split(",")


def applies(rule: Any, resource: str, action: str, obj: str, *, deny: bool) -> bool:
    of, path, actions, allowlist = rule_parts(rule)
    if of != resource or (action not in actions and actions != ["*"]):
        return False
    names = [part for part in obj.split("/") if part]
    if allowlist is not None and (not names or names[-1] not in allowlist):
        return False
    return path_matches(path, obj, deny=deny)


def read(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def decide(document: dict[str, Any], resource: str, action: str, obj: str) -> tuple[bool, int | None]:
    """Whether the policy allows it, and which rule of its list says so (None: no rule is about it)."""
    for at, rule in enumerate(document.get("deny") or []):
        if applies(rule, resource, action, obj, deny=True):
            return False, at
    for at, rule in enumerate(document.get("allow") or []):
        if applies(rule, resource, action, obj, deny=False):
            return True, at
    return resource not in HELD, None


class Counted:
    """The same with what is counted: `rate`, `max` and `expires` of the rules under allow, used up in their order.

    Times are whole nanoseconds of one clock, which is both. A bucket is filled in exact fractions.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.used = dict.fromkeys(range(len(document.get("allow") or [])), 0)
        self.filled: dict[int, tuple[Fraction, int]] = {}

    def ask(self, resource: str, action: str, obj: str, now_ns: int) -> tuple[str, int | None]:
        """What becomes of one operation, and which rule of the list it was counted against."""
        for rule in self.document.get("deny") or []:
            if applies(rule, resource, action, obj, deny=True):
                return "EPERM", None
        found = [(at, limits_of(rule)) for at, rule in enumerate(self.document.get("allow") or [])
                 if applies(rule, resource, action, obj, deny=False) and not self._expired(rule, now_ns)]
        if not found and resource in HELD:
            return "EPERM", None
        if not found or any(not limits for _, limits in found):
            return "", None
        answer = ""
        for at, limits in found:
            answer = self._over(at, limits, now_ns)
            if not answer:
                self._use(at, limits, now_ns)
                return "", at
        return answer, None

    def _expired(self, rule: Any, now_ns: int) -> bool:
        until = limits_of(rule).get("expires")
        return until is not None and now_ns >= seconds_of(until) * 10**9

    def _over(self, at: int, limits: dict[str, Any], now_ns: int) -> str:
        if "max" in limits and self.used[at] >= int(limits["max"]):
            return "EDQUOT"
        return "EAGAIN" if "rate" in limits and self._tokens(at, limits["rate"], now_ns) < 1 else ""

    def _tokens(self, at: int, rate: str, now_ns: int) -> Fraction:
        count, _, unit = rate.partition("/")
        tokens, seen_ns = self.filled.get(at, (Fraction(count), now_ns))
        period_ns = {"s": 1, "min": 60, "h": 3600, "day": 86400}[unit] * 10**9
        return min(Fraction(count), tokens + Fraction(int(count) * (now_ns - seen_ns), period_ns))

    def _use(self, at: int, limits: dict[str, Any], now_ns: int) -> None:
        self.used[at] += 1
        if "rate" in limits:
            self.filled[at] = self._tokens(at, limits["rate"], now_ns) - 1, now_ns


def limits_of(rule: Any) -> dict[str, Any]:
    """What a rule counts."""
    if isinstance(rule, str):
        rule = dict(part.split("=") for part in rule.split("?")[1].split("&"))
    return {name: rule[name] for name in ("rate", "max", "expires") if name in rule}


def seconds_of(moment: Any) -> int:
    if isinstance(moment, str):
        moment = datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return int(moment.timestamp())
