"""The table of conditions: what can be asked of the flight record. Read by agentctl's options and by the kernel.

A question is a map of these keys; a record is meant when every condition that is given holds for it, one of several
values of a condition being enough.
"""

import difflib
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, cast

from attrs import frozen

from agentix_syscalls import records, types

VALUES_MAX: Final = 256
"""Values of one condition."""
SHOWN_MAX: Final = 64


@frozen
class Condition:
    """One row. `read` checks a value (each of several, when `many`) and raises BadArgument."""

    key: str
    read: Callable[[Any], Any]
    doc: str
    many: bool = True


def unknown(what: str, word: str, known: Collection[str]) -> str:
    """A complaint about a word that is none of the known ones, with the nearest of them or all."""
    near = difflib.get_close_matches(word[:SHOWN_MAX], known, 1)
    return (f"{word[:SHOWN_MAX]!r} is no {what}; "
            + (f"the nearest is {near[0]!r}" if near else f"there are {', '.join(known)}"))


def _one_of(what: str, known: Collection[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        word = types.text(value)
        if word not in known:
            raise types.BadArgument(unknown(what, word, known))
        return word
    return read


def call_name(value: Any) -> str:
    """A call as records name it: without SYS_, and any letter may be of either case."""
    return types.text(value).casefold().removeprefix("sys_")


def _target(value: Any) -> int | str:
    return types.uint(value) if type(value) is int else types.text(value)


CONDITIONS: Final = (
    Condition("agents", _target, "of these agents, by id or name; 0 is the kernel itself"),
    Condition("kinds", _one_of("kind of record", records.BY_NAME), "of these kinds"),
    Condition("phases", _one_of("phase", records.PHASES), "of these phases"),
    Condition("verdicts", _one_of("verdict", records.VERDICTS), "of these verdicts"),
    Condition("calls", call_name, "about these calls: of Agentix, or of Linux where one was refused"),
    Condition("rule", types.text, "decided by a rule whose text holds this", many=False),
    Condition("correlation", types.uint, "of this undertaking", many=False),
    Condition("since_ns", types.uint, "from this wall time on", many=False),
    Condition("until_ns", types.uint, "up to this wall time", many=False),
)
BY_KEY: Final = {row.key: row for row in CONDITIONS}


def where(value: Any) -> dict[str, Any]:
    """Check a question that came from outside. Raises BadArgument."""
    given = types.mapping(value)
    checked: dict[str, Any] = {}
    for key, asked in given.items():
        row = BY_KEY.get(key)
        if row is None:
            raise types.BadArgument(unknown("condition", key, BY_KEY))
        checked[key] = _many(row, asked) if row.many else row.read(asked)
    return checked


def _many(row: Condition, asked: Any) -> tuple[Any, ...]:
    if type(asked) not in {tuple, list}:
        raise types.BadArgument(f"{row.key}: wants an array, got {types.kind(asked)}")
    values = tuple(row.read(one) for one in cast("Iterable[Any]", asked))
    if not 0 < len(values) <= VALUES_MAX:
        raise types.BadArgument(f"{row.key}: wants 1 to {VALUES_MAX} values, got {len(values)}")
    return values
