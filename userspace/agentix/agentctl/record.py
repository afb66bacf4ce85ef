"""Verbs that show the record as it is made: trace and events."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import click

from agentix.agentctl import format as show
from agentix.agentctl.asking import conditions, where
from agentix.agentctl.cli import Which, period, read_agent, verb
from agentix_syscalls.events import BY_NAME


@verb(examples=(
    ("agentctl trace scout", "what one agent did, asked for and was refused"),
    ("agentctl trace -f --tail 10", "everybody's last ten records, then what comes"),
    ("agentctl trace --since 5m 7 8", "of two agents, from the last five minutes"),
    ("agentctl trace -f --verdict denied --verdict faulted", "whatever is refused to anybody, as it happens"),
    ("agentctl trace --json 7 | jq 'select(.verdict == \"denied\")'", "for a program: one record a line"),
))
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N records.")
@conditions
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one record a line.")
@click.argument("agents", metavar="[AGENT]...", type=read_agent, nargs=-1)
def trace(which: Which, agents: tuple[int | str, ...], *, follow: bool, tail: int | None, as_json: bool,
          **given: Any) -> None:
    """Show the flight record of agents, or of all: calls, signals, denials, limits, starts and ends.

    Agent 0 is the kernel itself.
    """
    asked = where(agents, given)
    _show(which, line, (None, follow, tail, None, None, None, asked), as_json=as_json)


def _show(which: Which, shown: Callable[[dict[str, Any]], str], asked: tuple[Any, ...], *, as_json: bool) -> None:
    """Print what a trace streams, each at once."""
    with which.connect() as client:
        for record in client.stream("trace", *asked):
            click.echo(show.dump(record) if as_json else shown(record))


class Filter(NamedTuple):
    key: str
    value: str


def read_filter(word: str) -> Filter:
    """agent=AGENT or event=NAME. Raises BadParameter."""
    key, sign, value = word.partition("=")
    if not sign or key not in {"agent", "event"}:
        raise click.BadParameter(f"{word!r} is not a filter: agent=AGENT or event=NAME.")
    if key == "event" and value not in BY_NAME:
        raise click.BadParameter(f"{value!r} is not an event: {', '.join(BY_NAME)}.")
    return Filter(key, value)


@verb(examples=(
    ("agentctl events -f", "all that happens, from the beginning of the record on"),
    ("agentctl events -f --since 0s", "from now on"),
    ("agentctl events --filter event=denial --filter agent=scout --since 1h", "its refusals of the last hour"),
    ("agentctl events --json --filter event=exit", "for a program: one event a line"),
))
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N events.")
@period
@click.option("--filter", "filters", multiple=True, type=read_filter, metavar="KEY=VALUE",
              help="Only of this agent (agent=AGENT), or of this name (event=NAME); one of several will do.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one event a line.")
def events(which: Which, *, follow: bool, tail: int | None, since_ns: int | None, until_ns: int | None,
           filters: tuple[Filter, ...], as_json: bool) -> None:
    """Show what happens to agents: starts, ends, signals, denials, limits, tools."""
    agents: list[int | str] = [read_agent(value) for key, value in filters if key == "agent"]
    names = [value for key, value in filters if key == "event"]
    _show(which, event_line, (agents or None, follow, tail, since_ns, until_ns, names), as_json=as_json)


def event_line(event: dict[str, Any]) -> str:
    """One event as a person reads it: time, agent, name of the event, then the fields that say something."""
    if "missed" in event:
        return line(event)
    at, who = event["wall_ns"], event["name"] or (f"agent {event['agent']}" if event["agent"] else "kernel")
    words = [f"{show.moment(at)}.{at // 10**6 % 1000:03}", f"{event['agent'] or '-':>5}", f"{show.printable(who):<16}",
             show.colour(f"{event['event']:<12}", fg=_EVENT_COLOURS.get(event["event"]))]
    words += [f"{name}={_value(value)}" for name, value in event["data"].items() if value not in _NOTHING]
    if event["rule"]:
        words.append(f"rule={_value(event['rule'])}")
    return " ".join(words).rstrip()


_EVENT_COLOURS: Final = {"denial": "red", "fault": "red", "error": "red", "limit": "yellow", "spawn-failed": "yellow",
                         "audited": "magenta", "spawn": "green"}
_NOTHING: Final[tuple[object, ...]] = (None, "", b"", (), [], {})
_VERDICT_COLOURS: Final = {"denied": "red", "failed": "yellow", "faulted": "red", "audited": "magenta"}


def line(record: dict[str, Any], *, dated: bool = False) -> str:
    """One record as a person reads it: time, number, agent, kind, verdict, then the fields that say something.

    In its place may stand {missed, first_seq, last_seq}: what came too fast for this reader.
    """
    if "missed" in record:
        return f"{record['missed']} records ({record['first_seq']} to {record['last_seq']}) missed: they came too fast"
    who = f"{record['agent']}.{record['life']}" if record["agent"] else "kernel"
    kind = record["kind"] if record["phase"] == "event" else f"{record['kind']}/{record['phase']}"
    verdict = record["verdict"]
    at = record["wall_ns"]
    time = f"{show.moment(at)}.{at // 10**6 % 1000:03}" if dated else show.clock(at)
    words = [time, f"{record['seq']:>6}", f"{who:<7}", f"{kind:<13}"]
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
