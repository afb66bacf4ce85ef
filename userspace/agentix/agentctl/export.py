"""The record in forms that other programs read: JSON lines, CSV, and OpenTelemetry's logs.

OTLP is as opentelemetry.proto.logs.v1 has it, in the JSON mapping of the OTLP specification: 64-bit numbers are texts,
enumerations are numbers, bytes are base64. Each line is one LogsData, as collectors' file receivers read them.
"""

import base64
import csv
import io
import json
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, cast

from agentix.agentctl.format import dump, printable
from agentix_syscalls import __version__

Rows = list[dict[str, Any]]
_COLUMNS: Final = ("seq", "time", "wall_ns", "agent", "life", "kind", "phase", "verdict", "rule", "correlation", "data")
_SEVERITIES: Final = {"info": (9, "INFO"), "warning": (13, "WARN"), "error": (17, "ERROR"), "fatal": (21, "FATAL")}
_BY_VERDICT: Final = {"denied": "warning", "audited": "warning", "failed": "error", "faulted": "error"}
_BY_KIND: Final = {"error": "error", "lost": "error", "panic": "fatal"}


def jsonl(found: Iterable[Rows]) -> Iterator[str]:
    """One object a line, as `agentctl trace --json` has them, in ASCII."""
    for rows in found:
        yield "".join(f"{json.dumps(row, default=_text)}\n" for row in rows)


def csv_(found: Iterable[Rows]) -> Iterator[str]:
    """A header, then a line for each record (RFC 4180); `time` is UTC, and `data` is JSON."""
    yield _lines([_COLUMNS])
    for rows in found:
        yield _lines([_cells(row) for row in rows])


def _lines(rows: Iterable[Iterable[object]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def _cells(row: dict[str, Any]) -> list[object]:
    from datetime import UTC, datetime

    seconds, rest = divmod(row["wall_ns"], 10**9)
    time = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"
    shown = {**row, "time": time, "rule": printable(_text(row["rule"])), "data": json.dumps(row["data"], default=_text)}
    return [shown[name] for name in _COLUMNS]


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def otel(found: Iterable[Rows]) -> Iterator[str]:
    """LogsData objects, one a line."""
    resource = {"attributes": [_pair("service.name", "agentix"), _pair("service.version", __version__),
                               _pair("host.name", socket.gethostname())]}
    scope = {"name": "agentix.journal", "version": __version__}
    for rows in found:
        if rows:
            logs = [{"scope": scope, "logRecords": [_log(row) for row in rows]}]
            yield json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": logs}]}) + "\n"


def _log(row: dict[str, Any]) -> dict[str, Any]:
    level = _BY_KIND.get(row["kind"]) or _BY_VERDICT.get(row["verdict"], "info")
    number, text = _SEVERITIES[level]
    time = str(row["wall_ns"])
    named = ("seq", "agent", "life", "kind", "phase", "verdict", "rule", "correlation", "data")
    return {"timeUnixNano": time, "observedTimeUnixNano": time, "severityNumber": number, "severityText": text,
            "eventName": f"agentix.{row['kind']}", "body": _any(_told(row)),
            "attributes": [_pair(f"agentix.{name}", row[name]) for name in named]}


def _told(row: dict[str, Any]) -> str:
    """A record in a line, for people who look at it in a viewer of logs."""
    fields = [f"{name}={value if isinstance(value, (str, int)) else dump(value)}"
              for name, value in row["data"].items() if value not in (None, "", [])]
    return printable(" ".join([row["kind"], *([row["verdict"]] if row["verdict"] != "none" else []), *fields]))


def _pair(key: str, value: Any) -> dict[str, Any]:
    return {"key": key, "value": _any(value)}


def _any(value: Any) -> dict[str, Any]:
    """An AnyValue; none is one without a value."""
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)} if -1 << 63 <= value < 1 << 63 else {"stringValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return {"kvlistValue": {"values": [_pair(str(key), one) for key, one in pairs]}}
    if isinstance(value, (list, tuple)):
        return {"arrayValue": {"values": [_any(one) for one in cast("Iterable[Any]", value)]}}
    return {"stringValue": str(value)}


FORMATS: Final[dict[str, Callable[[Iterable[Rows]], Iterator[str]]]] = {"jsonl": jsonl, "csv": csv_, "otel": otel}
