"""The verb audit: ask the whole record, look at one of it, take it along, and check its chain."""

import contextlib
import itertools
import os
import sys
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Final

import click

from agentix.agentctl import chain
from agentix.agentctl import export as formats
from agentix.agentctl import format as show
from agentix.agentctl.asking import answer, conditions, where
from agentix.agentctl.cli import FAILED, Which, complain, json_option, read_agent, verb
from agentix.agentctl.record import line

_agents = click.argument("agents", metavar="[AGENT]...", type=read_agent, nargs=-1)


@click.group()
def audit() -> None:
    """Ask the journal, look at its records, export it, check its chain and keep it."""


@verb(name="query", examples=(
    ("agentctl audit query --verdict denied --since 1d", "all that was refused since yesterday"),
    ("agentctl audit query scout --call unlink --newest --limit 10", "the last ten files that it removed, or tried to"),
    ("agentctl audit query --rule bot.yaml:12 --json", "what this line of a policy decided, for a program"),
    ("agentctl audit query 0 --kind error", "what failed in the kernel itself"),
))
@conditions
@click.option("--newest", is_flag=True, help="The newest first; else the oldest.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N records.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one record a line.")
@_agents
def audit_query(which: Which, agents: tuple[int | str, ...], *, newest: bool, limit: int | None, as_json: bool,
                **given: Any) -> None:
    """Show records of agents, or of all, that meet every condition.

    Agent 0 is the kernel itself. The exit status tells whether the answer is
    complete, not whether there is a record.
    """
    asked = limit + 1 if limit is not None else 0
    with answer(which, "audit_query", where(agents, given), asked, newest) as found:
        rows = _rows(found)
        for row in itertools.islice(rows, limit):
            click.echo(show.dump(row) if as_json else line(row, dated=True))
        if next(rows, None) is not None:
            complain(f"there are more than {limit}; a larger --limit shows them")


def _rows(found: Iterable[Any]) -> Iterator[dict[str, Any]]:
    return (row for _, rows in found for row in rows)


@verb(name="show", examples=(
    ("agentctl audit show 4711", "all its fields, where it stands, and its partner"),
    ("agentctl audit show 4711 --around 5", "with what came just before and after it"),
))
@click.option("--around", type=click.IntRange(0, 1000), default=0, metavar="N",
              help="With N records before it and N after it.")
@json_option
@click.argument("seq", metavar="SEQ", type=click.IntRange(1, (1 << 63) - 1))
def audit_show(which: Which, seq: int, around: int, *, as_json: bool) -> int:
    """Show one record whole, and where it stands in the journal.

    Records of the same undertaking, as an intent and its outcome, are shown
    with it. The exit status is 1 when its place is not as it was written.
    """
    with answer(which, "audit_show", seq, around) as found:
        told = next(iter(found))
    if as_json:
        show.print_json(told)
    else:
        _explain(told)
    return 0 if told["place"]["whole"] else FAILED


def _explain(told: dict[str, Any]) -> None:
    record, place = told["record"], told["place"]
    at = record["wall_ns"]
    facts = {**record, "time": f"{show.moment(at)}.{at % 10**9:09}"}
    order = ("seq", "time", "agent", "life", "kind", "phase", "verdict", "rule", "correlation", "data")
    show.facts((name, facts[name]) for name in order)
    group = f"records {place['first_seq']} to {place['first_seq'] + place['records'] - 1}"
    whole = "whole: as it was written, by the key" if place["whole"] else f"NOT whole: {place['fault']}"
    show.facts((("place", f"{place['segment']} at {place['offset']}, in the group of {group}"),
                ("link", place["link"]), ("group", whole)))
    for title, key in (("same undertaking", "partners"), ("before", "before"), ("after", "after")):
        if told[key]:
            click.echo("\n".join([f"{title}:", *(f"  {line(row, dated=True)}" for row in told[key])]))


@verb(name="export", examples=(
    ("agentctl audit export --format jsonl >record.jsonl", "the whole record, an object a line"),
    ("agentctl audit export --format csv --since 2026-11-01 --until 2026-12-01", "a month, for a spreadsheet"),
    ("agentctl audit export --format otel --kind denial", "for an OpenTelemetry collector's otlpjsonfile receiver"),
))
@conditions
@click.option("--format", "form", type=click.Choice(tuple(formats.FORMATS)), default="jsonl", show_default=True,
              metavar="FORMAT", help="jsonl, csv, or otel: OTLP logs in JSON, some a line.")
@_agents
def audit_export(which: Which, agents: tuple[int | str, ...], *, form: str, **given: Any) -> None:
    """Write out all records of agents, or of all, that meet every condition.

    The oldest first, to standard output; however many, they take no memory.
    The exit status is 0 only when all were written.
    """
    with answer(which, "audit_export", where(agents, given)) as found, _progress() as progress:
        for text in formats.FORMATS[form](progress(found)):
            sys.stdout.write(text)
        sys.stdout.flush()


STEP: Final = 20_000


@contextlib.contextmanager
def _progress() -> Generator[Any, None, None]:
    """How far it has come, on a terminal that the records do not go to."""
    shown = sys.stderr.isatty() and not os.isatty(1)
    count = 0

    def progress(found: Iterable[Any]) -> Iterator[list[dict[str, Any]]]:
        nonlocal count
        for at, rows in found:
            if shown and (count + len(rows)) // STEP > count // STEP:
                click.echo(f"\r{count + len(rows)} records, up to number {at}", nl=False, err=True)
            count += len(rows)
            yield rows

    yield progress
    if shown:
        click.echo(f"\r{count} records: all that there are" + " " * 20, err=True)


for _verb in (audit_query, audit_show, audit_export, *chain.VERBS):
    audit.add_command(_verb)
