"""Which records are meant: the conditions of agentix_syscalls.question, ready to be held against a record."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from attrs import frozen

from agentix_kernel.journal.read import Record
from agentix_syscalls import events, records

PACKET_MAX_BYTES: Final = 128 << 10
"""What a question takes on its way to the historian."""

_CALL_AT: Final = {kind.number: kind.fields.index("call") for kind in records.KINDS if "call" in kind.fields}


def call_of(record: Record) -> str:
    """The call that a record is about, as questions name it; "" for none."""
    at = _CALL_AT.get(record.kind)
    call = record.data[at] if at is not None and at < len(record.data) else None
    return call.casefold() if isinstance(call, str) else ""


@frozen
class Question:
    """Each part that is not None must hold; `events`: those that are events of these names, of any name for none.

    Called with a record it says whether that is meant.
    """

    agents: frozenset[int] | None = None
    kinds: frozenset[int] | None = None
    phases: frozenset[int] | None = None
    verdicts: frozenset[int] | None = None
    calls: frozenset[str] | None = None
    rule: str | None = None
    correlation: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    events: frozenset[str] | None = None
    from_seq: int = 0
    to_seq: int | None = None

    def __call__(self, record: Record) -> bool:
        return (_in(record.agent, self.agents) and _in(record.kind, self.kinds) and _in(record.phase, self.phases)
                and _in(record.verdict, self.verdicts) and self._in_time(record.wall_ns)
                and (self.correlation is None or record.correlation == self.correlation)
                and (self.rule is None or self.rule in record.rule)
                and (self.calls is None or call_of(record) in self.calls)
                and self.from_seq <= record.seq and (self.to_seq is None or record.seq <= self.to_seq)
                and (self.events is None or self._is_event(record)))

    def _in_time(self, wall_ns: int) -> bool:
        return (self.since_ns is None or wall_ns >= self.since_ns) and (
            self.until_ns is None or wall_ns <= self.until_ns)

    def _is_event(self, record: Record) -> bool:
        event = event_of(record)
        return event is not None and (not self.events or event.name in self.events)


def _in(value: int, allowed: frozenset[int] | None) -> bool:
    return allowed is None or value in allowed


def event_of(record: Record) -> events.Event | None:
    known = record.kind in events.KINDS
    return events.find(record.kind, record.phase, record.verdict, record.fields()) if known else None


def question(where: Mapping[str, Any], names: Collection[str] | None = None) -> Question:
    """From conditions that were checked, with agents as ids. `names`: of events, as the trace has them. `to_seq` is no
    condition of who asks, but what was recorded by then.
    """
    kinds = _numbers(where, "kinds", {name: kind.number for name, kind in records.BY_NAME.items()})
    return Question(
        agents=frozenset(where["agents"]) if "agents" in where else None,
        kinds=events.KINDS & (kinds or events.KINDS) if names is not None else kinds,
        phases=_numbers(where, "phases", _at(records.PHASES)),
        verdicts=_numbers(where, "verdicts", _at(records.VERDICTS)),
        calls=frozenset(where["calls"]) if "calls" in where else None,
        rule=where.get("rule"), correlation=where.get("correlation"),
        since_ns=where.get("since_ns"), until_ns=where.get("until_ns"), to_seq=where.get("to_seq"),
        events=frozenset(names) if names is not None else None)


def _at(names: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _numbers(where: Mapping[str, Any], key: str, numbers: Mapping[str, int]) -> frozenset[int] | None:
    return frozenset(numbers[name] for name in where[key]) if key in where else None
