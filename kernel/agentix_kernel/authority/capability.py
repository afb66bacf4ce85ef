"""Capabilities as people read them: `capability://file/state/*?action=read,write&rate=100/min`.

    capability://RESOURCE[/PATTERN]?action=ACTION[,ACTION][&CONSTRAINT=VALUE]...

Resources and actions are rows of agentix_syscalls.capabilities, constraints of constraints.py, patterns of patterns.py;
no pattern is everything of the resource. `action=*` is all actions. `constraint=NAME:VALUE` is read as NAME=VALUE.
What is printed is read back as equal, and there is one way to print it.
"""

import difflib
from collections.abc import Iterable
from functools import cached_property
from typing import Final

from attrs import frozen

from agentix_kernel.authority import constraints as _constraints
from agentix_kernel.authority import patterns
from agentix_kernel.authority.constraints import FREE, Constraints
from agentix_kernel.authority.patterns import Malformed, Pattern
from agentix_syscalls.capabilities import RESOURCE_BY_NAME, Resource

SCHEME: Final = "capability://"
TEXT_MAX: Final = 8192


@frozen(cache_hash=True)
class Capability:
    """What may be done to what, and how. `actions` are of the resource's row and never empty."""

    resource: str
    path: Pattern
    actions: frozenset[str]
    constraints: Constraints = FREE

    def covers(self, action: str, obj: bytes) -> bool:
        """Whether it is about this action on this object (canonical, `/`-separated). Meters are asked elsewhere."""
        names = patterns.split(obj)
        return action in self.actions and self.path.covers(names) and self.constraints.admit(names)

    def within(self, other: "Capability") -> bool:
        """Whether it allows at most what the other one allows. May say no when unsure, never yes wrongly."""
        return (self.resource == other.resource and self.actions <= other.actions
                and self.constraints.within(other.constraints) and self.path.within(other.path))

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        path = str(self.path)
        actions = [name for name in RESOURCE_BY_NAME[self.resource].action_names if name in self.actions]
        query = [("action", ",".join(actions)), *self.constraints.written()]
        return (SCHEME + self.resource + ("" if path in {"", "**"} else "/" + path) + "?"
                + "&".join(f"{name}={value}" for name, value in query))


def parse(text: str) -> Capability:
    """Read one. Raises Malformed, which says what is wrong and at which character."""
    if len(text) > TEXT_MAX:
        raise Malformed(f"over {TEXT_MAX} characters", TEXT_MAX)
    if not text.startswith(SCHEME):
        raise Malformed(f"a capability begins with {SCHEME}", 0)
    place, mark, query = text.partition("?")
    name, _, path = place[len(SCHEME):].partition("/")
    row = resource(name, len(SCHEME))
    start = len(SCHEME) + len(name) + 1
    pattern = _shift(start, path, row.depth)
    if not mark:
        raise Malformed(f"no action: ?action={','.join(row.action_names)}", len(text))
    actions, limits = _parse_query(row, query, len(place) + 1)
    return Capability(row.name, pattern, actions, limits)


def _shift(start: int, path: str, depth: int | None) -> Pattern:
    try:
        return patterns.parse(path, depth)
    except Malformed as error:
        raise Malformed(error.message, start + error.at) from None


def resource(name: str, at: int) -> Resource:
    """The row of a resource. Raises Malformed with the nearest known word."""
    row = RESOURCE_BY_NAME.get(name)
    if row is None:
        raise Malformed(f"no resource {name!r}{nearest(name, RESOURCE_BY_NAME)}", at)
    return row


def parse_actions(row: Resource, words: Iterable[str], at: int) -> frozenset[str]:
    """Actions by name, `*` for all. Raises Malformed for an unknown one, for none and for one given twice."""
    found: list[str] = []
    for word in words:
        if word != "*" and word not in row.action_names:
            raise Malformed(f"{row.name} has no action {word!r}{nearest(word, row.action_names)}", at)
        found += row.action_names if word == "*" else [word]
    if not found or len(set(found)) < len(found):
        raise Malformed("an action is given twice" if found else "no action", at)
    return frozenset(found)


def _parse_query(row: Resource, query: str, at: int) -> tuple[frozenset[str], Constraints]:
    actions: frozenset[str] | None = None
    limits, seen = FREE, set[str]()
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if name == "constraint":
            name, equals, value = value.partition(":")
        if not equals or not value:
            raise Malformed(f"{part!r} is not NAME=VALUE", at)
        if name in seen:
            raise Malformed(f"{name} is given twice", at)
        seen.add(name)
        if name == "action":
            actions = parse_actions(row, value.split(","), at)
        else:
            limits = constrain(limits, name, value, at)
        at += len(part) + 1
    if actions is None:
        raise Malformed(f"no action: action={','.join(row.action_names)}", at - 1)
    return actions, limits


def constrain(limits: Constraints, name: str, value: str, at: int) -> Constraints:
    """The limits and one more, by its name. Raises Malformed."""
    row = _constraints.BY_NAME.get(name)
    if row is None:
        raise Malformed(f"no constraint {name!r}{nearest(name, ('action', *_constraints.BY_NAME))}", at)
    try:
        return _constraints.constrain(limits, row, value)
    except Malformed as error:
        raise Malformed(f"{name}: {error.message}", at) from None


def nearest(word: str, known: Iterable[str]) -> str:
    """What to add to "no such word": the one that was probably meant, or all there are."""
    words = list(known)
    close = difflib.get_close_matches(word[:64], words, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(words)}"
