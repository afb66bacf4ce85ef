"""Flight records as people and programs get them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

from agentix_kernel.history.question import event_of
from agentix_kernel.journal.read import Record
from agentix_syscalls import records


def row(record: Record) -> dict[str, Any]:
    """One record by names, as `agentctl trace --json` prints it."""
    kind = records.BY_NUMBER.get(record.kind)
    return {
        "seq": record.seq, "wall_ns": record.wall_ns, "mono_ns": record.mono_ns, "agent": record.agent,
        "life": record.life, "kind": kind.name if kind else str(record.kind),
        "phase": _name(records.PHASES, record.phase), "verdict": _name(records.VERDICTS, record.verdict),
        "rule": _sent(record.rule), "correlation": record.correlation, "data": _sent(record.fields()),
    }


def event_row(record: Record, name: str = "") -> dict[str, Any]:
    """A record that is an event, as `agentctl events --json` prints it. `name`: the agent's, if it still has one."""
    event = event_of(record)
    assert event is not None
    fields = record.fields()
    return {"seq": record.seq, "wall_ns": record.wall_ns, "event": event.name, "agent": record.agent, "name": name,
            "life": record.life, "rule": _sent(record.rule),
            "data": {field: _sent(fields.get(field)) for field in event.fields}}


def line(record: Record) -> str:
    """One record as a line of proc/trace."""
    shown = row(record)
    kind = shown["kind"] if record.phase == records.EVENT else f"{shown['kind']}/{shown['phase']}"
    words = [f"{name}={value!r}" for name, value in shown["data"].items() if value not in ("", None, 0, [])]
    words += [f"rule={shown['rule']!r}"] if record.rule else []
    return (f"{record.seq}\t{record.wall_ns // 10**9}.{record.wall_ns // 10**6 % 1000:03}\t{kind}"
            f"\t{shown['verdict']}\t{' '.join(words)}")


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)


def _sent(value: Any) -> Any:
    """A value as the wire takes it: names of files that are no UTF-8 as the bytes that they are."""
    if isinstance(value, str):
        return value if value.isascii() else _text(value)
    if isinstance(value, dict):
        return {str(_sent(key)): _sent(one) for key, one in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_sent(one) for one in cast("Iterable[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    return value


def _text(value: str) -> str | bytes:
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape")
    return value
