"""Verbs about the record: trace and audit."""

from typing import Any, Final

import click

from agentix.agentctl import format as show
from agentix.agentctl.cli import FAILED, Which, json_option, read_agent, verb


@verb(examples=(
    ("agentctl trace scout", "what one agent did, asked for and was refused"),
    ("agentctl trace -f --tail 10", "everybody's last ten records, then what comes"),
    ("agentctl trace --json 7 | jq 'select(.verdict == \"denied\")'", "for a program: one record a line"),
))
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N records.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one record a line.")
@click.argument("agent", type=read_agent, required=False)
def trace(which: Which, agent: int | str | None, *, follow: bool, tail: int | None, as_json: bool) -> None:
    """Show the flight record of one agent or of all: calls, signals, denials, limits, starts and ends."""
    with which.connect() as client:
        for record in client.stream("trace", agent, follow, tail):
            click.echo(show.dump(record) if as_json else line(record))


_NOTHING: Final[tuple[object, ...]] = (None, "", b"", (), [], {})
_VERDICT_COLOURS: Final = {"denied": "red", "failed": "yellow", "faulted": "red", "audited": "magenta"}


def line(record: dict[str, Any]) -> str:
    """One record as a person reads it: time, number, agent, kind, verdict, then the fields that say something.

    In its place may stand {missed, first_seq, last_seq}: what came too fast for this reader.
    """
    if "missed" in record:
        return f"{record['missed']} records ({record['first_seq']} to {record['last_seq']}) missed: they came too fast"
    who = f"{record['agent']}.{record['life']}" if record["agent"] else "kernel"
    kind = record["kind"] if record["phase"] == "event" else f"{record['kind']}/{record['phase']}"
    verdict = record["verdict"]
    words = [show.clock(record["wall_ns"]), f"{record['seq']:>6}", f"{who:<7}", f"{kind:<13}"]
    if verdict != "none":
        words.append(show.colour(verdict, fg=_VERDICT_COLOURS[verdict]) if verdict in _VERDICT_COLOURS else verdict)
    words += [f"{name}={_value(value)}" for name, value in record["data"].items() if value not in _NOTHING]
    if record["rule"]:
        words.append(f"rule={_value(record['rule'])}")
    return " ".join(words)


def _value(value: Any) -> str:
    """A field's value as one word: quoted if it has blanks, and harmless to a terminal."""
    text = show.printable(value if isinstance(value, (str, int, float)) else show.dump(value))
    return f'"{text}"' if " " in text and not text.startswith(("[", "{", '"')) else text


@click.group()
def audit() -> None:
    """Check the chain of the journal."""


@verb(name="verify", examples=(("agentctl audit verify", "status 1 when the record was altered"),))
@json_option
def audit_verify(which: Which, *, as_json: bool) -> int:
    """Check every link of the journal's chain: nothing altered, inserted, reordered or removed.

    The exit status is 1 when something is.
    """
    with which.connect() as client:
        found = client.call("audit_verify")
    if as_json:
        show.print_json(found)
        return 0 if found["ok"] else FAILED
    for problem in found["problems"]:
        click.echo(f"{problem['segment']}:{problem['offset']}: {show.printable(problem['what'])}")
    click.echo(show.printable(found["text"]))
    return 0 if found["ok"] else FAILED


audit.add_command(audit_verify)
